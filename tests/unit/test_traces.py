"""Spans from cell to rank, as an OTLP collector gets them."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from resilient_nb import tracing
from resilient_nb.control.commands import Commands
from resilient_nb.control.spans import Spans
from resilient_nb.core import traces
from resilient_nb.core.model import JobSpec, Outcome
from resilient_nb.core.traces import Parent, Span
from resilient_nb.notebook import spans
from resilient_nb.notebook.spans import traced
from resilient_nb.testing.builders import Story, a_failure, a_spec, killed
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.tracing import Tracer
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq

digits = st.integers(1, 2**128 - 1).map(lambda n: f"{n:032x}")


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; pytest-timeout bounds it."""
    while not condition():
        time.sleep(0.005)


class Collector:
    """An OTLP receiver: keeps all spans by their names."""

    def __init__(self) -> None:
        self.spans: dict[str, Any] = {}
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.services.add(names["service.name"])
            for scope in resource.scope_spans:
                self.spans.update({span.name: span for span in scope.spans})

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    url = f"http://127.0.0.1:{made.server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.delenv("TRACEPARENT", raising=False)
    spans._tracer.cache_clear()
    yield made
    spans._tracer().close()
    spans._tracer.cache_clear()
    made.close()


def said(span: Any) -> dict[str, Any]:
    """Return a span's attributes."""
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


# --- pure -----------------------------------------------------------------------------------------


@given(digits, digits.map(lambda text: text[:16]), st.booleans())
def test_a_traceparent_is_read_as_it_was_written(trace: str, span: str, sampled: bool) -> None:
    parent = Parent(trace, span, sampled)
    assert traces.parse(str(parent)) == (parent if int(span, 16) else None)


@given(st.text())
def test_what_is_none_is_nothing(text: str) -> None:
    assert traces.parse(text) is None


def test_places_follow_from_names() -> None:
    job = Story().submit(trace=str(Parent("a" * 32, "b" * 16))).start().job()
    place, parent = traces.submitted("c1", job)
    assert (place.trace, parent) == ("a" * 32, "b" * 16)
    assert traces.submitted("c2", job)[0] == place
    attempt = traces.attempt("c1", job)
    places = {place.span, attempt.span, *(traces.rank(attempt, n).span for n in range(5))}
    assert len(places) == 7
    alone = Story().submit().job()
    one, none = traces.submitted("c1", alone)
    assert none == ""
    assert traces.submitted("c2", alone)[0].trace != one.trace
    assert traces.parse(str(one)) == one


def test_an_attempt_that_failed_and_the_job() -> None:
    story = Story().submit(workers=2).start()
    before = story.stop().end(killed(0, host="h0", at=story.now)).job()
    before = story.end(killed(1, host="h0", ordered=True, at=story.now)).job()
    after = story.requeue(failure=a_failure("killed from outside", lost_steps=3)).job()
    first, second, attempt = traces.ended("c1", before, after, story.now)
    assert (first.name, second.name) == ("rank 0", "rank 1")
    assert first.parent == second.parent == attempt.place.span
    assert (first.error, second.error) == ("exited", "")
    assert attempt.error == "It broke."
    assert attempt.attributes["resilient_nb.lost_steps"] == 3
    assert attempt.start <= first.start <= first.end <= attempt.end
    before = story.start().job()
    after = story.succeed().job()
    *_, job = traces.ended("c1", before, after, story.now)
    assert (job.name, job.error, job.parent) == ("job digits#1", "", "")
    assert job.place.span == attempt.parent


def test_a_job_that_is_cancelled_in_the_queue_has_no_attempt() -> None:
    story = Story().submit()
    before, after = story.job(), story.cancel().job()
    [job] = traces.ended("c1", before, after, story.now)
    assert job.attributes["resilient_nb.state"] == "cancelled"


# --- sent -----------------------------------------------------------------------------------------


