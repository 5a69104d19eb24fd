"""`control.commands`: what a user can ask; words name the thing, the reason, the way out."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.shell import Shell
from resilient_nb.core.model import JobState, Outcome, Resources
from resilient_nb.core.views import CheckpointView, RunView
from resilient_nb.errors import (
    AlreadyRunning,
    CheckpointError,
    Conflict,
    InvalidRequest,
    ResilientError,
    UnknownName,
)
from resilient_nb.notebook.checkpoint_reports import runs_text
from resilient_nb.notebook.reports import checkpoints_text, run_text
from resilient_nb.testing.builders import a_checkpoint, a_report, a_spec, an_end, failed
from resilient_nb.testing.fakes import (
    ManualClock,
    MemoryJournal,
    RecordingLauncher,
    fake_settings,
)
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq


class Desk:
    """Commands on an engine whose jobs are moved by hand."""

    def __init__(self, home: Path, **changes: Any) -> None:
        self.journal, self.clock = MemoryJournal(), ManualClock()
        self.engine = Engine(
            fake_settings(home, **changes),
            Shell(self.journal, RecordingLauncher(), self.clock, lambda job: None),
        )
        self.ask = partial(Commands(self.engine, "tcp://here:1"), user=self.engine.settings.user)
        self._requests = 0

    def submit(self, run: str | None = "digits", workers: int = 1, **how: Any) -> rq.Submitted:
        self._requests += 1
        request = how.pop("request_id", f"r{self._requests}")
        return self.ask(rq.Submit(run, a_spec(workers), request, **how))  # type: ignore[no-any-return]

    def head(self, run: str = "digits") -> str | None:
        return self.engine.world.runs[run].head

    def begin(self, job: str = "digits#1") -> int:
        """Have the job's gang begin; return its epoch."""
        self.engine.report(a_report("h0", slots=8))
        epoch = self.engine.world.jobs[job].epoch
        assert epoch
        self.engine.report(a_report("h0", orders.Prepared(job, epoch, 4000), slots=8))
        return epoch

    def checkpoint(self, step: int, job: str = "digits#1", tag: str | None = None) -> None:
        epoch, run = self.engine.world.jobs[job].epoch, job.partition("#")[0]
        new = a_checkpoint(job, step, epoch, self.head(run))
        self.engine.report(a_report("h0", orders.CheckpointWritten(new, tag), slots=8))
        assert self.head(run) == new.id

    def end(self, job: str = "digits#1", good: bool = True) -> None:
        end = an_end() if good else failed(0, step=0)
        epoch = self.engine.world.jobs[job].epoch
        self.engine.report(a_report("h0", orders.RankDone(job, epoch, end), slots=8))
        assert self.engine.world.jobs[job].state.final

    def done(self, *steps: int, run: str = "digits", good: bool = True) -> str:
        """Submit a job that writes checkpoints at `steps` and ends."""
        job = self.submit(run).job
        self.begin(job)
        for step in steps:
            self.checkpoint(step, job)
        self.end(job, good)
        return job


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- submit ---


def test_a_submit_makes_the_run_and_its_first_job(desk: Desk) -> None:
    assert desk.submit() == rq.Submitted("digits#1", "digits", None, "")
    assert desk.engine.world.jobs["digits#1"].state is JobState.QUEUED


def test_a_submit_that_comes_again_is_the_same_job(desk: Desk) -> None:
    first = desk.submit(request_id="same")
    again = desk.submit(request_id="same")
    assert (again.job, again.run) == (first.job, first.run)
    assert list(desk.engine.world.jobs) == ["digits#1"]
    desk.ask(rq.Cancel("digits"))
    assert desk.submit(request_id="same").job == "digits#1"  # even when it has ended
    assert desk.submit(request_id="other").job == "digits#2"


def test_a_submit_without_a_name_gets_a_free_one(desk: Desk) -> None:
    assert desk.submit(None).run == "cell-1"
    desk.submit("cell-2")
    assert desk.submit(None).run == "cell-3"


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65])
def test_a_bad_name_is_refused(desk: Desk, name: str) -> None:
    with pytest.raises(InvalidRequest, match="can't be a run name"):
        desk.submit(name)


