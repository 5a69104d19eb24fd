"""`control.live`: what is shown of ranks and series now, and what an agent passes on of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.agent.plugin import AgentPlugin
from resilient_nb.control import live
from resilient_nb.control.live import SHOWN_POINTS, LiveTable, Thinned
from resilient_nb.testing.builders import START
from resilient_nb.wire.codec import plain
from resilient_nb.wire.orders import Sample

JOB = "digits#1"


def a_sample(**changes: Any) -> Sample:
    values = {"steps": 10, "compute_s": 0.3, "wait_s": 0.1, "longest_s": 0.07, "phase": "compute"}
    return Sample(JOB, 1, 0, **{**values, **changes})


def test_a_row_says_where_the_time_of_steps_goes_by_now() -> None:
    table = LiveTable()
    table.begin(JOB, {0: "h0"}, START)
    for second in range(60):
        table.sample(a_sample(), "h0", START + second)
    [row] = table.of(JOB).ranks
    assert (row.compute_s, row.wait_s) == pytest.approx((0.03, 0.01))
    assert (row.phase, row.longest_s) == ("compute", 0.07)
    # It has become slow; a sample in which no step ended says nothing of that.
    table.sample(a_sample(steps=0, compute_s=0.0, wait_s=0.0, longest_s=0.0), "h0", START + 90)
    table.sample(a_sample(steps=1, compute_s=9.0, wait_s=0.0, longest_s=9.0), "h0", START + 100)
    [row] = table.of(JOB).ranks
    assert row.compute_s > 4.0
    assert row.longest_s == 9.0
    table.begin(JOB, {0: "h0"}, START + 101)
    table.sample(a_sample(), "h0", START + 102)
    assert table.of(JOB).ranks[0].longest_s == 0.07


def test_a_job_shows_so_many_metrics_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_METRICS", 3)
    table = LiveTable()
    points = tuple((step, {f"m{n}": 1.0 for n in range(5)}) for step in (1, 2))
    table.sample(a_sample(points=points), "h0", START)
    assert sorted(table.of(JOB).series) == ["m0", "m1", "m2"]
    assert len(table._of(JOB).heard) == 3


@given(st.integers(1, 30), st.integers(0, 50), st.integers(1, 5000))
def test_a_series_covers_all_steps_whatever_they_are(every: int, first: int, count: int) -> None:
    series = Thinned()
    steps = [first + n * every for n in range(count)]
    for step in steps:
        series.add(step, step / 2)
    found = [step for step, _ in series.points()]
    assert set(found) <= set(steps)
    assert (found[0], found[-1]) == (steps[0], steps[-1])
    assert len(found) <= 2 * SHOWN_POINTS + 1
    if count > SHOWN_POINTS:
        widest = max(b - a for a, b in pairwise(found))
        assert widest <= 4 * max(every, every * count / SHOWN_POINTS)


def test_an_agent_keeps_what_nobody_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient_nb.wire.orders.MOST_POINTS", 3)
    agent = AgentPlugin()
    agent._samples = {}
    agent._facts = {}

    def hear(step: int) -> None:
        sample = a_sample(step=step, points=((step, {"loss": 1.0}),))
        agent._heard(
            {"speaks": True, "warm": True, "ranks": [], "facts": [], "samples": [plain(sample)]}
        )

    hear(1)
    hear(2)
    [both] = agent._samples.values()
    assert (both.steps, both.step, len(both.points)) == (20, 2, 2)
    sent, agent._samples = agent._samples, {}
    hear(3)
    hear(4)
    agent._keep(sent)  # the report did not arrive
    [whole] = agent._samples.values()
    assert (whole.steps, whole.step, whole.longest_s) == (40, 4, 0.07)
    assert [step for step, _ in whole.points] == [2, 3, 4]
    agent._samples = {}
    agent._keep(sent)
    assert list(agent._samples.values()) == [both]
    for step in range(5, 15):
        hear(step)  # a report that is never answered
    [long] = agent._samples.values()
    assert [step for step, _ in long.points] == [12, 13, 14]
