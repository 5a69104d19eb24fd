"""Where second copies of a run's checkpoints are."""

from __future__ import annotations

from resilient_nb.core.model import Run
from resilient_nb.core.places import Places
from resilient_nb.core.world import World


def wanted_in(world: World, run: str, always: Places) -> Places:
    """Return the places where copies of a run's checkpoints are to be, each once.

    Args:
        world: what the journal says.
        run: its name.
        always: where copies of all runs are kept; its jobs may have asked for others.
    """
    found = dict.fromkeys(always)
    for job in world.runs[run].jobs:
        found.update(dict.fromkeys(world.jobs[job].spec.replicas))
    return tuple(found)


def replicas_of(world: World, run: str, always: Places) -> Places:
    """Return the places that may have what a run's checkpoints need, each once.

    Those of runs that it was forked from are among them: it may refer to arrays of theirs.
    """
    found: dict[str, None] = {}
    known: Run | None = world.runs[run]
    while known is not None:
        found.update(dict.fromkeys(wanted_in(world, known.name, always)))
        known = world.runs[known.forked_from.partition("/")[0]] if known.forked_from else None
    return tuple(found)


def copies_by_place(world: World, always: Places) -> dict[str, list[str]]:
    """Return by place the ids of the checkpoints that are to be there, the newest first."""
    found: dict[str, list[tuple[float, str]]] = {}
    for run in world.runs.values():
        for place in wanted_in(world, run.name, always):
            rows = found.setdefault(place, [])
            rows += [(c.at, c.id) for c in run.checkpoints.values()]
    return {place: [i for _, i in sorted(rows, reverse=True)] for place, rows in found.items()}