def test_a_run_has_one_unfinished_job(desk: Desk) -> None:
    desk.submit()
    words = (
        r"digits is queued already, as job digits#1\. Wait for it "
        r"\(`resilient_nb\.run\('digits'\)\.jobs\[0\]\.result\(\)` .*cancel digits\)"
    )
    with pytest.raises(AlreadyRunning, match=words):
        desk.submit()
    with pytest.raises(AlreadyRunning):
        desk.submit(resume="never")
    assert len(desk.engine.world.jobs) == 1


def test_a_gang_that_can_never_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_workers=3)
    words = r"digits needs 4 workers; the cluster has 3 and can't grow\. Lower --workers"
    with pytest.raises(InvalidRequest, match=words):
        desk.submit(workers=4)
    assert dict(desk.engine.world.runs) == {}
    desk.submit(workers=3)


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        (Resources(gpus=1), "no worker has a GPU, and the cluster can't grow"),
        (Resources(memory=3 << 40), "the largest worker has 12.0 GiB of memory, and the cluster"),
        (Resources(cpus=99), "the largest worker has 6 CPU cores, and the cluster can't grow"),
        (Resources(cpus=9, gpus=1), "no worker has a GPU and the largest worker has 6 CPU cores,"),
        (
            Resources(memory=7 << 30),
            "needs 2 workers .* of which the cluster holds 1, and it can't",
        ),
    ],
)
def test_needs_that_no_worker_will_ever_have_are_refused(
    tmp_path: Path, needs: Resources, why: str
) -> None:
    desk, grows = Desk(tmp_path / "a", max_workers=3), Desk(tmp_path / "b")
    slot = Resources(cpus=2.0, memory=4 << 30)

    def submit(to: Desk, run: str, request: str = "r") -> None:
        to.ask(rq.Submit(run, a_spec(2, needs=needs), request))

    for each in (desk, grows):
        each.engine.report(a_report("h0", slots=2, slot=slot))
    submit(desk, "early")  # not all workers are there yet: who knows what they have
    desk.engine.report(a_report("h0", slots=3, slot=slot))
    with pytest.raises(InvalidRequest, match=why):
        submit(desk, "late", "r2")
    desk.ask(rq.Submit("fits", a_spec(1, needs=Resources(memory=12 << 30)), "r3"))
    submit(grows, "may-come")


@pytest.mark.parametrize("workers", [0, -1])
def test_a_gang_of_nobody_is_refused(desk: Desk, workers: int) -> None:
    # It would be granted an empty placement and hold it for ever.
    with pytest.raises(InvalidRequest, match="workers"):
        desk.submit(workers=workers)


def test_captured_values_must_have_arrived(desk: Desk) -> None:
    data = b"x" * 10
    digest = hashlib.sha256(data).hexdigest()
    request = rq.Submit("digits", a_spec(captured=digest), "r")
    with pytest.raises(InvalidRequest, match="did not arrive: submit the cell again"):
        desk.ask(request)
    assert desk.ask(rq.PutBlob(digest, 0, 10, data[:4])) == 4
    assert desk.ask(rq.PutBlob(digest, 4, 10, data[4:])) == 10
    assert desk.ask(rq.PutBlob(digest, 0, 10, data[:4])) == 10  # it is there already
    assert desk.ask(request).job == "digits#1"


