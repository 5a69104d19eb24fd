"""The queue's place in the engine: a view for the plan, and what the plan says done.

Planning is pure (`core.scheduling`). A short queue is planned in the same breath as the event
that made it necessary; a long one piece by piece between other work of the event loop, and
meanwhile `core.standing` serves each event from what the last plan left. Each decision is looked
at again before it is carried out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resilient_nb.control.preflight import lacks_room
from resilient_nb.core import dependencies, health, inputs, scheduling, why
from resilient_nb.core import events as ev
from resilient_nb.core.accounting import group_of
from resilient_nb.core.eta import ExpectedStart, expected_starts
from resilient_nb.core.model import Job, JobState, Scaling, StopReason
from resilient_nb.core.queue import Gang, Host, Plan, Preempt, QueueView, Resize, Start, Waiting
from resilient_nb.core.ranking import Sizes
from resilient_nb.core.standing import Standing
from resilient_nb.core.views import QueueReport, WhyReport
from resilient_nb.core.why import queue_report
from resilient_nb.core.world import World

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: With more unfinished jobs than this, planning is spread over the event loop's turns; it takes
#: at most this part of the time, and plans are at least a second apart.
AT_ONCE, PART = 300, 0.1
#: Jobs looked at between two turns of the event loop.
_CHUNK = 100
#: Gangs that are started between two turns of the event loop.
_BATCH = 8
#: A job that failed its pre-flight checks is looked at again after this many seconds.
_CHECK_AGAIN = 5.0
#: Slots that were to come back to a job, or to come free for it, and didn't, within this many
#: seconds after they could: then it waits like all others, or it would go before more urgent ones.
_HOLDS_FOR = 15.0
#: Assumed until it is measured: seconds from a gang's start to its first step; and bytes/s to
#: and from the store, for what a checkpoint and a restore cost.
_START_S, _STORE_RATE = 1.0, 200e6


class Dispatcher:
    """Plans when something has changed, and carries the plan out through the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stale = True  # something has changed since the last plan
        self._next = 0.0  # when a long queue may be planned again
        self._standing: Standing | None = None
        self._found: list[Start] = []  # what may start at once, by the standing plan
        self._busy = False
        self._plan = Plan()
        self._rules: dict[str, Waiting] = {}
        self._positions: dict[str, int] = {}
        self._starts: Mapping[str, ExpectedStart] = {}
        self._checks: dict[str, tuple[float, str]] = {}  # failed pre-flights: until when, why
        self._counted: tuple[World | None, float, why.Capacity] = (None, 0.0, why.capacity(()))
        self._promises: dict[str, float] = {}  # when gangs last were leaving for a job
        self._shunned: frozenset[str] = frozenset()  # hosts on which jobs kept failing
        self._kept_off = True  # whether those are left out, not only avoided

    # --- planning -----------------------------------------------------------------------

    def settle(self) -> None:
        """Act on what was found at once; plan, if anything has changed and the queue is short."""
        if self._found:
            found, self._found = self._found, []
            for _ in self._start(found):
                pass
        if self.long or not self.stale or self._busy:
            return
        self._inherit()
        self.stale = False
        view = self.view()
        for _ in self._carry_out(view, scheduling.plan(view, self._engine.now())):
            pass

    @property
    def long(self) -> bool:
        """Whether the queue is planned by `work`, not at once."""
        return len(self._engine.world.open) > AT_ONCE

    def work(self) -> Iterator[None]:
        """Plan a long queue; yields every millisecond or so."""
        began = self._engine.now()
        if not self.long or not self.stale or began < max(self._engine.closing_until, self._next):
            return
        self._inherit()
        self.stale = False
        view = yield from self._viewing()
        plan, standing = yield from scheduling.deciding(view, self._engine.now())
        # What happened meanwhile made the queue stale again: the next plan knows of it.
        self._standing = standing
        yield from self._carry_out(view, plan)
        took = self._engine.now() - began
        self._next = self._engine.now() + max(1.0, took * (1 / PART - 1))

    def happened(self, before: Job | None, job: Job) -> None:
        """A job of a long queue went from one state to another: serve that at once."""
        if self._standing is None or not self.long:
            self._standing = None
            return
        now, standing = self._engine.now(), self._standing
        if job.claim or job.promised:
            self._next = 0.0  # its slots are kept for it: only a plan knows which
            return
        held = before is not None and before.state.holds_gang
        if held and before is not None and not job.state.holds_gang and not before.stop_by:
            gang = self._gang(before, now)
            whole = replace(gang, placement=before.placement, slots=before.slots)
            self._found += standing.ended(whole, now)
        if job.state is JobState.QUEUED and (before is None or held):
            start = standing.arrived(self._gang(job, now), now)
            self._found += [start] if start is not None else []
        elif job.state.final and not held:
            standing.withdrawn(job.id)

    def tick(self) -> None:
        """Time alone can change the plan: a back-off ends, a gang has waited long enough."""
        if any(j.state is JobState.QUEUED or j.spec.elastic for j in self._open()):
            self.stale = True

    def _inherit(self) -> None:
        """Journal which jobs have inherited a priority: their users are charged for it."""
        raised = dependencies.inherited_priorities(self._engine.world)
        now = self._engine.now()
        news = [
            ev.PriorityInherited(now, job.id, raised.get(job.id))
            for job in self._open()
            if job.inherited is not raised.get(job.id)
        ]
        if news:
            self._engine.record(*news)

    def view(self) -> QueueView:
        """Return what the policy may look at now."""
        steps = self._viewing()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                view: QueueView = end.value
                return view

    def _viewing(self) -> Generator[None, None, QueueView]:
        engine, now = self._engine, self._engine.now()
        awaited = {job.stop_by for job in self._open()}
        self._promises = {
            job.id: now if job.id in awaited else self._promises.get(job.id, now)
            for job in self._open()
            if job.promised
        }
        self._shunned = health.shunned(engine.world, now)
        gangs = []
        for n, job in enumerate(self._open(), 1):
            gangs.append(self._gang(job, now))
            if not n % _CHUNK:
                yield
        if self._shunned:
            everybody = engine.hosts.for_plan(engine.world, now)
            self._kept_off = health.kept_off(everybody, gangs, self._shunned)
        return QueueView(tuple(gangs), self._hosts(), engine.world.ledger, engine.world.policy)

    def _hosts(self) -> tuple[Host, ...]:
        hosts = self._engine.hosts.for_plan(self._engine.world, self._engine.now())
        if not (self._shunned and self._kept_off):
            return hosts
        return tuple(
            replace(host, closing=True) if host.id in self._shunned else host for host in hosts
        )

    def _gang(self, job: Job, now: float) -> Gang:
        world, spec = self._engine.world, job.spec
        running = job.state.holds_gang
        # What ranks that have ended held is free already: leaving would free it no more.
        held = tuple(
            share
            for share in job.placement
            if any(rank not in job.ends for rank in range(share.first, share.first + share.count))
        )
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
            needs=job.needs,
            avoid=(*job.remedy.avoid, *self._shunned) if self._shunned else job.remedy.avoid,
            priority=job.priority,
            admin=spec.admin,
            hold="" if running else self._hold(job, now),
            not_before=job.not_before,
            submitted_at=job.submitted_at,
            queued_at=job.queued_at,
            attained=job.attained + (job.slots * (now - since) if running else 0.0),
            remaining=live if live is not None else declared,
            exact=live is not None,
            held=job.granted,
            slots=sum(share.leased for share in held),
            placement=held,
            since=since,
            saved_at=saved,
            overhead=self._engine.live.warm_up(job.id, _START_S)
            + (2 * head.nbytes / _STORE_RATE if head is not None else 0.0),
            # One that has begun to end by itself will be gone sooner than it could leave.
            preemptible=job.state is JobState.RUNNING and not spec.admin and not job.ends,
            leaving=job.stop is not None,
            leaving_for=job.stop_by,
            claim=job.claim if running or now - job.queued_at <= _HOLDS_FOR else 0,
            virtual=spec.scaling is Scaling.NONE,
            promised=now - self._promises.get(job.id, -_HOLDS_FOR) <= _HOLDS_FOR,
        )

    def look_again(self) -> None:
        """Check at once what jobs lacked before they could start."""
        self._checks.clear()

    def _hold(self, job: Job, now: float) -> str:
        until, text = self._checks.get(job.id, (0.0, ""))
        world = self._engine.world
        return (
            dependencies.hold(world, job)
            or inputs.hold(world, job)
            or self._engine.strays.hold(job)
            or (text if now < until else "")
        )

    # --- carrying out -------------------------------------------------------------------

    def _carry_out(self, view: QueueView, plan: Plan) -> Iterator[None]:
        """Do what the plan says, as far as it still fits the world; yields now and then."""
        self._busy = True
        try:
            yield from self._start(plan.starts)
            asked: dict[str, list[Preempt | Resize]] = {}
            leaving: list[Preempt | Resize] = [*plan.preempts, *plan.resizes]
            for each in leaving:
                asked.setdefault(each.by or each.job, []).append(each)
            for by, gangs in asked.items():
                yield
                self._ask_to_leave(by, gangs)
        finally:
            self._busy = False
        self._remember(view, plan)

    def _start(self, starts: Sequence[Start]) -> Iterator[None]:
        free: dict[str, int] = {}
        for n, start in enumerate(starts):
            if not n % _BATCH:
                yield
                free = {host.id: host.free for host in self._hosts()}
            if self._fits(start, free) and self._ready(start.job):
                self._engine.start(start)
                for share in start.placement:
                    free[share.host] -= share.leased

    def _ask_to_leave(self, by: str, gangs: list[Preempt | Resize]) -> None:
        """Have gangs leave or shrink for another, or one grow: all of them or none.

        Nobody leaves for a gang that couldn't start then.
        """
        engine = self._engine
        if not all(self._may_stop(each.job) for each in gangs):
            return
        if gangs[0].by and not (self._waits(by) and self._ready(by)):
            return
        for each in gangs:
            if isinstance(each, Resize):
                engine.resize(each)
            else:
                text = f"Leaves for {by}."
                engine.stop(ev.StopRequested(engine.now(), each.job, StopReason.PREEMPT, text, by))

    def _remember(self, view: QueueView, plan: Plan) -> None:
        """Keep the plan for those who ask why, and wake those whose reason is new."""
        old, self._plan = self._rules, plan
        self._rules = {row.job: row for row in plan.waiting}
        self._positions = {row.job: n for n, row in enumerate(plan.waiting, 1)}
        self._starts = expected_starts(view, plan, self._engine.now())
        for name, row in self._rules.items():
            if old.get(name) != row:
                self._engine.changed(name)

    def _fits(self, start: Start, free: Mapping[str, int]) -> bool:
        return self._waits(start.job) and all(
            share.leased <= free.get(share.host, 0) and not self._tried(share.host, start.job)
            for share in start.placement
        )

    def _tried(self, host: str, job: str) -> bool:
        """Whether another job, put there after the plan was made, tries if a host is well."""
        known = self._engine.world.health.get(host)
        if known is None or host in self._shunned:
            return False
        return known.shuns(job, self._engine.now())

    def _ready(self, name: str) -> bool:
        engine = self._engine
        job = engine.world.jobs[name]
        text = engine.preflight(engine.world, job, engine.hosts.store_free())
        if text:
            self._checks[job.id] = (engine.now() + _CHECK_AGAIN, text)
            self.stale = True
            if lacks_room(engine.world, job.run, engine.hosts.store_free()):
                engine.keeping.lacks_room(job)
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
        now = self._engine.now()
        gang = self._gang(job, now)
        text = why.words(row, gang, self._capacity(), self._plan, now) if row else ""
        return " ".join(part for part in (job.message, text) if part)

    def _capacity(self) -> why.Capacity:
        """Return what the cluster has; counted once for a list of jobs."""
        world, now = self._engine.world, self._engine.now()
        if self._counted[0] is not world or now - self._counted[1] > 1.0:
            self._counted = (world, now, why.capacity(self._hosts()))
        return self._counted[2]

    def position(self, job: Job) -> int | None:
        """Return a waiting job's place in the queue, from 1."""
        return self._positions.get(job.id)

    def starts_at(self, job: Job) -> ExpectedStart | None:
        """Return when a waiting job is expected to start, if anything is known of that."""
        return self._starts.get(job.id)

    @property
    def plan(self) -> Plan:
        """The last plan: positions and expected starts are as it left them."""
        return self._plan

    def why(self, job: Job) -> WhyReport:
        """Return the rule that holds a job, and what would start it now."""
        world, now = self._engine.world, self._engine.now()
        report = why.why_report(world, job, self.view(), now)
        unwell = health.alerts(world, now) if job.state is JobState.QUEUED else ()
        return replace(report, reason=" ".join((report.reason, *unwell))) if unwell else report

    def report(self) -> QueueReport:
        """Return the queue and the shares as shown."""
        report = queue_report(self._engine.world, self.view(), self._engine.now())
        engine = self._engine
        unwell = health.alerts(engine.world, engine.now())
        return replace(report, alerts=(*engine.alerts.values(), *unwell))

    def wanted_slots(self) -> int:
        """Return how many slots more would let all that wait start."""
        now, hosts = self._engine.now(), self._hosts()
        sizes, wanted = Sizes(hosts), 0
        for job in self._open():
            if job.state is JobState.QUEUED and job.not_before <= now and not self._hold(job, now):
                per, most = sizes(job.needs)
                # More workers of a kind that can't hold it would be of no use.
                wanted += job.spec.workers * per if most or not hosts else 0
        return max(0, wanted - sum(host.free for host in hosts))

    def _open(self) -> tuple[Job, ...]:
        return tuple(self._engine.world.open.values())


def _ran(job: Job, now: float) -> float:
    """Return about how long a job has run at its own size, in seconds."""
    held = job.attained
    if job.state.holds_gang and job.started_at is not None:
        held += job.slots * (now - job.started_at)
    return held / max(1, job.spec.workers)
