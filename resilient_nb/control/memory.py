"""Which host has which checkpoint in memory, and orders until it is as it should be.

Nothing is remembered: hosts report what they have, and orders are given again as long as that
isn't what is wanted. A lost order, a restart of the control plane or of an agent change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_nb.core import memory
from resilient_nb.core.model import Job, JobState
from resilient_nb.ports import Launcher
from resilient_nb.wire import orders

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: An order that shows no effect is given again after so many seconds; the second is for hosts
#: that have said why they can't.
_AGAIN, _LATER = 3.0, 30.0


class Memory:
    """Copies in memory; one for an engine."""

    def __init__(self, engine: Engine, send: Launcher) -> None:
        self._engine = engine
        self._send = send
        self._ordered: dict[tuple[str, str], tuple[object, float]] = {}  # by host and run

    def look(self) -> None:
        """Order what is wanted and isn't there."""
        for job in self._engine.world.open.values():
            self.look_at(job)

    def look_at(self, job: Job) -> None:
        """Order what a job's run wants."""
        head = self._engine.world.runs[job.run].head
        if not job.spec.memory_copies or head is None or not job.state.holds_gang:
            return
        starting = job.state is JobState.STARTING
        gang = {share.host for share in job.placement}
        for host in self._wanted(job):
            if head not in self._there(host):
                others = [h for h in self._able() if h != host]
                others.sort(key=lambda h: (head not in self._there(h), h))
                agents = [self._engine.hosts.agent_for(h) for h in others]
                # Ranks had better read the store themselves if the copy would come from there.
                whole = bool(others) and head in self._there(others[0])
                awaited = starting and whole and host in gang
                order = orders.Shelve(head, tuple(filter(None, agents)), awaited)
                self._order(host, job.run, order)
        self._explain(job)

    def rules(self, host: str) -> dict[str, orders.Kept]:
        """Return what stays in a host's memory, by run."""
        found = {}
        for job in self._engine.world.open.values():
            if not job.spec.memory_copies:
                continue
            run = self._engine.world.runs[job.run]
            # As long as it waits, whoever has it keeps it.
            whole = host in self._wanted(job) if job.state.holds_gang else True
            found[job.run] = orders.Kept(run.head, run.epoch, whole)
        return found

    def reported(self, report: orders.Report) -> None:
        """Tell users what a host can't do."""
        for run, text in report.shelf_trouble.items():
            known = self._engine.world.runs.get(run)
            if known is not None and known.jobs:
                self._engine.live.note(known.jobs[-1], text)

    def put_back(self, identity: str) -> str:
        """Have a host that has a checkpoint write it to the store; return which, "" if none."""
        for host in self._able():
            if identity in self._there(host):
                self._order(host, identity.partition("/")[0], orders.PutBack(identity))
                return host
        return ""

    def _wanted(self, job: Job) -> tuple[str, ...]:
        gang = list(dict.fromkeys(share.host for share in job.placement))
        able, copies = self._able(), job.spec.memory_copies
        found = memory.holders(gang, able, copies)
        if job.state is JobState.STARTING:  # its ranks are about to read all of it
            found = (*found, *(host for host in gang if host in able and host not in found))
        return found

    def _able(self) -> list[str]:
        """Return the hosts that can have copies."""
        hosts = self._engine.hosts
        return sorted(h for h in hosts.names() if hosts.shelf(h) is not None and hosts.agent_for(h))

    def _there(self, host: str) -> tuple[str, ...]:
        return self._engine.hosts.shelf(host) or ()

    def _order(self, host: str, run: str, order: orders.Shelve | orders.PutBack) -> None:
        now = self._engine.now()
        checkpoint = (type(order), order.checkpoint, getattr(order, "awaited", False))
        before, at = self._ordered.get((host, run), (None, 0.0))
        patience = _LATER if run in self._engine.hosts.shelf_trouble(host) else _AGAIN
        if before != checkpoint or now - at >= patience:
            self._ordered[host, run] = (checkpoint, now)
            self._send(host, order)

    def _explain(self, job: Job) -> None:
        """Say if there are fewer copies than were asked for."""
        gang = [share.host for share in job.placement]
        wanted, able = job.spec.memory_copies, self._able()
        found = len(memory.peers(gang, able, wanted))
        if job.state is JobState.RUNNING and found < wanted and len(set(gang)) == 1:
            others = "no other host has" if not found else f"only {found} other hosts have"
            self._engine.live.note(
                job.id,
                f"--memory-copies {wanted}: {others} room for copies in memory. Those that are "
                "missing are made as soon as there is one; checkpoints in the store are complete.",
            )
