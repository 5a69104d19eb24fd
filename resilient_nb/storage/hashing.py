"""Checksums: crc32c for Zarr's codec, xxh3 for ourselves.

Any Zarr reader verifies a chunk by the crc32c behind it. We verify by the xxh3-64 in the manifest:
it also tells a whole chunk of another checkpoint, and doesn't hold the GIL, so that reading scales
over threads. xxh3-128 tells whether two tensors are equal, over ranks and from one checkpoint to
the next, where 32 bits would one day call different ones equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash

from resilient_nb.storage.zarr3 import PAGE

Bytes = npt.NDArray[np.uint8]

#: Stays in the processor's cache from one checksum to the next; and crc32c holds the GIL: others
#: are let in between.
_BLOCK = 256 << 10
_CRC_BYTES = 4
#: What lies at a page isn't copied on its way to a disk: then large pieces are better.
_STRAIGHT = 8 << 20
#: Handing less to another thread costs more than it saves.
_LARGE = 1 << 20


def raw(array: npt.NDArray[Any]) -> Bytes:
    """Return the array's little-endian bytes in C order; a view where they lie so already."""
    ordered = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return ordered.reshape(-1).view(np.uint8)


def crc32c(data: Bytes) -> int:
    """Return the crc32c of `data`."""
    crc = 0
    for start in range(0, data.size, _BLOCK):
        crc = google_crc32c.extend(crc, data[start : start + _BLOCK])
    return crc


def xxh3(data: Bytes) -> str:
    """Return the xxh3-64 of `data` as 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(data.data)


class Seal(NamedTuple):
    """What Zarr's codec puts behind a chunk, and the xxh3-64 of both together."""

    end: bytes
    sum: str


class Sealing:
    """A chunk with its crc32c behind it, as a store is to write it; its seal, once it has been.

    The sums are made as the blocks are handed out: who copies a block next finds it in the
    processor's cache. It may be gone through again, and is summed once.

    Attributes:
        pieces: the chunk, one piece after the other.
        nbytes: of it all.
        seal: of it all, once it has been gone through.
        whole: the sum that was given, by then with the first piece added.
    """

    seal: Seal

    def __init__(
        self,
        pieces: Sequence[Bytes],
        whole: xxhash.xxh3_128 | None = None,
        known: Seal | None = None,
    ) -> None:
        """`whole` is told of the first piece only: what follows fills the chunk up.

        If the seal is `known`, nothing is summed, so there can be no `whole`.
        """
        assert known is None or whole is None
        self.pieces = pieces
        self.nbytes = sum(piece.size for piece in pieces) + _CRC_BYTES
        self.whole = self._before = whole
        self._known = known

    def __iter__(self) -> Iterator[memoryview | bytes]:
        if self._known is not None:
            yield from (piece.data for piece in self.pieces)
            self.seal = self._known
        else:
            yield from self._summed()
        yield self.seal.end

    def _summed(self) -> Iterator[memoryview]:
        crc, state = 0, xxhash.xxh3_64()
        whole = None if self._before is None else self._before.copy()
        for number, piece in enumerate(self.pieces):
            step = _BLOCK if piece.ctypes.data % PAGE else _STRAIGHT
            for start in range(0, piece.size, step):
                part = piece[start : start + step]
                for at in range(0, part.size, _BLOCK):
                    block = part[at : at + _BLOCK]
                    crc = google_crc32c.extend(crc, block)
                    state.update(block.data)
                    if whole is not None and number == 0:
                        whole.update(block.data)
                yield part.data
        end = crc.to_bytes(_CRC_BYTES, "little")
        state.update(end)
        self.seal, self.whole = Seal(end, state.hexdigest()), whole
        self._known = self.seal

    def done(self) -> Seal:
        """Make the sums with nothing written."""
        for _ in self:
            pass
        return self.seal


def digest(array: npt.NDArray[Any]) -> str:
    """Return the xxh3-128 of the array's little-endian bytes in C order, as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(raw(array).data)


def digests(arrays: Mapping[str, npt.NDArray[Any]], threads: int = 2) -> dict[str, str]:
    """Return the digest of each array, the large ones by that many threads."""
    large = {name: array for name, array in arrays.items() if array.nbytes >= _LARGE}
    if threads <= 1 or len(large) <= 1:
        return {name: digest(array) for name, array in arrays.items()}
    with ThreadPoolExecutor(threads, "digest") as pool:
        found = dict(zip(large, pool.map(digest, large.values()), strict=True))
    return {name: found.get(name) or digest(array) for name, array in arrays.items()}


def digest_of(parts: Iterable[str]) -> str:
    """Return one digest for several, in their order."""
    return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())
