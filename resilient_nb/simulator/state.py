"""What is true at one moment of a simulation: which job waits, runs, leaves or has ended.

Jobs are numbered in the order of submission; arrays are indexed by these numbers, so that a
policy can look at thousands at once. Progress is kept as of the last change: `left`, `used`
and `ran` give it for any moment.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from resilient_nb.simulator.settings import Settings
from resilient_nb.simulator.trace import Trace

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


class Phase(IntEnum):
    """Where a job is."""

    FUTURE = 0
    WAITING = 1
    RUNNING = 2
    LEAVING = 3
    DONE = 4


class State:
    """All jobs and slots at the time `now`; only the engine changes it.

    Attributes:
        workers: asked for, by job. held: held now. least, most: bounds (equal, if rigid).
        since: when the current attempt began. ready: when it works (after a restore); infinite
            while nothing does.
        rate: work done in a second, in seconds of `workers` workers.
        claim: workers to come back with after a resize, else 0.
        queued: since when it waits (its submission, or the last time it left).
        free: slots that nobody holds. leaving_slots: slots that are being vacated.
        running: numbers of the jobs that hold slots and were not asked to leave.
    """

    def __init__(self, trace: Trace, settings: Settings, elastic: bool) -> None:
        jobs, count = trace.jobs, len(trace.jobs)
        self.trace, self.settings, self.elastic = trace, settings, elastic
        self.now = 0.0
        self.arrived = 0
        self.free = settings.workers
        self.leaving_slots = 0
        self.workers = np.array([job.workers for job in jobs], dtype=np.int64)
        bounds = [settings.elastic.bounds(job.workers, settings.workers) for job in jobs]
        self.least = np.array([low for low, _ in bounds]) if elastic else self.workers
        self.most = np.array([high for _, high in bounds]) if elastic else self.workers
        self.duration = np.array([job.duration for job in jobs])
        self.submit = np.array([job.submit for job in jobs])
        self.phase = np.zeros(count, dtype=np.int8)
        self.held = np.zeros(count, dtype=np.int64)
        self.claim = np.zeros(count, dtype=np.int64)
        self.rate = np.ones(count)
        self.since = np.full(count, np.inf)
        self.ready = np.full(count, np.inf)
        self.queued = self.submit.copy()
        self.starts = np.zeros(count, dtype=np.int64)
        self.running: set[int] = set()
        self.left_then = self.duration.copy()
        self.used_then = np.zeros(count)
        self.ran_then = np.zeros(count)
        self.held_for = np.zeros(count)
        self.ended = np.full(count, np.inf)
        self._first = 0
        self._waiting: Numbers | None = None

    def waiting(self) -> Numbers:
        """Return the numbers of the jobs that wait, in the order of submission."""
        if self._waiting is None:
            phase, count = self.phase, len(self.phase)
            while self._first < count and phase[self._first] == Phase.DONE:
                self._first += 1
            part = phase[self._first : self.arrived] == Phase.WAITING
            self._waiting = np.flatnonzero(part) + self._first
        return self._waiting

    def changed(self) -> None:
        """Forget what was derived from the phases."""
        self._waiting = None

    def running_numbers(self) -> Numbers:
        """Return the numbers of the running jobs that were not asked to leave, sorted."""
        return np.array(sorted(self.running), dtype=np.int64)

    def worked(self, jobs: Numbers) -> Floats:
        """Return the seconds for which the current attempt has worked."""
        return np.maximum(0.0, self.now - self.ready[jobs])

    def left(self, jobs: Numbers) -> Floats:
        """Return the seconds that are left, with as many workers as were asked for."""
        result: Floats = self.left_then[jobs] - self.worked(jobs) * self.rate[jobs]
        return result

    def used(self, jobs: Numbers) -> Floats:
        """Return the slot-seconds held so far, over all attempts."""
        lasted = np.where(self.held[jobs] > 0, self.now - self.since[jobs], 0.0)
        result: Floats = self.used_then[jobs] + self.held[jobs] * lasted
        return result

    def ran(self, jobs: Numbers) -> Floats:
        """Return the seconds of work so far, over all attempts."""
        result: Floats = self.ran_then[jobs] + self.worked(jobs)
        return result
