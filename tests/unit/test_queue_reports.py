"""What `queue` and `why` show, in HTML and in plain text."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.model import Failure, JobState
from resilient_nb.core.views import JobView, QueueReport, QueueRow, ShareRow, WhyReport
from resilient_nb.notebook import words
from resilient_nb.notebook.queue_reports import (
    MOST_ROWS,
    RULES,
    queue_html,
    queue_text,
    why_html,
    why_text,
)
from resilient_nb.notebook.words import WIDTH, Moment

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
MOMENT = Moment(NOW, UTC)
ALLOWED_TAGS = {
    *("style", "div", "span", "b", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "ol"),
    *("li", "code", "details", "summary", "pre"),
}


def a_row(job: str = "digits#1", **changes: object) -> QueueRow:
    base = QueueRow(
        job=job, state=JobState.QUEUED, user="ann", group="vision", priority="normal",
        admin=False, workers=2, max_workers=0, held=0, position=1, submitted_at=NOW - 2400,
        reason="Needs 2 slots at once; 1 of 4 is free.", rule="no slots", starts_at=NOW + 720,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def running(job: str = "llm#4", **changes: object) -> QueueRow:
    how: dict[str, object] = {
        "state": JobState.RUNNING, "position": None, "starts_at": None, "held": 3, "reason": "",
        "max_workers": 8,
    }  # fmt: skip
    return a_row(job, **{**how, **changes})


def a_queue(*rows: QueueRow, **changes: object) -> QueueReport:
    shares = (
        ShareRow("vision", "", 1.0, 2.0, 3, 2, 0.41, 0.33),
        ShareRow("vision", "ann", 1.0, 2.0, 3, 2, 0.41, 0.41),
        ShareRow("nlp", "", 2.0, 2.0, 0, 0, 0.59, 0.67),
    )
    base = QueueReport(4, 3, rows or (running(), a_row()), shares)
    return replace(base, **changes)  # type: ignore[arg-type]


def a_job(**changes: object) -> JobView:
    base = JobView(
        id="digits#1", run="digits", state=JobState.QUEUED, reason="", priority="normal",
        workers=2, user="ann", submitted_at=NOW - 60, started_at=None, ended_at=None, attempts=0,
        epoch=0, step=0, total_steps=None, rate=0.0, eta_s=None, out=(), returned=(), ranks=(),
        metrics={}, series={}, checkpoints=(), failures=(), notes=(), label="In [1]",
        group="vision",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def a_why(**changes: object) -> WhyReport:
    base = WhyReport(
        "digits#1", JobState.QUEUED, "no slots",
        "Needs 2 slots at once; 1 of 4 is free.", NOW + 720,
        ("Start smaller: `%%resilient digits --workers 1`.", "Wait for llm#4."),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def lines_with(text: str, part: str) -> list[str]:
    return [line for line in text.split("\n") if part in line]


class Page(HTMLParser):
    """Collects the elements, attributes, cells and text of a report."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.said: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.said.append(data)


# -- queue


def test_the_queue_says_who_runs_who_waits_and_for_what() -> None:
    text = queue_text(a_queue(), moment=MOMENT)
    assert text.startswith("queue  3 of 4 slots in use · 1 running · 1 waiting\n")
    (llm,) = lines_with(text, "llm#4")
    assert " ".join(llm.split()) == "llm#4 ► running ann vision normal 3 of 2:8 40 min"
    (digits,) = lines_with(text, "digits#1")
    assert digits.split()[:3] == ["1", "digits#1", "○"]
    assert digits.endswith("2  40 min  14:25, in about 12 min")
    below = text.split("\n")[text.split("\n").index(digits) + 1]
    assert below == "      Needs 2 slots at once; 1 of 4 is free."


def test_shares_compare_what_was_used_with_what_was_due() -> None:
    text = queue_text(a_queue(), moment=MOMENT)
    vision = lines_with(text, "vision ")[-1]
    assert " ".join(vision.split()) == "vision 1 2.0 3 2 41 % 33 % 8 points over"
    (ann,) = lines_with(text, "    ann ")
    assert ann.endswith("41 %  41 %  even")
    assert lines_with(text, "nlp")[0].endswith("59 %  67 %  8 points under")


