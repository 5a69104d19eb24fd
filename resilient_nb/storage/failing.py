"""A disk that is full for a while because its user wants to see what happens then (`chaos`)."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

from resilient_nb.storage.disk import Disk
from resilient_nb.storage.objects import Buffer

_FORMAT = struct.Struct("=id")  # an error's number, and until when (monotonic clock)


class Switch:
    """Memory that a process shares with those that it forks: whether writing is to fail."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def fail(self, code: int, seconds: float) -> None:
        """Have all that needs space fail with this error from now on, for so many seconds."""
        _FORMAT.pack_into(self._memory, 0, code, time.monotonic() + seconds)

    def error(self) -> int:
        """Return the error that writing fails with now, 0 if it doesn't."""
        code, until = _FORMAT.unpack_from(self._memory)
        return code if code and time.monotonic() < until else 0


class FailingDisk(Disk):
    """A disk whose calls that need space fail while a switch says so; all others go on working."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def _check(self) -> None:
        if code := self._switch.error():
            raise OSError(code, os.strerror(code))

    def mkdir(self, folder: Path) -> None:
        self._check()
        super().mkdir(folder)

    def open(self, path: Path, flags: int) -> int:
        self._check()
        return super().open(path, flags)

    def write(self, file: int, data: Buffer) -> int:
        self._check()
        return super().write(file, data)

    def link(self, path: Path, name: Path) -> None:
        self._check()
        super().link(path, name)

    def symlink(self, target: str, path: Path) -> None:
        self._check()
        super().symlink(target, path)
