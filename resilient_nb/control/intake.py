"""Taking what agents bring: facts, samples and what ranks print.

Agents repeat a fact until it is acknowledged, so each may come twice; and it may come late, from
an attempt that is over. Neither must change anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from resilient_nb.core import events as ev
from resilient_nb.core import retention
from resilient_nb.core.model import Job, Outcome, Read, StopReason
from resilient_nb.errors import InvalidTransition, StaleEpoch, VersionMismatch
from resilient_nb.wire import orders
from resilient_nb.wire.orders import FACTS, Sample

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

logger = logging.getLogger(__name__)


class Intake:
    """Takes the parts of reports; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- what ranks print -----------------------------------------------------------------

    def logs(self, chunks: Iterable[orders.LogChunk]) -> dict[str, int]:
        """Keep what ranks printed; return how much there is of it by now."""
        engine, sizes = self._engine, {}
        for chunk in chunks:
            try:
                sizes[f"{chunk.job}/{chunk.epoch}/{chunk.rank}"] = engine.logs.append(chunk)
                engine.set_alert("logs", None)
            except OSError as error:  # a full disk, say: it comes again
                engine.set_alert("logs", f"What ranks print can't be kept: {error}.")
            engine.changed(chunk.job)
        return sizes

    # --- facts ----------------------------------------------------------------------------

    def fact(self, packed: Mapping[str, object], host: str) -> None:
        """Take a fact as a host sent it; raises JournalFailed if it can't be kept."""
        try:
            self._fact(FACTS.unpack(dict(packed)), host)
        except VersionMismatch as error:
            # Acknowledged all the same: it would come for ever, and hold up the others.
            logger.warning("a fact from %s was not understood: %s", host, error)

    def _fact(self, fact: object, host: str) -> None:
        engine = self._engine
        match fact:
            case orders.Prepared():
                job = engine.current(fact.job, fact.epoch)
                if job and not engine.launches.began(job) and not job.stop:
                    engine.launches.launch(engine.world, job, f"{host}:{fact.port}")
            case orders.RankStarted():
                engine.gangs.rank_started(fact)
            case orders.RankDone():
                self._rank_done(fact, host)
            case orders.CheckpointWritten():
                self._checkpoint_written(fact)
            case orders.CheckpointFailed():
                if (job := engine.current(fact.job, fact.epoch)) is not None:
                    engine.keeping.checkpoint_failed(job, fact)
                    engine.changed(job.id)
            case orders.Reads():
                self._reads(fact, host)
            case orders.Note():
                prefix = f"rank {fact.rank}: " if fact.rank else ""
                engine.live.note(fact.job, prefix + fact.text)
                engine.changed(fact.job)

    def _rank_done(self, fact: orders.RankDone, host: str) -> None:
        engine = self._engine
        job = engine.current(fact.job, fact.epoch)
        if job is None or fact.end.rank in job.ends:
            return
        engine.gangs.rank_ended(job, replace(fact.end, host=host))
        if fact.end.outcome in (Outcome.FAILED, Outcome.EXITED) and job.stop is None:
            engine.stop(ev.StopRequested(engine.now(), job.id, StopReason.FAILURE))

    def _reads(self, fact: orders.Reads, host: str) -> None:
        engine = self._engine
        job, new = engine.current(fact.job, fact.epoch), Read(fact.place, host)
        if job is not None and job.reads.get(fact.name) != new:
            engine.record(ev.InputDeclared(engine.now(), job.id, fact.name, fact.place, host))

    def _checkpoint_written(self, fact: orders.CheckpointWritten) -> None:
        engine, new = self._engine, fact.checkpoint
        known = engine.world.runs[new.run].checkpoints if new.run in engine.world.runs else {}
        accepted = new.id in known or retention.was_dropped(engine.world, new)
        if not accepted and engine.strays.is_one(new.job, new.epoch):
            engine.strays.wrote(new)
            return
        if not accepted:
            accepted = self._commit(fact)
        elif fact.tag is not None and new.id in known:
            engine.record(ev.CheckpointTagged(engine.now(), new.run, new.id, fact.tag))
        job = engine.current(new.job, new.epoch)
        if job is not None:
            engine.launches.tell(job, orders.Committed(new.job, new.epoch, new.step, accepted))
        if accepted:
            engine.keeping.committed(new.run)
            if job is not None:
                engine.memory.look_at(job)

    def _commit(self, fact: orders.CheckpointWritten) -> bool:
        engine, new = self._engine, fact.checkpoint
        try:
            if new.id in engine.keeping.failed:
                raise StaleEpoch(f"{new.id} was reported to have failed, and may be swept.")
            engine.record(ev.CheckpointCommitted(engine.now(), new, fact.tag))
        except (StaleEpoch, InvalidTransition) as error:
            engine.live.note(new.job, f"A checkpoint was refused: {error}")
            return False
        return True

    # --- samples --------------------------------------------------------------------------

    def samples(self, report: orders.Report) -> None:
        """Take what a host's ranks have measured; that of attempts that are over is dropped."""
        engine, now = self._engine, self._engine.now()
        # Thousands a second: what takes them is looked up once.
        show, record, watch = engine.live.sample, engine.recording.sample, engine.watching.sample
        for (name, epoch), samples in groupby(report.samples, attrgetter("job", "epoch")):
            job = engine.current(name, epoch)
            if job is not None:
                # One sample may have the job stopped; who takes the others asks the world then.
                for sample in samples:
                    if sample.rank == 0:
                        self._first_rank(job, sample, now)
                    show(sample, report.host, now)
                    record(sample, now, report.round_trip, report.disk_free)
                    watch(job, sample, now)
            if name in engine.world.jobs:
                engine.changed(name)
        self.write()

    def _first_rank(self, job: Job, sample: Sample, now: float) -> None:
        """Rank 0 speaks for its gang of steps, and how long they take."""
        self._engine.showing.load_series(job.id)
        busy = sample.data_s + sample.compute_s + sample.wait_s
        pace = busy / sample.steps if sample.steps else None
        self._engine.tallies.stepped(job.id, now, sample.step, pace)

    def write(self) -> None:
        """Write what was measured, now and then."""
        engine = self._engine
        engine.recording.write_if_due(engine.now(), engine.current)
        engine.set_alert("records", engine.recording.alert())
        for job, text in engine.recording.notes():
            engine.live.note(job, text)
