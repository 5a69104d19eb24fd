"""What `alerts` shows, and where else alerts are seen."""

from __future__ import annotations

from dataclasses import replace

from resilient_nb.core.alert_model import (
    Alert,
    AlertsReport,
    ChannelTest,
    ChannelView,
    Severity,
    Stage,
)
from resilient_nb.core.views import Live, job_view
from resilient_nb.notebook.alert_reports import (
    alerts_html,
    alerts_text,
    outcomes_html,
    outcomes_text,
)
from resilient_nb.notebook.panel import panel_html, panel_text
from resilient_nb.notebook.words import Moment
from resilient_nb.testing.builders import START, Story

FIRING = Alert(
    "k", "memory near the limit", Severity.CRITICAL, {"job": "digits#1", "rank": "0"}, Stage.FIRING,
    START, START + 10, "Rank 0 of digits#1 on h0 uses 93 % of its memory limit.", 0.93, count=3,
)  # fmt: skip
OVER = Alert(
    "o", "host silent", Severity.WARNING, {"host": "h1"}, Stage.RESOLVED, START, START + 120, "Oh."
)
MAIL = ChannelView("mail", "email", "a@b.c", 2, 5, "Alerts can't be sent by mail: no answer")
NOW = Moment(START + 3600)


def test_alerts() -> None:
    text = alerts_text(AlertsReport((FIRING,), (OVER,), (MAIL,)), moment=NOW)
    assert all(len(line) <= 100 for line in text.splitlines())
    for said in ("1 alert firing", "critical", "digits#1", "93 %", "host silent", "h1", "mail",
                 "a@b.c", "no answer"):  # fmt: skip
        assert said in text, said
    assert "2 min" in text  # how long the silence lasted


def test_nothing_fires_and_nobody_is_told() -> None:
    text = alerts_text(AlertsReport((), (), ()), moment=NOW)
    assert "Nothing fires." in text
    assert "policy file" in text


def test_of_many_the_rest_is_counted() -> None:
    many = tuple(replace(OVER, key=str(n)) for n in range(50))
    assert "30 more" in alerts_text(AlertsReport((), many, ()), moment=NOW)


def test_nothing_of_a_job_is_html() -> None:
    bad = replace(FIRING, text="<script>alert(1)</script>", labels={"job": "<b>x</b>"})
    page = alerts_html(AlertsReport((bad,), (), ()), moment=NOW)
    assert "<script>alert" not in page
    assert "<b>x</b>" not in page


def test_a_test_of_channels() -> None:
    found = [ChannelTest("ops", "h:1"), ChannelTest("mail", "a@b.c", "no answer")]
    text = outcomes_text(found)
    assert "sent" in text
    assert "failed" in text
    assert "no answer" in text
    assert "<table" in outcomes_html(found)
    assert "names none" in outcomes_text([])


def test_a_panel_has_its_jobs_alerts() -> None:
    story = Story().submit().start()
    view = job_view(story.world, story.job(), Live(alerts=(FIRING.text,)), "/runs")
    assert f"! Alert: {FIRING.text}" in panel_text(view, moment=NOW)
    assert FIRING.text in panel_html(view, moment=NOW)
