"""`core.lifecycle`: the fold keeps the world whole, whatever is thrown at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import TRANSITIONS, evolve, replay
from resilient_nb.core.lineage import imported
from resilient_nb.core.model import (
    Checkpoint,
    Failure,
    Futile,
    JobState,
    Keep,
    Outcome,
    Placement,
    RankEnd,
    RemoteError,
    Share,
    StopReason,
)
from resilient_nb.core.names import checkpoint_id
from resilient_nb.core.retention import superfluous
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidTransition, StaleEpoch
from resilient_nb.testing.builders import (
    START,
    Story,
    a_checkpoint,
    a_failure,
    a_spec,
    an_end,
    an_import,
    failed,
    on_hosts,
)
from resilient_nb.testing.contracts import a_history, world_problems
from resilient_nb.wire.codec import Registry, from_json, to_json

JOURNAL = Registry(*ev.EVENTS.values())
RUNS, JOBS = ("a", "b"), ("a#1", "a#2", "b#1")

# --- events of every type, whether they fit or not ---

times = st.floats(0, 1e9)
runs, jobs, epochs = st.sampled_from(RUNS), st.sampled_from(JOBS), st.integers(0, 4)
ranks = st.integers(0, 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
errors = st.builds(RemoteError, texts, texts, in_collective=st.booleans())
placements = st.sampled_from([on_hosts(1), on_hosts(2), on_hosts(1, 1), on_hosts(0, 1), ()])
failures = st.builds(Failure, texts, texts, texts, texts, times, epochs, error=errors | st.none())


def _checkpoint(job: str, step: int, epoch: int, parent: str | None, loss: float) -> Checkpoint:
    return a_checkpoint(job, step, epoch, parent, metrics={"loss": loss})


def _imported(run: str, step: int, epoch: int) -> Checkpoint:
    return an_import(run, step, epoch=epoch, id=checkpoint_id(run, step, epoch))


steps = st.integers(1, 3)
checkpoint_ids = st.builds(checkpoint_id, runs, steps, epochs)
checkpoints = st.builds(
    _checkpoint, jobs, steps, epochs, st.none() | checkpoint_ids, st.floats(allow_nan=False,
    allow_infinity=False),
)  # fmt: skip
imports = st.builds(_imported, runs, st.integers(0, 3), epochs)
ends = st.builds(
    RankEnd, ranks, st.sampled_from(Outcome), times, steps, st.none() | st.integers(0, 255),
    st.none() | st.integers(1, 31), st.booleans(), error=st.none() | errors,
)  # fmt: skip
specs = st.builds(a_spec, st.integers(1, 2), seed=st.integers(), user=texts)


def _submitted(at: float, job: str, request: str, spec: Any) -> ev.JobSubmitted:
    run, _, number = job.partition("#")
    return ev.JobSubmitted(at, job, run, int(number), request, spec)


any_event: st.SearchStrategy[ev.Event] = st.one_of(
    st.builds(ev.ClusterCreated, times, texts),
    st.builds(ev.RunCreated, times, runs, st.none() | checkpoint_ids),
    st.builds(_submitted, times, jobs, texts, specs),
    st.builds(ev.GangReserved, times, jobs, epochs, placements),
    st.builds(ev.GangStarted, times, jobs, epochs),
    st.builds(ev.StopRequested, times, jobs, st.sampled_from(StopReason), texts),
    st.builds(ev.StopProposed, times, jobs, st.sampled_from(Futile), st.tuples(texts)),
    st.builds(ev.ProposalWithdrawn, times, jobs, st.sampled_from(Futile)),
    st.builds(ev.RankEnded, times, jobs, epochs, ends),
    st.builds(ev.JobRequeued, times, jobs, epochs, st.none() | failures, times),
    st.builds(ev.JobSucceeded, times, jobs, epochs, st.just(("x",))),
    st.builds(ev.JobFailed, times, jobs, epochs, failures),
    st.builds(ev.JobCancelled, times, jobs, texts),
    st.builds(ev.CheckpointCommitted, times, checkpoints, st.none() | st.just("best")),
    st.builds(ev.CheckpointImported, times, imports | checkpoints),
    st.builds(ev.HeadMoved, times, runs, st.none() | checkpoint_ids, texts),
    st.builds(ev.CheckpointTagged, times, runs, checkpoint_ids, texts),
    st.builds(ev.CheckpointsDropped, times, runs, st.tuples(checkpoint_ids), texts),
)


def through_json(event: ev.Event) -> ev.Event:
    return JOURNAL.unpack(from_json(to_json(JOURNAL.pack(event))))


def check_step(before: World, after: World, event: ev.Event) -> None:
    """What no event may do to what was there."""
    assert world_problems(after) == []
    gone = event.checkpoints if isinstance(event, ev.CheckpointsDropped) else ()
    for name, run in before.runs.items():
        assert after.runs[name].epoch >= run.epoch
        assert after.runs[name].jobs[: len(run.jobs)] == run.jobs
        left = [identity for identity in run.checkpoints if identity not in gone]
        assert list(after.runs[name].checkpoints)[: len(left)] == left
    for name, job in before.jobs.items():
        new = after.jobs[name]
        if job.state.final:
            assert new == job
        if new.attempts != job.attempts:
            assert new.epoch > job.epoch


@settings(max_examples=200, deadline=None)
@given(st.lists(any_event, max_size=40))
def test_an_event_is_refused_or_keeps_the_world_whole(history: list[ev.Event]) -> None:
    world, accepted = World(), []
    for event in history:
        frozen = repr(world)
        try:
            new = evolve(world, event)
        except (InvalidTransition, StaleEpoch):
            assert repr(world) == frozen
            continue
        check_step(world, new, event)
        assert repr(world) == frozen  # pure: the old world is still what it was
        world = new
        accepted.append(event)
    assert replay(accepted) == world
    assert replay(map(through_json, accepted)) == world


@settings(max_examples=300, deadline=None)
@given(any_event)
def test_every_event_survives_the_journals_codec(event: ev.Event) -> None:
    assert through_json(event) == event
    assert type(through_json(event)) is type(event)


# --- histories that could be real ---


class Histories(RuleBasedStateMachine):
    """Rules make the event that fits a job's state; now and then comes one that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.accepted: list[ev.Event] = []

    def happen(self, event: ev.Event) -> None:
        new = evolve(self.world, event)
        check_step(self.world, new, event)
        self.world = new
        self.accepted.append(event)

    def _now(self) -> float:
        return START + len(self.accepted)

    def _in(self, *states: JobState) -> list[Any]:
        return [job for job in self.world.jobs.values() if job.state in states]

    def _holding(self) -> list[Any]:
        return [job for job in self.world.jobs.values() if job.state.holds_gang]

    @rule(run=runs, workers=st.integers(1, 3))
    def submit(self, run: str, workers: int) -> None:
        if run not in self.world.runs:
            self.happen(ev.RunCreated(self._now(), run))
        # `anything` may have made jobs with any number.
        taken = [self.world.jobs[job].number for job in self.world.runs[run].jobs]
        number = max([0, *taken, *(int(job[2:]) for job in self.world.runs[run].jobs)]) + 1
        job = f"{run}#{number}"
        event = ev.JobSubmitted(self._now(), job, run, number, job, a_spec(workers))
        if self.world.active_job(run) is None:
            self.happen(event)
        else:
            with pytest.raises(InvalidTransition, match="unfinished"):
                evolve(self.world, event)

    @rule(run=runs, step=st.integers(0, 3), epoch=st.integers(1, 3))
    def begin_with_an_import(self, run: str, step: int, epoch: int) -> None:
        if run not in self.world.runs:
            self.happen(ev.RunCreated(self._now(), run))
            self.happen(ev.CheckpointImported(self._now(), _imported(run, step, epoch)))

    @precondition(lambda self: self._in(JobState.QUEUED))
    @rule(data=st.data(), gap=st.integers(1, 3))
    def reserve(self, data: st.DataObject, gap: int) -> None:
        job = data.draw(st.sampled_from(self._in(JobState.QUEUED)))
        where = on_hosts(1, job.spec.workers - 1)
        epoch = self.world.runs[job.run].epoch + gap
        self.happen(ev.GangReserved(self._now(), job.id, epoch, where))

    @precondition(lambda self: self._in(JobState.STARTING))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self._in(JobState.STARTING)))
        self.happen(ev.GangStarted(self._now(), job.id, job.epoch))

    @precondition(lambda self: self._holding())
    @rule(data=st.data(), tag=st.none() | st.sampled_from(["best", "last"]))
    def checkpoint(self, data: st.DataObject, tag: str | None) -> None:
        job = data.draw(st.sampled_from(self._holding()))
        run = self.world.runs[job.run]
        step = len(self.accepted)
        new = a_checkpoint(job.id, step, job.epoch, run.head)
        self.happen(ev.CheckpointCommitted(self._now(), new, tag))

    @precondition(lambda self: self._holding())
    @rule(data=st.data(), reason=st.sampled_from(StopReason))
    def stop(self, data: st.DataObject, reason: StopReason) -> None:
        job = data.draw(st.sampled_from(self._holding()))
        self.happen(ev.StopRequested(self._now(), job.id, reason))
        now = self.world.jobs[job.id]
        assert now.stop is (StopReason.CANCEL if job.stop is StopReason.CANCEL else reason)

    @precondition(lambda self: self._holding())
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def end_rank(self, data: st.DataObject, outcome: Outcome) -> None:
        job = data.draw(st.sampled_from(self._holding()))
        left = [rank for rank in range(job.spec.workers) if rank not in job.ends]
        if left:
            self.happen(ev.RankEnded(self._now(), job.id, job.epoch, an_end(left[0], outcome)))
        assert self.world.jobs[job.id].gang_ended == (len(left) <= 1)

    @precondition(lambda self: any(job.gang_ended for job in self._holding()))
    @rule(data=st.data())
    def conclude(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([j for j in self._holding() if j.gang_ended]))
        if job.stop is None:
            self.happen(ev.JobSucceeded(self._now(), job.id, job.epoch, job.spec.out))
        elif job.stop in (StopReason.CANCEL, StopReason.ENOUGH):
            self.happen(ev.JobCancelled(self._now(), job.id))
        elif job.stop is StopReason.VACATE:
            self.happen(ev.JobRequeued(self._now(), job.id, job.epoch))
        else:
            event = data.draw(st.sampled_from([ev.JobRequeued, ev.JobFailed]))
            self.happen(event(self._now(), job.id, job.epoch, a_failure()))

    @precondition(lambda self: any(run.checkpoints for run in self.world.runs.values()))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([r for r in self.world.runs.values() if r.checkpoints]))
        target = data.draw(st.none() | st.sampled_from(list(run.checkpoints)))
        self.happen(ev.HeadMoved(self._now(), run.name, target))
        assert self.world.runs[run.name].checkpoints == run.checkpoints  # deletes nothing

    @precondition(lambda self: any(run.checkpoints for run in self.world.runs.values()))
    @rule(data=st.data(), last=st.integers(0, 3))
    def drop(self, data: st.DataObject, last: int) -> None:
        run = data.draw(st.sampled_from([r for r in self.world.runs.values() if r.checkpoints]))
        gone = superfluous(self.world, run.name, Keep(last=last))
        self.happen(ev.CheckpointsDropped(self._now(), run.name, gone))

    @rule(event=any_event)
    def anything(self, event: ev.Event) -> None:
        before = self.world
        try:
            self.happen(event)
        except (InvalidTransition, StaleEpoch):
            assert self.world is before

    def teardown(self) -> None:
        assert replay(map(through_json, self.accepted)) == self.world


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

