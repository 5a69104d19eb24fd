"""Sharded tensors (DTensor): what a rank holds of one, and which part of the whole that is.

Each rank writes its own part as a chunk of one Zarr array, whose regular grid is the division of
the tensor over the mesh. So no rank ever holds more than its part, and any other division can be
read from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch

from resilient_nb.core.division import chunk_of, part
from resilient_nb.errors import CannotStore
from resilient_nb.storage.tree import Shard

#: Loading it costs seconds where nobody uses it (a notebook that looks at a checkpoint).
_MODULE = "torch.distributed.tensor"


def is_sharded(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a DTensor (replicated ones, too)."""
    module: Any = sys.modules.get(_MODULE)
    return module is not None and isinstance(value, module.DTensor)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a tensor: itself, if it isn't sharded."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor.detach()
    local: torch.Tensor = sharded.to_local()
    return local


def part_of(tensor: torch.Tensor, where: Callable[[], str]) -> tuple[torch.Tensor, Shard | None]:
    """Return what this rank holds of a tensor, and which part of the whole it is (None: all).

    Raises:
        CannotStore: saying `where` the tensor is, if the parts form no regular grid.
    """
    if not is_sharded(tensor):
        return tensor, None
    local, shard = local_of(tensor), _shard(tensor, where)
    if shard is not None and local.shape != shard.extent:
        raise CannotStore(
            f"{where()} is a DTensor of which this rank holds {list(local.shape)}, but by its "
            f"placement {list(shard.extent)}. Make it with distribute_tensor."
        )
    return local, shard


def like(pattern: Any, local: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return a DTensor of a shape that is placed as `pattern`, and of which this is the part.

    One of another shape than the pattern's is on every rank.
    """
    from torch.distributed.tensor import DTensor, Replicate

    same = tuple(shape) == tuple(pattern.shape)
    placements = pattern.placements if same else [Replicate()] * pattern.device_mesh.ndim
    stride = torch.empty(tuple(shape), device="meta").stride()
    return DTensor.from_local(
        local, pattern.device_mesh, placements, run_check=False, shape=torch.Size(shape),
        stride=stride,
    )  # fmt: skip


def _shard(tensor: Any, where: Callable[[], str]) -> Shard | None:
    """Return a DTensor's part on this rank, None if every rank holds all of it."""
    at = tensor.device_mesh.get_coordinate()
    if at is None:
        raise CannotStore(
            f"{where()} is a DTensor on a mesh that this rank isn't in. Track it where it is."
        )
    axes: dict[int, list[int]] = {}  # by the tensor's dimension those of the mesh that divide it
    for number, placement in enumerate(tensor.placements):
        if type(placement).__name__ == "Shard":
            axes.setdefault(placement.dim, []).append(number)
        elif type(placement).__name__ != "Replicate":
            raise CannotStore(f"{where()} is a DTensor in {placement!r}; {_way_out(placement)}")
    if not axes:
        return None
    shape, chunk, index = tuple(tensor.shape), [], []
    for dim, length in enumerate(shape):
        numbers = axes.get(dim, [])
        ways = tuple(tensor.device_mesh.size(number) for number in numbers)
        size = chunk_of(length, ways)
        if size is None:
            raise CannotStore(
                f"{where()} is a DTensor whose dimension {dim}, of {length}, is divided by "
                f"{' and then by '.join(map(str, ways))} unevenly. Pad it to a multiple, or have "
                "one dimension of the mesh divide it."
            )
        start, held = part(length, ways, [at[number] for number in numbers])
        chunk.append(size)
        index.append(start // size if held else -(-length // size))
    return Shard(shape, tuple(chunk), tuple(index))


def _way_out(placement: Any) -> str:
    if placement.is_partial():
        return "it is a sum that isn't made yet. Redistribute it, or leave it out."
    return (
        "that can't be kept. Have tensor parallelism and fully_shard (its shard_placement_fn) "
        "divide different dimensions."
    )
