"""The policies to compare with. All of them start whole gangs and see the same slots.

* FIFO: in the order of submission; the first gang that doesn't fit holds all behind it.
* EASY: FIFO, and others may overtake while they don't delay the first one in line (Lifka, "The
  ANL/IBM SP scheduling system", 1995). It plans with the declared durations where the trace has
  them, else with the true ones, which flatters it.
* Least attained service: after Tiresias (Gu et al., NSDI 2019), discretised, preemptive.
* Shortest remaining service: preemptive, and knows every job's true remaining time: an oracle.

None heeds users, groups or priorities.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resilient_nb.simulator.engine import Decisions
from resilient_nb.simulator.state import Floats, Numbers, Phase, State

Flags = npt.NDArray[np.bool_]


class _Rigid:
    """What the baselines have in common: gangs of the size that was asked for."""

    name = ""
    elastic = False
    ticks = False
    state: State

    def begin(self, state: State) -> None:
        self.state = state

    def account(self, job: int, wanted: int, held: int) -> None:
        """They keep no accounts."""

    def start(self, jobs: Numbers) -> Decisions:
        """Return the decision to start these."""
        workers = self.state.workers[jobs].tolist()
        return Decisions(starts=list(zip(jobs.tolist(), workers, strict=True)))

    def head(self, waiting: Numbers) -> int:
        """Return how many in front of the queue fit one after the other."""
        total = np.cumsum(self.state.workers[waiting])
        return int(np.searchsorted(total, self.state.free, side="right"))


class Fifo(_Rigid):
    """First come, first served."""

    name = "fifo"

    def decide(self, now: float) -> Decisions:
        """Start the front of the queue, as far as it fits."""
        waiting = self.state.waiting()
        return self.start(waiting[: self.head(waiting)])


class Easy(_Rigid):
    """FIFO with backfilling around one reservation."""

    name = "easy"
    estimate: Floats

    def begin(self, state: State) -> None:
        """Take the declared durations, or else the true ones."""
        super().begin(state)
        self.estimate = np.array([job.declared or job.duration for job in state.trace.jobs])

    def decide(self, now: float) -> Decisions:
        """Start the front, reserve for the next, and fill up with what doesn't delay it."""
        state, waiting = self.state, self.state.waiting()
        count = self.head(waiting)
        started, rest = waiting[:count], waiting[count:]
        free = state.free - int(state.workers[started].sum())
        if not len(rest) or free == 0:
            return self.start(started)
        shadow, extra = self._reservation(int(state.workers[rest[0]]), free, started, now)
        workers, brief = state.workers[rest], now + self.estimate[rest] <= shadow
        chosen, after = [], 0
        while True:
            fits = (workers[after:] <= free) & (brief[after:] | (workers[after:] <= extra))
            at = after + int(np.argmax(fits)) if fits.any() else -1
            if at < 0:
                break
            chosen.append(rest[at])
            free -= int(workers[at])
            extra -= 0 if brief[at] else int(workers[at])
            after = at + 1
        return self.start(np.concatenate([started, np.array(chosen, dtype=np.int64)]))

    def _reservation(
        self, needed: int, free: int, started: Numbers, now: float
    ) -> tuple[float, int]:
        """Return when the first in line starts, and the slots that are over then."""
        state, running = self.state, self.state.running_numbers()
        ends = np.concatenate(
            [
                np.maximum(now, state.since[running] + self.estimate[running]),
                now + self.estimate[started],
            ]
        )
        slots = np.concatenate([state.held[running], state.workers[started]])
        order = np.argsort(ends, kind="stable")
        freed = free + np.cumsum(slots[order])
        at = int(np.searchsorted(freed, needed, side="left"))
        shadow = float(ends[order[at]])
        then = int(np.searchsorted(ends[order], shadow, side="right")) - 1
        return shadow, int(freed[then]) - needed


