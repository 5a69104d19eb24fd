"""Where a noisy series is going: its slope, if it has one, and when it reaches a limit.

The slope is the median of those of all pairs of points (Theil 1950, Sen 1968), so a few outliers
say nothing. Whether it is one at all is said by how many pairs agree (the statistic of Mann 1945
and Kendall), and by whether it goes on: memory that was filled once, and is level, is no leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

#: Points and seconds without which nothing is said.
_FEWEST, _SHORTEST = 12, 20.0
#: The part of all pairs that has to rise, beyond those that fall.
_AGREEING = 0.7
#: The last part of the series must rise at least this fast, compared with all of it.
_GOES_ON = 0.5
#: A rise of less than this part of the limit is none.
_NOTABLE = 0.02

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Rise:
    """A series rises by so much a second, and reaches its limit in so many seconds."""

    slope: float
    left: float


def slope(points: Points) -> float:
    """Return the robust slope of (time, value) pairs, 0 of fewer than two times."""
    slopes = [(v - u) / (t - s) for (s, u), (t, v) in combinations(points, 2) if t > s]
    return median(slopes) if slopes else 0.0


def agreement(points: Points) -> float:
    """Return the part of all pairs that rise minus that of those that fall, from -1 to 1."""
    pairs = list(combinations([value for _, value in points], 2))
    return sum((b > a) - (b < a) for a, b in pairs) / len(pairs) if pairs else 0.0


def rise_to(points: Points, limit: float) -> Rise | None:
    """Return the rise that takes a series to a limit, None if it has no such trend.

    Args:
        points: (time in seconds, value), in the order of time; the latest minutes.
        limit: what the values should not reach.
    """
    if len(points) < _FEWEST or points[-1][0] - points[0][0] < _SHORTEST:
        return None
    rate, now = slope(points), points[-1][1]
    if rate <= 0 or rate * (points[-1][0] - points[0][0]) < _NOTABLE * limit:
        return None
    if agreement(points) < _AGREEING or slope(points[-len(points) // 3 :]) < _GOES_ON * rate:
        return None
    return Rise(rate, max(0.0, limit - now) / rate)
