"""A flipped bit in a chunk of a checkpoint, to see that it is found (`chaos`), and back again."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resilient_nb.errors import InvalidRequest
from resilient_nb.storage.opening import open_checkpoint


@dataclass(frozen=True)
class Flipped:
    """A byte that has become another one."""

    tensor: str
    path: Path
    offset: int
    was: int
    inode: int

    def undo(self) -> None:
        """Put the bit back, if the file is still there and as we left it."""
        with suppress(OSError):  # the checkpoint was dropped, or its disk is broken
            file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                now = os.pread(file, 1, self.offset)
                if os.fstat(file).st_ino == self.inode and now == bytes([self.was ^ 1]):
                    os.pwrite(file, bytes([self.was]), self.offset)
            finally:
                os.close(file)


def flip(path: str) -> Flipped:
    """Flip a bit of the largest tensor that a checkpoint has written itself.

    Args:
        path: the checkpoint's folder.

    Raises:
        InvalidRequest: it has written none: a bit of another checkpoint would be damaged, too.
        OSError: it can't be read or written.
    """
    manifest = open_checkpoint(path).manifest
    own = [t for t in manifest.tensors if t.at == manifest.id and t.stored and t.tied is None]
    if not own:
        raise InvalidRequest(f"{manifest.id} has no tensors of its own that could be damaged.")
    tensor = max(own, key=lambda t: (t.nbytes, t.name))
    chunk = min(tensor.sums)
    place = Path(path, tensor.key, chunk)
    offset = 0 if tensor.offset is None else _offset(tensor.offset, tensor.nbytes, tensor.shape)
    file = os.open(place, os.O_RDWR | os.O_CLOEXEC)
    try:
        data = os.pread(file, 1, offset)
        if not data:
            raise InvalidRequest(f"A chunk of {manifest.id} is too short: it is damaged already.")
        was = data[0]
        flipped = Flipped(tensor.name, place, offset, was, os.fstat(file).st_ino)
        os.pwrite(file, bytes([was ^ 1]), offset)
    finally:
        os.close(file)
    return flipped


def _offset(first: int, nbytes: int, shape: tuple[int, ...]) -> int:
    """Return where a packed tensor's first byte is."""
    elements = 1
    for length in shape:
        elements *= length
    return first * (nbytes // max(1, elements))
