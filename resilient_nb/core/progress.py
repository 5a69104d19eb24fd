"""Whether a metric still improves, judged from its series. Pure.

The test is Mann and Kendall's (Mann 1945, Kendall 1975): it counts for how many pairs of values
the later one is better. It looks at nothing but their order, so neither their scale nor the shape
of the curve matters. The values are means of some neighbouring points. It is asked of the last
half of a series and of its last quarter, and whoever looks better at either may still improve:
that cries wolf seldom, and late.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import isfinite, sqrt
from statistics import median

from resilient_nb.core.metric_names import is_held_out, words
from resilient_nb.core.model import KEEP_AUTO, Keep

Points = Sequence[tuple[int, float]]

#: With fewer points nothing is said of a series.
LEAST_POINTS = 60
#: What is too early to judge: a plateau must have lasted for this part of the whole run. And what
#: is too late: then little is left to save.
LEAST_PART, LATEST = 0.25, 0.9
#: Normal quantiles, one-sided. From 16 and 5 % on (of the half and of the quarter) it may well
#: improve, from 0.1 % on it does; and at 0.05 % it gets worse.
_MAYBE, _SURELY, _WORSE = (1.0, 1.645), 3.09, 3.29
#: The half is tested in so many blocks, by their means: neighbours are often alike, which the
#: test would take for a trend.
_BLOCKS = 30

_LESS = frozenset(
    ["bpb", "bpc", "cer", "err", "error", "loss", "mae", "mape", "mse", "nll", "perplexity",
     "ppl", "rmse", "wer"]
)  # fmt: skip
_MORE = frozenset(
    ["auc", "auroc", "bleu", "dice", "f1", "iou", "map", "miou", "precision", "psnr", "r2",
     "recall", "return", "reward", "rouge", "score", "ssim"]
)  # fmt: skip


class Trend(StrEnum):
    """Where a metric goes."""

    UNKNOWN = "unknown"  # too little is known of it, or it may well improve
    IMPROVING = "improving"
    FLAT = "flat"
    WORSE = "worse"


@dataclass(frozen=True)
class Course:
    """How a metric has gone of late: from step `since` to step `step`.

    `z` is the test's statistic, greater than 0 for what improves; `best` is of all the series.
    """

    trend: Trend
    since: int = 0
    step: int = 0
    points: int = 0
    z: float = 0.0
    best: float = 0.0
    best_step: int = 0


@dataclass(frozen=True)
class Finding:
    """Whether something holds (None: it can't be said), and the facts that it follows from."""

    holds: bool | None
    evidence: tuple[str, ...] = ()


UNSURE = Finding(None)


def greater_is_better(name: str) -> bool | None:
    """Return which way a metric is to go, told by its name; None if that says nothing."""
    for word in reversed(words(name)):
        if word in _LESS or word.endswith("loss"):
            return False
        if word in _MORE or word.startswith("acc"):
            return True
    return None


def judged(names: Iterable[str], keep: Keep) -> dict[str, bool]:
    """Return the metrics to judge a run by, each with whether it is to grow.

    These are what its user keeps the best checkpoints by; else what is measured on held-out
    data; else all whose name says which way they are to go.
    """
    told = {best.metric: best.greatest for best in keep.best} if keep != KEEP_AUTO else {}
    names = sorted(names)
    if chosen := {name: told[name] for name in names if name in told}:
        return chosen
    known = {name: way for name in names if (way := greater_is_better(name)) is not None}
    held_out = {name: way for name, way in known.items() if is_held_out(name)}
    return held_out or known


def course(points: Points, greatest: bool = False) -> Course:
    """Return how a metric goes."""
    sign = -1.0 if greatest else 1.0
    known = [(step, sign * value) for step, value in points if isfinite(value)]
    if len(known) < LEAST_POINTS:
        return Course(Trend.UNKNOWN)
    half = known[len(known) // 2 :]
    values = [value for _, value in half]
    blocks = _means(values)
    z, recent = -mann_kendall(blocks), -mann_kendall(blocks[len(blocks) // 2 :])
    if max(z, recent) > _SURELY:
        trend = Trend.IMPROVING
    elif z > _MAYBE[0] or recent > _MAYBE[1]:
        trend = Trend.UNKNOWN
    elif z < -_WORSE and recent < 0 and _has_risen(values):
        trend = Trend.WORSE
    else:
        trend = Trend.FLAT
    best, best_step = min((value, step) for step, value in known)
    return Course(trend, half[0][0], half[-1][0], len(half), z, sign * best, best_step)


def converged(series: Mapping[str, Points], keep: Keep, total: int | None) -> Finding:
    """Return whether a run's metrics no longer improve.

    Args:
        series: of each metric, its (step, value) in order.
        keep: says what the run is judged by, if its user has.
        total: steps that the run will make, if known.
    """
    courses = {
        name: course(series[name], greatest) for name, greatest in judged(series, keep).items()
    }
    trends = {found.trend for found in courses.values()}
    if Trend.IMPROVING in trends:
        return Finding(False)
    if not courses or Trend.UNKNOWN in trends:
        return UNSURE
    if total is not None and not all(_is_time(found, total) for found in courses.values()):
        return UNSURE
    return Finding(True, tuple(_said(name, found) for name, found in courses.items()))


def mann_kendall(values: Sequence[float]) -> float:
    """Return the normal deviate of the Mann-Kendall statistic: above 0 for what rises.

    Ties are allowed for.
    """
    count, score = len(values), 0
    before: list[float] = []
    for value in values:
        score += bisect_left(before, value) - (len(before) - bisect_right(before, value))
        insort(before, value)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(before).values() if t > 1)
    variance = (count * (count - 1) * (2 * count + 5) - ties) / 18
    if variance <= 0 or score == 0:
        return 0.0
    return float((score - (1 if score > 0 else -1)) / sqrt(variance))


def noise(values: Sequence[float]) -> float:
    """Return about the standard deviation of the noise on a curve, whatever its trend.

    It is told from how neighbours differ; single outliers don't matter.
    """
    steps = [abs(later - earlier) for earlier, later in pairwise(values)]
    return 1.4826 * median(steps) / sqrt(2) if steps else 0.0


def _means(values: Sequence[float]) -> list[float]:
    """Return the means of equal blocks of values, all but a few of the first."""
    size = max(1, len(values) // _BLOCKS)
    ends = range(len(values), size - 1, -size)
    return [sum(v / size for v in values[end - size : end]) for end in reversed(ends)]


def _has_risen(values: Sequence[float]) -> bool:
    """Whether the last third is above the first by more than noise."""
    third = len(values) // 3
    return median(values[-third:]) - median(values[:third]) > noise(values)


def _is_time(found: Course, total: int) -> bool:
    return found.step - found.since >= LEAST_PART * total and found.step <= LATEST * total


def _said(name: str, found: Course) -> str:
    how = "gets worse" if found.trend is Trend.WORSE else "hasn't improved"
    return (
        f"{name} {how} from step {found.since:,} to {found.step:,} (Mann-Kendall test on "
        f"{found.points} points, z = {found.z:.1f}); the best was {found.best:.4g} at step "
        f"{found.best_step:,}."
    )
