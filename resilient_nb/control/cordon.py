"""Keeping ordinary Dask tasks and gangs apart on the workers that they share.

Slots are counted by host, and a host may have several Dask workers: as many of them as are needed
to cover its leased slots take no ordinary tasks, the idle ones first. To Dask they are paused.
The worker itself knows nothing of it, so it says "running" again when its memory allows: that
word is kept until the worker is released. Workers with ordinary tasks aren't offered to gangs;
when gangs wait for more slots than are free, some are closed to new tasks until they have drained.

Everything here runs in the scheduler's event loop, between Dask's own steps. What is done every
second looks only at workers that have ordinary tasks, so thousands of others cost nothing.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed import Status

#: Drained workers that no gang has taken after the first number of seconds go back to ordinary
#: tasks, and nothing is drained for the second number: the gangs that wait lack something else.
PATIENCE, REST = 5.0, 60.0
#: While there are leases, a new worker is kept from tasks until its agent has said which host it
#: is on, but no longer than this.
UNKNOWN_FOR = 5.0
#: Workers with tasks that are looked at in one second, so that Dask's own work isn't held up.
_LOOKS = 1000
_HERE = (Status.init, Status.running, Status.paused)


@dataclass(frozen=True)
class Member:
    """One of a host's Dask workers: its slots, its ordinary tasks, and whether it covers leases."""

    address: str
    slots: int
    tasks: int = 0
    covers: bool = False


def cover(members: Iterable[Member], leased: int) -> tuple[str, ...]:
    """Return which workers cover this many leased slots: those that do already, then idle ones.

    All of them, if they don't suffice.
    """
    chosen, missing = [], leased
    for member in sorted(members, key=lambda m: (not m.covers, m.tasks, m.address)):
        if missing <= 0:
            break
        chosen.append(member.address)
        missing -= member.slots
    return tuple(chosen)


