"""`core.progress`: laws of what is said of a metric's series."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.model import KEEP_AUTO, Best, Keep
from resilient_nb.core.progress import (
    LEAST_POINTS,
    Course,
    Trend,
    converged,
    course,
    greater_is_better,
    judged,
    mann_kendall,
    noise,
)

values = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))
seeds = st.integers(0, 2**32)


def series(numbers: list[float]) -> list[tuple[int, float]]:
    return [(10 * n, value) for n, value in enumerate(numbers, 1)]


def noisy(seed: int, count: int, drift: float = 0.0) -> list[float]:
    """A level of 1 with noise, and `drift` from its beginning to its end."""
    draw = random.Random(seed)
    return [1 + drift * n / count + draw.gauss(0, 0.1) for n in range(count)]


@settings(max_examples=40)
@given(st.sets(values, min_size=LEAST_POINTS, max_size=150), st.booleans())
def test_what_improves_with_each_point_is_never_flat_or_worse(
    numbers: set[float], greatest: bool
) -> None:
    ordered = sorted(numbers, reverse=not greatest)
    assert course(series(ordered), greatest).trend is Trend.IMPROVING
    assert course(series(ordered[::-1]), greatest).trend is Trend.WORSE


@settings(max_examples=50)
@given(seeds)
def test_noise_around_a_constant_becomes_flat(seed: int) -> None:
    numbers = noisy(seed, 600)
    seen = [course(series(numbers[:end])).trend for end in range(100, 601, 50)]
    assert Trend.FLAT in seen


@given(values, st.integers(LEAST_POINTS, 200))
def test_a_constant_is_flat(value: float, count: int) -> None:
    assert course(series([value] * count)).trend is Trend.FLAT


def test_wolf_is_seldom_cried() -> None:
    """Of runs that still gain as much as the noise in their last half, few are called flat; of
    those that only have noise, hardly any is said to get worse, and most are called flat."""
    flat = [course(series(noisy(s, 200, -0.2))).trend is Trend.FLAT for s in range(300)]
    still = [course(series(noisy(s, 200))).trend for s in range(300)]
    assert sum(flat) <= 15
    assert still.count(Trend.WORSE) <= 1
    assert still.count(Trend.IMPROVING) <= 30
    assert still.count(Trend.FLAT) >= 220


@settings(max_examples=40)
@given(
    st.lists(values, min_size=LEAST_POINTS, max_size=120),
    st.sampled_from([2.0**n for n in (-9, -1, 4)]),
)
def test_neither_scale_nor_sign_matter(numbers: list[float], scale: float) -> None:
    plain = course(series(numbers))
    other = course(series([scale * x for x in numbers]))
    assert (plain.trend, plain.z) == (other.trend, other.z)
    turned = course(series([-x for x in numbers]), greatest=True)
    assert (plain.trend, plain.z, plain.best_step) == (turned.trend, turned.z, turned.best_step)


@given(st.lists(st.floats(), max_size=150).flatmap(st.permutations), st.booleans())
def test_nothing_breaks_it(numbers: list[float], greatest: bool) -> None:
    found = course(series(numbers), greatest)
    finite = [x for x in numbers if math.isfinite(x)]
    if len(finite) < LEAST_POINTS:
        assert found == Course(Trend.UNKNOWN)
    else:
        assert found.best == (max if greatest else min)(finite)
        assert dict(series(numbers))[found.best_step] == found.best
    converged({"loss": series(numbers)}, KEEP_AUTO, None)


@given(st.lists(st.integers(-5, 5), max_size=40))
def test_mann_kendall_counts_pairs(numbers: list[int]) -> None:
    """Against the definition, pair by pair."""
    pairs = [(a, b) for n, a in enumerate(numbers) for b in numbers[n + 1 :]]
    score = sum((b > a) - (b < a) for a, b in pairs)
    z = mann_kendall([float(x) for x in numbers])
    assert (z > 0) == (score > 1)
    assert (z < 0) == (score < -1)
    assert mann_kendall([-float(x) for x in numbers]) == -z


def test_noise_is_told_from_a_trend() -> None:
    assert noise(noisy(1, 500)) == pytest.approx(0.1, rel=0.15)
    assert noise(noisy(1, 500, -5.0)) == pytest.approx(0.1, rel=0.15)
    assert noise([]) == 0.0


# --- which metrics are judged ---


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("loss", False),
        ("valLoss", False),
        ("train/error_rate", False),
        ("Perplexity", False),
        ("crossentropyloss", False),
        ("accuracy", True),
        ("val_acc@5", True),
        ("f1", True),
        ("mean_reward", True),
        ("score_loss", False),
        ("lr", None),
        ("grad_norm", None),
        ("", None),
    ],
)
def test_a_name_tells_which_way_is_better(name: str, way: bool | None) -> None:
    assert greater_is_better(name) is way


def test_a_run_is_judged_by_what_its_user_keeps_then_by_held_out_data() -> None:
    names = ["loss", "val_loss", "val_accuracy", "lr"]
    assert judged(names, KEEP_AUTO) == {"val_loss": False, "val_accuracy": True}
    assert judged(["loss", "lr"], KEEP_AUTO) == {"loss": False}
    assert judged(names, Keep(best=(Best(3, "lr", True),))) == {"lr": True}
    assert judged(["loss"], Keep(best=(Best(3, "never_logged"),))) == {"loss": False}


# --- converged ---


def test_a_plateau_is_said_with_its_facts() -> None:
    found = converged({"loss": series(noisy(3, 200))}, KEEP_AUTO, 3000)
    assert found.holds
    [line] = found.evidence
    assert line.startswith("loss hasn't improved from step 1,010 to 2,000 (Mann-Kendall test on")
    rising = converged({"loss": series(noisy(3, 200, 1.0))}, KEEP_AUTO, 3000)
    assert rising.holds
    assert "loss gets worse from" in rising.evidence[0]


def test_it_is_neither_said_early_nor_late_nor_while_one_metric_improves() -> None:
    flat = series(noisy(3, 200))
    assert converged({"loss": flat}, KEEP_AUTO, 5001).holds is None
    assert converged({"loss": flat}, KEEP_AUTO, 2200).holds is None
    assert converged({"loss": flat[:50]}, KEEP_AUTO, None).holds is None
    assert converged({"lr": flat}, KEEP_AUTO, None).holds is None
    better = {"loss": flat, "accuracy": series(noisy(4, 200, 1.0))}
    assert converged(better, KEEP_AUTO, 3000).holds is False


def test_held_out_data_counts_more_than_what_it_is_trained_on() -> None:
    both = {"loss": series(noisy(4, 200, -1.0)), "val_loss": series(noisy(5, 200, 0.8))}
    assert converged(both, KEEP_AUTO, 3000).holds
