"""`chaos` and goodput in words, and the options of the verb."""

from __future__ import annotations

import pytest

from resilient_nb.core.chaos import ChaosReport
from resilient_nb.core.goodput import Goodput
from resilient_nb.core.model import Injected, Injection, JobState
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.blocks import to_text
from resilient_nb.notebook.chaos_reports import chaos_blocks, chaos_html, chaos_text
from resilient_nb.notebook.goodput_reports import goodput_said
from resilient_nb.notebook.options import parse_line
from resilient_nb.notebook.words import Moment
from resilient_nb.wire.codec import build, plain

MOMENT = Moment(1_000_000.0)
GOODPUT = Goodput(100.0, 1900, 0.05, 95.0, 0.95, failures=2, mttr_s=0.4, lost_steps=31)


def an_injection(kind: Injection = Injection.STOP, seconds: float = 10.0) -> Injected:
    return Injected("i1", kind, 1, 1, "h0", 1_000_000.0, seconds, "ada")


def a_report(**changes: object) -> ChaosReport:
    values: dict[str, object] = {
        "injected": (an_injection(), an_injection(Injection.KILL_RANK, 0.0)),
        "failures": ("hang", "killed from outside"),
        "goodput": GOODPUT,
        "compared": "alone",
        "checked": 9,
        "unchanged": True,
        **changes,
    }
    return ChaosReport("digits#1", JobState.SUCCEEDED, **values)  # type: ignore[arg-type]


def test_a_report_says_what_was_done_and_what_it_cost() -> None:
    text = chaos_text(a_report(refused=("fill-disk: no.",)), moment=MOMENT)
    for part in (
        "chaos digits#1", "2 failures injected", "kill-rank", "1 × hang", "fill-disk: no.",
        "goodput 95.0 %: 1,900 steps of 50 ms", "2 failures, 0.40 s to repair",
        "31 steps made again", "9 checkpoints compared with alone, bit for bit",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part
    assert max(map(len, text.splitlines())) <= 100
    assert "chaos digits#1" in chaos_html(a_report(), moment=MOMENT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unchanged": False}, "not the same"),
        ({"unchanged": None, "checked": 0}, "no checkpoint at a step of alone"),
        ({"unchanged": None, "compared": ""}, "--compare RUN does"),
        ({"goodput": None}, "chaos digits#1"),
    ],
)
def test_what_is_not_known_is_said(changes: dict[str, object], said: str) -> None:
    assert said in chaos_text(a_report(**changes), moment=MOMENT)


def test_a_report_survives_the_wire() -> None:
    assert build(ChaosReport, plain(a_report())) == a_report()


def test_a_panel_tells_chaos_from_bad_luck() -> None:
    assert chaos_blocks((), MOMENT) == []
    text = to_text(chaos_blocks([an_injection()] * 7, MOMENT))
    assert "Broken on purpose (chaos)" in text
    assert "… 2 earlier" in text
    assert "stop of rank 1 for 10 s by ada" in text


def test_goodput_in_words() -> None:
    assert goodput_said(None) == ""
    assert goodput_said(Goodput(0.0, 0)) == ""
    assert goodput_said(Goodput(10.0, 10, 0.9, 9.0, 0.9)) == ""
    assert goodput_said(Goodput(100.0, 100, 0.9, 90.0, 0.9)) == "goodput 90.0 %"
    assert "1 failure" in goodput_said(Goodput(10.0, 10, failures=1))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("chaos digits", "required"),
        ("chaos digits kil-rank", "kill-rank"),
        ("chaos digits stop --seed 7", "--seed is for a random schedule"),
        ("chaos digits random --rank 1", "--rank is for one failure"),
        ("chaos digits report --for 10s", "a report breaks nothing"),
    ],
)
def test_lines_that_make_no_sense(line: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_line(line)


def test_lines_that_do() -> None:
    found = parse_line("chaos digits random --seed 7 --every 30s --for 5m").arguments
    assert (found["seed"], found["every"], found["for"]) == (7, 30.0, 300.0)
