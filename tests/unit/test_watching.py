"""Hangs, stragglers and leaks in the engine: what samples say, what is ordered and journaled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control import moving
from resilient_nb.control.commands import Commands
from resilient_nb.control.launching import UNHURRIED
from resilient_nb.core import events as ev
from resilient_nb.core.hangs import NEVER
from resilient_nb.core.model import Job, JobState, Outcome, StopReason
from resilient_nb.testing.builders import a_spec, killed
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq

MIB = 1 << 20


class Watched:
    """A cluster whose ranks are as the test says; each round is a second, with a sample of each."""

    def __init__(self, home: Path, slots: dict[str, int], **spec: Any) -> None:
        self.cluster = FakeCluster(home, slots)
        self.said: dict[int, orders.Sample] = {}
        self.epoch = 1
        self.cluster.round()
        done = Commands(self.cluster.engine, "tcp://here")(
            rq.Submit("digits", a_spec(**spec), "req"), user="ada"
        )
        self.name = done.job
        while self.job.state is not JobState.RUNNING:
            self.cluster.round()
        self.cluster.orders.clear()

    @property
    def job(self) -> Job:
        return self.cluster.engine.world.jobs[self.name]

    @property
    def notes(self) -> tuple[str, ...]:
        return self.cluster.engine.live.of(self.name).notes

    def say(self, rank: int = 0, **says: Any) -> None:
        """Have a rank's samples say this from now on."""
        old = self.said.get(
            rank,
            orders.Sample(self.name, self.epoch, rank, "running", looping=True, phase="compute"),
        )
        self.said[rank] = old._replace(**says)

    def round(self, seconds: float = 1.0) -> None:
        self.cluster.clock.advance(seconds)
        for host in self.cluster.hosts.values():
            mine = [r for job, epoch, r in host.ranks if (job, epoch) == (self.name, self.epoch)]
            samples = tuple(self.said[r] for r in mine if r in self.said)
            if host.agent:
                reply = self.cluster.engine.report(replace(host.report(), samples=samples))
                for name in reply.acknowledged:
                    host.facts.pop(name, None)
        self.cluster.engine.tick()

    def train(self, rounds: int, takes: dict[int, float], steps: int = 10) -> None:
        """Let ranks make steps that take them so many seconds to compute."""
        for _ in range(rounds):
            for rank, each in takes.items():
                step = self.said[rank].step if rank in self.said else 0
                self.say(rank, step=step + steps, steps=steps, compute_s=steps * each)
            self.round()
            if self.job.stop is not None or self.job.epoch != self.epoch:
                return
        for rank in takes:
            self.say(rank, steps=0, compute_s=0.0)

    def hang(self, seconds: int, **says: dict[str, float]) -> int:
        """Let ranks do nothing; return after how many seconds the gang was ended, -1: never.

        `r0={"idle_s": 1.0}` has rank 0's idle_s grow by 1 each second.
        """
        for second in range(1, seconds + 1):
            for rank, grows in says.items():
                self.say(int(rank[1:]), **{k: v * second for k, v in grows.items()})
            self.round()
            if self.job.hung or self.job.epoch != self.epoch:
                return second
        return -1


IDLE, SILENT = {"idle_s": 1.0}, {"idle_s": 1.0, "silent_s": 1.0}


@pytest.fixture
def pair(tmp_path: Path) -> Watched:
    """Two ranks on two hosts that have made steps of 0.1 s."""
    made = Watched(tmp_path, {"h0": 1, "h1": 1}, workers=2)
    made.train(3, {0: 0.05, 1: 0.05})
    return made


def test_a_hang_is_journaled_ordered_and_ends_with_the_right_rank(pair: Watched) -> None:
    pair.say(1, phase="wait")
    pair.cluster.losing = True
    assert 8 <= pair.hang(20, r0=SILENT, r1=IDLE) <= 9
    assert pair.job.stop is StopReason.FAILURE
    assert pair.job.hung == (0,)
    assert pair.job.message.startswith("Rank 0 is unable to say anything, for 8 s")
    pair.cluster.losing = False  # the orders were lost: they come again
    pair.round(2.0)
    kills = [(host, order) for host, order in pair.cluster.orders if isinstance(order, orders.Kill)]
    assert {host for host, _ in kills} == {"h0", "h1"}
    assert {order.hung for _, order in kills} == {(0,)}
    pair.round()
    [failure] = pair.job.failures
    assert (failure.rank, failure.decision, failure.host) == (0, "retry", "h0")
    assert failure.cause == "hang"
    assert pair.job.epoch == 2
    assert pair.job.hung == ()


