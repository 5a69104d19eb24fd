"""A head that is damaged: the job goes on from the newest checkpoint before it that isn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient_nb.core import causes as cs
from resilient_nb.core import events as ev
from resilient_nb.core.case import Case
from resilient_nb.core.damage import known_damaged, newest_whole
from resilient_nb.core.diagnosis import Diagnosis, diagnose
from resilient_nb.core.explain import failure_text
from resilient_nb.core.interval import mean_time_between_failures
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import Cell, Job, JobState, RankEnd
from resilient_nb.core.recovery import after_damage, decide
from resilient_nb.errors import CheckpointError, CorruptCheckpoint
from resilient_nb.rank.failure import pack_error
from resilient_nb.testing.builders import (
    Story,
    a_checkpoint,
    a_failure,
    a_row,
    an_error,
    failed,
    killed,
)
from resilient_nb.testing.contracts import world_problems
from resilient_nb.wire import orders
from tests.unit.test_engine import Desk

TEXT = "Checkpoint digits/00000040-e1 is damaged: model/0.weight doesn't match its checksum."


def corrupt(identity: str = "digits/00000040-e1", rank: int = 0, **changes: Any) -> RankEnd:
    """Return the end of a rank that couldn't restore a checkpoint."""
    text = TEXT.replace("digits/00000040-e1", identity)
    return failed(rank, an_error("CorruptCheckpoint", text, damaged=identity), **changes)


# --- cause and decision ---------------------------------------------------------------------------


def test_a_damaged_head_is_a_cause_of_its_own() -> None:
    found = diagnose([corrupt(step=40)], "digits/00000040-e1")
    assert (found.cause, found.message, found.rank) == (cs.DAMAGED, TEXT, 0)


@pytest.mark.parametrize("head", [None, "digits/00000060-e1"])
def test_another_checkpoint_is_the_cells_own_business(head: str | None) -> None:
    found = diagnose([corrupt(step=40)], head)
    assert found.cause == cs.USER_ERROR


def test_victims_and_ranks_that_were_ended_are_not_to_blame() -> None:
    closed = an_error(message="Connection closed by peer", in_collective=True)
    ends = [failed(0, closed, at=1.0), corrupt(rank=1, at=2.0), killed(2, at=0.5, ordered=True)]
    found = diagnose(ends, "digits/00000040-e1")
    assert (found.cause, found.rank) == (cs.DAMAGED, 1)


def test_it_goes_on_from_the_one_before_at_once_or_not_at_all() -> None:
    found = after_damage(a_checkpoint(step=20))
    assert (found.retry, found.delay) == (True, 0.0)
    assert "goes on from digits@20" in found.reason
    found = after_damage(None)
    assert not found.retry
    assert "restore URL" in found.reason
    assert "--resume never" in found.reason


def test_damage_isnt_in_the_users_budget() -> None:
    past = [a_failure(cs.DAMAGED, step=step) for step in range(5)]
    mine = Diagnosis(cs.USER_ERROR, "boom", 0, 50, an_error("OSError"))
    assert decide(mine, Case(past, retries=1)).retry


def test_it_doesnt_count_as_a_failure_of_the_gang() -> None:
    """Or checkpoints would be taken more often for it."""
    story = Story().submit().start().checkpoint(20).checkpoint(40).stop().end(killed(0, step=45))
    story.requeue(failure=a_failure(cs.KILLED, step=45, resumes_from=40)).start()
    job, usual = story.job(), mean_time_between_failures(story.world, story.job(), story.now)
    story.stop().end(corrupt())
    story.requeue(failure=a_failure(cs.DAMAGED, step=0, resumes_from=20)).start()
    assert mean_time_between_failures(story.world, story.job(), story.now) > 0.9 * usual
    assert job.id == story.job().id


def test_the_newest_that_isnt_known_to_be_damaged_is_found_across_forks() -> None:
    story = Story().submit().start().checkpoint(20).checkpoint(40)
    head = story.world.runs["digits"].head
    story.run("fork", head).submit("fork").start("fork").checkpoint(60, "fork")
    world, fork = story.world, story.world.runs["fork"]
    ids = ["fork/00000060-e1", "digits/00000040-e1", "digits/00000020-e1"]
    for count, wanted in enumerate([*ids, None]):
        found = newest_whole(world, fork, set(ids[:count]))
        assert (found.id if found else None) == wanted


def test_what_is_known_is_in_the_failures_of_all_jobs() -> None:
    failure = a_failure(cs.DAMAGED, error=corrupt().error)
    story = Story().submit().start().checkpoint(40).stop().end(corrupt()).requeue(failure=failure)
    other = a_failure(cs.USER_ERROR, error=corrupt("digits/00000020-e1").error)
    story.start().stop().end(corrupt()).requeue(failure=other)
    assert known_damaged(story.world) == {"digits/00000040-e1"}


def test_a_rank_says_which_checkpoint_is_damaged() -> None:
    error = pack_error(CorruptCheckpoint(TEXT, "digits/00000040-e1"), Cell("pass"))
    assert (error.type, error.damaged) == ("CorruptCheckpoint", "digits/00000040-e1")
    assert pack_error(CheckpointError(TEXT), Cell("pass")).damaged == ""
    assert pack_error(CorruptCheckpoint(TEXT), Cell("pass")).damaged == ""


