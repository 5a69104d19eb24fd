"""Seeing that a run diverges: a loss that isn't finite, or many times what it usually is.

Looked at is what `run.log` gets under a name that ends in `loss`, but for held-out data. What is
found ends the attempt, whatever the cell catches; the control plane decides how the run goes on.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from math import isfinite

from resilient_nb.core.metric_names import is_loss
from resilient_nb.core.model import OnNan
from resilient_nb.errors import Diverged
from resilient_nb.wire.orders import Attempt

#: A loss is compared with the median of so many values before it, if there are at least so many.
WINDOW, LEAST = 50, 20

_NEXT = {
    OnNan.SKIP: "The run goes back to a checkpoint before it, and leaves this step's batch out",
    OnNan.LOWER_LR: "The run goes back to a checkpoint before it, with half the learning rate",
    OnNan.STOP: "The run stops here, and its checkpoints are from before it",
}


class Usual:
    """The median of a metric's last values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take a new value, and forget one if there are enough."""
        self._values.append(value)
        insort(self._sorted, value)
        if len(self._values) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._values.popleft())]

    @property
    def median(self) -> float | None:
        """The median (of an even number of values, the upper one); None if there are few."""
        return self._sorted[len(self._sorted) // 2] if len(self._sorted) >= LEAST else None


class LossWatch:
    """Looks at every loss of one rank.

    Attributes:
        found: the divergence, once there is one: it is raised again wherever the rank comes by.
    """

    def __init__(self, rank: int, on_nan: OnNan, spike: float = 0.0) -> None:
        self.found: Diverged | None = None
        self._rank, self._on_nan, self._spike = rank, on_nan, spike
        self._looked_at: dict[str, bool] = {}
        self._usual: dict[str, Usual] = {}

    @classmethod
    def of(cls, attempt: Attempt, rank: int) -> LossWatch | None:
        """Return what looks at a rank's losses, None if nobody is to."""
        if attempt.on_nan is OnNan.IGNORE:
            return None
        return cls(rank, attempt.on_nan, attempt.spike)

    @property
    def spikes(self) -> bool:
        """Whether losses that are far off are looked for, too."""
        return self._spike > 0

    def look(self, step: int, values: Mapping[str, float]) -> None:
        """Look at what was logged for a step.

        Raises:
            Diverged: a loss isn't finite, or far off; or one wasn't before.
        """
        self.check()
        for name, value in values.items():
            if name not in self._looked_at:
                self._looked_at[name] = is_loss(name)
            if not self._looked_at[name]:
                continue
            if not isfinite(value):
                self._diverged(step, name, f"{name} is {value}")
            elif self._spike:
                self._compare(step, name, value)

    def check(self) -> None:
        """Raise what was found, if the cell has caught it."""
        if self.found is not None:
            raise self.found

    def _compare(self, step: int, name: str, value: float) -> None:
        usual = self._usual.setdefault(name, Usual())
        median = usual.median
        if median is not None and 0 < median * self._spike < value:
            self._diverged(
                step,
                name,
                f"{name} is {value:.4g}, more than {self._spike:g} times its usual {median:.4g},",
            )
        usual.add(value)

    def _diverged(self, step: int, metric: str, what: str) -> None:
        where = f"at step {step} on rank {self._rank}"
        text = f"{what} {where}. {_NEXT[self._on_nan]} (--on-nan {self._on_nan.value})."
        self.found = Diverged(text, metric, step)
        raise self.found
