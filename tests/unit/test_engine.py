"""`control.engine` driven without Dask: what comes in, what is written, what is ordered."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient_nb.control import dispatch
from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.launching import LAUNCH_PATIENCE, ORDER_AGAIN
from resilient_nb.control.shell import Shell
from resilient_nb.core import dependencies, recovery
from resilient_nb.core.events import JournalSalvaged
from resilient_nb.core.interval import PRESUMED
from resilient_nb.core.lifecycle import evolve, replay
from resilient_nb.core.model import (
    Cadence,
    Job,
    JobSpec,
    JobState,
    Outcome,
    Priority,
    Scaling,
    StopReason,
)
from resilient_nb.core.policy import GroupRule, Policy
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest, JournalFailed, NotAllowed
from resilient_nb.testing.builders import (
    a_checkpoint,
    a_report,
    a_row,
    a_spec,
    an_end,
    an_error,
    failed,
    killed,
)
from resilient_nb.testing.contracts import world_problems
from resilient_nb.testing.fakes import (
    FakeCluster,
    FakeRank,
    ManualClock,
    MemoryJournal,
    RecordingLauncher,
    fake_settings,
)
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq
from resilient_nb.wire.orders import FACTS, LogChunk, RankRow, Sample


class Desk:
    """An engine with a recording launcher; facts and reports are written by hand."""

    def __init__(self, home: Path, **changes: Any) -> None:
        self.clock, self.journal, self.launcher = (
            ManualClock(),
            MemoryJournal(),
            RecordingLauncher(),
        )
        self.settings = fake_settings(home, **changes)
        self.changed: list[str] = []
        self.restart()

    def restart(self) -> None:
        shell = Shell(self.journal, self.launcher, self.clock, self.changed.append)
        self.engine = Engine(self.settings, shell)
        commands = Commands(self.engine, "tcp://here")
        self.commands = partial(commands, user=self.engine.settings.user)

    def submit(self, run: str = "digits", workers: int = 1, **spec: Any) -> Job:
        done = self.commands(rq.Submit(run, a_spec(workers, **spec), f"req-{self.clock()}-{run}"))
        return self.job(done.job)

    def job(self, name: str = "digits#1") -> Job:
        return self.engine.world.jobs[name]

    def report(self, host: str = "h0", *facts: object, **changes: Any) -> orders.ReportReply:
        return self.engine.report(a_report(host, *facts, **changes))

    def prepared(self, epoch: int = 1, host: str = "h0", **changes: Any) -> None:
        self.report(host, orders.Prepared("digits#1", epoch, 4000), **changes)

    def wait(self, seconds: float) -> None:
        """Let time pass while the engine is there: what it doesn't see counts for nobody."""
        self.engine.tick()
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            self.engine.tick()

    def running(self, workers: int = 1, hosts: tuple[str, ...] = ("h0",), slots: int = 2) -> Job:
        """Bring a job to RUNNING on hosts with `slots` each."""
        for host in hosts:
            self.report(host, slots=slots)
        self.submit(workers=workers)
        self.prepared(slots=slots)
        for share in self.job().placement:
            rows = rows_of(range(share.first, share.first + share.count))
            facts = [started(row.rank, pid=row.pid) for row in rows]
            self.report(share.host, *facts, ranks=rows, slots=slots)
        assert self.job().state is JobState.RUNNING
        self.launcher.orders.clear()
        return self.job()

    def of(self, kind: type[Any]) -> list[tuple[str, Any]]:
        return self.launcher.of(kind)

    def world_is_journal(self) -> bool:
        return replay(self.journal.events()) == self.engine.world


def rows_of(ranks: Any, epoch: int = 1) -> tuple[RankRow, ...]:
    return tuple(a_row(epoch=epoch, rank=rank) for rank in ranks)


def started(rank: int = 0, epoch: int = 1, pid: int = 77) -> orders.RankStarted:
    return orders.RankStarted("digits#1", epoch, rank, pid)


def done(end: Any, epoch: int = 1) -> orders.RankDone:
    return orders.RankDone("digits#1", epoch, end)


def written(step: int, epoch: int = 1, parent: str | None = None, tag: str | None = None) -> Any:
    return orders.CheckpointWritten(a_checkpoint("digits#1", step, epoch, parent), tag)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- the way of a job that meets no trouble ---


def test_a_job_goes_from_submit_to_success(desk: Desk) -> None:
    assert desk.submit(workers=2, out=("model",)).state is JobState.QUEUED
    desk.report(slots=2)
    assert desk.job().state is JobState.STARTING
    assert desk.launcher.orders == [("h0", orders.Prepare("digits#1", 1))]
    desk.prepared()
    [(host, launch)] = desk.of(orders.Launch)
    assert (host, launch.first, launch.count) == ("h0", 0, 2)
    attempt = launch.attempt
    assert (attempt.epoch, attempt.world_size, attempt.rendezvous) == (1, 2, "h0:4000")
    assert (attempt.start, attempt.start_id, attempt.start_step) == (None, None, 0)
    assert attempt.one_host
    desk.report("h0", started(0), ranks=rows_of([0]))
    assert desk.job().state is JobState.STARTING
    desk.report("h0", started(1), ranks=rows_of([0, 1]))
    assert desk.job().state is JobState.RUNNING
    desk.report("h0", done(an_end(0)), ranks=rows_of([1]))
    assert desk.job().state is JobState.RUNNING
    desk.report("h0", done(an_end(1)))
    job = desk.job()
    assert (job.state, job.returned, job.placement) == (JobState.SUCCEEDED, ("model",), ())
    assert not desk.of(orders.Kill)
    assert desk.world_is_journal()


def test_a_gang_over_hosts_launches_each_hosts_share(desk: Desk) -> None:
    desk.report("h0", slots=2)
    desk.report("h1", slots=1)
    desk.submit(workers=3)
    assert desk.of(orders.Prepare) == [("h0", orders.Prepare("digits#1", 1))]
    desk.prepared()
    launches = [(host, order.first, order.count) for host, order in desk.of(orders.Launch)]
    assert launches == [("h0", 0, 2), ("h1", 2, 1)]
    assert not any(order.attempt.one_host for _, order in desk.of(orders.Launch))


