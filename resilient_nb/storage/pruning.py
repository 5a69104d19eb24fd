"""Removing from a copy of a store what the journal has dropped."""

from __future__ import annotations

from collections.abc import Callable

from resilient_nb.core.world import World
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.sweep import References, Sweeper, Swept, references, standing


def prune(
    runs: ObjectStore,
    world: World,
    known: References = references,
    stopped: Callable[[], bool] = lambda: False,
) -> Swept:
    """Delete what no checkpoint of the world needs; return what that freed.

    What may be newer than the world stays: others may copy to the same place.

    Args:
        runs: the copy, a store of runs.
        world: what the journal says; runs that it doesn't know are left alone.
        known: says what a checkpoint refers to.
        stopped: asked now and then whether to leave the rest for another time.

    Raises: as `Sweeper.sweep` does.
    """
    return Sweeper(runs, known).sweep(standing(world), None, stopped)