# --- the table ---

_MOMENTS = {
    JobState.QUEUED: lambda: Story().submit(),
    JobState.STARTING: lambda: Story().submit().reserve(),
    JobState.RUNNING: lambda: Story().submit().start(),
    JobState.STOPPING: lambda: Story().submit().start().stop(),
    JobState.SUCCEEDED: lambda: Story().submit().start().succeed(),
    JobState.FAILED: lambda: Story().submit().start().stop().end(failed()).fail(),
    JobState.CANCELLED: lambda: Story().submit().cancel(),
}
_JOB_EVENTS: dict[type[ev.Event], Any] = {
    ev.GangReserved: lambda j: ev.GangReserved(START, j.id, j.epoch + 1, on_hosts(1)),
    ev.GangStarted: lambda j: ev.GangStarted(START, j.id, j.epoch),
    ev.StopRequested: lambda j: ev.StopRequested(START, j.id, StopReason.CANCEL),
    ev.RankEnded: lambda j: ev.RankEnded(START, j.id, j.epoch, an_end()),
    ev.JobRequeued: lambda j: ev.JobRequeued(START, j.id, j.epoch),
    ev.JobSucceeded: lambda j: ev.JobSucceeded(START, j.id, j.epoch),
    ev.JobFailed: lambda j: ev.JobFailed(START, j.id, j.epoch, a_failure()),
    ev.JobCancelled: lambda j: ev.JobCancelled(START, j.id),
}


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("kind", list(_JOB_EVENTS))
def test_only_the_tables_rows_are_ways_to_go(state: JobState, kind: type[ev.Event]) -> None:
    story = _MOMENTS[state]()
    job = story.job()
    assert job.state is state
    target = TRANSITIONS.get((state, kind))
    if target is None:
        with pytest.raises(InvalidTransition, match=rf"{kind.__name__} .* digits#1, which is"):
            story.then(_JOB_EVENTS[kind](job))
    else:
        assert story.then(_JOB_EVENTS[kind](job)).job().state is target


