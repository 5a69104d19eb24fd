"""Ranks that live and that the journal doesn't know of: part of it was lost, not they.

A journal that was damaged, or brought back from a backup, may have forgotten attempts that go on.
An older attempt than the known one is over, whatever happened; one that is newer, or of a job that
nobody has heard of, can only be forgotten. Its ranks are not killed but asked to leave at a
checkpoint, which the journal takes back; meanwhile its job isn't started anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resilient_nb.core import events as ev
from resilient_nb.core.model import Checkpoint, Job
from resilient_nb.ports import Launcher
from resilient_nb.wire import orders

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: Seconds that ranks get to reach a checkpoint (a step may be long), and between two orders.
_GRACE, _AGAIN = 600.0, 3.0
#: For how many seconds it is told that a part of the journal was lost.
_TOLD_FOR = 7 * 86400.0


class Strays:
    """Forgotten ranks, by the hosts' reports; one for an engine."""

    def __init__(self, engine: Engine, send: Launcher) -> None:
        self._engine = engine
        self._send = send
        self._jobs: dict[str, frozenset[str]] = {}  # by host
        self._ordered: dict[tuple[str, str, int], float] = {}
        self._awaited = 0  # slots of all hosts before the loss
        self._unsure_until = 0.0  # nothing is started before: who lives isn't known yet

    # --- who lives ----------------------------------------------------------------------

    def remember(self) -> None:
        """If a part of the journal was lost, tell it, and hear from all hosts before any start."""
        engine, lost = self._engine, self._engine.world.salvaged
        if lost is None:
            return
        since = engine.now() - lost.at
        engine.set_alert("salvaged", lost.text if since < _TOLD_FOR else None)
        if since < engine.settings.adopt_grace:
            self._awaited = engine.world.ledger.capacity
            self._wait_until(lost.at + engine.settings.adopt_grace)

    def look(self) -> None:
        """A second has passed: maybe all hosts are here."""
        if 0 < self._awaited <= self._engine.hosts.capacity():
            self._awaited = 0
            self._go_on()

    def compare(self, seconds: float) -> None:
        """Start nothing for so long: it is looked whether the journal is older than the store."""
        if not self._unsure_until:
            self._wait_until(self._engine.now() + seconds)

    def compared(self, news: Sequence[ev.Event]) -> None:
        """It is known what the journal has forgotten: most often nothing."""
        # If that took long, attempts may have begun since then that only seem to be forgotten.
        found = [event for event in news if isinstance(event, ev.CheckpointsFound)]
        if found and all(map(self._is_news, found)):
            self._engine.record(*news)
            self.remember()
        elif not self._awaited:
            self._go_on()
        self._engine.look_again()

    def _is_news(self, found: ev.CheckpointsFound) -> bool:
        run = self._engine.world.runs.get(found.run)
        return run is None or all(new.epoch > run.epoch for new in found.checkpoints)

    def _wait_until(self, when: float) -> None:
        self._unsure_until = self._engine.closing_until = when

    def _go_on(self) -> None:
        if self._engine.closing_until == self._unsure_until:  # else somebody else closes it
            self._engine.closing_until = 0.0
        self._unsure_until = 0.0

    # --- forgotten ranks ----------------------------------------------------------------

    def is_one(self, job: str, epoch: int) -> bool:
        """Whether an attempt is one that the journal has forgotten."""
        known = self._engine.world.jobs.get(job)
        return known is None or epoch > known.epoch

    def reported(self, host: str, rows: Iterable[orders.RankRow]) -> None:
        """A host says which ranks it has: have forgotten ones leave."""
        there = {(row.job, row.epoch) for row in rows}
        found = {attempt for attempt in there if self.is_one(*attempt)}
        if found:
            self._jobs[host] = frozenset(job for job, _ in found)
        else:
            self._jobs.pop(host, None)
        for job, epoch in sorted(found):
            now = self._engine.now()
            if now - self._ordered.get((host, job, epoch), 0.0) >= _AGAIN:
                self._ordered[host, job, epoch] = now
                grace = max(_GRACE, self._engine.settings.leave_grace)
                self._send(host, orders.Leave(job, epoch, grace))

    @property
    def runs(self) -> frozenset[str]:
        """The runs to which they may be writing."""
        return frozenset(job.partition("#")[0] for jobs in self._jobs.values() for job in jobs)

    def hold(self, job: Job) -> str:
        """Return why a job waits for ranks of its own, "" if it needn't."""
        if not self._jobs:
            return ""
        known = self._engine.hosts.names()
        hosts = sorted(h for h, jobs in self._jobs.items() if job.id in jobs and h in known)
        if not hosts:
            return ""
        return (
            f"Ranks of it that the journal has forgotten leave {', '.join(hosts)} at a checkpoint; "
            "it goes on from there."
        )

    def wrote(self, new: Checkpoint) -> None:
        """Forgotten ranks have written a checkpoint: it is their run's head now."""
        engine = self._engine
        world, now = engine.world, engine.now()
        begin = [] if new.run in world.runs else [ev.RunCreated(now, new.run)]
        run = world.runs.get(new.run)
        if run is not None and any(world.jobs[job].epoch > new.epoch for job in run.jobs):
            return  # the run has gone on since then
        parent = run.checkpoints.get(new.parent or "") if run is not None else None
        found = replace(new, parent=parent.id if parent is not None else None)
        engine.record(*begin, ev.CheckpointsFound(now, new.run, (found,), new.id))
