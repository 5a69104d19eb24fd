"""An `ObjectStore` on a file system.

Large objects are written past the page cache (O_DIRECT) where the file system can: a checkpoint
then costs the training hardly any CPU and none of its memory, and on the machine that this was
measured on it was half as fast again (see `make bench NAME=checkpoint`).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resilient_nb.storage.disk import Disk
from resilient_nb.storage.objects import Entry, Parts, StrPath, size_of
from resilient_nb.storage.zarr3 import PAGE

#: Smaller objects go through the page cache: `flush` writes them together.
DIRECT_BYTES = 1 << 20
#: What is handed to the device at once; a multiple of any block size.
_BLOCK = 2 << 20
#: Errors of file systems that can't write directly.
_NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
#: Errors of file systems that have no links of some kind.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
#: The names of what is not there yet, and must not be taken for an object, begin so.
PRIVATE = ".tmp-"


class LocalStore:
    """A folder whose files are the objects. The folder is made when something is written."""

    block = 1 << 20  # stays in the processor's cache from the read to the checksum
    threads = 4

    def __init__(self, root: StrPath, disk: Disk | None = None) -> None:
        self.root = Path(root).absolute()
        self._disk = disk or Disk()
        self._direct = True

    @property
    def url(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        """Return where an object is, or would be."""
        return self.root / key

    def put(self, key: str, parts: Parts) -> None:
        path = self.root / key
        self._own(path.parent)
        if self._direct and size_of(parts) >= DIRECT_BYTES:
            try:
                self._write(path, parts, os.O_DIRECT)
                return
            except OSError as error:
                if error.errno not in _NO_DIRECT:
                    raise
                self._direct = False
        self._write(path, parts, 0)

    def flush(self) -> None:
        """Make everything durable that was written to the file system: one call for all files."""
        if self.root.exists():
            self._disk.syncfs(self.root)

    def create(self, key: str, data: bytes) -> None:
        path = self.root / key
        made = self._make(path.parent)
        private = path.with_name(f"{PRIVATE}{uuid.uuid4().hex}")
        try:
            file = self._disk.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                self._write_all(file, memoryview(data))
                self._disk.fsync(file)
            finally:
                self._disk.close(file)
            self._publish(private, path)
        finally:
            with suppress(OSError):  # it is superfluous, and a sweep removes it
                self._disk.unlink(private)
        for folder in dict.fromkeys((path.parent, *(folder.parent for folder in made))):
            self._disk.fsync_folder(folder)

    def link(self, key: str, target: str) -> None:
        path, goal = self.root / key, _relative(key, target)
        try:
            self._link(goal, path)
        except FileExistsError:
            # An object goes before; what is left of an earlier try doesn't.
            if path.is_symlink() and os.readlink(path) != goal:
                self._disk.unlink(path)
                self._link(goal, path)
        except FileNotFoundError:
            self._make(path.parent)
            self._link(goal, path)

    def _link(self, goal: str, path: Path) -> None:
        try:
            self._disk.symlink(goal, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        file = os.open(self.root / key, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _fill(file, offset, view)
        finally:
            os.close(file)

    def size(self, key: str) -> int:
        return (self.root / key).stat().st_size

    def list(self, prefix: str = "") -> Iterator[Entry]:
        top = self.root / prefix
        if prefix and not top.is_symlink() and top.is_dir():
            yield from _listed(str(top), f"{prefix}/")
        elif prefix:
            with suppress(FileNotFoundError, NotADirectoryError):
                yield Entry(prefix, 0 if top.is_symlink() else top.stat().st_size)
        else:
            yield from _listed(str(top), "")

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            path = self.root / key
            with suppress(FileNotFoundError):
                self._disk.unlink(path)
            folders.add(path.parent)
        for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
            self._prune(folder)

    def _prune(self, folder: Path) -> None:
        """Remove a folder that is empty now, and those above it."""
        with suppress(OSError):
            while folder != self.root:
                self._disk.rmdir(folder)
                folder = folder.parent

    def _own(self, folder: Path) -> None:
        """Make a folder unless there is one; looking is cheaper than trying to make it."""
        try:
            mode = os.lstat(folder).st_mode
        except FileNotFoundError:
            self._make(folder)
            return
        if stat.S_ISLNK(mode):  # given by `link`: what it leads to never changes
            self._disk.unlink(folder)
            self._make(folder)

    def _make(self, folder: Path) -> tuple[Path, ...]:
        """Make a folder and those above it, if need be; return the new ones."""
        made: tuple[Path, ...] = ()
        try:
            self._disk.mkdir(folder)
        except FileExistsError:
            return ()
        except FileNotFoundError:
            made = self._make(folder.parent)
            with suppress(FileExistsError):  # made by somebody else meanwhile
                self._disk.mkdir(folder)
        if folder.parent == self.root:
            with suppress(OSError):  # it is only faster
                self._disk.spread(folder)
        return (*made, folder)

    def _publish(self, private: Path, path: Path) -> None:
        """Give a whole file its name, which nothing may have yet."""
        try:
            self._disk.link(private, path)  # unlike a rename, never over another one
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            self._disk.replace(private, path)  # a file system without hard links

    def _write(self, path: Path, parts: Parts, direct: int) -> None:
        """Write what lies as a direct write needs it from where it lies, the rest by blocks.

        Copying costs training on the other cores more than anything else about a checkpoint.
        """
        file = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | direct)
        try:
            scratch, filled = _scratch.array, 0
            for view in parts:
                part, at = np.frombuffer(view, np.uint8), 0
                while at < part.size:
                    if not filled and (straight := _straight(part[at:], direct)):
                        self._write_all(file, part[at : at + straight].data)
                        at += straight
                        continue
                    count = min(part.size - at, _BLOCK - filled)
                    # Unlike a memoryview's, numpy's copy lets other threads run meanwhile.
                    np.copyto(scratch[filled : filled + count], part[at : at + count])
                    at, filled = at + count, filled + count
                    if filled == _BLOCK:
                        self._write_all(file, scratch[:_BLOCK].data)
                        filled = 0
            pages = filled // PAGE * PAGE if direct else filled
            self._write_all(file, scratch[:pages].data)
            if pages < filled:  # less than a page can't be written directly
                self._disk.go_indirect(file)
                self._write_all(file, scratch[pages:filled].data)
        finally:
            self._disk.close(file)

    def _write_all(self, file: int, view: memoryview) -> None:
        """A short write means a full disk, as a rule: then the next one says so."""
        while view.nbytes:
            view = view[self._disk.write(file, view) :]


def _relative(key: str, target: str) -> str:
    """Return the way from the folder of an object to another one."""
    here, there = key.split("/")[:-1], target.split("/")
    shared = 0
    while shared < len(here) and here[shared] == there[shared]:
        shared += 1
    return "/".join([".."] * (len(here) - shared) + there[shared:])


def _straight(part: npt.NDArray[np.uint8], direct: int) -> int:
    """Return how many bytes can be written from where they lie."""
    if direct and part.ctypes.data % PAGE:
        return 0
    return part.size // PAGE * PAGE


class _Scratch(threading.local):
    """Aligned memory that a thread's writes go through."""

    def __init__(self) -> None:
        # Not shared, which is the default: processes that are forked would write into each other's.
        self.memory = mmap.mmap(-1, _BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array = np.frombuffer(self.memory, np.uint8)


_scratch = _Scratch()


def _listed(folder: str, prefix: str) -> Iterator[Entry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # removed while we look
    for entry in entries:
        key = prefix + entry.name
        if entry.is_symlink():
            yield Entry(key, 0)
        elif entry.is_dir():
            yield from _listed(entry.path, f"{key}/")
        else:
            with suppress(FileNotFoundError):
                yield Entry(key, entry.stat().st_size)


def _fill(file: int, offset: int, view: memoryview) -> int:
    done = 0
    while done < view.nbytes:
        count = os.preadv(file, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