def test_every_state_is_reached_and_final_ones_are_never_left() -> None:
    assert set(TRANSITIONS.values()) | {JobState.QUEUED} == set(JobState)
    assert not [state for state, _ in TRANSITIONS if state.final]


# --- one by one ---


def test_a_retry_begins_anew_but_remembers() -> None:
    story = Story().submit(workers=2).start().stop().end(failed(0), an_end(1, Outcome.LEFT))
    failure = a_failure()
    job = story.requeue(failure=failure).job()
    assert (job.state, job.epoch, job.attempts) == (JobState.QUEUED, 1, 1)
    assert job.failures == (failure,)
    job = story.reserve().job()
    assert (job.epoch, job.attempts, dict(job.ends), job.stop) == (2, 2, {}, None)


def test_a_vacated_job_has_no_failure() -> None:
    story = Story().submit().start().stop(StopReason.VACATE).end(an_end(0, Outcome.LEFT))
    assert story.requeue().job().failures == ()


@pytest.mark.parametrize("event", [
    ev.GangStarted(START, "digits#1", 1),
    ev.RankEnded(START, "digits#1", 1, an_end()),
    ev.JobSucceeded(START, "digits#1", 1),
])  # fmt: skip
def test_an_older_attempt_can_do_nothing(event: ev.Event) -> None:
    story = Story().submit().start().stop().end(failed()).requeue(failure=a_failure()).reserve()
    with pytest.raises(StaleEpoch, match=r"Attempt 1 of digits#1 .* \(2\)"):
        story.then(event)


