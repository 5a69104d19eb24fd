"""Jobs that wait for other jobs: what holds them, cycles, and inherited priority.

A dependency is a job id, `ingest#2`. It is met when that job, or a later one of the same run
(a failed job that was resumed, say), has succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from resilient_nb.core.model import Job, JobState, Priority
from resilient_nb.core.names import split_job
from resilient_nb.core.world import World


def is_met(world: World, dependency: str) -> bool:
    """Whether a dependency has succeeded."""
    return any(job.state is JobState.SUCCEEDED for job in candidates(world, dependency))


def upstream(world: World, dependency: str) -> Job:
    """Return the job that a dependency waits for now: the newest that can meet it."""
    return candidates(world, dependency)[-1]


def unmet(world: World, job: Job) -> tuple[str, ...]:
    """Return the dependencies of a job that have not succeeded yet."""
    return tuple(name for name in waits_for(job) if not is_met(world, name))


def hold(world: World, job: Job) -> str:
    """Return in words what a job waits for, "" if nothing."""
    for name in waits_for(job):
        if not is_met(world, name):
            return _words(upstream(world, name), job)
    return ""


def find_cycle(world: World, run: str, after: Iterable[str]) -> tuple[str, ...]:
    """Return the runs of a cycle that a new job of `run` would close, () if there is none.

    Only unmet dependencies count; a job of `run` that is waited for is the new one, since it
    will be the newest.
    """
    stack: list[tuple[str, tuple[str, ...]]] = [
        (split_job(name)[0], (run,)) for name in after if not is_met(world, name)
    ]
    seen: set[str] = set()
    while stack:
        at, path = stack.pop()
        if at == run:
            return (*path, run)
        if at in seen:
            continue
        seen.add(at)
        job = world.active_job(at)
        if job is not None:
            stack += [(split_job(name)[0], (*path, at)) for name in unmet(world, job)]
    return ()


def inherited_priorities(world: World) -> dict[str, Priority]:
    """Return the priority of each job that more urgent ones wait for, where it is raised.

    (Priority inheritance, as for locks: Sha, Rajkumar and Lehoczky, 1990.)
    """
    raised: dict[str, Priority] = {}
    seen: set[str] = set()  # by the most urgent first, so each is looked at once
    waiting = [job for job in world.open.values() if job.spec.after]
    for job in sorted(waiting, key=lambda j: -j.spec.priority.rank):
        for blocker in _blockers(world, waits_for(job), seen):
            if job.spec.priority.rank > blocker.spec.priority.rank:
                raised[blocker.id] = job.spec.priority
    return raised


def blockers(world: World, after: Iterable[str]) -> tuple[Job, ...]:
    """Return the unfinished jobs that must succeed first, those that they wait for included."""
    return tuple(_blockers(world, after, set()))


def _blockers(world: World, after: Iterable[str], seen: set[str]) -> Iterator[Job]:
    stack = list(after)
    while stack:
        name = stack.pop()
        if is_met(world, name):
            continue
        blocker = upstream(world, name)
        if not blocker.state.final and blocker.id not in seen:
            seen.add(blocker.id)
            stack += waits_for(blocker)
            yield blocker


def dependents(world: World, run: str) -> tuple[Job, ...]:
    """Return the unfinished jobs that name a job of `run`."""
    return tuple(
        job
        for job in world.open.values()
        if any(split_job(name)[0] == run for name in waits_for(job))
    )


def waits_for(job: Job) -> tuple[str, ...]:
    """Return what a job depends on: as it was asked, and what makes lost inputs again."""
    return (*job.spec.after, *job.lost.values())


def candidates(world: World, dependency: str) -> list[Job]:
    """Return the jobs that can meet a dependency, oldest first."""
    run, number = split_job(dependency)
    assert number is not None
    return [world.jobs[name] for name in world.runs[run].jobs[number - 1 :]]


def _words(blocker: Job, job: Job) -> str:
    if blocker.state in (JobState.FAILED, JobState.CANCELLED):
        how = "failed" if blocker.state is JobState.FAILED else "was cancelled"
        return (
            f"Waits for {blocker.id}, which {how}: resume it (%resilient resume {blocker.run}), "
            f"or cancel this job (%resilient cancel {job.run})."
        )
    return f"Waits for {blocker.id} to succeed; it is {blocker.state}."
