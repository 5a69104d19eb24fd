"""`diff`: what differs between two checkpoints, the largest changes first. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resilient_nb import checkpoints
from resilient_nb.core.differences import (
    DiffReport,
    Kind,
    MetricChange,
    PartChange,
    TensorChange,
)
from resilient_nb.core.plain_values import ValueChange
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Note, Table, to_html, to_text
from resilient_nb.notebook.code_blocks import Changes
from resilient_nb.notebook.words import Moment

#: How many tensors are shown unless it is said, and how many other values.
TENSORS, _MOST_VALUES = 20, 30

#: In which order it is shown what else differs of what is recorded.
_RECORDED = ("config", "data", "versions", "numerics", "environment")


def diff(a: str, b: str, only: str | None = None) -> Difference:
    """Compare two checkpoints: `diff("digits@20", "digits@best")`.

    Tensors that are equal aren't read. Shown are those with the largest relative change; what is
    returned has all of them in `tensors`.

    Args:
        a: `run` (its head), `run@step` or `run@tag`.
        b: another one, of the same or of another run.
        only: compare just this tracked object.

    Raises:
        UnknownName: there is no such checkpoint, or neither has `only`.
        CorruptCheckpoint: a tensor that had to be read is damaged.
    """
    return Difference(**vars(checkpoints.diff(a, b, only)))


@dataclass(frozen=True, repr=False)
class Difference(DiffReport):
    """What differs, shown as `%resilient diff` does."""

    def __repr__(self) -> str:
        return diff_text(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": diff_text(self), "text/html": diff_html(self)}


def diff_html(report: DiffReport, tensors: int = TENSORS, *, moment: Moment | None = None) -> str:
    """Return what differs as tables and a diff of the cells, with so many tensors."""
    return to_html(_report(report, tensors, moment or Moment()))


def diff_text(report: DiffReport, tensors: int = TENSORS, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_report(report, tensors, moment or Moment()))


def _report(report: DiffReport, most: int, moment: Moment) -> list[Block]:
    blocks: list[Block] = [_head(report, moment)]
    blocks += [Note("", text, "wait") for text in report.notes]
    if report.parts:
        blocks.append(_parts(report.parts))
    blocks += _tensors(report, most)
    sides = _sides(report)
    blocks += _values("Other state", report.state, sides, report.hidden)
    if report.only is not None:
        return blocks
    if report.metrics:
        blocks.append(_metrics(report.metrics, sides))
    if report.code.diff:
        blocks.append(Changes("Cell", report.code.diff))
    elif report.code.equal is False and not report.code.helpers:
        blocks.append(Note("The cells differ.", "They are too long to be kept.", "wait"))
    blocks += _values("Captured functions' files, by sha256", report.code.helpers, sides)
    recorded = [
        ValueChange(f"{what}{'' if c.path.startswith('[') else '.'}{c.path}", c.a, c.b)
        for what in _RECORDED
        for c in getattr(report, what)
    ]
    return [*blocks, *_values("Config, data and machine", recorded, sides)]


def _sides(report: DiffReport) -> tuple[str, str]:
    """Return what the columns are called: two attempts may have made the same step."""
    a, b = report.a, report.b
    named = (a.id, b.id) if a.ref == b.ref and a.id != b.id else (a.ref, b.ref)
    return words.one_line(named[0]), words.one_line(named[1])


def _head(report: DiffReport, moment: Moment) -> Head:
    a, b = _sides(report)
    differing = sum(t.kind is not Kind.EQUAL for t in report.tensors)
    of = f"{differing:,} of {words.count(len(report.tensors), 'tensor')} differ"
    if report.equal:
        state = "equal state"
    else:
        state = of if differing else "equal tensors, other state differs"
    saved = f"saved {moment.clock(report.a.at)} and {moment.clock(report.b.at)}"
    read = f"{words.size(report.read)} of tensors read" if report.read else ""
    only = f"only {report.only}" if report.only else ""
    return Head(f"{a} → {b}", facts=(only, state), details=(saved, read))


def _parts(parts: Sequence[PartChange]) -> Table:
    heads = (
        Column("part"), *(Column(name, "right") for name in (
            "tensors", "equal", "changed", "added", "removed", "size", "‖Δ‖", "max |Δ|", "relative",
        )),
    )  # fmt: skip
    rows = []
    for p in parts:
        grown = f"{words.size(p.nbytes_a)} → {words.size(p.nbytes_b)}"
        size = words.size(p.nbytes_a) if p.nbytes_a == p.nbytes_b else grown
        counts = (p.tensors, p.equal, p.changed, p.added, p.removed)
        measures = ("", "", "")
        if p.changed:
            measures = words.number(p.norm), words.number(p.max_abs), _percent(p.relative, p.norm)
        rows.append((p.name, *(f"{n:,}" if n else "" for n in counts), size, *measures))
    more = (
        "‖Δ‖: L2 norm of the change, without counters; relative: to that of what was there before. "
        "rank-N: what only that rank has, such as random numbers."
    )
    return Table("Tracked objects", heads, tuple(rows), more)


def _tensors(report: DiffReport, most: int) -> list[Block]:
    differing = [t for t in report.tensors if t.kind is not Kind.EQUAL]
    if report.only is None:
        differing = [t for t in differing if not t.part.startswith("rank-")]
    if not differing or not most:
        return []
    heads = (
        Column("tensor", "tree"), Column("shape", "mono"), Column("‖Δ‖", "right"),
        Column("max |Δ|", "right"), Column("relative", "right"), Column("what"),
    )  # fmt: skip
    ordered = sorted(differing, key=lambda t: (t.counts, -t.weight, t.name))
    rows = tuple(_tensor(t) for t in ordered[:most])
    hidden = len(differing) - len(rows)
    more = f"… {words.count(hidden, 'more tensor')}: --tensors N shows N." if hidden else ""
    title = "Tensors, the largest relative change first, counters last"
    return [Table(title, heads, rows, more)]


def _tensor(t: TensorChange) -> tuple[str, ...]:
    measures = ("", "", "")
    if t.norm is not None and t.max_abs is not None:
        measures = words.number(t.norm), words.number(t.max_abs), _percent(t.relative, t.norm)
    return (words.one_line(t.name), _shape(t), *measures, _what(t))


def _shape(t: TensorChange) -> str:
    a, b = _said(t.shape_a), _said(t.shape_b)
    if not a or not b or (a, t.dtype_a) == (b, t.dtype_b):
        return f"{t.dtype_a or t.dtype_b}{a or b}"
    if a == b:
        return f"{t.dtype_a} → {t.dtype_b}{a}"
    return f"{t.dtype_a}{a} → {'' if t.dtype_a == t.dtype_b else t.dtype_b}{b}"


def _said(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else f"[{', '.join(map(str, shape))}]"


def _what(t: TensorChange) -> str:
    said = [] if t.kind is Kind.CHANGED else [t.kind.value]
    elements = math.prod(t.shape_a or ())
    if t.kind in (Kind.CHANGED, Kind.RETYPED) and t.differing < elements:
        said.append(f"{t.differing:,} of {elements:,}" if t.differing else "the same values")
    if t.nan_a or t.nan_b:
        grown = f" → {t.nan_b:,}" if t.nan_a != t.nan_b else ""
        said.append(f"NaN: {t.nan_a:,}{grown}")
    if t.undefined:
        said.append(f"{t.undefined:,} not finite, left out")
    return ", ".join(said)


def _percent(relative: float | None, norm: float) -> str:
    if relative is None:
        return "from 0" if norm else ""
    percent = 100 * relative
    return f"{percent:.3g} %" if percent < 1000 else f"{relative:.3g}×"


def _metrics(metrics: Iterable[MetricChange], sides: tuple[str, str]) -> Table:
    heads = (
        Column("metric"), Column(sides[0], "right"), Column(sides[1], "right"),
        Column("change", "right"),
    )  # fmt: skip
    rows = []
    for m in metrics:
        change = f"{m.b - m.a:+.4g}" if m.a is not None and m.b is not None else ""
        rows.append((m.name, *("" if v is None else words.number(v) for v in (m.a, m.b)), change))
    return Table("Metrics", heads, tuple(rows))


def _values(
    title: str, changes: Sequence[ValueChange], sides: tuple[str, str], uncounted: int = 0
) -> list[Block]:
    if not changes:
        return []
    heads = Column(""), Column(sides[0]), Column(sides[1])
    rows = tuple(
        (c.path, c.a if c.a is not None else "–", c.b if c.b is not None else "–")
        for c in changes[:_MOST_VALUES]
    )
    hidden = len(changes) - len(rows) + uncounted
    more = f"… {words.count(hidden, 'more value')} differ; --json has more." if hidden else ""
    return [Table(title, heads, rows, more)]
