"""The scheduler's own policy, `core.scheduling.plan`, run on a simulated cluster.

What the control plane does around it is done here too: the ledger hears of every change, a
gang that others were asked to leave for is promised their slots until it starts, and predictions
appear when a job has worked for as long as the live step rate takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from resilient_nb.core import shares
from resilient_nb.core.model import Placement, Priority
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Gang, Host, Plan, QueueView
from resilient_nb.core.scheduling import plan
from resilient_nb.core.shares import Ledger
from resilient_nb.simulator.engine import NO_RULES, Decisions, WrongDecision
from resilient_nb.simulator.state import Numbers, State

_HIGH = (Priority.HIGH, Priority.URGENT)


class Fair:
    """The policy, with gangs of fixed size or elastic ones."""

    ticks = True
    state: State

    def __init__(self, elastic: bool = False, policy: Policy = NO_RULES) -> None:
        self.name = "fair-elastic" if elastic else "fair"
        self.elastic, self.policy = elastic, policy

    def begin(self, state: State) -> None:
        """Make the hosts, and what will be known of each job (not how long it takes)."""
        settings, jobs = state.settings, state.trace.jobs
        self.state = state
        self.ledger = Ledger(capacity=settings.workers)
        self._names = [f"j{number:07}" for number in range(len(jobs))]
        self._number = {name: number for number, name in enumerate(self._names)}
        self._high = [job.priority in _HIGH for job in jobs]
        self._hosts: dict[str, Host] = {}
        for first in range(0, settings.workers, settings.host_slots):
            name = f"h{first // settings.host_slots:06}"
            self._hosts[name] = Host(name, min(settings.host_slots, settings.workers - first))
        self._placement: dict[int, Placement] = {}
        self._given: dict[int, Placement] = {}  # to those that the engine is about to start
        self._fields: dict[int, dict[str, Any]] = {}  # of unfinished jobs, as of their last change
        self._waiting: dict[int, Gang] = {}
        self._promised: set[int] = set()
        self._leaving: dict[int, str] = {}  # for whom
        # Progress is predicted at the least number of workers, which `Gang.workers` means.
        scale = settings.elastic.exponent if self.elastic else 0.0
        self._slower = (state.workers / state.least) ** scale
        random = np.random.default_rng(settings.seed)
        self._error = np.exp(settings.noise * random.standard_normal(len(jobs)))
        declared = [job.declared if settings.use_declared else None for job in jobs]
        self._declared = np.array([np.nan if d is None else d for d in declared])

    def account(self, job: int, wanted: int, held: int) -> None:
        """Charge the user, and lease or free the slots."""
        now, known = self.state.now, self.state.trace.jobs[job]
        high = held if self._high[job] else 0
        self.ledger = shares.change(
            self.ledger, now, self.policy, known.user, known.group, wanted, held, high
        )
        if held > 0:
            self._placement[job] = placement = self._given.pop(job)
            self._lease(placement, 1)
            self._promised.discard(job)
        elif held < 0:
            self._lease(self._placement.pop(job), -1)
            self._leaving.pop(job, None)
        if wanted < 0:
            self._promised.discard(job)
        self._fields.pop(job, None)
        self._waiting.pop(job, None)

    def _lease(self, placement: Placement, sign: int) -> None:
        for share in placement:
            host = self._hosts[share.host]
            used = host.used + sign * share.leased
            if not 0 <= used <= host.slots:
                raise WrongDecision(f"{used} slots of {host.id} in use; it has {host.slots}.")
            self._hosts[share.host] = replace(host, used=used)

    def decide(self, now: float) -> Decisions:
        """Show the policy what the control plane would, and do what it says."""
        state = self.state
        held = np.array(sorted(self._placement), dtype=np.int64)
        gangs = self._running(held) + self._queued(state.waiting())
        view = QueueView(tuple(gangs), tuple(self._hosts.values()), self.ledger, self.policy)
        return self._decisions(plan(view, now))

    def _decisions(self, wanted: Plan) -> Decisions:
        number, decisions = self._number, Decisions()
        for start in wanted.starts:
            if sum(share.leased for share in start.placement) != start.workers:
                raise WrongDecision(f"{start} doesn't place the whole gang.")
            self._given[number[start.job]] = start.placement
            decisions.starts.append((number[start.job], start.workers))
        for preempt in wanted.preempts:
            decisions.leaves.append(number[preempt.job])
            self._ask(number[preempt.job], preempt.by)
        for resize in wanted.resizes:
            decisions.resizes.append((number[resize.job], resize.workers))
            self._ask(number[resize.job], resize.by)
        return decisions

    def _ask(self, job: int, by: str) -> None:
        self._leaving[job] = by
        self._fields.pop(job, None)
        if by:
            self._promised.add(self._number[by])
            self._fields.pop(self._number[by], None)
            self._waiting.pop(self._number[by], None)

    def _running(self, jobs: Numbers) -> list[Gang]:
        """Return the gangs that hold slots, with their progress as of now."""
        state, interval = self.state, self.state.settings.interval
        columns = zip(
            jobs.tolist(),
            state.used(jobs).tolist(),
            self._remaining(jobs),
            (state.ran(jobs) >= state.settings.predict_after).tolist(),
            state.worked(jobs).tolist(),
            strict=True,
        )
        gangs = []
        for job, used, remaining, exact, worked in columns:
            fields = dict(self._fields.get(job) or self._about(job))
            fields["attained"], fields["remaining"] = used, remaining
            fields["exact"] = exact
            fields["saved_at"] = state.now - (worked % interval)
            gangs.append(_gang(fields))
        return gangs

    def _queued(self, jobs: Numbers) -> list[Gang]:
        """Return the gangs that wait: nothing about them changes, so they are kept."""
        state, known = self.state, self._waiting
        lacking = [job for job in jobs.tolist() if job not in known]
        if lacking:
            numbers = np.array(lacking, dtype=np.int64)
            exact = (state.ran(numbers) >= state.settings.predict_after).tolist()
            used, remaining = state.used(numbers).tolist(), self._remaining(numbers)
            for n, job in enumerate(lacking):
                fields = {**self._about(job), "attained": used[n], "remaining": remaining[n]}
                known[job] = _gang({**fields, "exact": exact[n]})
        return [known[job] for job in jobs.tolist()]

    def _remaining(self, jobs: Numbers) -> list[float | None]:
        """Return the seconds left at the least number of workers, None where nobody knows."""
        state = self.state
        left = state.left(jobs)
        live = state.ran(jobs) >= state.settings.predict_after
        declared = self._declared[jobs] - (state.duration[jobs] - left)
        found = np.where(live, left * self._error[jobs], declared) * self._slower[jobs]
        return [None if value != value else value for value in found.tolist()]

    def _about(self, job: int) -> dict[str, Any]:
        """Return the fields of a gang that change only with its phase."""
        state, known = self.state, self.state.trace.jobs[job]
        held = int(state.held[job])
        claim = int(state.claim[job])
        least, most = int(state.least[job]), int(state.most[job])
        gang = Gang(
            self._names[job],
            known.user,
            known.group,
            least,
            known.submit,
            max_workers=most,
            priority=known.priority,
            queued_at=float(state.queued[job]),
            held=held,
            slots=held,
            placement=self._placement.get(job, ()),
            since=float(state.since[job]) if held else 0.0,
            overhead=state.settings.save_restore,
            leaving=job in self._leaving,
            leaving_for=self._leaving.get(job, ""),
            claim=claim,
            promised=job in self._promised,
        )
        fields = self._fields[job] = vars(gang)
        return fields


def _gang(fields: dict[str, Any]) -> Gang:
    """Return a gang with these fields: a frozen class's own constructor takes ten times as long."""
    gang = object.__new__(Gang)
    gang.__dict__.update(fields)
    return gang
