"""`core.goodput`: laws of the tally, and a story with known numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core import events as ev
from resilient_nb.core.goodput import Goodput, Tallies, goodput
from resilient_nb.core.model import Outcome, StopReason
from resilient_nb.testing.builders import (
    START,
    Story,
    a_checkpoint,
    a_failure,
    an_end,
    killed,
    on_hosts,
)

JOB = "digits#1"


def told(*events: ev.Event) -> Tallies:
    tallies = Tallies()
    assert list(tallies.watch(events)) == list(events)
    return tallies


def a_start(at: float, epoch: int = 1) -> list[ev.Event]:
    return [ev.GangReserved(at, JOB, epoch, on_hosts(1)), ev.GangStarted(at + 0.1, JOB, epoch)]


def a_kill(at: float, step: int, kept: int | None, epoch: int = 1) -> list[ev.Event]:
    failure = a_failure("killed from outside", step, at=at, epoch=epoch, resumes_from=kept)
    return [
        ev.RankEnded(at, JOB, epoch, killed(step=step)),
        ev.StopRequested(at, JOB, StopReason.FAILURE),
        ev.JobRequeued(at, JOB, epoch, failure),
    ]


def known(tallies: Tallies, now: float) -> Goodput:
    found = tallies.goodput(JOB, now)
    assert found is not None
    return found


def test_without_a_gang_there_is_nothing_to_say() -> None:
    story = Story().submit()
    assert told(*story.events).goodput(JOB, START + 10) is None


def test_a_failure_costs_steps_and_time() -> None:
    tallies = told(*a_start(0.0))
    for step in range(1, 101):
        tallies.stepped(JOB, 0.1 * step, step, 0.1)
    tallies.note(ev.CheckpointCommitted(9.0, a_checkpoint(JOB, 90)))
    for event in a_kill(10.0, 100, 90):
        tallies.note(event)
    before = known(tallies, 10.5)
    assert (before.failures, before.lost_steps, before.mttr_s) == (1, 10, None)
    for event in a_start(10.3, 2):
        tallies.note(event)
    assert known(tallies, 10.4).mttr_s == pytest.approx(0.4)  # its ranks run
    tallies.stepped(JOB, 10.6, 91, 0.1)
    after = known(tallies, 10.6)
    assert after.mttr_s == pytest.approx(0.6)  # and have made a step
    assert (after.steps, after.step_s) == (100, 0.1)
    assert after.goodput == pytest.approx(100 * 0.1 / 10.6)


def test_steps_before_its_own_are_not_its_merit() -> None:
    run = ev.RunCreated(0.0, "digits", "other/00000050-e1")
    tallies = told(run, *a_start(1.0))
    assert known(tallies, 2.0).steps == 0
    tallies.stepped(JOB, 2.0, 53)
    assert known(tallies, 2.0).steps == 3


def test_waiting_for_others_is_no_loss() -> None:
    tallies = told(*a_start(0.0))
    tallies.stepped(JOB, 5.0, 50, 0.1)
    tallies.note(ev.JobRequeued(5.0, JOB, 1))
    assert known(tallies, 1000.0).wall_s == 5.0
    for event in a_start(2000.0, 2):
        tallies.note(event)
    assert known(tallies, 2001.0).wall_s == 6.0
    assert known(tallies, 2001.0).mttr_s is None


def test_what_a_job_that_failed_has_not_kept_is_lost() -> None:
    tallies = told(*a_start(0.0))
    tallies.stepped(JOB, 5.0, 50, 0.1)
    end = an_end(0, Outcome.FAILED, step=50)
    tallies.note(ev.RankEnded(6.0, JOB, 1, end))
    failure = a_failure(step=50, at=6.0, decision="stop", resumes_from=40)
    tallies.note(ev.JobFailed(6.0, JOB, 1, failure))
    found = known(tallies, 100.0)
    assert (found.steps, found.lost_steps, found.wall_s) == (40, 10, 6.0)


def test_ranks_that_were_ended_by_us_break_nothing() -> None:
    end = replace(killed(step=3), ordered=True)
    tallies = told(*a_start(0.0), ev.RankEnded(1.0, JOB, 1, end))
    assert tallies.of(JOB).down is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.floats(0, 5)), max_size=8))
def test_goodput_is_a_share_and_no_step_counts_twice(
    attempts: list[tuple[int, int, float]],
) -> None:
    """Attempts of so many steps, of which all but some are kept, with pauses between them."""
    tallies, at, step, kept, lost = Tallies(), 0.0, 0, 0, 0
    for epoch, (steps, behind, pause) in enumerate(attempts, 1):
        for event in a_start(at, epoch):
            tallies.note(event)
        at += 0.1
        for _ in range(steps):
            step, at = step + 1, at + 0.05
            tallies.stepped(JOB, at, step, 0.05)
        kept = max(kept, step - behind)
        lost += step - kept
        tallies.note(ev.HeadMoved(at, "digits", f"digits/{kept:08d}-e1"))
        for event in a_kill(at, step, kept, epoch):
            tallies.note(event)
        step, at = kept, at + pause
    found = tallies.goodput(JOB, at)
    if found is None:
        assert not attempts
        return
    assert found.wall_s == pytest.approx(at)
    assert found.lost_steps == lost
    assert found.failures == len(attempts)
    assert found.goodput is None or 0 <= found.goodput <= 1
    assert found.steps <= sum(steps for steps, _, _ in attempts)


def test_a_tally_of_nothing_is_none() -> None:
    assert goodput(Tallies().of(JOB), (), 0.0) is None
