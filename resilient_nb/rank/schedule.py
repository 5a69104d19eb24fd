"""When the next checkpoint is due. All ranks of a gang come to the same answer.

By steps it is arithmetic. By time, rank 0 guesses from the rate so far how many steps are left
and tells the others at a step that all had agreed on before: no step in between costs anything.
With `auto` rank 0 also measures what checkpoints cost, and the time follows from that; the others
needn't know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from resilient_nb.core.interval import best_interval
from resilient_nb.core.model import Cadence, Interval
from resilient_nb.rank.cost import Costs

NEVER = 1 << 62

#: With `auto`, the first checkpoint comes after so many seconds and steps: early, so that its
#: cost is known, but when the steps are no longer those that warm up.
FIRST_SECONDS, FIRST_STEPS = 5.0, 3
#: With failures as frequent as that, checkpoints come as often as the bound on overhead allows.
_ANY_MOMENT = 1e-3


class Gang(Protocol):
    """The ranks, and the store that they agree through."""

    rank: int
    world_size: int
    store: Any


class Schedule:
    """Which step to look at next, and whether a checkpoint is due there.

    Attributes:
        due: the next step at which all ranks look.
        cadence: what `auto` has come to; only rank 0 has it.
    """

    def __init__(
        self,
        gang: Gang,
        interval: Interval,
        mtbf: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.due = NEVER
        self.cadence: Cadence | None = None
        self._gang = gang
        self._interval = interval
        self._mtbf = mtbf
        self.clock = clock
        self._costs = Costs(clock()) if interval.auto and gang.rank == 0 else None
        self._begun = False
        self._first_step = 0
        self._began = 0.0  # the time that is to pass counts from here
        self._last_time, self._last_step = 0.0, 0  # the rate is that since then

    @property
    def never(self) -> bool:
        """Whether no checkpoint is due at any time."""
        return self._interval.never

    def look(self, step: int) -> int:
        """Return the next step that this rank has to look at: `due`, or one to be timed."""
        watching = self._costs is not None and self._costs.watching
        return step + 1 if watching else self.due

    def plan(self, step: int) -> None:
        """Set the next step to look at; the ranks call this at the same steps, once at each."""
        if self._interval.steps is not None:
            self.due = (step // self._interval.steps + 1) * self._interval.steps
        elif not self.never:
            if not self._begun:
                self._begun, self._first_step = True, step
                self._restart(step)
                self.resume()
                self.due = step + 1
            else:
                self.due = self._agree(f"due/{step}", lambda: self._guess(step))

    def is_due(self, step: int, busy: bool) -> bool:
        """Whether a checkpoint is due at this step, which all ranks look at.

        Args:
            step: the step just made.
            busy: whether the one before is still being written.
        """
        if self._interval.steps is not None:
            return True
        over = bool(self._agree(f"over/{step}", lambda: int(self._is_over(step, busy))))
        if over:
            self._restart(step)
        return over

    # --- what rank 0 measures ---------------------------------------------------------------

    def resume(self) -> None:
        """A loop begins: what was before belongs to no step."""
        if self._costs is not None:
            self._costs.resume(self.clock())

    def time_step(self, busy: bool) -> None:
        """A step was made that may have to be timed."""
        costs = self._costs
        if costs is not None and costs.watching and costs.step(self.clock(), busy):
            self._set_cadence(costs)

    def waited(self, seconds: float) -> None:
        """The step under way waited so long for the snapshot."""
        if self._costs is not None:
            self._costs.waited(seconds)

    def saved(self, step: int, began: float) -> None:
        """A checkpoint was begun, due or asked for; training stood still since `began`."""
        if self._costs is not None:
            self._costs.saved(began, self.clock())
            self._set_cadence(self._costs)
            self._restart(step)
            self._began = began

    def _set_cadence(self, costs: Costs) -> None:
        if costs.cost is not None:
            every = self._best(costs.cost, self._mtbf)
            self.cadence = Cadence(every, costs.cost, self._mtbf, self._interval.overhead)

    def _best(self, cost: float, mtbf: float) -> float:
        best = best_interval(cost, mtbf, self._interval.overhead)
        # Half of the time the store is left to others.
        return max(best, 2 * self._costs.writing) if self._costs is not None else best

    # --- on rank 0 --------------------------------------------------------------------------

    def _seconds(self) -> float:
        """Return the time from one checkpoint to the next."""
        if self._interval.seconds is not None:
            return self._interval.seconds
        costs = self._costs
        if costs is not None and costs.measured < 2:
            # The first makes buffers, too: what the others cost is known as soon as is allowed.
            cost = costs.so_far if costs.cost is None else costs.cost
            return FIRST_SECONDS if cost is None else self._best(cost, _ANY_MOMENT)
        return self.cadence.every if self.cadence is not None else FIRST_SECONDS

    def _guess(self, step: int) -> int:
        """Return the step at which the interval will be over, at most twice as far as known."""
        now = self.clock()
        known = max(1, step - self._last_step)
        pace = max(1e-6, (now - self._last_time) / known)
        left = self._began + self._seconds() - now
        # If it is over, but the one before is still being written: a while later.
        steps = min(int(left / pace), 2 * known) if left > 0 else known // 8
        return step + max(1, steps)

    def _is_over(self, step: int, busy: bool) -> bool:
        if self._interval.auto:
            if busy:
                return False
            if self.cadence is None and step - self._first_step < FIRST_STEPS:
                return False
        return self.clock() - self._began >= self._seconds()

    def _restart(self, step: int) -> None:
        self._began = self._last_time = self.clock()
        self._last_step = step

    def _agree(self, key: str, answer: Callable[[], int]) -> int:
        """Return rank 0's answer, on every rank."""
        if self._gang.world_size == 1:
            return answer()
        if self._gang.rank == 0:
            self._gang.store.set(key, str(answer()))
        return int(self._gang.store.get(key))
