"""Which checkpoints are kept: the rule's laws, and what the engine drops when."""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb import connection
from resilient_nb.client import Client
from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.preflight import missing
from resilient_nb.control.shell import Shell
from resilient_nb.control.storing import Storing
from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import (
    KEEP_ALL,
    KEEP_AUTO,
    Best,
    JobState,
    Keep,
    Outcome,
    StopReason,
    Thinning,
)
from resilient_nb.core.retention import (
    fates,
    for_room,
    parse_keep,
    rule_of,
    start_of,
    superfluous,
    undecided,
    was_dropped,
)
from resilient_nb.core.views import RetentionReport, RetentionRow
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest, NotAllowed
from resilient_nb.notebook.execute import execute
from resilient_nb.notebook.options import CellOptions, parse_cell_line, parse_line
from resilient_nb.notebook.retention_reports import retention_html, retention_text
from resilient_nb.notebook.words import Moment
from resilient_nb.testing.builders import (
    Story,
    a_checkpoint,
    a_report,
    a_spec,
    an_end,
    killed,
)
from resilient_nb.testing.contracts import world_problems
from resilient_nb.testing.fakes import (
    ManualClock,
    MemoryJournal,
    RecordingLauncher,
    fake_settings,
)
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq

RUNS = ("a", "b", "c")


class Tale(Story):
    """A story that takes any step, and skips what can't happen now."""

    def commit(self, run: str, forward: int, loss: float) -> None:
        job = self.world.active_job(run) if run in self.world.runs else None
        if job is None or job.state is not JobState.RUNNING:
            return
        at = self.world.runs[run].head
        step = forward + (self.world.checkpoint(at).step if at else 0)
        new = a_checkpoint(job.id, step, job.epoch, at, metrics={"loss": loss})
        if new.id not in self.world.runs[run].checkpoints:
            self.then(ev.CheckpointCommitted(self.now, new))

    def go_on(self, run: str) -> None:
        """The run's job begins, or ends well, or another is submitted."""
        job = self.world.active_job(run) if run in self.world.runs else None
        if job is None:
            self.submit(run)
        elif job.state is JobState.QUEUED:
            self.start(run)
        else:
            self.succeed(run)

    def leave(self, run: str) -> None:
        job = self.world.active_job(run) if run in self.world.runs else None
        if job is not None and job.state is JobState.RUNNING:
            self.stop(StopReason.VACATE, run).end(an_end(0, Outcome.LEFT), run=run).requeue(run)

    def point(self, run: str, which: int, how: str) -> None:
        """Move a head, set a tag or fork; the target may be any run's checkpoint."""
        known = [c for r in self.world.runs.values() for c in r.checkpoints]
        if not known:
            return
        target = known[which % len(known)]
        if how == "fork" and run not in self.world.runs:
            self.run(run, target)
        elif run not in self.world.runs:
            return
        elif how == "tag":
            self.then(ev.CheckpointTagged(self.now, run, target, "best"))
        elif how == "move" and self.world.active_job(run) is None:
            self.then(ev.HeadMoved(self.now, run, target if which else None))

    def drop(self, run: str, keep: Keep) -> None:
        if run in self.world.runs:
            gone = superfluous(self.world, run, keep)
            self.then(ev.CheckpointsDropped(self.now, run, gone))


losses = st.sampled_from([0.5, 0.25, 1.0, 0.0, math.nan, math.inf, -math.inf])
commits = st.tuples(st.just("commit"), st.sampled_from(RUNS), st.integers(1, 7), losses)
steps: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    commits, commits, commits,
    st.tuples(st.just("go_on"), st.sampled_from(RUNS)),
    st.tuples(st.just("go_on"), st.sampled_from(RUNS)),
    st.tuples(st.just("leave"), st.sampled_from(RUNS)),
    st.tuples(
        st.just("point"), st.sampled_from(RUNS), st.integers(0, 20),
        st.sampled_from(["fork", "tag", "move"]),
    ),
)  # fmt: skip
bests = st.builds(Best, st.integers(0, 3), st.just("loss"), st.booleans())
keeps = st.builds(
    Keep, st.integers(0, 4), st.integers(0, 10), st.lists(bests, max_size=2).map(tuple),
    st.sampled_from([Thinning.FULL, Thinning.ALWAYS]),
)  # fmt: skip


