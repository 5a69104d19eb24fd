"""What is known of a gang's ranks: that they have begun and ended, and what follows from that.

It is the same whether a rank's own host tells it or others find that it must be so: both come
here. When the last rank has ended, the attempt is concluded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from resilient_nb.control.hosts import ranks_of
from resilient_nb.core import events as ev
from resilient_nb.core.model import Job, JobState, Outcome, RankEnd, StopReason
from resilient_nb.wire import orders

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: How ranks end that end their whole gang.
_BROKEN = (Outcome.FAILED, Outcome.EXITED, Outcome.LOST)


class Gangs:
    """Follows gangs to their end; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ending: dict[str, None] = {}  # jobs of which ranks have ended

    def adopt(self, job: Job) -> None:
        """A gang of before a restart, which may well be alive."""
        engine = self._engine
        self._ending[job.id] = None  # maybe all of its ranks had ended
        engine.launches.adopt(job)
        engine.live.begin(job.id, {r: h for h, r in ranks_of(job.placement)}, engine.now())

    def happened(self, job: Job) -> None:
        """A job has changed: note whether ranks have ended, so that `settle` looks at no others."""
        if job.ends:
            self._ending[job.id] = None

    def rank_started(self, fact: orders.RankStarted) -> None:
        """A rank's process exists; with the last one the gang runs."""
        engine = self._engine
        job = engine.current(fact.job, fact.epoch)
        if job is None:
            return
        engine.live.started(job.id, fact.rank, fact.pid)
        if job.state is JobState.STARTING and engine.live.all_started(job.id):
            engine.record(ev.GangStarted(engine.now(), job.id, job.epoch))

    def rank_ended(self, job: Job, end: RankEnd) -> None:
        """A rank has ended, as it said itself or as others say of it."""
        engine = self._engine
        if end.error is None and end.outcome in (Outcome.EXITED, Outcome.LOST):
            # It said nothing itself, and the last sample can be older than the newest checkpoint.
            head = engine.world.runs[job.run].head
            reached = engine.world.checkpoint(head).step if head else 0
            step = engine.live.steps(job.id).get(end.rank, 0)
            end = replace(end, step=max(end.step, step, reached))
        engine.record(ev.RankEnded(engine.now(), job.id, job.epoch, end))

    def settle(self) -> None:
        """Stop gangs that are broken, and conclude those whose ranks have all ended."""
        engine = self._engine
        for name in list(self._ending):
            job = engine.world.jobs[name]
            if not job.state.holds_gang:
                self._ending.pop(name, None)
                continue
            if job.stop is None and any(end.outcome in _BROKEN for end in job.ends.values()):
                # Its end is in the journal, and then that took nothing more.
                engine.stop(ev.StopRequested(engine.now(), name, StopReason.FAILURE))
                job = engine.world.jobs[name]
            if job.state.holds_gang and job.gang_ended:
                engine.endings.conclude(job)
                engine.launches.forget(job)
