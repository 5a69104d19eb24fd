"""`verify`: which checkpoints are damaged, in what, and where to go on from. Pure."""

from __future__ import annotations

from resilient_nb.core.scrubbing import VerifyReport, VerifyRow
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Head, Items, Note, to_html, to_text

#: Of more problems of a checkpoint only the first are shown; `--json` has all.
MOST_PROBLEMS = 10


def verify_html(report: VerifyReport) -> str:
    """Return what was found as HTML."""
    return to_html(_report(report))


def verify_text(report: VerifyReport) -> str:
    """Return the same in plain text."""
    return to_text(_report(report))


def _report(report: VerifyReport) -> list[Block]:
    bad, total = len(report.damaged), words.count(len(report.checkpoints), "checkpoint")
    read = f"{words.size(report.nbytes)} read in {words.duration(report.seconds)}"
    state = f"{bad} of {total} damaged" if bad else f"{total}, all whole"
    if not report.checkpoints:
        return [Note("No checkpoint yet.", "", "off")]
    blocks: list[Block] = [Head("verify", facts=(state, read))]
    return blocks + [block for row in report.damaged for block in _damaged(row)]


def _damaged(row: VerifyRow) -> list[Block]:
    items = [f"{d.what} {d.why} ({d.key})" for d in row.damage[:MOST_PROBLEMS]]
    if hidden := len(row.damage) - len(items):
        items.append(f"… and {words.count(hidden, 'more problem')}: --json has all")
    if row.good_before is None:
        text = "%resilient restore URL brings it back from a backup."
        way_out = Note("None before it is whole:", text, "bad")
    else:
        before = row.good_before
        title = f"The newest good one before it is {before}:"
        way_out = Note(title, f"%resilient rollback {before}", "bad")
    return [Items(f"{row.ref} is damaged:", tuple(items)), way_out]
