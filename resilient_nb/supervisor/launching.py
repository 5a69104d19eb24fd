"""Launching ranks: each once, whatever order comes twice or late."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from resilient_nb.core.causes import COULD_NOT_START
from resilient_nb.core.model import Outcome, RankEnd, RemoteError
from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.agents import Agents
from resilient_nb.supervisor.cgroups import Cgroup, Cgroups
from resilient_nb.supervisor.children import Child, Entry, fork_rank, load_entry
from resilient_nb.supervisor.limits import Limit
from resilient_nb.supervisor.place import Place
from resilient_nb.supervisor.seats import Seat, first_fit
from resilient_nb.supervisor.shelf import find as find_shelf
from resilient_nb.wire.orders import (
    Attempt,
    Launch,
    Prepare,
    Prepared,
    RankDone,
    RankStarted,
)


class Launching:
    """Begins attempts: binds where their ranks will meet, and forks the ranks.

    Args:
        place: where the ranks' output goes.
        agents: get the facts.
        watch: takes each rank that was forked.
        let_go: in a fork, closes everything that is the supervisor's.
    """

    def __init__(
        self,
        place: Place,
        agents: Agents,
        watch: Callable[[Child], None],
        let_go: Callable[[], None],
    ) -> None:
        self._place = place
        self._agents = agents
        self._watch = watch
        self._let_go = let_go
        self._entry: Entry | None = None
        self._groups: Cgroups | None = None
        self._rendezvous: dict[tuple[str, int], socket.socket] = {}
        self._begun: dict[str, tuple[int, set[int]]] = {}  # job to epoch and ranks
        self._ended_epochs: dict[str, int] = {}

    def load(self, entry: str, groups: Cgroups | None) -> None:
        """Import what ranks run; agents may connect meanwhile, and wait."""
        self._entry, self._groups = load_entry(entry), groups

    @property
    def warm(self) -> bool:
        """Whether what ranks run is imported."""
        return self._entry is not None

    def end(self, job: str, epoch: int) -> None:
        """Launch no rank of this attempt or an older one any more."""
        self._ended_epochs[job] = max(self._ended_epochs.get(job, 0), epoch)

    def prepare(self, order: Prepare) -> None:
        """Bind the socket where the ranks of an attempt will meet, and tell its port."""
        key = (order.job, order.epoch)
        if key not in self._rendezvous:
            for old in [k for k in self._rendezvous if k[0] == order.job]:
                self._rendezvous.pop(old).close()
            self._rendezvous[key] = socket.create_server(("", 0), backlog=512)
        port = self._rendezvous[key].getsockname()[1]
        prepared = Prepared(order.job, order.epoch, port)
        self._agents.fact(f"{order.job}/{order.epoch}/prepared", prepared)

    def launch(self, order: Launch, taken: Iterable[Seat]) -> None:
        """Fork the ranks of an attempt, on seats beside those that are taken."""
        attempt = order.attempt
        if self._entry is None or attempt.epoch <= self._ended_epochs.get(attempt.job, 0):
            return
        begun = self._begun_ranks(attempt)
        slots = order.slots or order.count
        shelf = find_shelf(self._place) if attempt.memory_copies else ""
        first_slot = first_fit(taken, slots)
        listener = self._rendezvous.pop((attempt.job, attempt.epoch), None)
        for rank in range(order.first, order.first + order.count):
            if rank in begun:
                continue  # the order came twice
            begun.add(rank)
            mine = scratch.make(self._place)
            seat = Seat(rank - order.first, order.count, slots, first_slot, shelf, mine)
            self._fork(self._entry, attempt, rank, seat, listener)
        if listener is not None:
            listener.close()
        self._agents.tell()

    def _fork(
        self, entry: Entry, attempt: Attempt, rank: int, seat: Seat, listener: socket.socket | None
    ) -> None:
        log = self._place.log(attempt.run, attempt.number, attempt.epoch, rank)
        fd = listener.fileno() if listener is not None and rank == 0 else None
        let_go = partial(self._close_inherited, listener if rank else None)
        limit = self._limit(attempt)
        try:
            child = fork_rank(entry, attempt, rank, seat, log, limit, fd, let_go)
        except OSError as error:
            limit.ended()  # and its group is removed
            scratch.remove(seat.scratch)
            self._not_launched(attempt, rank, error)
            return
        self._watch(child)
        started = RankStarted(attempt.job, attempt.epoch, rank, child.pid)
        self._agents.fact(f"{attempt.job}/{attempt.epoch}/{rank}/started", started, tell=False)

    def _limit(self, attempt: Attempt) -> Limit:
        """Return a rank's memory limit: in a group of its own, if there can be one.

        Copies of checkpoints that the host keeps in memory are none of the rank's, but a group
        would have them counted as its own, since it writes them.
        """
        group: Cgroup | None = None
        if attempt.memory_limit and self._groups is not None and not attempt.memory_copies:
            with suppress(OSError):
                group = self._groups.make(attempt.memory_limit)
        return Limit(attempt.memory_limit, group)

    def _begun_ranks(self, attempt: Attempt) -> set[int]:
        """Return the ranks of an attempt that were ever begun here; forget older attempts."""
        epoch, ranks = self._begun.get(attempt.job, (0, set()))
        if epoch != attempt.epoch:
            ranks = set()
        self._begun[attempt.job] = (attempt.epoch, ranks)
        return ranks

    def _not_launched(self, attempt: Attempt, rank: int, error: OSError) -> None:
        """A full disk or process table is the job's misfortune, not that of all others here."""
        cause = RemoteError("OSError", f"{COULD_NOT_START}: {error}")
        end = RankEnd(rank, Outcome.FAILED, time.time(), error=cause)
        done = RankDone(attempt.job, attempt.epoch, end)
        self._agents.fact(f"{attempt.job}/{attempt.epoch}/{rank}/done", done)

    def _close_inherited(self, spare: socket.socket | None) -> None:
        """In a fork: keep nothing but what is the rank's."""
        self._let_go()
        for end in (*self._rendezvous.values(), spare):
            if end is not None:
                end.close()
