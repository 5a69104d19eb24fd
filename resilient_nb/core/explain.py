"""Failures in words: what a user reads where no panel can be drawn."""

from __future__ import annotations

from collections.abc import Mapping

from resilient_nb.core.model import Failure, RemoteError


def error_text(
    error: RemoteError, sources: Mapping[str, str] | None = None, label: str = ""
) -> str:
    """Return a traceback that begins at the cell's own line.

    Args:
        error: the remote exception.
        sources: texts by file name, for lines around the failing one.
        label: what the user calls the cell (the first frame's file).
    """
    lines = []
    cell = error.frames[0].filename if error.frames else ""
    for frame in error.frames:
        where = label if label and frame.filename == cell else frame.filename
        lines.append(f"{where}, line {frame.lineno}, in {frame.name}")
        lines += _around((sources or {}).get(frame.filename), frame.lineno, frame.line)
    lines.append(f"{error.type}: {error.message}" if error.message else error.type)
    return "\n".join(lines)


def _around(source: str | None, lineno: int, line: str) -> list[str]:
    if source is None:
        return [f"    {line}"] if line else []
    rows = source.splitlines()
    first, last = max(1, lineno - 2), min(len(rows), lineno + 1)
    return [
        f"{'---->' if n == lineno else '     '} {n:4} {rows[n - 1]}" for n in range(first, last + 1)
    ]


def failure_text(failure: Failure, label: str = "") -> str:
    """Return what failed, why, and what was decided."""
    text = f"{failure.cause}: {failure.message}\n{failure.reason}"
    if failure.error is not None:
        text += "\n\n" + error_text(failure.error, label=label)
    return text
