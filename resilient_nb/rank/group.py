"""The ranks of a gang as one process group, and the store that they agree through."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from resilient_nb.wire.orders import Attempt

#: Ranks wait for each other at a step boundary; one of them may be evaluating for long.
_PATIENCE = timedelta(minutes=30)
_FOREVER = timedelta(days=30)


class Group:
    """Collectives over gloo (and NCCL where every rank has a GPU), and a key-value store.

    A new store for each attempt, on a socket that was bound before the ranks began, so that
    none has to wait for another to be ready.
    """

    def __init__(
        self, attempt: Attempt, rank: int, local_rank: int, rendezvous: int | None
    ) -> None:
        self.rank, self.world_size = rank, attempt.world_size
        self.device = _device(local_rank, attempt)
        if attempt.one_host:
            # Names of this machine may not resolve; ranks on one host need only loopback.
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        self.store = _store(attempt, rank, rendezvous)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", self.store),
            rank=rank,
            world_size=self.world_size,
        )

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Give every rank the values that rank 0 has, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                if whole.data_ptr() != tensor.data_ptr():
                    tensor.detach().copy_(whole)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait until every rank has ended its cell: rank 0 holds the store for all."""
        if self.world_size == 1:
            return
        if self.rank == 0:
            self.store.wait([f"end/{rank}" for rank in range(1, self.world_size)], _FOREVER)
            self.store.set("end/all", "1")
            return
        self.store.set(f"end/{self.rank}", "1")
        # Rank 0 may be gone before its answer arrives: it only goes when all have ended.
        with contextlib.suppress(dist.DistError):
            self.store.wait(["end/all"], _FOREVER)


def _store(attempt: Attempt, rank: int, rendezvous: int | None) -> Store:
    if attempt.world_size == 1:
        if rendezvous is not None:
            os.close(rendezvous)
        return HashStore()
    host, _, port = attempt.rendezvous.rpartition(":")
    return TCPStore(
        host,
        int(port),
        world_size=attempt.world_size,
        is_master=rank == 0,
        timeout=_PATIENCE,
        wait_for_workers=False,
        master_listen_fd=rendezvous if rank == 0 else None,
    )


def _device(local_rank: int, attempt: Attempt) -> torch.device:
    """Return a GPU of its own for each rank if the host has enough, else the CPU."""
    on_host = attempt.world_size if attempt.one_host else local_rank + 1
    if torch.cuda.is_available() and torch.cuda.device_count() >= on_host:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")