def test_a_store_that_cant_be_written_is_named_before_anything_is_queued(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    desk = Desk(tmp_path, store=tmp_path / "file" / "store")
    words = re.escape(f"The store {tmp_path}/file/store can't be written: Not a directory.")
    with pytest.raises(CheckpointError, match=words + ".*RESILIENT_NB_STORE"):
        desk.submit()
    assert list(desk.journal.events()) == []


# --- where a job goes on from ---


def test_a_second_cell_goes_on_from_the_head(desk: Desk) -> None:
    desk.done(20, 40, good=False)
    found = desk.submit()
    assert (found.job, found.resumes_from) == ("digits#2", 40)
    assert "from step 40" in found.message
    assert "--resume never" in found.message


def test_after_a_success_it_starts_over_and_says_so(desk: Desk) -> None:
    desk.done(20, 40)
    found = desk.submit()
    assert found.resumes_from is None
    assert "digits#1 had finished: starts over; earlier checkpoints are kept" in found.message
    assert desk.head() is None
    assert len(desk.engine.world.runs["digits"].checkpoints) == 2


def test_after_a_success_and_a_rollback_it_goes_on(desk: Desk) -> None:
    desk.done(20, 40)
    desk.ask(rq.Rollback("digits@20"))
    assert desk.submit().resumes_from == 20


def test_resume_never_starts_over(desk: Desk) -> None:
    desk.done(20, good=False)
    assert desk.submit(resume="never").resumes_from is None


@pytest.mark.parametrize("reference", ["20", "best", "digits@20", "digits@best"])
def test_resume_from_a_step_or_tag(desk: Desk, reference: str) -> None:
    desk.done(20, 40)
    desk.ask(rq.Tag("digits@20", "best"))
    found = desk.submit(resume=reference)
    assert (found.resumes_from, desk.head()) == (20, "digits/00000020-e1")


def test_resume_from_what_isnt_there_changes_nothing(desk: Desk) -> None:
    desk.done(20, 40)
    with pytest.raises(UnknownName, match=r"no checkpoint at step 30; it has 20, 40"):
        desk.submit(resume="30")
    with pytest.raises(UnknownName, match="no tag worst; its tags: none"):
        desk.submit(resume="worst")
    with pytest.raises(UnknownName, match="no run new yet, so nothing to resume from"):
        desk.submit("new", resume="20")
    assert desk.head() == "digits/00000040-e1"
    assert list(desk.engine.world.runs) == ["digits"]


def test_a_fork_by_submit_begins_at_the_reference(desk: Desk) -> None:
    desk.done(20, 40)
    found = desk.submit("wide", fork="digits@20")
    assert (found.job, found.resumes_from, found.message) == (
        "wide#1",
        20,
        "Forked from digits@20.",
    )
    assert desk.head("wide") == "digits/00000020-e1"
    assert desk.head() == "digits/00000040-e1"
    with pytest.raises(Conflict, match="wide exists already: fork under another name"):
        desk.submit("wide", fork="digits@40")


def test_the_cell_of_a_fork_run_again_starts_over_where_it_began(desk: Desk) -> None:
    desk.done(20, 40)
    job = desk.submit("wide", fork="digits@20").job
    with pytest.raises(AlreadyRunning):
        desk.submit("wide", fork="digits@20")
    desk.begin(job)
    desk.end(job)
    again = desk.submit("wide", fork="digits@20")
    assert (again.job, again.resumes_from) == ("wide#2", 20)


def test_the_head_after_a_retry_is_what_the_next_attempt_starts_from(desk: Desk) -> None:
    job = desk.submit().job
    epoch = desk.begin(job)
    desk.checkpoint(20, job)
    desk.engine.report(
        a_report("h0", orders.RankDone(job, epoch, an_end(0, Outcome.EXITED, signal=9)), slots=8)
    )
    assert desk.engine.world.jobs[job].epoch == epoch + 1
    assert desk.ask(rq.Resolve("digits")).step == 20


# --- resume ---


def test_resume_submits_the_last_cell_again(desk: Desk) -> None:
    desk.done(20, good=False)
    found = desk.ask(rq.Resume("digits", "again"))
    assert (found.job, found.resumes_from) == ("digits#2", 20)
    jobs = desk.engine.world.jobs
    assert jobs["digits#2"].spec == jobs["digits#1"].spec
    assert desk.ask(rq.Resume("digits", "again")).job == "digits#2"  # the reply was lost


def test_resume_of_what_finished_says_what_to_do(desk: Desk) -> None:
    desk.done(20)
    words = r"digits#1 finished at step 20: nothing is left to resume\. Roll back first"
    with pytest.raises(InvalidRequest, match=words):
        desk.ask(rq.Resume("digits", "r"))
    desk.done(20, 40, run="other")
    assert desk.ask(rq.Resume("other", "again", at="20")).resumes_from == 20


def test_of_two_checkpoints_of_a_step_the_one_of_that_id_is_taken(desk: Desk) -> None:
    job = desk.submit().job
    desk.begin(job)
    desk.checkpoint(20, job)
    desk.end(job)
    job = desk.submit(resume="never").job
    desk.begin(job)
    desk.checkpoint(20, job)
    desk.end(job)
    first, second = desk.engine.world.runs["digits"].checkpoints
    assert desk.ask(rq.Resolve("digits@20")).id == second
    assert [desk.ask(rq.Resolve(each)).id for each in (first, second)] == [first, second]
    desk.ask(rq.Rollback(first))
    assert desk.head() == first
    desk.ask(rq.Tag(second, "best"))
    assert desk.ask(rq.Resolve("digits@best")).id == second
    assert desk.ask(rq.Fork(first, "wide")).head == first
    desk.ask(rq.Resume("digits", "r", at=second))
    assert desk.head() == second
    with pytest.raises(UnknownName, match="no checkpoint digits/00000020-e9"):
        desk.ask(rq.Resolve("digits/00000020-e9"))


def test_a_run_resumes_at_its_own_checkpoints_and_those_it_comes_from(desk: Desk) -> None:
    desk.done(20, 40)
    desk.done(20, run="other")
    desk.ask(rq.Fork("digits@20", "wide"))
    with pytest.raises(UnknownName, match="no checkpoint of run wide"):
        desk.ask(rq.Resume("wide", "r", at="other/00000020-e1"))
    assert desk.ask(rq.Resume("wide", "r", at="digits/00000020-e1")).resumes_from == 20


def test_resume_repeated_after_it_finished_answers_the_same(desk: Desk) -> None:
    """The reply was lost, and by the time of the repeat the job is done."""
    desk.done(20, good=False)
    job = desk.ask(rq.Resume("digits", "again")).job
    desk.begin(job)
    desk.checkpoint(40, job)
    desk.end(job)
    assert desk.ask(rq.Resume("digits", "again")).job == job


def test_resume_needs_a_run_with_a_cell(desk: Desk) -> None:
    with pytest.raises(UnknownName, match="There is no run 'nobody'; there are: none"):
        desk.ask(rq.Resume("nobody", "r"))
    desk.submit()
    with pytest.raises(AlreadyRunning):
        desk.ask(rq.Resume("digits", "r"))


def test_resume_of_a_fresh_fork_takes_its_parents_cell(desk: Desk) -> None:
    desk.done(20, 40)
    desk.ask(rq.Fork("digits@20", "wide"))
    found = desk.ask(rq.Resume("wide", "r"))
    assert (found.job, found.resumes_from) == ("wide#1", 20)


def test_a_new_cell_in_a_fresh_fork_goes_on_from_where_it_was_forked(desk: Desk) -> None:
    """Also if that is the end of the parent's finished job: fine-tuning begins like this."""
    desk.done(20, 40)
    desk.ask(rq.Fork("digits@40", "tuned"))
    assert desk.submit("tuned").resumes_from == 40


# --- rollback, tag, fork, resolve ---


def test_a_rollback_moves_the_head_and_deletes_nothing(desk: Desk) -> None:
    desk.done(20, 40)
    view = desk.ask(rq.Rollback("digits@20", "ada"))
    assert isinstance(view, RunView)
    assert view.head == "digits/00000020-e1"
    assert [c.step for c in view.checkpoints] == [20, 40]
    assert [c.is_head for c in view.checkpoints] == [True, False]
    desk.ask(rq.Rollback("digits@40"))  # and back again
    assert desk.head() == "digits/00000040-e1"


def test_a_rollback_needs_a_place_and_a_quiet_run(desk: Desk) -> None:
    desk.done(20)
    with pytest.raises(InvalidRequest, match=r"Say where to: %resilient rollback digits@STEP"):
        desk.ask(rq.Rollback("digits"))
    with pytest.raises(UnknownName):
        desk.ask(rq.Rollback("digits@21"))
    desk.ask(rq.Rollback("digits@20"))
    desk.submit()
    with pytest.raises(AlreadyRunning):
        desk.ask(rq.Rollback("digits@20"))


def test_tags_name_checkpoints_and_can_be_moved(desk: Desk) -> None:
    desk.done(20, 40)
    assert desk.ask(rq.Tag("digits@20", "best")).tags == {"best": "digits/00000020-e1"}
    view = desk.ask(rq.Tag("digits", "best"))
    assert view.tags == {"best": "digits/00000040-e1"}
    assert desk.ask(rq.Resolve("digits@best")).tags == ("best",)
    desk.ask(rq.Tag("digits@best", "production"))
    assert desk.ask(rq.Resolve("digits@production")).step == 40


@pytest.mark.parametrize(("tag", "words"), [
    ("a b", "can't be a tag name"), ("12", "would read as a step"), ("", "can't be a tag name"),
])  # fmt: skip
def test_bad_tags_are_refused(desk: Desk, tag: str, words: str) -> None:
    desk.done(20)
    with pytest.raises(InvalidRequest, match=words):
        desk.ask(rq.Tag("digits@20", tag))


def test_a_fork_is_a_run_of_its_own(desk: Desk) -> None:
    desk.done(20, 40)
    view = desk.ask(rq.Fork("digits@20", "wide"))
    assert (view.name, view.head, view.forked_from) == ("wide", *["digits/00000020-e1"] * 2)
    with pytest.raises(Conflict):
        desk.ask(rq.Fork("digits@20", "wide"))
    with pytest.raises(InvalidRequest):
        desk.ask(rq.Fork("digits@20", "a/b"))
    with pytest.raises(UnknownName):
        desk.ask(rq.Fork("digits@21", "other"))
    desk.submit("wide")
    desk.begin("wide#1")
    desk.checkpoint(30, "wide#1")
    assert desk.ask(rq.Resolve("wide@20")).id == "digits/00000020-e1"  # its lineage goes back
    assert desk.ask(rq.Resolve("wide")).id == "wide/00000030-e1"
    assert [c.step for c in desk.ask(rq.ListRuns("digits"))[0].checkpoints] == [20, 40]


def test_a_step_reached_twice_is_the_one_in_the_heads_lineage(desk: Desk) -> None:
    desk.done(20, 40, good=False)
    desk.ask(rq.Rollback("digits@20"))
    desk.done(40, 60)
    assert desk.ask(rq.Resolve("digits@40")).id == "digits/00000040-e2"
    desk.ask(rq.Rollback("digits@20"))
    assert desk.ask(rq.Resolve("digits@40")).id == "digits/00000040-e2"  # else the latest


def test_resolve_answers_with_what_a_user_types(desk: Desk) -> None:
    desk.done(20)
    view = desk.ask(rq.Resolve("digits"))
    assert isinstance(view, CheckpointView)
    assert (view.ref, view.is_head) == ("digits@20", True)
    assert view.path == f"{desk.engine.settings.runs}/digits/00000020-e1"
    desk.submit("empty")
    with pytest.raises(UnknownName, match=r"Run empty has no checkpoint yet\."):
        desk.ask(rq.Resolve("empty"))


def test_a_run_that_started_over_and_has_no_checkpoint_says_so_and_what_to_do(desk: Desk) -> None:
    desk.done(20, 40)
    again = desk.submit("digits")
    assert again.message == "digits#1 had finished: starts over; earlier checkpoints are kept."
    with pytest.raises(UnknownName) as info:
        desk.ask(rq.Resolve("digits"))
    assert str(info.value) == (
        "digits#2 started over and has no checkpoint yet; the newest of before is digits@40: "
        "load digits@40."
    )
    view = desk.ask(rq.ListRuns("digits"))[0]
    assert "digits@40: load digits@40." in " ".join(checkpoints_text(view).split())
    desk.ask(rq.Cancel("digits"))
    way = (
        "digits#2 started over and has no checkpoint; the newest of before is digits@40: "
        "load digits@40, or `%resilient rollback digits@40` to go on from there."
    )
    with pytest.raises(UnknownName) as info:
        desk.ask(rq.Resolve("digits"))
    assert str(info.value) == way
    [view] = desk.ask(rq.ListRuns())
    for text in (checkpoints_text(view), run_text(view), runs_text([view])):
        assert "no checkpoint at its head" in text.splitlines()[0]
        assert way in " ".join(text.split())
    third = desk.submit("digits", request_id="r3")
    assert third.message == (
        "Starts at the beginning, as digits#2 did, which made no checkpoint; "
        "`--resume digits@40` goes on from there."
    )
    desk.begin(third.job)
    desk.end(third.job, good=False)
    first, second = desk.ask(rq.Why("digits")).remedies
    assert first.endswith("It starts at the beginning.")
    assert second == way.replace("#2", "#3")


def test_a_step_that_isnt_there_is_answered_with_those_near_it(desk: Desk) -> None:
    desk.done(*range(20, 420, 20), good=False)
    desk.ask(rq.Rollback("digits@20"))
    desk.done(40, 60, good=False)  # steps that were reached twice are listed once
    near = "60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280"
    with pytest.raises(UnknownName, match=f"at step 169; the nearest of its 20 are {near}"):
        desk.ask(rq.Resolve("digits@169"))


def test_a_run_that_isnt_there_is_answered_with_the_like_and_those_there_are(desk: Desk) -> None:
    for number in range(21):
        desk.submit(f"r{number:02}")
    desk.submit("digits")
    with pytest.raises(UnknownName) as info:
        desk.ask(rq.Resolve("digtis"))
    assert str(info.value) == (
        "There is no run 'digtis'; did you mean digits? There are: digits, "
        f"{', '.join(f'r{number:02}' for number in range(19))}, … (22 in all)."
    )


# --- lists, cancel, logs, results ---


def test_lists_are_newest_first_and_limited(desk: Desk) -> None:
    desk.done(20, good=False)
    desk.submit("other")
    desk.submit()
    assert [j.id for j in desk.ask(rq.ListJobs())] == ["digits#2", "other#1", "digits#1"]
    assert [j.id for j in desk.ask(rq.ListJobs(limit=1))] == ["digits#2"]
    assert [j.id for j in desk.ask(rq.ListJobs("digits"))] == ["digits#2", "digits#1"]
    assert [r.name for r in desk.ask(rq.ListRuns())] == ["other", "digits"]
    with pytest.raises(UnknownName):
        desk.ask(rq.ListJobs("nobody"))
    with pytest.raises(UnknownName):
        desk.ask(rq.ListRuns("nobody"))


def test_cancel_takes_a_job_or_a_run_and_may_come_again(desk: Desk) -> None:
    desk.submit()
    for name in ("digits", "digits#1"):
        assert desk.ask(rq.Cancel(name)).state is JobState.CANCELLED
    desk.submit()
    assert desk.ask(rq.Cancel("digits#1")).state is JobState.CANCELLED
    assert desk.engine.world.jobs["digits#2"].state is JobState.QUEUED


@pytest.mark.parametrize(("name", "words"), [
    ("nobody", "There is no run 'nobody'; there are: digits, fork"),
    ("digits#7", "There is no job digits#7. Run digits has digits#1"),
    ("fork", "Run fork has no job yet: %%resilient fork submits one"),
    ("a b", "can't be a run name"),
    ("digits#x", "is no job"),
])  # fmt: skip
def test_a_job_that_isnt_there_is_said_with_what_is(desk: Desk, name: str, words: str) -> None:
    desk.done(20)
    desk.ask(rq.Fork("digits", "fork"))
    for request in (rq.Cancel(name), rq.ReadLog(name, 0), rq.ReadOut(name)):
        with pytest.raises(ResilientError, match=re.escape(words)):
            desk.ask(request)


def test_a_log_that_isnt_there_is_empty(desk: Desk) -> None:
    desk.submit()
    assert desk.ask(rq.ReadLog("digits", 3)) == rq.LogPiece(b"", 0, 0, 0, ())


def test_returned_values_are_read_in_pieces(desk: Desk) -> None:
    job = desk.ask(rq.Submit("digits", a_spec(out=("model",)), "r")).job
    with pytest.raises(UnknownName, match=r"digits#1 is queued and has returned nothing"):
        desk.ask(rq.ReadOut("digits"))
    folder = Path(desk.engine.settings.store, "out", "digits", "1")
    folder.mkdir(parents=True)
    (folder / "out.pkl").write_bytes(b"0123456789")
    desk.begin(job)
    desk.end(job)
    assert desk.ask(rq.ReadOut("digits", 0, 4)) == rq.OutPiece(b"0123", 10)
    assert desk.ask(rq.ReadOut("digits", 8, 4)) == rq.OutPiece(b"89", 10)


def test_returned_values_that_were_deleted_are_said_to_be_gone(desk: Desk) -> None:
    job = desk.ask(rq.Submit("digits", a_spec(out=("model",)), "r")).job
    desk.begin(job)
    desk.end(job)
    with pytest.raises(ResilientError, match="digits#1"):
        desk.ask(rq.ReadOut("digits"))


def test_the_cluster_shows_what_runs_and_waits(desk: Desk) -> None:
    desk.submit(workers=2)
    desk.submit("wide", workers=9)
    desk.begin()
    view = desk.ask(rq.GetCluster())
    assert (view.address, view.slots, view.used) == ("tcp://here:1", 8, 2)
    assert (view.running, view.queued) == (("digits#1",), ("wide#1",))
    assert [(h.id, h.slots, h.used, h.warm) for h in view.hosts] == [("h0", 8, 2, True)]


def test_an_unknown_request_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match="doesn't know int"):
        desk.ask(7)


