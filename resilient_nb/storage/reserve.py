"""Room that is kept for when a disk is full: a file that holds nothing, and is given up then."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

#: Bytes that are kept, and that must be free besides for it to be worth it.
SIZE, SPARE = 1 << 20, 64 << 20


class Reserve:
    """One file, beside what needs the room.

    Attributes:
        spent: whether the room was given up, and is to be taken again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.spent = False

    def keep(self) -> None:
        """Take the room, if it isn't taken yet and there is plenty."""
        with suppress(OSError):
            if self._path.exists() or _free(self._path.parent) < SIZE + SPARE:
                return
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(file, 0, SIZE)
            except OSError:  # a quota, say: an empty file would pass for the room
                self._path.unlink()
                raise
            finally:
                os.close(file)
            self.spent = False

    def spend(self) -> bool:
        """Give the room up if the disk is full; False if that was no help."""
        try:
            if _free(self._path.parent) >= SIZE:
                return False  # it is something else
            self._path.unlink()
            self.spent = True
            return True
        except OSError:
            return False


def _free(folder: Path) -> int:
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize
