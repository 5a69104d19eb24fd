"""Copying whole files from one store to another, of any size: captured and returned values."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.snapshots import File

#: Larger ones go through a temporary file, not through memory.
_IN_MEMORY = 32 << 20


class Mismatch(Exception):
    """A file isn't what it should be; the text says how."""


def copy_file(source: ObjectStore, target: ObjectStore, key: str, wanted: str = "") -> File:
    """Copy a file and return what it is.

    Args:
        source: where from.
        target: where to.
        key: the file's, in both.
        wanted: the sha256 that it must have, "" if nobody knows.

    Raises:
        Mismatch: it hasn't; nothing was copied.
        FileNotFoundError: there is none.
    """
    with _contents(source, key) as view:
        found = hashlib.sha256(view).hexdigest()
        if wanted and found != wanted:
            raise Mismatch(f"{key} isn't what it was when it was written (sha256 {found[:12]}…)")
        target.put(key, [view])
        return File(view.nbytes, found)


def describe(store: ObjectStore, key: str) -> File:
    """Return what a file is.

    Raises:
        FileNotFoundError: there is none.
    """
    with _contents(store, key) as view:
        return File(view.nbytes, hashlib.sha256(view).hexdigest())


@contextmanager
def _contents(store: ObjectStore, key: str) -> Iterator[memoryview]:
    size = store.size(key)
    if size <= _IN_MEMORY:
        yield memoryview(store.read(key))
        return
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as pages, memoryview(pages) as view:
            for start in range(0, size, _IN_MEMORY):
                with view[start : start + _IN_MEMORY] as piece:
                    if store.read_into(key, start, piece) != piece.nbytes:
                        raise Mismatch(f"{key} ended before its {size} bytes")
            with view.toreadonly() as whole:
                yield whole
