"""`core.facts` and `core.thinning`: what is merged keeps its sums, and what is kept is bounded."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.facts import (
    MOST_ROWS,
    Facts,
    in_all,
    most_rows,
    place,
    thinned,
    together,
)
from resilient_nb.core.thinning import (
    MOST_METRICS,
    MOST_POINTS,
    most_points,
    opens,
    spaced,
    stride_for,
)

SUMS = ("seconds", "steps", "items", "data_s", "compute_s", "wait_s", "checkpoint_s", "cpu_s",
        "read", "written", "missing_s")  # fmt: skip
MOST = ("longest_s", "rss", "round_trip")

# Halves add up exactly.
halves = st.integers(0, 20).map(lambda n: n / 2)
rows = st.builds(
    Facts,
    epoch=st.just(1),
    at=st.integers(0, 500),
    seconds=halves,
    step=st.integers(0, 10**6),
    steps=st.integers(0, 100),
    data_s=halves,
    compute_s=halves,
    wait_s=halves,
    checkpoint_s=halves,
    longest_s=halves,
    rss=st.integers(0, 2**40),
    cpu_s=halves,
    read=st.integers(0, 2**40),
    written=st.integers(0, 2**40),
    items=st.integers(0, 10**9),
    missing_s=halves,
    round_trip=halves,
    disk_free=st.none() | st.integers(0, 2**40),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Facts]:
    """Rows of several attempts after one another, in order."""
    found = sorted(draw(st.lists(rows, max_size=60, unique_by=lambda r: r.at)), key=lambda r: r.at)
    epoch, history = 1, []
    for row in found:
        epoch += draw(st.integers(0, 3)) // 3
        history.append(replace(row, epoch=epoch))
    return history


@given(histories(), st.integers(0, 40))
def test_thinning_keeps_sums_and_extremes_and_order(history: list[Facts], most: int) -> None:
    found = thinned(history, most)
    assert len(found) <= max(1, most)
    assert bool(found) == bool(history)
    for name in SUMS:
        assert sum(getattr(r, name) for r in found) == sum(getattr(r, name) for r in history)
    for name in MOST:
        values = [[getattr(r, name) for r in each] for each in (found, history)]
        assert max(values[0], default=0) == max(values[1], default=0)
    free = [[r.disk_free for r in each if r.disk_free is not None] for each in (found, history)]
    assert min(free[0], default=None) == min(free[1], default=None)
    assert [(r.at, r.epoch) for r in found] == sorted({(r.at, r.epoch) for r in found})
    if history:
        assert (found[-1].step, found[-1].epoch) == (history[-1].step, history[-1].epoch)
        [width] = {r.width for r in found}
        assert math.log2(width).is_integer()
        assert all(r.at == place(r.at, width) for r in found)


@given(histories(), st.integers(1, 40))
def test_attempts_are_kept_apart_while_there_is_room(history: list[Facts], most: int) -> None:
    attempts = {row.epoch for row in history}
    if 2 * len(attempts) <= most:
        found = thinned(history, most)
        for epoch in attempts:
            steps = [sum(r.steps for r in each if r.epoch == epoch) for each in (found, history)]
            assert steps[0] == steps[1]


@given(histories(), st.integers(1, 20), st.integers(1, 20))
def test_thinning_twice_is_thinning_once(history: list[Facts], first: int, then: int) -> None:
    """But for the width: rows that were kept apart on the way may be wider than they need be."""
    again = thinned(thinned(history, max(first, then)), min(first, then))
    once = thinned(history, min(first, then))
    assert bool(again) == bool(once)
    if history:
        assert replace(in_all(again), at=0, width=1) == replace(in_all(once), at=0, width=1)


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    history = [Facts(1, 10, steps=1), Facts(2, 10, steps=2), Facts(1, 11, steps=4)]
    found = thinned(history, 2)
    assert sum(row.steps for row in found) == 7
    assert len({(row.at, row.epoch) for row in found}) == len(found)


def test_the_ranks_of_a_gang_make_their_steps_together() -> None:
    a = Facts(1, 5, seconds=10.0, step=9, steps=9, compute_s=1.0, wait_s=8.0, rss=5, read=1)
    b = Facts(1, 4, seconds=11.0, step=8, steps=8, compute_s=7.0, wait_s=1.0, rss=3, read=2)
    whole = together([a, b])
    assert (whole.steps, whole.step, whole.seconds, whole.at) == (9, 9, 11.0, 4)
    assert (whole.compute_s, whole.wait_s, whole.rss, whole.read) == (8.0, 9.0, 5, 3)


@given(st.integers(1, 10_000))
def test_a_job_is_bounded_however_many_ranks_it_has(ranks: int) -> None:
    assert 1 <= most_rows(ranks) <= MOST_ROWS
    assert ranks * most_rows(ranks) <= max(1 << 16, 64 * ranks)


@given(st.integers(1, MOST_METRICS))
def test_a_job_is_bounded_however_many_metrics_it_has(metrics: int) -> None:
    assert 100 < most_points(metrics) <= MOST_POINTS
    assert metrics * most_points(metrics) <= max(1 << 17, MOST_POINTS)


@given(st.sets(st.integers(0, 10_000), min_size=1), st.integers(0, 12).map(lambda n: 2**n))
def test_one_point_stands_for_each_stretch_with_any(steps: set[int], stride: int) -> None:
    kept = spaced(sorted(steps), stride)
    assert [step // stride for step in kept] == sorted({step // stride for step in steps})
    assert set(kept) <= steps
    assert kept[0] == min(steps)
    assert all(opens(b, a, stride) for a, b in pairwise(kept))


@given(st.sets(st.integers(0, 10_000), min_size=1), st.integers(1, 100))
def test_a_stride_leaves_no_more_than_is_wanted_and_not_far_less(
    steps: set[int], most: int
) -> None:
    stride = stride_for(sorted(steps), 1, most)
    assert len(spaced(sorted(steps), stride)) <= most
    if stride > 1:
        assert len(spaced(sorted(steps), stride // 2)) > most


@pytest.mark.parametrize("first", [0, 1, 7])
def test_steps_that_no_power_of_two_divides_are_kept_too(first: int) -> None:
    steps = list(range(first, 100_000, 10))
    kept = spaced(steps, stride_for(steps, 1, 1000))
    assert 250 < len(kept) <= 1000
    assert max(b - a for a, b in pairwise(kept)) <= 2 * (100_000 / len(kept))