# --- the engine -----------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def written(desk: Desk, *steps: int) -> None:
    """Have the running job commit checkpoints, and be killed."""
    job = desk.job()
    for step in steps:
        parent = desk.engine.world.runs["digits"].head
        checkpoint = a_checkpoint("digits#1", step, job.epoch, parent)
        desk.report("h0", orders.CheckpointWritten(checkpoint), ranks=(a_row(epoch=job.epoch),))
    end(desk, killed(0, step=steps[-1] + 3))


def end(desk: Desk, how: RankEnd) -> None:
    desk.report("h0", orders.RankDone("digits#1", desk.job().epoch, how), ranks=())


def begin(desk: Desk) -> orders.Attempt:
    """Bring the job's next attempt to life; return what it was told."""
    job = desk.job()
    assert job.state is JobState.STARTING
    desk.launcher.orders.clear()
    desk.report("h0", orders.Prepared("digits#1", job.epoch, 4000), ranks=())
    [(_, launch)] = desk.of(orders.Launch)
    started = orders.RankStarted("digits#1", job.epoch, 0, 77)
    desk.report("h0", started, ranks=(a_row(epoch=job.epoch),))
    attempt = launch.attempt
    assert isinstance(attempt, orders.Attempt)
    return attempt


def test_the_head_moves_back_and_the_job_goes_on_at_once(desk: Desk) -> None:
    desk.running()
    written(desk, 20, 40)
    assert begin(desk).start_id == "digits/00000040-e1"
    end(desk, corrupt())
    job = desk.job()
    assert (job.state, job.attempts) == (JobState.STARTING, 3), "without a delay"
    failure = job.failures[-1]
    assert (failure.cause, failure.decision, failure.resumes_from) == (cs.DAMAGED, "retry", 20)
    text = failure_text(failure)
    assert TEXT in text
    assert "It goes on from digits@20, the newest before it not known to be damaged." in text
    moved = [e for e in desk.journal.events() if isinstance(e, ev.HeadMoved)]
    assert [(e.run, e.head, e.by) for e in moved] == [("digits", "digits/00000020-e1", "recovery")]
    assert begin(desk).start_id == "digits/00000020-e1"
    # What it writes follows the head.
    new = a_checkpoint("digits#1", 40, job.epoch, "digits/00000020-e1")
    desk.report("h0", orders.CheckpointWritten(new), ranks=(a_row(epoch=job.epoch),))
    assert desk.engine.world.runs["digits"].head == new.id
    assert desk.world_is_journal()
    assert world_problems(desk.engine.world) == []


def test_one_after_the_other_until_none_is_left(desk: Desk) -> None:
    desk.running()
    written(desk, 20, 40, 60)
    for step, before in ((60, 40), (40, 20)):
        assert begin(desk).start_step == step
        end(desk, corrupt(f"digits/{step:08d}-e1"))
        assert desk.job().failures[-1].resumes_from == before
    begin(desk)
    end(desk, corrupt("digits/00000020-e1"))
    job = desk.job()
    assert job.state is JobState.FAILED
    assert job.failures[-1].cause == cs.DAMAGED
    assert "No earlier checkpoint is left" in job.failures[-1].reason
    assert len(job.failures) == 4, "the kill, and three that were damaged"
    assert desk.world_is_journal()


def test_what_is_known_to_be_damaged_is_passed_over(desk: Desk) -> None:
    """Another head, and then one that was found damaged before."""
    desk.running()
    written(desk, 20, 40)
    begin(desk)
    end(desk, corrupt())
    begin(desk)
    epoch = desk.job().epoch
    new = a_checkpoint("digits#1", 60, epoch, "digits/00000020-e1")
    desk.report("h0", orders.CheckpointWritten(new), ranks=(a_row(epoch=epoch),))
    end(desk, killed(0, step=65))
    begin(desk)
    # Somebody puts the head back on what is damaged.
    desk.engine.record(ev.HeadMoved(desk.clock(), "digits", "digits/00000040-e1", "ada"))
    end(desk, corrupt())
    assert desk.engine.world.runs["digits"].head == "digits/00000020-e1"


def test_a_checkpoint_that_the_cell_itself_has_loaded_moves_nothing(desk: Desk) -> None:
    desk.running()
    written(desk, 20, 40)
    begin(desk)
    end(desk, corrupt("digits/00000020-e1", step=45))
    assert desk.engine.world.runs["digits"].head == "digits/00000040-e1"
    assert desk.job().failures[-1].cause == cs.USER_ERROR


def test_a_restart_of_the_engine_knows_it_still(desk: Desk) -> None:
    desk.running()
    written(desk, 20, 40)
    begin(desk)
    end(desk, corrupt())
    desk.restart()
    assert known_damaged(desk.engine.world) == {"digits/00000040-e1"}
    assert replay(desk.journal.events()) == desk.engine.world


def test_journals_of_before_are_read(desk: Desk) -> None:
    """Errors in them say nothing of checkpoints."""
    job: Job = desk.running()
    end(desk, failed(0, an_error("OSError"), step=3))
    packed = [line for line in desk.journal._lines if "RankEnded" in line]
    assert packed
    desk.journal._lines = [line.replace(', "damaged": ""', "") for line in desk.journal._lines]
    desk.restart()
    assert desk.job(job.id).failures[0].error is not None
