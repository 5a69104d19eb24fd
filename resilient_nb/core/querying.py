"""Which jobs somebody asks for, and what is said of each: a row of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from resilient_nb.core.facts import Facts
from resilient_nb.core.model import Checkpoint, Job, JobState
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest

_CONDITION = re.compile(r"\s*([^<>=!,\s]+)\s*(<=|>=|==|!=|<|>|=)\s*([^<>=!,\s]+)\s*\Z")
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Condition:
    """What the newest value of a metric must be; `how` is <, <=, >, >=, = or !=."""

    metric: str
    how: str
    value: float

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether it holds. A metric that was never logged fulfils nothing."""
        if self.metric not in metrics:
            return False
        value = metrics[self.metric]
        return {
            "<": value < self.value,
            "<=": value <= self.value,
            ">": value > self.value,
            ">=": value >= self.value,
            "=": value == self.value,
            "!=": value != self.value,
        }[self.how]


@dataclass(frozen=True)
class Query:
    """Which jobs, the newest first; what is empty or None doesn't matter.

    Attributes:
        states: one of these.
        metrics: all of these hold.
        tag: one of its checkpoints has this tag.
        cause: an attempt failed for a cause with these words.
        data: a checkpoint records data with this in its name, or whose fingerprint begins so.
        since, until: it waited or ran at some time between these.
        limit: no more than so many.
    """

    run: str = ""
    user: str = ""
    states: tuple[JobState, ...] = ()
    metrics: tuple[Condition, ...] = ()
    tag: str = ""
    cause: str = ""
    data: str = ""
    since: float | None = None
    until: float | None = None
    limit: int = 100


@dataclass(frozen=True)
class JobRow:
    """One job in numbers. Times are seconds since the Unix epoch, sizes bytes.

    Attributes:
        causes: why attempts failed, in order.
        lost_steps, lost_s: what was made again, or is lost, since they did.
        data: what checkpoints say of the data: name and fingerprint of each loop's.
        metrics: the newest value of each.
        recorded_s: for how long the gang was looked at; the next are of that time.
        steps: steps made, also those made again; items: samples of data in them.
        data_s, compute_s, wait_s, checkpoint_s: seconds of these steps, of all ranks together.
        longest_s: the longest step.
        memory: the most that a rank had.
        cpu_s, read, written: of all ranks together.
    """

    job: str
    run: str
    user: str
    group: str
    state: JobState
    priority: str
    workers: int
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    attempts: int
    causes: tuple[str, ...] = ()
    lost_steps: int = 0
    lost_s: float = 0.0
    checkpoints: int = 0
    step: int = 0
    tags: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    recorded_s: float = 0.0
    steps: int = 0
    items: int = 0
    data_s: float = 0.0
    compute_s: float = 0.0
    wait_s: float = 0.0
    checkpoint_s: float = 0.0
    longest_s: float = 0.0
    memory: int = 0
    cpu_s: float = 0.0
    read: int = 0
    written: int = 0


@dataclass(frozen=True)
class RankFacts:
    """What one rank did: in all, and in rows of time."""

    rank: int
    total: Facts
    rows: tuple[Facts, ...]


@dataclass(frozen=True)
class FactsReport:
    """What was recorded of a job's ranks. `total` is of the gang; None if there is nothing."""

    job: str
    total: Facts | None
    ranks: tuple[RankFacts, ...] = ()


def candidates(world: World, query: Query) -> Iterator[Job]:
    """Yield the jobs that a query asks for, the newest first, whatever their metrics are."""
    for job in reversed(list(world.jobs.values())):
        if _fits(job, query) and _is_linked(world, job, query):
            yield job


def fits(metrics: Mapping[str, float], query: Query) -> bool:
    """Whether a job with these metrics is asked for, as far as they go."""
    return all(condition.holds(metrics) for condition in query.metrics)


