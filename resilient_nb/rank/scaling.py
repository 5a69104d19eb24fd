"""A batch that grows with the workers, and the learning rate with it; and what lowers the rate.

For those who want speed rather than the same numbers: with k times the workers the global
batch is k times as large. The learning rate follows by the linear rule (Goyal et al. 2017,
arXiv:1706.02677) or by the square root, which keeps the variance of the weights' updates
(Krizhevsky 2014, arXiv:1404.5997). The rate may also have been lowered since the run diverged.
Both are factors that only optimizers see, while they step: so it makes no difference whether a
schedule or the cell itself sets the rate.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from resilient_nb.core.model import Scaling
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.tree import Json
from resilient_nb.wire.orders import Attempt


def global_batch(size: int, workers: int, base: int) -> int:
    """Return the samples in a global batch that is `size` at `base` workers (rounded down)."""
    return size * workers // base


def rate_factor(rule: Scaling, workers: int, base: int) -> float:
    """Return what the learning rate is multiplied by; 1 at `base` workers."""
    if rule is Scaling.NONE:
        return 1.0
    growth = workers / base
    return growth if rule is Scaling.LINEAR else math.sqrt(growth)


class ScaledRates:
    """Multiplies the learning rates of all optimizers while they step, and only then.

    So neither param groups, schedulers nor checkpoints ever hold a scaled value, and the next
    attempt may scale by another factor.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        # What each step under way has scaled. Steps nest: an optimizer may wrap another one
        # that shares its groups, or call its base class's step.
        self._stack: list[list[tuple[dict[str, Any], Any]]] = []
        self._scaled: set[int] = set()
        self._handles = [
            register_optimizer_step_pre_hook(self._raise),
            register_optimizer_step_post_hook(self._lower),
        ]

    def close(self) -> None:
        """Scale no more."""
        self.settle()
        for handle in self._handles:
            handle.remove()

    def settle(self) -> None:
        """Give back the rates of steps that raised: they never came to their end."""
        while self._stack:
            self._give_back()

    def _raise(self, optimizer: Optimizer, *_: object) -> None:
        held = []
        for group in optimizer.param_groups:
            rate = group.get("lr")  # some optimizers have none, or choose it themselves
            if rate is not None and id(group) not in self._scaled:
                self._scaled.add(id(group))
                held.append((group, rate))
                group["lr"] = rate * self.factor
        self._stack.append(held)

    def _lower(self, *_: object) -> None:
        if self._stack:
            self._give_back()

    def _give_back(self) -> None:
        for group, rate in self._stack.pop():
            group["lr"] = rate
            self._scaled.discard(id(group))


class Growth:
    """How one attempt scales: the batch of each loop, the rate, and what is said of it."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.base = attempt.base_workers or attempt.granted
        self.factor = rate_factor(attempt.scaling, attempt.granted, self.base)
        self._batch: int | None = None
        self._said = ""

    @classmethod
    def of(cls, attempt: Attempt) -> Growth | None:
        """Return how an attempt scales, or None if its numbers are to stay the same."""
        return None if attempt.scaling is Scaling.NONE else cls(attempt)

    def batch(self, size: int) -> int:
        """Return the samples of a global batch that is `size` on the fewest workers."""
        self._batch = global_batch(size, self._attempt.granted, self.base)
        return self._batch

    def news(self) -> str:
        """Return a line for the user, "" if it was said before."""
        text = (
            f"On {self._attempt.granted} workers ({self.base} at least): global batch "
            f"{self._batch or f'× {self._attempt.granted / self.base:.4g}'}, "
            f"learning rate × {self.factor:.4g} ({self._attempt.scaling.value})."
        )
        said, self._said = self._said, text
        return "" if text == said else text

    def record(self) -> dict[str, Json]:
        """Return what a checkpoint says of it; the batch is None if the cell makes its own."""
        return {
            "rule": self._attempt.scaling.value,
            "workers": self._attempt.granted,
            "factor": self.factor,
            "batch": self._batch,
        }


@dataclass(frozen=True)
class Lowered:
    """What divergences have made of the learning rate, as checkpoints record it.

    Attributes:
        factor: what it is multiplied by, in all.
        own: the part of it that is this job's doing; the other is of before it began.
    """

    factor: float = 1.0
    own: float = 1.0

    @classmethod
    def of(cls, attempt: Attempt, start: Manifest | None) -> Lowered:
        """Return what holds for an attempt that goes on from a checkpoint, or from nothing.

        Who resumes or forks a run gets the rate that it had.
        """
        known: Any = start.info.get("lowered") if start is not None else None
        before = cls(**known) if known else cls()
        if start is not None and start.job == attempt.job:
            before = cls(before.factor / before.own)
        return cls(before.factor * attempt.lr_scale, attempt.lr_scale)

    def record(self) -> dict[str, Json] | None:
        """Return what a checkpoint says of it, None if there is nothing to say."""
        return asdict(self) if self.factor != 1.0 or self.own != 1.0 else None

    def news(self) -> str:
        """Return a line for the user, "" if it isn't lowered."""
        if self.factor == 1.0:
            return ""
        return (
            f"Learning rates are multiplied by {self.factor:g} while optimizers step, since the "
            "run had diverged; what the cell sees and logs of them are the plain ones."
        )


def scaled_rates(growth: Growth | None, lowered: Lowered) -> ScaledRates | None:
    """Return what scales the rates of an attempt, None if nothing does."""
    factor = lowered.factor * (growth.factor if growth is not None else 1.0)
    return ScaledRates(factor) if factor != 1.0 else None