def told(script: Sequence[tuple[Any, ...]]) -> Tale:
    tale = Tale()
    for name in RUNS[:2]:
        tale.go_on(name)
        tale.go_on(name)
    for name, *arguments in script:
        getattr(tale, name)(*arguments)
    return tale


tales = st.lists(steps, max_size=40).map(told)


def needed(world: World) -> set[str]:
    """What may never go, found without the code under test."""
    found: set[str | None] = set()
    for run in world.runs.values():
        found |= {run.head, run.forked_from, *run.tags.values()}
        job = world.active_job(run.name)
        if job is not None:
            at = run.head
            while (
                job.state.holds_gang and at is not None and world.checkpoint(at).job == job.id
                and world.checkpoint(at).epoch == job.epoch
            ):  # fmt: skip
                at = world.checkpoint(at).parent
            found.add(at)
        for name in run.jobs:
            own = [c.id for c in run.checkpoints.values() if c.job == name]
            if own and world.jobs[name].state is JobState.SUCCEEDED:
                found.add(own[-1])
    return {identity for identity in found if identity is not None}


@settings(max_examples=200, deadline=None)
@given(tales, keeps, st.sampled_from(RUNS))
def test_what_anybody_needs_is_kept_and_dropping_leaves_a_whole_world(
    tale: Tale, keep: Keep, name: str
) -> None:
    if name not in tale.world.runs:
        return
    before = needed(tale.world)
    gone = superfluous(tale.world, name, keep)
    assert not before & set(gone)
    tale.drop(name, keep)
    assert world_problems(tale.world) == []
    assert set(tale.world.runs[name].checkpoints).isdisjoint(gone)
    assert needed(tale.world) == before
    assert superfluous(tale.world, name, keep) == ()  # idempotent
    assert replay(tale.events) == tale.world


@settings(max_examples=100, deadline=None)
@given(tales, keeps)
def test_keeping_more_never_drops_more(tale: Tale, keep: Keep) -> None:
    more = [
        Keep(keep.last + 1, keep.every, keep.best, keep.thinning),
        Keep(keep.last, keep.every, (*keep.best, Best(2, "loss")), keep.thinning),
        Keep(keep.last, keep.every, tuple(Best(b.count + 1, b.metric, b.greatest)
             for b in keep.best), keep.thinning),
    ]  # fmt: skip
    for name in tale.world.runs:
        gone = set(superfluous(tale.world, name, keep))
        assert all(gone >= set(superfluous(tale.world, name, other)) for other in more)
        assert superfluous(tale.world, name, KEEP_ALL) == ()


@settings(max_examples=100, deadline=None)
@given(st.lists(commits, min_size=1, max_size=30), st.integers(1, 10))
def test_thinning_is_stable_as_the_run_grows(script: list[tuple[Any, ...]], every: int) -> None:
    """Dropping after each commit leaves what dropping once at the end leaves."""
    keep = Keep(last=2, every=every, best=(Best(2, "loss"),))
    once, always = told(script), told([])
    for name, *arguments in script:
        getattr(always, name)(*arguments)
        for run in list(always.world.runs):
            always.drop(run, keep)
    for run in list(once.world.runs):
        once.drop(run, keep)
        assert list(once.world.runs[run].checkpoints) == list(always.world.runs[run].checkpoints)


@settings(max_examples=100, deadline=None)
@given(tales, bests)
def test_the_best_are_by_finite_values_and_no_worse_one_is_kept_for_it(
    tale: Tale, best: Best
) -> None:
    for name in tale.world.runs:
        found = fates(tale.world, name, Keep(best=(best,)))
        chosen, rest = [], []
        for fate in found:
            by = any(reason.endswith("by loss") for reason in fate.reasons)
            (chosen if by else rest).append(fate.checkpoint.metrics["loss"])
        assert all(map(math.isfinite, chosen))
        finite = [value for value in rest if math.isfinite(value)]
        assert len(chosen) == min(max(0, best.count), len(chosen) + len(finite))
        if chosen and finite:
            worst = min(chosen) if best.greatest else max(chosen)
            assert all(v <= worst if best.greatest else v >= worst for v in finite)


