"""What differs between two checkpoints, as plain data. Pure.

In every report `a` is the first checkpoint and `b` the second. What is in `b` alone is added.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from resilient_nb.core.plain_values import ValueChange, is_same, value_changes
from resilient_nb.core.recorded import CellRecord, Recorded
from resilient_nb.core.views import CheckpointView

#: Of values that differ no more than these are in a report.
MOST_VALUES = 1000


class Kind(StrEnum):
    """What became of a tensor."""

    EQUAL = "equal"  # in value; if the digests are equal, it wasn't even read
    CHANGED = "changed"
    RETYPED = "retyped"  # the dtype differs, and the values were compared
    RESHAPED = "reshaped"  # the shape differs: there is no change to measure
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True)
class TensorChange:
    """How one tensor differs.

    Values that aren't finite (NaN, infinities) are left out of the measures, on either side.

    Attributes:
        name: of the tensor.
        kind: what became of it.
        shape_a, shape_b: None where it isn't there; so are the dtypes.
        dtype_a, dtype_b: as torch names them (of a numpy array, as numpy does).
        nbytes_a, nbytes_b: of the values.
        differing: elements whose values differ. NaN is equal to NaN.
        norm: L2 norm of the change; None if it can't be measured.
        max_abs: its largest absolute value.
        relative: `norm` by the norm of `a`; None if that is 0 (or there is no norm).
        nan_a, nan_b: elements that are NaN.
        undefined: differing elements that were left out of the measures.
    """

    name: str
    kind: Kind
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    dtype_a: str | None
    dtype_b: str | None
    nbytes_a: int = 0
    nbytes_b: int = 0
    differing: int = 0
    norm: float | None = None
    max_abs: float | None = None
    relative: float | None = None
    nan_a: int = 0
    nan_b: int = 0
    undefined: int = 0

    @property
    def part(self) -> str:
        """The tracked object that it belongs to."""
        return self.name.partition("/")[0]

    @property
    def counts(self) -> bool:
        """Whether it is a single number or whole numbers: their change is no part of a norm."""
        shape, dtype = self.shape_a or self.shape_b, self.dtype_a or self.dtype_b or ""
        return not shape or dtype.startswith(("int", "uint", "bool"))

    @property
    def weight(self) -> float:
        """What the largest changes are first by."""
        if self.norm is None:
            return math.inf if self.kind is not Kind.EQUAL else 0.0
        return self.relative if self.relative is not None else (math.inf if self.norm else 0.0)


@dataclass(frozen=True)
class PartChange:
    """A tracked object: how many of its tensors became what.

    The change is that of all tensors that changed as if they were one, without counters (whole
    or single numbers) unless there is nothing else; `relative` is to what those were before.
    """

    name: str
    tensors: int
    equal: int
    changed: int
    added: int
    removed: int
    nbytes_a: int
    nbytes_b: int
    norm: float
    max_abs: float
    relative: float | None


@dataclass(frozen=True)
class MetricChange:
    """A metric that differs; None where there is none."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True)
class CodeChange:
    """How the cells differ: a unified diff, without line ends, and by file the helpers' sha256.

    `equal` is None if one of the checkpoints doesn't record its cell.
    """

    equal: bool | None
    diff: tuple[str, ...] = ()
    helpers: tuple[ValueChange, ...] = ()


@dataclass(frozen=True)
class DiffReport:
    """What `%resilient diff A B` shows.

    Attributes:
        a, b: the checkpoints.
        only: the tracked object that was compared; None for all.
        equal: whether all state that was compared is equal.
        read: bytes of tensors that were read; those with equal digests weren't.
        parts: tracked objects. `rank-N` is what only that rank has, such as random numbers.
        tensors: all tensors of these, in the order of their names.
        state: other state that differs, by path: hyperparameters, counters, plain values.
        hidden: how many more values differ than are in `state`.
        metrics, code, config, data, versions, environment, numerics: what differs of these.
        notes: what couldn't be compared, and why.
    """

    a: CheckpointView
    b: CheckpointView
    only: str | None
    equal: bool
    read: int
    parts: tuple[PartChange, ...]
    tensors: tuple[TensorChange, ...]
    state: tuple[ValueChange, ...]
    hidden: int
    metrics: tuple[MetricChange, ...]
    code: CodeChange
    config: tuple[ValueChange, ...]
    data: tuple[ValueChange, ...]
    versions: tuple[ValueChange, ...]
    environment: tuple[ValueChange, ...]
    numerics: tuple[ValueChange, ...]
    notes: tuple[str, ...] = ()


