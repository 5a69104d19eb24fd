"""What happened while nobody looked, on one screen: `recap`, and dead letters: `dead`. Pure."""

from __future__ import annotations

from resilient_nb.core.model import JobState
from resilient_nb.core.recap import (
    DeadLetter,
    DeadReport,
    RecapEvent,
    RecapReport,
    RecapRow,
)
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import (
    Block,
    Column,
    Event,
    Head,
    Items,
    Note,
    Table,
    to_html,
    to_text,
)
from resilient_nb.notebook.words import Moment

#: One screen: of more jobs only those are shown that need somebody or failed most.
MOST_JOBS, MOST_STORY = 12, 3


def recap_html(report: RecapReport, *, moment: Moment | None = None) -> str:
    """Return what happened as HTML: totals, then jobs, those that need somebody first."""
    return to_html(_recap(report, moment or Moment(report.now)))


def recap_text(report: RecapReport, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_recap(report, moment or Moment(report.now)))


def dead_html(report: DeadReport, *, moment: Moment | None = None) -> str:
    """Return the dead letters, each with its evidence and what requeues it."""
    return to_html(_dead(report, moment or Moment()))


def dead_text(report: DeadReport, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_dead(report, moment or Moment()))


def _recap(report: RecapReport, moment: Moment) -> list[Block]:
    whose = f"of {report.user}" if report.user else "of everybody"
    counts = tuple(f"{count:,} {state}" for state, count in report.counts.items())
    blocks: list[Block] = [
        Head(
            "recap",
            facts=(f"jobs {whose}", *counts),
            details=(f"since {moment.clock(report.since)}",),
            at=f"as of {moment.stamp()}",
        )
    ]
    if not report.jobs:
        return [*blocks, Note("Nothing happened.", "No job ran or ended in that time.", "off")]
    blocks.append(_cost(report))
    blocks += [Note("Host:", text.removeprefix("Host "), "bad") for text in report.hosts]
    acts = tuple(f"{row.job}: {row.act}" for row in report.jobs if row.act)
    if acts:
        blocks.append(Items("Needs you", _first(acts)))
    blocks.append(_jobs(report, moment))
    return blocks


def _cost(report: RecapReport) -> Note:
    failures = sum(report.causes.values())
    if not failures:
        return Note("No failures.", "Nothing was lost.", "good")
    causes = ", ".join(f"{count} × {cause}" for cause, count in report.causes.items())
    stopped = failures - report.retried
    after = f"{report.retried:,} of them went on by themselves"
    lost = f"{words.count(report.lost_steps, 'step')} made again, {words.duration(report.lost_s)}"
    return Note(
        f"{words.count(failures, 'failure')}:",
        f"{causes}. {after}. Lost: {lost} of work and waiting.",
        "wait" if not stopped else "bad",
    )


def _jobs(report: RecapReport, moment: Moment) -> Table:
    heads = (
        Column("job"), Column("state", "state"), Column("step", "right"),
        *([] if report.user else [Column("user")]),
        Column("failures", "right"), Column("made again", "right"), Column("lost", "right"),
        Column("last", "right"), *[Column("", "below")] * (MOST_STORY + 1),
    )  # fmt: skip
    shown = report.jobs[:MOST_JOBS]
    hidden = len(report.jobs) - len(shown)
    more = f"… {words.count(hidden, 'more job')}; --json has all." if hidden > 0 else ""
    rows = tuple(_row(row, moment, not report.user) for row in shown)
    return Table("Jobs", heads, rows, more)


def _row(row: RecapRow, moment: Moment, whose: bool) -> tuple[str, ...]:
    lost = words.duration(row.lost_s) if row.failures else ""
    story = [_told(event, moment) for event in row.story[:MOST_STORY]]
    story += [""] * (MOST_STORY - len(story))
    hidden = len(row.story) - MOST_STORY
    story.append(f"… {words.count(hidden, 'more cause')}" if hidden > 0 else "")
    return (
        row.job, row.state.value, f"{row.step:,}", *([row.user] if whose else []),
        str(row.failures or ""), f"{row.lost_steps:,}" if row.failures else "", lost,
        moment.clock(row.at), *story,
    )  # fmt: skip


def _told(event: RecapEvent, moment: Moment) -> str:
    often = f"{event.times} × " if event.times > 1 else ""
    return f"{moment.clock(event.at)} {often}{event.cause}: {event.text}"


def _first(items: tuple[str, ...]) -> tuple[str, ...]:
    hidden = len(items) - MOST_JOBS
    return (*items[:MOST_JOBS], f"… {hidden} more") if hidden > 0 else items


def _dead(report: DeadReport, moment: Moment) -> list[Block]:
    if not report.letters:
        return [Note("No dead letters.", "No job was given up for a spent budget.", "good")]
    count = words.count(len(report.letters), "job")
    blocks: list[Block] = [Head("dead letters", facts=(f"{count} given up",))]
    return [*blocks, *(_letter(letter, moment) for letter in report.letters)]


def _letter(letter: DeadLetter, moment: Moment) -> Event:
    title = words.joined(
        f"{letter.job}: {letter.cause}",
        f"by {letter.user}" if letter.user else "",
        words.count(letter.attempts, "attempt"),
        f"step {letter.step:,}",
        moment.clock(letter.at),
    )
    lines = (
        letter.message,
        letter.reason,
        *letter.evidence,
        f"Budget spent: {letter.spent}. {letter.retry} gives it another.",
    )
    return Event(JobState.FAILED.value, title, lines)