def fit(workers: Numbers, capacity: int) -> Flags:
    """Return which are taken by going through them in order and taking each that still fits."""
    taken = np.zeros(len(workers), dtype=bool)
    rest = np.arange(len(workers))
    while len(rest):
        count = int(np.searchsorted(np.cumsum(workers[rest]), capacity, side="right"))
        taken[rest[:count]] = True
        capacity -= int(workers[rest[:count]].sum())
        rest = rest[count + 1 :]
        rest = rest[workers[rest] <= capacity]
    return taken


class _Preemptive(_Rigid):
    """Runs the best by some order that fit together; the others leave if that needs slots."""

    def rank(self, jobs: Numbers, runs: Flags, now: float) -> Floats:
        """Return the jobs' keys: the smaller, the sooner."""
        raise NotImplementedError

    def decide(self, now: float) -> Decisions:
        """Choose who should run, start of them who can at once, and make room for the others."""
        state, waiting, running = self.state, self.state.waiting(), self.state.running_numbers()
        if not len(waiting):
            return Decisions()
        jobs = np.concatenate([running, waiting])
        runs = np.arange(len(jobs)) < len(running)
        keys = self.rank(jobs, runs, now)
        order = np.lexsort((jobs, ~runs, keys))
        jobs, runs = jobs[order], runs[order]
        wanted = fit(state.workers[jobs], state.settings.workers)
        starts = jobs[wanted & ~runs]
        now_fit = fit(state.workers[starts], state.free)
        decisions = self.start(starts[now_fit])
        needed = int(state.workers[starts].sum()) - state.free - state.leaving_slots
        decisions.leaves = self._victims(jobs[runs & ~wanted][::-1], needed)
        return decisions

    def _victims(self, worst_first: Numbers, needed: int) -> list[int]:
        """Return who leaves: the worst, as many as it takes, without those it doesn't take."""
        chosen, freed = [], 0
        for job in worst_first.tolist():
            if freed >= needed:
                break
            chosen.append(job)
            freed += int(self.state.held[job])
        for job in chosen[::-1]:
            if freed - int(self.state.held[job]) >= needed:
                chosen.remove(job)
                freed -= int(self.state.held[job])
        return chosen


class LeastService(_Preemptive):
    """Least attained service in steps of a factor `step`, those in a class by submission."""

    name = "las"
    ticks = True

    def __init__(self, first: float = 3600.0, step: float = 10.0, quantum: float = 15.0) -> None:
        self.first, self.step, self.quantum = first, step, quantum

    def rank(self, jobs: Numbers, runs: Flags, now: float) -> Floats:
        """Class by slot-seconds had; who has just begun to run stays for `quantum` restores."""
        state = self.state
        used = np.maximum(state.used(jobs), 1.0)
        steps = np.floor(np.log(used / self.first) / np.log(self.step))
        classes = np.maximum(0.0, steps + 1)
        young = runs & (now - state.since[jobs] < self.quantum * state.settings.save_restore)
        keys: Floats = np.where(young, -1.0, classes)
        return keys


class ShortestRemaining(_Preemptive):
    """Shortest remaining service (seconds times workers), known exactly.

    A running job counts as `stick` of its service, and less by what leaving would cost it, so
    that it leaves only for one that is clearly shorter.
    """

    name = "srs"

    def __init__(self, stick: float = 0.8, cost: float = 2.0) -> None:
        self.stick, self.cost = stick, cost

    def rank(self, jobs: Numbers, runs: Flags, now: float) -> Floats:
        """Remaining slot-seconds, with the restore that a job that has run must do again."""
        state = self.state
        overhead = state.settings.save_restore
        left = state.left(jobs)
        again = (state.starts[jobs] > 0) & (state.phase[jobs] == Phase.WAITING)
        waits = left + np.where(again, overhead / 2, 0.0)
        stays = self.stick * left - self.cost * overhead
        keys: Floats = np.where(runs, stays, waits) * state.workers[jobs]
        return keys
