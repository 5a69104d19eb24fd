"""Which runs point at whose checkpoints, and what becomes of lineages when some are dropped.

Runs point at checkpoints of others by forking them, and then by their heads, tags and parents.
Each run knows who has (`Run.offshoots`), so that nothing here looks at all runs.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from resilient_nb.core.model import Checkpoint, Run
from resilient_nb.core.world import World


def pointed(world: World, by: str, identity: str | None) -> World:
    """Return the world that knows that run `by` points at a checkpoint, maybe of another run."""
    name = (identity or by).partition("/")[0]
    if name == by or by in world.runs[name].offshoots:
        return world
    run = world.runs[name]
    run = replace(run, offshoots=run.offshoots | {by})
    return replace(world, runs={**world.runs, name: run})


def pointing(world: World, run: Run) -> list[Run]:
    """Return the run and all others that may point at its checkpoints."""
    return [run, *(world.runs[name] for name in sorted(run.offshoots))]


def targets(run: Run) -> dict[str, list[str]]:
    """Return the checkpoints that a run can't be without, each with what it is to the run."""
    found: dict[str, list[str]] = {}
    if run.head is not None:
        found.setdefault(run.head, []).append("head")
    if run.forked_from is not None:
        found.setdefault(run.forked_from, []).append("origin")
    if (began := imported(run)) is not None:
        found.setdefault(began, []).append("import")
    for tag, identity in sorted(run.tags.items()):
        found.setdefault(identity, []).append(f"tag {tag}")
    return found


def imported(run: Run) -> str | None:
    """Return the checkpoint that a run began with, if it was imported: no job has written it."""
    first = next(iter(run.checkpoints.values()), None)
    return first.id if first is not None and not first.job else None


def without(world: World, run: Run, gone: Set[str]) -> World:
    """Return the world without some checkpoints of a run.

    Their children follow the nearest ancestor that is left.
    """
    changed = {}
    for other in pointing(world, run):
        if other is run or any(c.parent in gone for c in other.checkpoints.values()):
            left = {
                identity: replace(c, parent=_heir(run, c, gone)) if c.parent in gone else c
                for identity, c in other.checkpoints.items()
                if identity not in gone
            }
            changed[other.name] = replace(other, checkpoints=left)
    return replace(world, runs={**world.runs, **changed})


def _heir(run: Run, of: Checkpoint, gone: Set[str]) -> str | None:
    at = of.parent
    while at is not None and at in gone:
        at = run.checkpoints[at].parent
    return at
