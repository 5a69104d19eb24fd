"""Checksums: crc32c for Zarr's codec, xxh3 for ourselves.

Any Zarr reader verifies a chunk by the crc32c behind it. We verify by the xxh3-64 in the manifest:
it also tells a whole chunk of another checkpoint, and doesn't hold the GIL, so that reading scales
over threads. xxh3-128 tells whether two tensors are equal, over ranks and from one checkpoint to
the next, where 32 bits would one day call different ones equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash

Bytes = npt.NDArray[np.uint8]

_BLOCK = 1 << 20  # crc32c holds the GIL: let other threads in


def raw(array: npt.NDArray[Any]) -> Bytes:
    """Return the array's little-endian bytes in C order; a view where they lie so already."""
    ordered = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return ordered.reshape(-1).view(np.uint8)


def crc32c(data: Bytes, before: int = 0) -> int:
    """Return the crc32c of `data`, which follows bytes whose crc32c is `before`."""
    crc = before
    for start in range(0, data.size, _BLOCK):
        crc = google_crc32c.extend(crc, data[start : start + _BLOCK])
    return crc


def xxh3(*pieces: Bytes) -> str:
    """Return the xxh3-64 of the pieces, one after the other, as 16 hex digits."""
    state = xxhash.xxh3_64()
    for piece in pieces:
        state.update(piece.data)
    return state.hexdigest()


def digest(array: npt.NDArray[Any]) -> str:
    """Return the xxh3-128 of the array's little-endian bytes in C order, as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(raw(array).data)


def digests(arrays: Mapping[str, npt.NDArray[Any]], threads: int = 2) -> dict[str, str]:
    """Return the digest of each array, by that many threads if they are large."""
    if threads <= 1 or sum(a.nbytes for a in arrays.values()) < 16 << 20:
        return {name: digest(array) for name, array in arrays.items()}
    with ThreadPoolExecutor(threads, "digest") as pool:
        return dict(zip(arrays, pool.map(digest, arrays.values()), strict=True))


def digest_of(parts: Iterable[str]) -> str:
    """Return one digest for several, in their order."""
    return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())
