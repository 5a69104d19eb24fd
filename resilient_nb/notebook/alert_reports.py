"""`alerts`: what fires, what is over, and by which channels people are told. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from resilient_nb.core.alert_model import Alert, AlertsReport, ChannelTest, ChannelView
from resilient_nb.notebook import words
from resilient_nb.notebook.blocks import Block, Column, Head, Note, Table, to_html, to_text
from resilient_nb.notebook.words import Moment

#: Of more alerts that are over, the rest is only counted; `--json` has all.
_MOST = 20


def alerts_html(report: AlertsReport, *, moment: Moment | None = None) -> str:
    """Return alerts and channels as tables."""
    return to_html(_alerts(report, moment or Moment()))


def alerts_text(report: AlertsReport, *, moment: Moment | None = None) -> str:
    """Return the same as lines of at most 100 characters."""
    return to_text(_alerts(report, moment or Moment()))


def outcomes_html(tests: Sequence[ChannelTest]) -> str:
    """Return what came of a test of each channel."""
    return to_html(_tests(tests))


def outcomes_text(tests: Sequence[ChannelTest]) -> str:
    """Return the same in plain text."""
    return to_text(_tests(tests))


def _alerts(report: AlertsReport, moment: Moment) -> list[Block]:
    firing = words.count(len(report.firing), "alert")
    blocks: list[Block] = [Head("alerts", facts=(f"{firing} firing",), at=moment.stamp())]
    if report.firing:
        blocks.append(_table("", report.firing, moment))
    else:
        blocks.append(Note("Nothing fires.", "", "off"))
    if report.recent:
        hidden = len(report.recent) - _MOST
        more = f"… {words.count(hidden, 'more')}; --json has all." if hidden > 0 else ""
        blocks.append(_table("Over", report.recent[:_MOST], moment, more))
    if report.channels:
        blocks.append(_channels(report.channels))
    else:
        text = "Alerts are shown here, in the queue and in panels; the policy file may name more."
        blocks.append(Note("No channels.", text, "off"))
    return blocks


def _table(title: str, alerts: Sequence[Alert], moment: Moment, more: str = "") -> Table:
    heads = (
        Column("alert"), Column("severity"), Column("of"), Column("since", "right"),
        Column("lasted", "right"), Column("times", "right"), Column("what", "below"),
    )  # fmt: skip
    return Table(title, heads, tuple(_row(alert, moment) for alert in alerts), more)


def _row(alert: Alert, moment: Moment) -> tuple[str, ...]:
    end = alert.at if alert.stage.value == "resolved" else moment.now
    of = alert.labels.get("job") or alert.labels.get("run") or alert.labels.get("host", "")
    return (
        alert.rule, alert.severity.value, of, moment.clock(alert.since),
        words.about(max(0.0, end - alert.since)), str(alert.count) if alert.count > 1 else "",
        alert.text,
    )  # fmt: skip


def _channels(channels: Sequence[ChannelView]) -> Table:
    heads = (
        Column("channel"), Column("kind"), Column("to"), Column("sent", "right"),
        Column("waiting", "right"), Column("", "below"),
    )  # fmt: skip
    rows = tuple((c.name, c.kind, c.to, str(c.sent), str(c.waiting), c.trouble) for c in channels)
    return Table("Channels", heads, rows)


def _tests(tests: Sequence[ChannelTest]) -> list[Block]:
    if not tests:
        return [Note("No channels.", "The policy file names none, so nobody was told.", "off")]
    heads = (Column("channel"), Column("to"), Column("test"), Column("", "below"))
    rows = tuple(
        (test.channel, test.to, "failed" if test.error else "sent", test.error) for test in tests
    )
    return [Table("", heads, rows)]
