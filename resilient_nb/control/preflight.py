"""What is looked at just before a gang starts: better a clear wait than a failed start."""

from __future__ import annotations

from collections.abc import Callable

from resilient_nb.config import Settings
from resilient_nb.control.storing import Storing
from resilient_nb.core.inputs import sources
from resilient_nb.core.model import Job
from resilient_nb.core.places import is_url
from resilient_nb.core.replicas import replicas_of
from resilient_nb.core.world import World
from resilient_nb.storage.stores import out_key

#: Free bytes below which no gang starts whose checkpoints have no known size.
_LEAST_FREE = 64 << 20


def missing(
    settings: Settings,
    storing: Storing,
    put_back: Callable[[str], str],
    world: World,
    job: Job,
    store_free: int | None,
    remake: Callable[[Job, str], str] = lambda job, lost: f"What {lost} returned is lost.",
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
        remake: has a job run again whose results are lost; returns what is to be told.
    """
    spec, run = job.spec, world.runs[job.run]
    head = world.checkpoint(run.head) if run.head else None
    replicas = replicas_of(world, job.run, settings.replicas)
    if waits := storing.waits_for(world.cluster_id):
        return waits
    if spec.captured and (why := storing.captured(spec.captured, replicas)):
        return why
    for source in sources(world, job):
        key = out_key(source.job.run, source.job.number)
        if not storing.has((settings.store, *replicas), key):
            return remake(job, source.job.id)
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
    for name, read in job.reads.items():
        # Only where it was seen on this host can it be said that it is gone.
        here = read.host == settings.host and not is_url(read.place)
        if here and (why := storing.unseen(read.place)):
            return (
                f"Input {name} ({read.place}), which the cell of {job.id} reads, isn't there "
                f"({why}): put it back, and the job starts; or cancel it."
            )
    if store_free is not None and lacks_room(world, job.run, store_free):
        return (
            f"The store has {store_free >> 20} MiB free; checkpoints of {job.run} need "
            f"{_need(world, job.run) >> 20} MiB: free some space, or have runs keep fewer "
            "checkpoints (%resilient retain RUN --keep 1)."
        )
    return ""


def lacks_room(world: World, run: str, store_free: int | None) -> bool:
    """Whether the store has too little room for what a run will write, as far as is known."""
    return store_free is not None and store_free < _need(world, run)


def _need(world: World, run: str) -> int:
    """Two checkpoints: the last one stays until the next is committed."""
    head = world.runs[run].head
    return max(_LEAST_FREE, 2 * world.checkpoint(head).nbytes if head is not None else 0)