def story(*steps: int, **spec: Any) -> Story:
    made = Story().submit(**spec).start()
    for step in steps:
        made.checkpoint(step)
    return made


def left(told: Story, keep: Keep, run: str = "digits") -> list[int]:
    gone = superfluous(told.world, run, keep)
    return [c.step for c in told.world.runs[run].checkpoints.values() if c.id not in gone]


def test_every_keeps_the_first_at_or_after_each_multiple() -> None:
    told = story(20, 90, 100, 110, 230, 260, 290, 401, 402)
    assert left(told, Keep(every=100)) == [100, 230, 401, 402]
    assert left(told, Keep(every=1000)) == [402]
    assert left(told, Keep(last=2)) == [401, 402]


def test_each_is_kept_for_a_reason_that_is_said() -> None:
    told = story(20, 40, 60).run("fork", "digits/00000020-e1")
    told.then(ev.CheckpointTagged(told.now, "fork", "digits/00000040-e1", "good"))
    reasons = [fate.reasons for fate in fates(told.world, "digits", Keep(last=1, every=50))]
    assert reasons == [
        ("head of fork", "fork begins here"), ("tag good of fork",),
        ("head", "the last", "the first from step 50 on"),
    ]  # fmt: skip
    assert [f.reasons for f in fates(told.world, "digits", KEEP_ALL)][1] == (
        "tag good of fork", "the rule keeps all",
    )  # fmt: skip


def test_what_an_attempt_started_from_stays_until_it_ends() -> None:
    told = story(20, 40).stop(StopReason.VACATE).end(an_end(0, Outcome.LEFT)).requeue()
    told.start().checkpoint(60).checkpoint(80)
    assert start_of(told.world, told.job()) == "digits/00000040-e1"
    assert left(told, Keep(last=1)) == [40, 80]
    told.stop(StopReason.VACATE).end(an_end(0, Outcome.LEFT)).requeue()
    assert start_of(told.world, told.job()) == "digits/00000080-e2"
    assert left(told, Keep(last=1)) == [80]


def test_the_end_of_a_job_that_succeeded_stays() -> None:
    told = story(20, 40).succeed().submit()
    told.then(ev.HeadMoved(told.now, "digits", None))
    told.start().checkpoint(10).checkpoint(30)
    assert left(told, Keep(last=1)) == [40, 30]
    assert fates(told.world, "digits", Keep())[1].reasons == ("end of digits#1",)


def test_a_plateau_keeps_the_earlier_ones() -> None:
    told = Tale()
    told.go_on("a")
    told.go_on("a")
    for loss in (0.5, 0.25, 0.25, 0.25, math.nan):
        told.commit("a", 10, loss)
    assert left(told, Keep(best=(Best(2, "loss"),)), "a") == [20, 30, 50]
    assert left(told, Keep(best=(Best(1, "loss", greatest=True),)), "a") == [10, 50]


def test_a_metric_that_no_checkpoint_has_drops_nothing() -> None:
    """A misspelt one would drop all but the end, and with them the best."""
    told = story()

    def commit(step: int, **metrics: float) -> None:
        new = a_checkpoint(step=step, parent=told.world.runs["digits"].head, metrics=metrics)
        told.then(ev.CheckpointCommitted(told.now, new))

    commit(20, lr=0.1)
    commit(40, lr=0.1)
    for keep in (Keep(best=(Best(3, "los"),)), Keep(last=1, best=(Best(1, "lr"), Best(1, "los")))):
        assert left(told, keep) == [20, 40]
        assert "Metrics there are: lr." in undecided(told.world, "digits", keep)
        first = fates(told.world, "digits", keep)[0]
        assert "the rule can't tell the best" in first.reasons
    # By `loss`, which nobody logs here, goes what nobody has chosen.
    auto = replace(KEEP_AUTO, last=1)
    assert (left(told, auto), undecided(told.world, "digits", auto)) == ([40], "")
    keep = Keep(best=(Best(1, "los"),))
    assert left(told, for_room(told.world, "digits", keep)) == [40]
    commit(60, los=0.5)
    commit(80, los=1.0)
    assert (left(told, keep), undecided(told.world, "digits", keep)) == ([60, 80], "")
    assert for_room(told.world, "digits", keep) == keep