@pytest.mark.parametrize("epoch", [0, 1])
def test_epochs_of_a_run_grow_over_its_jobs(epoch: int) -> None:
    story = Story().submit().start().succeed().submit()
    assert story.job().id == "digits#2"
    with pytest.raises(StaleEpoch, match="not after 1"):
        story.then(ev.GangReserved(START, "digits#2", epoch, on_hosts(1)))


@pytest.mark.parametrize("placement", [(), on_hosts(1), on_hosts(2, 1)])
def test_a_gang_is_granted_whole(placement: Placement) -> None:
    with pytest.raises(InvalidTransition, match="has 2 ranks, not"):
        Story().submit(workers=2).reserve(placement=placement)


@pytest.mark.parametrize("placement", [
    (Share("h0", 0, 1), Share("h1", 0, 1)),  # rank 0 twice, rank 1 nowhere
    (Share("h0", 1, 2),),
    (Share("h0", 0, 3), Share("h1", 3, -1)),
])  # fmt: skip
def test_a_placement_holds_each_rank_once(placement: Placement) -> None:
    # Two processes of one rank would write one checkpoint part between them.
    with pytest.raises(InvalidTransition):
        Story().submit(workers=2).reserve(placement=placement)


def test_a_rank_that_the_gang_lacks_cant_end() -> None:
    # Else `gang_ended` counts it, and a job could succeed while rank 1 still trains.
    story = Story().submit(workers=2).start().end(an_end(0))
    with pytest.raises(InvalidTransition):
        story.end(an_end(7))


def test_a_rank_ends_only_once() -> None:
    # The first account stands: a second one would rewrite whom `recovery` blames.
    story = Story().submit(workers=2).start().end(an_end(0))
    with pytest.raises(InvalidTransition):
        story.end(failed(0))


def test_nothing_outranks_a_cancel() -> None:
    story = Story().submit().start()
    for reason in (StopReason.VACATE, StopReason.FAILURE, StopReason.CANCEL, StopReason.FAILURE):
        story.stop(reason)
    assert story.job().stop is StopReason.CANCEL


# --- checkpoints ---


def test_a_commit_moves_the_head_and_tags() -> None:
    story = Story().submit().start().checkpoint(20).checkpoint(40, tag="best")
    run = story.world.runs["digits"]
    assert run.head == run.tags["best"] == "digits/00000040-e1"
    assert run.checkpoints[run.head].parent == "digits/00000020-e1"


