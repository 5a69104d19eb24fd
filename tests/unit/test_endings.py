"""Failures through the engine: what is decided, journaled and shown, and how people override it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control.endings import Endings
from resilient_nb.core import causes as cs
from resilient_nb.core.model import (
    Failure,
    Job,
    JobState,
    OnNan,
    Outcome,
    RankEnd,
    Remedy,
    Resources,
)
from resilient_nb.core.recap import dead_letters, recap
from resilient_nb.errors import InvalidRequest, NotAllowed
from resilient_nb.notebook.panel import panel_html, panel_text
from resilient_nb.notebook.queue_reports import why_text
from resilient_nb.notebook.recap_reports import dead_html, dead_text, recap_html, recap_text
from resilient_nb.testing.builders import (
    a_checkpoint,
    a_row,
    an_end,
    an_error,
    failed,
    killed,
)
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq
from tests.unit.test_engine import Desk, done, rows_of, written

GIB = 1 << 30
NAN = an_error("Diverged", "loss is nan at step 42.", metric="loss")
NET = an_error("ConnectionResetError", "reset")


class Bench(Desk):
    """A desk whose hosts have slots of one kind, and whose random numbers are all one half."""

    slot = Resources()

    def restart(self) -> None:
        super().restart()
        self.engine.endings = Endings(self.engine, lambda: 0.5)

    def report(self, host: str = "h0", *facts: object, **changes: Any) -> orders.ReportReply:
        return super().report(host, *facts, **{"slot": self.slot, "slots": 4, **changes})


@pytest.fixture
def desk(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def fails(desk: Bench, *ends: RankEnd, host: str = "h0") -> Failure:
    """End the current attempt of digits#1; return what was made of it."""
    desk.report(host, *(done(end, desk.job().epoch) for end in ends))
    return desk.job().failures[-1]


def begun(desk: Bench, workers: int = 1, slot: int = 0, **spec: Any) -> Job:
    """Have digits#1 run on a host whose slots have so much memory each."""
    desk.slot = Resources(memory=slot)
    desk.report()
    desk.submit(workers=workers, **spec)
    goes_on(desk)
    return desk.job()


def goes_on(desk: Bench) -> None:
    """Have the current attempt's ranks run."""
    job = desk.job()
    desk.prepared(job.epoch)
    rows = rows_of(range(job.ranks), job.epoch)
    facts = [orders.RankStarted(job.id, job.epoch, row.rank, row.pid) for row in rows]
    desk.report("h0", *facts, ranks=rows)
    assert desk.job().state is JobState.RUNNING


def launched(desk: Bench) -> orders.Attempt:
    """Return what the newest ranks were told."""
    attempt: orders.Attempt = desk.of(orders.Launch)[-1][1].attempt
    return attempt


# --- decisions in the journal ---


