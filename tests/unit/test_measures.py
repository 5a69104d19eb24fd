"""Measures: what Prometheus reads, within bounds, and what the dashboard asks for is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import resilient_nb
from resilient_nb.control.alerting import Alerting
from resilient_nb.control.metrics import Metrics, metrics_url
from resilient_nb.core import measures
from resilient_nb.core.events import JobFailed
from resilient_nb.core.measures import Measure, Type, Waits
from resilient_nb.core.views import HostView, LiveRank
from resilient_nb.testing.builders import Story, a_failure
from resilient_nb.testing.fakes import FakeCluster

HOSTS = (HostView("h0", 4, 3, ("tcp://h0",), True, store_free=1 << 30),)


def rows(job: str) -> list[LiveRank]:
    """Return two ranks, the second one slow."""
    quick = LiveRank(
        0, "running", "h0", 1, 10, 100, 5.0, rss=100, cpu=1.0, limit=200, gpu=0.5, gpu_memory=7
    )
    slow = LiveRank(1, "running", "h0", 2, 9, 100, 4.0, rss=50, cpu=0.5, data_s=0.1, compute_s=0.2)
    return [quick, slow]


def a_world() -> Story:
    """Return jobs of all kinds."""
    story = Story().submit("waits")
    story.submit("runs", workers=2).start("runs")
    story.submit("retried").start("retried").stop(run="retried")
    story.requeue("retried", a_failure("killed from outside", lost_steps=7, lost_s=3.5))
    story.submit("dead").start("dead").stop(run="dead")
    job = story.job("dead")
    return story.then(JobFailed(story.now, job.id, job.epoch, a_failure(decision="stop")))


def found(story: Story, now: float | None = None) -> dict[str, Measure]:
    at = story.now if now is None else now
    all_of_them = list(measures.measures(story.world, rows, HOSTS, at))
    by_name = {measure.name: measure for measure in all_of_them}
    assert len(by_name) == len(all_of_them)
    return by_name


def value(measure: Measure, *labels: str) -> float:
    return dict(measure.rows)[labels]


def test_what_is_measured() -> None:
    story = a_world()
    known = found(story)
    assert value(known["resilient_jobs"], "queued") == 2
    assert value(known["resilient_jobs"], "running") == 1
    assert value(known["resilient_jobs"], "failed") == 1
    assert value(known["resilient_jobs"], "succeeded") == 0
    assert value(known["resilient_queue_length"], "everyone", "normal") == 2
    assert value(known["resilient_slots_used"], "h0") == 3
    assert value(known["resilient_failures"], "killed from outside", "retry") == 1
    assert value(known["resilient_failures"], "native crash", "stop") == 1
    assert value(known["resilient_lost_seconds"], "killed from outside") == 3.5
    assert value(known["resilient_lost_steps"], "killed from outside") == 7
    assert value(known["resilient_store_free_bytes"]) == 1 << 30
    job = (story.job("runs").spec.user, "everyone", "runs", "runs#1")
    assert value(known["resilient_job_steps_per_second"], *job) == 4.0  # the slowest's
    assert value(known["resilient_job_phase_seconds"], *job, "compute") == 0.2
    assert value(known["resilient_rank_memory_bytes"], *job, "1", "h0") == 50
    for name in ("memory_limit_bytes", "gpu_busy_ratio", "gpu_memory_bytes"):
        assert [labels[-2] for labels, _ in known[f"resilient_rank_{name}"].rows] == ["0"]
    assert value(known["resilient_left_out"]) == 0


def test_names_and_labels_are_prometheus_own() -> None:
    for measure in found(a_world()).values():
        assert re.fullmatch(r"resilient(_[a-z]+)+", measure.name), measure
        assert not measure.name.endswith("_total"), measure  # the client appends it
        assert measure.help.endswith("."), measure
        assert all(len(labels) == len(measure.labels) for labels, _ in measure.rows), measure
        assert len({labels for labels, _ in measure.rows}) == len(measure.rows), measure


def test_what_grows_with_use_is_bounded() -> None:
    story = Story()
    for number in range(measures.MOST_JOBS + 5):
        story.submit(f"run-{number}").start(f"run-{number}")
    known = found(story)
    assert len(known["resilient_job_step"].rows) == measures.MOST_JOBS
    assert len(known["resilient_rank_memory_bytes"].rows) <= measures.MOST_RANKS
    assert value(known["resilient_left_out"]) == 5
    assert value(known["resilient_jobs"], "running") == measures.MOST_JOBS + 5


def test_a_job_that_ended_leaves_no_labels() -> None:
    story = Story().submit().start().succeed()
    assert all("digits#1" not in labels for m in found(story).values() for labels, _ in m.rows)


def test_counters_only_grow() -> None:
    story, last = Story().submit(), -1.0
    for _ in range(5):
        story.start().stop().requeue(failure=a_failure())
        count = sum(v for _, v in found(story)["resilient_failures"].rows)
        assert count > last
        last = count
    assert found(story)["resilient_failures"].type is Type.COUNTER


def test_waiting_is_counted_at_the_first_start_only() -> None:
    story, waits = Story().submit(), Waits()

    def step(act: Any) -> None:
        before, count = story.world, len(story.events)
        act()
        waits.heard(story.events[count:], before, story.world)

    step(lambda: story.start())
    step(lambda: story.stop().requeue(failure=a_failure()))
    step(lambda: story.start())
    bounds = waits.buckets()
    assert bounds[-1] == ("+Inf", 1.0)
    assert [count for _, count in bounds] == sorted(count for _, count in bounds)
    assert waits.total == 1.0


# --- on /metrics --------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    made = FakeCluster(tmp_path, {"h0": 2})
    alerting = Alerting(made.engine)
    collector = Metrics(made.engine, alerting)
    yield made
    collector.close()
    alerting.close()


def page() -> dict[str, Any]:
    """Return what Dask's page would have, by the names that queries use."""
    text = prometheus_client.generate_latest().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample for family in families for sample in family.samples}


def test_the_page_has_our_measures_until_we_close(cluster: FakeCluster) -> None:
    cluster.round()
    assert page()["resilient_slots"].value == 2
    assert "resilient_job_waiting_seconds_bucket" in page()
    second = Metrics(cluster.engine, Alerting(cluster.engine))  # the newest answers
    assert page()["resilient_slots"].value == 2
    second.close()
    assert not [name for name in page() if name.startswith("resilient_")]


def test_a_failure_of_ours_leaves_dasks_own_measures(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.engine, "world", None)
    assert not [name for name in page() if name.startswith("resilient_")]
    assert "python_info" in page()


def test_no_server_has_no_url() -> None:
    assert metrics_url(object()) == ""


def test_the_dashboard_asks_only_for_what_there_is() -> None:
    text = (Path(resilient_nb.__file__).parent / "grafana.json").read_text()
    dashboard = json.loads(text)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one in panels:  # none lies on another
        for other in panels:
            assert one is other or not overlap(one["gridPos"], other["gridPos"])
    asked = set(re.findall(r"\bresilient_[a-z_]+", text)) - {"resilient_nb"}
    story = a_world()
    names = {f"{m.name}_total" if m.type is Type.COUNTER else m.name for m in found(story).values()}
    waiting = {f"resilient_job_waiting_seconds_{end}" for end in ("bucket", "sum", "count")}
    assert asked <= names | waiting | {"resilient_alerts_firing"}
    unused = names - asked
    assert unused <= {"resilient_left_out"}, "the dashboard shows all that is measured"


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    apart = (
        a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    )  # fmt: skip
    return not apart
