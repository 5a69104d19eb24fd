"""A network that is cut closes no connection: hosts that fall silent are found all the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from resilient_nb.control.commands import Commands
from resilient_nb.core.causes import HOST_LOST
from resilient_nb.core.model import Job, JobState
from resilient_nb.testing.builders import a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import requests as rq


class Desk:
    """A job on one of two hosts."""

    def __init__(self, home: Path) -> None:
        self.cluster = FakeCluster(home, {"h0": 1, "h1": 1})
        self.cluster.round()
        ask = partial(Commands(self.cluster.engine, "tcp://here"), user="ada")
        ask(rq.Submit("digits", a_spec(), "r1"))
        self.rounds(3)
        assert self.job.state is JobState.RUNNING
        self.host = self.job.placement[0].host

    @property
    def job(self) -> Job:
        return self.cluster.engine.world.jobs["digits#1"]

    @property
    def notes(self) -> tuple[str, ...]:
        return self.cluster.engine.live.of("digits#1").notes

    def rounds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.cluster.round()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_silent_host_is_told_of_and_then_counts_as_lost(desk: Desk) -> None:
    desk.cluster.hosts[desk.host].agent = False  # nobody is told that it went
    desk.rounds(9)
    assert desk.notes == ()
    desk.rounds(3)
    assert desk.notes == (f"{desk.host} doesn't answer; its ranks count as lost after 30 s.",)
    assert desk.job.state is JobState.RUNNING
    desk.rounds(25)
    [failure] = desk.job.failures
    assert (failure.cause, failure.decision) == (HOST_LOST, "retry")
    assert desk.job.placement[0].host != desk.host
    # The cable is back: the old attempt's rank is ended, and the new one is left alone.
    desk.cluster.hosts[desk.host].agent = True
    desk.rounds(3)
    assert [key[:2] for _, key in desk.cluster.live()] == [("digits#1", 2)]


def test_nobody_is_silent_while_nobody_listens(desk: Desk) -> None:
    """The scheduler was stopped for an hour, with its machine."""
    desk.cluster.clock.advance(3600.0)
    desk.cluster.engine.tick()
    desk.rounds(3)
    assert (desk.job.epoch, desk.job.failures, desk.notes) == (1, (), ())


def test_a_worker_that_starts_anew_while_nobody_listens_is_waited_for(desk: Desk) -> None:
    desk.cluster.agent_leaves(desk.host)
    desk.cluster.clock.advance(3600.0)
    desk.cluster.engine.tick()
    desk.cluster.hosts[desk.host].agent = True
    desk.rounds(3)
    assert (desk.job.epoch, desk.job.failures) == (1, ())
