"""A training loop with and without checkpoints, the same for us and for all peers.

GPT-2 small (124 M parameters, the output layer tied to the embedding) and AdamW on one thread, as
ranks have; a short batch, so that a step takes about half a second. What is timed is a row of
segments in one process: two checkpoints to warm up (buffers are reused), then pairs of one with
and one without, in changing order, so that drift of the machine cancels. A checkpoint begins when
the first step of its segment has ended; the next segment begins only when it is durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 50257, 1024, 768, 12, 12
TOKENS = 16
#: Steps of a segment that is timed: longer than any peer writes. Of a warm-up, fewer do.
STEPS, WARMUP = 10, 3
#: Whether a checkpoint is taken in each segment.
WARMUPS = (True, True)
TIMED = (False, True, True, False, False, True, True, False)
#: A checkpoint that takes longer than this has failed.
PATIENCE = 120.0


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

    def finished(self) -> float:
        """Wait until the checkpoint is durable; return the time (`time.time`) when it was."""


class OurSaver:
    """Our own, in a cell: `run.checkpoint()`, and the store tells when it was committed."""

    def __init__(self, run: Any, runs: str) -> None:
        self.begin = run.checkpoint
        self._runs = Path(runs)
        self._seen: set[Path] = set()

    def lock(self) -> AbstractContextManager[Any]:
        """The optimizer's step waits by itself."""
        return nullcontext()

    def finished(self) -> float:
        """Wait for the checkpoint's root group, which is created last."""
        end = time.monotonic() + PATIENCE
        while not (new := set(self._runs.glob("*/*/zarr.json")) - self._seen):
            if time.monotonic() > end:
                raise TimeoutError(f"No new checkpoint in {self._runs}.")
            time.sleep(0.02)
        self._seen |= new
        return max(path.stat().st_ctime for path in new)


@dataclass
class Segment:
    """When steps began and ended, and when the checkpoint was durable, if there was one."""

    saves: bool
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    durable: float | None = None

    @property
    def wall(self) -> float:
        """Seconds from the first step's begin to the last one's end."""
        return self.ended[-1] - self.began[0]

    @property
    def pause(self) -> float:
        """Seconds between the first two steps: there the checkpoint begins."""
        return self.began[1] - self.ended[0]

    @property
    def during(self) -> list[float]:
        """Seconds of each step that was made, for the most part, while it was written.

        In the first after the request the snapshot may still be taken: what that costs is lost
        time, but says nothing of writing. So it counts for nobody.
        """
        assert self.durable is not None
        steps = [(b, e) for b, e in zip(self.began[2:], self.ended[2:], strict=True)]
        return [e - b for b, e in steps if (b + e) / 2 < self.durable]

    @property
    def steps(self) -> list[float]:
        """Seconds of each step."""
        return [e - b for b, e in zip(self.began, self.ended, strict=True)]


@dataclass(frozen=True)
class Loss:
    """What one launch has shown, in seconds but for `slowdown`, which is a fraction.

    `lost` is training time per checkpoint, the median of the pairs; `pause` what of it the loop
    stood still between two steps; `durable` from the request until it is; `step` a step without
    checkpoints.
    """

    lost: float
    slowdown: float
    pause: float
    durable: float
    step: float


def measure(
    training: Training, steps: Callable[[int], Iterable[Any]], saver: Saver, length: int = STEPS
) -> dict[str, float]:
    """Train all segments; return the fields of a `Loss`."""
    plan = [(WARMUP, saves) for saves in WARMUPS] + [(length, saves) for saves in TIMED]
    segments = [Segment(saves) for _, saves in plan]
    places = [(s, n) for s, (count, _) in zip(segments, plan, strict=True) for n in range(count)]
    last: Segment | None = None
    for (segment, number), _ in zip(places, steps(len(places)), strict=False):
        if segment is not last and last is not None and last.saves:
            last.durable = saver.finished()
        last = segment
        segment.began.append(time.time())
        training.step(saver.lock())
        segment.ended.append(time.time())
        if number == 0 and segment.saves:
            saver.begin()
    return asdict(evaluate(segments[len(WARMUPS) :]))


def evaluate(segments: list[Segment]) -> Loss:
    """Compare the segments with checkpoints to those without."""
    saved = [s for s in segments if s.saves]
    plain = [s for s in segments if not s.saves]
    pairs = list(zip(saved, plain, strict=True))  # next to each other
    return Loss(
        median(s.wall - p.wall for s, p in pairs),
        median(median(s.during) / median(p.steps) - 1 for s, p in pairs if s.during),
        median(s.pause for s in saved),
        median(s.durable - s.ended[0] for s in saved if s.durable is not None),
        median(chain.from_iterable(s.steps for s in plain)),
    )
