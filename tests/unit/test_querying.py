"""Queries: which jobs are found, what is said of them, and how it is shown."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.api import query
from resilient_nb.control.commands import Commands
from resilient_nb.control.querying import find_jobs, read_facts
from resilient_nb.core import events as ev
from resilient_nb.core import querying
from resilient_nb.core.facts import Facts
from resilient_nb.core.model import JobState
from resilient_nb.core.querying import FactsReport, JobRow, Query, parse_conditions, parse_when
from resilient_nb.core.recorded import data_names
from resilient_nb.errors import InvalidRequest, UnknownName
from resilient_nb.handles import Job
from resilient_nb.notebook.execute import execute
from resilient_nb.notebook.fact_reports import facts_html, facts_text, rows_html, rows_text
from resilient_nb.notebook.options import parse_arguments, parse_line
from resilient_nb.tables import as_table
from resilient_nb.testing.builders import START, Story, a_checkpoint, a_failure, a_spec, failed
from resilient_nb.testing.fakes import FakeCluster, MemoryJournal
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import build, plain
from resilient_nb.wire.orders import Sample

DATA = ("TensorDataset 9f3c21", "/data/train.csv ab12")


@pytest.fixture
def world() -> Any:
    """digits#1 failed, digits#2 runs, other#1 waits."""
    story = Story().submit("digits", user="ann").start()
    checkpoint = a_checkpoint("digits#1", 20, data=DATA)
    story.then(ev.CheckpointCommitted(story.now, checkpoint, "best"))
    story.stop().end(failed()).requeue(failure=replace(a_failure("out of memory"), lost_steps=7))
    story.start().stop().end(failed()).fail()
    story.submit("digits", user="ann").start()
    return story.submit("other", user="bob").world


@pytest.fixture
def records() -> Any:
    journal = MemoryJournal()
    points = [
        ("digits#1", "loss", 1, 0.9),
        ("digits#2", "loss", 1, 0.2),
        ("digits#2", "lr", 1, 1.0),
    ]
    rows = [
        ("digits#2", rank, Facts(1, int(START) + n, seconds=1.0, step=n, steps=4, compute_s=0.5,
                                 wait_s=0.25, rss=10 + rank, cpu_s=1.0, read=9))
        for rank in (0, 1) for n in range(30)
    ]  # fmt: skip
    journal.records.write(points, rows)
    return journal.records


@pytest.mark.parametrize(
    ("query", "jobs"),
    [
        (Query(), ["other#1", "digits#2", "digits#1"]),
        (Query(limit=2), ["other#1", "digits#2"]),
        (Query(run="digits"), ["digits#2", "digits#1"]),
        (Query(user="bob"), ["other#1"]),
        (Query(states=(JobState.FAILED, JobState.QUEUED)), ["other#1", "digits#1"]),
        (Query(metrics=parse_conditions("loss<0.3")), ["digits#2"]),
        (Query(metrics=parse_conditions("loss<1,lr>=1")), ["digits#2"]),
        (Query(metrics=parse_conditions("loss<1"), limit=1), ["digits#2"]),
        (Query(metrics=parse_conditions("accuracy!=0")), []),
        (Query(tag="best"), ["digits#1"]),
        (Query(cause="Memory"), ["digits#1"]),
        (Query(cause="hang"), []),
        (Query(data="train.csv"), ["digits#1"]),
        (Query(data="9f3c"), ["digits#1"]),
        (Query(data="9f3c", tag="none"), []),
        (Query(since=START + 1000), ["other#1", "digits#2"]),
        (Query(until=START + 2), ["digits#1"]),
    ],
)
def test_what_is_asked_for_is_found(
    world: Any, records: Any, query: Query, jobs: list[str]
) -> None:
    assert [row.job for row in find_jobs(world, records, query)()] == jobs


