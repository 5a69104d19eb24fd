"""The ranks of a gang as one process group, and the store that they agree through.

The numbers of an elastic gang must not depend on its lease. What could make them is kept
apart from it: every rank has the same number of threads on any worker, the flat all-reduce
of gloo is a ring by rank whose order of sums follows from the world size and the tensor's
length alone, and the backend is the same on any number of GPUs.
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from resilient_nb.rank.phases import WAIT, Phases
from resilient_nb.supervisor.seats import Seat
from resilient_nb.wire.orders import Attempt

#: Ranks wait for each other at a step boundary; one of them may be evaluating for long.
_PATIENCE = timedelta(minutes=30)
_FOREVER = timedelta(days=30)


class Group:
    """Collectives over gloo (and NCCL where every rank has a GPU), and a key-value store.

    Elastic gangs use gloo for GPU tensors too: NCCL refuses two ranks on one GPU, and adds in
    an order that depends on how GPUs are linked.

    A new store for each attempt, on a socket that was bound before the ranks began, so that
    none has to wait for another to be ready.
    """

    def __init__(
        self,
        attempt: Attempt,
        rank: int,
        seat: Seat,
        rendezvous: int | None,
        phases: Phases | None = None,
    ) -> None:
        self.phases = phases or Phases()
        self.rank, self.world_size = rank, attempt.world_size
        self.workers = attempt.granted
        self.device = _device(seat, attempt.virtual)
        if attempt.one_host:
            # Names of this machine may not resolve; ranks on one host need only loopback.
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        self.store = _store(attempt, rank, rendezvous)
        nccl = self.device.type == "cuda" and not attempt.virtual
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", self.store),
            rank=rank,
            world_size=self.world_size,
        )

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Give every rank the values that rank 0 has, in place."""
        if self.world_size == 1:
            return
        with self.phases.within(WAIT):
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                if whole.data_ptr() != tensor.data_ptr():
                    tensor.detach().copy_(whole)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            with self.phases.within(WAIT):
                dist.barrier()

    def leave(self) -> None:
        """Wait until every rank has ended its cell: rank 0 holds the store for all."""
        if self.world_size == 1:
            return
        self.phases.enter(WAIT)
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


def gpu_of(seat: Seat, gpus: int, shared: bool) -> int | None:
    """Return the number of the GPU that a rank computes on, None for the CPU.

    Ranks side by side share a worker, and its GPU. Gangs side by side begin at other GPUs.

    Args:
        seat: the rank's place on its host.
        gpus: how many the host has.
        shared: whether ranks may share a GPU; else all have one of their own, or none has.
    """
    if gpus == 0 or (gpus < seat.ranks and not shared):
        return None
    return (seat.first_slot + seat.local_rank * min(gpus, seat.slots) // seat.ranks) % gpus


def _device(seat: Seat, shared: bool) -> torch.device:
    """Return the rank's GPU, or the CPU."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = gpu_of(seat, gpus, shared)
    if gpu is None:
        return torch.device("cpu")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    return device
