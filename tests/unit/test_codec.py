"""`wire`: what is sent arrives equal, and what doesn't fit is an error that says what to do."""

from __future__ import annotations

import json
import math
from dataclasses import is_dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb import errors
from resilient_nb.core.interval import PRESUMED
from resilient_nb.core.model import Cadence, Injection, Interval, JobState, OnNan
from resilient_nb.core.querying import Query, parse_conditions
from resilient_nb.core.retention import parse_keep
from resilient_nb.core.views import JobView, Live, job_view
from resilient_nb.errors import ResilientError, VersionMismatch, from_wire
from resilient_nb.testing.builders import (
    Story,
    a_checkpoint,
    a_report,
    a_row,
    a_spec,
    an_attempt,
    an_end,
    an_error,
    an_import,
    failed,
)
from resilient_nb.wire import orders as od
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import build, from_json, plain, schema, to_json
from resilient_nb.wire.feed import Follow
from resilient_nb.wire.frames import FrameReader, frame

ORDERS: list[Any] = [
    od.Prepare("a#1", 1), od.Launch(an_attempt("a#1"), 0, 2), od.Leave("a#1", 1, 2.5),
    od.Kill("a#1", 1), od.Committed("a#1", 1, 20), od.Acknowledge(("x", "y")), od.Shutdown(),
    od.Shelve("a/00000020-e1", ("tcp://b",)), od.PutBack("a/00000020-e1"),
    od.Chaos("a#1", 1, "i", Injection.STOP, 1, 10.0),
]  # fmt: skip
FACTS: list[Any] = [
    od.Prepared("a#1", 1, 4000), od.RankStarted("a#1", 1, 0, 77), od.Note("a#1", 1, 0, "ü"),
    od.CheckpointWritten(a_checkpoint(metrics={"loss": 0.5}), "best"),
    od.CheckpointFailed("a#1", 1, 20, 28, "The checkpoint at step 20 failed: full."),
    od.RankDone("a#1", 1, failed(0, an_error("KeyError"))), od.RankDone("a#1", 1, an_end()),
    od.Reads("a#1", 1, "train", "/data/train.npy"),
]  # fmt: skip
REQUESTS: list[Any] = [
    rq.GetAlerts(), rq.TestAlerts(), Follow(7, ("a#1",), False, 1.0),
    rq.GetCluster(), rq.PutBlob("d", 0, 3, b"\x00\xff1"), rq.Submit("a", a_spec(), "r"),
    rq.Cancel("a"), rq.Resume("a", "r", "best"), rq.Rollback("a@1", head=""), rq.Tag("a@1", "best"),
    rq.Fork("a@1", "b"), rq.Resolve("a"), rq.ListJobs(), rq.ListRuns("a"), rq.Watch("a#1", 3),
    rq.ReadLog("a", 0, None, -5), rq.ReadOut("a"), rq.VacateAll(), rq.GetQueue(), rq.Why("a"),
    rq.BeginImport("a"), rq.Import(an_import("a", 3)),
    rq.FindJobs(Query(metrics=parse_conditions("loss<1"))), rq.ReadFacts("a", 1),
    rq.Retry("a", "r", 1, True, 1 << 30, OnNan.STOP), rq.ListDead(), rq.Recap(60.0, "ada"),
    rq.Inject("a#1", Injection.FILL_DISK, "i", 1, 2.0),
    rq.Restart("a", 1), rq.Retain("a"), rq.Retain("a", parse_keep("last=2,best=1:loss"), True),
]  # fmt: skip


def over_msgpack(value: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    ("registry", "messages"),
    [(od.ORDERS, ORDERS), (od.FACTS, FACTS), (rq.REQUESTS, REQUESTS)],
    ids=["orders", "facts", "requests"],
)
def test_every_message_arrives_equal(registry: Any, messages: list[Any]) -> None:
    assert {type(message).__name__ for message in messages} == set(registry._kinds)
    for message in messages:
        found = registry.unpack(over_msgpack(registry.pack(message)))
        assert found == message
        assert type(found) is type(message)


def test_unpacking_doesnt_change_what_it_is_given() -> None:
    packed = od.ORDERS.pack(od.Kill("a#1", 1))
    before = dict(packed)
    od.ORDERS.unpack(packed)
    assert packed == before


@pytest.mark.parametrize("data", [
    {}, {"kind": "Nonsense"}, {"kind": None}, {"kind": "Kill"}, {"kind": "Kill", "job": "a#1"},
    {"kind": "Kill", "job": "a#1", "epoch": "one"}, {"kind": "Kill", "job": None, "epoch": 1},
])  # fmt: skip
def test_what_doesnt_fit_is_a_version_mismatch(data: dict[str, Any]) -> None:
    with pytest.raises(VersionMismatch, match=r"install the same one on both|must match"):
        od.ORDERS.unpack(data)