def _fits(job: Job, query: Query) -> bool:
    ended = job.ended_at
    return (
        query.run in ("", job.run)
        and query.user in ("", job.spec.user)
        and (not query.states or job.state in query.states)
        and (query.since is None or ended is None or ended >= query.since)
        and (query.until is None or job.submitted_at <= query.until)
        and any(query.cause.lower() in cause.lower() for cause in _causes(job) or ("",))
    )


def _is_linked(world: World, job: Job, query: Query) -> bool:
    if not query.tag and not query.data:
        return True
    text = query.data.lower()
    found = any(text in name.lower() for name in data_of(world, job)) if text else True
    return found and (not query.tag or query.tag in tags_of(world, job))


def _causes(job: Job) -> tuple[str, ...]:
    return tuple(failure.cause for failure in job.failures)


def _own(world: World, job: Job) -> list[Checkpoint]:
    return [c for c in world.runs[job.run].checkpoints.values() if c.job == job.id]


def tags_of(world: World, job: Job) -> tuple[str, ...]:
    """Return the tags of a job's checkpoints."""
    own = {c.id for c in _own(world, job)}
    return tuple(sorted(tag for tag, at in world.runs[job.run].tags.items() if at in own))


def data_of(world: World, job: Job) -> tuple[str, ...]:
    """Return what a job's checkpoints say of its data, each once."""
    return tuple(dict.fromkeys(name for c in _own(world, job) for name in c.data))


def row_of(world: World, job: Job, metrics: Mapping[str, float], total: Facts | None) -> JobRow:
    """Return a job in numbers."""
    own, done = _own(world, job), total or Facts(0, 0)
    return JobRow(
        job=job.id,
        run=job.run,
        user=job.spec.user,
        group=job.spec.group,
        state=job.state,
        priority=job.priority.value,
        workers=job.spec.workers,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        attempts=job.attempts,
        causes=_causes(job),
        lost_steps=sum(failure.lost_steps for failure in job.failures),
        lost_s=sum(failure.lost_s for failure in job.failures),
        checkpoints=len(own),
        step=max([done.step, *(c.step for c in own), *(e.step for e in job.ends.values())]),
        tags=tags_of(world, job),
        data=data_of(world, job),
        metrics=metrics,
        recorded_s=done.seconds,
        steps=done.steps,
        items=done.items,
        data_s=done.data_s,
        compute_s=done.compute_s,
        wait_s=done.wait_s,
        checkpoint_s=done.checkpoint_s,
        longest_s=done.longest_s,
        memory=done.rss or max((e.peak_rss for e in job.ends.values()), default=0),
        cpu_s=done.cpu_s,
        read=done.read,
        written=done.written,
    )


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Return what `loss<0.3,accuracy>=0.9` says.

    Raises:
        InvalidRequest: it isn't like that.
    """
    return tuple(_condition(part) for part in text.split(","))


def _condition(text: str) -> Condition:
    found = _CONDITION.match(text)
    try:
        value = float(found[3]) if found else None
    except ValueError:
        value = None
    if found is None or value is None:
        raise InvalidRequest(
            f"{text.strip()!r} is no condition: write metric, comparison and number, such as "
            "loss<0.3 or accuracy>=0.9 (in quotes)."
        )
    return Condition(found[1], "=" if found[2] == "==" else found[2], value)


def parse_when(text: str, now: float) -> float:
    """Return the time that `2d` (ago) or `2026-11-25T14:30` (here) means.

    Raises:
        InvalidRequest: it is neither.
    """
    if found := _AGO.match(text.strip()):
        return now - float(found[1]) * _SECONDS[found[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest(
            f"{text!r} is no time: write how long ago (30m, 12h, 2d, 1w) or a date such as "
            "2026-11-25 or 2026-11-25T14:30."
        ) from None


def parse_states(text: str) -> tuple[JobState, ...]:
    """Return the states that `failed,cancelled` names.

    Raises:
        InvalidRequest: there is no such state.
    """
    known: Sequence[str] = [state.value for state in JobState]
    for name in text.split(","):
        if name.strip() not in known:
            raise InvalidRequest(f"{name.strip()!r} is no state: {', '.join(known)}.")
    return tuple(JobState(name.strip()) for name in text.split(","))