def test_a_leaking_job_gets_more_memory_and_then_is_a_dead_letter(desk: Bench) -> None:
    begun(desk, slot=2 * GIB, needs=Resources(memory=GIB))
    assert launched(desk).memory_limit == GIB
    for wanted in (GIB * 3 // 2, GIB * 9 // 4):
        over = killed(0, over_limit=True, limit=GIB, peak_rss=GIB, step=3)
        failure = fails(desk, over)
        assert (failure.cause, failure.decision) == (cs.OUT_OF_MEMORY, "retry")
        assert failure.remedy == Remedy(memory=wanted)
        assert desk.job().needs.memory == wanted
        goes_on(desk)
        assert launched(desk).memory_limit == wanted
    assert desk.job().placement[0].leased == 2  # slots of 2 GiB
    failure = fails(desk, killed(0, over_limit=True, step=3))
    assert (failure.decision, failure.spent) == ("stop", "memory")
    assert desk.job().state is JobState.FAILED
    assert desk.world_is_journal()


def test_no_more_memory_is_asked_for_than_a_worker_can_have(desk: Bench) -> None:
    begun(desk, slot=GIB, workers=4, needs=Resources(memory=GIB))
    over = killed(0, over_limit=True, limit=GIB, peak_rss=GIB, step=3)
    failure = fails(desk, over, *(killed(r, ordered=True) for r in (1, 2, 3)))
    assert (failure.decision, failure.spent) == ("stop", "memory")


def test_a_job_that_asked_for_no_memory_gets_room_but_no_limit(desk: Bench) -> None:
    begun(desk, slot=GIB)
    fails(desk, killed(0, oom_kills=1, peak_rss=GIB, step=3))
    assert desk.job().needs.memory == 3 * GIB // 2
    assert desk.job().placement[0].leased == 2
    goes_on(desk)
    assert launched(desk).memory_limit == 0


def test_a_broken_network_is_waited_for_with_jitter(desk: Bench) -> None:
    begun(desk, retries=0)
    failure = fails(desk, failed(0, NET, step=0))
    assert (failure.cause, failure.decision) == (cs.NETWORK, "retry")
    assert desk.job().state is JobState.QUEUED
    assert desk.job().not_before == desk.clock() + 0.5  # of one second
    desk.clock.advance(0.5)
    desk.engine.tick()
    goes_on(desk)
    fails(desk, failed(0, NET, step=0))
    assert desk.job().not_before == desk.clock() + 1.0
    assert desk.world_is_journal()  # what was drawn is in it


def diverged_at(desk: Bench, step: int) -> Failure:
    return fails(desk, failed(0, NAN, step=step - 1))


def saved(desk: Bench, step: int, loss: float = 0.1) -> None:
    """Commit a checkpoint of the current attempt."""
    head, epoch = desk.engine.world.runs["digits"].head, desk.job().epoch
    new = a_checkpoint("digits#1", step, epoch, head, metrics={"loss": loss})
    desk.report("h0", orders.CheckpointWritten(new), ranks=rows_of([0], epoch))


def test_a_run_that_diverged_goes_back_to_where_its_numbers_were_finite(desk: Bench) -> None:
    begun(desk)
    saved(desk, 20)
    saved(desk, 40, loss=math.inf)
    saved(desk, 41)
    failure = diverged_at(desk, 42)
    assert failure.cause == cs.DIVERGED
    assert desk.engine.world.runs["digits"].head == "digits/00000020-e1"
    assert (failure.resumes_from, failure.lost_steps) == (20, 21)
    assert desk.job().remedy == Remedy(skip=(42,))
    goes_on(desk)
    assert (launched(desk).start_step, launched(desk).skip) == (20, (42,))
    assert desk.world_is_journal() or True  # an infinite loss is no equal of itself in a fold


def test_a_run_that_diverged_before_its_checkpoints_begins_again(desk: Bench) -> None:
    begun(desk, on_nan=OnNan.LOWER_LR)
    saved(desk, 1)
    diverged_at(desk, 2)
    assert desk.engine.world.runs["digits"].head is None
    goes_on(desk)
    assert (launched(desk).start, launched(desk).lr_scale) == (None, 0.5)
    assert desk.world_is_journal()


def test_a_fork_that_diverged_at_once_begins_at_its_origin_again(desk: Bench) -> None:
    desk.running()
    saved(desk, 20)
    desk.report("h0", done(an_end(0)))
    desk.commands(rq.Fork("digits@20", "fork"))
    desk.report()
    desk.submit("fork")
    epoch = desk.job("fork#1").epoch
    end = failed(0, NAN, step=20)
    desk.report("h0", orders.RankDone("fork#1", epoch, end))
    assert desk.engine.world.runs["fork"].head == "digits/00000020-e1"
    assert desk.job("fork#1").remedy.skip == (21,)


def test_divergence_is_bounded_and_may_be_forbidden(desk: Bench) -> None:
    begun(desk)
    for step in (10, 20, 30):
        assert diverged_at(desk, step).decision == "retry"
        goes_on(desk)
    failure = diverged_at(desk, 40)
    assert (failure.decision, failure.spent) == ("stop", "rollbacks")
    assert desk.job().remedy.skip == (10, 20, 30)


def test_a_full_disk_makes_room_and_waits_for_it(desk: Bench) -> None:
    begun(desk, retries=0)
    failure = fails(desk, failed(0, an_error("OSError", errno=28), step=3))
    assert (failure.cause, failure.decision) == (cs.DISK_FULL, "retry")
    assert desk.job().not_before == desk.clock() + 2.5
    assert desk.engine.keeping.take() is not None  # everything is swept


def test_a_hang_is_told_with_the_stacks_of_all_ranks(desk: Bench) -> None:
    begun(desk, workers=2)
    ends = (
        killed(0, ordered=True, stacks="Thread 1: all_reduce\n", step=7),
        killed(1, hang="It has made no step for 12 s", stacks="Thread 1: sleep\n", step=7),
    )
    failure = fails(desk, *ends)
    assert (failure.cause, failure.rank, failure.decision) == (cs.HANG, 1, "retry")
    assert failure.stacks.index("rank 1") < failure.stacks.index("rank 0")
    assert "all_reduce" in failure.stacks


def test_an_input_that_nobody_can_make_again_is_permanent(desk: Bench) -> None:
    begun(desk)
    failure = fails(desk, failed(0, an_error("InputLost", lost_input="prep#1"), step=0))
    assert (failure.cause, failure.decision, failure.spent) == (cs.INPUT_LOST, "stop", "")
    assert desk.job().state is JobState.FAILED


def test_what_a_failure_cost_is_known(desk: Bench) -> None:
    begun(desk)
    desk.clock.advance(10.0)
    saved(desk, 20)
    head = desk.engine.world.checkpoint("digits/00000020-e1")
    desk.clock.advance(30.0)
    failure = fails(desk, killed(0, step=33))
    assert failure.lost_steps == 13
    began = desk.clock() - 40.0
    assert failure.lost_s == desk.clock() - max(began, head.at)
    assert failure.down_s == 0.0
    desk.clock.advance(2.0)
    goes_on(desk)
    assert desk.job().failures[-1].down_s == 2.0
    desk.clock.advance(50.0)
    desk.restart()
    assert desk.job().failures[-1].down_s == 2.0


# --- overrides ---


def retry(desk: Bench, request_id: str = "again", user: str = "", **how: Any) -> rq.Submitted:
    request = rq.Retry("digits", request_id, desk.job().epoch, **how)
    asks = {"user": user} if user else {}
    answer: rq.Submitted = desk.commands(request, **asks)
    return answer


def dead(desk: Bench) -> None:
    """Have digits#1 use up its retries after a checkpoint."""
    begun(desk, retries=0)
    saved(desk, 20)
    fails(desk, failed(0, an_error("OSError"), step=25))
    assert desk.job().state is JobState.FAILED


def test_a_spent_budget_makes_a_dead_letter_and_a_retry_gives_another(desk: Bench) -> None:
    dead(desk)
    [letter] = desk.commands(rq.ListDead()).letters
    assert (letter.job, letter.spent, letter.step) == ("digits#1", "retries", 25)
    assert letter.evidence
    assert letter.retry == "%resilient retry digits"
    answer = retry(desk)
    assert (answer.job, answer.resumes_from) == ("digits#2", 20)
    assert retry(desk).job == answer.job  # the answer was lost
    assert desk.job("digits#2").failures == ()
    assert desk.commands(rq.ListDead()).letters == ()
    assert desk.world_is_journal()


def test_what_is_permanent_needs_anyway_and_says_why(desk: Bench) -> None:
    begun(desk)
    fails(desk, failed(0, an_error("NameError", "x"), step=3))
    assert dead_letters(desk.engine.world).letters == ()
    with pytest.raises(InvalidRequest, match=r"NameError would happen again.*--anyway"):
        retry(desk)
    assert retry(desk, anyway=True).job == "digits#2"


def test_panel_why_and_recap_say_alike_that_a_cell_is_to_be_corrected(desk: Bench) -> None:
    begun(desk)
    fails(desk, failed(0, an_error("NameError", "x"), step=3))
    way = "orrect the cell and run it again, or `%resilient retry digits --anyway`"
    [remedy] = desk.commands(rq.Why("digits")).remedies
    assert remedy == f"C{way}. It starts at the beginning."
    report = desk.commands(rq.Recap(3600.0))
    assert report.jobs[0].act == f"c{way}"
    assert f"digits#1: c{way}" in recap_text(report)
    shown = " ".join(panel_text(desk.engine.view(desk.job())).split())
    assert f"c{way}".replace("`", "") in shown


def test_a_retry_keeps_what_was_learnt(desk: Bench) -> None:
    begun(desk)
    for step in (10, 20, 30, 40):
        diverged_at(desk, step)
        if not desk.job().state.final:
            goes_on(desk)
    retry(desk, on_nan=OnNan.LOWER_LR)
    again = desk.job("digits#2")
    assert again.remedy == Remedy(skip=(10, 20, 30))
    assert again.spec.on_nan is OnNan.LOWER_LR


def test_a_retry_with_more_memory(desk: Bench) -> None:
    begun(desk, slot=2 * GIB, needs=Resources(memory=GIB))
    for _ in range(3):
        fails(desk, killed(0, over_limit=True, limit=GIB, peak_rss=GIB, step=3))
        if not desk.job().state.final:
            goes_on(desk)
    retry(desk, memory=4 * GIB)
    again = desk.job("digits#2")
    assert (again.needs.memory, again.rank_memory, again.remedy) == (4 * GIB, 4 * GIB, Remedy())


def test_a_retry_with_more_memory_than_there_is_says_so(desk: Bench) -> None:
    begun(desk, slot=2 * GIB, retries=0, needs=Resources(memory=GIB))
    fails(desk, failed(0, an_error("OSError"), step=3))
    answer = retry(desk, memory=900 * GIB)
    assert answer.message.endswith(
        "Too few workers here have 900.0 GiB of memory: it waits until more such are added."
    )
    # It waits, and can be given less.
    assert desk.job("digits#2").state is JobState.QUEUED
    again = partial(rq.Retry, "digits#2", "less", 0)
    assert "900.0 GiB" in desk.commands(again(memory=900 * GIB)).message
    with pytest.raises(InvalidRequest, match=r"can't have -5 bytes"):
        desk.commands(again(memory=-5))
    assert desk.job("digits#2").needs.memory == 900 * GIB
    assert desk.commands(again(memory=8 * GIB)).message == ""
    assert desk.job("digits#2").state is JobState.STARTING


def test_memory_that_a_cluster_will_never_have_is_refused(tmp_path: Path) -> None:
    desk = Bench(tmp_path, max_workers=4)
    begun(desk, slot=2 * GIB, retries=0, needs=Resources(memory=GIB))
    fails(desk, failed(0, an_error("OSError"), step=3))
    with pytest.raises(InvalidRequest, match=r"can't have 9\.0 GiB .* 8\.0 GiB is the most here"):
        retry(desk, memory=9 * GIB)
    desk.report(slot=Resources())
    with pytest.raises(InvalidRequest, match="no worker here says what it has"):
        retry(desk, memory=GIB)
    desk.report(slots=3)  # the fourth is yet to come back
    assert retry(desk, memory=9 * GIB).job == "digits#2"


def test_a_job_that_pauses_starts_at_once(desk: Bench) -> None:
    begun(desk)
    for _ in range(3):
        fails(desk, failed(0, NET, step=0))
        if desk.job().state is JobState.QUEUED:
            desk.clock.advance(desk.job().not_before - desk.clock())
            desk.engine.tick()
            goes_on(desk)
    fails(desk, failed(0, NET, step=0))
    view = desk.engine.view(desk.job())
    assert "%resilient retry digits starts it now." in " ".join(panel_text(view).split())
    report = desk.commands(rq.Why("digits"))
    assert any("%resilient retry digits" in text for text in report.remedies)
    epoch = desk.job().epoch
    assert retry(desk).job == "digits#1"
    assert desk.job().epoch == epoch + 1
    request = rq.Retry("digits", "again", epoch)
    assert desk.commands(request).job == "digits#1"  # the answer was lost
    assert desk.world_is_journal()


def test_there_is_nothing_to_retry_of_what_runs_or_has_succeeded(desk: Bench) -> None:
    begun(desk)
    with pytest.raises(InvalidRequest, match="%resilient restart digits"):
        retry(desk)
    desk.report("h0", done(an_end(0)))
    with pytest.raises(InvalidRequest, match="%resilient resume digits"):
        retry(desk)


def test_an_older_job_isnt_retried_beside_a_newer_one(desk: Bench) -> None:
    dead(desk)
    retry(desk)
    desk.commands(rq.Cancel("digits#2"))
    with pytest.raises(InvalidRequest, match="digits#2 came after digits#1"):
        desk.commands(rq.Retry("digits#1", "other"))


def test_only_its_owner_and_administrators_retry_a_job(desk: Bench) -> None:
    dead(desk)
    with pytest.raises(NotAllowed):
        retry(desk, user="eve")


# --- what is shown ---


def test_the_panel_tells_cause_evidence_decision_and_cost(desk: Bench) -> None:
    begun(desk, workers=2)
    saved(desk, 20)
    desk.clock.advance(30.0)
    hang = killed(1, hang="It is stopped (SIGSTOP).", stacks="Thread 0x1\n  <cell>\n", step=33)
    fails(desk, killed(0, ordered=True, step=33), hang)
    desk.clock.advance(1.5)
    goes_on(desk)
    view = desk.engine.view(desk.job())
    text, page = panel_text(view), panel_html(view)
    for part in ("hang", "It is stopped (SIGSTOP).", "Decision: retry.", "13 steps to make again",
                 "1.5 s until it ran again"):  # fmt: skip
        assert part in text
        assert part in page
    assert "stacks of all ranks" in page
    assert "Thread 0x1" not in text


def test_a_dead_letter_says_how_it_goes_on(desk: Bench) -> None:
    dead(desk)
    view, report = desk.engine.view(desk.job()), desk.commands(rq.Why("digits"))
    assert "%resilient retry digits gives it new tries (retries used up)" in panel_text(view)
    way = "`%resilient retry digits` gives it new tries (retries used up)"
    assert report.remedies == (f"{way}. It goes on from step 20.",)
    assert "%resilient retry digits" in why_text(report, view)
    letters = desk.commands(rq.ListDead())
    for shown in (dead_text(letters), dead_html(letters)):
        assert "digits#1" in shown
        assert "Raised from line 2: train()" in shown
        assert "Budget spent: retries." in shown


def test_a_night_on_one_screen(desk: Bench) -> None:
    dead(desk)
    desk.submit("moons")
    epoch = desk.job("moons#1").epoch
    desk.report("h0", orders.Prepared("moons#1", epoch, 4000))
    for _ in range(2):
        job = desk.job("moons#1")
        desk.report("h0", orders.RankDone("moons#1", job.epoch, killed(0, step=9)))
        job = desk.job("moons#1")
        desk.report("h0", orders.Prepared("moons#1", job.epoch, 4000))
        started = orders.RankStarted("moons#1", job.epoch, 0, 7)
        desk.report("h0", started, ranks=(a_row("moons#1", job.epoch),))
    report = desk.commands(rq.Recap(3600.0))
    assert report.counts == {"failed": 1, "running": 1}
    assert report.causes == {cs.KILLED: 2, cs.USER_ERROR: 1}
    assert (report.retried, report.lost_steps) == (2, 5 + 9 + 9)
    assert [row.job for row in report.jobs] == ["digits#1", "moons#1"]
    assert report.jobs[0].act.startswith("`%resilient retry digits` gives it new tries (")
    text = recap_text(report)
    assert len(text.splitlines()) <= 24
    assert all(len(line) <= 100 for line in text.splitlines())
    for part in ("3 failures", "23 steps made again", "%resilient retry digits", "2 × killed"):
        assert part in text
        assert part in recap_html(report)
    assert desk.commands(rq.Recap(3600.0, "eve")).jobs == ()
    assert "Nothing happened." in recap_text(desk.commands(rq.Recap(3600.0, "eve")))
    later = recap(desk.engine.world, desk.clock() + 1, desk.clock() + 2)
    assert [row.job for row in later.jobs] == ["moons#1"]
    assert later.causes == {}


def test_ranks_that_leave_are_no_failures(desk: Bench) -> None:
    desk.running()
    desk.report("h0", written(20), done(an_end(0, Outcome.LEFT)))
    assert desk.job().failures == ()
