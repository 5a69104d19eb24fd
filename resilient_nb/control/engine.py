"""The control plane without Dask: stimuli in, events to the journal, orders out.

Every public method is a stimulus. It runs to its end without awaiting, so what it decides is
atomic: `record` tests events against the world, makes them durable, and only then are their
effects sent. What is lost on the way (an order, an agent, this process) is found again by
comparing what hosts report with what the world says should be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from resilient_nb.config import Settings
from resilient_nb.control.hosts import Hosts, ranks_of
from resilient_nb.control.live import SHOWN_POINTS, LiveTable
from resilient_nb.control.logs import LogStore
from resilient_nb.core import events as ev
from resilient_nb.core import lifecycle, recovery, scheduling
from resilient_nb.core.model import (
    Failure,
    Job,
    JobState,
    Outcome,
    RankEnd,
    StopReason,
    World,
)
from resilient_nb.core.views import JobView, job_view
from resilient_nb.errors import InvalidTransition, StaleEpoch, VersionMismatch
from resilient_nb.ports import Clock, Journal, Launcher
from resilient_nb.wire import orders
from resilient_nb.wire.orders import FACTS

logger = logging.getLogger(__name__)

#: Orders that showed no effect are given again after the first, and ranks that don't appear
#: count as lost after the second number of seconds.
ORDER_AGAIN, LAUNCH_PATIENCE = 1.0, 15.0


@dataclass
class Shell:
    """The world outside, as the engine uses it."""

    journal: Journal
    launch: Launcher
    clock: Clock
    changed: Callable[[str], None]  # a job's view is new


class Engine:
    """Decides. One for a cluster; not thread-safe (it lives in the scheduler's loop)."""

    def __init__(self, settings: Settings, shell: Shell) -> None:
        self.settings = settings
        self.hosts = Hosts()
        self.live = LiveTable()
        self.logs = LogStore(settings.logs)
        self.closing_until = 0.0  # nothing is started before
        self._shell = shell
        self._ordered_at: dict[tuple[str, int], float] = {}
        # Attempts whose launch was ordered, with their rendezvous ("" if that was before a
        # restart of the control plane, which doesn't remember it).
        self._launched: dict[tuple[str, int], str] = {}
        self._loaded: set[str] = set()
        self._repeated_at: dict[tuple[str, int, str], float] = {}
        self.world: World = lifecycle.replay(shell.journal.events())
        now = shell.clock()
        for job in self.world.jobs.values():
            if job.state.holds_gang:
                # They may well be alive: wait for their host to say so before anything else.
                self._ordered_at[job.id, job.epoch] = now
                self._launched[job.id, job.epoch] = ""
                self.live.begin(job.id, {r: h for h, r in ranks_of(job.placement)}, now)
                for share in job.placement:
                    self.hosts.expect(share.host, now)

    # --- the journal ------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return self._shell.clock()

    def record(self, *events: ev.Event) -> None:
        """Make events true: all of them, or none and an exception."""
        world = self.world
        for event in events:
            world = lifecycle.evolve(world, event)
        self._shell.journal.append(events)
        self.world = world
        for event in events:
            job = getattr(event, "job", None) or getattr(
                getattr(event, "checkpoint", None), "job", None
            )
            if job:
                self._shell.changed(job)

    def view(self, job: Job) -> JobView:
        """Return a job as shown."""
        self._load_series(job.id)
        return job_view(self.world, job, self.live.of(job.id), str(self.settings.runs))

    def _load_series(self, job: str) -> None:
        """Read what was measured before this process began, once."""
        if job not in self._loaded:
            self._loaded.add(job)
            self.live.load_series(job, self._shell.journal.series(job, SHOWN_POINTS))

    # --- stimuli ----------------------------------------------------------------------

    def report(self, report: orders.Report) -> orders.ReportReply:
        """An agent reports slots, live ranks, facts, samples and output."""
        self.hosts.report(report)
        sizes = {}
        for chunk in report.logs:
            sizes[f"{chunk.job}/{chunk.epoch}/{chunk.rank}"] = self.logs.append(chunk)
            self._shell.changed(chunk.job)
        if report.speaks:
            self._end_stale(report)
        self._samples(report)
        for _, packed in report.facts:
            try:
                self._fact(FACTS.unpack(dict(packed)), report.host)
            except VersionMismatch as error:
                # Acknowledged all the same: it would come for ever, and hold up the others.
                logger.warning("a fact from %s was not understood: %s", report.host, error)
        if report.speaks:
            self._reconcile(report)
        self.settle()
        return orders.ReportReply(tuple(identity for identity, _ in report.facts), sizes)

    def agent_gone(self, agent: str) -> None:
        """A Dask worker left. Its host's ranks go on; a new agent will adopt them."""
        self.hosts.agent_gone(agent, self.now())

    def tick(self) -> None:
        """A second has passed."""
        now = self.now()
        for job in self._holding():
            silent = [
                (host, rank)
                for host, rank in ranks_of(job.placement)
                if self.hosts.silent(host, now, self.settings.adopt_grace)
            ]
            self._lose(job, silent, "has not been heard of")
        for host in self.hosts.names():
            if self.hosts.silent(host, now, self.settings.adopt_grace):
                self.hosts.forget(host)
        self.settle()

    def stop(self, job: Job, reason: StopReason, message: str) -> None:
        """Take a gang down: at once after a failure, at a checkpoint otherwise."""
        self.record(ev.StopRequested(self.now(), job.id, reason, message))
        if (job.id, job.epoch) not in self._launched:
            # Nothing was launched yet, so nothing will report its end.
            for _, rank in ranks_of(job.placement):
                if rank not in job.ends:
                    self._end(job, RankEnd(rank, Outcome.LEFT, self.now(), ordered=True))
        else:
            self._order_all(job, self._end_order(self.world.jobs[job.id]))
        self.settle()

    def settle(self) -> None:
        """Conclude gangs that have ended and start those that fit now."""
        for job in self._holding():
            if job.gang_ended:
                self._conclude(job)
        if self.now() >= self.closing_until:
            self._start_gangs()

    # --- starting ---------------------------------------------------------------------

    def _start_gangs(self) -> None:
        queued = tuple(
            scheduling.QueuedGang(
                j.id, j.spec.workers, j.spec.priority, j.submitted_at, j.not_before
            )
            for j in self.world.jobs.values()
            if j.state is JobState.QUEUED
        )
        if not queued:
            return
        view = scheduling.QueueView(queued, self.hosts.for_plan(self.world))
        for decision in scheduling.plan(view, self.now()):
            if isinstance(decision, scheduling.Wait):
                if self.live.wait(decision.job, decision.reason):
                    self._shell.changed(decision.job)
                continue
            job = self.world.jobs[decision.job]
            epoch = self.world.runs[job.run].epoch + 1
            self.record(ev.GangReserved(self.now(), job.id, epoch, decision.placement))
            hosts = {rank: host for host, rank in ranks_of(decision.placement)}
            self.live.begin(job.id, hosts, self.now())
            self._ordered_at[job.id, epoch] = self.now()
            first = decision.placement[0].host
            self._shell.launch(first, orders.Prepare(job.id, epoch))

    def _repeat_start(self, job: Job, host: str) -> None:
        """The agent that had the order may be dead. Supervisors take an order only once."""
        key = (job.id, job.epoch)
        if self.now() - self._ordered_at[key] < ORDER_AGAIN or not self._may_repeat(job, host):
            return
        if key not in self._launched:
            self._shell.launch(job.placement[0].host, orders.Prepare(job.id, job.epoch))
        elif self._launched[key]:
            self._order_launch(job, self._launched[key], host)

    def _repeat_stop(self, job: Job, host: str) -> None:
        """Ranks live that were told to end, or should have been: tell them again."""
        if self._may_repeat(job, host):
            self._shell.launch(host, self._end_order(job))

    def _may_repeat(self, job: Job, host: str) -> bool:
        """Whether the last repetition on this host is long enough ago; counts this one."""
        key, now = (job.id, job.epoch, host), self.now()
        if now - self._repeated_at.get(key, 0.0) < ORDER_AGAIN:
            return False
        self._repeated_at[key] = now
        return True

    def _launch(self, job: Job, rendezvous: str) -> None:
        self._ordered_at[job.id, job.epoch] = self.now()
        self._launched[job.id, job.epoch] = rendezvous
        for share in job.placement:
            self._order_launch(job, rendezvous, share.host)

    def _order_launch(self, job: Job, rendezvous: str, host: str) -> None:
        attempt = self._attempt(job, rendezvous)
        for share in job.placement:
            if share.host == host:
                self._shell.launch(host, orders.Launch(attempt, share.first, share.count))

    def _attempt(self, job: Job, rendezvous: str) -> orders.Attempt:
        run, spec = self.world.runs[job.run], job.spec
        head = self.world.checkpoint(run.head) if run.head else None
        return orders.Attempt(
            job=job.id,
            run=job.run,
            number=job.number,
            epoch=job.epoch,
            world_size=spec.workers,
            cell=spec.cell,
            interval=spec.interval,
            seed=spec.seed,
            out=spec.out,
            captured=spec.captured,
            store=str(self.settings.store),
            start=str(self.settings.runs / head.id) if head else None,
            start_id=head.id if head else None,
            start_step=head.step if head else 0,
            rendezvous=rendezvous,
            one_host=len(job.placement) == 1,
        )

    # --- facts ------------------------------------------------------------------------

    def _fact(self, fact: object, host: str) -> None:
        match fact:
            case orders.Prepared():
                job = self._current(fact.job, fact.epoch)
                if job and (job.id, job.epoch) not in self._launched and not job.stop:
                    self._launch(job, f"{host}:{fact.port}")
            case orders.RankStarted():
                self._rank_started(fact)
            case orders.RankDone():
                self._rank_done(fact, host)
            case orders.CheckpointWritten():
                self._checkpoint_written(fact)
            case orders.Note():
                prefix = f"rank {fact.rank}: " if fact.rank else ""
                self.live.note(fact.job, prefix + fact.text)
                self._shell.changed(fact.job)

    def _rank_started(self, fact: orders.RankStarted) -> None:
        job = self._current(fact.job, fact.epoch)
        if job is None:
            return
        self.live.started(job.id, fact.rank, fact.pid)
        pids = [row.pid for row in self.live.of(job.id).ranks]
        if job.state is JobState.STARTING and all(pids):
            self.record(ev.GangStarted(self.now(), job.id, job.epoch))

    def _rank_done(self, fact: orders.RankDone, host: str) -> None:
        job = self._current(fact.job, fact.epoch)
        if job is None or fact.end.rank in job.ends:
            return
        self._end(job, replace(fact.end, host=host))
        if fact.end.outcome in (Outcome.FAILED, Outcome.EXITED) and job.stop is None:
            self.stop(self.world.jobs[job.id], StopReason.FAILURE, "")

    def _checkpoint_written(self, fact: orders.CheckpointWritten) -> None:
        new = fact.checkpoint
        known = self.world.runs[new.run].checkpoints if new.run in self.world.runs else {}
        accepted = new.id in known
        if not accepted:
            try:
                self.record(ev.CheckpointCommitted(self.now(), new, fact.tag))
                accepted = True
            except (StaleEpoch, InvalidTransition) as error:
                self.live.note(new.job, f"A checkpoint was refused: {error}")
        elif fact.tag is not None:
            self.record(ev.CheckpointTagged(self.now(), new.run, new.id, fact.tag))
        job = self._current(new.job, new.epoch)
        if job is not None:
            self._order_all(job, orders.Committed(new.job, new.epoch, new.step, accepted))

    def _samples(self, report: orders.Report) -> None:
        points = []
        for sample in report.samples:
            if self._current(sample.job, sample.epoch) is None:
                continue
            self._load_series(sample.job)
            self.live.sample(sample, report.host, self.now())
            self._shell.changed(sample.job)
            if sample.rank == 0:
                points += [
                    (sample.job, name, step, value)
                    for step, values in sample.points
                    for name, value in values.items()
                ]
        if points:
            self._shell.journal.record(points)

    # --- comparing what is with what should be ------------------------------------------

    def _end_stale(self, report: orders.Report) -> None:
        """End ranks that no current attempt owns, or that were counted as lost."""
        for name, epoch in sorted({(row.job, row.epoch) for row in report.ranks}):
            job = self._current(name, epoch)
            lost = job is not None and any(
                row.rank in job.ends and job.ends[row.rank].outcome is Outcome.LOST
                for row in report.ranks
                if (row.job, row.epoch) == (name, epoch)
            )
            if job is None or lost:
                self._shell.launch(report.host, orders.Kill(name, epoch))

    def _reconcile(self, report: orders.Report) -> None:
        """Adopt ranks that live; count missing ones as lost; repeat orders without effect."""
        alive = {(row.job, row.epoch, row.rank): row for row in report.ranks}
        for job in self._holding():
            mine = [r for h, r in ranks_of(job.placement) if h == report.host]
            there = [r for r in mine if (job.id, job.epoch, r) in alive]
            missing = [r for r in mine if r not in there and r not in job.ends]
            for rank in there:
                row = alive[job.id, job.epoch, rank]
                if row.pid and job.state is JobState.STARTING:
                    self._rank_started(orders.RankStarted(job.id, job.epoch, rank, row.pid))
            overdue = self._overdue(job, missing)
            if overdue:
                self._lose(job, [(report.host, r) for r in overdue], "no longer has it")
            elif missing and job.state is JobState.STARTING:
                self._repeat_start(job, report.host)
            elif there and job.stop is not None:
                self._repeat_stop(job, report.host)

    def _overdue(self, job: Job, missing: list[int]) -> list[int]:
        """Return those missing ranks that can't just be on their way."""
        rows = {row.rank: row for row in self.live.of(job.id).ranks}
        key = (job.id, job.epoch)
        waited = self.now() - self._ordered_at.get(key, 0.0)
        # After a restart nobody will order these again: either the host has them or it doesn't.
        forgotten = self._launched.get(key) == "" and waited > LAUNCH_PATIENCE / 3
        if waited > LAUNCH_PATIENCE or forgotten:
            return missing
        return [r for r in missing if r in rows and rows[r].pid and waited > ORDER_AGAIN]

    def _lose(self, job: Job, ranks: list[tuple[str, int]], why: str) -> None:
        """Count ranks, given as (host, rank), as ended, since nobody will say so."""
        gone = [(host, rank) for host, rank in ranks if rank not in job.ends]
        for host, rank in gone:
            self._end(job, RankEnd(rank, Outcome.LOST, self.now(), host=host))
        job = self.world.jobs[job.id]
        if gone and job.stop is None:
            self.stop(job, StopReason.FAILURE, f"Lost rank {gone[0][1]}: {gone[0][0]} {why}.")

    # --- endings ------------------------------------------------------------------------

    def _end(self, job: Job, end: RankEnd) -> None:
        if end.error is None and end.outcome in (Outcome.EXITED, Outcome.LOST):
            # It said nothing itself, and the last sample can be older than the newest checkpoint.
            head = self.world.runs[job.run].head
            reached = self.world.checkpoint(head).step if head else 0
            rows = {row.rank: row.step for row in self.live.of(job.id).ranks}
            end = replace(end, step=max(end.step, rows.get(end.rank, 0), reached))
        self.record(ev.RankEnded(self.now(), job.id, job.epoch, end))

    def _conclude(self, job: Job) -> None:
        """Every rank has ended: decide what becomes of the job."""
        self._ordered_at.pop((job.id, job.epoch), None)
        self._launched.pop((job.id, job.epoch), None)
        for share in job.placement:
            self._repeated_at.pop((job.id, job.epoch, share.host), None)
        now, outcomes = self.now(), {end.outcome for end in job.ends.values()}
        if outcomes == {Outcome.FINISHED}:
            self.record(ev.JobSucceeded(now, job.id, job.epoch, job.spec.out))
        elif job.stop is StopReason.CANCEL:
            self.record(ev.JobCancelled(now, job.id, job.message))
        elif job.stop is StopReason.VACATE:
            self.record(ev.JobRequeued(now, job.id, job.epoch))
        elif job.stop is None:  # left without being asked, say by a signal
            self.record(
                ev.StopRequested(now, job.id, StopReason.VACATE),
                ev.JobRequeued(now, job.id, job.epoch),
            )
        else:
            self.record(self._verdict(job, now))

    def _verdict(self, job: Job, now: float) -> ev.Event:
        diagnosis = recovery.diagnose(list(job.ends.values()))
        run = self.world.runs[job.run]
        resumes_from = self.world.checkpoint(run.head).step if run.head else None
        fruitless = 1
        for past in reversed(job.failures):
            if past.resumes_from != resumes_from:
                break
            fruitless += 1
        verdict = recovery.decide(diagnosis, job.failures, job.spec.retries, fruitless)
        failure = Failure(
            cause=diagnosis.cause,
            message=diagnosis.message,
            decision="retry" if verdict.retry else "stop",
            reason=verdict.reason,
            at=now,
            epoch=job.epoch,
            rank=diagnosis.rank,
            step=diagnosis.step,
            resumes_from=resumes_from,
            error=diagnosis.error,
        )
        if verdict.retry:
            return ev.JobRequeued(now, job.id, job.epoch, failure, now + verdict.delay)
        return ev.JobFailed(now, job.id, job.epoch, failure)

    # --- helpers ------------------------------------------------------------------------

    def _current(self, name: str, epoch: int) -> Job | None:
        """Return the job if this epoch is its current attempt, else None (fencing)."""
        job = self.world.jobs.get(name)
        return job if job and job.epoch == epoch and job.state.holds_gang else None

    def _holding(self) -> list[Job]:
        return [job for job in self.world.jobs.values() if job.state.holds_gang]

    def _end_order(self, job: Job) -> orders.Kill | orders.Leave:
        if job.stop is StopReason.FAILURE:
            return orders.Kill(job.id, job.epoch)
        return orders.Leave(job.id, job.epoch, self.settings.leave_grace)

    def _order_all(self, job: Job, order: object) -> None:
        for host in dict.fromkeys(share.host for share in job.placement):
            self._shell.launch(host, order)
