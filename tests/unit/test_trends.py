"""`core.trends`: a leak is told from noise, from a plateau, and in time."""

from __future__ import annotations

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from resilient_nb.core.trends import agreement, rise_to, slope

MB = 1e6
values = st.floats(1 * MB, 1e4 * MB)
noise = st.lists(st.floats(-1, 1), min_size=30, max_size=60)


def series(values: list[float], every: float = 2.0) -> list[tuple[float, float]]:
    return [(1000.0 + every * n, value) for n, value in enumerate(values)]


@given(st.floats(-50, 50), values, st.integers(2, 40))
def test_the_slope_of_a_line_is_its_own(rate: float, begin: float, count: int) -> None:
    points = series([begin + rate * 2.0 * n for n in range(count)])
    assert math.isclose(slope(points), rate, rel_tol=1e-3, abs_tol=1e-3)


@given(st.lists(values, min_size=2, max_size=30), st.floats(0, 100 * MB))
def test_a_shift_changes_nothing(heights: list[float], shift: float) -> None:
    moved = series([h + shift for h in heights])
    assert math.isclose(slope(series(heights)), slope(moved), rel_tol=1e-3, abs_tol=10.0)


@given(noise, values)
def test_noise_around_a_level_never_warns(noise: list[float], level: float) -> None:
    points = series([level * (1 + 0.004 * n) for n in noise])
    assert rise_to(points, 1.05 * level) is None


@given(noise)
def test_a_leak_is_seen_through_noise(noise: list[float]) -> None:
    points = series([(300 + 5 * n + 3 * bad) * MB for n, bad in enumerate(noise)])
    found = rise_to(points, 2000 * MB)
    assert found is not None
    assert math.isclose(found.slope, 2.5 * MB, rel_tol=0.2)
    assert math.isclose(found.left, (2000 * MB - points[-1][1]) / found.slope)


@given(noise, st.integers(5, 15))
def test_what_was_filled_once_is_no_leak(noise: list[float], ramp: int) -> None:
    assume(len(noise) >= 3 * ramp)
    points = series([(300 + 40 * min(n, ramp) + bad) * MB for n, bad in enumerate(noise)])
    assert rise_to(points, 1000 * MB) is None


@given(st.lists(values, min_size=12, max_size=40))
def test_what_only_falls_never_reaches_anything(heights: list[float]) -> None:
    points = series(sorted(heights, reverse=True))
    assert rise_to(points, 1e12) is None
    assert agreement(points) <= 0


def test_a_few_points_say_nothing() -> None:
    assert rise_to(series([10 * MB * n for n in range(11)]), 200 * MB) is None
    assert rise_to(series([10 * MB * n for n in range(30)], every=0.1), 400 * MB) is None
    assert slope([]) == slope([(1.0, 5.0)]) == 0.0
    assert agreement([]) == 0.0


def test_a_limit_that_is_passed_is_reached_now() -> None:
    found = rise_to(series([10 * MB * n for n in range(30)]), 200 * MB)
    assert found is not None
    assert found.left == 0.0
