"""Opening a checkpoint that has copies: what one store has lost or damaged, another gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from resilient_nb.config import read_place
from resilient_nb.core.places import Place
from resilient_nb.errors import CheckpointError, CorruptCheckpoint
from resilient_nb.storage.chunks import Wanted
from resilient_nb.storage.fallback import copies
from resilient_nb.storage.hashing import Bytes
from resilient_nb.storage.manifest import TensorRecord
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.tree import Json

_T = TypeVar("_T")


def open_anywhere(places: Sequence[Place], identity: str, *, private: bool = True) -> Checkpoint:
    """Open a checkpoint in the first of several stores of runs that has it whole.

    Args:
        places: the stores of runs, paths or URLs; the first is the one that it should be in.
        identity: of the checkpoint.
        private: as of `open_at`.

    Raises: as `open_at` does of the first store, if none has it.
    """
    store = open_store(places)
    if len(places) == 1:
        return open_at(store, identity, private=private)
    failure: Exception | None = None
    for copy in copies(store):
        try:
            manifest = open_at(copy, identity, private=private).manifest
        except (CheckpointError, OSError) as error:
            failure = failure or error
        else:
            return Mirrored(store, identity, manifest)
    assert failure is not None
    raise failure


def open_path(path: Place, others: Sequence[Place] = ()) -> Checkpoint:
    """Open the checkpoint at a path or URL; the others are the paths of its copies.

    Raises: as `open_anywhere` does.
    """
    whole = read_place(path)
    identity = "/".join(whole.split("/")[-2:])
    places = [read_place(place).removesuffix(f"/{identity}") for place in (whole, *others)]
    return open_anywhere(places, identity)


class Mirrored(Checkpoint):
    """Its store falls back where something is missing; here it is read again if it is damaged."""

    def _read_chunk(self, record: TensorRecord, name: str, data: Bytes, size: int) -> None:
        self._whole_one(lambda one: Checkpoint._read_chunk(one, record, name, data, size))

    def _read_pack(self, key: str, wanted: list[Wanted]) -> None:
        self._whole_one(lambda one: Checkpoint._read_pack(one, key, wanted))

    def document(self, name: str) -> Json:
        return self._whole_one(lambda one: Checkpoint.document(one, name))

    def _whole_one(self, read: Callable[[Any], _T]) -> _T:
        try:
            return read(self)
        except CorruptCheckpoint:
            for store in copies(self.store)[1:]:
                try:
                    return read(Checkpoint(store, self.identity, self.manifest))
                except (CorruptCheckpoint, OSError):
                    continue
            raise
