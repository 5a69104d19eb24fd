"""The queue in the engine: who starts, leaves, shrinks and grows, and what people read of it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control.board import board_row
from resilient_nb.control.commands import Commands
from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import Job, JobState, Outcome, Priority, Resources, StopReason
from resilient_nb.core.policy import GroupRule, Limits, Policy
from resilient_nb.core.views import QueueReport, WhyReport
from resilient_nb.errors import InvalidRequest, NotAllowed
from resilient_nb.testing.builders import Story, a_report, a_spec
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
    assert elastic.granted == 2
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


def test_a_start_behind_a_job_of_unknown_length_is_called_a_guess(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4}, preemption=False)
    team.submit("long", 3)
    team.submit("wide", 4, user="ben")
    team.submit("late", 1, user="ben", duration=9000.0)
    wide, engine = team.job("wide"), team.cluster.engine
    row = next(row for row in team.queue().jobs if row.job == wide.id)
    for told in (engine.view(wide), engine.head(wide), team.why("wide"), row):
        assert told.starts_at is not None
        assert told.starts_guess == "long#1"
    listed = board_row(engine, wide)
    assert (listed.starts_at, listed.starts_guess) == (engine.view(wide).starts_at, "long#1")
    late = engine.view(team.job("late"))
    assert (late.starts_at, late.starts_guess) == (None, "")
    assert re.fullmatch(
        r"Would delay wide#1, which is to start in about .* \(a guess\)\.", late.reason
    )


def test_a_start_behind_a_job_of_declared_length_is_no_guess(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4}, preemption=False)
    team.submit("short", 4, duration=900.0)
    team.submit("wide", 4, user="ben")
    found = team.cluster.engine.view(team.job("wide"))
    assert found.starts_at == pytest.approx(team.cluster.engine.now() + 900.0, abs=30.0)
    assert found.starts_guess == team.why("wide").starts_guess == ""


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


# --- what a hostile or an unlucky user may not bring about ---------------------------------


def test_nobody_leaves_for_a_job_that_fails_its_checks(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2})
    team.cluster.engine.preflight = lambda world, job, free: "full" if job.run == "high" else ""
    team.submit("low", 2, priority=Priority.LOW)
    team.submit("high", 2, user="ben", priority=Priority.HIGH)
    team.round(30)
    assert (team.job("low").state, team.job("low").attempts) == (JobState.RUNNING, 1)
    assert team.reason("high") == "full"


def test_a_gang_that_is_cancelled_while_it_leaves_costs_no_other(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2, "h1": 2})
    team.submit("one", 2, priority=Priority.LOW)
    team.submit("two", 2, priority=Priority.LOW)
    team.ask(rq.Submit("high", a_spec(2, priority=Priority.HIGH), "req-high"), "ben")
    team.cluster.round()
    victim = next(job for job in team.cluster.engine.world.open.values() if job.stop)
    team.ask(rq.Cancel(victim.id))
    for _ in range(5):
        team.cluster.round()
    leaving = [job.id for job in team.cluster.engine.world.open.values() if job.stop]
    assert leaving == [victim.id]
    team.round(4)
    assert team.job("high").state is JobState.RUNNING


def test_slots_that_dont_come_back_are_not_kept_for_ever(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2}, preemption=False)
    team.submit("low", 2, priority=Priority.LOW)
    team.cluster.agent_leaves("h0")
    team.cluster.hosts["h0"].crash()
    team.round(80)
    assert (team.job("low").state, team.job("low").claim) == (JobState.QUEUED, 2)
    team.ask(rq.Submit("urgent", a_spec(2, priority=Priority.URGENT), "req-urgent"), "ben")
    team.cluster.hosts["h0"].agent = True
    team.round(4)
    assert team.job("urgent").state is JobState.RUNNING


def test_what_ranks_that_have_ended_held_is_not_taken_twice(tmp_path: Path) -> None:
    """Half of a gang has finished and another job has its slots: leaving would not free those."""
    team = Team(tmp_path, {"h0": 1, "h1": 1})
    team.submit("half", 2, priority=Priority.LOW)
    host = team.cluster.hosts["h0"]
    host.end(next(iter(host.ranks.values())), Outcome.FINISHED, exit_code=0)
    team.round()
    assert team.submit("other", 1, user="eva", priority=Priority.HIGH).state is JobState.RUNNING
    assert team.submit("wide", 2, user="ben").state is JobState.QUEUED
    assert (team.job("half").state, team.job("half").preempted) == (JobState.RUNNING, 0)


def test_a_restart_in_the_middle_of_a_preemption_loses_nothing(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2})
    team.submit("low", 2, priority=Priority.LOW)
    team.ask(rq.Submit("high", a_spec(2, priority=Priority.HIGH), "req-high"), "ben")
    team.cluster.round()
    assert team.job("low").stop is StopReason.PREEMPT
    for rank in team.cluster.hosts["h0"].ranks.values():
        rank.leaving = False  # the order was lost with the scheduler
    team.cluster.restart_engine()
    team.round(5)
    assert team.job("high").state is JobState.RUNNING
    assert replay(team.cluster.journal.events()) == team.cluster.engine.world


def test_a_gang_that_had_to_be_killed_is_not_said_to_have_left(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 1})
    team.submit("low", 1, priority=Priority.LOW)
    team.ask(rq.Submit("high", a_spec(1, priority=Priority.HIGH), "req-high"), "ben")
    team.cluster.round()
    host = team.cluster.hosts["h0"]
    host.end(next(iter(host.ranks.values())), Outcome.EXITED, signal=9, ordered=True)
    team.round(2)
    notes = team.cluster.engine.view(team.job("low")).notes
    assert notes == ("Was killed: it had not left within 2.0 s.",)


def test_one_urgent_job_makes_not_all_others_urgent_for_nothing(tmp_path: Path) -> None:
    limits = {Priority.URGENT: Limits(running=2)}
    team = Team(tmp_path, {"h0": 4}, limits=limits)
    for n in range(4):
        team.submit(f"low{n}", 1, priority=Priority.LOW)
    everything = tuple(f"low{n}" for n in range(4))
    front = team.submit("front", 1, priority=Priority.URGENT, after=everything)
    assert front.spec.priority is Priority.HIGH  # 1 and 4 that it brings are over 2
    assert "it brings 4 that it waits for" in front.message
    jobs = {row.job: row.priority for row in team.queue().jobs}
    assert jobs["low0#1"] == "high"
    accounts = team.cluster.engine.world.ledger.accounts
    assert accounts["everyone", "ada"].high == 4  # charged, though each asked for low
    team.ask(rq.Cancel("front"))
    team.round(2)
    assert team.cluster.engine.world.ledger.accounts["everyone", "ada"].high == 0


def test_limits_count_the_most_that_an_elastic_job_may_hold(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4}, limits={Priority.HIGH: Limits(running=2)})
    elastic = team.submit("elastic", 1, max_workers=4, priority=Priority.HIGH)
    assert elastic.spec.priority is Priority.NORMAL
    elastic = team.submit("less", 1, max_workers=2, priority=Priority.HIGH)
    assert elastic.spec.priority is Priority.HIGH


@pytest.mark.parametrize(
    "wrong",
    [
        {"needs": Resources(cpus=math.inf)},
        {"needs": Resources(cpus=math.nan)},
        {"needs": Resources(memory=-1)},
        {"needs": Resources(gpus=-1)},
        {"duration": math.inf},
        {"duration": math.nan},
        {"duration": -1.0},
        {"max_workers": 65},
    ],
)
def test_numbers_that_no_plan_can_reckon_with_are_refused(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    team = Team(tmp_path, {"h0": 1})
    with pytest.raises(InvalidRequest, match="Job bad "):
        team.submit("bad", 1, **wrong)
    assert team.submit("good", 1).state is JobState.RUNNING


def test_a_fork_is_its_makers_before_it_has_a_job(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 1})
    team.submit("digits", 1)
    host = team.cluster.hosts["h0"]
    host.write_checkpoint(next(iter(host.ranks.values())), None)
    team.round()
    team.ask(rq.Fork("digits@1", "mine"), "eva")
    with pytest.raises(NotAllowed, match="Run mine is eva's, and you are ben"):
        team.ask(rq.Submit("mine", a_spec(1), "req-mine"), "ben")
    team.ask(rq.Submit("mine", a_spec(1), "req-mine"), "eva")


def test_a_run_is_resumed_though_its_user_is_in_another_group_now(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 1})
    assert team.submit("digits", 1).spec.group == "everyone"
    team.ask(rq.Cancel("digits"))
    team.round(3)
    team.cluster.engine.set_policy(Policy(groups={"vision": GroupRule(users=("ada",))}))
    team.ask(rq.Resume("digits", "again"))
    assert team.job("digits").spec.group == "vision"


def test_workers_of_one_host_that_differ_offer_what_all_of_them_have(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 2})
    hosts, now = team.cluster.engine.hosts, team.cluster.clock()
    one = replace(a_report("h0", slots=2), agent="one", slot=Resources(4.0, 1 << 30))
    other = replace(a_report("h0", slots=2), agent="other", slot=Resources(1.0, 2 << 30))
    hosts.report(one, now)
    assert hosts.report(other, now)
    # Each says its own again: no news, so nothing is planned anew.
    assert not hosts.report(one, now)
    assert not hosts.report(other, now)


def test_slots_are_wanted_as_needs_take_them_and_only_where_they_help(tmp_path: Path) -> None:
    team = Team(tmp_path, {"h0": 4})
    slot = Resources(cpus=1.0, memory=1 << 30)
    team.cluster.engine.report(replace(team.cluster.hosts["h0"].report(), slot=slot))
    for run, needs in (
        ("one", Resources(memory=2 << 30)),  # two slots each
        ("gpu", Resources(gpus=1)),  # no host has any: more of the same wouldn't help
    ):
        team.ask(rq.Submit(run, a_spec(3, needs=needs), f"req-{run}"))
    assert team.cluster.engine.queue.wanted_slots() == 2
    assert team.reason("gpu") == (
        "No worker has a GPU. It starts when workers that have what it needs are added; or cancel "
        "it and ask for less."
    )
    assert team.why("gpu").reason == team.reason("gpu")
    team.ask(rq.Submit("wide", a_spec(5, needs=Resources(cpus=1.0)), "req-wide"))
    assert "Needs 5 workers; the cluster has 4" in team.reason("wide")
    team.ask(rq.Submit("even", a_spec(3, needs=Resources(memory=2 << 30)), "req-even"))
    assert "fewer of the cluster's 4 slots are for such" in team.reason("even")


def test_a_job_of_before_groups_moves_with_its_user() -> None:
    story = Story().submit("digits", 1, user="ada")  # as in older journals: no group
    assert story.world.ledger.accounts["everyone", "ada"].wanted == 1
    story.then(ev.PolicyChanged(story.now, Policy(groups={"vision": GroupRule(users=("ada",))})))
    assert story.world.ledger.accounts["vision", "ada"].wanted == 1
    story.cancel()
    assert {account.wanted for account in story.world.ledger.accounts.values()} == {0}
