"""Where the time of a rank's steps goes: data, compute, wait for other ranks, checkpoint.

The loop's thread says when it goes over to another phase, which costs it one look at the clock.
The link's thread reads now and then; what it reads is replaced whole, so nothing is locked. On a
GPU, these are the times of the host: what a kernel takes counts where the host waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

STARTING, DATA, COMPUTE, WAIT = "starting", "data", "compute", "wait"
CHECKPOINT, ENDED = "checkpoint", "ended"


class Spent(NamedTuple):
    """Steps made so far, their samples of data and their seconds by phase.

    The longest is that since it was last looked at, in look number `look`.
    """

    steps: int = 0
    items: int = 0
    data_s: float = 0.0
    compute_s: float = 0.0
    wait_s: float = 0.0
    checkpoint_s: float = 0.0
    longest_s: float = 0.0
    look: int = 0


class Phases:
    """A stopwatch for one loop. A step lasts from the end of the one before to its own."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._now = (STARTING, clock())
        self._sums = self._none()
        self._done = self._seen = Spent()
        self._look = 0

    @staticmethod
    def _none() -> dict[str, float]:
        return dict.fromkeys((STARTING, DATA, COMPUTE, WAIT, CHECKPOINT, ENDED), 0.0)

    # --- by the loop ------------------------------------------------------------------------

    def enter(self, phase: str) -> str:
        """Go over to a phase; return the one before."""
        now = self._clock()
        before, since = self._now
        self._sums[before] += now - since
        self._now = (phase, now)
        return before

    def within(self, phase: str) -> _Within:
        """Return a context that is a phase of its own, inside the one that it is entered in."""
        return _Within(self, phase)

    def moved(self, seconds: float, phase: str) -> None:
        """Of the time in the current phase, so much was another's, as is known afterwards."""
        self._sums[self._now[0]] -= seconds
        self._sums[phase] += seconds

    def begin(self) -> None:
        """A step begins, with its data: what was before belongs to no step."""
        self._sums = self._none()
        self._now = (DATA, self._clock())

    def step_done(self, items: int = 0) -> None:
        """A step over so many samples (of all ranks) has ended, and the next begins."""
        self.enter(DATA)
        sums, done = self._sums, self._done
        data, compute, wait = sums[DATA], sums[COMPUTE], sums[WAIT]
        checkpoint = sums[CHECKPOINT]
        sums[DATA] = sums[COMPUTE] = sums[WAIT] = sums[CHECKPOINT] = 0.0
        whole, look = data + compute + wait + checkpoint, self._look
        self._done = Spent(
            done.steps + 1,
            done.items + items,
            done.data_s + data,
            done.compute_s + compute,
            done.wait_s + wait,
            done.checkpoint_s + checkpoint,
            whole if look != done.look or whole > done.longest_s else done.longest_s,
            look,
        )

    # --- by the link ------------------------------------------------------------------------

    def current(self) -> tuple[str, float]:
        """Return the phase, and for how many seconds it has lasted."""
        phase, since = self._now
        return phase, self._clock() - since

    def take(self) -> Spent:
        """Return the steps since the last call."""
        done, before = self._done, self._seen
        self._look += 1
        self._seen = done
        return Spent(
            done.steps - before.steps,
            done.items - before.items,
            done.data_s - before.data_s,
            done.compute_s - before.compute_s,
            done.wait_s - before.wait_s,
            done.checkpoint_s - before.checkpoint_s,
            done.longest_s if done.steps > before.steps else 0.0,
        )


class _Within:
    __slots__ = ("_before", "_phase", "_phases")

    def __init__(self, phases: Phases, phase: str) -> None:
        self._phases, self._phase = phases, phase

    def __enter__(self) -> None:
        self._before = self._phases.enter(self._phase)

    def __exit__(self, *_: object) -> None:
        self._phases.enter(self._before)
