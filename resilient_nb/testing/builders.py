"""Readable ways to make what tests need: `a_spec(workers=2)`, `Story().submit("digits")`.

Every builder gives a valid value with plain defaults; name only what the test is about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import evolve
from resilient_nb.core.model import (
    Cell,
    Checkpoint,
    Failure,
    Frame,
    Interval,
    Job,
    JobSpec,
    Outcome,
    Placement,
    RankEnd,
    RemoteError,
    Share,
    StopReason,
)
from resilient_nb.core.names import checkpoint_id, job_id, split_job
from resilient_nb.core.world import World
from resilient_nb.wire.orders import FACTS, Attempt, RankRow, Report, Sample

#: When stories begin, in seconds since the Unix epoch.
START = 1_000_000.0


def a_spec(workers: int = 1, **changes: Any) -> JobSpec:
    """Return what a small cell submits."""
    spec = JobSpec(Cell("for _ in run.steps(3): pass"), workers, interval=Interval(steps=1))
    return replace(spec, **changes)


def a_checkpoint(
    job: str = "digits#1", step: int = 20, epoch: int = 1, parent: str | None = None, **changes: Any
) -> Checkpoint:
    """Return a checkpoint that attempt `epoch` of `job` wrote at `step`."""
    run, _ = split_job(job)
    checkpoint = Checkpoint(
        id=checkpoint_id(run, step, epoch),
        run=run,
        job=job,
        epoch=epoch,
        step=step,
        parent=parent,
        digest=f"{step:08x}",
        nbytes=1024,
        at=START + step,
    )
    return replace(checkpoint, **changes)


def an_import(run: str = "pretrained", step: int = 0, **changes: Any) -> Checkpoint:
    """Return the checkpoint that a run begins with if it was imported."""
    return replace(a_checkpoint(run, step), **{"job": "", **changes})


def an_error(kind: str = "RuntimeError", message: str = "boom", **changes: Any) -> RemoteError:
    """Return an exception that a cell raised in its second line."""
    error = RemoteError(kind, message, (Frame("<cell>", 2, "<module>", "train()"),))
    return replace(error, **changes)


def an_end(rank: int = 0, outcome: Outcome = Outcome.FINISHED, **changes: Any) -> RankEnd:
    """Return how a rank ended; with an exit code that fits the outcome."""
    code = 0 if outcome in (Outcome.FINISHED, Outcome.LEFT) else 1
    return replace(RankEnd(rank, outcome, START, exit_code=code), **changes)


def killed(rank: int = 0, signal: int = 9, **changes: Any) -> RankEnd:
    """Return the end of a rank that a signal from outside ended."""
    return replace(an_end(rank, Outcome.EXITED, exit_code=None, signal=signal), **changes)


def failed(rank: int = 0, error: RemoteError | None = None, **changes: Any) -> RankEnd:
    """Return the end of a rank whose cell raised."""
    return replace(an_end(rank, Outcome.FAILED, error=error or an_error()), **changes)


def a_failure(cause: str = "native crash", step: int = 5, **changes: Any) -> Failure:
    """Return a past failure of a job."""
    failure = Failure(cause, "It broke.", "retry", "It may pass.", START, epoch=1, step=step)
    return replace(failure, **changes)


def on_hosts(*counts: int) -> Placement:
    """Return a placement with so many ranks on the hosts h0, h1, ... (none on a host with 0)."""
    shares, first = [], 0
    for number, count in enumerate(counts):
        if count:
            shares.append(Share(f"h{number}", first, count))
        first += count
    return tuple(shares)


def an_attempt(
    job: str = "digits#1", epoch: int = 1, world_size: int = 1, **changes: Any
) -> Attempt:
    """Return what the ranks of an attempt share; it starts from the beginning."""
    run, number = split_job(job)
    attempt = Attempt(
        job=job,
        run=run,
        number=number or 1,
        epoch=epoch,
        world_size=world_size,
        cell=Cell("pass"),
        interval=Interval(),
        seed=0,
        out=(),
        captured=None,
        store="/nowhere",
        start=None,
        start_id=None,
        start_step=0,
    )
    return replace(attempt, **changes)


def a_row(job: str = "digits#1", epoch: int = 1, rank: int = 0, pid: int = 0) -> RankRow:
    """Return a live rank in a supervisor's table."""
    return RankRow(job, epoch, rank, pid or 1000 + 10 * epoch + rank)