def test_a_run_has_the_rule_of_its_newest_job() -> None:
    told = story(20, keep=Keep(last=2)).run("fork", "digits/00000020-e1")
    assert rule_of(told.world, "digits") == Keep(last=2)
    assert rule_of(told.world, "fork") == KEEP_AUTO
    told.succeed().submit(keep=KEEP_ALL)
    assert rule_of(told.world, "digits") == KEEP_ALL


def test_a_dropped_checkpoint_is_told_from_a_new_one() -> None:
    told = story(20, 40)
    first, head = told.world.runs["digits"].checkpoints.values()
    told.then(ev.CheckpointsDropped(told.now, "digits", (first.id,)))
    assert was_dropped(told.world, first)
    assert not was_dropped(told.world, head)
    assert not was_dropped(told.world, a_checkpoint(step=60, parent=head.id))
    assert not was_dropped(told.world, a_checkpoint(step=20, epoch=2))
    assert not was_dropped(told.world, a_checkpoint("other#1"))


# --- the rule as it is typed ---


@pytest.mark.parametrize(("typed", "rule"), [
    ("5", Keep(last=5)),
    ("last=5", Keep(last=5)),
    ("last=5,every=1000,best=3:loss", Keep(5, 1000, (Best(3, "loss"),))),
    ("best=3:accuracy:max", Keep(best=(Best(3, "accuracy", True),))),
    ("best=1:val/loss:min,best=2:f1:max", Keep(best=(Best(1, "val/loss"), Best(2, "f1", True)))),
    ("best=1:a:b", Keep(best=(Best(1, "a:b"),))),
    ("every=2, last=1", Keep(last=1, every=2)),
    ("all", KEEP_ALL),
    ("auto", KEEP_AUTO),
])  # fmt: skip
def test_rules(typed: str, rule: Keep) -> None:
    assert parse_keep(typed) == rule
    options = parse_cell_line(f"--keep '{typed}'")
    assert isinstance(options, CellOptions)
    assert options.keep == rule


metrics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=",: \t"), min_size=1)
typed_bests = st.lists(
    st.builds(Best, st.integers(1, 9), metrics.filter(lambda m: m == m.strip()), st.booleans()),
    max_size=3, unique_by=lambda best: best.metric,
).map(tuple)  # fmt: skip


@given(st.builds(Keep, st.integers(0, 999), st.integers(0, 99999), typed_bests))
def test_a_rule_reads_as_it_is_shown(keep: Keep) -> None:
    if keep != Keep():
        assert parse_keep(str(keep)) == keep
    assert [str(rule) for rule in (KEEP_ALL, KEEP_AUTO)] == ["all", "auto"]


@given(st.text(max_size=20))
def test_any_text_is_a_rule_or_refused_in_words(text: str) -> None:
    try:
        keep = parse_keep(text)
    except InvalidRequest:
        return
    assert keep != Keep()


# --- the engine ---