def test_alerts_come_first() -> None:
    alert = "policy.toml, line 3: half_life is no time. The earlier rules stay in force."
    text = queue_text(a_queue(alerts=(alert,)), moment=MOMENT)
    assert text.startswith(f"! Alert: {alert[:60]}")
    assert queue_html(a_queue(alerts=(alert,)), moment=MOMENT).index("rnb-bad") > 0
    assert Page(queue_html(a_queue(alerts=(alert,)), moment=MOMENT)).said[1:3] == [
        "Alert:", f" {alert}",
    ]  # fmt: skip


def test_the_admin_lane_and_a_start_that_cannot_be_foretold() -> None:
    text = queue_text(a_queue(a_row(admin=True, starts_at=None)), moment=MOMENT)
    (digits,) = lines_with(text, "digits#1")
    assert digits.split()[4:] == ["ann", "vision", "admin", "2", "40", "min"]


def test_an_empty_queue_says_how_to_begin() -> None:
    report = QueueReport(4, 0, (), ())
    assert "%%resilient NAME" in queue_text(report, moment=MOMENT)
    assert "Shares" not in queue_text(report, moment=MOMENT)


def test_a_long_queue_is_cut_and_says_so() -> None:
    rows = tuple(a_row(f"job-{n}#1", position=n + 1) for n in range(MOST_ROWS + 20))
    for shown in (queue_text(a_queue(*rows), moment=MOMENT), queue_html(a_queue(*rows))):
        assert f"job-{MOST_ROWS - 1}#1" in shown
        assert f"job-{MOST_ROWS}#1" not in shown
        assert "… 20 more jobs; --json has all." in shown
        assert f"{MOST_ROWS + 20} waiting" in shown


def test_html_has_the_reason_in_a_row_of_its_own() -> None:
    page = Page(queue_html(a_queue(), moment=MOMENT))
    assert page.tags.count("table") == 2
    assert page.attributes.count("colspan") == 1  # llm#4 has no reason
    assert "Needs 2 slots at once; 1 of 4 is free." in page.said
    assert "14:25, in about 12 min" in page.said


# -- why


def test_why_says_rule_expected_start_and_numbered_remedies() -> None:
    text = why_text(a_why(), a_job(), moment=MOMENT)
    assert text.split("\n") == [
        "○ queued  digits#1  normal priority · group vision",
        "by ann · submitted 14:12:20",
        "! A gang starts whole or not at all: Needs 2 slots at once; 1 of 4 is free.",
        "! Expected to start: 14:25, in about 12 min.",
        "",
        "What would start it sooner",
        "  1. Start smaller: `%%resilient digits --workers 1`.",
        "  2. Wait for llm#4.",
    ]
    html = why_html(a_why(), a_job(), moment=MOMENT)
    assert "<ol><li>Start smaller: <code>%%resilient digits --workers 1</code>.</li>" in html


def test_a_start_that_was_guessed_is_called_a_guess() -> None:
    row = a_row("digits-with-a-long-name#12", starts_guess="llm#4")
    text = queue_text(a_queue(running(), row), moment=MOMENT)
    assert "a guess: 14:25, in" in text  # its end may not fit
    assert "a guess: 14:25, in about 12 min" in queue_html(a_queue(row), moment=MOMENT)
    assert "guess" not in queue_text(a_queue(replace(row, starts_at=None)), moment=MOMENT)
    said = "14:25, in about 12 min (a guess: nobody knows how long llm#4 takes)."
    assert said in why_text(a_why(starts_guess="llm#4"), a_job(), moment=MOMENT)


def test_why_without_a_forecast_says_that() -> None:
    text = why_text(a_why(starts_at=None, remedies=()), a_job(), moment=MOMENT)
    assert "It can't be said when it starts." in text
    assert "sooner" not in text


