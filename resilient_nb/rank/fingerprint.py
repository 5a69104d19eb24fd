"""A cheap fingerprint of what a cell trains on: a hash of a sample of its items.

It only looks at values that lie in memory as they are (tensors, arrays, lists, and datasets made
of these). Other datasets are never asked for an item: that could draw random numbers, open files
or count, and training would no longer be what it is without us. The sample has a fixed number of
items and bytes, so that it takes the same short time for any amount of data.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
import xxhash
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

#: Places looked at of each array or list, elements at each, and values in all.
_ITEMS, _ELEMENTS, _VALUES = 8, 1024, 256

#: Bytes of a text that count.
_TEXT = 4096

_DEPTH = 5


def fingerprint(data: Any) -> str:
    """Return the xxh3-64 of a sample of the data; "" if there is nothing that may be looked at.

    Equal data gives equal fingerprints, in every process.

    Raises:
        Exception: whatever the data raises when it is looked at.
    """
    sample = _Sample()
    sample.take(data, 0)
    return sample.hash.hexdigest() if sample.values else ""


class _Sample:
    """One sample: a hash, and how many values went into it."""

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_64()
        self.values = 0

    def take(self, value: Any, depth: int) -> None:
        """Add a value; of what can't be looked at, only its type."""
        self._say(type(value).__qualname__)
        if depth > _DEPTH or self.values >= _VALUES:
            return
        if isinstance(value, torch.Tensor):
            # A subclass may do as it likes: a DTensor would wait for other ranks.
            if type(value) in (torch.Tensor, torch.nn.Parameter):
                self._array(value, tuple(value.shape), str(value.dtype))
        elif isinstance(value, np.ndarray):
            if not value.dtype.hasobject:
                self._array(value, value.shape, value.dtype.str)
        elif type(value) in (list, tuple):
            self._say(str(len(value)))
            for n in _chosen(len(value)):
                self.take(value[n], depth + 1)
        elif type(value) is dict:
            self._say(str(len(value)))
            for key in islice(value, _ITEMS):
                self.take(key, depth + 1)
                self.take(value[key], depth + 1)
        elif type(value) in (bool, int, float, complex, str, bytes) or isinstance(
            value, np.generic
        ):
            self._plain(value)
        else:
            self._dataset(value, depth)

    def _dataset(self, data: Any, depth: int) -> None:
        if isinstance(data, DataLoader):
            self.take(data.dataset, depth + 1)
        elif isinstance(data, TensorDataset):
            self.take(list(data.tensors), depth + 1)
        elif isinstance(data, ConcatDataset):
            self.take(list(data.datasets), depth + 1)
        elif isinstance(data, Subset):
            self.take(data.indices, depth + 1)
            self.take(data.dataset, depth + 1)
        else:
            self._parts(data, depth)

    def _parts(self, data: Any, depth: int) -> None:
        """Take what a dataset of the user's own, or of a library, keeps in memory."""
        held = getattr(data, "__dict__", None)
        if not isinstance(held, dict):
            return
        kinds = (torch.Tensor, np.ndarray, list, tuple)
        for name in sorted(key for key in held if isinstance(key, str)):
            # `_fingerprint`: that of Hugging Face's datasets, which covers all of their data.
            if isinstance(held[name], kinds) or name == "_fingerprint":
                self._say(name)
                self.take(held[name], depth + 1)

    def _array(self, array: Any, shape: tuple[int, ...], dtype: str) -> None:
        self._say(f"{dtype}{list(shape)}")
        self.values += 1
        if 0 in shape:
            return
        width, corner = _corner(shape)
        for start in _chosen(shape[0] - width + 1) if shape else []:
            self._bytes(array[(slice(start, start + width), *corner)])
        if not shape:
            self._bytes(array)

    def _bytes(self, piece: Any) -> None:
        self.values += 1
        if isinstance(piece, torch.Tensor):
            whole = piece.detach().cpu().resolve_conj().resolve_neg().contiguous()
            piece = whole.reshape(-1).view(torch.uint8).numpy()
        self.hash.update(np.ascontiguousarray(piece).tobytes())

    def _plain(self, value: Any) -> None:
        if isinstance(value, str):
            value = value[:_TEXT].encode("utf-8", "surrogatepass")
        self._say(value[:_TEXT] if isinstance(value, bytes) else _number(value))
        self.values += 1

    def _say(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        self.hash.update(len(data).to_bytes(8, "little"))  # so that no two samples run together
        self.hash.update(data)


def _number(value: Any) -> str:
    return hex(value) if type(value) is int else repr(value)


def _chosen(length: int) -> list[int]:
    """Return the first, the last, and some indices between."""
    if length <= _ITEMS:
        return list(range(length))
    return [n * (length - 1) // (_ITEMS - 1) for n in range(_ITEMS)]


def _corner(shape: tuple[int, ...]) -> tuple[int, tuple[slice, ...]]:
    """Return how many rows make a piece of at most `_ELEMENTS` elements, and what of each row."""
    left, slices = _ELEMENTS, []
    for size in reversed(shape[1:]):
        slices.append(slice(min(size, left)))
        left = max(1, left // min(size, left))
    return min(left, shape[0]) if shape else 0, tuple(reversed(slices))
