"""Comparing what hosts report with what the world says should be, and what is done about it.

Orders and agents get lost, and so does this process. Whatever was missed is found here: ranks that
should be gone are ended, those that are missing are launched again or count as lost, and so do all
ranks of a host that isn't heard of any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_nb.control.hosts import ANSWERS_WITHIN, ranks_of
from resilient_nb.core import events as ev
from resilient_nb.core.model import Job, JobState, Outcome, Placement, RankEnd, StopReason
from resilient_nb.wire import orders

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine


class Reconciling:
    """Compares hosts with the world; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._on_host: dict[str, dict[str, None]] = {}  # the jobs with ranks there

    def adopt(self, job: Job) -> None:
        """A gang of before a restart: wait for its hosts to say that it lives."""
        self.happened((), job)
        for share in job.placement:
            self._engine.hosts.expect(share.host, self._engine.now())

    def happened(self, was: Placement, job: Job) -> None:
        """Note on which hosts a job is now, so that a report looks at no others."""
        if was is not job.placement:
            for share in was:
                self._on_host.get(share.host, {}).pop(job.id, None)
            for share in job.placement:
                self._on_host.setdefault(share.host, {})[job.id] = None

    # --- what a host has ------------------------------------------------------------------

    def end_stale(self, report: orders.Report) -> None:
        """End ranks that no current attempt owns, or that were counted as lost."""
        engine = self._engine
        for name, epoch in sorted({(row.job, row.epoch) for row in report.ranks}):
            job = engine.current(name, epoch)
            lost = job is not None and any(
                row.rank in job.ends and job.ends[row.rank].outcome is Outcome.LOST
                for row in report.ranks
                if (row.job, row.epoch) == (name, epoch)
            )
            if (job is None and not engine.strays.is_one(name, epoch)) or lost:
                engine.launches.kill(report.host, name, epoch)
        engine.strays.reported(report.host, report.ranks)

    def reported(self, report: orders.Report) -> None:
        """Adopt ranks that live; count missing ones as lost; repeat orders without effect."""
        engine = self._engine
        alive = {(row.job, row.epoch, row.rank): row for row in report.ranks}
        for job in [engine.world.jobs[name] for name in self._on_host.get(report.host, ())]:
            # Not all ranks of a large gang, for each of its hosts.
            here = tuple(share for share in job.placement if share.host == report.host)
            mine = [rank for _, rank in ranks_of(here)]
            there = [r for r in mine if (job.id, job.epoch, r) in alive]
            found = set(there)
            missing = [r for r in mine if r not in found and r not in job.ends]
            for rank in there:
                row = alive[job.id, job.epoch, rank]
                if row.pid and job.state is JobState.STARTING:
                    engine.gangs.rank_started(orders.RankStarted(job.id, job.epoch, rank, row.pid))
            seen = {rank for rank in missing if engine.live.exists(job.id, rank)}
            overdue = engine.launches.overdue(job, missing, seen)
            if overdue:
                self._lose(job, [(report.host, r) for r in overdue], "no longer has it")
            elif missing and job.state is JobState.STARTING:
                engine.launches.repeat_start(engine.world, job, report.host)
            elif there and job.stop is not None:
                engine.launches.repeat_end(engine.world, job, report.host)

    # --- hosts that say nothing -----------------------------------------------------------

    def look(self, now: float) -> None:
        """A second has passed: ranks of hosts that were silent for too long count as lost."""
        engine, grace = self._engine, self._engine.settings.adopt_grace
        for job in engine.holding():
            self._warn_of_silence(job, now)
            silent = [
                (host, rank)
                for host, rank in ranks_of(job.placement)
                if engine.hosts.silent(host, now, grace)
            ]
            self._lose(job, silent, "has not been heard of")
        for host in engine.hosts.names():
            if engine.hosts.silent(host, now, grace):
                engine.hosts.forget(host)

    def _warn_of_silence(self, job: Job, now: float) -> None:
        """Say which hosts don't answer, before their ranks count as lost."""
        engine, grace = self._engine, self._engine.settings.adopt_grace
        for share in job.placement:
            if grace > ANSWERS_WITHIN and engine.hosts.silent(share.host, now, ANSWERS_WITHIN):
                text = f"{share.host} doesn't answer; its ranks count as lost after {grace:g} s."
                engine.live.note(job.id, text)
                engine.changed(job.id)

    def _lose(self, job: Job, ranks: list[tuple[str, int]], why: str) -> None:
        """Count ranks, given as (host, rank), as ended, since nobody will say so."""
        engine = self._engine
        gone = [(host, rank) for host, rank in ranks if rank not in job.ends]
        for host, rank in gone:
            end = RankEnd(rank, Outcome.LOST, engine.now(), host=host)
            engine.gangs.rank_ended(job, end)
        job = engine.world.jobs[job.id]
        if gone and job.stop is None:
            text = f"Lost rank {gone[0][1]}: {gone[0][0]} {why}."
            engine.stop(ev.StopRequested(engine.now(), job.id, StopReason.FAILURE, text))