def test_why_of_a_failed_job_tells_its_failures_and_no_start() -> None:
    failure = Failure("native crash", "rank 0 died of SIGSEGV.", "stop", "Twice.", NOW - 5, 1, 0)
    report = a_why(
        state=JobState.FAILED, rule="failed", reason="native crash: rank 0 died of SIGSEGV.",
        remedies=("Run it again: `%resilient resume digits`.",),
    )  # fmt: skip
    text = why_text(report, a_job(state=JobState.FAILED, failures=(failure,)), moment=MOMENT)
    assert "✗ failed: native crash · rank 0" in text
    assert text.count("died of SIGSEGV") == 1
    assert "What you can do\n  1. Run it again" in text
    assert "start" not in text.replace("started", "")


@pytest.mark.parametrize("rule", [*RULES, "new"])
def test_a_rule_is_said_in_words_and_an_unknown_one_not_at_all(rule: str) -> None:
    text = why_text(a_why(rule=rule, reason="So it is."), a_job(), moment=MOMENT)
    assert f"! {RULES[rule]}: So it is." in text if rule in RULES else "! So it is." in text


def test_a_lonely_backtick_is_itself() -> None:
    html = why_html(a_why(remedies=("Say ` once.",)), a_job(), moment=MOMENT)
    assert "<li>Say ` once.</li>" in html


# -- laws

EVIL = ["<script>alert(1)</script>", "\x1b[2J\x1b]0;title\x07", "a" * 300, "x\ny\tz", "\u202eabc",
        '"><img src=x onerror=alert(1)>', "`<b>`x`", "", "é" * 90]  # fmt: skip


@given(st.sampled_from(EVIL) | st.text(max_size=40), st.floats() | st.none())
def test_whatever_names_say_reports_stay_inert_and_narrow(evil: str, at: float | None) -> None:
    start: dict[str, Any] = {"starts_at": at, "starts_guess": evil}
    row = a_row(evil, user=evil, group=evil, priority=evil, reason=evil, rule=evil, **start)
    share = ShareRow(evil, evil, 1.0, 1.0, 1, 1, 0.5, 0.5)
    report = QueueReport(4, 1, (row, row), (share, replace(share, user="")), (evil,))
    why = a_why(job=evil, rule=evil, reason=evil, remedies=(evil, f"`{evil}`"), **start)
    view = a_job(id=evil, user=evil, group=evil, priority=evil)
    for html in (queue_html(report, moment=MOMENT), why_html(why, view, moment=MOMENT)):
        page = Page(html)
        assert set(page.tags) <= ALLOWED_TAGS
        assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
        assert "\x1b" not in html
    for text in (queue_text(report, moment=MOMENT), why_text(why, view, moment=MOMENT)):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
        assert max(map(len, text.split("\n"))) <= WIDTH


# -- words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "any moment"), (40, "in less than 1 min"), (720, "14:25, in about 12 min"),
     (5400, "15:43, in about 90 min"), (7200, "16:13, in about 2 h"),
     (36_000, "Tue 22 Sep 00:13, in about 10 h"), (3 * 86400, "Thu 24 Sep 14:13, in about 3 days"),
     (float("inf"), "in more than a year"), (1e18, "in more than a year")],
)  # fmt: skip
def test_expected_times_are_local_and_relative(seconds: float, said: str) -> None:
    assert MOMENT.ahead(NOW + seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "< 1 min"), (59, "< 1 min"), (60, "1 min"), (5999, "100 min"), (6000, "2 h"),
     (129_600, "2 days"), (float("nan"), "?")],
)  # fmt: skip
def test_rough_lengths_of_time(seconds: float, said: str) -> None:
    assert words.about(seconds) == said


@pytest.mark.parametrize(
    ("gang", "said"),
    [((4, 0, 4), "4"), ((4, 4, 0), "4"), ((2, 8, 0), "2:8"), ((2, 8, 3), "3 of 2:8")],
)
def test_sizes_of_gangs(gang: tuple[int, int, int], said: str) -> None:
    assert words.gang(*gang) == said