# --- what was decided by an older view ---


def written(desk: Desk, *steps: int) -> None:
    """Have the run's only job write checkpoints and end."""
    epoch, parent = desk.begin(), None
    for step in steps:
        new = a_checkpoint("digits#1", step, epoch, parent)
        desk.engine.report(a_report("h0", orders.CheckpointWritten(new)))
        parent = new.id
    desk.end()


def test_a_rollback_is_refused_if_the_head_is_another_one_by_now(desk: Desk) -> None:
    desk.submit()
    written(desk, 20, 40)
    seen = desk.head()
    done = desk.ask(rq.Rollback("digits@20", head=seen))
    assert done.head == desk.head() != seen
    assert desk.ask(rq.Rollback("digits@20", head=seen)) == done  # a repeat: the reply was lost
    with pytest.raises(Conflict, match=r"The head of digits is digits@20 by now: look again"):
        desk.ask(rq.Rollback("digits@40", head=seen))
    with pytest.raises(Conflict, match="digits@20"):
        desk.ask(rq.Rollback("digits@40", head=""))
    assert desk.head() == done.head
    assert desk.ask(rq.Rollback("digits@40", head=done.head)).head == seen
    assert desk.ask(rq.Rollback("digits@20")).head == done.head


def test_a_resume_is_refused_if_the_head_is_another_one_by_now(desk: Desk) -> None:
    desk.submit()
    written(desk, 20, 40)
    seen = desk.head()
    desk.ask(rq.Rollback("digits@20"))
    with pytest.raises(Conflict, match=r"The head of digits is digits@20 by now: look again"):
        desk.ask(rq.Resume("digits", "q1", head=seen))
    assert len(desk.engine.world.jobs) == 1
    made = desk.ask(rq.Resume("digits", "q1", head=desk.head()))
    assert (made.job, made.resumes_from) == ("digits#2", 20)
    assert desk.ask(rq.Resume("digits", "q1", head=seen)).job == made.job  # a repeat
    with pytest.raises(AlreadyRunning):
        desk.ask(rq.Resume("digits", "q2", head=seen))
