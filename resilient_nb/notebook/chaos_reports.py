"""`chaos`: what was broken on purpose, and what the job made of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from resilient_nb.core.chaos import ChaosReport, said
from resilient_nb.core.model import Injected
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Items, Note, Table, to_html, to_text
from resilient_nb.notebook.goodput_reports import cost_said
from resilient_nb.notebook.words import Moment

#: Shown in a panel, and in a report.
_MOST, _MOST_ROWS = 5, 50


def chaos_html(report: ChaosReport, *, moment: Moment | None = None) -> str:
    """Return what was broken and what came of it."""
    return to_html(_report(report, moment or Moment()))


def chaos_text(report: ChaosReport, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_report(report, moment or Moment()))


def chaos_blocks(injected: Sequence[Injected], moment: Moment) -> list[Block]:
    """Return what a job's panel says, so that nobody takes it for bad luck."""
    if not injected:
        return []
    lines = [f"{moment.clock(i.at)}: {said(i)}" for i in injected[-_MOST:]]
    earlier = len(injected) - len(lines)
    title = "Broken on purpose (chaos)"
    return [Items(title, (f"… {earlier} earlier", *lines) if earlier else tuple(lines))]


def _report(report: ChaosReport, moment: Moment) -> list[Block]:
    head = Head(
        f"chaos {report.job}",
        report.state.value,
        (
            f"{words.count(len(report.injected), 'failure')} injected",
            f"{len(report.failures)} cost an attempt" if report.failures else "",
        ),
        at=f"as of {moment.stamp()}",
    )
    blocks: list[Block] = [head]
    if report.injected:
        blocks.append(_injected(report.injected, moment))
    if report.refused:
        blocks.append(Items("Not done", report.refused[-_MOST_ROWS:]))
    if report.failures:
        causes = Counter(report.failures).most_common()
        blocks.append(Items("Causes found", tuple(f"{n} × {cause}" for cause, n in causes)))
    return [*blocks, *_came_of_it(report)]


def _injected(rows: Sequence[Injected], moment: Moment) -> Table:
    heads = (
        Column("at", "right"), Column("what"), Column("rank", "right"), Column("host"),
        Column("for", "right"),
    )  # fmt: skip
    shown = rows[-_MOST_ROWS:]
    hidden = len(rows) - len(shown)
    return Table(
        "Injected",
        heads,
        tuple(
            (
                moment.clock(i.at), i.kind.value, str(i.rank), i.host,
                words.duration(i.seconds) if i.seconds else "",
            )
            for i in shown
        ),
        f"… {words.count(hidden, 'earlier one')}; --json has all." if hidden else "",
    )  # fmt: skip


def _came_of_it(report: ChaosReport) -> list[Block]:
    blocks: list[Block] = []
    known = report.goodput
    if known is not None:
        share = "its goodput isn't known yet"
        if known.goodput is not None and known.step_s is not None:
            share = (
                f"goodput {100 * known.goodput:.1f} %: {words.count(known.steps, 'step')} of "
                f"{words.short(known.step_s)} in {words.duration(known.wall_s)}"
            )
        blocks.append(Note("", words.joined(share, cost_said(known)), "off"))
    if report.unchanged is None:
        text = f"no checkpoint at a step of {report.compared}" if report.compared else (
            "not compared; --compare RUN does, with a run that was left alone"
        )  # fmt: skip
        blocks.append(Note("Numbers:", f"{text}.", "off"))
    else:
        amount = words.count(report.checked, "checkpoint")
        same = "as if nothing had happened" if report.unchanged else "not the same"
        tone = "good" if report.unchanged else "bad"
        text = f"{same}: {amount} compared with {report.compared}, bit for bit."
        blocks.append(Note("Numbers:", text, tone))
    return blocks