def test_a_row_says_what_a_job_did_and_lost(world: Any, records: Any) -> None:
    _, running, lost = find_jobs(world, records, Query())()
    assert (lost.state, lost.attempts, lost.lost_steps) == (JobState.FAILED, 2, 7)
    assert (lost.causes[0], lost.tags, lost.data) == ("out of memory", ("best",), DATA)
    assert (lost.step, lost.checkpoints, lost.steps) == (20, 1, 0)
    # Both ranks make the same steps; their time adds up.
    assert (running.steps, running.recorded_s, running.step) == (120, 30.0, 29)
    assert (running.compute_s, running.wait_s) == (30.0, 15.0)
    assert (running.memory, running.read) == (11, 540)
    assert running.metrics == {"loss": 0.2, "lr": 1.0}


def test_facts_are_as_many_rows_as_are_wanted(world: Any, records: Any) -> None:
    job = world.jobs["digits#2"]
    report = read_facts(job, records, None, 1000)()
    assert [len(rank.rows) for rank in report.ranks] == [30, 30]
    report = read_facts(job, records, 1, 10)()
    [rank] = report.ranks
    assert rank.rank == 1
    assert len(rank.rows) <= 10
    assert sum(row.steps for row in rank.rows) == rank.total.steps == 120
    nothing = read_facts(world.jobs["other#1"], records, None, 10)()
    assert (nothing.total, nothing.ranks) == (None, ())


def test_answers_and_questions_pass_the_wire(world: Any, records: Any) -> None:
    query = rq.FindJobs(Query(metrics=parse_conditions("loss<1"), states=(JobState.FAILED,)))
    assert rq.REQUESTS.unpack(rq.REQUESTS.pack(query)) == query
    found = find_jobs(world, records, Query())()
    assert build(list[JobRow], plain(found)) == found
    report = read_facts(world.jobs["digits#2"], records, None, 5)()
    assert build(FactsReport, plain(report)) == report


def test_reports_are_within_their_columns(world: Any, records: Any) -> None:
    rows = find_jobs(world, records, Query())()
    report = read_facts(world.jobs["digits#2"], records, None, 500)()
    nothing = read_facts(world.jobs["other#1"], records, None, 500)()
    texts = [rows_text(rows), rows_text([]), facts_text(report), facts_text(nothing)]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 100
    for part in ("digits#1", "loss 0.9", "@best", "TensorDataset 9f3c21", "out of memory"):
        assert part in texts[0]
    assert "67 %" in texts[2]
    assert len(facts_text(report, 3).splitlines()) < len(texts[2].splitlines())
    assert "<script" not in rows_html(rows) + facts_html(report)


@pytest.mark.parametrize(
    ("text", "metric", "how", "value"),
    [
        ("loss<0.3", "loss", "<", 0.3),
        (" val/acc >= 9e-1 ", "val/acc", ">=", 0.9),
        ("x==1", "x", "=", 1.0),
        ("x!=-2", "x", "!=", -2.0),
    ],
)
def test_conditions_are_read(text: str, metric: str, how: str, value: float) -> None:
    [found] = parse_conditions(text)
    assert (found.metric, found.how, found.value) == (metric, how, value)


@pytest.mark.parametrize("text", ["loss", "loss<", "<3", "loss<low", "loss<1,", "loss~3"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"such as loss<0\.3"):
        parse_conditions(text)


def test_times_are_ago_or_dates() -> None:
    assert parse_when("2d", 1e6) == 1e6 - 172800
    assert parse_when("1.5h", 1e6) == 1e6 - 5400
    assert parse_when("2026-11-25", 0.0) == datetime(2026, 11, 25).timestamp()
    assert parse_when("2026-11-25T14:30+00:00", 0.0) == 1795617000.0
    with pytest.raises(InvalidRequest, match="how long ago"):
        parse_when("yesterday", 0.0)
    with pytest.raises(InvalidRequest, match="succeeded"):
        querying.parse_states("done")


def test_the_line_takes_the_filters() -> None:
    command = parse_line("query --state failed,queued --metric loss<0.3 --since 2d --limit 5")
    assert command.arguments["state"] == (JobState.FAILED, JobState.QUEUED)
    assert command.arguments["metric"] == parse_conditions("loss<0.3")
    assert (command.arguments["since"], command.arguments["limit"]) == ("2d", 5)
    with pytest.raises(InvalidRequest, match=r"--since: 'soon' is no time"):
        parse_line("query --since soon")
    with pytest.raises(InvalidRequest, match=r"--state: 'over' is no state"):
        parse_line("query --state over")


def test_manifests_name_their_data() -> None:
    data = [
        {"loop": 0, "type": "TensorDataset", "fingerprint": "9f3c21"},
        {"loop": 1, "type": "TensorDataset", "fingerprint": "9f3c21"},
        {"loop": 2, "type": "list"},
        {"loop": -1, "type": "file", "name": "train", "place": "/data/train.csv",
         "fingerprint": "ab12"},
    ]  # fmt: skip
    assert data_names({"data": data}) == ("TensorDataset 9f3c21", "list", "/data/train.csv ab12")
    assert data_names({}) == ()


def test_tables_are_lists_where_there_is_no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"job": "a#1", "metrics": {"loss": 1.0}, "submitted_at": 0.0}]
    assert as_table(rows, frame=False) == rows
    monkeypatch.setattr("resilient_nb.tables.find_spec", lambda name: None)
    assert as_table(rows) == rows
    with pytest.raises(InvalidRequest, match="pip install pandas"):
        as_table(rows, frame=True)


