"""Each policy to compare with, against schedules made by hand; and laws that all obey."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from resilient_nb.core.model import Priority
from resilient_nb.simulator.baselines import Easy, Fifo, LeastService, ShortestRemaining, fit
from resilient_nb.simulator.command import POLICIES
from resilient_nb.simulator.engine import Decisions, Engine, Scheduler
from resilient_nb.simulator.metrics import summarise
from resilient_nb.simulator.settings import Settings
from resilient_nb.simulator.state import State
from resilient_nb.simulator.trace import Job, Trace, make


def ends(policy: Scheduler, workers: int, *jobs: tuple[float, ...]) -> list[float]:
    """Return when jobs (submit, workers, duration[, declared]) end, in their order."""
    made = [
        Job(row[0], "u", "g", int(row[1]), row[2], declared=row[3] if len(row) > 3 else None)
        for row in jobs
    ]
    engine = Engine(make("case", made), policy, Settings(workers=workers, replan_every=0.0))
    found: list[float] = engine.run().ended.tolist()
    return found


def test_fifo_lets_nobody_overtake() -> None:
    assert ends(Fifo(), 4, (0, 2, 100), (1, 4, 50), (2, 2, 10)) == [100, 150, 160]


def test_easy_fills_up_with_what_ends_before_the_reservation() -> None:
    jobs = ((0, 2, 100), (1, 4, 50), (2, 2, 10), (3, 2, 200))
    # The last would delay the second, whose start is reserved for 100.
    assert ends(Easy(), 4, *jobs) == [100, 150, 12, 350]


def test_easy_fills_up_with_what_the_reservation_leaves_over() -> None:
    # At 100 four slots are free, the second needs two: one of the two others may be taken longer.
    assert ends(Easy(), 4, (0, 3, 100), (1, 2, 50), (2, 1, 500)) == [100, 150, 502]


def test_easy_believes_declarations() -> None:
    assert ends(Easy(), 4, (0, 2, 100, 100), (1, 4, 50, 50), (2, 2, 10, 200)) == [100, 150, 160]
    # Declared too short: the reservation moves on with the time.
    assert ends(Easy(), 4, (0, 2, 100, 30), (1, 4, 50, 50), (2, 2, 10, 10)) == [100, 150, 12]


def test_least_service_preempts_who_has_had_more() -> None:
    # Preempted at 5000 (5000 slot-seconds, one class up), saved at 5020; restores 5120-5140.
    assert ends(LeastService(), 1, (0, 1, 10_000), (5000, 1, 100)) == [10_140, 5120]


def test_least_service_goes_by_submission_inside_a_class() -> None:
    assert ends(LeastService(), 1, (0, 1, 3000), (1, 1, 10)) == [3000, 3010]


def test_least_service_grants_a_quantum() -> None:
    # At 500 the first has 4000 slot-seconds and is one class up, but keeps its 15 x 40 s; the
    # next tick after that is at 620.
    assert ends(LeastService(), 8, (0, 8, 4000), (500, 8, 10))[1] == 620 + 20 + 10


def test_shortest_remaining_preempts_for_what_is_clearly_shorter() -> None:
    assert ends(ShortestRemaining(), 1, (0, 1, 1000), (100, 1, 100)) == [1140, 220]
    # 0.8 x 900 - 2 x 40 = 640 < 700: it isn't worth it.
    assert ends(ShortestRemaining(), 1, (0, 1, 1000), (100, 1, 700)) == [1000, 1700]


def test_shortest_remaining_counts_service_not_time() -> None:
    # 4 x 100 slot-seconds against 1 x 300.
    assert ends(ShortestRemaining(), 4, (0, 4, 10), (1, 4, 100), (2, 1, 300)) == [10, 410, 310]


def test_only_as_many_leave_as_it_takes() -> None:
    jobs = ((0, 2, 9000), (0, 2, 10_000), (100, 2, 100))
    assert ends(ShortestRemaining(), 4, *jobs) == [9000, 10_140, 220]


def test_greedy_fit() -> None:
    assert fit(np.array([3, 4, 1, 2, 1]), 5).tolist() == [True, False, True, False, True]
    assert fit(np.array([6]), 5).tolist() == [False]
    assert fit(np.array([], dtype=np.int64), 5).tolist() == []


jobs = st.builds(
    Job,
    submit=st.integers(0, 3000).map(float),
    user=st.sampled_from("abc"),
    group=st.sampled_from("gh"),
    workers=st.integers(1, 6),
    duration=st.integers(1, 20_000).map(float),
    priority=st.sampled_from(Priority),
    declared=st.one_of(st.none(), st.integers(1, 9000).map(float)),
)
traces = st.lists(jobs, min_size=1, max_size=12).map(lambda found: make("random", found))


class Recorder:
    """Passes everything on to a policy and writes down who held what when."""

    def __init__(self, policy: Scheduler) -> None:
        self.policy = policy
        self.name, self.elastic, self.ticks = policy.name, policy.elastic, policy.ticks
        self.held: dict[int, int] = {}
        self.most = 0
        self.sizes: set[tuple[int, int]] = set()

    def begin(self, state: State) -> None:
        self.policy.begin(state)

    def account(self, job: int, wanted: int, held: int) -> None:
        self.held[job] = self.held.get(job, 0) + held
        self.sizes.add((job, self.held[job]))
        self.most = max(self.most, sum(self.held.values()))
        self.policy.account(job, wanted, held)

    def decide(self, now: float) -> Decisions:
        return self.policy.decide(now)


def run(trace: Trace, name: str, workers: int, every: float) -> tuple[Engine, Recorder]:
    recorder = Recorder(POLICIES[name]())
    chosen = Settings(workers=workers, host_slots=4, replan_every=every, noise=0.3)
    engine = Engine(trace, recorder, chosen)
    engine.run()
    return engine, recorder


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=40, deadline=None)
@given(trace=traces, workers=st.integers(6, 12), every=st.sampled_from([0.0, 10.0, 45.0]))
def test_laws(name: str, trace: Trace, workers: int, every: float) -> None:
    engine, recorder = run(trace, name, workers, every)
    state, found = engine.state, summarise(engine)
    assert recorder.most <= workers
    assert all(size == 0 for size in recorder.held.values())
    assert (state.ended < float("inf")).all()
    assert state.free == workers
    assert state.leaving_slots == 0
    if not recorder.elastic:
        assert all(size in (0, trace.jobs[job].workers) for job, size in recorder.sizes)
        assert engine.counts.useful == pytest.approx(trace.work)
        assert (state.ended - state.submit >= state.duration - 1e-6).all()
    assert found.lost >= -1e-9
    moves = found.preemptions + found.resizes
    assert found.lost * engine.counts.useful <= 40 * 12 * moves + 1e-6
    assert 0 < found.jain_users <= 1
    held = sum(account.held for account in engine.meter.accounts.values())
    assert held == pytest.approx(float(state.used_then.sum()))
    again, _ = run(trace, name, workers, every)
    assert summarise(again).jct == found.jct
    assert again.state.ended.tolist() == state.ended.tolist()
