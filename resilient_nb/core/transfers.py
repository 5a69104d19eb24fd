"""What a backup or a restore did, as shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferReport:
    """How a backup or a restore went, or would go.

    Attributes:
        action: `backup` or `restore`.
        place: the backup, a path or URL.
        store: the cluster's store.
        cluster_id: whose it is.
        dry_run: nothing was copied.
        checkpoints: how many the journal knows.
        there: how many of them were there already.
        objects: how many objects were copied.
        nbytes: their bytes.
        journal: which copy of the journal is in the backup now, or was restored ("": none).
        damaged: what could not be copied, and why.
        freed: bytes of dropped checkpoints that were removed from a backup.
        seconds: how long it took.
    """

    action: str
    place: str
    store: str
    cluster_id: str
    dry_run: bool
    checkpoints: int
    there: int
    objects: int
    nbytes: int
    journal: str = ""
    damaged: tuple[str, ...] = ()
    freed: int = 0
    seconds: float = 0.0
