"""`backup` and `restore`: what was copied, and what was there already. Pure."""

from __future__ import annotations

from resilient_nb.core.transfers import TransferReport
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Head, Note, to_html, to_text


def transfer_html(report: TransferReport) -> str:
    """Return how a backup or a restore went."""
    return to_html(_report(report))


def transfer_text(report: TransferReport) -> str:
    """Return the same in plain text."""
    return to_text(_report(report))


def _report(report: TransferReport) -> list[Block]:
    done = "would copy" if report.dry_run else "copied"
    amount = f"{done} {words.count(report.objects, 'object')}, {words.size(report.nbytes)}"
    there = f"{report.there:,} of {words.count(report.checkpoints, 'checkpoint')} were there"
    freed = f"removed {words.size(report.freed)} of dropped ones" if report.freed else ""
    facts = (amount, there, freed, words.duration(report.seconds))
    details = (f"cluster {report.cluster_id}", f"store {report.store}")
    blocks: list[Block] = [Head(f"{report.action} {report.place}", facts=facts, details=details)]
    if report.dry_run:
        blocks.append(Note("Nothing was copied:", "this was a dry run.", "off"))
    elif report.action == "backup":
        blocks.append(
            Note("Complete.", f"resilient restore {report.place} brings it back.", "good")
        )
    elif report.journal:
        text = "resilient up shows runs, tags and heads as they were; unfinished jobs go on."
        blocks.append(Note("Complete, the journal included.", text, "good"))
    else:
        text = "The home's own journal stays as it is."
        blocks.append(Note("Complete.", text, "good"))
    return blocks
