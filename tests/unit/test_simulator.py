"""The simulator's clock, costs and figures, against cases computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from resilient_nb.core.queue import Plan, QueueView
from resilient_nb.errors import InvalidRequest
from resilient_nb.simulator import fair as fair_module
from resilient_nb.simulator.baselines import Fifo
from resilient_nb.simulator.engine import Decisions, Engine, WrongDecision
from resilient_nb.simulator.fair import Fair
from resilient_nb.simulator.metrics import Summary, summarise
from resilient_nb.simulator.settings import Settings
from resilient_nb.simulator.state import Phase, State
from resilient_nb.simulator.trace import Job, Trace, make

Decide = Callable[[State, float], Decisions]


class Script:
    """A policy that a test writes as a function of the state and the time."""

    name = "script"
    ticks = True

    def __init__(self, decide: Decide, elastic: bool = False) -> None:
        self._decide, self.elastic = decide, elastic

    def begin(self, state: State) -> None:
        self.state = state

    def account(self, job: int, wanted: int, held: int) -> None:
        pass

    def decide(self, now: float) -> Decisions:
        return self._decide(self.state, now)


def job(submit: float, workers: int, duration: float, user: str = "u", group: str = "") -> Job:
    return Job(submit, user, group or user, workers, duration)


def trace(*jobs: Job) -> Trace:
    return make("case", jobs)


def settings(workers: int, **others: float) -> Settings:
    return Settings(workers=workers, replan_every=0.0, tick=10.0, **others)  # type: ignore[arg-type]


def first_fits(state: State, now: float) -> Decisions:
    """Start each waiting job, in order, as far as it fits."""
    free, starts = state.free, []
    for number in state.waiting().tolist():
        count = int(state.claim[number] or state.workers[number])
        if count <= free:
            starts.append((number, count))
            free -= count
    return Decisions(starts=starts)


def leaves_at(time: float, number: int = 0, claim: int = 0) -> Decide:
    """Like `first_fits`, but a job is asked to leave once, at a time."""
    asked: list[float] = []

    def decide(state: State, now: float) -> Decisions:
        if now >= time and not asked:
            asked.append(now)
            if claim:
                return Decisions(resizes=[(number, claim)])
            return Decisions(leaves=[number])
        return first_fits(state, now)

    return decide


def simulate(jobs: Trace, decide: Decide, workers: int, elastic: bool = False) -> Engine:
    engine = Engine(jobs, Script(decide, elastic), settings(workers))
    engine.run()
    return engine


def test_a_job_that_leaves_pays_a_save_and_a_restore() -> None:
    # Works 0-100, saves to 120, waits behind the other (120-170), restores to 190, works 900.
    jobs = trace(job(0, 2, 1000), job(100, 2, 50))

    def decide(state: State, now: float) -> Decisions:
        if now == 100 and state.phase[0] == Phase.RUNNING:
            return Decisions(leaves=[0])
        if now >= 120 and state.phase[1] == Phase.WAITING:
            return Decisions(starts=[(1, 2)])
        return first_fits(state, now) if state.phase[1] in (Phase.FUTURE, Phase.DONE) else idle

    idle = Decisions()
    engine = simulate(jobs, decide, workers=2)
    assert engine.state.ended.tolist() == [1090, 170]
    assert engine.state.held_for.tolist() == [120 + 920, 50]
    found = summarise(engine)
    assert found.lost == pytest.approx(2 * 40 / (2 * 1050))
    assert found.preemptions == 1
    assert found.jct == pytest.approx((1090 + 70) / 2)
    assert found.wait == pytest.approx((50 + 20) / 2)
    assert found.stretch == pytest.approx(90 / (1000 + 6 * 3600))


def test_a_job_that_ends_within_the_save_just_ends() -> None:
    engine = simulate(trace(job(0, 1, 115)), leaves_at(100), workers=1)
    assert engine.state.ended.tolist() == [115]
    assert summarise(engine).lost == 0


def test_leaving_while_restoring_is_at_once_and_costs_the_restore_so_far() -> None:
    # Works 0-100, saves to 120, restores from 120, is asked at 130, restores again 130-150.
    times = iter([100.0, 130.0])
    due = [next(times)]

    def decide(state: State, now: float) -> Decisions:
        if due and now >= due[0]:
            due[:] = [t for t in [next(times, None)] if t is not None]
            return Decisions(leaves=[0])
        return first_fits(state, now)

    one = Settings(workers=1, replan_every=0.0, tick=10.0)
    # A second job keeps the policy ticking while the first one runs alone.
    jobs = trace(job(0, 1, 1000), job(0, 1, 10))
    engine = Engine(jobs, Script(decide), one)
    engine.run()
    # At 120 and 130 the first in line is the first job again.
    assert engine.state.ended[0] == 150 + 900
    assert engine.counts.preemptions == 2
    assert summarise(engine).lost == pytest.approx((20 + 10 + 20) / 1010)


def test_an_elastic_job_goes_on_at_its_new_speed() -> None:
    # Speed 1 on 4 workers for 100 s, 40 s of save and restore, 2^0.8 on 8 for the rest.
    engine = simulate(trace(job(0, 4, 1000)), leaves_at(100, claim=8), workers=8, elastic=True)
    assert engine.state.ended[0] == pytest.approx(140 + 900 / 2**0.8)
    assert engine.counts.resizes == 1
    worked = 4 * 100 + 8 * 900 / 2**0.8
    assert summarise(engine).lost == pytest.approx((4 * 20 + 8 * 20) / worked)


def test_decisions_are_coalesced() -> None:
    jobs = trace(job(0, 1, 5), job(1, 1, 5), job(2, 1, 5))
    engine = Engine(jobs, Fifo(), Settings(workers=3, replan_every=10.0))
    engine.run()
    assert engine.state.ended.tolist() == [5, 15, 15]
    assert engine.counts.plans == 2


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        (Decisions(starts=[(0, 1)]), "with 1 workers"),
        (Decisions(starts=[(0, 2), (1, 2)]), "slots in use"),
        (Decisions(starts=[(0, 2), (0, 2)]), "doesn't wait"),
        (Decisions(leaves=[0]), "doesn't run"),
    ],
)
def test_impossible_decisions_are_defects(decisions: Decisions, words: str) -> None:
    jobs = trace(job(0, 2, 10), job(0, 2, 10))
    with pytest.raises(WrongDecision, match=words):
        simulate(jobs, lambda state, now: decisions, workers=3)


def test_a_policy_that_never_starts_a_job_is_found_out() -> None:
    with pytest.raises(WrongDecision, match="for ever"):
        simulate(trace(job(0, 2, 10)), lambda state, now: Decisions(), workers=3)


def test_a_job_wider_than_the_cluster_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="needs 4 workers; the cluster has 3"):
        Engine(trace(job(0, 4, 10)), Fifo(), settings(3))


def figures(jobs: Trace, workers: int) -> Summary:
    engine = Engine(jobs, Fifo(), settings(workers))
    engine.run()
    return summarise(engine)


def test_a_run_can_be_stopped_and_gone_on_with() -> None:
    jobs = trace(job(0, 1, 100, "a"), job(0, 1, 100, "b"))
    engine = Engine(jobs, Fifo(), settings(1))
    engine.run(until=150)
    assert [account.held for account in engine.meter.accounts.values()] == [100, 50]
    engine.run()
    assert replace(summarise(engine), plan_ms=0) == replace(figures(jobs, 1), plan_ms=0)


def test_fairness_is_held_against_entitled() -> None:
    # One slot, two users: half of it each until 100 s, then all of it for the second.
    # Held 100 of 50, and 100 of 150: x is 2 and 2/3, weights 50 and 150.
    found = figures(trace(job(0, 1, 100, "a"), job(0, 1, 100, "b")), 1)
    assert found.jain_users == pytest.approx(200**2 / (200 * (50 * 4 + 150 * 4 / 9)))
    assert found.jain_users_plain == pytest.approx((2 + 2 / 3) ** 2 / (2 * (4 + 4 / 9)))
    assert found.jain_groups == found.jain_users


def test_users_of_one_group_share_its_part() -> None:
    # Group g is due half: 25 s of slot for each of its users until 100 s.
    jobs = trace(job(0, 1, 100, "a", "g"), job(0, 1, 1, "b", "g"), job(0, 1, 100, "c", "h"))
    engine = Engine(jobs, Fifo(), settings(1))
    engine.run()
    # a: 0-100, b: 100-101, c: 101-201. Until 100 a, b have 1/4 and c 1/2; then b, c 1/2; then c 1.
    due = {a.user: a.entitled for a in engine.meter.accounts.values()}
    assert due == pytest.approx({"a": 25, "b": 25.5, "c": 150.5})


def test_who_wants_less_than_a_part_is_due_no_more() -> None:
    found = figures(trace(job(0, 1, 100, "a"), job(0, 3, 100, "b")), 4)
    assert found.jain_users == pytest.approx(1)
    assert found.utilisation == pytest.approx(1)


def test_utilisation_is_of_the_time_of_submissions() -> None:
    found = figures(trace(job(0, 1, 100, "a"), job(200, 1, 1000, "b")), 1)
    assert found.utilisation == pytest.approx(0.5)
    assert found.makespan == 1200


def views(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, QueueView, Plan]]:
    """Return the list in which the real policy's questions and answers will be."""
    seen: list[tuple[float, QueueView, Plan]] = []
    real = fair_module.plan

    def spy(view: QueueView, now: float) -> Plan:
        seen.append((now, view, real(view, now)))
        return seen[-1][2]

    monkeypatch.setattr(fair_module, "plan", spy)
    return seen


