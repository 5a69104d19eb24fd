"""The writer: a process of each rank's own that hashes and stores what the rank has snapshotted.

Training then shares neither the GIL nor its cores' time with checkpoints: direct writes leave the
processor nearly idle. It is forked when the rank begins, before there are threads, and ends with
the rank.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol

import numpy as np

from resilient_nb.rank.snapshot import Slot
from resilient_nb.storage.failing import FailingDisk, Switch
from resilient_nb.storage.hashing import digests
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import DocumentRecord, Manifest, TensorRecord
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.shelf import Doubled, ShelfStore
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.tree import Json, TensorLeaf
from resilient_nb.storage.writing import (
    Options,
    Seals,
    commit,
    hashed,
    write_documents,
    write_part,
)

_PR_SET_PDEATHSIG = 1
#: Behind training when cores are scarce, but not for ever.
_NICE = 5


class Writer(Protocol):
    """Calls a method of `Work`, here or in another process."""

    def __call__(self, method: str, *args: Any) -> Any: ...


class Work:
    """What a writer does. One checkpoint at a time. `switch` has disks fail."""

    def __init__(self, switch: Switch | None = None) -> None:
        self._switch = switch or Switch()
        self._memory: np.ndarray[Any, Any] = np.empty(0, np.uint8)
        self._stores: dict[str, ObjectStore] = {}
        self._seals: Seals = {}

    def attach(self, fd: int, size: int) -> None:
        """Use this shared memory from now on."""
        self._memory = np.frombuffer(mmap.mmap(fd, size, prot=mmap.PROT_READ), np.uint8)

    def double(self, url: str, shelf: str) -> None:
        """From now on write what goes to a store to memory, too."""
        self._stores[url] = Doubled(self._open(url), ShelfStore(shelf))

    def trouble(self, url: str) -> str:
        """Return why something of a store isn't in memory, "" if all is."""
        store = self._stores.get(url)
        return store.trouble if isinstance(store, Doubled) else ""

    def digests(self, slots: Mapping[str, Slot], options: Options | None = None) -> dict[str, str]:
        """Return the digest of each tensor in the segment.

        Args:
            slots: by the name that each would be stored under.
            options: if what has changed will be written by this process, how.
        """
        leaves, self._seals = self._leaves(slots), {}
        if options is not None:
            found, self._seals = hashed(leaves, options)
            return found
        return digests({name: leaf.array for name, leaf in leaves.items()}, threads=1)

    def write(
        self,
        store: str,
        identity: str,
        slots: Mapping[str, Slot],
        found: Mapping[str, str],
        rank: int,
        options: Options,
        kept: Sequence[TensorRecord] = (),
    ) -> dict[str, TensorRecord]:
        """Store tensors; return their records. `slots` by the name that each is stored under.

        They are as they were when their digests were asked for. `kept` are stored already.
        """
        leaves = self._leaves(slots)
        place, seals = self._store(store), self._seals
        return write_part(
            place, identity, leaves, found, rank=rank, options=options, seals=seals, kept=kept
        )

    def commit(
        self, store: str, manifest: Manifest, documents: Mapping[str, Json]
    ) -> tuple[DocumentRecord, ...]:
        """Store documents, which aren't in the manifest yet, and make it all a checkpoint."""
        place = self._store(store)
        records = write_documents(place, manifest.id, documents, manifest.key_id)
        found = tuple(records.values())
        commit(place, replace(manifest, documents=found))
        return found

    def _store(self, url: str) -> ObjectStore:
        if url not in self._stores:
            self._stores[url] = self._open(url)
        return self._stores[url]

    def _open(self, url: str) -> ObjectStore:
        store = open_store(url)
        if type(store) is not LocalStore:
            return store
        return LocalStore(store.root, FailingDisk(self._switch))

    def _leaves(self, slots: Mapping[str, Slot]) -> dict[str, TensorLeaf]:
        return {name: slot.leaf(self._memory) for name, slot in slots.items()}


class WriterHere:
    """Calls `Work` in this process."""

    def __init__(self) -> None:
        self._work = Work()

    def __call__(self, method: str, *args: Any) -> Any:
        """Return what the method of `Work` returns, or raise what it raises."""
        return getattr(self._work, method)(*args)


class WriterGone(ConnectionError):
    """The process that writes was ended; not that a store can't be reached."""


class WriterProcess:
    """Calls `Work` in a process of its own. Forks: make it before there are threads."""

    def __init__(self, close: Iterable[int] = (), switch: Switch | None = None) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ours.close()
                for fd in close:
                    os.close(fd)
                _serve(theirs, parent, Work(switch))
            finally:
                os._exit(0)
        theirs.close()
        self._socket = ours
        self._connection = Connection(os.dup(ours.fileno()))

    def __call__(self, method: str, *args: Any) -> Any:
        """Return what the method of `Work` returns, or raise what it raises.

        Raises:
            WriterGone: the process is gone.
        """
        try:
            if method == "attach":
                fd, size = args
                self._connection.send((method, (size,)))
                socket.send_fds(self._socket, [b"."], [fd])
            else:
                self._connection.send((method, args))
            ok, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WriterGone("the process that writes checkpoints was killed") from error
        if not ok:
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._socket.close()
        os.waitpid(self.pid, 0)


def _serve(channel: socket.socket, parent: int, work: Work) -> NoReturn:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # the rank died before the line above
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the rank is asked to leave, and says when
    os.nice(_NICE)
    connection = Connection(os.dup(channel.fileno()))
    while True:
        try:
            method, args = connection.recv()
        except EOFError:
            os._exit(0)
        if method == "attach":
            _, fds, *_ = socket.recv_fds(channel, 1, 1)
            args = (*fds, *args)
        try:
            reply = True, getattr(work, method)(*args)
        except Exception as error:
            reply = False, error
        if method == "attach":
            os.close(args[0])  # the mapping has a descriptor of its own
        _answer(connection, *reply)


def _answer(connection: Connection, good: bool, value: Any) -> None:
    try:
        connection.send((good, value))
    except Exception:
        # An error of a library that can't be pickled: nothing of it was sent.
        connection.send((False, RuntimeError(f"{type(value).__name__}: {value}")))