def test_without_an_endpoint_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in tracing._ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    seen: list[JobSpec] = []
    traced(a_spec(), lambda spec: seen.append(spec) or rq.Submitted("a#1", "a", None, ""))
    assert [spec.trace for spec in seen] == [""]
    cluster = FakeCluster(tmp_path, {"h0": 1})
    listener = Spans(cluster.engine)
    listener.close()
    assert listener.heard not in cluster.engine.listeners
    Tracer("x").send(Span("a", Parent("a" * 32, "b" * 16), "", 0.0, 1.0))


def test_spans_of_a_job_from_cell_to_ranks(collector: Collector, tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, {"h0": 2})
    listener = Spans(cluster.engine)
    commands = Commands(cluster.engine, "here")
    cluster.round()

    def submit(spec: JobSpec) -> Any:
        return commands(rq.Submit("digits", spec, "r1"), "ada")

    traced(a_spec(2), submit)
    cluster.round()
    cluster.round()
    [launch] = [order for _, order in cluster.orders if isinstance(order, orders.Launch)]
    for rank in list(cluster.hosts["h0"].ranks.values()):
        cluster.hosts["h0"].end(rank, Outcome.FINISHED)
    cluster.round()
    listener.close()
    spans._tracer().close()
    names = {"submit", "job digits#1", "attempt 1 of digits#1", "rank 0", "rank 1"}
    until(lambda: collector.spans.keys() == names)
    assert collector.services == {"resilient_nb", "resilient_nb notebook"}
    by = collector.spans
    assert len({span.trace_id for span in by.values()}) == 1
    assert by["submit"].parent_span_id == b""
    assert by["job digits#1"].parent_span_id == by["submit"].span_id
    attempt = by["attempt 1 of digits#1"]
    assert attempt.parent_span_id == by["job digits#1"].span_id
    assert by["rank 0"].parent_span_id == by["rank 1"].parent_span_id == attempt.span_id
    told = traces.parse(launch.attempt.trace)
    assert told is not None
    assert bytes.fromhex(told.span) == attempt.span_id
    assert traces.rank(told, 1).span == by["rank 1"].span_id.hex()
    assert said(by["submit"])["resilient_nb.job"] == "digits#1"
    assert said(by["job digits#1"])["resilient_nb.state"] == "succeeded"
    assert said(by["rank 1"])["host.name"] == "h0"
    assert attempt.start_time_unix_nano <= attempt.end_time_unix_nano


def test_a_submission_that_is_refused_is_a_span_with_the_error(collector: Collector) -> None:
    def refuse(_: JobSpec) -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        traced(a_spec(), refuse)
    spans._tracer().close()
    until(lambda: collector.spans)
    assert collector.spans["submit"].status.message == "ValueError: no"


def test_the_users_own_span_is_around_ours(collector: Collector) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("mine")
    with tracer.start_as_current_span("mine") as mine:
        place, around = tracing.here()
    context = mine.get_span_context()
    assert (place.trace, around) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


def test_the_environments_trace_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TRACEPARENT", str(Parent("a" * 32, "b" * 16, False)))
    place, around = tracing.here()
    assert (place.trace, around, place.sampled) == ("a" * 32, "b" * 16, False)


def test_what_isnt_sampled_isnt_sent(collector: Collector) -> None:
    tracer = Tracer("x")
    tracer.send(Span("no", Parent("a" * 32, "b" * 16, False), "", 0.0, 1.0))
    tracer.send(Span("yes", Parent("a" * 32, "b" * 16), "", 0.0, 1.0))
    tracer.close()
    until(lambda: collector.spans)
    assert list(collector.spans) == ["yes"]


def test_a_collector_that_isnt_there_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "_LAST", 0.2)
    tracer, began = Tracer("x"), time.monotonic()
    tracer.send(Span("a", Parent("a" * 32, "b" * 16), "", 0.0, 1.0))
    tracer.close()
    assert time.monotonic() - began < 5
