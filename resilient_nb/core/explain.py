"""Failures in words: what a user reads where no panel can be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resilient_nb.core.causes import USER_ERROR
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


def cost_text(failure: Failure) -> str:
    """Return what a failure cost: steps, work, and the time until it ran again; "" if nothing."""
    parts = []
    if failure.lost_steps:
        steps = "1 step" if failure.lost_steps == 1 else f"{failure.lost_steps:,} steps"
        parts.append(f"{steps} to make again")
    if failure.lost_s >= 0.05:
        parts.append(f"{_time(failure.lost_s)} of work")
    if failure.down_s >= 0.05:
        parts.append(f"{_time(failure.down_s)} until it ran again")
    return f"Cost: {', '.join(parts)}." if parts else ""


def way_on(run: str, failures: Sequence[Failure]) -> str:
    """Return as a clause how a job that has failed is made to go on.

    One that would fail again by all that is known has to be mended first.
    """
    if not failures:
        return f"run the cell again, or `%resilient resume {run}`"
    last = failures[-1]
    if last.spent:
        return f"`%resilient retry {run}` gives it new tries ({last.spent} used up)"
    first = "correct the cell and run it again" if last.cause == USER_ERROR else "mend it"
    return f"{first}, or `%resilient retry {run} --anyway`"


def headless(run: str, job: str, active: bool, step: int) -> str:
    """Return why a run that has checkpoints has none at its head, and what to do.

    Args:
        run: its name.
        job: its newest job.
        active: whether that goes on; no head can be moved then.
        step: of the newest checkpoint.
    """
    ref, yet = f"{run}@{step}", " yet" if active else ""
    way = "" if active else f", or `%resilient rollback {ref}` to go on from there"
    return (
        f"{job} started over and has no checkpoint{yet}; the newest of before is {ref}: "
        f"load {ref}{way}."
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def failure_text(failure: Failure, label: str = "") -> str:
    """Return what failed, why, what was decided, and what it cost."""
    lines = [f"{failure.cause}: {failure.message}", *failure.evidence, failure.reason]
    text = "\n".join(filter(None, [*lines, cost_text(failure)]))
    if failure.error is not None:
        text += "\n\n" + error_text(failure.error, label=label)
    return text