def test_a_cell_that_ends_before_its_start_was_heard_succeeds(desk: Desk) -> None:
    desk.submit()
    desk.report()
    desk.prepared()
    desk.report("h0", started(), done(an_end(0)))
    assert desk.job().state is JobState.SUCCEEDED


def test_the_queue_moves_when_slots_are_free(desk: Desk) -> None:
    desk.running()
    desk.submit("later", workers=2)
    assert desk.job("later#1").state is JobState.QUEUED
    view = desk.engine.view(desk.job("later#1"))
    assert view.reason == "Needs 2 workers at once; 1 of 2 slots are free."
    desk.report("h0", done(an_end(0)))
    assert desk.job("later#1").state is JobState.STARTING


def test_only_warm_hosts_with_agents_take_gangs(desk: Desk) -> None:
    desk.submit()
    desk.report(warm=False)
    assert desk.job().state is JobState.QUEUED
    desk.engine.agent_gone("tcp://h0")
    desk.engine.tick()
    assert desk.job().state is JobState.QUEUED
    desk.report()
    assert desk.job().state is JobState.STARTING


# --- facts that come twice, late or out of order ---


def test_facts_that_come_twice_change_nothing(desk: Desk) -> None:
    desk.submit(workers=2)
    desk.report()
    twice = [
        ([orders.Prepared("digits#1", 1, 4000)], ()),
        ([started(0), started(1)], rows_of([0, 1])),
        ([written(20)], rows_of([0, 1])),
        ([done(an_end(0))], rows_of([1])),
    ]
    for facts, rows in twice:
        desk.report("h0", *facts, ranks=rows)
        events = list(desk.journal.events())
        desk.report("h0", *facts, ranks=rows)
        assert list(desk.journal.events()) == events
    assert len(desk.of(orders.Launch)) == 1
    desk.report("h0", done(an_end(1)), done(an_end(1)), done(an_end(0)))
    assert desk.job().state is JobState.SUCCEEDED
    events = list(desk.journal.events())
    desk.report("h0", done(an_end(1)), written(20), started(0))
    assert list(desk.journal.events()) == events


def test_facts_in_the_wrong_order_lead_to_the_same_end(desk: Desk) -> None:
    desk.submit(workers=2)
    desk.report()
    desk.prepared()
    desk.report("h0", done(an_end(1)), started(1), done(an_end(0)), started(0))
    assert desk.job().state is JobState.SUCCEEDED


def test_every_fact_is_acknowledged_whatever_it_says(desk: Desk) -> None:
    stale = [started(epoch=9), done(an_end(0), epoch=9), written(3, epoch=9)]
    unknown = [orders.Note("nobody#1", 1, 0, "hi"), orders.Prepared("nobody#1", 1, 1)]
    desk.submit()
    reply = desk.report("h0", *stale, *unknown)
    assert reply.acknowledged == tuple(f"h0/{n}" for n in range(5))
    assert desk.job().state is JobState.STARTING


def test_an_older_attempts_facts_are_ignored_and_its_ranks_ended(desk: Desk) -> None:
    desk.running()
    desk.report("h0", done(killed(0)))
    desk.prepared(epoch=2)
    assert desk.job().epoch == 2
    desk.launcher.orders.clear()
    before = desk.job()
    desk.report("h0", done(an_end(0)), started(), written(20), ranks=rows_of([0]))
    assert desk.job() == before
    assert desk.engine.world.runs["digits"].head is None
    assert desk.of(orders.Kill) == [("h0", orders.Kill("digits#1", 1))]


def test_ranks_of_jobs_that_nobody_knows_are_asked_to_leave(desk: Desk) -> None:
    """Not killed: it may be the journal that has lost something."""
    for _ in range(3):
        desk.report(ranks=(a_row("ghost#4", 3),))
    assert desk.launcher.orders == [("h0", orders.Leave("ghost#4", 3, 600.0))]


def test_an_unreadable_fact_doesnt_hold_up_the_others(desk: Desk) -> None:
    """Facts are kept until they are acknowledged: one that raises would come for ever."""
    desk.running()
    good = ("h0/1", FACTS.pack(done(an_end(0))))
    reply = desk.engine.report(
        replace(a_report(), facts=(("h0/0", {"kind": "FromTheFuture", "x": 1}), good))
    )
    assert "h0/1" in reply.acknowledged
    assert desk.job().state is JobState.SUCCEEDED


# --- failures ---


def test_one_ranks_failure_ends_the_gang_and_the_next_attempt_goes_on_from_the_head(
    desk: Desk,
) -> None:
    desk.running(workers=3, hosts=("h0", "h1"))
    desk.report("h0", written(20), ranks=rows_of([0, 1]))
    desk.launcher.orders.clear()
    desk.report("h1", done(failed(2, an_error("OSError"), step=25)))
    assert desk.job().state is JobState.STOPPING
    assert desk.of(orders.Kill) == [
        ("h0", orders.Kill("digits#1", 1)),
        ("h1", orders.Kill("digits#1", 1)),
    ]
    desk.report("h0", done(killed(0, ordered=True)), ranks=rows_of([1]))
    assert desk.job().state is JobState.STOPPING  # rank 1 is still alive
    desk.report("h0", done(killed(1, ordered=True)))
    job = desk.job()
    assert (job.state, job.epoch, job.attempts) == (JobState.STARTING, 2, 2)
    [failure] = job.failures
    assert (failure.cause, failure.rank, failure.step) == (recovery.USER_ERROR, 2, 25)
    assert (failure.decision, failure.resumes_from, failure.epoch) == ("retry", 20, 1)
    desk.prepared(epoch=2)
    attempt = desk.of(orders.Launch)[0][1].attempt
    assert (attempt.epoch, attempt.start_step) == (2, 20)
    assert attempt.start_id == "digits/00000020-e1"
    assert attempt.start == f"{desk.settings.runs}/digits/00000020-e1"


def test_ranks_are_told_how_to_compress(desk: Desk) -> None:
    desk.report()
    desk.submit(workers=2, compress="zstd:2")
    desk.prepared(epoch=1)
    assert desk.of(orders.Launch)[0][1].attempt.compress == "zstd:2"


