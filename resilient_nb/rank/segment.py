"""Memory that a rank shares with its writer process: snapshots are copied into it, again and again.

It has no name in any file system (memfd), so that nothing is left behind, and containers with a
small /dev/shm don't matter.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from math import prod
from typing import Any

import torch

from resilient_nb.storage.zarr3 import PAGE

#: Where tensors begin: aligned for any vector instruction.
ALIGNMENT = 64
_GRAIN = 1 << 20
#: Tensors of at least so many bytes begin at a page: they are written from where they lie.
_LARGE = 1 << 20
#: Tensors of the segment that are kept to be asked for again.
_MOST_VIEWS = 100_000
_MADV_POPULATE_WRITE = 23

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Segment:
    """Shared memory of a fixed size, as torch sees it."""

    def __init__(self, size: int) -> None:
        self._pinned = False
        self.size = max(_GRAIN, -(-size // _GRAIN) * _GRAIN)
        self.fd = os.memfd_create("resilient_nb snapshot", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._memory = mmap.mmap(self.fd, self.size)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._views: dict[Any, torch.Tensor] = {}  # as a rule the next snapshot wants the same

    def populate(self) -> bool:
        """Have the kernel make all of it now; return whether there is room for it."""
        if self.size > _available():
            return False  # the kernel would rather kill somebody than say so
        try:
            os.posix_fallocate(self.fd, 0, self.size)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC):
                raise
            return False
        _libc.madvise(self._bytes.data_ptr(), self.size, _MADV_POPULATE_WRITE)
        return True

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the contiguous tensor that lies at `offset`."""
        key = offset, shape, dtype
        if (found := self._views.get(key)) is None:
            nbytes = prod(shape) * dtype.itemsize
            found = self._bytes[offset : offset + nbytes].view(dtype).view(shape)
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()  # of a state whose layout keeps changing
            self._views[key] = found
        return found

    def pin(self) -> None:
        """Let a GPU copy into it beside other work."""
        if not self._pinned:
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostRegister(self._bytes.data_ptr(), self.size, 0)
            self._pinned = True

    def __del__(self) -> None:
        if self._pinned:
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostUnregister(self._bytes.data_ptr())
        os.close(self.fd)


def _available() -> int:
    """Return how many bytes of memory could be had."""
    with open("/proc/meminfo") as file:
        found = [line.split() for line in file if line.startswith("MemAvailable:")]
    return int(found[0][1]) << 10 if found else 1 << 62


def aligned(offset: int, nbytes: int) -> int:
    """Return the next place where a tensor of so many bytes may begin."""
    grain = PAGE if nbytes >= _LARGE else ALIGNMENT
    return -(-offset // grain) * grain
