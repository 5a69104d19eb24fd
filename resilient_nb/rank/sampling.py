"""A few elements of each of many tensors: whether somebody has changed them meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch

#: Elements of a tensor.
_COUNT = 16


class Sample:
    """Elements of tensors as they are now; `changed` says whether one has other bits by then.

    Those of a tensor lie on its diagonal, at even distances from its first to its last: of a
    matrix each is in another row and another column. So a change of a whole tensor is seen, or
    of a half of it, and so are most of some rows or columns, if they are many. What lies between
    the elements is missed: a change of single values, or of one row of a large embedding.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            some = tensor.as_strided(*_diagonal(tensor.shape, tensor.stride()))
            self._by_dtype.setdefault(tensor.dtype, []).append(some)
        self._found = self._gather()

    def changed(self) -> bool:
        """Gather them again and compare."""
        pairs = zip(self._found, self._gather(), strict=True)
        return not all(torch.equal(before, now) for before, now in pairs)

    def _gather(self) -> list[torch.Tensor]:
        """Return bits: nan isn't equal to itself."""
        with torch.no_grad():
            return [torch.cat(each).view(torch.uint8) for each in self._by_dtype.values()]


@lru_cache(10_000)
def _diagonal(shape: torch.Size, strides: tuple[int, ...]) -> tuple[tuple[int], tuple[int]]:
    """Return the size and the stride of a view of the elements."""
    count = min(_COUNT, max(shape, default=1))
    steps = ((length - 1) // max(1, count - 1) for length in shape)
    return (count,), (sum(step * s for step, s in zip(steps, strides, strict=True)),)
