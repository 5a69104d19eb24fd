"""Checkpoints at an interval that is measured, on two ranks, and shown."""

from __future__ import annotations

import os
import signal

from cells import finish, submit, train, wait
from resilient_nb.client import Client
from resilient_nb.core.interval import SHORTEST
from resilient_nb.core.model import Interval, JobState

AUTO = Interval(auto=True, overhead=0.3)


def test_checkpoints_come_as_often_as_pays(client: Client) -> None:
    job = submit(client, "auto", train(80, pause=0.03), every=AUTO)
    view = wait(client, job, lambda v: v.cadence is not None)
    first, cadence = view.checkpoints[0], view.cadence
    assert cadence is not None
    assert cadence.every >= SHORTEST
    assert 0 < cadence.cost <= cadence.overhead * cadence.every
    assert view.started_at is not None
    assert 4 < first.at - view.started_at < 30
    os.kill(view.ranks[1].pid, signal.SIGKILL)
    # It failed soon: so the next failure is expected sooner, too.
    again = wait(client, job, lambda v: v.attempts == 2 and v.cadence is not None)
    assert again.cadence is not None
    assert again.cadence.mtbf < cadence.mtbf
    assert (again.failures[0].resumes_from or 0) >= first.step
    assert finish(client, job).state is JobState.SUCCEEDED
