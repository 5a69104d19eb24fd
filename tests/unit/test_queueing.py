"""The queue in the engine: who starts, leaves, shrinks and grows, and what people read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control.commands import Commands
from resilient_nb.core.model import Job, JobState, Outcome, Priority, StopReason
from resilient_nb.core.policy import Policy
from resilient_nb.core.views import QueueReport, WhyReport
from resilient_nb.errors import NotAllowed
from resilient_nb.testing.builders import a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import requests as rq


class Team:
    """Users on a cluster whose ranks leave when they are told to."""

    def __init__(self, home: Path, slots: dict[str, int], **policy: Any) -> None:
        self.cluster = FakeCluster(home, slots)
        self.cluster.engine.set_policy(Policy(**{"patience": 0.0, "quantum": 0.0, **policy}))
        self.round()

    def round(self, times: int = 1, seconds: float = 1.0) -> None:
        """Everybody reports; ranks that were asked to leave do so."""
        for _ in range(times):
            self.cluster.round(seconds)
            for host in self.cluster.hosts.values():
                for rank in [r for r in host.ranks.values() if r.leaving]:
                    host.end(rank, Outcome.LEFT, exit_code=0)

    def ask(self, request: Any, user: str = "ada") -> Any:
        return Commands(self.cluster.engine, "x")(request, user)

    def submit(self, run: str, workers: int = 1, user: str = "ada", **spec: Any) -> Job:
        self.ask(rq.Submit(run, a_spec(workers, **spec), f"req-{run}"), user)
        self.round(4)
        return self.job(run)

    def job(self, run: str) -> Job:
        world = self.cluster.engine.world
        return world.jobs[world.runs[run].jobs[-1]]

    def finish(self, run: str) -> None:
        for host in self.cluster.hosts.values():
            for rank in [r for r in host.ranks.values() if r.attempt.run == run]:
                host.end(rank, Outcome.FINISHED, exit_code=0)
        self.round(3)

    def reason(self, run: str) -> str:
        return self.cluster.engine.view(self.job(run)).reason

    def why(self, run: str) -> WhyReport:
        found = self.ask(rq.Why(run))
        assert isinstance(found, WhyReport)
        return found

    def queue(self) -> QueueReport:
        found = self.ask(rq.GetQueue())
        assert isinstance(found, QueueReport)
        return found


def test_a_more_urgent_job_gets_the_slots_of_a_less_urgent_one(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4})
    team.submit("low", 4, priority=Priority.LOW)
    assert team.submit("high", 2, user="ben", priority=Priority.HIGH).state is JobState.RUNNING
    victim = team.job("low")
    assert (victim.state, victim.preempted) == (JobState.QUEUED, 1)
    assert team.reason("low").startswith("Preempted by high#1; goes on from step 0.")
    notes = team.cluster.engine.view(victim).notes
    assert any(note.startswith("Left at a checkpoint within") for note in notes)
    team.finish("high")
    assert team.job("low").state is JobState.RUNNING


def test_where_the_policy_says_so_nobody_is_preempted(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4}, preemption=False)
    team.submit("low", 4, priority=Priority.LOW)
    assert team.submit("high", 2, priority=Priority.URGENT).state is JobState.QUEUED
    assert team.job("low").state is JobState.RUNNING


def test_a_preemption_that_would_not_be_enough_is_not_made(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4})
    team.submit("same", 2, priority=Priority.HIGH)
    team.submit("low", 2, priority=Priority.LOW)
    assert team.submit("wide", 3, user="ben", priority=Priority.HIGH).state is JobState.QUEUED
    assert team.job("low").state is JobState.RUNNING


def test_the_admin_lane_breaks_the_deadlock(tmp_path: Path) -> None:
    """All slots are taken, and the maintenance that would free them waits behind."""
    team = Team(tmp_path, {"h0": 2}, admins=("root",))
    for n in range(4):
        team.submit(f"u{n}", 1, priority=Priority.URGENT)
    with pytest.raises(NotAllowed, match="no administrator"):
        team.submit("mine", 1, user="ben", admin=True)
    assert team.submit("fix", 1, user="root", admin=True).state is JobState.RUNNING


def test_an_admin_restarts_and_cancels_anyones_stuck_job(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2}, admins=("root",))
    job = team.submit("stuck", 2, user="ben")
    with pytest.raises(NotAllowed, match="Run stuck is ben's, and you are eva"):
        team.ask(rq.Restart("stuck", job.epoch), "eva")
    team.ask(rq.Restart("stuck", job.epoch), "root")
    assert team.job("stuck").stop is StopReason.RESTART
    team.round(4)
    assert (team.job("stuck").state, team.job("stuck").epoch) == (JobState.RUNNING, 2)
    # The same request again, whose answer was lost, harms nothing.
    team.ask(rq.Restart("stuck", job.epoch), "root")
    assert team.job("stuck").stop is None
    team.ask(rq.Cancel("stuck"), "root")
    team.round(3)
    assert team.job("stuck").state is JobState.CANCELLED
    assert team.job("stuck").message == "Cancelled by root."


def test_an_elastic_gang_shrinks_for_others_and_keeps_its_ranks(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4})
    elastic = team.submit("elastic", 1, max_workers=4)
    assert (elastic.granted, elastic.ranks, elastic.slots) == (4, 4, 4)
    assert team.submit("fixed", 2, user="ben").state is JobState.RUNNING
    team.round(3)
    elastic = team.job("elastic")
    assert elastic.state is JobState.RUNNING
    assert 1 <= elastic.granted <= 2
    assert (elastic.ranks, elastic.slots) == (4, elastic.granted)
    assert elastic.preempted == 0


def test_a_job_after_another_waits_and_says_for_what(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2})
    team.submit("ingest", 1)
    assert team.submit("train", 1, after=("ingest",)).state is JobState.QUEUED
    assert team.reason("train") == "Waits for ingest#1 to succeed; it is running."
    assert team.why("train").remedies == ("ingest#1 succeeds; it is running.",)
    team.finish("ingest")
    assert team.job("train").state is JobState.RUNNING


def test_why_names_only_what_would_help(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4}, quantum=600.0)
    team.submit("running", 3)
    team.submit("wide", 2, user="ben")
    report = team.why("wide")
    assert report.reason == "Needs 2 workers at once; 1 of 4 slots are free."
    assert report.remedies[:2] == (
        "A smaller gang: `%resilient cancel wide`, then run the cell with `--workers 1`, "
        "or with `--workers 1:2`.",
        "A higher priority: `%resilient cancel wide`, then run the cell with `--priority high`.",
    )
    assert team.why("running").reason.startswith("It holds 3 workers.")


def test_the_queue_shows_positions_and_shares(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4}, preemption=False)
    team.submit("first", 4, user="ada")
    team.submit("second", 2, user="ben")
    report = team.queue()
    assert (report.slots, report.used) == (4, 4)
    assert [(row.job, row.position) for row in report.jobs] == [("first#1", None), ("second#1", 1)]
    shares = {row.user: row for row in report.shares}
    assert (shares["ada"].entitled, shares["ada"].held) == (2.0, 4)
    assert (shares["ben"].entitled, shares["ben"].waiting) == (2.0, 2)
    assert shares[""].entitled == 4.0


def test_a_host_that_is_to_go_is_vacated_and_takes_nothing_new(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2, "h1": 2})
    job = team.submit("digits", 2)
    host = job.placement[0].host
    team.cluster.engine.vacate(host, "Its worker retires.")
    team.round(4)
    job = team.job("digits")
    assert job.state is JobState.RUNNING
    assert [share.host for share in job.placement] == [{"h0": "h1", "h1": "h0"}[host]]
    assert team.cluster.engine.leased(host) == 0
    assert team.cluster.leases == {job.placement[0].host: 2}


def test_wanted_slots_are_those_that_waiting_gangs_lack(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2})
    team.submit("first", 1)
    assert team.cluster.engine.queue.wanted_slots() == 0
    team.submit("wide", 4)
    team.submit("held", 8, after=("wide",))
    assert team.cluster.engine.queue.wanted_slots() == 3
