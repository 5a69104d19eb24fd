"""Which points of a metric stay when there are too many: one in each stretch of equal length.

A stretch is `stride` steps, and its first point stands for it: so whatever steps a cell logs at,
what is left covers all of the run evenly. The newest point is kept apart, by who uses this.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Points kept of each metric of a job, and metrics.
MOST_POINTS, MOST_METRICS = 4096, 200
#: Points of all metrics of a job together: if there are many, each has fewer.
_ALL_POINTS = 1 << 17


def most_points(metrics: int) -> int:
    """Return how many points are kept of each of so many metrics of a job."""
    return min(MOST_POINTS, _ALL_POINTS // max(1, metrics))


def opens(step: int, before: int | None, stride: int) -> bool:
    """Whether a step begins a stretch, if the last one that was kept is `before`."""
    return before is None or step // stride != before // stride


def spaced(steps: Iterable[int], stride: int) -> list[int]:
    """Return the steps that stay, of some in order."""
    kept: list[int] = []
    for step in steps:
        if opens(step, kept[-1] if kept else None, stride):
            kept.append(step)
    return kept


def stride_for(steps: list[int], stride: int, most: int) -> int:
    """Return a stride that leaves at most `most` of some steps, at least one: as it is, or doubled
    as often as that takes."""
    while len(steps) > max(1, most):
        stride *= 2
        steps = spaced(steps, stride)
    return stride
