"""Whose a store is: one journal to a store, since two would write different things to one key."""

from __future__ import annotations

import errno
import uuid

from resilient_nb.errors import CheckpointError
from resilient_nb.storage.objects import ObjectStore

#: Holds the id of the cluster whose journal speaks of what is in the store.
CLAIM = "cluster"


def new_id() -> str:
    """Return an id for a new cluster."""
    return uuid.uuid4().hex[:12]


def owner(store: ObjectStore) -> str:
    """Return the id of the cluster that a store belongs to, "" if to none."""
    try:
        return store.read(CLAIM).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def claim(store: ObjectStore, cluster_id: str) -> None:
    """Make the store this cluster's, if it is nobody's yet.

    Raises:
        CheckpointError: it is another's.
        OSError: it can't be written, or can't say who was first.
    """
    found = owner(store)
    if not found:
        try:
            store.create(CLAIM, cluster_id.encode())
        except FileExistsError:
            found = owner(store)
    if found == cluster_id:
        return
    if found:
        raise CheckpointError(
            f"The store {store.url} belongs to another cluster ({found}), or to an older journal. "
            "Use an empty folder or prefix."
        )
    try:
        store.create(CLAIM, cluster_id.encode())
    except FileExistsError:
        return  # as it must be: checkpoints are committed by it
    raise OSError(
        errno.ENOTSUP,
        "The store lets an object be created twice (no conditional puts), so it can't be relied on",
        store.url,
    )
