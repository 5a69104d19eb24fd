"""Another host's shelf, read through its agent: an RPC of Dask's, in pieces of a few megabytes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from resilient_nb.storage.objects import Entry, ObjectStore, Parts

#: Most that one message carries, in bytes.
PIECE = 8 << 20
#: A peer that doesn't answer for so many seconds has nothing for us.
_PATIENCE = 20.0

#: Asks the peer: what (read, size or list), a key, an offset. Runs in the agent's loop.
Ask = Callable[[str, str, int], Awaitable[dict[str, Any]]]


def answer(store: ObjectStore, what: str, key: str, offset: int) -> dict[str, Any]:
    """Return what a peer asks for, or the errno of why not."""
    if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
        return {"error": errno.EPERM}
    try:
        if what == "list":
            return {"list": [[entry.key, entry.size] for entry in store.list(key)]}
        size = store.size(key)
        if what == "size":
            return {"size": size}
        data = bytearray(max(0, min(PIECE, size - offset)))
        count = store.read_into(key, offset, memoryview(data))
        return {"data": bytes(data[:count]), "size": size}
    except OSError as error:
        return {"error": error.errno or errno.EIO}


class PeerStore:
    """An `ObjectStore` to read from. A peer that is gone is a store that has nothing.

    Use it from threads, not from the loop.
    """

    block = PIECE
    threads = 2

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, ask: Ask) -> None:
        self._name = name
        self._loop = loop
        self._ask = ask
        self._gone = False

    @property
    def url(self) -> str:
        return f"the memory of {self._name}"

    def read(self, key: str) -> bytes:
        pieces, got = [], 0
        while True:
            reply = self._reply("read", key, got)
            pieces.append(reply["data"])
            got += len(reply["data"])
            if got >= reply["size"] or not reply["data"]:
                return b"".join(pieces)

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        done = 0
        while done < view.nbytes:
            data = self._reply("read", key, offset + done)["data"][: view.nbytes - done]
            if not data:
                break
            view[done : done + len(data)] = data
            done += len(data)
        return done

    def size(self, key: str) -> int:
        size: int = self._reply("size", key)["size"]
        return size

    def list(self, prefix: str = "") -> Iterator[Entry]:
        try:
            rows = self._reply("list", prefix)["list"]
        except FileNotFoundError:
            return
        yield from (Entry(key, size) for key, size in rows)

    def put(self, key: str, parts: Parts) -> None:
        raise self._read_only(key)

    def flush(self) -> None:
        """There is nothing to flush."""

    def create(self, key: str, data: bytes) -> None:
        raise self._read_only(key)

    def link(self, key: str, target: str) -> None:
        raise self._read_only(key)

    def delete(self, keys: Iterable[str]) -> None:
        raise self._read_only(self.url)

    def _reply(self, what: str, key: str, offset: int = 0) -> dict[str, Any]:
        if not self._gone:
            asked = asyncio.run_coroutine_threadsafe(self._wait(what, key, offset), self._loop)
            try:
                reply = asked.result(_PATIENCE + 1.0)
                if "error" not in reply:
                    return reply
            except (OSError, RuntimeError):  # it is gone, or our own loop is
                self._gone = True
        raise FileNotFoundError(errno.ENOENT, "not there", key)

    async def _wait(self, what: str, key: str, offset: int) -> dict[str, Any]:
        return await asyncio.wait_for(self._ask(what, key, offset), _PATIENCE)

    def _read_only(self, key: str) -> OSError:
        return OSError(errno.EROFS, "another host's memory is not ours to write", key)
