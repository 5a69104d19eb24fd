"""What ranks and supervisors print: a full disk costs some of it, and never the training."""

from __future__ import annotations

import errno
import io
from typing import Any, TextIO

#: Errors of a disk that takes nothing more, or is broken.
_GIVEN_UP = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)


class _Lossy(io.FileIO):
    """A file that drops what its disk doesn't take."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _GIVEN_UP:
                raise
            return memoryview(data).nbytes


def lossy_text(descriptor: int) -> TextIO:
    """Return text output to a descriptor, which stays open; each line is written at once."""
    raw = io.BufferedWriter(_Lossy(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
