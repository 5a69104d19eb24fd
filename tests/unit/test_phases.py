"""`rank.phases` and samples: the parts of a step add up, on every way they take."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.rank.batches import Place
from resilient_nb.rank.boundary import _items
from resilient_nb.rank.phases import CHECKPOINT, COMPUTE, DATA, STARTING, WAIT, Phases, Spent
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.orders import Sample

PHASES = (DATA, COMPUTE, WAIT, CHECKPOINT)
PARTS = ("data_s", "compute_s", "wait_s", "checkpoint_s")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _parts(spent: Spent) -> tuple[float, ...]:
    return spent.steps, spent.data_s, spent.compute_s, spent.wait_s, spent.checkpoint_s


# Quarters add up exactly.
times = st.integers(0, 40).map(lambda n: n / 4)
steps = st.lists(st.tuples(st.sampled_from(PHASES), times), max_size=6)


@given(st.lists(steps, max_size=12), st.data())
def test_the_parts_of_steps_add_up_to_them(made: list[Any], data: st.DataObject) -> None:
    clock = Clock()
    phases, total = Phases(clock), [0, 0.0, 0.0, 0.0, 0.0]
    clock.now += 5.0  # before the first step: it belongs to none
    phases.begin()
    begun, lengths = clock.now, []
    for step in made:
        start = clock.now
        for phase, seconds in step:
            phases.enter(phase)
            clock.now += seconds
        if step and step[-1][0] == COMPUTE and step[-1][1] > 1:
            phases.moved(0.5, CHECKPOINT)
        phases.step_done()
        lengths.append(clock.now - start)
        if data.draw(st.booleans()):
            taken = phases.take()
            assert taken.longest_s == max(lengths)
            total = [a + b for a, b in zip(total, _parts(taken), strict=True)]
            lengths = []
    total = [a + b for a, b in zip(total, _parts(phases.take()), strict=True)]
    assert total[0] == len(made)
    assert sum(total[1:]) == clock.now - begun
    assert phases.take().steps == 0
    assert phases.take().longest_s == 0.0


def test_a_phase_inside_another_ends_where_it_began() -> None:
    clock = Clock()
    phases = Phases(clock)
    assert phases.current() == (STARTING, 0.0)
    phases.begin()
    phases.enter(COMPUTE)
    clock.now += 1.0
    with phases.within(CHECKPOINT):
        with phases.within(WAIT):
            clock.now += 2.0
            assert phases.current() == (WAIT, 2.0)
        clock.now += 4.0
    clock.now += 8.0
    assert phases.current() == (COMPUTE, 8.0)
    phases.step_done()
    taken = phases.take()
    assert (taken.compute_s, taken.wait_s, taken.checkpoint_s) == (9.0, 2.0, 4.0)
    assert phases.current() == (DATA, 0.0)


def test_telemetry_says_what_the_loop_does() -> None:
    telemetry = Telemetry(an_attempt(), 3)
    assert telemetry.sample().phase == "starting"
    telemetry.phases.begin()
    telemetry.phases.enter(COMPUTE)
    telemetry.phases.step_done()
    telemetry.phases.enter(COMPUTE)
    sample = telemetry.sample()
    assert (sample.phase, sample.steps, sample.rank) == ("compute", 1, 3)
    whole = sum(getattr(sample, part) for part in PARTS)
    assert 0 < whole == sample.longest_s
    assert telemetry.sample().steps == 0


samples = st.builds(
    Sample,
    job=st.just("a#1"),
    epoch=st.just(1),
    rank=st.just(0),
    step=st.integers(0, 99),
    steps=st.integers(0, 9),
    items=st.integers(0, 99),
    points=st.lists(st.tuples(st.integers(0, 9), st.just({"loss": 1.0})), max_size=2).map(tuple),
    data_s=times,
    compute_s=times,
    wait_s=times,
    checkpoint_s=times,
    longest_s=times,
)


@given(st.lists(samples, min_size=1, max_size=8), st.data())
def test_samples_that_are_merged_on_the_way_lose_nothing(
    said: list[Sample], data: st.DataObject
) -> None:
    kept: Sample | None = None
    arrived = []
    for sample in said:
        kept = sample.after(kept)
        if data.draw(st.booleans()):
            arrived.append(kept)
            kept = kept.passed_on()
    assert kept is not None
    arrived.append(kept)
    for name in ("steps", "items", *PARTS):
        assert sum(getattr(s, name) for s in arrived) == sum(getattr(s, name) for s in said)
    assert max(s.longest_s for s in arrived) == max(s.longest_s for s in said)
    assert [p for s in arrived for p in s.points] == [p for s in said for p in s.points]
    assert arrived[-1].step == said[-1].step


@pytest.mark.parametrize(
    ("before", "after", "items"),
    [
        (Place(), Place(0, 1, 30), 30),
        (Place(0, 6, 180), Place(0, 7, 210), 30),
        (Place(0, 7, 210), Place(1, 1, 30), 30),
        (Place(0, 6), Place(0, 7, 210), 0),  # of an older checkpoint: nobody knows
        (Place(), Place(0, 1), 0),  # a loop without data
    ],
)
def test_samples_of_data_are_counted_between_places(
    before: Place, after: Place, items: int
) -> None:
    assert _items(before, after) == items


def test_a_step_is_timed_in_microseconds() -> None:
    phases, rounds = Phases(), []
    phases.begin()
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(500):  # as of a gang's rank with a loop over data
            phases.enter(COMPUTE)
            with phases.within(WAIT):
                pass
            phases.step_done(1)
        rounds.append((time.perf_counter() - began) / 500)
    assert min(rounds) < 20e-6