def test_how_often_a_gang_is_expected_to_fail_follows_from_the_journal(desk: Desk) -> None:
    def told(epoch: int) -> float:
        desk.launcher.orders.clear()
        desk.prepared(epoch=epoch)
        return float(desk.of(orders.Launch)[0][1].attempt.mtbf)

    desk.report()
    desk.submit(workers=2)
    assert told(1) == PRESUMED
    expected = PRESUMED
    for epoch in range(1, 4):
        if epoch == 2:
            desk.restart()  # all of it is in the journal
        facts = [written(10 * epoch, epoch, desk.engine.world.runs["digits"].head)]
        desk.report("h0", *facts, done(killed(0, step=10 * epoch + 5), epoch))
        desk.report("h0", done(killed(1, ordered=True), epoch))
        now = told(epoch + 1)
        assert now < expected
        expected = now
    assert expected < PRESUMED / 5
    desk.report("h1")
    desk.submit("moons", workers=2)
    desk.launcher.orders.clear()
    desk.report("h1", orders.Prepared("moons#1", 1, 4000))
    assert expected <= desk.of(orders.Launch)[0][1].attempt.mtbf < PRESUMED


def test_how_often_checkpoints_are_taken_is_shown_while_it_is_known(desk: Desk) -> None:
    job, cadence = desk.running(), Cadence(42.0, 0.18, 32400.0, 0.01)
    assert desk.engine.view(job).cadence is None
    sample = Sample("digits#1", 1, 0, step=9, cadence=cadence)
    desk.report(samples=(sample,), ranks=rows_of([0]))
    assert desk.engine.view(job).cadence == cadence
    desk.report("h0", done(killed(0)))
    assert desk.job().epoch == 2
    assert desk.engine.view(desk.job()).cadence is None


def test_an_error_that_would_come_again_fails_the_job(desk: Desk) -> None:
    desk.running()
    desk.report("h0", done(failed(0, an_error("NameError"), step=3)))
    job = desk.job()
    assert (job.state, job.failures[0].decision) == (JobState.FAILED, "stop")
    assert job.message == "NameError: boom (rank 0 on h0, step 3)"


def test_kills_from_outside_back_off_and_are_given_up_in_the_end(desk: Desk) -> None:
    desk.running()
    tries = 0
    while not desk.job().state.final:
        tries += 1
        assert tries <= recovery.FRUITLESS_LIMIT
        epoch = desk.job().epoch
        desk.report("h0", done(killed(0), epoch))
        if desk.job().state is JobState.QUEUED:
            wait = desk.job().not_before - desk.clock()
            assert wait > 0
            desk.clock.advance(wait / 2)
            desk.engine.tick()
            assert desk.job().state is JobState.QUEUED
            assert "back-off" in desk.engine.view(desk.job()).reason
            desk.clock.advance(wait / 2)
            desk.engine.tick()
        if not desk.job().state.final:
            desk.prepared(epoch=desk.job().epoch)
    assert tries == recovery.FRUITLESS_LIMIT
    assert desk.job().state is JobState.FAILED


def test_a_checkpoint_makes_kills_fruitful_again(desk: Desk) -> None:
    desk.running()
    head = None
    for epoch in range(1, 2 * recovery.FRUITLESS_LIMIT):
        desk.report("h0", written(epoch, epoch, head), done(killed(0), epoch))
        head = desk.engine.world.runs["digits"].head
        assert desk.job().state is JobState.STARTING
        desk.prepared(epoch=epoch + 1)


def test_a_crash_at_one_step_is_retried_once(desk: Desk) -> None:
    desk.running()
    desk.report("h0", done(killed(0, 11, step=5)))
    assert desk.job().state is JobState.STARTING
    desk.prepared(epoch=2)
    desk.report("h0", done(killed(0, 11, step=5), epoch=2))
    assert desk.job().state is JobState.FAILED


def test_an_end_without_a_step_takes_the_last_that_was_heard(desk: Desk) -> None:
    desk.running()
    desk.report(ranks=rows_of([0]), samples=(Sample("digits#1", 1, 0, step=41, pid=77),))
    desk.report("h0", done(killed(0, 11)))
    assert desk.job().failures[0].step == 41


def test_a_rank_that_leaves_unasked_sends_the_job_back_to_the_queue(desk: Desk) -> None:
    desk.running()
    desk.report("h0", done(an_end(0, Outcome.LEFT)))
    job = desk.job()
    assert (job.state, job.epoch, job.failures) == (JobState.STARTING, 2, ())


def test_an_append_that_fails_changes_nothing_and_is_done_again(desk: Desk) -> None:
    desk.running()
    world = desk.engine.world
    desk.journal.fail = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        desk.report("h0", done(an_end(0)))
    assert desk.engine.world == world
    desk.report("h0", done(an_end(0)))
    assert desk.job().state is JobState.SUCCEEDED
    assert desk.world_is_journal()


