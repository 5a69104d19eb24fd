"""The control plane without Dask: stimuli in, events to the journal, orders out.

Every public method is a stimulus. It runs to its end without awaiting, so what it decides is
atomic: `record` tests events against the world, makes them durable, and only then are their
effects sent. What is lost on the way (an order, an agent, this process) is found again by
comparing what hosts report with what the world says should be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from resilient_nb.config import Settings
from resilient_nb.control.dispatch import Dispatcher
from resilient_nb.control.hosts import Hosts, ranks_of
from resilient_nb.control.keeping import Keeping
from resilient_nb.control.launching import Launches
from resilient_nb.control.live import SHOWN_POINTS, LiveTable
from resilient_nb.control.logs import LogStore
from resilient_nb.control.memory import Memory
from resilient_nb.core import events as ev
from resilient_nb.core import lifecycle, recovery, retention
from resilient_nb.core.damage import known_damaged, newest_whole
from resilient_nb.core.model import (
    Failure,
    Job,
    JobState,
    Outcome,
    Placement,
    RankEnd,
    Run,
    StopReason,
)
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Resize, Start
from resilient_nb.core.views import JobView, job_view
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidTransition, StaleEpoch, VersionMismatch
from resilient_nb.ports import Clock, Journal, Launcher
from resilient_nb.wire import orders
from resilient_nb.wire.orders import FACTS

logger = logging.getLogger(__name__)

#: Returns why a job can't start although slots are free, "" if it can. Given are the world, the
#: job and the free bytes of the store.
Preflight = Callable[[World, Job, int | None], str]


@dataclass
class Shell:
    """The world outside, as the engine uses it."""

    journal: Journal
    launch: Launcher
    clock: Clock
    changed: Callable[[str], None]  # a job's view is new
    leases: Callable[[Mapping[str, int]], None] = lambda held: None  # slots held, by host
    preflight: Preflight = lambda world, job, free: ""


class Engine:
    """Decides. One for a cluster; not thread-safe (it lives in the scheduler's loop)."""

    def __init__(self, settings: Settings, shell: Shell) -> None:
        self.settings = settings
        self.hosts = Hosts()
        self.live = LiveTable()
        self.logs = LogStore(settings.logs)
        self.alerts: dict[str, str] = {}  # what an administrator should mend
        self.closing_until = 0.0  # nothing is started before
        self._shell = shell
        self.preflight = shell.preflight
        self._launches = Launches(settings, shell.launch, shell.clock)
        self._loaded: set[str] = set()
        self._unsettled = True
        self._leases: Mapping[str, int] = {}
        self.world: World = lifecycle.replay(shell.journal.events())
        self._on_host: dict[str, dict[str, None]] = {}  # the jobs with ranks there
        self._ending: dict[str, None] = {}  # jobs of which ranks have ended
        self.queue = Dispatcher(self)
        self.keeping = Keeping(self)
        self.memory = Memory(self, shell.launch)
        now = shell.clock()
        for job in self._holding():
            self._ending[job.id] = None
            self._index((), job)
            # They may well be alive: wait for their host to say so before anything else.
            self._launches.adopt(job)
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
        before, self.world = self.world, world
        self._touch()
        for job in dict.fromkeys(filter(None, map(_job_of, events))):
            self.changed(job)
            was, now = before.jobs.get(job), world.jobs[job]
            if was is not now:
                self._index(was.placement if was else (), now)
                self.queue.happened(was, now)

    def _index(self, was: Placement, job: Job) -> None:
        """Note on which hosts a job is now, so that a report looks at no others."""
        if job.ends:
            self._ending[job.id] = None
        if was is not job.placement:
            for share in was:
                self._on_host.get(share.host, {}).pop(job.id, None)
            for share in job.placement:
                self._on_host.setdefault(share.host, {})[job.id] = None

    def _touch(self) -> None:
        """What is decided may be another now: nearly all reports hold nothing but samples."""
        self.queue.stale = self._unsettled = True

    def changed(self, job: str) -> None:
        """A job's view is new."""
        self._shell.changed(job)

    def view(self, job: Job) -> JobView:
        """Return a job as shown."""
        self._load_series(job.id)
        live = self.live.of(job.id)
        if job.state is JobState.QUEUED:
            live = replace(
                live,
                waiting=self.queue.reason(job),
                position=self.queue.position(job),
                starts_at=self.queue.starts_at(job),
            )
        return job_view(self.world, job, live, self.settings.runs)

    def _load_series(self, job: str) -> None:
        """Read what was measured before this process began, once."""
        if job not in self._loaded:
            self._loaded.add(job)
            self.live.load_series(job, self._shell.journal.series(job, SHOWN_POINTS))

    # --- stimuli ----------------------------------------------------------------------

    def report(self, report: orders.Report) -> orders.ReportReply:
        """An agent reports slots, live ranks, facts, samples and output."""
        if self.hosts.report(report, self.now()):
            self._touch()
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
            self.memory.reported(report)
        self.settle()
        shelf = self.memory.rules(report.host) if report.speaks else {}
        return orders.ReportReply(tuple(identity for identity, _ in report.facts), sizes, shelf)

    def agent_gone(self, agent: str) -> None:
        """A Dask worker left. Its host's ranks go on; a new agent will adopt them."""
        self.hosts.agent_gone(agent, self.now())
        self._touch()

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
        # Not with each report: after a restart of the scheduler all hosts come at once.
        if (slots := self.hosts.capacity()) != self.world.ledger.capacity:
            self.record(ev.CapacityChanged(now, slots))
        self.queue.tick()
        self.memory.look()
        self._unsettled = True
        self.settle()

    def look_again(self) -> None:
        """Something is known of the store that jobs may have waited for."""
        self.queue.look_again()
        self._touch()
        self.settle()

    def set_policy(self, policy: Policy) -> None:
        """The administrator's rules have changed."""
        if policy != self.world.policy:
            self.record(ev.PolicyChanged(self.now(), policy))
            self.settle()

    def set_alert(self, key: str, text: str | None) -> None:
        """Show a text where the queue is shown, until it is None."""
        if text is None:
            self.alerts.pop(key, None)
        else:
            self.alerts[key] = text

    def set_busy(self, host: str, slots: int) -> None:
        """Ordinary Dask tasks use this many slots of a host."""
        if self.hosts.set_busy(host, slots):
            self._touch()
            self.settle()

    def vacate(self, host: str, reason: str) -> None:
        """Have a host's gangs checkpoint, leave and go on elsewhere; give it nothing new."""
        self.hosts.close(host, self.now())
        self._touch()
        for job in self._holding():
            if job.stop is None and any(share.host == host for share in job.placement):
                self.stop(ev.StopRequested(self.now(), job.id, StopReason.VACATE, reason))

    def leased(self, host: str) -> int:
        """Return how many slots of a host gangs hold."""
        return self.hosts.in_use(self.world).get(host, 0)

    def stop(self, request: ev.StopRequested) -> None:
        """Take a gang down: at once after a failure, at a checkpoint otherwise."""
        self.record(request)
        job = self.world.jobs[request.job]
        if self._launches.began(job):
            self._launches.end(self.world, job)
        else:
            # Nothing was launched yet, so nothing will report its end.
            for _, rank in ranks_of(job.placement):
                if rank not in job.ends:
                    self._end(job, RankEnd(rank, Outcome.LEFT, self.now(), ordered=True))
        self.settle()

    def settle(self) -> None:
        """Conclude gangs that have ended and start, preempt and resize as the plan says."""
        if not self._unsettled:
            return
        self._unsettled = False
        for name in list(self._ending):
            job = self.world.jobs[name]
            if not job.state.holds_gang:
                self._ending.pop(name, None)
            elif job.gang_ended:
                self._conclude(job)
        if self.now() >= self.closing_until:
            self.queue.settle()
        leases = self.hosts.in_use(self.world)
        if leases != self._leases:
            self._leases = leases
            self._shell.leases(leases)

    def start(self, decision: Start) -> None:
        """Reserve a gang's slots and have its ranks launched."""
        job = self.world.jobs[decision.job]
        epoch = self.world.runs[job.run].epoch + 1
        self.record(
            ev.GangReserved(self.now(), job.id, epoch, decision.placement, decision.workers)
        )
        job = self.world.jobs[job.id]
        hosts = {rank: host for host, rank in ranks_of(job.placement)}
        self.live.begin(job.id, hosts, self.now())
        self._launches.prepare(job)
        self.memory.look_at(job)

    def resize(self, decision: Resize) -> None:
        """Have an elastic gang go on with another number of workers."""
        text = f"Goes on with {decision.workers} workers" + (
            f": {decision.by} needs the others." if decision.by else ": more are free."
        )
        self.stop(
            ev.StopRequested(
                self.now(), decision.job, StopReason.RESIZE, text, decision.by, decision.workers
            )
        )

    # --- facts ------------------------------------------------------------------------

    def _fact(self, fact: object, host: str) -> None:
        match fact:
            case orders.Prepared():
                job = self._current(fact.job, fact.epoch)
                if job and not self._launches.began(job) and not job.stop:
                    self._launches.launch(self.world, job, f"{host}:{fact.port}")
            case orders.RankStarted():
                self._rank_started(fact)
            case orders.RankDone():
                self._rank_done(fact, host)
            case orders.CheckpointWritten():
                self._checkpoint_written(fact)
            case orders.CheckpointFailed():
                if (job := self._current(fact.job, fact.epoch)) is not None:
                    self.keeping.checkpoint_failed(job, fact)
                    self._shell.changed(job.id)
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
            self.stop(ev.StopRequested(self.now(), job.id, StopReason.FAILURE))

    def _checkpoint_written(self, fact: orders.CheckpointWritten) -> None:
        new = fact.checkpoint
        known = self.world.runs[new.run].checkpoints if new.run in self.world.runs else {}
        accepted = new.id in known or retention.was_dropped(self.world, new)
        if not accepted:
            accepted = self._commit(fact)
        elif fact.tag is not None and new.id in known:
            self.record(ev.CheckpointTagged(self.now(), new.run, new.id, fact.tag))
        job = self._current(new.job, new.epoch)
        if job is not None:
            self._launches.tell(job, orders.Committed(new.job, new.epoch, new.step, accepted))
        if accepted:
            self.keeping.committed(new.run)
            if job is not None:
                self.memory.look_at(job)

    def _commit(self, fact: orders.CheckpointWritten) -> bool:
        new = fact.checkpoint
        try:
            if new.id in self.keeping.failed:
                raise StaleEpoch(f"{new.id} was reported to have failed, and may be swept.")
            self.record(ev.CheckpointCommitted(self.now(), new, fact.tag))
        except (StaleEpoch, InvalidTransition) as error:
            self.live.note(new.job, f"A checkpoint was refused: {error}")
            return False
        return True

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
                self._launches.kill(report.host, name, epoch)

    def _reconcile(self, report: orders.Report) -> None:
        """Adopt ranks that live; count missing ones as lost; repeat orders without effect."""
        alive = {(row.job, row.epoch, row.rank): row for row in report.ranks}
        for job in [self.world.jobs[name] for name in self._on_host.get(report.host, ())]:
            mine = [r for h, r in ranks_of(job.placement) if h == report.host]
            there = [r for r in mine if (job.id, job.epoch, r) in alive]
            missing = [r for r in mine if r not in there and r not in job.ends]
            for rank in there:
                row = alive[job.id, job.epoch, rank]
                if row.pid and job.state is JobState.STARTING:
                    self._rank_started(orders.RankStarted(job.id, job.epoch, rank, row.pid))
            seen = {row.rank for row in self.live.of(job.id).ranks if row.pid}
            overdue = self._launches.overdue(job, missing, seen)
            if overdue:
                self._lose(job, [(report.host, r) for r in overdue], "no longer has it")
            elif missing and job.state is JobState.STARTING:
                self._launches.repeat_start(self.world, job, report.host)
            elif there and job.stop is not None:
                self._launches.repeat_end(self.world, job, report.host)

    def _lose(self, job: Job, ranks: list[tuple[str, int]], why: str) -> None:
        """Count ranks, given as (host, rank), as ended, since nobody will say so."""
        gone = [(host, rank) for host, rank in ranks if rank not in job.ends]
        for host, rank in gone:
            self._end(job, RankEnd(rank, Outcome.LOST, self.now(), host=host))
        job = self.world.jobs[job.id]
        if gone and job.stop is None:
            text = f"Lost rank {gone[0][1]}: {gone[0][0]} {why}."
            self.stop(ev.StopRequested(self.now(), job.id, StopReason.FAILURE, text))

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
        self._launches.forget(job)
        now, outcomes = self.now(), {end.outcome for end in job.ends.values()}
        self.keeping.attempt_ended(job, outcomes <= {Outcome.FINISHED, Outcome.LEFT})
        if outcomes == {Outcome.FINISHED}:
            self.record(ev.JobSucceeded(now, job.id, job.epoch, job.spec.out))
        elif job.stop is StopReason.CANCEL:
            self.record(ev.JobCancelled(now, job.id, job.message))
        elif job.stop is StopReason.FAILURE:
            self.record(*self._verdict(job, now))
        else:
            # Left because it was asked to, or unasked, say by a signal.
            asked = [] if job.stop else [ev.StopRequested(now, job.id, StopReason.VACATE)]
            self.record(*asked, ev.JobRequeued(now, job.id, job.epoch, message=self._left(job)))

    def _left(self, job: Job) -> str:
        """Return what the user reads while a job that had to leave waits."""
        head = self.world.runs[job.run].head
        step = self.world.checkpoint(head).step if head else 0
        since = job.stopping_since
        if since is not None and job.stop is not StopReason.RESTART:
            seconds = self.now() - since
            ended = any(end.outcome in (Outcome.EXITED, Outcome.LOST) for end in job.ends.values())
            how = "Was killed: it had not left" if ended else "Left at a checkpoint"
            self.live.note(job.id, f"{how} within {seconds:.1f} s.")
        if job.stop is StopReason.PREEMPT:
            return f"Preempted by {job.stop_by}; goes on from step {step}."
        return job.message

    def _verdict(self, job: Job, now: float) -> tuple[ev.Event, ...]:
        run = self.world.runs[job.run]
        diagnosis = recovery.diagnose(list(job.ends.values()), run.head)
        if diagnosis.cause == recovery.DAMAGED:
            return self._leave_damaged(job, run, diagnosis, now)
        resumes_from = self.world.checkpoint(run.head).step if run.head else None
        fruitless = 1
        for past in reversed(job.failures):
            if past.resumes_from != resumes_from:
                break
            fruitless += 1
        verdict = recovery.decide(diagnosis, job.failures, job.spec.retries, fruitless)
        return (_concluded(job, diagnosis, verdict, resumes_from, now),)

    def _leave_damaged(
        self, job: Job, run: Run, diagnosis: recovery.Diagnosis, now: float
    ) -> tuple[ev.Event, ...]:
        """Move the head to a checkpoint that may be whole, and go on from there."""
        found = known_damaged(self.world) | {run.head or ""}
        before = newest_whole(self.world, run, found)
        verdict = recovery.after_damage(before)
        step = before.step if before is not None else None
        end = _concluded(job, diagnosis, verdict, step, now)
        if before is None:
            return (end,)
        return ev.HeadMoved(now, run.name, before.id, "recovery"), end

    # --- helpers ------------------------------------------------------------------------

    def _current(self, name: str, epoch: int) -> Job | None:
        """Return the job if this epoch is its current attempt, else None (fencing)."""
        job = self.world.jobs.get(name)
        return job if job and job.epoch == epoch and job.state.holds_gang else None

    def _holding(self) -> list[Job]:
        return [job for job in self.world.open.values() if job.state.holds_gang]


def _concluded(
    job: Job,
    diagnosis: recovery.Diagnosis,
    verdict: recovery.Verdict,
    resumes_from: int | None,
    now: float,
) -> ev.Event:
    """Return the end of a failed attempt, or of its job."""
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


def _job_of(event: ev.Event) -> str:
    """Return the job that an event is about, "" if none."""
    if isinstance(event, ev.CheckpointCommitted):
        return event.checkpoint.job
    return getattr(event, "job", "")