class Cordon:
    """Which workers ordinary tasks are kept off, and why. One for a scheduler."""

    def __init__(self, scheduler: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.seats: dict[str, tuple[str, int]] = {}  # host and slots, by the agent's address
        self._on_host: dict[str, set[str]] = defaultdict(set)
        self._leased: Mapping[str, int] = {}
        # Why workers are held: they cover leases, they drain for gangs that wait, they are being
        # retired, or no agent has said yet where they are (until when).
        self._covering: set[str] = set()
        self._draining: set[str] = set()
        self._leaving: set[str] = set()
        self._unknown: dict[str, float] = {}
        self._held: dict[str, Status] = {}  # and what each of them says itself
        self._drained_at: float | None = None
        self._resting_until = 0.0
        self._with_tasks: dict[str, None] = {}  # an ordered set: longest not looked at first
        self._stale: set[str] = set()  # hosts to choose for again
        self._news: set[str] = set()  # hosts whose busy slots may be others than said
        handlers = scheduler.stream_handlers
        self._pass_status_on = handlers["worker-status-change"]
        handlers["worker-status-change"] = self._on_status
        if "steal-response" in handlers:  # Dask can be told to do without stealing
            self._pass_theft_on = handlers["steal-response"]
            handlers["steal-response"] = self._on_theft

    # --- what happens -------------------------------------------------------------------

    def worker_came(self, address: str) -> None:
        """A Dask worker joined."""
        if self._leased:
            self._unknown[address] = self._clock() + UNKNOWN_FOR
            self._apply([address])

    def agent_said(self, address: str, host: str, slots: int) -> None:
        """An agent reported where it is and what it offers; most often that is no news."""
        unknown = self._unknown.pop(address, None)
        if unknown is not None or self.seats.get(address) != (host, slots):
            self.seats[address] = (host, slots)
            self._on_host[host].add(address)
            if self._tasks(address):
                self._with_tasks[address] = None
            self._choose([host])

    def worker_left(self, address: str) -> None:
        """A Dask worker is gone. Others are chosen with the next second, outside Dask's step."""
        host, _ = self.seats.pop(address, ("", 0))
        self._on_host[host].discard(address)
        if not self._on_host[host]:
            del self._on_host[host]
        self._stale.add(host)
        self._held.pop(address, None)
        self._unknown.pop(address, None)
        self._with_tasks.pop(address, None)
        for each in (self._covering, self._draining, self._leaving):
            each.discard(address)

    def lease(self, leased: Mapping[str, int]) -> None:
        """Gangs hold this many slots of each host now."""
        hosts = {host for host, _ in leased.items() ^ self._leased.items()}
        self._leased, self._drained_at = dict(leased), None
        self._choose(hosts)

    def task_began(self, key: Any) -> str | None:
        """A task was sent to a worker; return its host if it had none before."""
        task = self._scheduler.tasks.get(key)
        worker = task.processing_on if task is not None else None
        if worker is None or worker.address in self._with_tasks:
            return None
        self._with_tasks[worker.address] = None
        host = self.host_of(worker.address)
        if host is not None:
            self._news.add(host)
        return host

    def retire(self, addresses: Collection[str]) -> None:
        """These workers are about to go: nothing more for them, and others cover the leases."""
        self._leaving.update(addresses)
        self._apply(addresses)
        self._choose({self.seats[a][0] for a in addresses if a in self.seats})

    def stay(self, addresses: Collection[str]) -> None:
        """Those of these workers that are still there stay after all."""
        self._leaving.difference_update(addresses)
        self._apply(addresses)
        hosts = {self.seats[a][0] for a in addresses if a in self.seats}
        self._choose(hosts)
        self._stale.update(hosts)  # to Dask they may still be closing

    def tick(self, wanted: Callable[[], int]) -> dict[str, int]:
        """A second has passed.

        Args:
            wanted: returns how many slots gangs wait for beyond the free ones.

        Returns:
            The busy slots of every host where their number may have changed.
        """
        now = self._clock()
        known = {a for a, until in self._unknown.items() if until <= now}
        for address in known:
            del self._unknown[address]
        looked_at = self._look()
        before = set(self._draining)
        if looked_at or self._draining:
            self._drain(wanted, looked_at, now)
        self._apply(known | before | self._draining)
        stale, self._stale = self._stale, set()
        self._choose(stale)
        news, self._news = self._news, set()
        return {host: self.busy(host) for host in news}

    def _look(self) -> list[str]:
        """Look which workers still have tasks, and return those: not all at once."""
        thieves = {info["thief"].address for info in self._thefts()}
        self._with_tasks.update(dict.fromkeys(thieves))
        found = list(islice(self._with_tasks, _LOOKS))
        for address in found:
            del self._with_tasks[address]
            if self._tasks(address) or address in thieves:
                self._with_tasks[address] = None
            elif address in self.seats:
                self._news.add(self.seats[address][0])
        return [address for address in found if address in self._with_tasks]

    # --- what is asked ------------------------------------------------------------------

    def busy(self, host: str) -> int:
        """Return the slots that gangs can't have: ordinary tasks run, or the worker is to go."""
        return sum(
            self.seats[address][1]
            for address in self._on_host.get(host, ())
            if address in self._leaving
            or (address in self._with_tasks and address not in self._covering)
        )

    def host_of(self, address: str) -> str | None:
        """Return the host of a worker whose agent has reported."""
        return self.seats[address][0] if address in self.seats else None

    def staying(self, host: str) -> int:
        """Return the slots of a host's workers that aren't about to go."""
        return sum(member.slots for member in self._members(host))

    def covering(self) -> frozenset[str]:
        """Return the workers whose slots are leased."""
        return frozenset(self._covering)

    def holds(self, address: str) -> bool:
        """Whether a worker is kept from ordinary tasks."""
        return address in self._held

    # --- choosing -----------------------------------------------------------------------

    def _tasks(self, address: str) -> int:
        worker = self._scheduler.workers.get(address)
        return len(worker.processing) if worker is not None else 0

    def _thefts(self) -> list[Any]:
        """Return the tasks that are just being stolen; nothing stops them on their way."""
        stealing = self._scheduler.extensions.get("stealing")
        return list(stealing.in_flight.values()) if stealing is not None else []

    def _members(self, host: str) -> list[Member]:
        workers = self._scheduler.workers
        return [
            Member(
                address,
                self.seats[address][1],
                self._tasks(address) + (address in self._with_tasks),
                address in self._covering,
            )
            for address in self._on_host.get(host, ())
            if address not in self._leaving
            and address in workers
            and workers[address].status in _HERE
        ]

    def _choose(self, hosts: Iterable[str]) -> None:
        """Choose anew which workers of these hosts cover their leases."""
        self._with_tasks.update({info["thief"].address: None for info in self._thefts()})
        for host in hosts:
            self._news.add(host)
            mine = self._on_host.get(host, set())
            chosen = cover(self._members(host), self._leased.get(host, 0))
            self._covering -= mine
            self._covering.update(chosen)
            self._draining.difference_update(chosen)
            self._apply(mine)

    def _drain(self, wanted: Callable[[], int], busy: Iterable[str], now: float) -> None:
        """Close workers to new tasks, as many busy slots as gangs want beyond the free ones."""
        slots = 0 if now < self._resting_until else wanted()
        if slots <= 0:
            self._draining, self._drained_at = set(), None
            return
        emptying = sum(self.seats[a][1] for a in self._draining if a in self._with_tasks)
        held = self._covering | self._draining
        others = [a for a in busy if a in self.seats and a not in held]
        for address in heapq.nsmallest(slots, others, key=lambda a: (self._tasks(a), a)):
            if emptying >= slots:
                break
            self._draining.add(address)
            emptying += self.seats[address][1]
        if emptying:
            self._drained_at = None
        elif self._drained_at is None:
            self._drained_at = now
        elif now - self._drained_at >= PATIENCE:
            self._draining, self._resting_until = set(), now + REST

    # --- Dask's side --------------------------------------------------------------------

    def _apply(self, addresses: Iterable[str]) -> None:
        """Hold those of these workers that there is a reason for, and release the others."""
        for address in list(addresses):
            wanted = (
                address in self._covering
                or address in self._draining
                or address in self._leaving
                or address in self._unknown
            )
            if wanted and address not in self._held:
                self._hold(address)
            elif not wanted and address in self._held:
                self._release(address)

    def _hold(self, address: str) -> None:
        worker = self._scheduler.workers.get(address)
        if worker is None or worker.status not in _HERE:
            return
        self._held[address] = worker.status
        if worker.status is Status.running:
            self._set(worker, Status.paused)

    def _release(self, address: str) -> None:
        said = self._held.pop(address)
        worker = self._scheduler.workers.get(address)
        if worker is not None and worker.status in _HERE and said is Status.running:
            self._set(worker, Status.running)

    def _set(self, worker: Any, status: Status) -> None:
        stimulus = f"resilient-nb-cordon-{time.time()}"
        self._scheduler.handle_worker_status_change(status, worker, stimulus)

    def _on_status(self, worker: str, status: str | Status, **rest: Any) -> None:
        if worker in self._held:
            said = Status[status] if isinstance(status, str) else status
            self._held[worker] = said
            if said is Status.running:
                return
        elif worker in self.seats:
            self._stale.add(self.seats[worker][0])
        self._pass_status_on(worker=worker, status=status, **rest)

    def _on_theft(self, key: Any, **rest: Any) -> None:
        self._pass_theft_on(key=key, **rest)
        self.task_began(key)
