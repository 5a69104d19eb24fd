"""`checkpoints`: the trees of all runs, and what one checkpoint records. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resilient_nb.core.recorded import NO_LOOP, CheckpointReport, DataRecord, LoopRecord, Recorded
from resilient_nb.core.views import RunView
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Items, Note, Table, to_html, to_text
from resilient_nb.notebook.code_blocks import Code
from resilient_nb.notebook.lineage import families
from resilient_nb.notebook.reports import checkpoint_table, run_head
from resilient_nb.notebook.words import Moment

#: Of more parts or holders the rest is only counted; `--json` has all.
_MOST_ROWS = 50


def runs_html(views: Sequence[RunView], *, moment: Moment | None = None) -> str:
    """Return the checkpoints of all runs, forks below what they were forked from."""
    return to_html(_runs(views, moment or Moment()))


def runs_text(views: Sequence[RunView], *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_runs(views, moment or Moment()))


def checkpoint_html(report: CheckpointReport, *, moment: Moment | None = None) -> str:
    """Return what a checkpoint records: tensors, cell, config, data, versions."""
    return to_html(_checkpoint(report, moment or Moment()))


def checkpoint_text(report: CheckpointReport, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_checkpoint(report, moment or Moment()))


def _runs(views: Sequence[RunView], moment: Moment) -> list[Block]:
    if not views:
        return [Note("No runs.", "Begin a cell with %%resilient NAME to make one.", "off")]
    blocks: list[Block] = []
    for family in families(views):
        blocks += [block for view in family for block in run_head(view, moment)]
        checkpoints = [c for view in family for c in view.checkpoints]
        bare = {v.name: v.forked_from for v in family if v.forked_from and not v.checkpoints}
        if checkpoints:
            blocks.append(checkpoint_table(checkpoints, bare, moment))
    return blocks


def _checkpoint(report: CheckpointReport, moment: Moment) -> list[Block]:
    view, record = report.checkpoint, report.recorded
    parent = f"after {words.reference(view.parent)}" if view.parent else "begins a line"
    facts = ("head" if view.is_head else "", ", ".join(view.tags), words.size(view.nbytes), parent)
    details = (
        _made(report, moment), f"epoch {report.epoch}",
        words.count(report.world_size, "rank"), f"digest {words.short_digest(view.digest)}",
    )  # fmt: skip
    blocks: list[Block] = [Head(view.ref, facts=facts, details=details)]
    if view.metrics:
        said = ", ".join(f"{name} {words.number(v)}" for name, v in view.metrics.items())
        blocks.append(Items("Metrics", (said,)))
    blocks += [_parts(report), _holders(report), Items("Stored at", (view.path,))]
    if record == Recorded(numerics=record.numerics):
        text = "It was written by a version that didn't record cell, config, data and versions."
        blocks.append(Note("Where it comes from isn't known.", text, "off"))
    return [*blocks, *_origin(record)]


def _made(report: CheckpointReport, moment: Moment) -> str:
    """Return when it came to be, and how."""
    view, file = report.checkpoint, words.one_line(report.recorded.imported)
    if view.job:
        return f"saved {moment.clock(view.at)} by {view.job}"
    return f"imported {moment.clock(view.at)}" + (f" from {file}" if file else "")


def _parts(report: CheckpointReport) -> Table:
    heads = (
        Column("part"), Column("tensors", "right"), Column("size", "right"), Column("dtypes"),
    )  # fmt: skip
    rows = tuple(
        (p.name, f"{p.tensors:,}", words.size(p.nbytes),
         ", ".join(f"{n:,} {dtype}" for dtype, n in p.dtypes.items()))
        for p in report.parts[:_MOST_ROWS]
    )  # fmt: skip
    title = f"{words.count(report.tensors, 'tensor')}"
    return Table(title, heads, rows, _more(len(report.parts), "part"))


def _holders(report: CheckpointReport) -> Table:
    own = (
        f"{words.one_line(report.checkpoint.ref)} itself",
        f"{report.own_tensors:,}",
        words.size(report.checkpoint.changed),
    )
    rows = [
        (words.one_line(h.ref), f"{h.tensors:,}", words.size(h.nbytes))
        for h in report.holders[:_MOST_ROWS]
    ]
    heads = Column("checkpoint"), Column("tensors", "right"), Column("size", "right")
    return Table("Written by", heads, (own, *rows), _more(len(report.holders), "checkpoint"))


def _origin(record: Recorded) -> list[Block]:
    blocks: list[Block] = []
    if (config := record.config) is not None:
        said = {
            "workers": f"{config.workers} ({words.count(config.world_size, 'rank')})",
            "seed": str(config.seed),
            "checkpoints": config.interval,
            "scaling": config.scaling,
            "compression": config.compress or "none",
            "out": ", ".join(config.out),
            **{f"loop {loop.loop}": _loop(loop) for loop in config.loops},
        }
        blocks.append(_pairs("Config", said))
    if record.data:
        heads = (
            Column("loop", "right"), Column("data"), Column("length", "right"),
            Column("fingerprint", "mono"),
        )  # fmt: skip
        rows = tuple(
            ("" if d.loop == NO_LOOP else str(d.loop), _data(d), _length(d),
             d.fingerprint or f"none: {d.note}")
            for d in record.data
        )  # fmt: skip
        blocks.append(Table("Data", heads, rows, "A fingerprint is of a sample of the items."))
    if record.versions:
        blocks.append(Items("Versions", (_listed(record.versions),)))
    if record.numerics:
        blocks.append(Items("Numerics", (_listed(record.numerics),)))
    if (place := record.environment) is not None:
        where = {
            "host": place.host, "processor": place.processor, "cores": str(place.cores),
            "system": place.system, "CUDA": place.cuda, "GPUs": ", ".join(place.gpus),
        }  # fmt: skip
        blocks.append(_pairs("Machine of rank 0", where, ("", "")))
    return [*blocks, *_cell(record)]


def _cell(record: Recorded) -> list[Block]:
    if record.cell is None:
        return []
    cell, title = record.cell, f"Cell {record.cell.label} (sha256 {record.cell.sha256[:10]})"
    blocks: list[Block] = [Note(f"{title} is too long to be kept.", "", "off")]
    if cell.source is not None:
        blocks = [Code(title, cell.source)]
    if cell.helpers:
        helpers = {name: text[:10] for name, text in cell.helpers.items()}
        blocks.append(_pairs("Captured functions' files", helpers, ("file", "sha256")))
    return blocks


def _data(data: DataRecord) -> str:
    if not data.name:
        return data.type
    return words.one_line(f"{data.name}: {data.type}" + (f" {data.place}" if data.place else ""))


def _length(data: DataRecord) -> str:
    if data.length is None:
        return ""
    return words.size(data.length) if data.place else f"{data.length:,}"


def _loop(loop: LoopRecord) -> str:
    if loop.kind == "steps":
        return f"run.steps({loop.steps})"
    said = {
        "batch_size": loop.batch_size, "epochs": loop.epochs, "shuffle": loop.shuffle,
        "drop_last": loop.drop_last or None, "num_workers": loop.loaders,
    }  # fmt: skip
    listed = ", ".join(f"{name}={value}" for name, value in said.items() if value is not None)
    return f"run.batches({listed})"


def _pairs(
    title: str, pairs: Mapping[str, str], heads: tuple[str, str] = ("setting", "value")
) -> Table:
    rows = tuple((name, value) for name, value in pairs.items() if value)
    return Table(title, (Column(heads[0]), Column(heads[1])), rows)


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value)


def _more(count: int, noun: str) -> str:
    hidden = count - _MOST_ROWS
    return f"… {words.count(hidden, 'more ' + noun)}; --json has all." if hidden > 0 else ""
