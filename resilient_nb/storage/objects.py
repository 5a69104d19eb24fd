"""Where bytes are kept: flat keys to immutable objects, on a file system or in an object store.

A key is a relative path with '/' between its pieces. An object is written once and never changed;
what `put` wrote is durable after `flush`, and a reader must only rely on objects that a durable
manifest names. That is all that checkpoints need, so any S3-compatible store will do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
StrPath: TypeAlias = str | os.PathLike[str]


class Parts(Protocol):
    """What an object is made of: gone through more than once, so that a generator won't do.

    Some, with `nbytes`, are made as they are gone through (`hashing.Sealing`).
    """

    def __iter__(self) -> Iterator[Buffer]: ...


def size_of(parts: Parts) -> int:
    """Return how many bytes parts have together."""
    known: int | None = getattr(parts, "nbytes", None)
    return sum(memoryview(part).nbytes for part in parts) if known is None else known


@dataclass(frozen=True)
class Entry:
    """An object in a listing; `size` in bytes."""

    key: str
    size: int


class ObjectStore(Protocol):
    """One folder or bucket prefix. Threads and processes may use it at the same time.

    Every method may raise OSError (and FileNotFoundError where a key has no object); its errno
    tells a full store (ENOSPC) from a broken one (EIO).
    """

    #: Bytes that one `read_into` should ask for, and how many to have under way at once.
    block: int
    threads: int

    @property
    def url(self) -> str:
        """Where it is: an absolute path, or a URL."""

    def put(self, key: str, parts: Parts) -> None:
        """Write an object, the parts one after the other; replaces what an earlier try left."""

    def flush(self) -> None:
        """Make everything that this process has put durable."""

    def create(self, key: str, data: bytes) -> None:
        """Make an object appear whole, durably, and only if there is none.

        Raises:
            FileExistsError: there is one.
        """

    def link(self, key: str, target: str) -> None:
        """Give what lies below `target` another name, for people and foreign readers.

        Nothing may depend on it: a store without links does nothing.
        """

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        """Fill `view` from an object's byte `offset` on; return how many bytes there were."""

    def size(self, key: str) -> int:
        """Return an object's size in bytes."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield all objects below `prefix` ("a/b" has "a/b/c", not "a/bc"); links have size 0."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; ones that are gone already don't matter."""


def join(*pieces: str) -> str:
    """Return the key that the pieces make; empty ones are left out."""
    return "/".join(piece.strip("/") for piece in pieces if piece)