class Desk:
    """An engine whose reports are written by hand."""

    def __init__(self, home: Path, preflight: bool = False) -> None:
        self.clock, self.journal = ManualClock(), MemoryJournal()
        self.launcher = RecordingLauncher()
        self.changed: list[str] = []
        self.settings = fake_settings(home)
        shell = Shell(self.journal, self.launcher, self.clock, self.changed.append)
        if preflight:
            shell.preflight = partial(
                missing, self.settings, Storing(self.settings), lambda checkpoint: ""
            )
        self.engine = Engine(self.settings, shell)
        self.commands = Commands(self.engine, "tcp://here")
        self.ask = partial(self.commands, user="ada")
        self.engine.keeping.take()  # what every start looks for

    def report(self, *facts: object, **changes: Any) -> orders.ReportReply:
        return self.engine.report(a_report("h0", *facts, **changes))

    def begin(self, keep: Keep, run: str = "digits") -> None:
        self.ask(rq.Submit(run, a_spec(keep=keep), f"{run}{self.clock()}"))
        job = self.engine.world.runs[run].jobs[-1]
        self.report(slots=8)
        epoch = self.engine.world.jobs[job].epoch
        self.report(orders.Prepared(job, epoch, 4000), slots=8)
        self.report(orders.RankStarted(job, epoch, 0, 77), slots=8)
        assert self.engine.world.jobs[job].state is JobState.RUNNING

    def commit(self, step: int, epoch: int = 1, tag: str | None = None, **how: Any) -> Any:
        new = a_checkpoint(step=step, epoch=epoch, parent=self.run.head, **how)
        fact = orders.CheckpointWritten(new, tag)
        self.report(fact, slots=8)
        return fact

    def fail(self, step: int, code: int = errno.ENOSPC, epoch: int = 1, job: str = "") -> None:
        text = f"The checkpoint at step {step} failed: it is so."
        self.report(orders.CheckpointFailed(job or "digits#1", epoch, step, code, text), slots=8)

    @property
    def run(self) -> Any:
        return self.engine.world.runs["digits"]

    @property
    def steps(self) -> list[int]:
        return [c.step for c in self.run.checkpoints.values()]

    def notes(self, job: str = "digits#1") -> tuple[str, ...]:
        return self.engine.live.of(job).notes

    def dropped(self) -> list[tuple[tuple[str, ...], str]]:
        return [
            (event.checkpoints, event.reason)
            for event in self.journal.events()
            if isinstance(event, ev.CheckpointsDropped)
        ]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_each_commit_drops_what_the_rule_no_longer_keeps(desk: Desk) -> None:
    desk.begin(Keep(last=2))
    for step in (20, 40, 60, 80):
        desk.commit(step, tag="first" if step == 20 else None)
    assert desk.steps == [20, 60, 80]
    assert desk.dropped() == [(("digits/00000040-e1",), "last=2")]
    answers = [(o.step, o.accepted) for _, o in desk.launcher.of(orders.Committed)]
    assert answers == [(20, True), (40, True), (60, True), (80, True)]
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert errand.among == {"digits/00000040-e1"}
    assert desk.engine.keeping.take() is None
    assert replay(desk.journal.events()) == desk.engine.world
    view = desk.engine.view(desk.engine.world.jobs["digits#1"])
    assert [c.step for c in view.checkpoints] == [20, 60, 80]


@pytest.mark.parametrize("keep", [KEEP_ALL, KEEP_AUTO])
def test_auto_and_all_keep_everything_while_there_is_room(desk: Desk, keep: Keep) -> None:
    desk.begin(keep)
    for step in range(10, 100, 10):
        desk.commit(step)
    assert desk.steps == list(range(10, 100, 10))
    assert desk.engine.keeping.take() is None


def test_a_fact_that_comes_again_after_the_drop_changes_nothing(desk: Desk) -> None:
    desk.begin(Keep(last=1))
    first = desk.commit(20, tag="best")
    second = desk.commit(40)
    desk.commit(60, tag="best")
    desk.commit(80, tag="best")
    assert desk.steps == [80]
    for fact in (first, second):
        desk.report(fact, slots=8)
    assert desk.steps == [80]
    assert desk.run.tags == {"best": desk.run.head}
    assert all(order.accepted for _, order in desk.launcher.of(orders.Committed))
    assert desk.notes() == ()


