"""How an axis of a tensor is divided over ranks, by the rules of torch's `chunk`.

n elements over w ranks: each has ceil(n / w), the last ones fewer or none. Where several
dimensions of a mesh divide one axis, each divides what the one before has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product


def part(length: int, ways: Sequence[int], at: Sequence[int]) -> tuple[int, int]:
    """Return where the part of a rank begins, and its size.

    Args:
        length: of the axis.
        ways: into how many parts each mesh dimension divides it, in turn.
        at: the rank's coordinates in these dimensions.
    """
    start, size = 0, length
    for count, number in zip(ways, at, strict=True):
        whole = -(-size // count)
        offset = min(size, whole * number)
        start, size = start + offset, min(whole, size - offset)
    return start, size


@lru_cache(maxsize=4096)
def chunk_of(length: int, ways: tuple[int, ...]) -> int | None:
    """Return the size of chunks in a regular grid of which each rank's part is one.

    None if there is no such grid: 6 elements, first in two and then each half in two, make parts
    of 2, 1, 2 and 1.
    """
    parts = [part(length, ways, at) for at in product(*map(range, ways))]
    chunk = max(1, max(size for _, size in parts))
    regular = all(
        start % chunk == 0 and size == min(chunk, length - start) for start, size in parts if size
    )
    return chunk if regular else None
