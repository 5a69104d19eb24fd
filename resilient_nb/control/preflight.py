"""What is looked at just before a gang starts: better a clear wait than a failed start."""

from __future__ import annotations

from collections.abc import Callable

from resilient_nb.config import Settings
from resilient_nb.control.storing import Storing
from resilient_nb.core.model import Job
from resilient_nb.core.replicas import replicas_of
from resilient_nb.core.world import World

#: Free bytes below which no gang starts whose checkpoints have no known size.
_LEAST_FREE = 64 << 20


def missing(
    settings: Settings,
    storing: Storing,
    put_back: Callable[[str], str],
    world: World,
    job: Job,
    store_free: int | None,
) -> str:
    """Return why a job can't start now although slots are free, "" if it can.

    Args:
        settings: where the store is.
        storing: what is known of it.
        put_back: has a host that has a checkpoint in memory write it to the store again; returns
            which host, "" if none has it.
        world: what the journal says.
        job: the job that would start.
        store_free: free bytes of the store, as the hosts' agents see it; None if unknown.
    """
    spec, run = job.spec, world.runs[job.run]
    head = world.checkpoint(run.head) if run.head else None
    replicas = replicas_of(world, job.run, settings.replicas)
    if waits := storing.waits_for(world.cluster_id):
        return waits
    if spec.captured and (why := storing.captured(spec.captured, replicas)):
        return why
    if head is not None and not storing.has(
        (settings.store, *replicas), f"runs/{head.id}/zarr.json"
    ):
        if host := put_back(head.id):
            return (
                f"Checkpoint {head.run}@{head.step}, from which {job.id} goes on, is not in the "
                f"store: {host} writes it there again, from its memory."
            )
        return (
            f"Checkpoint {head.run}@{head.step}, from which {job.id} goes on, is not in the store: "
            f"cancel the job and roll back to another one (%resilient checkpoints {job.run})."
        )
    if store_free is not None and lacks_room(world, job, store_free):
        return (
            f"The store has {store_free >> 20} MiB free; checkpoints of {job.run} need "
            f"{_need(world, job) >> 20} MiB: free some space, or have runs keep fewer checkpoints "
            "(%resilient retain RUN --keep 1)."
        )
    return ""


def lacks_room(world: World, job: Job, store_free: int | None) -> bool:
    """Whether the store has too little room for what a job will write, as far as is known."""
    return store_free is not None and store_free < _need(world, job)


def _need(world: World, job: Job) -> int:
    """Two checkpoints: the last one stays until the next is committed."""
    head = world.runs[job.run].head
    return max(_LEAST_FREE, 2 * world.checkpoint(head).nbytes if head is not None else 0)
