"""What people's names mean: jobs, runs and checkpoints by what is typed.

Each raises `UnknownName` for a name that nothing has, and says what there is.
"""

from __future__ import annotations

from resilient_nb.core.explain import headless
from resilient_nb.core.model import Checkpoint, Job, Run
from resilient_nb.core.names import (
    check_name,
    did_you_mean,
    job_id,
    listed,
    parse_reference,
    split_job,
)
from resilient_nb.core.world import World
from resilient_nb.errors import UnknownName

#: The steps that are listed, and the newest runs among whose names a like one is sought.
_MOST_STEPS, _MOST_LIKE = 12, 1000


def run(world: World, name: str) -> Run:
    """Return the run of this name."""
    check_name(name)
    if name not in world.runs:
        close = did_you_mean(name, list(world.runs)[-_MOST_LIKE:])
        there = "there are:" if close == "." else f"{close[2:]} There are:"
        raise UnknownName(f"There is no run {name!r}; {there} {listed(world.runs)}.")
    return world.runs[name]


def job(world: World, text: str) -> Job:
    """Return the job `run#n`, or the newest of a bare run name."""
    name, number = split_job(text)
    found = run(world, name)
    if number is None:
        if not found.jobs:
            raise UnknownName(f"Run {name} has no job yet: %%resilient {name} submits one.")
        return world.jobs[found.jobs[-1]]
    if job_id(name, number) not in world.jobs:
        raise UnknownName(f"There is no job {text}. Run {name} has {', '.join(found.jobs)}.")
    return world.jobs[job_id(name, number)]


def checkpoint(world: World, text: str) -> Checkpoint:
    """Return the checkpoint that a reference names.

    A step that was reached more than once (after a rollback) is the one in the head's lineage,
    else the latest.
    """
    ref = parse_reference(text)
    found = run(world, ref.run)
    if ref.epoch is not None:
        if str(ref) not in found.checkpoints:
            raise UnknownName(f"There is no checkpoint {ref}, or no longer: retention drops some.")
        return found.checkpoints[str(ref)]
    if ref.tag is not None:
        if ref.tag not in found.tags:
            known = ", ".join(sorted(found.tags)) or "none"
            raise UnknownName(f"Run {found.name} has no tag {ref.tag}; its tags: {known}.")
        return world.checkpoint(found.tags[ref.tag])
    if ref.step is None:
        if found.head is None:
            raise UnknownName(_no_head(world, found))
        return world.checkpoint(found.head)
    steps = [c for c in found.checkpoints.values() if c.step == ref.step]
    of_step = [c for c in lineage(world, found) if c.step == ref.step] or steps[-1:]
    if not of_step:
        raise UnknownName(_no_step(found, ref.step))
    return of_step[0]


def _no_step(found: Run, step: int) -> str:
    steps = sorted({c.step for c in found.checkpoints.values()})
    near = sorted(sorted(steps, key=lambda s: abs(s - step))[:_MOST_STEPS])
    have = ", ".join(map(str, near)) or "none"
    some = "it has" if len(near) == len(steps) else f"the nearest of its {len(steps):,} are"
    return f"Run {found.name} has no checkpoint at step {step}; {some} {have}."


def _no_head(world: World, found: Run) -> str:
    if not found.checkpoints:
        return f"Run {found.name} has no checkpoint yet."
    newest = list(found.checkpoints.values())[-1]
    job = found.jobs[-1] if found.jobs else f"Run {found.name}"
    return headless(found.name, job, world.active_job(found.name) is not None, newest.step)


def lineage(world: World, of: Run) -> list[Checkpoint]:
    """Return the head and its ancestors, newest first."""
    found, at = [], of.head
    while at is not None:
        found.append(world.checkpoint(at))
        at = found[-1].parent
    return found
