"""A queue too long to be planned at once: events are served by what the last plan left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient_nb.control import dispatch
from resilient_nb.control.commands import Commands
from resilient_nb.core.model import JobState, Outcome
from resilient_nb.testing.builders import a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import requests as rq


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    """Four slots, and three gangs of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "AT_ONCE", 0)
        made = FakeCluster(tmp_path, {"h0": 4})
        made.round()
        for run in ("a", "b", "c"):
            submit(made, run, 2)
        for _ in range(3):
            made.round()
        yield made


def submit(cluster: FakeCluster, run: str, workers: int) -> None:
    request = rq.Submit(run, a_spec(workers), f"req-{run}")
    Commands(cluster.engine, "x")(request, cluster.settings.user)


def states(cluster: FakeCluster) -> dict[str, JobState]:
    return {job.run: job.state for job in cluster.engine.world.jobs.values()}


def test_nothing_is_planned_in_the_event_itself(cluster: FakeCluster) -> None:
    assert states(cluster) == {
        "a": JobState.RUNNING,
        "b": JobState.RUNNING,
        "c": JobState.QUEUED,
    }


def test_slots_that_come_free_go_to_the_next_without_a_plan(cluster: FakeCluster) -> None:
    host = cluster.hosts["h0"]
    for rank in [r for r in host.ranks.values() if r.attempt.run == "a"]:
        host.end(rank, Outcome.FINISHED, exit_code=0)
    cluster.report("h0")
    assert states(cluster) == {
        "a": JobState.SUCCEEDED,
        "b": JobState.RUNNING,
        "c": JobState.STARTING,
    }


def test_a_cancelled_one_makes_room_at_once_and_an_arrival_takes_it(cluster: FakeCluster) -> None:
    commands = Commands(cluster.engine, "x")
    commands(rq.Cancel("c"), cluster.settings.user)
    commands(rq.Cancel("b"), cluster.settings.user)
    host = cluster.hosts["h0"]
    for rank in [r for r in host.ranks.values() if r.leaving]:
        host.end(rank, Outcome.LEFT, exit_code=0)
    cluster.report("h0")
    submit(cluster, "d", 2)
    assert states(cluster)["d"] is JobState.STARTING


def test_plans_of_a_long_queue_take_a_part_of_the_time(cluster: FakeCluster) -> None:
    submit(cluster, "wide", 3)
    cluster.clock.advance(2.0)
    assert sum(1 for _ in cluster.engine.queue.work()) > 0
    submit(cluster, "wider", 4)
    assert sum(1 for _ in cluster.engine.queue.work()) == 0  # a second has not passed
    cluster.clock.advance(2.0)
    assert sum(1 for _ in cluster.engine.queue.work()) > 0
