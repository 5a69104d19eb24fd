"""One process as any rank of any mesh, for tests of sharded tensors that need no collective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.placement_types import Placement
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def as_rank(rank: int, shape: Sequence[int]) -> Iterator[DeviceMesh]:
    """Be a rank of a mesh of this shape."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=prod(shape))
    try:
        yield init_device_mesh("cpu", tuple(shape))
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # what it has seen belongs to the rank that was


def placed(whole: torch.Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> torch.Tensor:
    """Return the DTensor of a tensor that every rank has."""
    return distribute_tensor(whole.clone(), mesh, placements, src_data_rank=None)
