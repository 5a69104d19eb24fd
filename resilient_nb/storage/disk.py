"""The system calls by which a `LocalStore` changes its folder.

All of them, one method each, so that `testing.faults` can have any of them fail, or be the last.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resilient_nb.storage.objects import Buffer

_libc = ctypes.CDLL(None, use_errno=True)
#: Of <linux/fs.h>: read and set a folder's flags, and the one for `Disk.spread`.
_GETFLAGS, _SETFLAGS, _TOPDIR = 0x80086601, 0x40086602, 0x00020000


class Disk:
    """Does what it is told. Every method may raise OSError."""

    def mkdir(self, folder: Path) -> None:
        os.mkdir(folder, 0o700)

    def spread(self, folder: Path) -> None:
        """Have the folders that are made in a folder lie apart on the disk, if it can do that.

        What is in them has nothing to do with each other. And ext4 takes up to forty times as
        long to make a file near where others were deleted in the last minutes.
        """
        with _opened(folder) as file:
            flags = array.array("i", [0])
            fcntl.ioctl(file, _GETFLAGS, flags)
            flags[0] |= _TOPDIR
            fcntl.ioctl(file, _SETFLAGS, flags)

    def open(self, path: Path, flags: int) -> int:
        """Open a file to be written; return its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, file: int, data: Buffer) -> int:
        """Return how many bytes were written: fewer than there are if the disk is full."""
        return os.write(file, data)

    def go_indirect(self, file: int) -> None:
        """Have what is written from now on go through the page cache."""
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_WRONLY)

    def close(self, file: int) -> None:
        os.close(file)

    def fsync(self, file: int) -> None:
        """Make a file's contents durable, but not its name."""
        os.fsync(file)

    def fsync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable, but not its own."""
        with _opened(folder) as file:
            os.fsync(file)

    def syncfs(self, folder: Path) -> None:
        """Make everything durable that was written to the file system that a folder is on."""
        syncfs = getattr(_libc, "syncfs", None)
        if syncfs is None:
            os.sync()
            return
        with _opened(folder) as file:
            if syncfs(file) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(folder))

    def link(self, path: Path, name: Path) -> None:
        """Give a file one more name, which nothing may have."""
        os.link(path, name)

    def symlink(self, target: str, path: Path) -> None:
        os.symlink(target, path)

    def replace(self, path: Path, name: Path) -> None:
        os.replace(path, name)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, folder: Path) -> None:
        os.rmdir(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
