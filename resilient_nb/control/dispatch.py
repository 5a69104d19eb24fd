"""The queue's place in the engine: a view for the plan, and what the plan says done.

Planning is pure (`core.scheduling`). A short queue is planned in the same breath as the event
that made it necessary; a long one piece by piece between other work of the event loop, and each
decision is looked at again before it is carried out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from resilient_nb.core import dependencies, scheduling, why
from resilient_nb.core import events as ev
from resilient_nb.core.accounting import group_of
from resilient_nb.core.eta import expected_starts
from resilient_nb.core.model import Job, JobState, Priority, Scaling, StopReason
from resilient_nb.core.queue import Gang, Plan, QueueView, Start, Waiting
from resilient_nb.core.views import QueueReport, WhyReport
from resilient_nb.core.why import queue_report

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: With more unfinished jobs than this, planning is spread over the event loop's turns.
AT_ONCE = 300
#: A job that failed its pre-flight checks is looked at again after this many seconds.
_CHECK_AGAIN = 5.0
#: Assumed until it is measured: seconds from a gang's start to its first step; and bytes/s to
#: and from the store, for what a checkpoint and a restore cost.
_START_S, _STORE_RATE = 1.0, 200e6


class Dispatcher:
    """Plans when something has changed, and carries the plan out through the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stale = True  # something has changed since the last plan
        self._busy = False
        self._plan = Plan()
        self._rules: dict[str, Waiting] = {}
        self._positions: dict[str, int] = {}
        self._starts: Mapping[str, float] = {}
        self._checks: dict[str, tuple[float, str]] = {}  # failed pre-flights: until when, why

    # --- planning -----------------------------------------------------------------------

    def settle(self) -> None:
        """Plan and act, if anything has changed and the queue is short."""
        if self.long or not self.stale or self._busy:
            return
        self.stale = False
        view = self.view()
        self._carry_out(view, scheduling.plan(view, self._engine.now()))

    @property
    def long(self) -> bool:
        """Whether the queue is planned by `work`, not at once."""
        return len(self._engine.world.open) > AT_ONCE

    def work(self) -> Iterator[None]:
        """Plan a long queue; yields every millisecond or so."""
        if not self.long or not self.stale or self._engine.now() < self._engine.closing_until:
            return
        self.stale = False
        view = self.view()
        plan = yield from scheduling.planning(view, self._engine.now())
        self._carry_out(view, plan)

    def tick(self) -> None:
        """Time alone can change the plan: a back-off ends, a gang has waited long enough."""
        if any(j.state is JobState.QUEUED or j.spec.elastic for j in self._open()):
            self.stale = True

    def view(self) -> QueueView:
        """Return what the policy may look at now."""
        engine, now = self._engine, self._engine.now()
        raised = dependencies.inherited_priorities(engine.world)
        gangs = tuple(
            self._gang(job, raised.get(job.id, job.spec.priority), now) for job in self._open()
        )
        hosts = engine.hosts.for_plan(engine.world, now)
        return QueueView(gangs, hosts, engine.world.ledger, engine.world.policy)

    def _gang(self, job: Job, priority: Priority, now: float) -> Gang:
        world, spec = self._engine.world, job.spec
        running = job.state.holds_gang
        since = job.started_at or now
        live = self._engine.live.remaining(job.id) if running else None
        declared = None if spec.duration is None else max(0.0, spec.duration - _ran(job, now))
        run = world.runs[job.run]
        head = world.checkpoint(run.head) if run.head else None
        saved = head.at if head is not None and head.epoch == job.epoch and running else since
        return Gang(
            job=job.id,
            user=spec.user,
            group=group_of(world, job),
            workers=spec.workers,
            max_workers=max(spec.workers, spec.max_workers),
            needs=spec.needs,
            priority=priority,
            admin=spec.admin,
            hold="" if running else self._hold(job, now),
            not_before=job.not_before,
            submitted_at=job.submitted_at,
            queued_at=job.queued_at,
            attained=job.attained + (job.slots * (now - since) if running else 0.0),
            remaining=live if live is not None else declared,
            exact=live is not None,
            held=job.granted,
            slots=job.slots,
            placement=job.placement,
            since=since,
            saved_at=saved,
            overhead=self._engine.live.warm_up(job.id, _START_S)
            + (2 * head.nbytes / _STORE_RATE if head is not None else 0.0),
            preemptible=job.state is JobState.RUNNING and not spec.admin,
            leaving=job.stop is not None,
            leaving_for=job.stop_by,
            claim=job.claim,
            virtual=spec.scaling is Scaling.NONE,
            promised=job.promised,
        )

    def _hold(self, job: Job, now: float) -> str:
        until, text = self._checks.get(job.id, (0.0, ""))
        return dependencies.hold(self._engine.world, job) or (text if now < until else "")

    # --- carrying out -------------------------------------------------------------------

    def _carry_out(self, view: QueueView, plan: Plan) -> None:
        """Do what the plan says, as far as it still fits the world."""
        engine = self._engine
        self._busy = True
        try:
            for start in plan.starts:
                if self._fits(start) and self._ready(start):
                    engine.start(start)
            for preempt in plan.preempts:
                if self._may_stop(preempt.job) and self._waits(preempt.by):
                    text = f"Leaves for {preempt.by}."
                    engine.stop(
                        ev.StopRequested(
                            engine.now(), preempt.job, StopReason.PREEMPT, text, preempt.by
                        )
                    )
            for resize in plan.resizes:
                if self._may_stop(resize.job) and (not resize.by or self._waits(resize.by)):
                    engine.resize(resize)
        finally:
            self._busy = False
        self._remember(view, plan)

    def _remember(self, view: QueueView, plan: Plan) -> None:
        """Keep the plan for those who ask why, and wake those whose reason is new."""
        old, self._plan = self._rules, plan
        self._rules = {row.job: row for row in plan.waiting}
        self._positions = {row.job: n for n, row in enumerate(plan.waiting, 1)}
        self._starts = expected_starts(view, plan, self._engine.now())
        for name, row in self._rules.items():
            if old.get(name) != row:
                self._engine.changed(name)

    def _fits(self, start: Start) -> bool:
        job = self._engine.world.open.get(start.job)
        if job is None or job.state is not JobState.QUEUED:
            return False
        hosts = self._engine.hosts.for_plan(self._engine.world, self._engine.now())
        free = {host.id: host.free for host in hosts}
        return all(share.leased <= free.get(share.host, 0) for share in start.placement)

    def _ready(self, start: Start) -> bool:
        engine = self._engine
        job = engine.world.jobs[start.job]
        text = engine.preflight(engine.world, job, engine.hosts.store_free())
        if text:
            self._checks[job.id] = (engine.now() + _CHECK_AGAIN, text)
            self.stale = True
        else:
            self._checks.pop(job.id, None)
        return not text

    def _may_stop(self, name: str) -> bool:
        job = self._engine.world.open.get(name)
        return job is not None and job.state is JobState.RUNNING

    def _waits(self, name: str) -> bool:
        job = self._engine.world.open.get(name)
        return job is not None and job.state is JobState.QUEUED

    # --- explaining ---------------------------------------------------------------------

    def reason(self, job: Job) -> str:
        """Return in words why a job waits, and what happened to it before."""
        row = self._rules.get(job.id)
        gang = self._gang(job, job.spec.priority, self._engine.now())
        hosts = self._engine.hosts.for_plan(self._engine.world, self._engine.now())
        text = why.words(row, gang, hosts, self._plan, self._engine.now()) if row else ""
        return " ".join(part for part in (job.message, text) if part)

    def position(self, job: Job) -> int | None:
        """Return a waiting job's place in the queue, from 1."""
        return self._positions.get(job.id)

    def starts_at(self, job: Job) -> float | None:
        """Return when a waiting job is expected to start, if that is known."""
        return self._starts.get(job.id)

    def why(self, job: Job) -> WhyReport:
        """Return the rule that holds a job, and what would start it now."""
        return why.why_report(self._engine.world, job, self.view(), self._engine.now())

    def report(self) -> QueueReport:
        """Return the queue and the shares as shown."""
        report = queue_report(self._engine.world, self.view(), self._engine.now())
        return replace(report, alerts=tuple(self._engine.alerts.values()))

    def wanted_slots(self) -> int:
        """Return how many slots more would let all that wait start."""
        now = self._engine.now()
        wanted = sum(
            job.spec.workers
            for job in self._open()
            if job.state is JobState.QUEUED and job.not_before <= now and not self._hold(job, now)
        )
        hosts = self._engine.hosts.for_plan(self._engine.world, now)
        return max(0, wanted - sum(host.free for host in hosts))

    def _open(self) -> tuple[Job, ...]:
        return tuple(self._engine.world.open.values())


def _ran(job: Job, now: float) -> float:
    """Return about how long a job has run at its own size, in seconds."""
    held = job.attained
    if job.state.holds_gang and job.started_at is not None:
        held += job.slots * (now - job.started_at)
    return held / max(1, job.spec.workers)
