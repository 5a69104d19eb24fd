"""Which hosts there are, by what their agents report.

Slots are counted by host, not by Dask worker: a rank belongs to its host's supervisor and
goes on when the worker that launched it dies, so only the host can say what is in use.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from resilient_nb.core.model import Placement, World
from resilient_nb.core.scheduling import Host
from resilient_nb.core.views import HostView
from resilient_nb.wire.orders import RankRow, Report


@dataclass
class _Agent:
    slots: int
    speaks: bool


@dataclass
class _Known:
    agents: dict[str, _Agent] = field(default_factory=dict)
    table: tuple[RankRow, ...] = ()
    warm: bool = False
    silent_since: float | None = None


class Hosts:
    """The table of hosts, kept by reports; forgets what it is told is gone."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Known] = {}

    def report(self, report: Report) -> None:
        """Take note of an agent's report."""
        known = self._hosts.setdefault(report.host, _Known())
        known.agents[report.agent] = _Agent(report.slots, report.speaks)
        known.silent_since = None
        if report.speaks:
            known.table, known.warm = report.ranks, report.warm

    def agent_gone(self, agent: str, now: float) -> None:
        """Forget an agent. A host without agents is silent, not gone: its ranks may live."""
        for known in self._hosts.values():
            if known.agents.pop(agent, None) and not known.agents:
                known.silent_since = now

    def expect(self, host: str, now: float) -> None:
        """Count a host that should be there as silent until it reports."""
        if host not in self._hosts:
            self._hosts[host] = _Known(silent_since=now)

    def silent(self, host: str, now: float, grace: float) -> bool:
        """Whether the host has had no agent for `grace` seconds."""
        known = self._hosts.get(host)
        return known is None or (
            known.silent_since is not None and now - known.silent_since >= grace
        )

    def forget(self, host: str) -> None:
        """Drop a silent host."""
        known = self._hosts.get(host)
        if known is not None and not known.agents:
            del self._hosts[host]

    def agent_for(self, host: str) -> str | None:
        """Return the agent that takes orders for a host: the one that speaks, else any."""
        known = self._hosts.get(host)
        if known is None or not known.agents:
            return None
        return min(known.agents, key=lambda a: (not known.agents[a].speaks, a))

    def names(self) -> Collection[str]:
        """Return all known hosts."""
        return list(self._hosts)

    def table(self, host: str) -> tuple[RankRow, ...]:
        """Return the host's live ranks as last reported."""
        return self._hosts[host].table if host in self._hosts else ()

    def for_plan(self, world: World) -> tuple[Host, ...]:
        """Return the hosts that can take ranks now, as the policy sees them."""
        use = self._in_use(world)
        return tuple(
            Host(name, _slots(known), use.get(name, 0))
            for name, known in sorted(self._hosts.items())
            if known.warm and known.agents
        )

    def views(self, world: World) -> tuple[HostView, ...]:
        """Return all hosts as shown."""
        use = self._in_use(world)
        return tuple(
            HostView(name, _slots(known), use.get(name, 0), tuple(sorted(known.agents)), known.warm)
            for name, known in sorted(self._hosts.items())
        )

    def _in_use(self, world: World) -> dict[str, int]:
        """Count slots held by gangs, and by ranks that should be dead and aren't yet."""
        use: dict[str, int] = {}
        held: set[tuple[str, int, int]] = set()
        for job in world.jobs.values():
            if job.state.holds_gang:
                for host, rank in ranks_of(job.placement):
                    if rank not in job.ends:
                        held.add((job.id, job.epoch, rank))
                        use[host] = use.get(host, 0) + 1
        for name, known in self._hosts.items():
            old = sum((row.job, row.epoch, row.rank) not in held for row in known.table)
            if old:
                use[name] = use.get(name, 0) + old
        return use


def ranks_of(placement: Placement) -> list[tuple[str, int]]:
    """Return (host, rank) for every rank of a placement."""
    return [
        (share.host, rank)
        for share in placement
        for rank in range(share.first, share.first + share.count)
    ]


def _slots(known: _Known) -> int:
    return sum(agent.slots for agent in known.agents.values())
