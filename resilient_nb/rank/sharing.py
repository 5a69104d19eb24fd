"""Who writes what of a checkpoint. Pure, and the same answer on every rank.

Each rank publishes a `View` of what it holds; from all views each decides its own share. A tensor
is *equal* if all ranks hold the same values, *sharded* if each holds a part of it, and *apart*
otherwise: then rank 0's is stored under the name and the others' under `rank-<n>/name`.

What tensors hold is compared by their marks: the digest of the bytes, and behind a blank what
they are of (`float32[3, 4]`), since zeros look alike in any shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resilient_nb.errors import CannotStore
from resilient_nb.storage.writing import shards_digest


@dataclass(frozen=True)
class View:
    """What one rank holds at a step.

    Attributes:
        tensors: mark of each tensor, or of its own part of it; without tied ones.
        sizes: of each in bytes.
        shards: the index of this rank's part, of tensors in parts.
        tied: tensors that are other ones.
        documents: sha256 of each document.
        own: marks of what it has alone, by stored names.
        base: on rank 0: by stored names the marks in the checkpoint before.
        key_id: of the key that it encrypts with, "" for none.
        error: why it can't take part: an errno (or 0) and a text.
    """

    tensors: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    shards: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)
    key_id: str = ""
    error: tuple[int, str] | None = None


@dataclass(frozen=True)
class Share:
    """What one rank does.

    Attributes:
        write: by the stored name, the tensor's name on this rank.
        digests: by the stored name, that of the whole tensor.
        reuse: stored names that this rank answers for, and that are as they were.
        apart: tensors of which this rank has another version than rank 0.
        tied: by stored names of tensors that are other ones, those of the others.
        documents: documents of which it has another version.
    """

    write: Mapping[str, str]
    digests: Mapping[str, str]
    reuse: tuple[str, ...]
    apart: tuple[str, ...]
    tied: Mapping[str, str]
    documents: tuple[str, ...]


def divide(views: Sequence[View], rank: int) -> Share:
    """Return the share of a rank, given the views of all.

    Raises:
        CannotStore: ranks contradict each other about a sharded tensor.
    """
    marks, writers = _shared(views)
    sizes = {n: views[0].sizes[n] for n in marks if n not in writers}
    base = views[0].base
    for name, owner in _even({n: s for n, s in sizes.items() if base.get(n) != marks[n]},
                             len(views)).items():  # fmt: skip
        writers[name] = (owner,)
    mine = views[rank]
    apart = [n for n in mine.tensors if n not in marks and (n not in mine.shards or mine.sizes[n])]
    if rank:
        apart = [n for n in apart if views[0].tensors.get(n) != mine.tensors[n]]
    stored = {n: f"rank-{rank}/{n}" if rank else n for n in apart}
    local = {s: n for n, s in stored.items()} | {n: n for n in mine.own}
    found = {s: mine.tensors.get(n) or mine.own[n] for s, n in local.items()}
    changed = [n for n, mark in marks.items() if base.get(n) != mark]
    write = {n: n for n in changed if rank in writers.get(n, ())}
    write |= {s: n for s, n in local.items() if base.get(s) != found[s]}
    reuse = [s for s in local if s not in write]
    if rank == 0:
        reuse += [n for n in marks if n not in changed]
    known = {**marks, **found}
    ties = {
        n: first
        for n, first in mine.tied.items()
        if first in stored or not rank or views[0].tied.get(n) != first
    }
    return Share(
        write,
        {name: known[name].partition(" ")[0] for name in write},
        tuple(reuse),
        (*apart, *ties) if rank else (),
        {f"rank-{rank}/{n}" if rank else n: stored.get(first, first) for n, first in ties.items()},
        tuple(n for n, d in mine.documents.items() if views[0].documents.get(n) != d),
    )


def _shared(views: Sequence[View]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the marks of equal and of sharded tensors, and the latter's writers."""
    marks: dict[str, str] = {}
    writers: dict[str, tuple[int, ...]] = {}
    tied = {name for view in views for name in view.tied}
    sharded = dict.fromkeys(
        # Where a part has no memory, nobody sees that it is that of another tensor.
        n
        for view in views
        for n in view.shards
        if view.sizes[n] or n not in tied
    )
    for turn, name in enumerate(sharded):
        marks[name], writers[name] = _sharded(views, name, turn)
    first, *others = views
    for name, mark in first.tensors.items():
        if name not in sharded and all(view.tensors.get(name) == mark for view in others):
            marks[name] = mark
    return marks, writers


def _sharded(views: Sequence[View], name: str, turn: int) -> tuple[str, tuple[int, ...]]:
    """Return a sharded tensor's mark, and one rank for each part.

    Where several hold a part, they take turns from one tensor to the next.
    """
    holders: dict[tuple[int, ...], list[int]] = {}
    nobody: list[int] = []
    for rank, view in enumerate(views):
        if name in view.shards:
            held = holders.setdefault(view.shards[name], []) if view.sizes[name] else nobody
            held.append(rank)
        elif name in view.tensors:
            raise CannotStore(
                f"{name} is sharded on some ranks, but not on rank {rank}. Shard it on all of "
                "them, or track it under different names."
            )
    parts: dict[tuple[int, ...], str] = {}
    kinds: set[str] = set()
    for index, ranks in holders.items():
        found = {views[rank].tensors[name] for rank in ranks}
        parts[index], _, kind = found.pop().partition(" ")
        kinds.add(kind)
        if found:
            raise CannotStore(
                f"Ranks {', '.join(map(str, ranks))} hold the same part of the sharded tensor "
                f"{name}, but with different values. Have them make the same updates, or track "
                "it under a name of each rank's own."
            )
    if not parts:
        kinds.add(views[nobody[0]].tensors[name].partition(" ")[2])
    if len(kinds) > 1:
        raise CannotStore(
            f"Ranks hold parts of different tensors under the name {name}: "
            f"{', '.join(sorted(kinds))}. Track them under different names."
        )
    writers = tuple(ranks[turn % len(ranks)] for ranks in holders.values()) or (nobody[0],)
    return f"{shards_digest(parts)} {kinds.pop()}", writers


def _even(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Give each name to a rank so that bytes are even: largest first, to the emptiest."""
    if ranks == 1:
        return dict.fromkeys(sizes, 0)
    load = [0] * ranks
    given: dict[str, int] = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], n)):
        given[name] = load.index(min(load))
        load[given[name]] += sizes[name]
    return given