def test_a_restarted_scheduler_knows_who_hung(pair: Watched) -> None:
    pair.say(1, phase="wait")
    pair.cluster.losing = True
    pair.hang(20, r0=SILENT, r1=IDLE)
    why = pair.job.message
    pair.cluster.losing = False
    pair.cluster.restart_engine()
    assert (pair.job.hung, pair.job.message) == ((0,), why)
    for _ in range(3):
        pair.round(1.0)
    assert pair.job.failures[0].cause == "hang"


def test_a_gang_that_hung_while_nobody_watched_is_found_again(pair: Watched) -> None:
    pair.cluster.restart_engine()  # which knows nothing of steps: it is more patient
    assert 119 <= pair.hang(200, r0=SILENT, r1=IDLE) <= 122


def test_who_hung_at_this_step_before_gets_more_time(pair: Watched) -> None:
    pair.cluster.engine.record(
        ev.StopRequested(pair.cluster.clock(), pair.name, StopReason.FAILURE, hung=(0,)),
        *(
            ev.RankEnded(pair.cluster.clock(), pair.name, 1, killed(r, hang="so", step=30))
            for r in (0, 1)
        ),
    )
    for host in pair.cluster.hosts.values():
        host.crash()
    pair.round()
    while pair.job.state is not JobState.RUNNING:
        pair.cluster.round()
    assert pair.job.epoch == 2
    pair.epoch = 2
    pair.said.clear()
    pair.train(3, {0: 0.05, 1: 0.05})
    assert 30 <= pair.hang(50, r0=IDLE, r1=IDLE) <= 31


def test_ranks_that_use_no_cpu_are_a_deadlock(pair: Watched) -> None:
    assert 8 <= pair.hang(20, r0=IDLE, r1=IDLE) <= 9
    assert pair.job.hung == (0, 1)


def test_who_works_or_is_not_heard_of_is_left_alone(pair: Watched) -> None:
    assert pair.hang(100, r0=IDLE, r1={"phase_s": 1.0}) == -1  # rank 1 validates
    pair.cluster.hosts["h1"].agent = False  # its worker is gone, for a moment
    pair.cluster.engine.agent_gone("tcp://h1")
    assert pair.hang(15, r0=IDLE) == -1


def test_long_steps_and_gaps_make_patient(pair: Watched) -> None:
    pair.hang(6, r0=IDLE, r1=IDLE)
    pair.say(0, idle_s=0.0)
    pair.say(1, idle_s=0.0)
    pair.train(1, {0: 0.05, 1: 0.05})  # a gap of 7 s has ended well
    pair.train(1, {0: 0.05, 1: 0.05})
    assert 10 <= pair.hang(20, r0=IDLE, r1=IDLE) <= 11


def test_nobody_is_blamed_for_time_in_which_we_were_away(pair: Watched) -> None:
    pair.say(0, silent_s=0.5)
    pair.say(1, silent_s=0.5)
    pair.round(3600.0)  # a laptop that slept
    for _ in range(10):
        pair.round()
    assert pair.job.stop is None


def test_a_job_says_how_patient_to_be(tmp_path: Path) -> None:
    never = Watched(tmp_path / "never", {"h0": 1}, hang_after=NEVER)
    assert never.hang(100, r0={**SILENT, "stopped": 1.0}) == -1
    soon = Watched(tmp_path / "soon", {"h0": 1}, hang_after=2.0)
    soon.train(2, {0: 0.05})
    assert 2 <= soon.hang(100, r0=SILENT) <= 3


def test_a_stopped_process_is_found_before_any_step(tmp_path: Path) -> None:
    fresh = Watched(tmp_path, {"h0": 1})
    fresh.say(0, looping=False, state="starting", stopped=True)
    assert 8 <= fresh.hang(20, r0=SILENT) <= 9


def test_after_its_last_step_a_cell_may_wait_for_what_it_likes(tmp_path: Path) -> None:
    over = Watched(tmp_path, {"h0": 1})
    over.train(3, {0: 0.05})
    over.say(0, looping=False)
    assert over.hang(300, r0=IDLE) == -1


def test_the_first_steps_dont_tell_how_long_others_take(tmp_path: Path) -> None:
    """Each of them may wait half a minute for a remote service, say."""
    remote = Watched(tmp_path, {"h0": 1})
    for _ in range(5):
        assert remote.hang(30, r0=IDLE) == -1
        remote.train(1, {0: 30.0}, steps=1)
        remote.say(0, idle_s=0.0)
    assert 88 <= remote.hang(200, r0=IDLE) <= 94


# --- stragglers ---