@pytest.mark.parametrize("change", [
    {"epoch": 2, "id": "digits/00000040-e2"}, {"job": "digits#9"}, {"parent": None},
])  # fmt: skip
def test_a_commit_that_doesnt_follow_the_head_is_stale(change: dict[str, Any]) -> None:
    story = Story().submit().start().checkpoint(20)
    new = a_checkpoint(step=40, parent="digits/00000020-e1")
    with pytest.raises(StaleEpoch):
        story.then(ev.CheckpointCommitted(START, replace(new, **change)))
    assert story.then(ev.CheckpointCommitted(START, new)).world.runs["digits"].head == new.id


@pytest.mark.parametrize("moment", [
    lambda: Story().submit().start().succeed(),
    lambda: Story().submit().start().stop().end(failed()).requeue(failure=a_failure()),
])  # fmt: skip
def test_a_commit_after_the_attempt_is_stale(moment: Any) -> None:
    with pytest.raises(StaleEpoch, match="no longer the current one"):
        moment().then(ev.CheckpointCommitted(START, a_checkpoint()))


def test_a_commit_while_stopping_counts() -> None:
    """That is what leaving at a checkpoint is."""
    story = Story().submit().start().stop(StopReason.VACATE).checkpoint(20)
    assert story.world.runs["digits"].head == "digits/00000020-e1"


def test_a_checkpoint_is_committed_once() -> None:
    story = Story().submit().start().checkpoint(20)
    with pytest.raises(InvalidTransition, match="committed already"):
        story.then(ev.CheckpointCommitted(START, a_checkpoint(parent="digits/00000020-e1")))


def test_a_checkpoints_id_is_that_of_its_run_step_and_epoch() -> None:
    # `World.checkpoint` finds a run by the id's first part: another one is a KeyError for ever.
    story = Story().submit().start()
    with pytest.raises(InvalidTransition):
        story.then(ev.CheckpointCommitted(START, a_checkpoint(id="elsewhere/00000020-e1")))


def test_a_job_cant_move_the_head_of_another_run() -> None:
    story = Story().submit("a").start("a").submit("b").start("b")
    foreign = a_checkpoint("b#1", run="a", id=checkpoint_id("a", 20, 1))
    with pytest.raises((InvalidTransition, StaleEpoch)):
        story.then(ev.CheckpointCommitted(START, foreign))


def test_children_of_dropped_checkpoints_follow_the_nearest_that_is_left() -> None:
    story = Story().submit().start()
    for step in (20, 40, 60, 80):
        story.checkpoint(step)
    ids = list(story.world.runs["digits"].checkpoints)
    story.then(ev.CheckpointsDropped(START, "digits", (ids[1], ids[2]), "last=1"))
    left = story.world.runs["digits"].checkpoints
    assert [(c.step, c.parent) for c in left.values()] == [(20, None), (80, ids[0])]
    story.then(ev.CheckpointsDropped(START, "digits", (ids[0],)))
    assert [c.parent for c in story.world.runs["digits"].checkpoints.values()] == [None]


def test_a_lineage_through_another_run_is_mended_there() -> None:
    story = Story().submit("a").start("a").checkpoint(20, "a").checkpoint(40, "a").succeed("a")
    first, head = story.world.runs["a"].checkpoints
    story.submit("b").then(ev.HeadMoved(START, "b", head)).start("b").checkpoint(60, "b")
    story.then(ev.HeadMoved(START, "a", first), ev.CheckpointsDropped(START, "a", (head,)))
    assert [c.parent for c in story.world.runs["b"].checkpoints.values()] == [first]
    assert world_problems(story.world) == []


@pytest.mark.parametrize("pointing", [
    lambda s, c: s.then(ev.HeadMoved(START, "digits", c)),
    lambda s, c: s.run("fork", c),
    lambda s, c: s.then(ev.CheckpointTagged(START, "digits", c, "best")),
    lambda s, c: s.run("other").then(ev.CheckpointTagged(START, "other", c, "best")),
    lambda s, c: s.run("other").then(ev.HeadMoved(START, "other", c)),
])  # fmt: skip
def test_what_a_run_points_at_cant_be_dropped(pointing: Any) -> None:
    story = Story().submit().start().checkpoint(20).checkpoint(40)
    first = next(iter(story.world.runs["digits"].checkpoints))
    pointing(story, first)
    with pytest.raises(InvalidTransition, match=f"needs {first} as its "):
        story.then(ev.CheckpointsDropped(START, "digits", (first,)))


