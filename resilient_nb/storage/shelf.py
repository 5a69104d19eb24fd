"""A store in memory (tmpfs) that holds copies of what another store has, for a fast restart.

Nothing depends on it: whatever fails here is as if there were no copy. What is under its name is
whole, since it gets it when it was written; and what has a manifest has everything it needs.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from resilient_nb.core.names import split_checkpoint
from resilient_nb.storage.contents import contents
from resilient_nb.storage.local import PRIVATE, LocalStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.objects import Entry, ObjectStore, Parts, StrPath, join, size_of

#: This share of the machine's memory is left to others.
_RESERVE = 0.1
_CGROUP = Path("/sys/fs/cgroup")


class ShelfStore(LocalStore):
    """A folder in memory with the layout of a store's `runs`. It takes no more than there is."""

    def __init__(self, root: StrPath) -> None:
        super().__init__(root)
        self._direct = False

    def put(self, key: str, parts: Parts) -> None:
        check_room(self.root, size_of(parts))
        folder, _, name = key.rpartition("/")
        private = join(folder, f"{PRIVATE}{uuid.uuid4().hex}")
        try:
            super().put(private, parts)
            os.replace(self.root / private, self.root / folder / name)
        except BaseException:
            self.delete([private, key])  # what an earlier try left is not what this one wrote
            raise

    def flush(self) -> None:
        """Nothing lasts here."""

    def link(self, key: str, target: str) -> None:
        """Nobody looks at it."""

    def announce(self, run: str) -> None:
        """Let ranks know that a run's newest checkpoint is on its way here."""
        with suppress(OSError):  # then they don't wait for it
            self.announced(run).touch()

    def announced(self, run: str) -> Path:
        """Return the file that is there as long as a run's newest checkpoint is on its way."""
        return self.root.parent / f"coming-{run}"

    def whole(self) -> tuple[str, ...]:
        """Return the checkpoints that are here with all that they need."""
        found = [path.parent for path in self.root.glob("*/*/zarr.json")]
        return tuple(sorted(path.relative_to(self.root).as_posix() for path in found))

    def folders(self) -> dict[str, set[str]]:
        """Return by run the checkpoints that anything is here of."""
        found: dict[str, set[str]] = {}
        for path in self.root.glob("*/*"):
            found.setdefault(path.parent.name, set()).add(f"{path.parent.name}/{path.name}")
        return found


def superfluous(
    store: ShelfStore, run: str, head: str | None, epoch: int, needed: Iterable[Manifest]
) -> list[str]:
    """Return what of a run isn't to stay in memory, manifests first.

    Args:
        store: where it is.
        run: its name.
        head: the run's newest checkpoint, None if it has none.
        epoch: of the run's newest attempt, which may be writing a newer checkpoint.
        needed: manifests whose objects stay.
    """
    keep: set[str] = set()
    for manifest in needed:
        keep |= {join(manifest.id, "zarr.json"), *contents(manifest)}
    known = split_checkpoint(head) if head else None
    found = []
    for entry in store.list(run):
        folder = "/".join(entry.key.split("/")[:2])
        parsed = split_checkpoint(folder)
        underway = parsed is not None and parsed[2] == epoch and (not known or parsed[1] > known[1])
        if folder != head and not underway and entry.key not in keep:
            found.append(entry.key)
    return sorted(found, key=lambda key: (key.count("/") != 2, key))


def check_room(folder: Path, nbytes: int) -> None:
    """Raise OSError (ENOSPC) if there isn't so much memory to spare."""
    free = room(folder)
    if nbytes > free:
        raise OSError(
            errno.ENOSPC, f"{nbytes >> 20} MiB are wanted, and {free >> 20} MiB of memory are free"
        )


def room(folder: Path) -> int:
    """Return the bytes that may be put in memory at a folder, or below it, once it is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    status = os.statvfs(folder)
    memory = psutil.virtual_memory()
    free = [status.f_bavail * status.f_frsize, memory.available - int(_RESERVE * memory.total)]
    with suppress(OSError, ValueError):  # no cgroup of version 2, or one without a limit
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        rows = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines() if line
        )
        free.append(int((1 - _RESERVE) * limit) - used + int(rows.get("inactive_file", 0)))
    return max(0, min(free))


class Doubled:
    """A store of which what is put is also put in memory.

    Only objects: what makes them a checkpoint is created in the first store alone, and in memory
    by whoever has made sure that all is there.
    """

    def __init__(self, first: ObjectStore, shelf: ObjectStore) -> None:
        self.first, self.shelf = first, shelf
        self.block, self.threads = first.block, first.threads
        self.trouble = ""  # the last failure in memory

    @property
    def url(self) -> str:
        return self.first.url

    def put(self, key: str, parts: Parts) -> None:
        # One after the other: while this thread copies, another one's write is under way. A
        # thread of its own for memory was no faster where measured.
        try:
            self.shelf.put(key, parts)
        except OSError as error:
            self.trouble = error.strerror or str(error)
        self.first.put(key, parts)

    def flush(self) -> None:
        self.first.flush()

    def create(self, key: str, data: bytes) -> None:
        self.first.create(key, data)

    def link(self, key: str, target: str) -> None:
        self.first.link(key, target)

    def read(self, key: str) -> bytes:
        return self.first.read(key)

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        return self.first.read_into(key, offset, view)

    def size(self, key: str) -> int:
        return self.first.size(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.first.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self.first.delete(keys)
