"""`queue` and `why`: who runs, who waits for what, and everybody's share. Pure.

Times are said in the reader's own zone and relative to now; both are guesses of the queue,
so they are rounded.
"""

from __future__ import annotations

from resilient_nb.core.model import JobState
from resilient_nb.core.views import JobView, QueueReport, QueueRow, ShareRow, WhyReport
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Items, Note, Table, to_html, to_text
from resilient_nb.notebook.panel import failure_blocks, group_said
from resilient_nb.notebook.words import Moment

#: Of a longer queue the rest is only counted; `--json` has all.
MOST_ROWS = 100

#: The queue's rules (`core.queue.Waiting`) in words.
RULES = {
    "hold": "It isn't ready to start",
    "backoff": "It failed and pauses before the next try",
    "too wide": "It doesn't fit the cluster",
    "no slots": "A gang starts whole or not at all",
    "behind": "It may not delay a gang that comes first",
    "vacating": "Room is being made for it",
    "reserve": "Some slots are kept for administrators",
}


def queue_html(report: QueueReport, *, moment: Moment | None = None) -> str:
    """Return the queue and the shares as tables, alerts first."""
    return to_html(_queue(report, moment or Moment()))


def queue_text(report: QueueReport, *, moment: Moment | None = None) -> str:
    """Return the queue as lines of at most 100 characters; reasons stand below their jobs."""
    return to_text(_queue(report, moment or Moment()))


def why_html(report: WhyReport, view: JobView, *, moment: Moment | None = None) -> str:
    """Return why a job is where it is, what would start it, and what failed before."""
    return to_html(_why(report, view, moment or Moment()))


def why_text(report: WhyReport, view: JobView, *, moment: Moment | None = None) -> str:
    """Return the same in plain text."""
    return to_text(_why(report, view, moment or Moment()))


def _queue(report: QueueReport, moment: Moment) -> list[Block]:
    running = sum(row.state.holds_gang for row in report.jobs)
    waiting = sum(row.state is JobState.QUEUED for row in report.jobs)
    blocks: list[Block] = [Note("Alert:", alert, "bad") for alert in report.alerts]
    blocks.append(
        Head(
            "queue",
            facts=(
                f"{report.used} of {words.count(report.slots, 'slot')} in use",
                f"{running:,} running", f"{waiting:,} waiting",
            ),
            at=f"as of {moment.stamp()}",
        )
    )  # fmt: skip
    if report.jobs:
        blocks.append(_jobs(report.jobs, moment))
    else:
        blocks.append(Note("Nothing runs or waits.", "%%resilient NAME submits a cell.", "off"))
    if report.shares:
        blocks.append(_shares(report.shares))
    return blocks


def _jobs(rows: tuple[QueueRow, ...], moment: Moment) -> Table:
    heads = (
        Column("#", "right"), Column("job"), Column("state", "state"), Column("user"),
        Column("group"), Column("priority"), Column("workers", "right"), Column("since", "right"),
        Column("starts"), Column("why", "below"),
    )  # fmt: skip
    shown = tuple(_job(row, moment) for row in rows[:MOST_ROWS])
    return Table("", heads, shown, _more(len(rows), "job"))


def _job(row: QueueRow, moment: Moment) -> tuple[str, ...]:
    waits = row.state is JobState.QUEUED
    starts = moment.ahead(row.starts_at) if waits and row.starts_at is not None else ""
    if starts and row.starts_guess:
        starts = f"a guess: {starts}"  # first, since a narrow column loses its end
    return (
        str(row.position) if row.position is not None else "",
        row.job,
        row.state.value,
        row.user,
        row.group,
        "admin" if row.admin else row.priority,
        words.gang(row.workers, row.max_workers, row.held),
        words.about(moment.now - row.submitted_at),
        starts,
        row.reason,
    )


def _shares(rows: tuple[ShareRow, ...]) -> Table:
    heads = (
        Column("group, user", "tree"), Column("weight", "right"), Column("entitled", "right"),
        Column("held", "right"), Column("waiting", "right"), Column("used", "right"),
        Column("due", "right"), Column(""),
    )  # fmt: skip
    more = _more(len(rows), "row") or (
        "Slots: entitled to now, held, waited for. Used: of the service that everybody got, "
        "the past fading; due: what the weights give."
    )
    return Table("Shares", heads, tuple(_share(row) for row in rows[:MOST_ROWS]), more)


def _share(row: ShareRow) -> tuple[str, ...]:
    return (
        f"  {words.one_line(row.user)}" if row.user else words.one_line(row.group),
        f"{row.weight:g}", f"{row.entitled:.1f}", str(row.held), str(row.waiting),
        f"{100 * row.used:.0f} %", f"{100 * row.due:.0f} %", _balance(row),
    )  # fmt: skip


def _balance(row: ShareRow) -> str:
    points = round(100 * (row.used - row.due))
    if points == 0:
        return "even"
    return f"{words.count(abs(points), 'point')} {'over' if points > 0 else 'under'}"


def _why(report: WhyReport, view: JobView, moment: Moment) -> list[Block]:
    waits = report.state is JobState.QUEUED
    state, by = report.state.value, f"by {view.user}" if view.user else ""
    blocks: list[Block] = [
        Head(
            report.job, state,
            (f"{view.priority} priority", group_said(view)),
            (by, f"submitted {moment.clock(view.submitted_at)}"),
        )
    ]  # fmt: skip
    if report.reason and not (report.state is JobState.FAILED and view.failures):
        rule = RULES.get(report.rule)  # a failure is told below, whole
        blocks.append(Note(f"{rule}:" if rule else "", report.reason, words.tone(state)))
    if waits:
        starts = "It can't be said when it starts."
        if report.starts_at is not None:
            starts = moment.start(report.starts_at, report.starts_guess)
        blocks.append(Note("", starts, "off"))
    if report.remedies:
        title = "What would start it sooner" if waits else "What you can do"
        blocks.append(Items(title, report.remedies, numbered=True))
    return [*blocks, *failure_blocks(view, moment)]


def _more(count: int, noun: str) -> str:
    hidden = count - MOST_ROWS
    return f"… {words.count(hidden, 'more ' + noun)}; --json has all." if hidden > 0 else ""
