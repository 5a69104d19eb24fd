"""What is looked at just before a gang starts: better a clear wait than a failed start."""

from __future__ import annotations

from resilient_nb.config import Settings
from resilient_nb.core.model import Job
from resilient_nb.core.world import World
from resilient_nb.storage.blobs import BlobStore

#: Free bytes below which no gang starts whose checkpoints have no known size.
_LEAST_FREE = 64 << 20


def missing(settings: Settings, world: World, job: Job, store_free: int | None) -> str:
    """Return why a job can't start now although slots are free, "" if it can.

    Args:
        settings: where the store is.
        world: what the journal says.
        job: the job that would start.
        store_free: free bytes of the store, as the hosts' agents see it; None if unknown.
    """
    spec, run = job.spec, world.runs[job.run]
    head = world.checkpoint(run.head) if run.head else None
    if spec.captured and not BlobStore(settings.store / "blobs").has(spec.captured):
        return (
            f"The captured values of {job.id} are no longer in the store: submit the cell again "
            f"(%resilient cancel {job.run} first)."
        )
    if head is not None and not (settings.runs / head.id).is_dir():
        return (
            f"Checkpoint {head.run}@{head.step}, from which {job.id} goes on, is not in the store: "
            f"cancel the job and roll back to another one (%resilient checkpoints {job.run})."
        )
    # Two checkpoints: the last one stays until the next is committed.
    need = max(_LEAST_FREE, 2 * head.nbytes if head is not None else 0)
    if store_free is not None and store_free < need:
        return (
            f"The store has {store_free >> 20} MiB free; checkpoints of {job.run} need "
            f"{need >> 20} MiB: free some space."
        )
    return ""