def test_a_full_store_thins_a_run_that_keeps_all_until_then(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    losses = {20: 0.4, 40: 0.1, 60: 0.3}
    for step in range(20, 180, 20):
        desk.commit(step, tag="mine" if step == 80 else None,
                    metrics={"loss": losses.get(step, math.nan)})  # fmt: skip
    desk.fail(180)
    assert desk.steps == [40, 80, 120, 140, 160]
    assert desk.dropped()[0][1] == "auto, since the store is full"
    assert desk.notes() == (
        "The checkpoint at step 180 failed: it is so.",
        "The store is full: dropped 3 checkpoints of digits (rule auto).",
    )
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert (errand.among, errand.jobs) == (None, ("digits#1",))
    desk.engine.keeping.swept(errand, 3 << 20)
    assert desk.notes()[-1] == "Freed 3.0 MiB of the store."
    assert desk.engine.world.jobs["digits#1"].state is JobState.RUNNING


def test_other_ranks_and_repetitions_of_a_failure_make_room_once(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    for step in range(20, 120, 20):
        desk.commit(step)
    desk.fail(120)
    desk.engine.keeping.take()
    desk.fail(120)
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert errand.among == {"digits/00000120-e1"}  # only what it may have left
    assert len(desk.dropped()) == 1


@pytest.mark.parametrize("keep", [KEEP_ALL, Keep(last=9)])
def test_a_rule_that_has_nothing_to_give_is_said(desk: Desk, keep: Keep) -> None:
    desk.begin(keep)
    desk.commit(20)
    desk.commit(40)
    desk.fail(60)
    assert desk.steps == [20, 40]
    assert desk.notes()[-1] == (
        f"The store is full, and the rule {keep} leaves no checkpoint of digits to drop. "
        "Free some space, or keep fewer (%resilient retain digits --keep 1)."
    )
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert errand.among is None  # debris may give room, too


def test_any_other_failure_is_told_and_its_folder_swept(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    for step in range(20, 140, 20):
        desk.commit(step)
    desk.fail(140, errno.EIO)
    assert len(desk.steps) == 6
    assert desk.notes() == ("The checkpoint at step 140 failed: it is so.",)
    assert desk.engine.keeping.failed == {"digits/00000140-e1"}
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert errand.among == {"digits/00000140-e1"}


def test_a_checkpoint_that_was_reported_to_have_failed_is_refused(desk: Desk) -> None:
    """Its folder may be half swept already."""
    desk.begin(KEEP_AUTO)
    desk.commit(20)
    desk.fail(40, errno.EIO)
    desk.commit(40)
    assert desk.steps == [20]
    assert [o.accepted for _, o in desk.launcher.of(orders.Committed)] == [True, False]
    assert desk.notes()[-1].startswith("A checkpoint was refused: digits/00000040-e1 was reported")


def test_a_failure_of_a_committed_checkpoint_or_of_an_older_attempt_means_nothing(
    desk: Desk,
) -> None:
    desk.begin(KEEP_AUTO)
    desk.commit(20)
    desk.fail(20)
    desk.fail(40, epoch=7)
    desk.fail(40, job="nobody#1")
    assert desk.engine.keeping.failed == set()
    assert desk.engine.keeping.take() is None
    assert desk.notes() == ()


def test_an_attempt_that_broke_off_may_have_left_debris(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    desk.commit(20)
    desk.fail(40, errno.EIO)
    desk.report(orders.RankDone("digits#1", 1, killed()), slots=8)
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert errand.among == {"digits", "digits/00000040-e1"}
    assert desk.engine.keeping.failed == set()


def test_an_attempt_that_ended_in_order_left_none(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    desk.commit(20)
    desk.report(orders.RankDone("digits#1", 1, an_end()), slots=8)
    assert desk.engine.world.jobs["digits#1"].state is JobState.SUCCEEDED
    assert desk.engine.keeping.take() is None


def test_a_job_without_room_for_its_checkpoints_thins_its_run_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, preflight=True)
    desk.begin(KEEP_AUTO)
    for step in range(20, 140, 20):
        desk.commit(step)
        folder = Path(desk.settings.runs, desk.run.head)
        folder.mkdir(parents=True)
        (folder / "zarr.json").touch()
    desk.report(orders.RankDone("digits#1", 1, killed()), slots=8, store_free=1 << 20)
    assert desk.engine.world.jobs["digits#1"].state is JobState.QUEUED
    assert desk.steps == [80, 100, 120]
    errand = desk.engine.keeping.take()
    assert errand is not None
    assert errand.among is None
    view = desk.engine.view(desk.engine.world.jobs["digits#1"])
    assert "The store has 1 MiB free; checkpoints of digits need 64 MiB" in view.reason
    for _ in range(3):
        desk.clock.advance(10)
        desk.engine.tick()
    assert desk.engine.keeping.take() is None
    desk.report(slots=8, store_free=1 << 40)
    desk.clock.advance(10)
    desk.engine.tick()
    assert desk.engine.world.jobs["digits#1"].state is JobState.STARTING


def test_a_job_that_starts_from_the_last_of_another_finds_it(desk: Desk) -> None:
    desk.begin(Keep(last=1))
    desk.commit(20)
    desk.commit(40)
    desk.report(orders.RankDone("digits#1", 1, an_end()), slots=8)
    with pytest.raises(InvalidRequest, match="finished at step 40: nothing is left to resume"):
        desk.ask(rq.Resume("digits", "r"))
    desk.ask(rq.Fork("digits@40", "fork"))
    desk.ask(rq.Retain("digits", Keep(last=1)))
    assert desk.steps == [40]


# --- retain ---


def test_retain_says_what_it_would_do_and_then_does_it(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    for step in range(20, 140, 20):
        desk.commit(step)
    before = desk.engine.world
    dry = desk.ask(rq.Retain("digits", Keep(last=2), dry_run=True))
    assert desk.engine.world is before
    assert desk.engine.keeping.take() is None
    assert (dry.run, dry.rule, dry.dry_run) == ("digits", "last=2", True)
    assert [row.step for row in dry.checkpoints if not row.kept] == [20, 40, 60, 80]
    assert dry.checkpoints[-1].reasons == ("head", "one of the last 2")
    done = desk.ask(rq.Retain("digits", Keep(last=2)))
    assert done.checkpoints == dry.checkpoints
    assert desk.steps == [100, 120]
    assert desk.dropped()[0][1] == "retain last=2"
    assert rule_of(desk.engine.world, "digits") == KEEP_AUTO
    again = desk.ask(rq.Retain("digits", Keep(last=2)))
    assert [row.step for row in again.checkpoints] == [100, 120]
    assert len(desk.dropped()) == 1


def test_a_misspelt_metric_is_said_to_the_job_once_and_by_retain(desk: Desk) -> None:
    desk.begin(Keep(best=(Best(3, "los"),)))
    desk.commit(20, metrics={"loss": 0.5})
    assert desk.notes() == ()  # there is nothing to drop
    desk.commit(40, metrics={"loss": 0.4})
    desk.commit(60, metrics={"loss": 0.3, "lr": 0.1})
    assert desk.steps == [20, 40, 60]
    said = (
        "No checkpoint of digits has the metric los yet, so the rule best=3:los drops nothing "
        "while there is room: it can't tell which are the best. Metrics there are: loss"
    )
    assert desk.notes() == (f"{said}; did you mean loss?",)
    for dry_run in (True, False):
        report = desk.ask(rq.Retain("digits", None, dry_run))
        assert all(row.kept for row in report.checkpoints)
        assert report.hint == f"{said}, lr; did you mean loss?"
        assert "Nothing is dropped now." in retention_text(report)
    assert desk.dropped() == []
    assert desk.ask(rq.Retain("digits", Keep(best=(Best(1, "loss"),)))).hint == ""
    assert desk.steps == [60]


def test_retain_without_a_rule_uses_the_runs(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    for step in range(20, 140, 20):
        desk.commit(step)
    desk.report(slots=8, store_free=1 << 20)
    assert desk.ask(rq.Retain("digits")).rule == "auto"
    assert desk.steps == [80, 100, 120]
    assert desk.ask(rq.Retain("digits", KEEP_ALL)).rule == "all"
    assert desk.steps == [80, 100, 120]


@pytest.mark.parametrize("free", [None, 1 << 40])
def test_a_rule_that_waits_for_a_full_store_drops_nothing_while_there_is_room(
    desk: Desk, free: int | None
) -> None:
    desk.begin(KEEP_AUTO)
    for step in range(20, 140, 20):
        desk.commit(step)
    desk.report(slots=8, store_free=free)
    for dry_run in (True, False):
        report = desk.ask(rq.Retain("digits", dry_run=dry_run))
        assert all(row.kept for row in report.checkpoints)
        assert report.checkpoints[0].reasons == ("the store has room",)
        assert "%resilient retain digits --keep 3" in report.hint
    assert len(desk.steps) == 6
    shown = retention_text(report, moment=Moment(0.0))
    assert "dropped 0 of 6 checkpoints" in shown
    assert "! Nothing is dropped now. The rule auto drops checkpoints when the store is" in shown
    assert desk.ask(rq.Retain("digits", KEEP_AUTO)).hint == ""
    assert desk.steps == [80, 100, 120]
    assert desk.ask(rq.Retain("digits")).hint == ""  # it would drop none of these


def test_only_the_owner_drops_but_anybody_may_look(desk: Desk) -> None:
    desk.begin(KEEP_AUTO)
    desk.commit(20)
    desk.commit(40)
    with pytest.raises(NotAllowed, match="Run digits is ada's, and you are eve"):
        desk.commands(rq.Retain("digits", Keep(last=1)), "eve")
    assert desk.commands(rq.Retain("digits", Keep(last=1), True), "eve").dry_run
    assert desk.steps == [20, 40]


# --- what is shown ---

REPORT = RetentionReport(
    "digits", "last=1", True,
    (
        RetentionRow("digits@20", "digits/00000020-e1", 20, 0.0, 2048, False),
        RetentionRow("digits@40", "digits/00000040-e1", 40, 0.0, 2048, True, ("head", "tag <b>")),
    ),
    1024,
)  # fmt: skip


def test_the_report_says_what_and_why() -> None:
    text = retention_text(REPORT, moment=Moment(0.0))
    assert text.splitlines()[0] == (
        "run digits  rule last=1 · would drop 1 of 2 checkpoints · would free 1.00 KiB"
    )
    assert "Would be dropped" in text
    assert "head, tag <b>" in text
    html = retention_html(REPORT, moment=Moment(0.0))
    assert "tag &lt;b&gt;" in html
    done = RetentionReport("digits", "5", False, REPORT.checkpoints, None, "It is damaged.")
    text = retention_text(done, moment=Moment(0.0))
    assert text.startswith("run digits  rule 5 · dropped 1 of 2 checkpoints\n! How much that frees")
    assert "\nDropped\n" in text
    empty = RetentionReport("new", "auto", False, ())
    assert "No checkpoints of its own." in retention_text(empty)


class Plane(Client):
    """A client that answers itself."""

    def __init__(self) -> None:
        super().__init__("tcp://nowhere:1")
        self.asked: list[object] = []

    def request(self, message: Any, kind: Any) -> Any:
        self.asked.append(rq.REQUESTS.unpack(rq.REQUESTS.pack(message)))
        return REPORT if isinstance(message, rq.Retain) else []


def test_the_verb_and_python_ask_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilient_nb.handles import Run

    plane = Plane()
    monkeypatch.setattr(connection, "current", lambda *_: plane)
    shown = execute(parse_line("retain digits --keep last=5,best=3:loss --dry-run"), object())
    assert shown.data == REPORT
    assert "would drop 1 of 2" in str(shown)
    assert Run(plane, "digits").retain("last=5,best=3:loss", dry_run=True) == REPORT
    assert Run(plane, "digits").retain() == REPORT
    asked = rq.Retain("digits", Keep(5, 0, (Best(3, "loss"),)), True)
    assert plane.asked == [asked, asked, rq.Retain("digits")]


def test_checkpoints_of_jobs_that_a_damaged_journal_has_lost_are_as_others() -> None:
    old = a_checkpoint("digits#3", 5, epoch=7)
    new = a_checkpoint("digits#3", 9, epoch=7, parent=old.id)
    story = Story().then(
        ev.JournalSalvaged(1.0, "A part is lost."),
        ev.RunCreated(1.0, "digits"),
        ev.CheckpointsFound(1.0, "digits", (old, new), new.id),
    )
    kept = Keep(last=1, thinning=Thinning.ALWAYS)
    assert superfluous(story.world, "digits", kept) == (old.id,)
