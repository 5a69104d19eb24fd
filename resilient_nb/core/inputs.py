"""Where the values of a cell's `--in` come from, and what is done when they are lost. Pure.

A name comes from the newest job that has succeeded, of those that meet one of the cell's
dependencies (`--after`), and that returned it (`--out`). If what it returned is gone, the job that
made it runs again, and the one that needs it waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from resilient_nb.core import events as ev
from resilient_nb.core.dependencies import blockers, candidates
from resilient_nb.core.lineage import imported
from resilient_nb.core.model import Job, JobState
from resilient_nb.core.names import job_id, split_job
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest


@dataclass(frozen=True)
class Source:
    """A job, and the names that another one gets from it."""

    job: Job
    names: tuple[str, ...]


@dataclass(frozen=True)
class Remaking:
    """What is done about a lost input.

    Attributes:
        reason: in words.
        rerun: the job that makes it again, "" if none can.
        events: what happens once the job that needs it is back in the queue.
    """

    reason: str
    rerun: str = ""
    events: tuple[ev.Event, ...] = ()


def check(world: World, run: str, after: Iterable[str], names: Iterable[str]) -> None:
    """Refuse names that no job in `after` returns, or two.

    Raises:
        InvalidRequest: naming the one, and the way out.
    """
    waits = tuple(after)
    for name in names:
        if not waits:
            raise InvalidRequest(
                f"--in {name}: from which job? Name one that returns it: --after JOB, where that "
                f"job's cell has --out {name}."
            )
        givers = sorted({split_job(d)[0] for d in waits if name in _offers(world, d)})
        if len(givers) > 1:
            raise InvalidRequest(
                f"--in {name}: {' and '.join(givers)} both return it. Wait for one of them alone "
                f"(--after), or give one of the values another name."
            )
        if not givers:
            offered = "; ".join(
                f"{d} returns {', '.join(_offers(world, d)) or 'nothing'}" for d in waits
            )
            raise InvalidRequest(
                f"--in {name}: no job that {run} waits for returns it ({offered}). Add "
                f"--out {name} to the cell that makes it, or name its job with --after."
            )


def sources(world: World, job: Job) -> tuple[Source, ...]:
    """Return which job each of a job's inputs comes from; what nobody has returned is left out."""
    found: dict[str, list[str]] = {}
    for name in job.spec.inputs:
        if (producer := _producer(world, job, name)) is not None:
            found.setdefault(producer.id, []).append(name)
    return tuple(Source(world.jobs[giver], tuple(names)) for giver, names in found.items())


def hold(world: World, job: Job) -> str:
    """Return which input a job whose dependencies are met lacks all the same, "" if none."""
    for name in job.spec.inputs:
        if _producer(world, job, name) is None:
            runs = " or ".join(dict.fromkeys(split_job(d)[0] for d in job.spec.after))
            return (
                f"Needs {name} (--in), which no job of {runs} that has succeeded returned: run its "
                f"cell with --out {name}, or cancel this job (%resilient cancel {job.run})."
            )
    return ""


def remake(world: World, job: Job, lost: str, now: float) -> Remaking:
    """Return how a job gets an input that is lost.

    Each input is made again once: what is lost twice is lost for a reason.

    Args:
        world: with the job's attempt at its end.
        job: the one that needs it.
        lost: the job whose returned values are lost, or a path or URL.
        now: seconds since the Unix epoch.
    """
    producer = world.jobs.get(lost)
    again = f"then go on with %resilient resume {job.run}"
    if producer is None:
        return Remaking(f"No job made {lost}, so none can make it again: put it back, {again}.")
    run = world.runs[producer.run]
    if producer.run in job.lost:
        return Remaking(
            f"{job.lost[producer.run]} had made it again already: look at the store, {again}."
        )
    wanted = {n for s in sources(world, job) if s.job.run == producer.run for n in s.names}
    found = _made_since(world, producer, wanted)
    active = world.active_job(run.name)
    if found is None and active is not None:
        return Remaking(
            f"{producer.id} can't make it again while {active.id} is {active.state}: wait for it, "
            f"{again}."
        )
    waits = producer.spec.after if found is None else (found.id,)
    if any(blocker.run == job.run for blocker in blockers(world, waits)):
        return Remaking(f"{producer.id} can't make it again: it would wait for {job.run} itself.")
    if found is not None:
        return _wait_for(job, producer, found.id, (), now)
    rerun = job_id(run.name, len(run.jobs) + 1)
    submitted = ev.JobSubmitted(
        now, rerun, run.name, len(run.jobs) + 1, f"{job.id}/{job.epoch}/{producer.id}",
        producer.spec, message=f"Runs again for {job.id}: what {producer.id} returned is lost.",
    )  # fmt: skip
    begin = ev.HeadMoved(now, run.name, imported(run), "recovery")  # it starts over
    return _wait_for(job, producer, rerun, (begin, submitted), now)


def lose(job: Job, producer: Job, event: ev.InputLost) -> Job:
    """Return the job that waits for a lost input: no slots are kept for it meanwhile."""
    return replace(
        job,
        lost={**job.lost, producer.run: event.rerun},
        claim=0,
        message=f"What {event.producer} returned is lost; {event.rerun} makes it again.",
    )


def _wait_for(
    job: Job, producer: Job, rerun: str, before: tuple[ev.Event, ...], now: float
) -> Remaking:
    reason = f"{rerun} runs first and makes it again; then it goes on."
    return Remaking(reason, rerun, (*before, ev.InputLost(now, job.id, producer.id, rerun)))


def _made_since(world: World, producer: Job, wanted: set[str]) -> Job | None:
    """Return the newest later job of a run that has returned the names, or may yet."""
    for name in reversed(world.runs[producer.run].jobs[producer.number :]):
        job = world.jobs[name]
        if job.state is JobState.SUCCEEDED and wanted <= set(job.returned):
            return job
        if not job.state.final and wanted <= set(job.spec.out):
            return job
    return None


def _producer(world: World, job: Job, name: str) -> Job | None:
    for dependency in job.spec.after:
        for each in reversed(candidates(world, dependency)):
            if each.state is JobState.SUCCEEDED and name in each.returned:
                return each
    return None


def _offers(world: World, dependency: str) -> tuple[str, ...]:
    """Return the names that jobs which meet a dependency have returned, or the newest will."""
    jobs = candidates(world, dependency)
    returned = [name for job in jobs for name in job.returned]
    return tuple(dict.fromkeys([*jobs[-1].spec.out, *returned]))
