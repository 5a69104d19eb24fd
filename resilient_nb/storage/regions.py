"""Regions of a tensor: which chunks have a share of one, and where the share lies in both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from resilient_nb.storage.tree import Array

Index = tuple[int, ...]
Slices = tuple[slice, ...]


class Share(NamedTuple):
    """What one chunk has of a region.

    Attributes:
        chunk: the chunk's index.
        source: where in the chunk the share is.
        to: where in the region it goes.
    """

    chunk: Index
    source: Slices
    to: Slices


def shares(chunk: Index, start: Index, shape: Index) -> Iterator[Share]:
    """Give the share of each chunk, all of shape `chunk`, in the region from `start` on."""
    if 0 in shape:
        return
    ranges = [range(a // c, -(-(a + n) // c)) for a, n, c in zip(start, shape, chunk, strict=True)]
    for index in product(*ranges):
        source, to = [], []
        for i, c, a, n in zip(index, chunk, start, shape, strict=True):
            low, high = max(i * c, a), min((i + 1) * c, a + n)
            source.append(slice(low - i * c, high - i * c))
            to.append(slice(low - a, high - a))
        yield Share(index, tuple(source), tuple(to))


def is_beginning(source: Slices, chunk: Index) -> bool:
    """Whether a share of a chunk is the first of its bytes: whole rows from the first on."""
    return all(s.start == 0 for s in source) and all(
        s.stop == n for s, n in zip(source[1:], chunk[1:], strict=True)
    )


def is_within(start: Index, shape: Index, whole: Index) -> bool:
    """Whether a region is one of a tensor of shape `whole`."""
    return len(start) == len(shape) == len(whole) and all(
        0 <= a <= a + n <= size for a, n, size in zip(start, shape, whole, strict=True)
    )


def slices(start: Index, shape: Index) -> Slices:
    """Return a region as an array is indexed with it."""
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def view(array: Array, at: Slices) -> Array:
    """Return a part of an array as a view, also of one without dimensions."""
    where: Any = (*at, ...)
    part: Array = array[where]
    return part
