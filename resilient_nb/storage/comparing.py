"""Comparing two checkpoints: only what differs by its digest is read, and never all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from resilient_nb.core.differences import (
    MOST_VALUES,
    DiffReport,
    Kind,
    TensorChange,
    code_change,
    metric_changes,
    part_changes,
    ratio,
    recorded_changes,
)
from resilient_nb.core.plain_values import value_changes
from resilient_nb.core.recorded import Recorded
from resilient_nb.core.views import CheckpointView
from resilient_nb.errors import UnknownName
from resilient_nb.storage.describing import dtype_of, recorded
from resilient_nb.storage.manifest import TensorRecord
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.tree import Json, TensorLeaf, tensor_names, unflatten
from resilient_nb.storage.values import Change, change

#: Small tensors are read together, up to so many bytes of each checkpoint; and so many batches
#: of these, or chunks of larger ones, are in memory at once.
_BATCH, _THREADS = 64 << 20, 2

#: What can be compared of what checkpoints record.
_RECORDED = ("config", "data", "versions", "environment", "numerics")


@dataclass(frozen=True)
class Side:
    """One of the two: as it is shown, and open for reading."""

    view: CheckpointView
    checkpoint: Checkpoint


def compare(a: Side, b: Side, only: str | None = None) -> DiffReport:
    """Return what differs between two checkpoints.

    Args:
        a: the first.
        b: the second.
        only: compare just this tracked object's state (and what is recorded).

    Raises:
        UnknownName: neither has `only`.
        CorruptCheckpoint: a tensor that had to be read is damaged.
    """
    states = _state(a.checkpoint), _state(b.checkpoint)
    _check_known(only, a, b, states)
    tensors, read = _tensors(a.checkpoint, b.checkpoint, only)
    differing = value_changes(_part(states[0], only), _part(states[1], only), opaque=_is_tensor)
    state = tuple(islice(differing, MOST_VALUES))
    hidden = sum(1 for _ in differing)
    ours, theirs = recorded(a.checkpoint.manifest), recorded(b.checkpoint.manifest)
    names = a.view.ref, b.view.ref
    return DiffReport(
        a=a.view,
        b=b.view,
        only=only,
        equal=not state and all(t.kind is Kind.EQUAL for t, _ in tensors),
        read=read,
        parts=part_changes(tensors),
        tensors=tuple(t for t, _ in tensors),
        state=state,
        hidden=hidden,
        metrics=metric_changes(a.checkpoint.manifest.metrics, b.checkpoint.manifest.metrics),
        code=code_change(ours, theirs, names),
        **{what: recorded_changes(ours, theirs, what) for what in _RECORDED},
        notes=tuple(_unrecorded((ours, theirs), names)),
    )


def _unrecorded(found: tuple[Recorded, Recorded], names: tuple[str, str]) -> Iterator[str]:
    for record, name in zip(found, names, strict=True):
        missing = [what for what in ("cell", *_RECORDED) if not getattr(record, what)]
        if missing:
            yield f"{name} doesn't record its {', '.join(missing)}: these aren't compared."


# --- tensors ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two tensors of one shape whose digests differ."""

    a: TensorRecord
    b: TensorRecord

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for pairs that differ in the same way: tied tensors."""
        return self.a.digest, self.b.digest, dtype_of(self.a), dtype_of(self.b)

    @property
    def packed(self) -> bool:
        return self.a.offset is not None and self.b.offset is not None

    @property
    def nbytes(self) -> int:
        return max(self.a.nbytes, self.b.nbytes)


def _tensors(
    a: Checkpoint, b: Checkpoint, only: str | None
) -> tuple[list[tuple[TensorChange, float]], int]:
    """Return how each tensor differs and what its norm was, and how many bytes were read."""
    ours = {t.name: t for t in a.manifest.tensors if only in (None, t.name.partition("/")[0])}
    theirs = {t.name: t for t in b.manifest.tensors if only in (None, t.name.partition("/")[0])}
    pairs = {
        name: _Pair(ours[name], theirs[name])
        for name in ours
        if name in theirs and _measurable(ours[name], theirs[name])
    }
    wanted = {pair.key: pair for pair in pairs.values()}
    found = _measure(a, b, list(wanted.values()))
    changes = []
    for name in sorted({*ours, *theirs}):
        pair = pairs.get(name)
        measured = found[pair.key] if pair is not None else None
        changes.append(_change(name, ours.get(name), theirs.get(name), measured))
    return changes, sum(pair.a.nbytes + pair.b.nbytes for pair in wanted.values())


def _measurable(a: TensorRecord, b: TensorRecord) -> bool:
    if a.shape != b.shape:
        return False
    return a.digest != b.digest or dtype_of(a) != dtype_of(b)


def _change(
    name: str, a: TensorRecord | None, b: TensorRecord | None, measured: Change | None
) -> tuple[TensorChange, float]:
    plain = TensorChange(
        name=name,
        kind=_kind(a, b, measured),
        shape_a=a.shape if a else None,
        shape_b=b.shape if b else None,
        dtype_a=dtype_of(a) if a else None,
        dtype_b=dtype_of(b) if b else None,
        nbytes_a=a.nbytes if a else 0,
        nbytes_b=b.nbytes if b else 0,
    )
    if measured is None:
        nothing = 0.0 if plain.kind is Kind.EQUAL else None
        return replace(plain, norm=nothing, max_abs=nothing, relative=nothing), 0.0
    m = measured
    return replace(
        plain, differing=m.differing, norm=m.norm, max_abs=m.max_abs,
        relative=ratio(m.norm, m.before), nan_a=m.nan_a, nan_b=m.nan_b, undefined=m.undefined,
    ), m.before  # fmt: skip


def _kind(a: TensorRecord | None, b: TensorRecord | None, measured: Change | None) -> Kind:
    if a is None or b is None:
        return Kind.ADDED if a is None else Kind.REMOVED
    if a.shape != b.shape:
        return Kind.RESHAPED
    if dtype_of(a) != dtype_of(b):
        return Kind.RETYPED
    # Equal values may have several digests: ranks hold other parts of them, or -0.0 became 0.0.
    return Kind.CHANGED if measured is not None and measured.differing else Kind.EQUAL


def _measure(a: Checkpoint, b: Checkpoint, pairs: list[_Pair]) -> dict[tuple[str, ...], Change]:
    jobs: list[Callable[[], list[tuple[_Pair, Change]]]] = []
    small = [pair for pair in pairs if pair.packed]
    jobs += [partial(_measure_small, a, b, batch) for batch in _batches(small)]
    jobs += [partial(_measure_large, a, b, pair) for pair in pairs if not pair.packed]
    with ThreadPoolExecutor(_THREADS, "checkpoint-diff") as pool:
        done = pool.map(lambda job: job(), jobs)
        return {pair.key: change for found in done for pair, change in found}


def _batches(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    batch: list[_Pair] = []
    size = 0
    # Neighbours in a pack are read at once, and an encoded pack is decoded as seldom as can be.
    for pair in sorted(pairs, key=lambda p: (p.a.at, p.a.key, p.a.offset)):
        if batch and size + pair.nbytes > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(pair)
        size += pair.nbytes
    if batch:
        yield batch


def _measure_small(a: Checkpoint, b: Checkpoint, pairs: list[_Pair]) -> list[tuple[_Pair, Change]]:
    ours = a.read_many([pair.a.name for pair in pairs], threads=1)
    theirs = b.read_many([pair.b.name for pair in pairs], threads=1)
    return [(p, _between(p, ours[p.a.name], theirs[p.b.name])) for p in pairs]


def _measure_large(a: Checkpoint, b: Checkpoint, pair: _Pair) -> list[tuple[_Pair, Change]]:
    """Compare block by block; each chunk of either is read once if their grids agree."""
    total = Change()
    shape = pair.a.shape
    block = [max(1, *sizes) for sizes in zip(_block(pair.a), _block(pair.b), strict=True)]
    ranges = [range(0, n, step) for n, step in zip(shape, block, strict=True)]
    for start in product(*ranges):
        size = tuple(min(k, n - s) for k, n, s in zip(block, shape, start, strict=True))
        ours = a.read_region(pair.a.name, start, size)
        theirs = b.read_region(pair.b.name, start, size)
        total.add(_between(pair, ours, theirs))
    return [(pair, total)]


def _block(record: TensorRecord) -> tuple[int, ...]:
    return record.chunk if record.offset is None else record.shape


def _between(pair: _Pair, a: TensorLeaf, b: TensorLeaf) -> Change:
    return change(a.array, b.array, dtype_of(pair.a), dtype_of(pair.b))


# --- other state ------------------------------------------------------------------------


def _state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what isn't tensors: of tracked objects, and plain values of rank 0's cell."""
    there = {document.name for document in checkpoint.manifest.documents}
    shared: Any = checkpoint.document("shared") if "shared" in there else {}
    state = {name: _without_tensors(document) for name, document in shared.items()}
    own: Any = checkpoint.document("rank-0") if "rank-0" in there else {}
    plain: Any = _without_tensors(own.get("state")) or {}
    return {**state, **plain.get("plain", {})}


def _without_tensors(document: Json) -> object:
    nothing = np.empty(0)
    leaves = {name: TensorLeaf(nothing, "a tensor") for name in tensor_names(document)}
    return unflatten(document, leaves)


def _is_tensor(value: object) -> bool:
    return isinstance(value, TensorLeaf)


def _part(state: dict[str, Any], only: str | None) -> dict[str, Any]:
    return {name: value for name, value in state.items() if only in (None, name)}


def _check_known(
    only: str | None, a: Side, b: Side, states: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    tensors = [t.name for side in (a, b) for t in side.checkpoint.manifest.tensors]
    known = dict.fromkeys([*states[0], *states[1], *(name.partition("/")[0] for name in tensors)])
    if only is not None and only not in known:
        raise UnknownName(
            f"Neither {a.view.ref} nor {b.view.ref} has {only!r}; they have: {', '.join(known)}."
        )
