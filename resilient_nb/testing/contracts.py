"""What every implementation must keep, as suites that pytest can run.

Subclass `JournalContract` in a test module, give it `make`, and pytest collects its tests:

    class TestMine(JournalContract):
        def make(self, folder: Path) -> Journal:
            return MyJournal(folder / "journal")

`world_problems` lists what is wrong with a world; a fold of valid events has nothing wrong.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from resilient_nb.core import events as ev
from resilient_nb.core.accounting import Use, group_of, use
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import (
    Futile,
    Injected,
    Injection,
    Job,
    JobState,
    OnNan,
    Priority,
    Run,
)
from resilient_nb.core.policy import GroupRule, Limits, Policy
from resilient_nb.core.world import World
from resilient_nb.ports import Journal
from resilient_nb.testing.builders import (
    START,
    Story,
    a_checkpoint,
    a_failure,
    an_import,
    failed,
    on_hosts,
)


def a_history() -> Story:
    """Return a story in which every kind of event happens at least once."""
    rules = Policy(
        admins=("root",),
        limits={Priority.HIGH: Limits(running=4)},
        groups={"vision": GroupRule(2.0, ("ada",))},
    )
    story = Story().then(
        ev.ClusterCreated(START, "c0ffee"),
        ev.PolicyChanged(START, rules),
        ev.CapacityChanged(START, 4),
    )
    story.submit("digits", workers=2).start("digits", on_hosts(1, 1)).checkpoint(20, tag="best")
    story.stop().end(failed(1, step=25)).end(failed(0, step=25)).requeue(failure=a_failure())
    story.then(ev.RetryRequested(story.now, story.job().id, "ada", 1 << 30, OnNan.LOWER_LR))
    story.start().checkpoint(40).succeed(returned=("model",))
    head = story.world.runs["digits"].head
    assert head is not None
    story.then(ev.HeadMoved(story.now, "digits", "digits/00000020-e1", "ada"))
    story.then(ev.CheckpointTagged(story.now, "digits", head, "production"))
    story.then(ev.CheckpointTagged(story.now, "digits", head, "best"))
    story.then(ev.HeadMoved(story.now, "digits", head, "ada"))
    old = ("digits/00000020-e1",)
    story.then(ev.CheckpointsDropped(story.now, "digits", old, "last=1"))
    story.run("fork", head).submit("fork").cancel("fork").submit("fork").start("fork")
    story.then(ev.PriorityInherited(story.now, story.job("fork").id, Priority.URGENT))
    story.stop(run="fork").end(failed(0), run="fork").fail("fork")
    story.run("pretrained").then(ev.CheckpointImported(story.now, an_import("pretrained")))
    story.submit("pretrained").start("pretrained").checkpoint(10, "pretrained")
    running = story.job("pretrained")
    broken = Injected("i", Injection.SLOW, running.epoch, 0, "h0", story.now, 10.0, "ada")
    story.then(
        ev.StopProposed(story.now, running.id, Futile.LATE, ("It has two hours left.",)),
        ev.ProposalWithdrawn(story.now, running.id, Futile.LATE),
        ev.ChaosInjected(story.now, running.id, running.epoch, broken),
    )
    return _losses(story)


def _losses(story: Story) -> Story:
    """Go on with what was lost: an input, and then a part of the journal."""
    story.then(
        ev.InputDeclared(story.now, story.job("pretrained").id, "train", "/data/train.npy", "h0")
    )
    story.submit("reader", after=("digits#1",), inputs=("model",)).submit("digits")
    story.then(ev.InputLost(story.now, "reader#1", "digits#1", "digits#2"))
    story.then(ev.JournalSalvaged(story.now, "Damaged after event 40."))
    found = a_checkpoint("digits#2", 60, 9, story.world.runs["digits"].head)
    return story.then(ev.CheckpointsFound(story.now, "digits", (found,), found.id))


class JournalContract:
    """The suite of the `Journal` port. `make` opens the journal of a folder, new or again."""

    def make(self, folder: Path) -> Journal:
        """Open the journal that lives in `folder`."""
        raise NotImplementedError

    def test_a_new_journal_is_empty(self, tmp_path: Path) -> None:
        with contextlib.closing(self.make(tmp_path)) as journal:
            assert list(journal.events()) == []
            assert dict(journal.records.series("digits#1", 10)) == {}

    def test_every_event_comes_back_equal_and_in_order(self, tmp_path: Path) -> None:
        story = a_history()
        assert {type(event) for event in story.events} == set(ev.EVENTS.values())
        with contextlib.closing(self.make(tmp_path)) as journal:
            journal.append(story.events[:3])
            journal.append([])
            journal.append(story.events[3:])
            assert list(journal.events()) == story.events
            assert replay(journal.events()) == story.world

    def test_an_opened_journal_has_what_was_appended(self, tmp_path: Path) -> None:
        story = a_history()
        with contextlib.closing(self.make(tmp_path)) as journal:
            journal.append(story.events)
            journal.records.write([("digits#1", "loss", 1, 0.5)])
        with contextlib.closing(self.make(tmp_path)) as journal:
            assert list(journal.events()) == story.events
            assert journal.records.series("digits#1", 10) == {"loss": ((1, 0.5),)}
            journal.append([ev.ClusterCreated(START, "again")])
            assert list(journal.events())[-1] == ev.ClusterCreated(START, "again")

    def test_a_batch_with_a_bad_event_leaves_nothing(self, tmp_path: Path) -> None:
        with contextlib.closing(self.make(tmp_path)) as journal:
            kept = ev.ClusterCreated(START, "kept")
            journal.append([kept])
            bad = ev.RunCreated(START, object())  # type: ignore[arg-type]
            with contextlib.suppress(TypeError):
                journal.append([ev.RunCreated(START, "a"), bad])
            assert list(journal.events()) == [kept]
            journal.append([ev.RunCreated(START, "b")])
            assert list(journal.events()) == [kept, ev.RunCreated(START, "b")]

    def test_events_with_any_float_can_be_read_again(self, tmp_path: Path) -> None:
        """A diverged run logs NaN: its checkpoints must not make the journal unreadable."""
        metrics = {"loss": float("inf"), "gain": float("-inf"), "ratio": float("nan")}
        event = ev.CheckpointCommitted(START, a_checkpoint(metrics=metrics))
        with contextlib.closing(self.make(tmp_path)) as journal:
            journal.append([event])
            [found] = list(journal.events())
            assert isinstance(found, ev.CheckpointCommitted)
            assert repr(found) == repr(event)

    def test_the_last_point_of_a_step_wins_and_steps_are_in_order(self, tmp_path: Path) -> None:
        with contextlib.closing(self.make(tmp_path)) as journal:
            journal.records.write([("a#1", "loss", 3, 3.0), ("a#1", "loss", 1, 1.0)])
            journal.records.write(
                [("a#1", "loss", 3, 9.0), ("a#1", "lr", 2, 0.1), ("b#1", "loss", 1, 7.0)]
            )
            journal.records.write([])
            assert journal.records.series("a#1", 10) == {
                "loss": ((1, 1.0), (3, 9.0)),
                "lr": ((2, 0.1),),
            }

    def test_a_long_series_is_thinned_and_keeps_its_last_point(self, tmp_path: Path) -> None:
        with contextlib.closing(self.make(tmp_path)) as journal:
            journal.records.write(("a#1", "loss", step, step / 2) for step in range(1000))
            for limit in (1, 7, 300, 999, 1000, 5000):
                points = journal.records.series("a#1", limit)["loss"]
                assert min(limit, 1000) / 2 < len(points) <= min(limit, 1000)
                assert points[-1] == (999, 499.5)
                assert list(points) == sorted(points)

    def test_a_point_that_is_no_number_stays_so(self, tmp_path: Path) -> None:
        with contextlib.closing(self.make(tmp_path)) as journal:
            journal.records.write(
                [("a#1", "loss", 1, float("nan")), ("a#1", "loss", 2, float("inf"))]
            )
            assert repr(journal.records.series("a#1", 10)["loss"]) == "((1, nan), (2, inf))"


def world_problems(world: World) -> list[str]:
    """Return what contradicts itself in a world; nothing, if it is a fold of valid events."""
    problems = [p for run in world.runs.values() for p in _run_problems(world, run)]
    problems += [p for job in world.jobs.values() for p in _job_problems(world, job)]
    unfinished = {name: job for name, job in world.jobs.items() if not job.state.final}
    if dict(world.open) != unfinished:
        problems.append(f"{sorted(world.open)} count as unfinished, not {sorted(unfinished)}")
    return problems + _ledger_problems(world)


def _ledger_problems(world: World) -> list[str]:
    """Everybody is charged for just what their gangs hold."""
    due: dict[tuple[str, str], Use] = {}
    for job in world.open.values():
        key, new = (group_of(world, job), job.spec.user), use(world, job)
        old = due.get(key, Use())
        due[key] = Use(old.wanted + new.wanted, old.held + new.held, old.high + new.high)
    charged = {
        key: Use(account.wanted, account.held, account.high)
        for key, account in world.ledger.accounts.items()
    }
    keys = sorted({*due, *charged})
    return [
        f"{key} is charged {charged.get(key)} for {due.get(key)}"
        for key in keys
        if charged.get(key, Use()) != due.get(key, Use())
    ]


def _run_problems(world: World, run: Run) -> list[str]:
    jobs = [world.jobs[name] for name in run.jobs]
    found = []
    if sum(not job.state.final for job in jobs) > 1:
        found.append(f"run {run.name} has several unfinished jobs")
    if any(job.run != run.name for job in jobs) or len(set(run.jobs)) != len(run.jobs):
        found.append(f"run {run.name} has jobs that aren't its own")
    lost = world.salvaged is not None  # then a run may have had jobs of which nobody knows
    epochs = [c.epoch for c in run.checkpoints.values() if lost or not c.job]
    newest = max([*epochs, *(job.epoch for job in jobs)], default=0)
    if run.epoch < newest or (run.epoch != newest and not lost):
        found.append(f"run {run.name} is in epoch {run.epoch}, which is none of its jobs'")
    for what in [run.head, run.forked_from, *run.tags.values()]:
        try:
            known = what is None or world.checkpoint(what).id == what
        except KeyError:
            known = False
        if not known:
            found.append(f"run {run.name} points at the unknown checkpoint {what}")
    found += _lineage_problems(world, run)
    for identity, checkpoint in run.checkpoints.items():
        if (checkpoint.id, checkpoint.run) != (identity, run.name):
            found.append(f"run {run.name} holds the foreign checkpoint {checkpoint.id}")
        if not lost and checkpoint.job not in ("", *run.jobs):
            found.append(f"checkpoint {identity} is of {checkpoint.job}, no job of this run")
    return found


def _lineage_problems(world: World, run: Run) -> list[str]:
    parents = [c.parent for c in run.checkpoints.values()]
    pointers = {p for p in [run.head, run.forked_from, *run.tags.values(), *parents] if p}
    owners = {pointer: world.runs.get(pointer.partition("/")[0]) for pointer in pointers}
    return [
        f"run {run.name} refers to {pointer}, and {owner.name if owner else 'nobody'} knows"
        for pointer, owner in sorted(owners.items())
        if owner is None
        or pointer not in owner.checkpoints
        or (owner.name != run.name and run.name not in owner.offshoots)
    ]


def _job_problems(world: World, job: Job) -> list[str]:
    found = []
    ranks = [n for s in job.placement for n in range(s.first, s.first + s.count)]
    if bool(job.placement) != job.state.holds_gang:
        found.append(f"{job.id} is {job.state} with the placement {job.placement}")
    if job.placement and sorted(ranks) != list(range(job.ranks)):
        found.append(f"{job.id} holds the ranks {ranks}, not each of {job.ranks} once")
    if not set(job.ends) <= set(range(max(job.spec.workers, job.spec.max_workers))):
        found.append(f"{job.id} has ends of ranks that it never had: {sorted(job.ends)}")
    if (job.stop is not None) != (job.state is JobState.STOPPING):
        found.append(f"{job.id} is {job.state} with the stop reason {job.stop}")
    if job.state.final != (job.ended_at is not None):
        found.append(f"{job.id} is {job.state} and ended at {job.ended_at}")
    if job.run not in world.runs or job.id not in world.runs[job.run].jobs:
        found.append(f"{job.id} is in no run")
    return found
