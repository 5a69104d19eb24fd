"""Whether a job can still make it: in time, and against its siblings. Pure.

Both say no only where the most favourable reading of the facts leaves no hope, and neither says
yes unless the plain reading does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from statistics import median

from resilient_nb.core.progress import LEAST_POINTS, UNSURE, Finding, Points, noise

#: With fewer measurements of its speed nothing is said of when a job ends. Of these, the speed
#: that only every tenth is above is taken for what it could reach; and then there is this margin.
LEAST_SPEEDS, _MARGIN = 6, 0.05
#: A job needs this many siblings, is compared with them at this many steps of the last part of
#: its series, and a value there is the median of so many points.
LEAST_SIBLINGS, _PROBES, _WINDOW, _SMOOTH = 3, 8, 0.3, 9
#: A sibling is better by far if it is by more than so many times the noise, and by more than
#: this part of what it has gained; a gap that shrinks to less than this part closes.
_NOISES, _GAIN, _CLOSES = 3.0, 0.1, 0.8


@dataclass(frozen=True)
class Pace:
    """How far a job is, and how fast.

    Attributes:
        speeds: steps per second, as measured one after another.
        done: steps made so far.
        total: steps in all, if known.
        made: the last of these steps,
        ran: and in how many seconds they were made.
        growth: how many times as fast it would be with all workers that it may have.
    """

    speeds: tuple[float, ...] = ()
    done: int = 0
    total: int | None = None
    made: int = 0
    ran: float = 0.0
    growth: float = 1.0


def late(pace: Pace, deadline: float, now: float) -> Finding:
    """Return whether a job misses its deadline, even if it goes on as fast as it ever did."""
    if now >= deadline:
        return Finding(True, (f"Its deadline passed {_long(now - deadline)} ago.",))
    if pace.total is None or len(pace.speeds) < LEAST_SPEEDS:
        return UNSURE
    speeds = sorted(pace.speeds)
    best = speeds[int(0.9 * (len(speeds) - 1))] * pace.growth
    usual = sum(speeds) / len(speeds)
    left, time = max(0, pace.total - pace.done), deadline - now
    if usual > 0 and left <= usual * time:
        return Finding(False)
    if best <= 0 or left * (1 - _MARGIN) <= best * time:
        return UNSURE
    part = 100 * pace.done / max(1, pace.total)
    return Finding(
        True,
        (
            f"{part:.3g} % is done: {pace.done:,} of {pace.total:,} steps, the last "
            f"{pace.made:,} in {_long(pace.ran)}.",
            f"The rest takes {_long(left / best)} even at its best speed ({best:.3g} steps/s), "
            f"and the deadline is in {_long(time)}.",
        ),
    )


def dominated(
    metric: str, own: Points, siblings: Mapping[str, Points], greatest: bool = False
) -> Finding:
    """Return whether at least half of a job's siblings are better by far, and stay so.

    After the median stopping rule (Golovin et al. 2017, "Google Vizier", §3.2.1), but values are
    compared at the same step, over a long window, and with a wide margin.

    Args:
        metric: what is compared.
        own: its series in the job.
        siblings: by their jobs, the series of those that may be compared.
        greatest: whether more is better.
    """
    sign = -1.0 if greatest else 1.0
    mine = _Curve.of(own, sign)
    if len(mine.steps) < LEAST_POINTS:
        return UNSURE
    window = mine.steps[-int(_WINDOW * len(mine.steps)) :]
    probes = window[:: max(1, len(window) // _PROBES)]
    others = {name: _Curve.of(points, sign) for name, points in siblings.items()}
    others = {name: curve for name, curve in others.items() if curve.covers(probes)}
    if len(others) < LEAST_SIBLINGS:
        return UNSURE
    margins = {name: mine.margin(curve) for name, curve in others.items()}
    needed = (len(others) + 1) // 2
    gaps = []
    for step in probes:
        here = {name: mine.at(step) - curve.at(step) for name, curve in others.items()}
        if sum(gap > margins[name] for name, gap in here.items()) < needed:
            return Finding(False)
        gaps.append(sorted(here.values(), reverse=True)[needed - 1])
    if gaps[-1] < _CLOSES * gaps[0]:
        return UNSURE
    return Finding(True, (_compared(metric, probes[-1], sign, mine, others, margins),))


@dataclass(frozen=True)
class _Curve:
    """A series in which less is better."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, points: Points, sign: float) -> _Curve:
        known = [(step, sign * value) for step, value in points if isfinite(value)]
        return cls(tuple(step for step, _ in known), tuple(value for _, value in known))

    def covers(self, probes: Sequence[int]) -> bool:
        """Whether it says something of all these steps."""
        return bool(self.steps) and self.steps[0] <= probes[0] and probes[-1] <= self.steps[-1]

    def at(self, step: int) -> float:
        """Return the smoothed value at a step that it covers."""
        end = bisect_right(self.steps, step)
        return median(self.values[max(0, end - _SMOOTH) : end])

    @cached_property
    def noise(self) -> float:
        """About the standard deviation of its noise."""
        return noise(self.values)

    def margin(self, other: _Curve) -> float:
        """Return by how much another curve must be better to be better by far."""
        gained = abs(other.at(other.steps[0]) - median(other.values[-_SMOOTH:]))
        return max(_NOISES * max(self.noise, other.noise), _GAIN * gained)


def _compared(
    metric: str,
    step: int,
    sign: float,
    mine: _Curve,
    others: Mapping[str, _Curve],
    margins: Mapping[str, float],
) -> str:
    own, values = mine.at(step), {name: curve.at(step) for name, curve in others.items()}
    better = sorted((v, name) for name, v in values.items() if own - v > margins[name])
    best = ", ".join(f"{name} {sign * value:.4g}" for value, name in better[:3])
    return (
        f"At step {step:,} {metric} is {sign * own:.4g}, and {len(better)} of its {len(others)} "
        f"siblings are better by far, for a long time: {best}."
    )


def _long(seconds: float) -> str:
    """Return a time in words, to two or three digits."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