def part_changes(tensors: Iterable[tuple[TensorChange, float]]) -> tuple[PartChange, ...]:
    """Return the tracked objects that tensors belong to, in the order of the tensors.

    Args:
        tensors: each with the norm of what it was in `a`, as far as it was measured.
    """
    parts: dict[str, list[tuple[TensorChange, float]]] = {}
    for change, before in tensors:
        parts.setdefault(change.part, []).append((change, before))
    return tuple(_part(name, changes) for name, changes in parts.items())


def _part(name: str, changes: Sequence[tuple[TensorChange, float]]) -> PartChange:
    kinds = Counter(change.kind for change, _ in changes)
    measured = [(c, before) for c, before in changes if c.norm is not None and c.differing]
    measured = [(c, before) for c, before in measured if not c.counts] or measured
    norm = math.hypot(*(c.norm or 0.0 for c, _ in measured))
    return PartChange(
        name=name,
        tensors=len(changes),
        equal=kinds[Kind.EQUAL],
        changed=kinds[Kind.CHANGED] + kinds[Kind.RETYPED] + kinds[Kind.RESHAPED],
        added=kinds[Kind.ADDED],
        removed=kinds[Kind.REMOVED],
        nbytes_a=sum(c.nbytes_a for c, _ in changes),
        nbytes_b=sum(c.nbytes_b for c, _ in changes),
        norm=norm,
        max_abs=max((c.max_abs or 0.0 for c, _ in measured), default=0.0),
        relative=ratio(norm, math.hypot(*(before for _, before in measured))),
    )


def ratio(change: float, before: float) -> float | None:
    """Return a change relative to what was before; None if that was nothing."""
    if before > 0:
        return change / before
    return None if change else 0.0


def metric_changes(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[MetricChange, ...]:
    """Return the metrics that differ, those of `a` first."""
    return tuple(
        MetricChange(name, a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if not is_same(a.get(name), b.get(name))
    )


def code_change(a: Recorded, b: Recorded, names: tuple[str, str]) -> CodeChange:
    """Return how the cells differ; `names` are what the diff calls them."""
    if a.cell is None or b.cell is None:
        return CodeChange(None)
    helpers = _helper_changes(a.cell, b.cell)
    if a.cell.sha256 == b.cell.sha256:
        return CodeChange(not helpers, (), helpers)
    if a.cell.source is None or b.cell.source is None:
        return CodeChange(False, (), helpers)
    lines = difflib.unified_diff(
        a.cell.source.splitlines(), b.cell.source.splitlines(), *names, lineterm=""
    )
    return CodeChange(False, tuple(lines), helpers)


def _helper_changes(a: CellRecord, b: CellRecord) -> tuple[ValueChange, ...]:
    """Helpers with one text are equal, whatever the notebook called their cells."""
    ours = {name: text for name, text in a.helpers.items() if text not in b.helpers.values()}
    theirs = {name: text for name, text in b.helpers.items() if text not in a.helpers.values()}
    return tuple(
        ValueChange(name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys([*ours, *theirs])
    )


def recorded_changes(a: Recorded, b: Recorded, what: str) -> tuple[ValueChange, ...]:
    """Return how one field of what is recorded differs; nothing if either has none."""
    ours, theirs = _plain(getattr(a, what)), _plain(getattr(b, what))
    if not ours or not theirs:
        return ()
    return tuple(islice(value_changes(ours, theirs), MOST_VALUES))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [asdict(item) for item in value]
    return value if value is None or isinstance(value, Mapping) else asdict(value)