def test_a_fork_begins_at_its_parents_checkpoint() -> None:
    story = Story().submit().start().checkpoint(20).run("fork", "digits/00000020-e1")
    fork = story.world.runs["fork"]
    assert fork.head == fork.forked_from == "digits/00000020-e1"
    story.submit("fork").start("fork").checkpoint(40, "fork")
    assert story.world.runs["fork"].head == "fork/00000040-e1"
    assert story.world.runs["digits"].head == "digits/00000020-e1"
    assert world_problems(story.world) == []


@pytest.mark.parametrize("event", [
    ev.RunCreated(START, "digits"),
    ev.RunCreated(START, "new", "digits/00000001-e1"),
    ev.HeadMoved(START, "digits", "digits/00000001-e1"),
    ev.HeadMoved(START, "nobody", None),
    ev.CheckpointTagged(START, "digits", "digits/00000001-e1", "best"),
    ev.CheckpointsDropped(START, "digits", ("digits/00000001-e1",)),
    ev.JobSubmitted(START, "x#1", "x", 1, "r", a_spec()),
    ev.JobSubmitted(START, "digits#1", "digits", 1, "r", a_spec()),
    ev.GangStarted(START, "nobody#1", 1),
])  # fmt: skip
def test_what_names_nothing_known_is_refused(event: ev.Event) -> None:
    story = Story().submit().cancel()
    before = story.world
    with pytest.raises(InvalidTransition):
        story.then(event)
    assert story.world == before


def an_imported_run() -> Story:
    story = Story().run("pretrained")
    return story.then(ev.CheckpointImported(story.now, an_import("pretrained", 500)))


def test_a_run_may_begin_with_an_import() -> None:
    story = an_imported_run()
    first = "pretrained/00000500-e1"
    run = story.world.runs["pretrained"]
    assert (run.head, run.epoch, list(run.checkpoints)) == (first, 1, [first])
    assert imported(run) == first
    story.submit("pretrained").start("pretrained").checkpoint(510, "pretrained")
    run = story.world.runs["pretrained"]
    assert run.head == "pretrained/00000510-e2"
    assert story.world.checkpoint(run.head).parent == first
    assert world_problems(story.world) == []


def test_a_fork_may_begin_at_an_import() -> None:
    story = an_imported_run()
    first = story.world.runs["pretrained"].head
    assert first is not None
    story.run("fork", first).submit("fork").start("fork").checkpoint(501, "fork")
    assert world_problems(story.world) == []
    story.submit("pretrained").start("pretrained").checkpoint(501, "pretrained")
    story.then(ev.HeadMoved(story.now, "pretrained", None))
    with pytest.raises(InvalidTransition, match="needs pretrained/00000500-e1"):
        story.then(ev.CheckpointsDropped(story.now, "pretrained", (first,)))


@pytest.mark.parametrize("change", [
    {"run": "digits", "id": "digits/00000000-e1"}, {"job": "pretrained#1"}, {"epoch": 0},
    {"parent": "pretrained/00000000-e1"}, {"step": 7}, {"id": "pretrained/0-e1"},
    {"step": -1, "id": "pretrained/-0000001-e1"},
])  # fmt: skip
def test_an_import_begins_its_own_run(change: dict[str, Any]) -> None:
    story = Story().run("pretrained")
    with pytest.raises(InvalidTransition):
        story.then(ev.CheckpointImported(story.now, replace(an_import(), **change)))


def test_only_a_new_run_begins_with_an_import() -> None:
    for story in (an_imported_run(), Story().submit("pretrained").cancel("pretrained")):
        with pytest.raises(InvalidTransition, match="has begun already"):
            story.then(ev.CheckpointImported(story.now, an_import("pretrained", 3)))


def test_the_shipped_history_has_nothing_wrong() -> None:
    assert world_problems(a_history().world) == []


def test_a_job_has_one_proposal_of_each_kind_until_it_is_withdrawn() -> None:
    story = Story().submit()
    kinds = {"late": Futile.LATE, "old": Futile.CONVERGED, "new": Futile.CONVERGED}
    late, old, new = (
        ev.StopProposed(story.now, story.job().id, kind, (text,)) for text, kind in kinds.items()
    )
    story.then(late, old, new)
    assert [(p.kind, p.evidence) for p in story.job().proposals] == [
        (Futile.LATE, ("late",)),
        (Futile.CONVERGED, ("new",)),
    ]
    story.then(ev.ProposalWithdrawn(story.now, story.job().id, Futile.CONVERGED))
    assert [p.kind for p in story.job().proposals] == [Futile.LATE]
    story.cancel()
    with pytest.raises(InvalidTransition):
        story.then(late)
