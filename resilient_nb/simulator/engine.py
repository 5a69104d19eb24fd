"""The event loop: submissions, ends and vacated slots in the order of time, and decisions.

Nothing is approximated but what `settings` says: times of events are exact, and what a policy
decides is checked (whole gangs, only free slots, only jobs that may) before it is done.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from resilient_nb.core.policy import Policy
from resilient_nb.errors import InvalidRequest
from resilient_nb.simulator.fairness import Meter
from resilient_nb.simulator.settings import Settings
from resilient_nb.simulator.state import Phase, State
from resilient_nb.simulator.trace import Trace

#: Every user and group of the same weight.
NO_RULES = Policy()
#: Decisions without any effect, while nothing else can happen, after which we give up.
PATIENCE = 20_000


@dataclass
class Decisions:
    """What a policy wants now: (job, workers) to start, jobs to leave, (job, workers)."""

    starts: list[tuple[int, int]] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    resizes: list[tuple[int, int]] = field(default_factory=list)


class Scheduler(Protocol):
    """A policy. `elastic`: gangs stretch. `ticks`: time alone can change what it wants."""

    name: str
    elastic: bool
    ticks: bool

    def begin(self, state: State) -> None:
        """Look at all of the trace that it may know, once."""

    def account(self, job: int, wanted: int, held: int) -> None:
        """Hear that a job's slots wanted and held have just changed by these differences."""

    def decide(self, now: float) -> Decisions:
        """Say what shall happen now."""


@dataclass
class Counts:
    """What happened; `useful` are slot-seconds of work, without saving and restoring."""

    plans: int = 0
    preemptions: int = 0
    resizes: int = 0
    useful: float = 0.0
    plan_seconds: float = 0.0


class WrongDecision(AssertionError):
    """A policy decided what can't be: a defect of the policy."""


