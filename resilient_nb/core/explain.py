"""Failures in words: what a user reads where no panel can be drawn."""

from __future__ import annotations

from resilient_nb.core.model import Failure, RemoteError


def error_text(error: RemoteError, label: str = "") -> str:
    """Return a traceback that begins at the cell's own line.

    Args:
        error: the remote exception.
        label: what the user calls the cell (the first frame's file).
    """
    lines = []
    cell = error.frames[0].filename if error.frames else ""
    for frame in error.frames:
        where = label if label and frame.filename == cell else frame.filename
        lines.append(f"{where}, line {frame.lineno}, in {frame.name}")
        lines += [f"    {frame.line}"] if frame.line else []
    lines.append(f"{error.type}: {error.message}" if error.message else error.type)
    return "\n".join(lines)


def failure_text(failure: Failure, label: str = "") -> str:
    """Return what failed, why, and what was decided."""
    text = f"{failure.cause}: {failure.message}\n{failure.reason}"
    if failure.error is not None:
        text += "\n\n" + error_text(failure.error, label)
    return text