def test_a_straggler_is_moved_at_a_checkpoint_and_its_host_remembered(tmp_path: Path) -> None:
    gang = Watched(tmp_path, {"h0": 1, "h1": 1, "h2": 1}, workers=2)
    hosts = {share.first: share.host for share in gang.job.placement}
    gang.train(20, {0: 0.02, 1: 0.09})
    job = gang.job
    assert (job.stop, job.claim) == (StopReason.MOVE, 2)
    assert job.remedy.avoid == (hosts[1],)
    assert job.message == (
        f"Rank 1 on {hosts[1]} takes 0.09 s to compute a step, 4.5 times what is usual in its "
        f"gang. Goes on without {hosts[1]}."
    )
    leaves = [order for _, order in gang.cluster.orders if isinstance(order, orders.Leave)]
    assert leaves
    assert min(order.grace for order in leaves) == UNHURRIED
    for host in gang.cluster.hosts.values():
        for rank in list(host.ranks.values()):
            host.end(rank, Outcome.LEFT)
    gang.round()
    assert gang.job.epoch == 2
    assert hosts[1] not in {share.host for share in gang.job.placement}
    assert not gang.job.failures


def test_who_takes_its_time_to_move_leaves_a_host_that_goes(tmp_path: Path) -> None:
    gang = Watched(tmp_path, {"h0": 1, "h1": 1, "h2": 1}, workers=2)
    gang.train(20, {0: 0.02, 1: 0.09})
    assert gang.job.stop is StopReason.MOVE
    gang.cluster.orders.clear()
    gang.cluster.engine.vacate(gang.job.placement[0].host, "Its worker retires.")
    assert gang.job.stop is StopReason.VACATE
    graces = [order.grace for _, order in gang.cluster.orders if isinstance(order, orders.Leave)]
    assert graces
    assert max(graces) < UNHURRIED


def test_a_rank_that_is_slow_elsewhere_too_is_not_moved_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(moving, "AGAIN", 0.0)
    gang = Watched(tmp_path, {f"h{n}": 1 for n in range(6)}, workers=2)
    gang.train(20, {0: 0.09, 1: 0.02})
    assert gang.job.stop is StopReason.MOVE
    for host in gang.cluster.hosts.values():
        for rank in list(host.ranks.values()):
            host.end(rank, Outcome.LEFT)
    while gang.job.epoch == 1 or gang.job.state is not JobState.RUNNING:
        gang.cluster.round()
    gang.epoch, gang.said = 2, {}
    gang.train(40, {0: 0.09, 1: 0.02})
    assert (gang.job.epoch, gang.job.stop) == (2, None)
    assert [n for n in gang.notes if n.endswith("It was so on another host: it stays.")]


def test_samples_are_taken_though_a_straggler_cant_be_journaled(tmp_path: Path) -> None:
    gang = Watched(tmp_path, {"h0": 1, "h1": 1, "h2": 1}, workers=2)
    gang.cluster.journal.full = True
    gang.train(20, {0: 0.02, 1: 0.09})
    assert gang.job.stop is None
    gang.cluster.journal.full = False
    gang.train(20, {0: 0.02, 1: 0.09})
    assert gang.job.stop is StopReason.MOVE


def test_a_suspect_that_ended_while_the_journal_was_full_holds_up_nothing(pair: Watched) -> None:
    watching = pair.cluster.engine.watching
    watching._suspects.add("gone#1")
    watching.reported()
    assert pair.job.state is JobState.RUNNING


def test_where_there_is_no_room_it_is_said_once(pair: Watched, monkeypatch: Any) -> None:
    pair.train(60, {0: 0.02, 1: 0.09})
    monkeypatch.setattr(moving, "AGAIN", 0.0)
    pair.train(60, {0: 0.02, 1: 0.08})
    assert pair.job.stop is None
    [note] = [note for note in pair.notes if "takes" in note]
    assert note.endswith("No other host has room for it: it stays.")


def test_a_single_rank_and_ranks_of_unequal_shares_are_not_compared(tmp_path: Path) -> None:
    alone = Watched(tmp_path, {"h0": 1, "h1": 1})
    alone.train(60, {0: 5.0})
    assert not alone.notes
    job = alone.job
    placed = replace(job, placement=(replace(job.placement[0], count=3, slots=2),))
    assert not alone.cluster.engine.watching._moving.comparable(placed)


# --- memory ---


def test_a_leak_is_foretold(tmp_path: Path) -> None:
    leaking = Watched(tmp_path, {"h0": 1})
    for second in range(60):
        leaking.say(0, rss=(300 + 2 * second) * MIB, limit=1024 * MIB)
        leaking.round()
    [note] = [note for note in leaking.notes if "grows" in note]
    assert note.startswith("Memory of rank 0 grows by 120 MiB a minute: it reaches its limit of 1")
    assert ("about 6 min" in note) or ("about 5 min" in note)


def test_memory_that_stays_is_not_talked_about(tmp_path: Path) -> None:
    level = Watched(tmp_path, {"h0": 1})
    for second in range(60):
        level.say(0, rss=(900 + second % 3) * MIB, limit=1024 * MIB)
        level.round()
    assert not level.notes
