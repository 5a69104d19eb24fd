"""Reading a checkpoint from memory as far as it is there, and from its store otherwise."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from resilient_nb.core.places import Place
from resilient_nb.errors import CheckpointError
from resilient_nb.storage.fallback import FallbackStore, copies
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.mirrored import Mirrored, open_anywhere
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.tree import Array, Json


@dataclass(frozen=True)
class Account:
    """How many bytes were read from where, and how long that took in seconds."""

    memory: int
    store: int
    seconds: float


class Recalled(Mirrored):
    """A checkpoint of which what is in memory is read there. Everything is verified all the same.

    One thread at a time may call its methods.
    """

    def __init__(
        self, shelf: ObjectStore, store: ObjectStore, identity: str, manifest: Manifest
    ) -> None:
        self._memory = _Counted(shelf)
        self._others = [_Counted(copy) for copy in copies(store)]
        super().__init__(FallbackStore(self._memory, self._others), identity, manifest)
        self._seconds = 0.0

    @property
    def account(self) -> Account:
        """What was read so far."""
        others = sum(store.nbytes for store in self._others)
        return Account(self._memory.nbytes, others, self._seconds)

    def read_into(
        self,
        targets: Mapping[str, Array],
        starts: Mapping[str, tuple[int, ...]] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        with self._timed():
            super().read_into(targets, starts, threads=threads)

    def document(self, name: str) -> Json:
        with self._timed():
            return super().document(name)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - began


def recall(shelf: ObjectStore, places: Sequence[Place], identity: str) -> Recalled:
    """Open a checkpoint that may be in memory, or only there.

    Args:
        shelf: what is in memory.
        places: the stores of runs that it should be in, the first one first.
        identity: of the checkpoint.

    Raises: as `open_anywhere` does, if it isn't in memory either.
    """
    manifest: Manifest | None = None
    with suppress(CheckpointError, OSError):  # it isn't there, or not whole
        manifest = open_at(shelf, identity).manifest
    if manifest is None:
        manifest = open_anywhere(places, identity).manifest
    return Recalled(shelf, open_store(places), identity, manifest)


class _Counted(FallbackStore):
    """A store that counts what is read from it."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, ())
        self.nbytes = 0
        self._lock = threading.Lock()

    def read(self, key: str) -> bytes:
        data = super().read(key)
        self._count(len(data))
        return data

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        count = super().read_into(key, offset, view)
        self._count(count)
        return count

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self.nbytes += nbytes
