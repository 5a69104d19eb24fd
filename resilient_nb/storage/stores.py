"""From a path or a URL to the `ObjectStore` that is there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from resilient_nb.config import read_place
from resilient_nb.core.places import Place, is_url, sub_folder
from resilient_nb.errors import InvalidRequest
from resilient_nb.storage.fallback import FallbackStore, copies
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.objects import ObjectStore

__all__ = ["blob_key", "open_store", "out_key", "read_blob", "sub_folder"]


def open_store(where: str | os.PathLike[str] | Sequence[Place]) -> ObjectStore:
    """Return the store at a place; of several, the first is used and the others stand in for it.

    Nothing is connected or made yet.

    Raises:
        InvalidRequest: a URL that can't be a store's, or whose extra isn't installed.
    """
    if not isinstance(where, (str, os.PathLike)):
        first, *others = [open_store(place) for place in where]
        return FallbackStore(first, others) if others else first
    place = read_place(os.fspath(where))
    if not is_url(place):
        return LocalStore(place)
    from resilient_nb.storage.remote import RemoteStore  # obstore, only where it is wanted

    return RemoteStore(place)


def blob_key(digest: str) -> str:
    """Return where a store has captured values, by the sha256 of their pickle."""
    return f"blobs/{digest}"


def read_blob(store: ObjectStore, digest: str) -> bytes:
    """Return captured values from the first copy that is whole.

    Raises:
        InvalidRequest: there is none but damaged ones.
        OSError: there is none, or it can't be reached.
    """
    failures: list[Exception] = []
    for copy in copies(store):
        try:
            data = copy.read(blob_key(digest))
        except OSError as error:
            failures.append(error)
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            return data
        failures.append(
            InvalidRequest(
                f"The captured values in {sub_folder(copy.url, blob_key(digest))} are damaged: "
                "submit the cell again."
            )
        )
    raise failures[0]


def out_key(run: str, number: int) -> str:
    """Return where a store has what a run's n-th job returned."""
    return f"out/{run}/{number}/out.pkl"
