"""Reading chunks as they are stored: all of one is verified, by the manifest's xxh3-64.

What is wrong with one is a ValueError here: whoever asks knows the tensor, and names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from resilient_nb.storage.encoding import Codecs, fit
from resilient_nb.storage.hashing import Bytes, xxh3
from resilient_nb.storage.manifest import TensorRecord
from resilient_nb.storage.objects import ObjectStore, join
from resilient_nb.storage.tree import Array

#: A tensor, and what it is read into.
Wanted = tuple[TensorRecord, Array]


def chunk_bytes(record: TensorRecord) -> int:
    """Return how many bytes the values of one of a tensor's chunks take."""
    return int(np.prod(record.chunk, dtype=np.int64)) * np.dtype(record.dtype).itemsize


def array_codecs(record: TensorRecord) -> Codecs:
    """Return the codecs of the array that holds a tensor, as its metadata has them."""
    array = join(record.at, record.key)
    return fit(record.codecs, array, np.dtype(record.dtype).itemsize, chunk_bytes(record))


def read_plain(store: ObjectStore, key: str, data: Bytes, size: int, wanted: str) -> None:
    """Fill `data` with the first of the `size` bytes of a chunk that isn't encoded.

    It is read and summed up block by block, while each is in the processor's cache.
    """
    found, block = xxhash.xxh3_64(), store.block
    for at in range(0, data.size, block):
        piece = data[at : at + block]
        if store.read_into(key, at, piece.data) != piece.size:
            raise wrong_size(key)
        found.update(piece.data)
    rest = np.empty(size - data.size + 5, np.uint8)  # padding, its crc32c, and nothing more
    if store.read_into(key, data.size, rest.data) != rest.size - 1:
        raise wrong_size(key)
    found.update(rest[:-1].data)
    _match(key, found.hexdigest(), wanted)


def read_encoded(store: ObjectStore, key: str, wanted: str) -> memoryview:
    """Return what is stored of a chunk, without its crc32c."""
    stored = np.frombuffer(store.read(key), np.uint8)
    _match(key, xxh3(stored), wanted)
    return stored[:-4].data


def _match(key: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"has a chunk that doesn't match its checksum ({key})")


def wrong_size(key: str) -> ValueError:
    """Return what to raise of a chunk that is too short or too long."""
    return ValueError(f"has a chunk of the wrong size ({key})")


def neighbours(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Divide tensors of one pack, in order, into those that follow each other without a gap."""
    run: list[Wanted] = []
    end = -1
    for record, target in wanted:
        if run and record.offset != end:
            yield run
            run = []
        run.append((record, target))
        end = (record.offset or 0) + target.size
    yield run
