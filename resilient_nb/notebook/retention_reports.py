"""`retain`: which checkpoints of a run are kept, which are dropped, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from resilient_nb.core.views import RetentionReport, RetentionRow
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Note, Table, to_html, to_text
from resilient_nb.notebook.words import Moment

#: Of more checkpoints only the newest are shown; `--json` has all.
MOST_ROWS = 100


def retention_html(report: RetentionReport, *, moment: Moment | None = None) -> str:
    """Return what a rule made of a run's checkpoints as tables."""
    return to_html(_report(report, moment or Moment()))


def retention_text(report: RetentionReport, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_report(report, moment or Moment()))


def _report(report: RetentionReport, moment: Moment) -> list[Block]:
    kept = [row for row in report.checkpoints if row.kept]
    gone = [row for row in report.checkpoints if not row.kept]
    amount = f"{len(gone):,} of {words.count(len(report.checkpoints), 'checkpoint')}"
    facts = [f"rule {report.rule}", f"{'would drop' if report.dry_run else 'dropped'} {amount}"]
    if gone and report.freed is not None:
        facts.append(f"{'would free' if report.dry_run else 'frees'} {words.size(report.freed)}")
    blocks: list[Block] = [Head(f"run {report.run}", facts=tuple(facts))]
    if report.note:
        blocks.append(Note("How much that frees isn't known:", report.note, "bad"))
    if report.hint:
        blocks.append(Note("Nothing is dropped now.", report.hint, "off"))
    if not report.checkpoints:
        blocks.append(Note("No checkpoints of its own.", "", "off"))
    title = "Would be dropped" if report.dry_run else "Dropped"
    blocks += [_table(title, gone, moment, why=False)] if gone else []
    blocks += [_table("Kept", kept, moment, why=True)] if kept else []
    return blocks


def _table(title: str, rows: Sequence[RetentionRow], moment: Moment, why: bool) -> Table:
    heads = [
        Column("checkpoint"), Column("step", "right"), Column("saved", "right"),
        Column("size", "right"),
    ]  # fmt: skip
    heads += [Column("why")] if why else []
    shown = []
    for row in rows[-MOST_ROWS:]:
        said = [row.ref, f"{row.step:,}", moment.clock(row.at), words.size(row.nbytes)]
        shown.append(tuple([*said, ", ".join(row.reasons)] if why else said))
    hidden = len(rows) - len(shown)
    more = f"… {words.count(hidden, 'older checkpoint')}: --json has all" if hidden else ""
    return Table(title, tuple(heads), tuple(shown), more)