class Engine:
    """One run of one policy on one trace; `run` gives its final state."""

    def __init__(
        self,
        trace: Trace,
        scheduler: Scheduler,
        settings: Settings,
        policy: Policy = NO_RULES,
    ) -> None:
        if trace.widest > settings.workers:
            raise InvalidRequest(
                f"The widest job of {trace.name} needs {trace.widest} workers; the cluster has "
                f"{settings.workers}. Raise --workers."
            )
        self.scheduler, self.settings = scheduler, settings
        self.state = State(trace, settings, scheduler.elastic)
        self.meter = Meter(self.state, policy)
        self.counts = Counts()
        self.save = settings.save_restore / 2
        self._events: list[tuple[float, int, Phase, int]] = []  # time, job, what, attempt
        self._submits = [job.submit for job in trace.jobs]
        self._unfinished = len(trace.jobs)
        self._due = math.inf
        self._last_plan = -math.inf
        scheduler.begin(self.state)

    def run(
        self, progress: Callable[[float, int], None] | None = None, until: float = math.inf
    ) -> State:
        """Simulate until every job has ended, or until a time (then it can be gone on with).

        `progress` gets the time and how many jobs are to go.
        """
        state, idle = self.state, 0
        while self._unfinished:
            now = min(self._next_event(), self._due)
            if now > until:
                self.meter.advance(until)
                break
            self.meter.advance(now)
            state.now = now
            if self._happen(now):
                self._due, idle = max(now, self._last_plan + self.settings.replan_every), 0
            if self._due <= now:
                self._plan(now)
                idle += 1
            stuck = math.isinf(min(self._next_event(), self._due)) or (
                idle > PATIENCE and not self._events
            )
            if stuck and self._unfinished:
                raise WrongDecision(f"{self.scheduler.name} left jobs waiting for ever.")
            if progress is not None:
                progress(now, self._unfinished)
        return state

    def _next_event(self) -> float:
        arrived = self.state.arrived
        submit = self._submits[arrived] if arrived < len(self._submits) else math.inf
        return min(submit, self._events[0][0]) if self._events else submit

    def _happen(self, now: float) -> bool:
        """Let everything of this moment happen; return whether a policy should look."""
        state, changed = self.state, False
        while state.arrived < len(self._submits) and self._submits[state.arrived] <= now:
            job = state.arrived
            state.phase[job] = Phase.WAITING
            state.arrived += 1
            self._account(job, int(state.most[job]), 0)
            changed = True
        while self._events and self._events[0][0] <= now:
            _, job, what, attempt = heapq.heappop(self._events)
            if state.starts[job] != attempt or state.held[job] == 0:
                continue  # of an attempt that ended otherwise
            if what is Phase.DONE:
                self._finish(job, now)
            else:
                self._vacate(job, now)
            changed = True
        if changed:
            state.changed()
        return changed

    def _plan(self, now: float) -> None:
        state, self._last_plan, self._due = self.state, now, math.inf
        if not (len(state.waiting()) or (state.elastic and state.running)):
            return
        begin = time.perf_counter()
        decisions = self.scheduler.decide(now)
        self.counts.plan_seconds += time.perf_counter() - begin
        self.counts.plans += 1
        vacated = [self._leave(job, 0, now) for job in decisions.leaves]
        vacated += [self._leave(job, count, now) for job, count in decisions.resizes]
        self.counts.preemptions += len(decisions.leaves)
        self.counts.resizes += len(decisions.resizes)
        for job, count in decisions.starts:
            self._start(job, count, now)
        state.changed()
        if any(vacated):
            self._due = now + self.settings.replan_every
        elif self.scheduler.ticks and (len(state.waiting()) or state.elastic):
            self._due = now + self.settings.tick

    def _start(self, job: int, count: int, now: float) -> None:
        state = self.state
        if state.phase[job] != Phase.WAITING:
            raise WrongDecision(f"{self.scheduler.name} starts job {job}, which doesn't wait.")
        if not state.least[job] <= count <= state.most[job]:
            raise WrongDecision(f"{self.scheduler.name} starts job {job} with {count} workers.")
        if count > state.free:
            raise WrongDecision(f"{self.scheduler.name} starts job {job} on slots in use.")
        workers = int(state.workers[job])
        state.phase[job] = Phase.RUNNING
        state.held[job] = count
        state.claim[job] = 0
        state.free -= count
        state.running.add(job)
        state.starts[job] += 1
        if state.elastic:
            state.rate[job] = self.settings.elastic.speed(count, workers)
        state.since[job] = now
        state.ready[job] = ready = now + (self.save if state.ran_then[job] > 0 else 0.0)
        self._account(job, 0, count)
        end = ready + float(state.left_then[job] / state.rate[job])
        heapq.heappush(self._events, (end, job, Phase.DONE, int(state.starts[job])))

    def _leave(self, job: int, claim: int, now: float) -> bool:
        """Make a running job leave; return whether it has left at once (nothing to save)."""
        state = self.state
        if state.phase[job] != Phase.RUNNING:
            raise WrongDecision(f"{self.scheduler.name} asks job {job}, which doesn't run.")
        if claim == state.held[job]:
            raise WrongDecision(f"{self.scheduler.name} resizes job {job} to what it has.")
        state.phase[job] = Phase.LEAVING
        state.claim[job] = claim
        state.running.discard(job)
        state.leaving_slots += int(state.held[job])
        if now < state.ready[job]:
            self._vacate(job, now)
            return True
        left = float(state.left_then[job] - (now - state.ready[job]) * state.rate[job])
        if left / float(state.rate[job]) > self.save:  # else it ends first
            attempt = int(state.starts[job])
            self._settle(job, now)
            state.ready[job] = math.inf
            heapq.heappush(self._events, (now + self.save, job, Phase.LEAVING, attempt))
        return False

    def _settle(self, job: int, now: float) -> None:
        """Count the work of this attempt until now."""
        state = self.state
        worked = max(0.0, now - float(state.ready[job]))
        state.left_then[job] -= worked * state.rate[job]
        state.ran_then[job] += worked
        self.counts.useful += worked * int(state.held[job])

    def _vacate(self, job: int, now: float) -> None:
        """The job is back in the queue, its slots are free."""
        state = self.state
        self._release(job, now)
        state.phase[job] = Phase.WAITING
        state.queued[job] = now

    def _finish(self, job: int, now: float) -> None:
        state = self.state
        self._settle(job, now)
        self._release(job, now)
        state.left_then[job] = 0.0
        state.phase[job] = Phase.DONE
        state.ended[job] = now
        self._account(job, -int(state.most[job]), 0)
        self._unfinished -= 1

    def _release(self, job: int, now: float) -> None:
        """Give back the slots; what was held and not worked in was lost to saves, restores."""
        state = self.state
        count, lasted = int(state.held[job]), now - float(state.since[job])
        state.used_then[job] += count * lasted
        state.held_for[job] += lasted
        state.free += count
        if state.phase[job] == Phase.LEAVING:
            state.leaving_slots -= count
        state.running.discard(job)
        state.held[job] = 0
        state.since[job] = state.ready[job] = math.inf
        self._account(job, 0, -count)

    def _account(self, job: int, wanted: int, held: int) -> None:
        self.meter.change(job, wanted, held)
        self.scheduler.account(job, wanted, held)
