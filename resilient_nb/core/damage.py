"""From which checkpoint a run goes on if its head won't do: it is damaged, or has diverged."""

from __future__ import annotations

import math
from collections.abc import Set

from resilient_nb.core.causes import DAMAGED
from resilient_nb.core.lineage import imported
from resilient_nb.core.lookup import lineage
from resilient_nb.core.metric_names import is_loss
from resilient_nb.core.model import Checkpoint, Run
from resilient_nb.core.world import World


def known_damaged(world: World) -> frozenset[str]:
    """Return the checkpoints that attempts have found damaged, by what their failures say."""
    return frozenset(
        failure.error.damaged
        for job in world.jobs.values()
        for failure in job.failures
        if failure.cause == DAMAGED and failure.error is not None
    )


def newest_whole(world: World, run: Run, damaged: Set[str]) -> Checkpoint | None:
    """Return the head, or the newest of its ancestors, that isn't among the damaged."""
    return next((c for c in lineage(world, run) if c.id not in damaged), None)


def newest_finite(world: World, run: Run, bad: int) -> Checkpoint | None:
    """Return the newest ancestor of the head from before a run diverged at step `bad`.

    All its losses are finite, and its parameters were used for a step more whose loss was finite,
    too: it is of two steps before, or older. If none is, it is where the run began, if that is a
    checkpoint (a fork, an import), else None: the beginning.
    """
    damaged = known_damaged(world)
    line = [c for c in lineage(world, run) if c.id not in damaged]
    good = next((c for c in line if c.step <= bad - 2 and _finite(c)), None)
    origin = run.forked_from or imported(run)
    return good or next((c for c in line if c.id == origin), None)


def _finite(checkpoint: Checkpoint) -> bool:
    losses = (value for name, value in checkpoint.metrics.items() if is_loss(name))
    return all(math.isfinite(value) for value in losses)
