"""`rank.schedule` and `rank.cost`: what checkpoints cost is measured, and they keep to it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.interval import SHORTEST, best_interval
from resilient_nb.core.model import Interval
from resilient_nb.rank.batches import Place
from resilient_nb.rank.boundary import Boundary
from resilient_nb.rank.cost import QUIET, Costs
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import Phases
from resilient_nb.rank.schedule import FIRST_SECONDS, FIRST_STEPS, NEVER, Schedule

PATIENCE = 20.0
DAY = 86400.0
AUTO = Interval(auto=True)


class Group:
    """Ranks that are threads here; the store is real."""

    def __init__(self, rank: int = 0, world_size: int = 1, store: Any = None) -> None:
        self.rank, self.world_size, self.store = rank, world_size, store or dist.HashStore()


@dataclass
class Loop:
    """A training loop on a clock of its own, whose steps and saves take what they are said to."""

    step_s: float = 0.1
    stall: float = 0.0  # of a save
    wait: float = 0.0  # of the first step after one began, for the snapshot
    slow: float = 1.0  # steps take so many times as long while one is written
    write_s: float = 0.0
    interval: Interval = AUTO
    mtbf: float = DAY
    group: Group = field(default_factory=Group)
    strange: dict[int, float] = field(default_factory=dict)  # steps that take longer by so much

    def __post_init__(self) -> None:
        self.now, self.step, self.looks, self.lost = 1000.0, 0, 0, 0.0
        self.saves: list[tuple[int, float]] = []
        self.durable = self.now
        self.asked: set[int] = set()  # steps after which the cell wants a checkpoint
        self.schedule = Schedule(self.group, self.interval, self.mtbf, lambda: self.now)
        self.schedule.plan(0)
        self.next = self.schedule.look(0)

    @property
    def busy(self) -> bool:
        return self.now < self.durable

    def run(self, steps: int) -> None:
        for _ in range(steps):
            usual = self.step_s + self.strange.get(self.step + 1, 0.0)
            took = usual * (self.slow if self.busy else 1.0)
            if self.wait and self.saves and self.saves[-1][0] == self.step:
                self.schedule.waited(self.wait)
                took += self.wait
            self.now += took
            self.lost += took - usual
            self.step += 1
            if self.step >= self.next or self.step in self.asked:
                self.looks += 1
                self.look()

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.run(1)

    def look(self) -> None:
        """As `Checkpointing.look` does."""
        schedule = self.schedule
        schedule.time_step(self.busy)
        if self.step in self.asked:
            self.save()
        if self.step >= schedule.due:
            if schedule.is_due(self.step, self.busy):
                self.save()
            schedule.plan(self.step)
        self.next = schedule.look(self.step)

    def save(self) -> None:
        began = self.now
        self.saves.append((self.step, began))
        self.now = max(self.now, self.durable) + self.stall
        self.lost += self.now - began
        self.durable = self.now + self.write_s
        self.schedule.saved(self.step, began)

    @property
    def gaps(self) -> list[float]:
        times = [at for _, at in self.saves]
        return [b - a for a, b in pairwise(times)]


# --- the cost ---


def test_the_cost_is_stall_and_wait_and_slowdown() -> None:
    loop = Loop(step_s=0.1, stall=0.2, wait=0.3, slow=1.5, write_s=3.0)
    loop.run_for(1000)
    # 20 steps of 150 ms fit into 3 s; the first of them has waited, too.
    assert loop.schedule.cadence is not None
    assert loop.schedule.cadence.cost == pytest.approx(0.2 + 0.3 + 19 * 0.05, abs=0.06)


def test_a_wait_that_nobody_told_of_is_found_in_the_first_step() -> None:
    costs = Costs(0.0)
    now = 0.0
    for _ in range(QUIET):
        now += 0.1
        assert not costs.step(now, False)
    assert not costs.watching
    costs.saved(now, now + 0.05)
    now += 0.05 + 0.1 + 0.4
    costs.step(now, True)
    now += 0.1
    costs.step(now, False)
    assert costs.cost is None
    assert costs.so_far == pytest.approx(0.45)
    for n in range(QUIET):
        now += 0.1
        assert costs.step(now, False) is (n == QUIET - 1)
    assert costs.cost == pytest.approx(0.45)
    assert costs.writing == pytest.approx(0.55)
    assert not costs.watching


def test_the_first_save_which_makes_buffers_is_not_what_the_others_cost() -> None:
    costs, now = Costs(0.0), 0.0
    for n, stall in enumerate([2.0, 0.1, 0.1, 5.0, 0.1]):
        costs.saved(now, now + stall)
        now += stall
        for _ in range(QUIET + 1):
            now += 0.1
            costs.step(now, False)
        assert costs.cost == pytest.approx(0.1 if n else 2.0)


def test_a_validation_in_between_is_no_cost() -> None:
    calm = Loop(stall=0.1, write_s=2.0)
    calm.run_for(3000)
    odd = Loop(stall=0.1, write_s=2.0, strange=dict.fromkeys(range(0, 90_000, 100), 7.0))
    odd.run_for(3000)
    assert calm.schedule.cadence is not None
    assert odd.schedule.cadence is not None
    assert odd.schedule.cadence.cost == pytest.approx(calm.schedule.cadence.cost, rel=0.1)


def test_what_passes_between_two_loops_is_no_step() -> None:
    loop = Loop(stall=0.1, write_s=0.05)
    while not loop.saves:
        loop.run(1)
    loop.now += 60.0
    loop.schedule.resume()
    loop.run(QUIET + 5)
    assert loop.schedule.cadence is not None
    assert loop.schedule.cadence.cost == pytest.approx(0.1)


def test_saves_without_a_quiet_step_between_cost_their_stall() -> None:
    costs, now = Costs(0.0), 0.0
    for _ in range(9):
        costs.saved(now, now + 0.2)
        now += 1.2
        costs.step(now, True)
    assert costs.cost == pytest.approx(0.2)


# --- when ---


def test_the_first_comes_soon_but_not_while_steps_warm_up() -> None:
    quick, slow = Loop(step_s=0.01), Loop(step_s=30.0)
    quick.run_for(60)
    slow.run(10)
    assert quick.saves[0][1] - 1000.0 == pytest.approx(FIRST_SECONDS, abs=0.5)
    assert slow.saves[0][0] == FIRST_STEPS


def test_the_rest_come_as_cost_and_failures_say() -> None:
    loop = Loop(step_s=0.05, stall=0.18, mtbf=9 * 3600.0)
    loop.run_for(3600)
    expected = best_interval(0.18, 9 * 3600.0, 0.01)
    assert loop.schedule.cadence is not None
    assert loop.schedule.cadence.every == pytest.approx(expected, rel=0.01)
    # But for the second, which comes as soon as it may: the first made the buffers, too.
    assert loop.gaps[0] == pytest.approx(0.18 / 0.01, rel=0.05)
    for gap in loop.gaps[1:]:
        assert gap == pytest.approx(expected, rel=0.05)


def test_what_is_asked_for_counts_too() -> None:
    loop = Loop(step_s=0.1, stall=0.1, mtbf=DAY)
    every = best_interval(0.1, DAY, 0.01)
    loop.asked = {int(10 * (600 + every / 2))}
    loop.run_for(600 + 2 * every)
    steps = [step for step, _ in loop.saves]
    asked = steps.index(*loop.asked)
    assert loop.gaps[asked] == pytest.approx(every, rel=0.05)


def test_the_next_waits_until_the_last_is_written_and_the_store_has_rest() -> None:
    loop = Loop(step_s=0.1, stall=0.01, write_s=100.0, mtbf=600.0)
    loop.run_for(3000)
    assert min(loop.gaps) >= 100.0  # or training would have stood still
    assert loop.lost == pytest.approx(0.01 * len(loop.saves), abs=0.01)
    for gap in loop.gaps[2:]:
        assert gap == pytest.approx(200.0, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([0.01, 0.1, 1.0, 20.0]), st.floats(0, 5), st.floats(1, 3), st.floats(0, 20),
    st.sampled_from([60.0, 3600.0, DAY, 30 * DAY]), st.sampled_from([0.002, 0.01, 0.1, 0.4]),
)  # fmt: skip
def test_training_loses_no_more_than_was_allowed(
    step_s: float, stall: float, slow: float, write_s: float, mtbf: float, overhead: float
) -> None:
    """But for the first, which tells what one costs."""
    interval = Interval(auto=True, overhead=overhead)
    loop = Loop(step_s, stall, 0.0, slow, write_s, interval, mtbf)
    while len(loop.saves) < 3 and loop.step < 20_000:
        loop.run(1)
    began, before = loop.now, loop.lost
    if len(loop.saves) == 3:
        loop.run(5000)
        passed = loop.now - began
        one = stall + (slow - 1) * (write_s + step_s)
        assert loop.lost - before <= 1.1 * overhead * passed + 2 * one


def test_checkpoints_by_steps_or_never_need_no_clock() -> None:
    def no_clock() -> float:
        raise AssertionError

    by_steps = Schedule(Group(), Interval(steps=20), DAY, no_clock)
    by_steps.plan(0)
    assert (by_steps.due, by_steps.look(0), by_steps.is_due(20, False)) == (20, 20, True)
    by_steps.time_step(False)
    by_steps.saved(20, 0.0)
    by_steps.resume()
    never = Schedule(Group(), Interval(), DAY, no_clock)
    never.plan(0)
    assert (never.never, never.due, never.look(0)) == (True, NEVER, NEVER)


def test_a_fixed_time_is_kept_and_steps_are_not_timed() -> None:
    loop = Loop(step_s=0.01, stall=0.5, write_s=2.0, interval=Interval(seconds=30.0))
    loop.run_for(600)
    for gap in loop.gaps:
        assert gap == pytest.approx(30.0, rel=0.05)
    assert loop.schedule.cadence is None
    assert loop.looks < 20 * len(loop.saves)


def test_steps_far_from_a_save_are_not_looked_at() -> None:
    loop = Loop(step_s=0.001, stall=0.05, write_s=0.2)
    loop.run_for(600)
    assert loop.step > 500_000
    # Those during the save, those after it, and guesses that double: 200, 24 and some.
    assert loop.looks / len(loop.saves) < 300


# --- on several ranks ---


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 4), st.lists(st.sampled_from([0.03, 0.1, 0.7]), min_size=4, max_size=4),
    st.sampled_from([AUTO, Interval(seconds=7.0)]),
)  # fmt: skip
def test_all_ranks_save_at_the_same_steps(
    size: int, paces: list[float], interval: Interval
) -> None:
    """Whatever their clocks say: only rank 0's counts."""
    store = dist.HashStore()
    loops = [
        Loop(paces[n], 0.1, 0.0, 1.2, 1.0, interval, 3600.0, Group(n, size, store))
        for n in range(size)
    ]
    threads = [threading.Thread(target=loop.run, args=(2000,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    steps = [[step for step, _ in loop.saves] for loop in loops]
    assert steps[0]
    assert all(each == steps[0] for each in steps)
    assert all(loop.schedule.cadence is None for loop in loops[1:])


# --- in the boundary ---


class Tracker:
    names = ("model",)

    def on_wait(self, told: Any) -> None:
        self.told = told

    def modules(self) -> list[Any]:
        return []

    def find(self) -> None: ...

    mark = let_go = find

    def snapshot(self, at_once: bool = False, stepped: Any = None) -> str:
        return "the state"


class Saver:
    """Is done with a checkpoint after two looks at it."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._looks: deque[bool] = deque()

    @property
    def busy(self) -> bool:
        return self._looks.popleft() if self._looks else False

    def write(self, request: Any) -> None:
        self.steps.append(request.step)
        self._looks.extend([True, True])

    def wait(self) -> None: ...


def test_the_boundary_times_saves_and_says_what_came_of_it() -> None:
    now = [0.0]
    telemetry = SimpleNamespace(
        step=0, state="", cadence=None, total=None, latest=dict, phases=Phases()
    )
    saver, leaving = Saver(), SimpleNamespace(asked=False)
    parts: Any = Parts(Group(), Tracker(), saver, telemetry, leaving, None)  # type: ignore[arg-type]
    schedule = Schedule(Group(), AUTO, DAY, lambda: now[0])
    boundary = Boundary(parts, schedule, None, lambda text: None)
    assert boundary.enter(0) == Place()
    looked = []
    for step in range(1, 500):
        now[0] += 0.05
        looked.append(boundary.step >= boundary._checkpointing.due - 1)
        boundary.step_done(0, Place(0, step))
    assert saver.steps[0] == pytest.approx(FIRST_SECONDS / 0.05, abs=1)
    assert telemetry.cadence is not None
    assert telemetry.cadence.every == SHORTEST  # on this clock a checkpoint costs nothing
    assert sum(looked) < 250
    telemetry.phases.take()
    parts.tracker.told(0.5)  # seconds for which the step waited for the snapshot
    boundary.step_done(0, Place(0, 500))
    assert telemetry.phases.take().checkpoint_s >= 0.5
    boundary.exit()
