"""What a checkpoint costs: the training time that is lost to it, measured around each one.

Three parts: the stall at the boundary, waits for the snapshot within the steps after it, and
that steps are slower while it is written. How long a step takes otherwise is told by those that
follow. Medians, so that a validation or a slow batch in between counts for nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median, median_low

#: So many steps are timed after a save has ended: how long they usually take.
QUIET = 24
#: So many of the last checkpoints are looked at.
PAST = 5
#: Of the steps during one save no more are remembered: enough for a median.
_MOST = 1024


@dataclass
class _Save:
    """One save: `until` is the last boundary at which it was still being written."""

    began: float
    until: float
    stall: float
    first: float | None = None
    others: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST))
    count: int = 0  # of the others
    after: int = 0  # steps timed since it ended

    def add(self, seconds: float) -> None:
        """A step was made while it was written."""
        if self.first is None:
            self.first = seconds
        else:
            self.others.append(seconds)
            self.count += 1

    def cost(self, usual: float) -> float:
        """Return the seconds lost, if a step usually takes so long.

        The first step is apart: the state must not change before it has been copied.
        """
        waited = max(0.0, self.first - usual) if self.first is not None else 0.0
        slowed = self.count * max(0.0, median(self.others) - usual) if self.others else 0.0
        return self.stall + waited + slowed


class Costs:
    """Times saves and the steps around them. Without a clock: who calls says what time it is."""

    def __init__(self, now: float) -> None:
        self._last = now  # when the step under way began
        self._waited = 0.0  # of the step under way
        self._during = False  # whether a save was being written when it began
        self._save: _Save | None = None
        self._usual: deque[float] = deque(maxlen=QUIET)
        self._past: deque[tuple[float, float]] = deque(maxlen=PAST)

    @property
    def watching(self) -> bool:
        """Whether the end of each step has to be told: around saves, and at first."""
        return self._save is not None or len(self._usual) < QUIET

    @property
    def cost(self) -> float | None:
        """Seconds that a checkpoint costs, None before the first has been measured.

        Of an even number the lower one: the first save pays for making buffers, too.
        """
        return median_low([cost for cost, _ in self._past]) if self._past else None

    @property
    def measured(self) -> int:
        """How many of the last checkpoints were measured."""
        return len(self._past)

    @property
    def so_far(self) -> float | None:
        """What the checkpoint under way has cost by now."""
        return self._save.cost(self._usually()) if self._save is not None else None

    @property
    def writing(self) -> float:
        """Seconds for which a checkpoint is being written, at least."""
        return median_low([seconds for _, seconds in self._past]) if self._past else 0.0

    def resume(self, now: float) -> None:
        """What has passed since the last step belongs to no step."""
        self._last, self._waited = now, 0.0

    def waited(self, seconds: float) -> None:
        """The step under way waited so long for the snapshot."""
        self._waited += seconds
        if self._save is not None:
            self._save.stall += seconds

    def saved(self, began: float, now: float) -> None:
        """The boundary has begun a save, for which training stood still from `began` to now."""
        if self._save is not None:
            self._close(self._save)
        self._save = _Save(began, now, now - began)
        self._during = True
        self.resume(now)

    def step(self, now: float, busy: bool) -> bool:
        """A step has ended; return whether that completes a measurement.

        Args:
            now: the clock.
            busy: whether a save is being written.
        """
        passed, save = max(0.0, now - self._last - self._waited), self._save
        self.resume(now)
        if save is None:
            self._usual.append(passed)
            return False
        if self._during:
            save.add(passed)
            save.until = now if busy else save.until
            self._during = busy
            return False
        self._usual.append(passed)
        save.after += 1
        if save.after < QUIET:
            return False
        self._close(save)
        return True

    def _close(self, save: _Save) -> None:
        self._past.append((save.cost(self._usually()), save.until - save.began))
        self._save = None

    def _usually(self) -> float:
        """Return how long a step takes; without any to go by, no step was a slow one."""
        return median(self._usual) if self._usual else float("inf")