def test_what_the_policy_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = views(monkeypatch)
    jobs = trace(
        Job(0, "a", "g", 2, 500, declared=900), Job(0, "b", "g", 2, 500), Job(5, "b", "h", 1, 9)
    )
    Engine(jobs, Fair(), settings(2, use_declared=True)).run()
    known = {now: {gang.job[-1]: gang for gang in view.gangs} for now, view, _ in seen}
    assert known[0]["0"].remaining == 900
    assert known[0]["1"].remaining is None
    (running,) = (gang for gang in known[65].values() if gang.held)
    assert running.exact
    assert running.remaining == 435
    assert running.attained == 130
    assert not any(g.exact for now, gangs in known.items() for g in gangs.values() if now < 60)
    assert known[65]["2"].group == "h"
    account = seen[1][1].ledger.account("b", "h", seen[1][0], fair_module.NO_RULES)
    assert account.wanted == 1


def test_elastic_gangs_are_shown_with_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = views(monkeypatch)
    Engine(trace(job(0, 8, 500)), Fair(elastic=True), settings(12)).run()
    _, view, _ = seen[0]
    assert (view.gangs[0].workers, view.gangs[0].max_workers) == (2, 12)
    running = [g for now, v, _ in seen for g in v.gangs if g.held and now >= 60]
    # Told in seconds at the least size, whatever it runs on: 500 s at 8 are 4^0.8 times that.
    left = 500 - (12 / 8) ** 0.8 * 60
    assert running[0].remaining == pytest.approx(left * 4**0.8)


def test_errors_of_prediction_are_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = trace(job(0, 1, 500), job(0, 1, 500))

    def predicted(seed: int) -> list[float]:
        seen = views(monkeypatch)
        Engine(jobs, Fair(), settings(1, noise=0.5, seed=seed)).run()
        return [g.remaining for _, v, _ in seen for g in v.gangs if g.remaining and g.held]

    assert predicted(1) == predicted(1)
    assert predicted(1)[0] != predicted(2)[0]
