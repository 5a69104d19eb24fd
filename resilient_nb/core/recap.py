"""What happened in the last hours, why, what was done about it, and what it cost.

And the dead letters: jobs that were given up for a budget that is used up. Both are read off the
world, so they are the same after a restart of the control plane.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resilient_nb.core.explain import way_on
from resilient_nb.core.health import alerts
from resilient_nb.core.model import Failure, Job, JobState
from resilient_nb.core.world import World


@dataclass(frozen=True)
class DeadLetter:
    """A job that is no longer retried since a budget is used up.

    Attributes:
        spent: the budget: retries, memory, network, io, starts, disk, rollbacks or attempts.
        retry: the command that gives it another one.
    """

    job: str
    user: str
    at: float
    spent: str
    cause: str
    message: str
    reason: str
    evidence: tuple[str, ...]
    attempts: int
    step: int
    host: str
    retry: str


@dataclass(frozen=True)
class DeadReport:
    """All dead letters, the newest first."""

    letters: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class RecapEvent:
    """What went wrong at last for one cause, and what was done; and how often it did."""

    at: float
    cause: str
    times: int
    text: str


@dataclass(frozen=True)
class RecapRow:
    """A job of the time asked for.

    Attributes:
        failures: how often it failed in that time.
        lost_steps: steps that were made again for it.
        lost_s: seconds of work that were lost, and until it ran again.
        story: what happened, the newest first, one for each cause.
        act: how it is made to go on, if its user has to do something.
    """

    job: str
    user: str
    state: JobState
    step: int
    failures: int
    lost_steps: int
    lost_s: float
    at: float
    story: tuple[RecapEvent, ...] = ()
    act: str = ""


@dataclass(frozen=True)
class RecapReport:
    """What `%resilient recap` shows. `user` is whose jobs it is about ("": everybody's).

    Attributes:
        since: the begin of the time that it is about.
        counts: jobs by state.
        causes: failures by cause.
        retried: failures after which it went on by itself.
        lost_steps, lost_s: what all failures cost.
        jobs: those that need their user first, then those that failed, then the others.
        hosts: what is wrong with which, in words.
    """

    since: float
    now: float
    user: str
    counts: Mapping[str, int]
    causes: Mapping[str, int]
    retried: int
    lost_steps: int
    lost_s: float
    jobs: tuple[RecapRow, ...]
    hosts: tuple[str, ...] = ()


def dead_letters(world: World) -> DeadReport:
    """Return the failed jobs whose budgets are spent, and that nobody has gone on with since."""
    found = [
        _letter(job, job.failures[-1])
        for run in world.runs.values()
        if run.jobs and _is_dead(job := world.jobs[run.jobs[-1]])
    ]
    return DeadReport(tuple(sorted(found, key=lambda letter: (-letter.at, letter.job))))


def recap(
    world: World, since: float, now: float, user: str = "", steps: Mapping[str, int] | None = None
) -> RecapReport:
    """Return what happened from `since` on.

    Args:
        world: all jobs.
        since: when it begins.
        now: the clock.
        user: whose jobs; "": everybody's.
        steps: how far jobs are that run, by what their ranks last said.
    """
    jobs = [
        job
        for job in world.jobs.values()
        if (not user or job.spec.user == user) and _touches(job, since)
    ]
    failures = [f for job in jobs for f in job.failures if f.at >= since]
    rows = [_row(world, job, since, (steps or {}).get(job.id, 0)) for job in jobs]
    rows.sort(key=lambda row: (not row.act, -row.failures, -row.at, row.job))
    return RecapReport(
        since=since,
        now=now,
        user=user,
        counts=_counted(job.state.value for job in jobs),
        causes=_counted(f.cause for f in failures),
        retried=sum(f.decision == "retry" for f in failures),
        lost_steps=sum(f.lost_steps for f in failures),
        lost_s=sum(f.lost_s + f.down_s for f in failures),
        jobs=tuple(rows),
        hosts=alerts(world, now),
    )


def _is_dead(job: Job) -> bool:
    return job.state is JobState.FAILED and bool(job.failures and job.failures[-1].spent)


def _letter(job: Job, failure: Failure) -> DeadLetter:
    return DeadLetter(
        job=job.id,
        user=job.spec.user,
        at=failure.at,
        spent=failure.spent,
        cause=failure.cause,
        message=failure.message,
        reason=failure.reason,
        evidence=failure.evidence,
        attempts=job.attempts,
        step=failure.step,
        host=failure.host,
        retry=f"%resilient retry {job.run}",
    )


def _touches(job: Job, since: float) -> bool:
    """Whether anything of a job was in that time."""
    return not job.state.final or (job.ended_at or 0.0) >= since


def _counted(items: Iterable[str]) -> dict[str, int]:
    return dict(Counter(items).most_common())


def _row(world: World, job: Job, since: float, step: int) -> RecapRow:
    failures = [f for f in job.failures if f.at >= since]
    run = world.runs[job.run]
    own = [c for c in run.checkpoints.values() if c.job == job.id]
    reached = max([step, *(c.step for c in own[-1:]), *(e.step for e in job.ends.values())])
    newest = job.id == run.jobs[-1]
    return RecapRow(
        job=job.id,
        user=job.spec.user,
        state=job.state,
        step=reached,
        failures=len(failures),
        lost_steps=sum(f.lost_steps for f in failures),
        lost_s=sum(f.lost_s + f.down_s for f in failures),
        at=job.ended_at or max([job.submitted_at, *(f.at for f in failures)]),
        story=_story(failures),
        act=way_on(job.run, job.failures) if newest and job.state is JobState.FAILED else "",
    )


def _story(failures: list[Failure]) -> tuple[RecapEvent, ...]:
    """Return what went wrong, equal causes together, of which the newest is told."""
    times = Counter(failure.cause for failure in failures)
    newest = {failure.cause: failure for failure in failures}
    told = sorted(newest.values(), key=lambda failure: -failure.at)
    return tuple(
        RecapEvent(f.at, f.cause, times[f.cause], f"{_sentence(f.message)} {f.reason}")
        for f in told
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
