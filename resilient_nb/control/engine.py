"""The control plane without Dask: stimuli in, events to the journal, orders out.

A stimulus runs to its end without awaiting, so what it decides is atomic: `record` tests events
against the world, makes them durable, and only then are their effects sent. Here are the stimuli
and the journal; what follows from a stimulus is in the modules beside. What is lost on the way (an
order, an agent, this process) is found again there by comparing what hosts report with what the
world says should be (`reconciling`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

from resilient_nb.config import Settings
from resilient_nb.control.dispatch import Dispatcher
from resilient_nb.control.endings import Endings
from resilient_nb.control.gangs import Gangs
from resilient_nb.control.hosts import Hosts, ranks_of
from resilient_nb.control.intake import Intake
from resilient_nb.control.judging import Judging
from resilient_nb.control.keeping import Keeping
from resilient_nb.control.launching import Launches
from resilient_nb.control.live import LiveTable
from resilient_nb.control.logs import LogStore
from resilient_nb.control.memory import Memory
from resilient_nb.control.reconciling import Reconciling
from resilient_nb.control.recording import Recording
from resilient_nb.control.shell import Listener, Shell
from resilient_nb.control.showing import Showing
from resilient_nb.control.strays import Strays
from resilient_nb.control.watching import Watching
from resilient_nb.core import events as ev
from resilient_nb.core import lifecycle
from resilient_nb.core.goodput import Tallies
from resilient_nb.core.inputs import remake
from resilient_nb.core.model import Job, Outcome, RankEnd, StopReason
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Resize, Start
from resilient_nb.core.views import JobView, job_head, job_view
from resilient_nb.core.world import World
from resilient_nb.errors import JournalFailed
from resilient_nb.wire import orders

logger = logging.getLogger(__name__)


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
        self.launches = Launches(settings, shell.launch, shell.clock)
        self._unsettled = True
        self._leases: Mapping[str, int] = {}
        self.world: World = lifecycle.replay(self.tallies.watch(shell.journal.events()))
        self.strays = Strays(self, shell.launch)
        self._to_vacate: dict[str, str] = {}  # hosts, and why
        self.trouble = ""  # why the journal takes nothing
        self.queue = Dispatcher(self)
        self.keeping = Keeping(self)
        self.memory = Memory(self, shell.launch)
        holding = [(job.id, job.epoch) for job in self.holding()]
        self.recording = Recording(shell.journal.records, holding)
        self.judging = Judging(self)
        self.endings = Endings(self, shell.draw)
        self.watching = Watching(self)
        self.showing = Showing(self)
        self.gangs = Gangs(self)
        self.intake = Intake(self)
        self.reconciling = Reconciling(self)
        self.strays.remember()
        for job in self.holding():
            self.gangs.adopt(job)
            self.reconciling.adopt(job)

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
                self.gangs.happened(now)
                self.reconciling.happened(was.placement if was else (), now)
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

    def _touch(self) -> None:
        """What is decided may be another now: nearly all reports hold nothing but samples."""
        self.queue.stale = self._unsettled = True

    def changed(self, job: str) -> None:
        """A job's view is new."""
        self._shell.changed(job)

    def send(self, host: str, order: object) -> bool:
        """Give an order to a host; False if nobody is there to take it."""
        return self._shell.launch(host, order)

    # --- questions ----------------------------------------------------------------------

    def current(self, name: str, epoch: int) -> Job | None:
        """Return the job if this epoch is its current attempt, else None (fencing)."""
        job = self.world.jobs.get(name)
        return job if job and job.epoch == epoch and job.state.holds_gang else None

    def holding(self) -> list[Job]:
        """Return the jobs that hold a gang."""
        return [job for job in self.world.open.values() if job.state.holds_gang]

    def leased(self, host: str) -> int:
        """Return how many slots of a host gangs hold."""
        return self.hosts.in_use(self.world).get(host, 0)

    def view(self, job: Job) -> JobView:
        """Return a job as shown."""
        return job_view(self.world, job, self.showing.of(job), self.settings.runs)

    def head(self, job: Job) -> JobView:
        """Return a job without what may be long."""
        return job_head(self.world, job, self.showing.brief(job))

    def series(self, job: str) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """Return the (step, value) pairs of each of a job's metrics, thinned."""
        self.showing.load_series(job)
        return self.live.of(job).series

    # --- stimuli ----------------------------------------------------------------------

    def report(self, report: orders.Report) -> orders.ReportReply:
        """An agent reports slots, live ranks, facts, samples and output."""
        if self.hosts.report(report, self.now()):
            self._touch()
        sizes = self.intake.logs(report.logs)
        if report.speaks:
            self.reconciling.end_stale(report)
        self.intake.samples(report)
        taken: list[str] = []
        # What the journal doesn't take isn't acknowledged: it comes again, in its order. Until then
        # a rank whose end is among it must not seem to be missing.
        with suppress(JournalFailed):
            for identity, packed in report.facts:
                self.intake.fact(packed, report.host)
                taken.append(identity)
            if report.speaks:
                self.reconciling.reported(report)
                self.memory.reported(report)
            self.watching.reported()
        self.settle()
        shelf = self.memory.rules(report.host) if report.speaks else {}
        return orders.ReportReply(tuple(taken), sizes, shelf)

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
        self.reconciling.look(now)
        # Not with each report: after a restart of the scheduler all hosts come at once.
        if (slots := self.hosts.capacity()) != self.world.ledger.capacity:
            self.record(ev.CapacityChanged(now, slots))
        self.queue.tick()
        self.memory.look()
        self.intake.write()
        self.watching.look()
        self.judging.look()
        for host in list(self._to_vacate):
            self._vacate(host)

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
        for job in self.holding():
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

    def stop(self, request: ev.StopRequested) -> None:
        """Take a gang down: at once after a failure, at a checkpoint otherwise."""
        job, now = self.world.jobs[request.job], self.now()
        began = self.launches.began(job)
        # Of what was not launched yet nobody will report the end.
        ends = [
            ev.RankEnded(now, job.id, job.epoch, RankEnd(rank, Outcome.LEFT, now, ordered=True))
            for _, rank in ranks_of(job.placement)
            if not began and rank not in job.ends
        ]
        self.record(request, *ends)
        if began:
            self.launches.end(self.world, self.world.jobs[job.id])
        self.settle()

    def settle(self) -> None:
        """Conclude gangs that have ended and start, preempt and resize as the plan says."""
        if not self._unsettled:
            return
        self._unsettled = False
        with suppress(JournalFailed):  # `record` has said so, and that nothing is settled
            self.gangs.settle()
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
        self.launches.prepare(job)
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
