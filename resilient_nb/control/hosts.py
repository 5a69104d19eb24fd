"""Which hosts there are, by what their agents report.

Slots are counted by host, not by Dask worker: a rank belongs to its host's supervisor and
goes on when the worker that launched it dies, so only the host can say what is in use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from resilient_nb.core.model import Placement, Resources
from resilient_nb.core.queue import Host
from resilient_nb.core.views import HostView
from resilient_nb.core.world import World
from resilient_nb.wire.orders import RankRow, Report

#: A host whose agents were silent for this long gets no new gang: it may be going.
ANSWERS_WITHIN = 10.0
#: A host that was to be vacated takes gangs again after this, if its workers stayed.
CLOSING_FOR = 120.0


@dataclass
class _Agent:
    slots: int
    speaks: bool
    slot: Resources = field(default_factory=Resources)


@dataclass
class _Known:
    agents: dict[str, _Agent] = field(default_factory=dict)
    table: tuple[RankRow, ...] = ()
    warm: bool = False
    slot: Resources = field(default_factory=Resources)  # what each slot has at least
    busy: int = 0  # slots that ordinary Dask tasks are using
    store_free: int | None = None
    disk_free: int | None = None
    round_trip: float = 0.0
    heard_at: float = 0.0
    closing_until: float = 0.0
    silent_since: float | None = None
    shelf: tuple[str, ...] | None = None  # checkpoints that it has in memory
    shelf_trouble: frozenset[str] = frozenset()  # runs of which it can't have any

    @property
    def slots(self) -> int:
        return sum(agent.slots for agent in self.agents.values())


class Hosts:
    """The table of hosts, kept by reports; forgets what it is told is gone."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Known] = {}
        self._looked_at = self._blind_until = 0.0

    def report(self, report: Report, now: float) -> bool:
        """Take note of an agent's report; True if it may change what starts."""
        known = self._hosts.setdefault(report.host, _Known())
        before = (dict(known.agents), known.table, known.warm, known.silent_since)
        late = now - known.heard_at > ANSWERS_WITHIN
        known.agents[report.agent] = _Agent(report.slots, report.speaks, report.slot)
        known.silent_since = None
        known.store_free, known.disk_free = report.store_free, report.disk_free
        known.round_trip = report.round_trip
        known.heard_at = now
        if report.speaks:
            known.table, known.warm = report.ranks, report.warm
            known.shelf, known.shelf_trouble = report.shelf, frozenset(report.shelf_trouble)
        after = (known.agents, known.table, known.warm, known.silent_since)
        if before[0] != known.agents:
            known.slot = _least(known.agents.values())
        return late or before != after

    def agent_gone(self, agent: str, now: float) -> None:
        """Forget an agent. A host without agents is silent, not gone: its ranks may live."""
        for known in self._hosts.values():
            if known.agents.pop(agent, None):
                known.slot = _least(known.agents.values())
                known.closing_until = 0.0  # what is left of it stays
                if not known.agents:
                    known.silent_since = now

    def expect(self, host: str, now: float) -> None:
        """Count a host that should be there as silent until it reports."""
        if host not in self._hosts:
            self._hosts[host] = _Known(silent_since=now)

    def silent(self, host: str, now: float, grace: float) -> bool:
        """Whether the host has had no agent, or none that reports, for `grace` seconds.

        A network that is cut closes no connection: Dask itself would wait for minutes.
        """
        known = self._hosts.get(host)
        if known is None:
            return True
        since = known.heard_at if known.silent_since is None else known.silent_since
        return now - max(since, self._blind_until) >= grace

    def look(self, now: float) -> None:
        """A second has passed. While nobody looked (this process was stopped, say), none counts."""
        if now - self._looked_at > ANSWERS_WITHIN / 2:
            self._blind_until = now
        self._looked_at = now

    def forget(self, host: str) -> None:
        """Drop a silent host."""
        known = self._hosts.get(host)
        if known is not None and not known.agents:
            del self._hosts[host]

    def close(self, host: str, now: float) -> None:
        """Give a host nothing new: (one of) its workers is about to go."""
        if host in self._hosts:
            self._hosts[host].closing_until = now + CLOSING_FOR

    def set_busy(self, host: str, slots: int) -> bool:
        """Set how many slots ordinary Dask tasks are using; True if that is news."""
        known = self._hosts.get(host)
        if known is None or known.busy == slots:
            return False
        known.busy = slots
        return True

    def agent_for(self, host: str) -> str | None:
        """Return the agent that takes orders for a host: the one that speaks, else any."""
        known = self._hosts.get(host)
        if known is None or not known.agents:
            return None
        return min(known.agents, key=lambda a: (not known.agents[a].speaks, a))

    def names(self) -> Collection[str]:
        """Return all known hosts."""
        return list(self._hosts)

    def disks(self) -> dict[str, int]:
        """Return the free bytes of the disks of those hosts that have said so."""
        known = {name: known.disk_free for name, known in self._hosts.items()}
        return {name: free for name, free in known.items() if free is not None}

    def heard(self) -> dict[str, float]:
        """Return when each host last reported, or since when it is waited for."""
        return {n: k.heard_at or k.silent_since or 0.0 for n, k in self._hosts.items()}

    def table(self, host: str) -> tuple[RankRow, ...]:
        """Return the host's live ranks as last reported."""
        return self._hosts[host].table if host in self._hosts else ()

    def shelf(self, host: str) -> tuple[str, ...] | None:
        """Return the checkpoints that a host has in memory, None if it can't have any."""
        return self._hosts[host].shelf if host in self._hosts else None

    def shelf_trouble(self, host: str) -> frozenset[str]:
        """Return the runs of which a host has said that it can't have copies."""
        return self._hosts[host].shelf_trouble if host in self._hosts else frozenset()

    def store_free(self) -> int | None:
        """Return the free bytes of the store as the worst-off host sees it."""
        known = [h.store_free for h in self._hosts.values() if h.store_free is not None]
        return min(known, default=None)

    def capacity(self) -> int:
        """Return the slots of all hosts that can run ranks."""
        return sum(known.slots for known in self._hosts.values() if known.warm and known.agents)

    def for_plan(self, world: World, now: float) -> tuple[Host, ...]:
        """Return the hosts that can run ranks, as the policy sees them."""
        use = self.in_use(world)
        return tuple(
            Host(
                name,
                known.slots,
                use.get(name, 0) + known.busy,
                known.slot,
                closing=known.closing_until > now or now - known.heard_at > ANSWERS_WITHIN,
            )
            for name, known in sorted(self._hosts.items())
            if known.warm and known.agents
        )

    def views(self, world: World) -> tuple[HostView, ...]:
        """Return all hosts as shown."""
        use = self.in_use(world)
        return tuple(
            HostView(
                name,
                known.slots,
                use.get(name, 0),
                tuple(sorted(known.agents)),
                known.warm,
                store_free=known.store_free,
                disk_free=known.disk_free,
                round_trip=known.round_trip,
            )
            for name, known in sorted(self._hosts.items())
        )

    def in_use(self, world: World) -> dict[str, int]:
        """Count slots held by gangs, and by ranks that should be dead and aren't yet.

        The slots of a share are free when all of its ranks have ended.
        """
        use: dict[str, int] = {}
        held: set[tuple[str, int, int]] = set()
        for job in world.open.values():
            for share in job.placement:
                ranks = range(share.first, share.first + share.count)
                alive = [rank for rank in ranks if rank not in job.ends]
                held.update((job.id, job.epoch, rank) for rank in alive)
                if alive:
                    use[share.host] = use.get(share.host, 0) + share.leased
        for name, known in self._hosts.items():
            old = sum((row.job, row.epoch, row.rank) not in held for row in known.table)
            if old:
                use[name] = use.get(name, 0) + old
        return use


def _least(agents: Iterable[_Agent]) -> Resources:
    """Return what every slot of a host has, whichever of its workers offers it."""
    slots = {agent.slot for agent in agents}
    return Resources(
        min((slot.cpus for slot in slots), default=0.0),
        min((slot.memory for slot in slots), default=0),
        min((slot.gpus for slot in slots), default=0),
    )


def ranks_of(placement: Placement) -> list[tuple[str, int]]:
    """Return (host, rank) for every rank of a placement."""
    return [
        (share.host, rank)
        for share in placement
        for rank in range(share.first, share.first + share.count)
    ]