def a_report(
    host: str = "h0",
    *facts: object,
    slots: int = 2,
    ranks: tuple[RankRow, ...] = (),
    samples: tuple[Sample, ...] = (),
    **changes: Any,
) -> Report:
    """Return what the speaking agent of a warm host says; facts are numbered by themselves."""
    packed = tuple((f"{host}/{n}", FACTS.pack(fact)) for n, fact in enumerate(facts))
    report = Report(
        f"tcp://{host}", host, slots, speaks=True, warm=True, ranks=ranks, facts=packed,
        samples=samples,
    )  # fmt: skip
    return replace(report, **changes)


class Story:
    """A history told in steps, and the world that it makes.

    Every step appends what happened one second after the step before, and evolves the world:
    a step that can't happen raises as `evolve` does. Steps return the story, so they chain.
    """

    def __init__(self) -> None:
        self.world = World()
        self.events: list[ev.Event] = []

    @property
    def now(self) -> float:
        """The clock of the next step."""
        return START + len(self.events)

    def then(self, *events: ev.Event) -> Story:
        """Let anything happen."""
        for event in events:
            self.world = evolve(self.world, event)
            self.events.append(event)
        return self

    def run(self, name: str = "digits", forked_from: str | None = None) -> Story:
        """Create a run."""
        return self.then(ev.RunCreated(self.now, name, forked_from))

    def submit(self, run: str = "digits", workers: int = 1, **spec: Any) -> Story:
        """Submit the run's next job; creates the run if there is none."""
        if run not in self.world.runs:
            self.run(run)
        number = len(self.world.runs[run].jobs) + 1
        job = job_id(run, number)
        event = ev.JobSubmitted(self.now, job, run, number, f"req-{job}", a_spec(workers, **spec))
        return self.then(event)

    def job(self, run: str = "digits") -> Job:
        """Return the run's newest job."""
        return self.world.jobs[self.world.runs[run].jobs[-1]]

    def reserve(self, run: str = "digits", placement: Placement | None = None) -> Story:
        """Grant the gang, on one host if nothing else is said."""
        job = self.job(run)
        where = placement if placement is not None else on_hosts(job.spec.workers)
        return self.then(ev.GangReserved(self.now, job.id, self.world.runs[run].epoch + 1, where))

    def start(self, run: str = "digits", placement: Placement | None = None) -> Story:
        """Grant the gang and have all its ranks begin."""
        self.reserve(run, placement)
        return self.then(ev.GangStarted(self.now, self.job(run).id, self.job(run).epoch))

    def checkpoint(self, step: int, run: str = "digits", tag: str | None = None) -> Story:
        """Commit a checkpoint of the current attempt, which follows the head."""
        job = self.job(run)
        new = a_checkpoint(job.id, step, job.epoch, self.world.runs[run].head)
        return self.then(ev.CheckpointCommitted(self.now, new, tag))

    def stop(self, reason: StopReason = StopReason.FAILURE, run: str = "digits") -> Story:
        """Ask the gang to stop."""
        return self.then(ev.StopRequested(self.now, self.job(run).id, reason))

    def end(self, *ends: RankEnd, run: str = "digits") -> Story:
        """End ranks."""
        for end in ends:
            job = self.job(run)
            self.then(ev.RankEnded(self.now, job.id, job.epoch, end))
        return self

    def succeed(self, run: str = "digits", returned: tuple[str, ...] = ()) -> Story:
        """Have every rank finish, and the job with them."""
        self.end(*(an_end(rank) for rank in range(self.job(run).spec.workers)), run=run)
        return self.then(ev.JobSucceeded(self.now, self.job(run).id, self.job(run).epoch, returned))

    def requeue(self, run: str = "digits", failure: Failure | None = None) -> Story:
        """Send the job back to the queue."""
        job = self.job(run)
        return self.then(ev.JobRequeued(self.now, job.id, job.epoch, failure))

    def fail(self, run: str = "digits") -> Story:
        """End the job for good."""
        job = self.job(run)
        failure = a_failure(decision="stop", epoch=job.epoch)
        return self.then(ev.JobFailed(self.now, job.id, job.epoch, failure))

    def cancel(self, run: str = "digits") -> Story:
        """End the job because a person asked for it."""
        return self.then(ev.JobCancelled(self.now, self.job(run).id, "Cancelled."))