def test_tables_are_frames_where_there_is() -> None:
    pandas = pytest.importorskip("pandas")
    table = as_table([{"job": "a#1", "metrics": {"loss": 1.0}, "submitted_at": 0.0}])
    assert set(table.columns) == {"job", "metrics.loss", "submitted_at"}
    assert as_table([], frame=True).empty
    assert table["submitted_at"][0] == pandas.Timestamp(0, tz="UTC")
    assert "pandas" in sys.modules


class Plane:
    """A client that answers here."""

    def __init__(self, world: Any, records: Any) -> None:
        self._world, self._records = world, records

    def find(self, query: Query) -> list[JobRow]:
        return find_jobs(self._world, self._records, query)()

    def facts(self, job: str, rank: int | None = None, most: int = 500) -> FactsReport:
        return read_facts(self._world.jobs[job], self._records, rank, most)()


def test_verbs_and_python_ask_and_show(
    world: Any, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane: Any = Plane(world, records)
    monkeypatch.setattr("resilient_nb.connection.current", lambda *_: plane)
    found = json.loads(execute(parse_arguments(["query", "--metric", "loss<0.3", "--json"])))
    assert [(row["job"], row["metrics"]["loss"]) for row in found] == [("digits#2", 0.2)]
    old = parse_arguments(["query", "--since", "2000-01-01", "--state", "failed"])
    assert "No such job" in str(execute(old))
    assert "Rank 1, in time" in str(execute(parse_arguments(["facts", "digits#2", "--rank", "1"])))
    report = json.loads(execute(parse_arguments(["facts", "digits#2", "--json"])))
    assert [len(rank["rows"]) for rank in report["ranks"]] == [30, 30]

    rows = query(user="ann", since=0.0, frame=False)
    assert [row["job"] for row in rows] == ["digits#2", "digits#1"]
    rows = Job(plane, "digits#2").facts(0, frame=False)
    assert {row["rank"] for row in rows} == {0}
    assert sum(row["steps"] for row in rows) == 120


def test_a_real_engine_records_what_hosts_report(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, {"h0": 1})
    commands = Commands(cluster.engine, "tcp://here")
    cluster.round()
    commands(rq.Submit("digits", a_spec(), "r1"), "ada")
    cluster.round()
    cluster.round()
    [key] = cluster.hosts["h0"].ranks
    for _ in range(4):
        sample = Sample(*key, step=8, steps=8, compute_s=0.5, points=((8, {"loss": 0.5}),))
        cluster.clock.advance(1.0)
        cluster.engine.report(replace(cluster.hosts["h0"].report(), samples=(sample,)))
    [row] = commands(rq.FindJobs(Query(metrics=parse_conditions("loss=0.5"))), "bob")
    assert (row.job, row.steps, row.compute_s, row.user) == ("digits#1", 32, 2.0, "ada")
    report = commands(rq.ReadFacts("digits"), "bob")
    assert [len(rank.rows) for rank in report.ranks] == [4]
    with pytest.raises(UnknownName):
        commands(rq.ReadFacts("nothing"), "bob")
