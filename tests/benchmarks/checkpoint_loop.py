"""A training loop with and without checkpoints, the same for us and for all peers.

GPT-2 small (124 M parameters, the output layer tied to the embedding) and AdamW on one thread, as
ranks have; a short batch, so that a step takes about half a second. What is timed is one row of
steps in one process: two checkpoints to warm up (buffers are reused), then plain steps and
checkpoints in turn. A checkpoint is asked for when a step has ended; until it is durable, and in
the step after that, time may be lost. What steps take without is taken from the plain ones just
before and just after: a machine's speed drifts by several percent within seconds, which a
baseline from further away would count as lost or won.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 50257, 1024, 768, 12, 12
TOKENS = 16
#: Checkpoints that are timed, those before them that aren't, and plain steps before and after each.
TIMED, WARMUPS, PLAIN = 8, 2, 6
#: A checkpoint that takes longer than this has failed; no launch makes so many steps.
PATIENCE, MOST = 120.0, 10_000


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and added."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.attention(self.ln_1(x)).split(WIDTH, 2)
        query, key, value = (p.unflatten(2, (HEADS, -1)).transpose(1, 2) for p in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """GPT-2 small."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.tokens.weight)


class Training:
    """A model, its optimizer with state, and a step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Gpt2()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.step(nullcontext())

    def step(self, lock: AbstractContextManager[Any]) -> None:
        """Train one batch; the update happens in `lock`."""
        tokens = torch.randint(VOCABULARY, (1, TOKENS + 1))
        logits = self.model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        with lock:
            self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds; nothing is copied."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class Saver(Protocol):
    """Takes checkpoints of a training in the background."""

    def begin(self) -> None:
        """Begin one: at the end of a step, or ask for one there."""

    def lock(self) -> AbstractContextManager[Any]:
        """Guard an update against the snapshot."""

    def durable(self) -> float | None:
        """Return the time (`time.time`) since when the last one is durable; None: it isn't yet."""


class OurSaver:
    """Our own, in a cell: `run.checkpoint()`, and the store tells when it was committed."""

    def __init__(self, run: Any, runs: str) -> None:
        self.begin = run.checkpoint
        self._runs = Path(runs)
        self._seen: set[Path] = set()

    def lock(self) -> AbstractContextManager[Any]:
        """The optimizer's step waits by itself."""
        return nullcontext()

    def durable(self) -> float | None:
        """Look for the checkpoint's root group, which is created last."""
        new = set(self._runs.glob("*/*/zarr.json")) - self._seen
        self._seen |= new
        return max((path.stat().st_ctime for path in new), default=None)


@dataclass(frozen=True)
class Step:
    """When a step began and ended."""

    began: float
    ended: float


@dataclass
class Saved:
    """A checkpoint: the steps since it was asked for, and the plain ones around it.

    `before` has one more at its begin, which only tells when the first plain one can have begun.
    """

    before: list[Step]
    steps: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    durable: float = 0.0

    @property
    def plain(self) -> float:
        """Seconds from one plain step's end to the next one's, here and now.

        A mean, since a sum of steps is compared to it: steps are skewed, and a median would have
        those lose more that write for longer.
        """
        before = (self.before[-1].ended - self.before[0].ended) / (len(self.before) - 1)
        after = (self.after[-1].ended - self.steps[-1].ended) / len(self.after)
        return (before + after) / 2

    @property
    def lost(self) -> float:
        """Seconds that these steps took beyond what as many plain ones take."""
        return self.steps[-1].ended - self.before[-1].ended - len(self.steps) * self.plain

    @property
    def pause(self) -> float:
        """Seconds between the last step before and the first one after the request."""
        return self.steps[0].began - self.before[-1].ended

    @property
    def slowdown(self) -> float | None:
        """How much slower, as a fraction, steps are that are made while it is written.

        In the first after the request the snapshot may still be taken: what that costs is lost
        time, but says nothing of writing. So it counts for nobody.
        """
        rows = self.steps[1:]
        during = [s.ended - s.began for s in rows if (s.began + s.ended) / 2 < self.durable]
        if not during:
            return None
        plain = median(step.ended - step.began for step in (*self.before[1:], *self.after))
        return median(during) / plain - 1


@dataclass(frozen=True)
class Loss:
    """What one launch has shown: medians over its checkpoints.

    In seconds but for `slowdown`, which is a fraction, and nan where no step was made while one
    was written. `lost` is training time per checkpoint; `pause` what of it the loop stood still
    between two steps; `durable` from the request until it is; `step` one without checkpoints.
    """

    lost: float
    slowdown: float
    pause: float
    durable: float
    step: float


def measure(
    training: Training,
    steps: Callable[[int], Iterable[Any]],
    saver: Saver,
    timed: int = TIMED,
) -> dict[str, float]:
    """Train, and take so many checkpoints; return the fields of a `Loss`."""
    found: list[Saved] = []
    plain: list[Step] = []
    current: Saved | None = None
    for _ in steps(MOST):
        began = time.time()
        training.step(saver.lock())
        step = Step(began, time.time())
        if current is None:
            plain.append(step)
            if found:
                found[-1].after = plain[1:]
            if len(plain) > PLAIN:
                if len(found) == WARMUPS + timed:
                    break
                current = Saved(plain)
                saver.begin()
            continue
        current.steps.append(step)
        if current.durable:  # the one after it
            found.append(current)
            current, plain = None, [step]
        elif (durable := saver.durable()) is not None:
            current.durable = durable
        elif step.ended - current.before[-1].ended > PATIENCE:
            raise TimeoutError("A checkpoint isn't there yet.")
    return asdict(evaluate(found[WARMUPS:]))


def evaluate(found: list[Saved]) -> Loss:
    """Return the medians."""
    slowdowns = [saved.slowdown for saved in found]
    return Loss(
        median(saved.lost for saved in found),
        median([s for s in slowdowns if s is not None] or [math.nan]),
        median(saved.pause for saved in found),
        median(saved.durable - saved.before[-1].ended for saved in found),
        median(saved.plain for saved in found),
    )