def test_a_report_and_its_reply_arrive_equal() -> None:
    sample = od.Sample("a#1", 1, 0, points=((1, {"loss": math.inf}),))
    log = od.LogChunk("a#1", 1, 0, 5, b"\xff\x00")
    report = a_report("h0", *FACTS, ranks=(a_row(),), samples=(sample,), logs=(log,))
    found = build(od.Report, over_msgpack(plain(report)))
    assert replace(found, facts=()) == replace(report, facts=())
    assert [od.FACTS.unpack(dict(fact)) for _, fact in found.facts] == FACTS
    reply = od.ReportReply(("x",), {"a#1/1/0": 6})
    assert build(od.ReportReply, over_msgpack(plain(reply))) == reply


def test_a_not_a_number_arrives_over_msgpack() -> None:
    sample = od.Sample("a#1", 1, 0, points=((1, {"loss": math.nan}),))
    assert repr(build(od.Sample, over_msgpack(plain(sample)))) == repr(sample)


def test_what_was_before_there_was_auto_reads_as_it_was_meant() -> None:
    """Journals and messages of then have two fields."""
    assert build(Interval, {"steps": None, "seconds": 30.0}) == Interval(seconds=30.0)
    assert build(Interval, {"steps": 20, "seconds": None}) == Interval(steps=20)
    assert build(Interval, {"steps": None, "seconds": None}).never
    old = plain(an_attempt("a#1"))
    del old["mtbf"]
    assert build(od.Attempt, old).mtbf == PRESUMED


@pytest.mark.parametrize("overhead", [0.01, 0.005, 0.3])
def test_an_interval_of_auto_arrives_equal(overhead: float) -> None:
    interval = Interval(auto=True, overhead=overhead)
    assert build(Interval, over_msgpack(plain(interval))) == interval
    assert build(Interval, from_json(to_json(interval))) == interval
    cadence = Cadence(42.5, 0.18, 32400.0, overhead)
    sample = od.Sample("a#1", 1, 0, cadence=cadence)
    assert build(od.Sample, over_msgpack(plain(sample))) == sample


def test_views_arrive_equal() -> None:
    story = Story().submit(workers=2).start().checkpoint(20, tag="best").stop().end(failed(0))
    live = Live(series={"loss": ((1, 0.5),)}, cadence=Cadence(42.5, 0.18, 32400.0, 0.01))
    view = job_view(story.world, story.job(), live, "/runs")
    assert build(JobView, over_msgpack(plain(view))) == view
    assert from_json(to_json(view))["state"] == JobState.STOPPING.value
    assert from_json(to_json(view))["cadence"]["every"] == 42.5


def test_the_schema_defines_every_report_and_names_its_fields() -> None:
    document = schema(*rq.REPORTS)
    json.dumps(document)
    for kind in rq.REPORTS:
        assert is_dataclass(kind)
        properties = document["$defs"][kind.__name__]["properties"]
        assert set(properties) == set(kind.__dataclass_fields__)


# --- frames ---

messages = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=9)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 20)))
def test_frames_arrive_whole_however_the_stream_is_cut(sent: list[Any], cuts: list[int]) -> None:
    stream = b"".join(frame(message) for message in sent)
    reader, found, at = FrameReader(), [], 0
    for size in [*cuts, len(stream)]:
        found += reader.feed(stream[at : at + size])
        at += size
    assert found == sent


def test_half_a_frame_is_no_message() -> None:
    reader, data = FrameReader(), frame({"a": 1})
    assert reader.feed(data[:-1]) == []
    assert reader.feed(b"") == []
    assert reader.feed(data[-1:] + data) == [{"a": 1}, {"a": 1}]


# --- errors ---

CLASSES = errors._subclasses(ResilientError)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_trip(kind: type[ResilientError]) -> None:
    found = from_wire(over_msgpack(kind("Job a: no. Do b.").to_wire()))
    assert type(found) is kind
    assert str(found) == "Job a: no. Do b."


def test_codes_are_unique_and_unknown_ones_become_the_base_class() -> None:
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)
    found = from_wire({"code": "from-the-future", "message": "hm"})
    assert (type(found), str(found)) == (ResilientError, "hm")
    assert str(from_wire({})) == ""


def test_a_notebook_shows_an_error_as_one_line() -> None:
    assert errors.Conflict("Taken.")._render_traceback_() == ["Conflict: Taken."]