def test_a_look_that_fails_keeps_no_job_from_its_start(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.running()
    desk.report("h0", done(an_end(0, Outcome.EXITED, signal=9)))
    desk.engine.queue.stale = True
    monkeypatch.setattr(desk.engine.judging, "look", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk.engine.tick()
    assert not desk.engine.queue.stale


# --- orders that don't arrive ---


def test_a_prepare_that_shows_nothing_is_given_up_after_a_while(desk: Desk) -> None:
    desk.submit()
    desk.report()
    desk.clock.advance(LAUNCH_PATIENCE)
    desk.report()
    assert desk.job().epoch == 1
    desk.clock.advance(1.0)
    desk.report()
    assert desk.job().epoch == 2


def test_orders_that_no_agent_took_are_given_again(desk: Desk) -> None:
    desk.launcher.deaf.add("h0")
    desk.submit()
    desk.report()
    desk.launcher.deaf.clear()
    desk.clock.advance(ORDER_AGAIN)
    desk.report()
    assert desk.of(orders.Prepare) == [("h0", orders.Prepare("digits#1", 1))]
    desk.launcher.deaf.add("h0")
    desk.prepared()
    desk.launcher.deaf.clear()
    desk.report()
    assert not desk.of(orders.Launch)  # not with every report
    desk.clock.advance(ORDER_AGAIN)
    desk.report()
    [(host, launch)] = desk.of(orders.Launch)
    assert (host, launch.attempt.rendezvous) == ("h0", "h0:4000")
    assert desk.job().epoch == 1


def test_a_launch_is_given_again_only_where_ranks_are_missing(desk: Desk) -> None:
    """h0's rank may have ended meanwhile; a second one of the same attempt must not begin."""
    desk.report("h0", slots=1)
    desk.report("h1", slots=1)
    desk.submit(workers=2)
    desk.prepared(slots=1)
    desk.report("h0", started(0), slots=1, ranks=rows_of([0]))
    desk.launcher.orders.clear()
    desk.clock.advance(ORDER_AGAIN)
    desk.report("h1", slots=1)
    assert [host for host, _ in desk.of(orders.Launch)] == ["h1"]


def test_a_launch_that_shows_no_rank_is_given_up_after_a_while(desk: Desk) -> None:
    desk.submit()
    desk.report()
    desk.prepared()
    desk.clock.advance(LAUNCH_PATIENCE)
    desk.report()
    assert desk.job().state is JobState.STARTING
    desk.clock.advance(1.0)
    desk.report()
    assert desk.job().failures[0].cause == recovery.HOST_LOST
    assert desk.job().epoch == 2


def test_a_rank_whose_end_is_withheld_is_not_missing(desk: Desk) -> None:
    """Its agent ships the last of its output first, and reports it with pid 0 till then."""
    desk.running(workers=2)
    desk.clock.advance(2.0)
    desk.report(ranks=(a_row(rank=0), RankRow("digits#1", 1, 1, 0)))
    assert desk.job().ends == {}


def test_ranks_missing_from_a_hosts_table_are_lost(desk: Desk) -> None:
    desk.running(workers=2)
    desk.clock.advance(2.0)
    desk.report(ranks=rows_of([0]))
    # Rank 0 is alive: it has to be ended first, or two attempts would train side by side.
    assert desk.job().ends.keys() == {1}
    assert desk.job().stop is StopReason.FAILURE
    assert desk.of(orders.Kill) == [("h0", orders.Kill("digits#1", 1))]


def test_stale_ranks_are_ended_before_new_ones_are_launched(desk: Desk) -> None:
    """Both in one report: the next attempt must not find the last one on its GPU."""
    desk.running()
    desk.report("h0", done(killed(0)))
    desk.launcher.orders.clear()
    stale = rows_of([0])
    desk.report("h0", orders.Prepared("digits#1", 2, 4000), ranks=stale)
    kinds = [type(order) for _, order in desk.launcher.orders]
    assert kinds == [orders.Kill, orders.Launch]


def test_a_kill_that_was_lost_is_ordered_again(desk: Desk) -> None:
    """h1 has no agent for a moment, just when rank 0 on h0 fails."""
    desk.running(workers=2, hosts=("h0", "h1"), slots=1)
    desk.engine.agent_gone("tcp://h1")
    desk.launcher.deaf.add("h1")
    desk.report("h0", done(failed(0, step=5)), slots=1)
    assert desk.job().state is JobState.STOPPING
    desk.launcher.deaf.clear()
    desk.launcher.orders.clear()
    desk.report("h1", ranks=rows_of([1]), slots=1)
    assert ("h1", orders.Kill("digits#1", 1)) in desk.launcher.orders


def test_a_cancel_while_the_host_has_no_agent_is_delivered_later(desk: Desk) -> None:
    desk.running()
    desk.engine.agent_gone("tcp://h0")
    desk.launcher.deaf.add("h0")
    desk.commands(rq.Cancel("digits"))
    desk.launcher.deaf.clear()
    desk.report(ranks=rows_of([0]))
    [(host, order)] = desk.of(orders.Leave) or desk.of(orders.Kill)
    assert (host, order.job, order.epoch) == ("h0", "digits#1", 1)


def test_a_commits_answer_that_was_lost_comes_with_the_next_telling(desk: Desk) -> None:
    desk.running()
    desk.launcher.deaf.add("h0")
    desk.report("h0", written(20), ranks=rows_of([0]))
    desk.launcher.deaf.clear()
    desk.report("h0", written(20), ranks=rows_of([0]))
    assert desk.of(orders.Committed) == [("h0", orders.Committed("digits#1", 1, 20, True))]


# --- the control plane restarts ---


def test_a_new_engine_adopts_live_ranks_without_a_launch(desk: Desk) -> None:
    desk.running(workers=2)
    before = desk.job()
    desk.restart()
    assert desk.job() == before
    desk.clock.advance(1.0)
    desk.report(ranks=rows_of([0, 1]))
    desk.clock.advance(100.0)
    desk.report(ranks=rows_of([0, 1]))
    desk.engine.tick()
    assert desk.job() == before
    assert desk.launcher.orders == []
    desk.report("h0", done(an_end(0)), done(an_end(1)))
    assert desk.job().state is JobState.SUCCEEDED


def test_a_new_engine_adopts_ranks_whose_start_was_never_heard(desk: Desk) -> None:
    desk.report()
    desk.submit(workers=2)
    desk.prepared()
    desk.restart()
    desk.launcher.orders.clear()
    desk.report(ranks=rows_of([0, 1]))
    assert desk.job().state is JobState.RUNNING
    assert desk.launcher.orders == []


def test_a_new_engine_waits_for_missing_ranks_and_then_counts_them_as_lost(desk: Desk) -> None:
    desk.running(workers=2)
    desk.restart()
    desk.clock.advance(ORDER_AGAIN + 1)
    desk.report(ranks=rows_of([0]))
    assert desk.job().state is JobState.RUNNING
    desk.clock.advance(LAUNCH_PATIENCE)
    desk.report(ranks=rows_of([0]))
    desk.report("h0", done(killed(0, ordered=True)))
    desk.report()
    assert desk.job().failures[0].cause == recovery.HOST_LOST
    assert desk.job().epoch == 2


def test_a_new_engine_ends_a_stop_that_was_under_way(desk: Desk) -> None:
    """The journal had the stop, but the process died before the order was sent."""
    desk.running()
    desk.launcher.deaf.add("h0")
    desk.commands(rq.Cancel("digits"))
    desk.launcher.deaf.clear()
    desk.restart()
    desk.report(ranks=rows_of([0]))
    assert desk.of(orders.Leave) or desk.of(orders.Kill)


def test_a_new_engine_concludes_a_gang_that_had_ended(desk: Desk) -> None:
    desk.running()
    desk.engine.gangs.rank_ended(desk.job(), an_end(0))  # the process dies right after this append
    desk.restart()
    desk.engine.tick()
    assert desk.job().state is JobState.SUCCEEDED


def test_a_host_that_never_comes_back_loses_its_ranks(desk: Desk) -> None:
    desk.running()
    desk.restart()
    desk.wait(desk.settings.adopt_grace - 1)
    assert desk.job().state is JobState.RUNNING
    desk.report("h1")
    desk.wait(1)
    desk.report("h1")
    job = desk.job()
    assert (job.state, job.epoch, job.placement[0].host) == (JobState.STARTING, 2, "h1")
    assert job.failures[0].cause == recovery.HOST_LOST


# --- hosts that fall silent ---


def test_a_silent_hosts_ranks_are_adopted_within_the_grace(desk: Desk) -> None:
    desk.running()
    desk.engine.agent_gone("tcp://h0")
    desk.wait(desk.settings.adopt_grace - 1)
    desk.report(ranks=rows_of([0]), agent="tcp://h0-again")
    desk.clock.advance(desk.settings.adopt_grace)
    desk.engine.tick()
    assert desk.job().state is JobState.RUNNING
    assert desk.launcher.orders == []


def test_a_host_with_another_agent_isnt_silent(desk: Desk) -> None:
    desk.running()
    desk.report(agent="tcp://h0-two", speaks=False)
    desk.engine.agent_gone("tcp://h0")
    desk.clock.advance(10 * desk.settings.adopt_grace)
    desk.engine.tick()
    assert desk.job().state is JobState.RUNNING


def test_a_lost_host_is_replaced_and_its_ranks_ended_when_it_returns(desk: Desk) -> None:
    desk.running()
    desk.engine.agent_gone("tcp://h0")
    desk.wait(desk.settings.adopt_grace - 1)
    desk.report("h1")
    desk.wait(1)
    desk.report("h1")
    assert desk.job().placement[0].host == "h1"
    assert "h0" not in desk.engine.hosts.names()
    desk.launcher.orders.clear()
    desk.report(ranks=rows_of([0]))
    assert desk.launcher.orders == [("h0", orders.Kill("digits#1", 1))]


def test_dying_ranks_still_hold_their_slots(desk: Desk) -> None:
    """Else a new gang would share their cores and memory."""
    desk.submit(workers=2)
    desk.report(ranks=(a_row("old#1", 3),))
    assert desk.job().state is JobState.QUEUED
    desk.report()
    assert desk.job().state is JobState.STARTING


def test_a_rank_counted_as_lost_that_lives_holds_its_slot_and_is_ended(desk: Desk) -> None:
    """h0 was silent too long, comes back while the gang's other rank is still ending."""
    desk.running(workers=2, hosts=("h0", "h1"), slots=1)
    desk.engine.agent_gone("tcp://h0")
    desk.wait(desk.settings.adopt_grace - 1)
    desk.report("h1", ranks=rows_of([1]), slots=1)
    desk.wait(1)
    assert desk.job().state is JobState.STOPPING
    assert desk.job().ends[0].outcome is Outcome.LOST
    desk.launcher.orders.clear()
    desk.submit("other")
    desk.report("h0", ranks=rows_of([0]), slots=1)
    assert desk.job("other#1").state is JobState.QUEUED
    assert ("h0", orders.Kill("digits#1", 1)) in desk.launcher.orders


@pytest.mark.parametrize("finished", [0, 1])
def test_two_hosts_lost_at_once_cost_one_failure(desk: Desk, finished: int) -> None:
    """The gang ends with the first of them; the second must not fail the next attempt."""
    desk.running(workers=2, hosts=("h0", "h1"), slots=1)
    desk.report(f"h{finished}", done(an_end(finished)), slots=1)
    desk.engine.agent_gone("tcp://h0")
    desk.engine.agent_gone("tcp://h1")
    desk.wait(desk.settings.adopt_grace - 1)
    desk.report("h2", slots=2)
    desk.wait(1)
    desk.report("h2", slots=2)
    job = desk.job()
    assert [failure.cause for failure in job.failures] == [recovery.HOST_LOST]
    assert (job.state, job.epoch) == (JobState.STARTING, 2)


# --- cancel, vacate ---


def test_cancel_while_queued_is_at_once(desk: Desk) -> None:
    desk.submit()
    desk.commands(rq.Cancel("digits"))
    assert desk.job().state is JobState.CANCELLED
    desk.report()
    assert desk.launcher.orders == []


def test_cancel_before_the_launch_leaves_nothing_to_wait_for(desk: Desk) -> None:
    desk.submit(workers=2)
    desk.report()
    desk.commands(rq.Cancel("digits"))
    assert desk.job().state is JobState.CANCELLED
    desk.prepared()
    assert not desk.of(orders.Launch)


@pytest.mark.parametrize("outcome", [Outcome.LEFT, Outcome.FAILED, Outcome.EXITED])
def test_cancel_while_running_leaves_at_a_checkpoint(desk: Desk, outcome: Outcome) -> None:
    desk.running(workers=2)
    desk.commands(rq.Cancel("digits"))
    grace = desk.settings.leave_grace
    assert desk.launcher.orders == [("h0", orders.Leave("digits#1", 1, grace))]
    desk.commands(rq.Cancel("digits"))
    assert len(desk.launcher.orders) == 1  # a second cancel is no second order
    desk.report("h0", written(30), done(an_end(0, outcome)), ranks=rows_of([1]))
    assert desk.job().state is JobState.STOPPING
    desk.report("h0", done(an_end(1, Outcome.LEFT)))
    assert desk.job().state is JobState.CANCELLED
    assert desk.engine.world.runs["digits"].head == "digits/00000030-e1"


def test_cancel_of_a_job_whose_ranks_all_finished_is_a_success(desk: Desk) -> None:
    desk.running()
    desk.commands(rq.Cancel("digits"))
    desk.report("h0", done(an_end(0)))
    assert desk.job().state is JobState.SUCCEEDED


def test_cancel_outranks_a_retry(desk: Desk) -> None:
    desk.running(workers=2)
    desk.report("h0", done(killed(0)), ranks=rows_of([1]))
    desk.commands(rq.Cancel("digits"))
    desk.report("h0", done(killed(1, ordered=True)))
    assert desk.job().state is JobState.CANCELLED


def test_vacate_all_sends_gangs_to_the_queue_and_starts_nothing(desk: Desk) -> None:
    desk.running()
    desk.submit("next")
    assert desk.commands(rq.VacateAll()) == ["digits#1", "next#1"][:1] + (
        ["next#1"] if desk.job("next#1").state.holds_gang else []
    )
    assert ("h0", orders.Leave("digits#1", 1, 15.0)) in desk.launcher.orders
    desk.report("h0", written(30), done(an_end(0, Outcome.LEFT)))
    assert desk.commands(rq.VacateAll()) == []
    desk.engine.tick()
    assert desk.job().state is JobState.QUEUED
    assert desk.job().failures == ()
    desk.restart()  # the cluster is up again
    desk.report()
    assert desk.job().epoch == 2


# --- checkpoints ---


def test_a_commit_is_answered_and_idempotent(desk: Desk) -> None:
    desk.running()
    for _ in range(2):
        desk.report("h0", written(20), ranks=rows_of([0]))
    answer = ("h0", orders.Committed("digits#1", 1, 20, True))
    assert desk.launcher.orders == [answer, answer]
    assert list(desk.engine.world.runs["digits"].checkpoints) == ["digits/00000020-e1"]


def test_a_commit_goes_to_every_host_of_the_gang(desk: Desk) -> None:
    desk.running(workers=2, hosts=("h0", "h1"), slots=1)
    desk.report("h0", written(20), ranks=rows_of([0]), slots=1)
    assert [host for host, _ in desk.of(orders.Committed)] == ["h0", "h1"]


def test_a_tag_for_a_committed_checkpoint_is_added(desk: Desk) -> None:
    desk.running()
    desk.report("h0", written(20), ranks=rows_of([0]))
    desk.report("h0", written(20, tag="best"), ranks=rows_of([0]))
    assert desk.engine.world.runs["digits"].tags == {"best": "digits/00000020-e1"}


def test_a_commit_that_doesnt_follow_the_head_is_refused_and_said(desk: Desk) -> None:
    desk.running()
    desk.report("h0", written(20), ranks=rows_of([0]))
    desk.report("h0", written(40, parent=None), ranks=rows_of([0]))
    assert desk.engine.world.runs["digits"].head == "digits/00000020-e1"
    assert desk.of(orders.Committed)[-1][1] == orders.Committed("digits#1", 1, 40, False)
    assert "refused" in desk.engine.view(desk.job()).notes[0]


def test_a_diverged_runs_checkpoint_doesnt_make_the_journal_unreadable(desk: Desk) -> None:
    """A NaN loss in the metrics must survive the control plane's restart."""
    desk.running()
    new = a_checkpoint(metrics={"loss": math.nan, "scale": math.inf})
    desk.report("h0", orders.CheckpointWritten(new), ranks=rows_of([0]))
    desk.restart()
    found = desk.engine.world.checkpoint("digits/00000020-e1")
    assert repr(found) == repr(new)


# --- what is shown ---


def test_samples_feed_the_view_and_the_journal(desk: Desk) -> None:
    desk.running(workers=2)
    points = ((1, {"loss": 2.0}), (2, {"loss": 1.0}))
    sample = Sample("digits#1", 1, 0, step=2, total_steps=10, rate=4.0, pid=5, points=points)
    other = Sample("digits#1", 1, 1, step=1, rate=2.0, pid=6, points=((1, {"loss": 99.0}),))
    desk.report(ranks=rows_of([0, 1]), samples=(sample, other))
    view = desk.engine.view(desk.job())
    assert (view.step, view.total_steps, view.rate, view.eta_s) == (2, 10, 2.0, 4.0)
    assert view.metrics == {"loss": 1.0}
    assert view.series == {"loss": ((1, 2.0), (2, 1.0))}
    desk.restart()
    assert desk.engine.view(desk.job()).series == {"loss": ((1, 2.0), (2, 1.0))}


def test_a_series_goes_on_after_a_restart_of_the_control_plane(desk: Desk) -> None:
    """The old points are in the journal; the first new sample must not hide them."""
    desk.running()
    desk.report(ranks=rows_of([0]), samples=(Sample("digits#1", 1, 0, points=((1, {"a": 1.0}),)),))
    desk.restart()
    desk.report(ranks=rows_of([0]), samples=(Sample("digits#1", 1, 0, points=((2, {"a": 2.0}),)),))
    assert desk.engine.view(desk.job()).series == {"a": ((1, 1.0), (2, 2.0))}


def test_samples_of_older_attempts_are_dropped(desk: Desk) -> None:
    desk.running()
    desk.report(samples=(Sample("digits#1", 9, 0, step=99, points=((1, {"a": 1.0}),)),),
                ranks=rows_of([0]))  # fmt: skip
    view = desk.engine.view(desk.job())
    assert (view.step, dict(view.series)) == (0, {})


def test_logs_are_kept_once_and_their_size_answered(desk: Desk) -> None:
    desk.running()
    chunk = LogChunk("digits#1", 1, 0, 0, b"hello\n")
    for _ in range(2):
        assert desk.report(ranks=rows_of([0]), logs=(chunk,)).log_sizes == {"digits#1/1/0": 6}
    piece = desk.commands(rq.ReadLog("digits", 0))
    assert (piece.data, piece.size, piece.epochs) == (b"hello\n", 6, (1,))
    tail = desk.commands(rq.ReadLog("digits", 0, offset=-3))
    assert (tail.data, tail.offset) == (b"lo\n", 3)


def test_watchers_hear_of_every_change(desk: Desk) -> None:
    desk.running()
    desk.changed.clear()
    desk.report("h0", orders.Note("digits#1", 1, 0, "hi"), ranks=rows_of([0]))
    assert desk.changed == ["digits#1"]
    desk.report("h0", written(20), ranks=rows_of([0]))
    assert set(desk.changed) == {"digits#1"}
    assert len(desk.changed) >= 2


# --- whatever happens ---


RUNS, USERS = ["a", "b", "c", "d"], ["ada", "ben", "eva"]


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    """What users submit: some elastic, some urgent, some after others, some for maintenance."""
    workers = draw(st.integers(1, 4))
    after = draw(st.sampled_from([(), (), ("a",), ("b",)]))
    return a_spec(
        workers,
        out=draw(st.sampled_from([(), ("x",)])),
        inputs=("x",) if after and draw(st.booleans()) else (),
        retries=1,
        max_workers=draw(st.sampled_from([0, 0, workers + 1])),
        scaling=draw(st.sampled_from(Scaling)),
        priority=draw(st.sampled_from(Priority)),
        admin=draw(st.booleans()) and draw(st.booleans()),
        after=after,
    )


class Storm(RuleBasedStateMachine):
    """Random stimuli against a cluster of obedient hosts; then the storm ends, and so do jobs."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self.cluster = FakeCluster(Path(self._folder.name), {"h0": 3, "h1": 1, "h2": 1})
        self.requests = 0
        self.lost = False
        self.replayed, self.read = World(), 0  # what the journal tells, and how much was read

    @contextlib.contextmanager
    def losing_orders(self, lose: bool) -> Iterator[None]:
        """What is ordered meanwhile is taken by an agent that dies before passing it on."""
        self.cluster.losing = lose
        self.lost = self.lost or lose
        yield
        self.cluster.losing = False

    def ask(self, request: object, user: str) -> None:
        """What users ask; what they are refused changes nothing."""
        with contextlib.suppress(InvalidRequest, NotAllowed, JournalFailed):
            Commands(self.cluster.engine, "x")(request, user)

    @rule(run=st.sampled_from(RUNS), user=st.sampled_from(USERS), spec=specs(), begin=st.booleans())
    def submit(self, run: str, user: str, spec: JobSpec, begin: bool) -> None:
        world = self.cluster.engine.world
        if run not in world.runs or world.active_job(run) is None:
            self.requests += 1
            self.ask(rq.Submit(run, spec, f"r{self.requests}"), user)
        if begin:
            self.everybody_reports(3)

    @rule(half_life=st.sampled_from([60.0, 86400.0]), preemption=st.booleans(),
          patience=st.sampled_from([0.0, 30.0]), reserve=st.integers(0, 1))  # fmt: skip
    def the_policy_changes(
        self, half_life: float, preemption: bool, patience: float, reserve: int
    ) -> None:
        groups = {"vision": GroupRule(2.0, ("ada",)), "speech": GroupRule(1.0, ("ben", "eva"))}
        policy = Policy(
            half_life=half_life,
            preemption=preemption,
            patience=patience,
            quantum=patience / 10,
            admin_reserve=reserve,
            groups=groups,
        )
        with contextlib.suppress(JournalFailed):
            self.cluster.engine.set_policy(policy)

    @rule(host=st.sampled_from(["h0", "h1", "h2"]), busy=st.integers(0, 1))
    def dask_tasks_come_and_go(self, host: str, busy: int) -> None:
        self.cluster.engine.set_busy(host, busy)

    @rule(host=st.sampled_from(["h0", "h1", "h2"]))
    def a_worker_is_to_retire(self, host: str) -> None:
        self.cluster.engine.vacate(host, "Its worker retires.")

    @precondition(lambda self: self.cluster.engine.world.open)
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.cluster.engine.world.open)))
        job = self.cluster.engine.world.open[name]
        self.ask(rq.Restart(name, job.epoch), job.spec.user)

    @precondition(lambda self: self.cluster.engine.world.runs)
    @rule(data=st.data(), lose=st.booleans())
    def cancel(self, data: st.DataObject, lose: bool) -> None:
        run = data.draw(st.sampled_from(sorted(self.cluster.engine.world.runs)))
        with self.losing_orders(lose):
            self.ask(rq.Cancel(run), self.cluster.settings.user)

    @precondition(lambda self: self.cluster.engine.world.jobs)
    @rule(data=st.data(), anyway=st.booleans())
    def retry(self, data: st.DataObject, anyway: bool) -> None:
        jobs = self.cluster.engine.world.jobs
        job = jobs[data.draw(st.sampled_from(sorted(jobs)))]
        self.requests += 1
        request = rq.Retry(job.id, f"r{self.requests}", job.epoch, anyway)
        self.ask(request, job.spec.user)

    @rule(host=st.sampled_from(["h0", "h1", "h2"]), acknowledge=st.booleans(), lose=st.booleans(),
          data=st.data())  # fmt: skip
    def report(self, host: str, acknowledge: bool, lose: bool, data: st.DataObject) -> None:
        """A report with some of the facts, in their order; orders that follow may be lost."""
        names = list(self.cluster.hosts[host].facts)
        some = data.draw(st.lists(st.sampled_from(names))) if names else []
        with self.losing_orders(lose):
            self.cluster.report(host, some, acknowledge)

    @rule(times=st.integers(1, 3))
    def everybody_reports(self, times: int) -> None:
        for _ in range(times):
            self.cluster.round(0.3)

    @rule(seconds=st.sampled_from([0.3, 3.0, 25.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.clock.advance(seconds)
        self.cluster.engine.tick()

    @rule(host=st.sampled_from(["h0", "h1", "h2"]))
    def agent_leaves_or_comes(self, host: str) -> None:
        if self.cluster.hosts[host].agent:
            self.cluster.agent_leaves(host)
        else:
            self.cluster.hosts[host].agent = True

    @rule(full=st.booleans())
    def the_journals_disk_fills_up_or_is_freed(self, full: bool) -> None:
        self.cluster.journal.full = full

    @rule()
    def control_restarts(self) -> None:
        self.cluster.restart_engine()

    @rule(events=st.integers(1, 12))
    def the_journal_loses_its_last_events(self, events: int) -> None:
        journal = self.cluster.journal
        kept = list(journal.events())[:-events]
        self.cluster.journal = MemoryJournal()
        self.cluster.journal.append([*kept, JournalSalvaged(self.cluster.clock(), "Damaged.")])
        self.replayed, self.read = World(), 0
        self.cluster.restart_engine()

    @rule(host=st.sampled_from(["h0", "h1", "h2"]))
    def supervisor_dies(self, host: str) -> None:
        self.cluster.hosts[host].crash()

    @precondition(lambda self: self.cluster.live())
    @rule(data=st.data(), told=st.booleans(), lose=st.booleans(),
          how=st.sampled_from(
              ["finish", "raise", "kill", "checkpoint", "leave", "lack"]))  # fmt: skip
    def a_rank_does(self, data: st.DataObject, how: str, told: bool, lose: bool) -> None:
        name, key = data.draw(st.sampled_from(self.cluster.live()))
        host = self.cluster.hosts[name]
        rank = host.ranks[key]
        match how:
            case "finish":
                host.end(rank, Outcome.FINISHED, exit_code=0)
            case "raise":
                host.end(rank, Outcome.FAILED, exit_code=1, error=an_error())
            case "kill":
                host.end(rank, Outcome.EXITED, signal=9)
            case "checkpoint" if rank.rank == 0:
                run = self.cluster.engine.world.runs.get(key[0][0])
                host.write_checkpoint(rank, run.head if run is not None else None)
            case "lack" if rank.attempt.inputs:
                source = rank.attempt.inputs[0]
                error = an_error("InputLost", lost_input=f"{source.run}#{source.number}")
                host.end(rank, Outcome.FAILED, exit_code=1, error=error)
            case "leave" if rank.leaving:
                host.end(rank, Outcome.LEFT, exit_code=0)
        if told:
            with self.losing_orders(lose):
                self.cluster.report(name)

    @invariant()
    def the_world_is_whole_and_in_the_journal(self) -> None:
        world, events = self.cluster.engine.world, list(self.cluster.journal.events())
        assert world_problems(world) == []
        self.replayed = reduce(evolve, events[self.read :], self.replayed)
        self.read = len(events)
        assert self.replayed == world

    @invariant()
    def each_attempt_that_failed_has_one_decision(self) -> None:
        for job in self.cluster.engine.world.jobs.values():
            epochs = [failure.epoch for failure in job.failures]
            assert len(set(epochs)) == len(epochs) <= job.attempts
            stopped = [failure.decision == "stop" for failure in job.failures]
            assert not any(stopped[:-1])
            assert (job.state is JobState.FAILED) == (stopped[-1:] == [True])

    @invariant()
    def no_host_has_more_slots_leased_than_it_has(self) -> None:
        shares = [
            share
            for job in self.cluster.engine.world.open.values()
            for share in job.placement
            if not set(range(share.first, share.first + share.count)) <= set(job.ends)
        ]
        for host in self.cluster.hosts.values():
            leased = sum(share.leased for share in shares if share.host == host.name)
            assert leased <= host.slots, f"{host.name} has {leased} of {host.slots} leased"

    @invariant()
    def no_attempt_is_launched_beside_an_older_one(self) -> None:
        # A Kill that was lost is sent again with the next report; until then it may happen.
        assert self.lost or not [o for h in self.cluster.hosts.values() for o in h.overlaps]

    @invariant()
    def no_rank_is_begun_twice_in_one_attempt(self) -> None:
        begun = [key for host in self.cluster.hosts.values() for key in host.begun]
        assert len(begun) == len(set(begun))

    def teardown(self) -> None:
        try:
            self._calm()
        finally:
            self._folder.cleanup()

    def _calm(self) -> None:
        """No more faults: within a few minutes of the clock every job has ended."""
        self.cluster.losing = self.cluster.journal.full = False
        self.cluster.engine.set_policy(Policy())
        for host in self.cluster.hosts.values():
            host.agent = True
            self.cluster.engine.set_busy(host.name, 0)
        for _ in range(150):
            world = self.cluster.engine.world
            for job in list(world.open.values()):
                blockers = [dependencies.upstream(world, d) for d in dependencies.unmet(world, job)]
                if any(b.state in (JobState.FAILED, JobState.CANCELLED) for b in blockers):
                    self.ask(rq.Cancel(job.id), job.spec.user)
            self.cluster.round(2.0)
            for host in self.cluster.hosts.values():
                for rank in list(host.ranks.values()):
                    self._go_on(host, rank)
        world = self.cluster.engine.world
        assert replay(self.cluster.journal.events()) == world
        assert {job.id: job.state for job in world.jobs.values() if not job.state.final} == {}
        assert self.cluster.live() == []

    def _go_on(self, host: Any, rank: FakeRank) -> None:
        """A rank leaves if told to, and finishes if its gang is whole; else it hangs."""
        job, epoch = rank.attempt.job, rank.attempt.epoch
        live = {key[2] for _, key in self.cluster.live() if key[:2] == (job, epoch)}
        known = self.cluster.engine.world.jobs.get(job)
        ended = known.ends if known is not None and known.epoch == epoch else {}
        finished = {r for r, end in ended.items() if end.outcome is Outcome.FINISHED}
        if rank.leaving:
            host.end(rank, Outcome.LEFT, exit_code=0)
        elif live | finished >= set(range(rank.attempt.world_size)):
            host.end(rank, Outcome.FINISHED, exit_code=0)


class LongStorm(Storm):
    """The same, with a queue that counts as too long to be planned at once."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(dispatch, "AT_ONCE", 0)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self._patch.undo()


TestStorm, TestLongStorm = Storm.TestCase, LongStorm.TestCase
TestStorm.settings = TestLongStorm.settings = settings(
    max_examples=90,
    stateful_step_count=30,
    deadline=None,
    # Shrinking a storm takes minutes: add Phase.shrink when one is found.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
