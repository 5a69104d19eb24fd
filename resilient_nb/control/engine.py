"""The control plane without Dask: stimuli in, events to the journal, orders out.

Every public method is a stimulus. It runs to its end without awaiting, so what it decides is
atomic: `record` tests events against the world, makes them durable, and only then are their
effects sent. What is lost on the way (an order, an agent, this process) is found again by
comparing what hosts report with what the world says should be.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

from resilient_nb.config import Settings
from resilient_nb.control.dispatch import Dispatcher
from resilient_nb.control.endings import Endings
from resilient_nb.control.hosts import ANSWERS_WITHIN, Hosts, ranks_of
from resilient_nb.control.judging import Judging
from resilient_nb.control.keeping import Keeping
from resilient_nb.control.launching import Launches
from resilient_nb.control.live import SHOWN_POINTS, LiveTable
from resilient_nb.control.logs import LogStore
from resilient_nb.control.memory import Memory
from resilient_nb.control.recording import Recording
from resilient_nb.control.strays import Strays
from resilient_nb.control.watching import Watching
from resilient_nb.core import events as ev
from resilient_nb.core import lifecycle, retention
from resilient_nb.core.goodput import Tallies
from resilient_nb.core.inputs import remake
from resilient_nb.core.model import (
    Job,
    JobState,
    Outcome,
    Placement,
    RankEnd,
    Read,
    StopReason,
)
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Resize, Start
from resilient_nb.core.views import JobView, Live, job_head, job_view
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidTransition, JournalFailed, StaleEpoch, VersionMismatch
from resilient_nb.ports import Clock, Journal, Launcher
from resilient_nb.wire import orders
from resilient_nb.wire.orders import FACTS, Sample

logger = logging.getLogger(__name__)

#: Gets events and the worlds before and after them.
Listener = Callable[[Sequence[ev.Event], World, World], None]
#: Returns why a job can't start although slots are free, "" if it can. Given are the world, the
#: job and the free bytes of the store.
Preflight = Callable[[World, Job, int | None], str]


#: How ranks end that end their whole gang.
_BROKEN = (Outcome.FAILED, Outcome.EXITED, Outcome.LOST)


@dataclass
class Shell:
    """The world outside, as the engine uses it."""

    journal: Journal
    launch: Launcher
    clock: Clock
    changed: Callable[[str], None]  # a job's view is new
    leases: Callable[[Mapping[str, int]], None] = lambda held: None  # slots held, by host
    preflight: Preflight = lambda world, job, free: ""
    draw: Callable[[], float] = random.random  # for pauses before retries


class Engine:
    """Decides. One for a cluster; not thread-safe (it lives in the scheduler's loop)."""

    def __init__(self, settings: Settings, shell: Shell) -> None:
        self.settings = settings
        self.hosts = Hosts()
        self.live = LiveTable()
        self.logs = LogStore(settings.logs)
        self.alerts: dict[str, str] = {}  # what an administrator should mend
        self.job_alerts: Mapping[str, tuple[str, ...]] = {}  # what is told in their panels
        self.tallies = Tallies()
        # Called after each change of the world.
        self.listeners: list[Listener] = [lambda events, *_: self.tallies.heard(events)]
        self.closing_until = 0.0  # nothing is started before
        self._shell = shell
        self.preflight = shell.preflight
        self._launches = Launches(settings, shell.launch, shell.clock)
        self._loaded: set[str] = set()
        self._unsettled = True
        self._leases: Mapping[str, int] = {}
        self.world: World = lifecycle.replay(self.tallies.watch(shell.journal.events()))
        self._on_host: dict[str, dict[str, None]] = {}  # the jobs with ranks there
        self._ending: dict[str, None] = {}  # jobs of which ranks have ended
        self.strays = Strays(self, shell.launch)
        self._to_vacate: dict[str, str] = {}  # hosts, and why

        self.trouble = ""  # why the journal takes nothing
        self.queue = Dispatcher(self)
        self.keeping = Keeping(self)
        self.memory = Memory(self, shell.launch)
        holding = [(job.id, job.epoch) for job in self._holding()]
        self.recording = Recording(shell.journal.records, holding)
        self.judging = Judging(self)
        self.endings = Endings(self, shell.draw)
        self.watching = Watching(self)
        now = shell.clock()
        self.strays.remember()
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
        try:
            self._shell.journal.append(events)
        except JournalFailed as error:
            self._untold(error)
            raise
        self._told()
        before, self.world = self.world, world
        self._touch()
        for job in dict.fromkeys(filter(None, map(ev.job_of, events))):
            self.changed(job)
            was, now = before.jobs.get(job), world.jobs[job]
            if was is not now:
                self._index(was.placement if was else (), now)
                self.queue.happened(was, now)
        for listener in self.listeners:
            try:
                listener(events, before, world)
            except Exception:
                # What is true is true: who only listens must not undo it.
                logger.exception("resilient_nb: %r failed", listener)

    def _untold(self, error: JournalFailed) -> None:
        """The journal takes nothing: say so, and try it again with whatever comes."""
        if self.trouble != str(error):
            logger.warning("resilient_nb: %s", error)
            self._set_trouble(str(error))
        self._touch()

    def _told(self) -> None:
        if self.trouble:
            logger.warning("resilient_nb: the journal is written again")
            self._set_trouble("")

    def _set_trouble(self, text: str) -> None:
        self.trouble = text
        self.set_alert("journal", text or None)
        for name in self.world.open:
            self.changed(name)

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

    def send(self, host: str, order: object) -> bool:
        """Give an order to a host; False if nobody is there to take it."""
        return self._shell.launch(host, order)

    def view(self, job: Job) -> JobView:
        """Return a job as shown."""
        self.load_series(job.id)
        live = self._with_more(job, self.live.of(job.id))
        return job_view(self.world, job, live, self.settings.runs)

    def head(self, job: Job) -> JobView:
        """Return a job without what may be long."""
        self.load_series(job.id)
        return job_head(self.world, job, self._with_more(job, self.live.brief(job.id)))

    def _with_more(self, job: Job, live: Live) -> Live:
        """Return what is known of a job beyond the journal, with what isn't in the table."""
        trouble = () if job.state.final or not self.trouble else (self.trouble,)
        alerts = (*self.job_alerts.get(job.id, ()), *trouble)
        goodput = self.tallies.goodput(job.id, self.now())
        live = replace(live, alerts=alerts, goodput=goodput)
        if job.state is JobState.QUEUED:
            live = replace(
                live,
                waiting=self.queue.reason(job),
                position=self.queue.position(job),
                starts_at=self.queue.starts_at(job),
            )
        return live

    def series(self, job: str) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """Return the (step, value) pairs of each of a job's metrics, thinned."""
        self.load_series(job)
        return self.live.of(job).series

    def load_series(self, job: str) -> None:
        """Read what was measured before this process began, once."""
        if job not in self._loaded:
            self._loaded.add(job)
            self.live.load_series(job, self.recording.series(job, SHOWN_POINTS))

    # --- stimuli ----------------------------------------------------------------------

    def report(self, report: orders.Report) -> orders.ReportReply:
        """An agent reports slots, live ranks, facts, samples and output."""
        if self.hosts.report(report, self.now()):
            self._touch()
        sizes = self._keep_logs(report.logs)
        if report.speaks:
            self._end_stale(report)
        self._samples(report)
        taken: list[str] = []
        # What the journal doesn't take isn't acknowledged: it comes again, in its order. Until then
        # a rank whose end is among it must not seem to be missing.
        with suppress(JournalFailed):
            for identity, packed in report.facts:
                self._take(packed, report.host)
                taken.append(identity)
            if report.speaks:
                self._reconcile(report)
                self.memory.reported(report)
            self.watching.reported()
        self.settle()
        shelf = self.memory.rules(report.host) if report.speaks else {}
        return orders.ReportReply(tuple(taken), sizes, shelf)

    def _keep_logs(self, chunks: Iterable[orders.LogChunk]) -> dict[str, int]:
        """Keep what ranks printed; return how much there is of it by now."""
        sizes = {}
        for chunk in chunks:
            try:
                sizes[f"{chunk.job}/{chunk.epoch}/{chunk.rank}"] = self.logs.append(chunk)
                self.set_alert("logs", None)
            except OSError as error:  # a full disk, say: it comes again
                self.set_alert("logs", f"What ranks print can't be kept: {error}.")
            self._shell.changed(chunk.job)
        return sizes

    def _take(self, packed: Mapping[str, object], host: str) -> None:
        try:
            self._fact(FACTS.unpack(dict(packed)), host)
        except VersionMismatch as error:
            # Acknowledged all the same: it would come for ever, and hold up the others.
            logger.warning("a fact from %s was not understood: %s", host, error)

    def agent_gone(self, agent: str) -> None:
        """A Dask worker left. Its host's ranks go on; a new agent will adopt them."""
        self.hosts.agent_gone(agent, self.now())
        self._touch()

    def tick(self) -> None:
        """A second has passed."""
        try:
            with suppress(JournalFailed):  # `record` has said so; it is looked at again in a second
                self._look(self.now())
        finally:
            # Whatever is wrong with what was looked at: others wait to be started.
            self._unsettled = True
            self.settle()

    def _look(self, now: float) -> None:
        if self.trouble:
            self._shell.journal.probe()
            self._told()
        self.strays.look()
        self.hosts.look(now)
        for job in self._holding():
            self._warn_of_silence(job, now)
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
        self._write_records()
        self.watching.look()
        self.judging.look()
        for host in list(self._to_vacate):
            self._vacate(host)

    def _warn_of_silence(self, job: Job, now: float) -> None:
        """Say which hosts don't answer, before their ranks count as lost."""
        grace = self.settings.adopt_grace
        for share in job.placement:
            if grace > ANSWERS_WITHIN and self.hosts.silent(share.host, now, ANSWERS_WITHIN):
                text = f"{share.host} doesn't answer; its ranks count as lost after {grace:g} s."
                self.live.note(job.id, text)
                self.changed(job.id)

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
        self._to_vacate[host] = reason
        with suppress(JournalFailed):
            self._vacate(host)

    def _vacate(self, host: str) -> None:
        reason = self._to_vacate[host]
        for job in self._holding():
            leaves = job.stop not in (None, StopReason.MOVE)  # that takes its time
            if not leaves and any(share.host == host for share in job.placement):
                self.stop(ev.StopRequested(self.now(), job.id, StopReason.VACATE, reason))
        del self._to_vacate[host]

    def remake(self, job: Job, lost: str) -> str:
        """Have a job run again whose results a waiting one needs and that are gone; say so."""
        made = remake(self.world, job, lost, self.now())
        if made.rerun:
            self.record(*made.events)
        return f"What {lost} returned is lost. {made.reason}"

    def leased(self, host: str) -> int:
        """Return how many slots of a host gangs hold."""
        return self.hosts.in_use(self.world).get(host, 0)

    def stop(self, request: ev.StopRequested) -> None:
        """Take a gang down: at once after a failure, at a checkpoint otherwise."""
        job, now = self.world.jobs[request.job], self.now()
        began = self._launches.began(job)
        # Of what was not launched yet nobody will report the end.
        ends = [
            ev.RankEnded(now, job.id, job.epoch, RankEnd(rank, Outcome.LEFT, now, ordered=True))
            for _, rank in ranks_of(job.placement)
            if not began and rank not in job.ends
        ]
        self.record(request, *ends)
        if began:
            self._launches.end(self.world, self.world.jobs[job.id])
        self.settle()

    def settle(self) -> None:
        """Conclude gangs that have ended and start, preempt and resize as the plan says."""
        if not self._unsettled:
            return
        self._unsettled = False
        with suppress(JournalFailed):  # `record` has said so, and that nothing is settled
            self._conclude()
            if self.now() >= self.closing_until:
                self.queue.settle()
        leases = self.hosts.in_use(self.world)
        if leases != self._leases:
            self._leases = leases
            self._shell.leases(leases)

    def _conclude(self) -> None:
        for name in list(self._ending):
            job = self.world.jobs[name]
            if not job.state.holds_gang:
                self._ending.pop(name, None)
                continue
            if job.stop is None and any(end.outcome in _BROKEN for end in job.ends.values()):
                # Its end is in the journal, and then that took nothing more.
                self.stop(ev.StopRequested(self.now(), name, StopReason.FAILURE))
                job = self.world.jobs[name]
            if job.state.holds_gang and job.gang_ended:
                self.endings.conclude(job)
                self._launches.forget(job)

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
            case orders.Reads():
                self._reads(fact, host)
            case orders.Note():
                prefix = f"rank {fact.rank}: " if fact.rank else ""
                self.live.note(fact.job, prefix + fact.text)
                self._shell.changed(fact.job)

    def _rank_started(self, fact: orders.RankStarted) -> None:
        job = self._current(fact.job, fact.epoch)
        if job is None:
            return
        self.live.started(job.id, fact.rank, fact.pid)
        if job.state is JobState.STARTING and self.live.all_started(job.id):
            self.record(ev.GangStarted(self.now(), job.id, job.epoch))

    def _rank_done(self, fact: orders.RankDone, host: str) -> None:
        job = self._current(fact.job, fact.epoch)
        if job is None or fact.end.rank in job.ends:
            return
        self._end(job, replace(fact.end, host=host))
        if fact.end.outcome in (Outcome.FAILED, Outcome.EXITED) and job.stop is None:
            self.stop(ev.StopRequested(self.now(), job.id, StopReason.FAILURE))

    def _reads(self, fact: orders.Reads, host: str) -> None:
        job, new = self._current(fact.job, fact.epoch), Read(fact.place, host)
        if job is not None and job.reads.get(fact.name) != new:
            self.record(ev.InputDeclared(self.now(), job.id, fact.name, fact.place, host))

    def _checkpoint_written(self, fact: orders.CheckpointWritten) -> None:
        new = fact.checkpoint
        known = self.world.runs[new.run].checkpoints if new.run in self.world.runs else {}
        accepted = new.id in known or retention.was_dropped(self.world, new)
        if not accepted and self.strays.is_one(new.job, new.epoch):
            self.strays.wrote(new)
            return
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
        now = self.now()
        for (name, epoch), samples in groupby(report.samples, attrgetter("job", "epoch")):
            job = self._current(name, epoch)
            if job is not None:
                # One sample may have the job stopped; who takes the others asks the world then.
                for sample in samples:
                    self._sample(job, sample, report, now)
            if name in self.world.jobs:
                self._shell.changed(name)
        self._write_records()

    def _sample(self, job: Job, sample: Sample, report: orders.Report, now: float) -> None:
        if sample.rank == 0:
            self.load_series(job.id)
            busy = sample.data_s + sample.compute_s + sample.wait_s
            pace = busy / sample.steps if sample.steps else None
            self.tallies.stepped(job.id, now, sample.step, pace)
        self.live.sample(sample, report.host, now)
        self.recording.sample(sample, now, report.round_trip, report.disk_free)
        self.watching.sample(job, sample, now)

    def _write_records(self) -> None:
        """Write what was measured, now and then."""
        self.recording.write_if_due(self.now(), self._current)
        self.set_alert("records", self.recording.alert())
        for job, text in self.recording.notes():
            self.live.note(job, text)

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
            if (job is None and not self.strays.is_one(name, epoch)) or lost:
                self._launches.kill(report.host, name, epoch)
        self.strays.reported(report.host, report.ranks)

    def _reconcile(self, report: orders.Report) -> None:
        """Adopt ranks that live; count missing ones as lost; repeat orders without effect."""
        alive = {(row.job, row.epoch, row.rank): row for row in report.ranks}
        for job in [self.world.jobs[name] for name in self._on_host.get(report.host, ())]:
            mine = [
                rank
                for share in job.placement
                if share.host == report.host
                for rank in range(share.first, share.first + share.count)
            ]
            there = [r for r in mine if (job.id, job.epoch, r) in alive]
            missing = [r for r in mine if r not in there and r not in job.ends]
            for rank in there:
                row = alive[job.id, job.epoch, rank]
                if row.pid and job.state is JobState.STARTING:
                    self._rank_started(orders.RankStarted(job.id, job.epoch, rank, row.pid))
            seen = {rank for rank in missing if self.live.exists(job.id, rank)}
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

    # --- ends ---------------------------------------------------------------------------

    def _end(self, job: Job, end: RankEnd) -> None:
        if end.error is None and end.outcome in (Outcome.EXITED, Outcome.LOST):
            # It said nothing itself, and the last sample can be older than the newest checkpoint.
            head = self.world.runs[job.run].head
            reached = self.world.checkpoint(head).step if head else 0
            step = self.live.steps(job.id).get(end.rank, 0)
            end = replace(end, step=max(end.step, step, reached))
        self.record(ev.RankEnded(self.now(), job.id, job.epoch, end))

    # --- helpers ------------------------------------------------------------------------

    def _current(self, name: str, epoch: int) -> Job | None:
        """Return the job if this epoch is its current attempt, else None (fencing)."""
        job = self.world.jobs.get(name)
        return job if job and job.epoch == epoch and job.state.holds_gang else None

    def _holding(self) -> list[Job]:
        return [job for job in self.world.open.values() if job.state.holds_gang]
