"""The order in which checkpoints are drawn as a tree of rollbacks and forks. Pure.

The line that leads to a run's head goes straight down. What a rollback left behind is indented
below the checkpoint at which it left, and so is what was forked there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resilient_nb.core.views import CheckpointView, RunView


@dataclass(frozen=True)
class Fork:
    """A run that begins at a checkpoint, and whose own checkpoints aren't drawn."""

    run: str


Entry = CheckpointView | Fork


def lineage(checkpoints: Sequence[CheckpointView]) -> list[tuple[str, CheckpointView]]:
    """Return the checkpoints in the order of a tree, each with its indentation.

    A checkpoint whose parent isn't among them begins a line. Where a checkpoint has several
    children, those that don't lead to the head are indented below it, and the line to the
    head (or, if the head is elsewhere, the newest) goes straight on. Children of another run
    are always indented.
    """
    return [(indent, c) for indent, c in tree(checkpoints, {}) if isinstance(c, CheckpointView)]


def tree(
    checkpoints: Sequence[CheckpointView], forks: Mapping[str, str]
) -> list[tuple[str, Entry]]:
    """Return the same with runs that begin at these checkpoints, by where they do."""
    ids = {c.id for c in checkpoints}
    children: dict[str | None, list[CheckpointView]] = {}
    for c in sorted(checkpoints, key=lambda c: c.at):
        children.setdefault(c.parent if c.parent in ids else None, []).append(c)
    main = _paths_to_heads(checkpoints)
    drawn: list[tuple[str, Entry]] = []
    roots = sorted(children.get(None, []), key=lambda c: (c.id in main, c.at))
    # A stack and not recursion: a lineage is as deep as the run is long.
    waiting: list[tuple[str, str, Entry]] = [("", "", c) for c in reversed(roots)]
    while waiting:
        lead, below, entry = waiting.pop()
        drawn.append((lead, entry))
        if isinstance(entry, Fork):
            continue
        sides, straight = _following(entry, children.get(entry.id, []), main)
        sides = [*(Fork(name) for name, at in forks.items() if at == entry.id), *sides]
        waiting += [(below, below, c) for c in straight]
        waiting += [(f"{below}├─ ", f"{below}│  ", side) for side in reversed(sides)]
    return drawn


def families(views: Sequence[RunView]) -> list[list[RunView]]:
    """Return runs with those that were forked from them, directly or not, in the order given.

    Each family begins with the run that wasn't forked, as far as that one is known.
    """
    runs = {view.name: view for view in views}
    found: dict[str, list[RunView]] = {}
    for view in views:
        at, seen = view, {view.name}
        while at.forked_from is not None:
            origin = runs.get(at.forked_from.partition("/")[0])
            if origin is None or origin.name in seen:
                break
            at = origin
            seen.add(at.name)
        found.setdefault(at.name, []).append(view)
    return [sorted(family, key=lambda v: v.name != first) for first, family in found.items()]


def _following(
    parent: CheckpointView, siblings: Sequence[CheckpointView], main: set[str]
) -> tuple[list[Entry], list[CheckpointView]]:
    """Divide a checkpoint's children into those beside it and the one that goes straight on."""
    ordered = sorted(siblings, key=lambda c: (c.run == parent.run, c.id in main, c.at))
    cut = len(ordered) - 1 if ordered and ordered[-1].run == parent.run else len(ordered)
    return list(ordered[:cut]), ordered[cut:]


def _paths_to_heads(checkpoints: Sequence[CheckpointView]) -> set[str]:
    """Return what leads to each run's head, as far as it is the run's own."""
    by_id = {c.id: c for c in checkpoints}
    path: set[str] = set()
    for head in (c for c in checkpoints if c.is_head):
        at: CheckpointView | None = head
        while at is not None and at.id not in path and at.run == head.run:
            path.add(at.id)
            at = by_id.get(at.parent or "")
    return path
