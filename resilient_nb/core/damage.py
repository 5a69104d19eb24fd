"""Which checkpoints are known to be damaged, and which one is the newest that isn't."""

from __future__ import annotations

from collections.abc import Set

from resilient_nb.core.lookup import lineage
from resilient_nb.core.model import Checkpoint, Run
from resilient_nb.core.recovery import DAMAGED
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
