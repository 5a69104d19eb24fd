"""Moves a gang away from a host on which one of its ranks keeps the others waiting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resilient_nb.control.hosts import ranks_of
from resilient_nb.core import events as ev
from resilient_nb.core.model import Job, JobState, StopReason
from resilient_nb.core.stragglers import Straggler
from resilient_nb.errors import JournalFailed

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: Seconds between two moves of a job: where it is slow everywhere, it isn't the hosts' fault.
AGAIN = 600.0


class Moving:
    """Decides about stragglers; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._moved_at: dict[str, float] = {}
        self._slow: dict[str, int] = {}  # the rank that a job was moved for

    def comparable(self, job: Job) -> bool:
        """Whether all ranks of a gang should be equally fast: each has as much of a slot."""
        if job.ranks < 2:
            return False
        shares = {(s.count % s.leased, s.count // s.leased) for s in job.placement}
        return len(shares) == 1 and next(iter(shares))[0] == 0

    def straggles(self, job: Job, found: Straggler, now: float) -> None:
        """Have a gang leave at a checkpoint and go on elsewhere, if there is room; or say so."""
        again = now - self._moved_at.get(job.id, -math.inf) < AGAIN
        if again or job.stop is not None or job.state is not JobState.RUNNING:
            return
        self._moved_at[job.id] = now
        host = next(host for host, rank in ranks_of(job.placement) if rank == found.rank)
        text = (
            f"Rank {found.rank} on {host} takes {found.takes:.2g} s to compute a step, "
            f"{found.takes / found.usual:.1f} times what is usual in its gang."
        )
        # Who is slow on two hosts has more to do: rank 0 may evaluate for all of them.
        elsewhere = self._slow.get(job.id) == found.rank
        if elsewhere or host in job.remedy.avoid or not self._room(job, host):
            self._moved_at[job.id] = math.inf  # said once
            why = "It was so on another host" if elsewhere else "No other host has room for it"
            self._engine.live.note(job.id, f"{text} {why}: it stays.")
            self._engine.changed(job.id)
            return
        text = f"{text} Goes on without {host}."
        stop = ev.StopRequested(now, job.id, StopReason.MOVE, text, workers=job.granted, avoid=host)
        try:
            self._engine.stop(stop)
        except JournalFailed:
            del self._moved_at[job.id]  # it is found again: samples are taken all the same
            return
        self._slow[job.id] = found.rank
        self._engine.live.note(job.id, text)

    def _room(self, job: Job, host: str) -> bool:
        """Whether the other hosts can hold the gang, with what it has there already."""
        engine, bad = self._engine, {host, *job.remedy.avoid}
        hosts = engine.hosts.for_plan(engine.world, engine.now())
        free = sum(h.free for h in hosts if h.id not in bad)
        own = sum(s.leased for s in job.placement if s.host not in bad)
        return free + own >= job.slots
