"""Facts that alerts are made of, from the world, from events, and from what is live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from resilient_nb.core import events as ev
from resilient_nb.core.accounting import group_of
from resilient_nb.core.alert_model import Fact
from resilient_nb.core.case import in_a_row, kept_until
from resilient_nb.core.model import Failure, Job, JobState, Proposal, StopReason
from resilient_nb.core.proposals import said
from resilient_nb.core.world import World


class LiveRank(Protocol):
    """What a rank has said last: bytes of memory, steps a second, and where their time goes."""

    rank: int
    host: str

    @property
    def rss(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def data_share(self) -> float: ...


class LiveJob(Protocol):
    """What is known of a job beyond the journal."""

    def heard(self, job: str) -> Iterable[LiveRank]:
        """Return its ranks."""

    def metrics(self, job: str) -> Mapping[str, tuple[float, float]]:
        """Return the newest value of each of its metrics, and when that came."""


def labels_of(world: World, job: Job) -> dict[str, str]:
    """Return the labels that all facts of a job have."""
    return {"user": job.spec.user, "group": group_of(world, job), "run": job.run, "job": job.id}


# --- what has happened ------------------------------------------------------------------------


def happened(events: Sequence[ev.Event], world: World) -> Iterator[Fact]:
    """Yield what events say to alerts; `world` is the one after them."""
    for event in events:
        job = world.jobs.get(getattr(event, "job", ""))
        if job is not None:
            yield from _of_job(event, labels_of(world, job))
            if job.state.final:
                yield Fact("proposal_withdrawn", labels_of(world, job), at=event.at)


def _of_job(event: ev.Event, labels: Mapping[str, str]) -> Iterator[Fact]:
    job = labels["job"]
    match event:
        case ev.JobFailed():
            yield _failed(event.failure, labels)
        case ev.JobRequeued() if event.failure is not None:
            text = f"{job}: {failure_said(event.failure)}"
            yield Fact("job_retried", labels, at=event.at, text=text)
        case ev.StopRequested() if event.reason is StopReason.PREEMPT:
            yield Fact("job_preempted", labels, at=event.at, text=f"{job} leaves for {event.by}.")
        case ev.JobSubmitted():
            yield Fact("job_went_on", labels, at=event.at, text=f"{job} was submitted.")
        case ev.StopProposed():
            text = f"{job}: {said(Proposal(event.why, event.evidence, event.at))}"
            yield Fact("proposal", labels, at=event.at, text=text)
        case ev.ProposalWithdrawn():
            yield Fact("proposal_withdrawn", labels, at=event.at)
        case ev.JobSucceeded():
            yield Fact("job_went_on", labels, at=event.at, text=f"{job} has succeeded.")
            yield Fact("job_succeeded", labels, at=event.at, text=f"{job} has succeeded.")
        case ev.JobCancelled():
            yield Fact("job_cancelled", labels, at=event.at, text=f"{job}: {event.message}")


def _failed(failure: Failure, labels: Mapping[str, str]) -> Fact:
    """A job failed: for good, or until somebody gives it another budget."""
    name = "dead_letter" if failure.spent else "job_failed"
    text = f"{labels['job']} failed: {failure_said(failure)}"
    return Fact(name, labels, at=failure.at, text=text)


def failure_said(failure: Failure) -> str:
    """Return a failure on one line: cause, what happened, and what was decided."""
    told = " ".join(failure.message.split())
    return f"{failure.cause}. {told} {failure.reason}"


def missed(world: World, since: float) -> Iterator[Fact]:
    """Yield the failures that nobody was told of: while no control plane looked."""
    for job in world.jobs.values():
        newest = world.runs[job.run].jobs[-1] == job.id
        if newest and job.state is JobState.FAILED and job.failures[-1:]:
            failure = job.failures[-1]
            if failure.at > since:
                yield _failed(failure, labels_of(world, job))


# --- what is the case -------------------------------------------------------------------------


def of_jobs(world: World, live: LiveJob, wanted: Iterable[str], now: float) -> Iterator[Fact]:
    """Yield the wanted facts of all unfinished jobs and their ranks."""
    names = set(wanted)
    metrics = {name.partition(":")[2]: name for name in names if name.startswith("metric:")}
    for job in world.open.values():
        if job.state is JobState.QUEUED and not job.failures and "waiting" not in names:
            continue  # of a long queue nearly all
        labels = labels_of(world, job)
        for name, value in _numbers(world, job, now):
            if name in names:
                yield Fact(name, labels, value, now)
        if job.state is not JobState.RUNNING:
            continue
        if names & {"memory_share", "data_wait_share", "steps_per_second"}:
            yield from _of_ranks(tuple(live.heard(job.id)), labels, now)
        if metrics:
            for metric, (value, at) in live.metrics(job.id).items():
                if metric in metrics:
                    yield Fact(metrics[metric], labels, value, at)


def _numbers(world: World, job: Job, now: float) -> Iterator[tuple[str, float]]:
    if job.failures:
        yield "retries_in_a_row", fruitless(job)
    if job.state is JobState.QUEUED:
        yield "waiting", now - job.queued_at
    if job.state is JobState.RUNNING:
        yield "checkpoint_age", checkpoint_age(world, job, now)


def fruitless(job: Job) -> int:
    """Return how often a job has failed in a row without getting any further."""
    return in_a_row(job.failures, job.failures[-1].resumes_from) if job.failures else 0


def checkpoint_age(world: World, job: Job, now: float) -> float:
    """Return the seconds of work that a failure would cost now: since checkpoint or start."""
    run = world.runs[job.run]
    head = world.checkpoint(run.head) if run.head else None
    return max(0.0, now - kept_until(job, head, now))


def _of_ranks(rows: Sequence[LiveRank], labels: Mapping[str, str], now: float) -> Iterator[Fact]:
    for row in rows:
        if row.limit and row.rss:
            own = {**labels, "rank": str(row.rank), "host": row.host}
            yield Fact("memory_share", own, row.rss / row.limit, now)
    steps = [row for row in rows if row.rate > 0]
    if steps:
        yield Fact("steps_per_second", labels, min(row.rate for row in steps), now)
        # A gang goes at the pace of the rank that waits longest for its data.
        yield Fact("data_wait_share", labels, max(row.data_share for row in steps), now)
