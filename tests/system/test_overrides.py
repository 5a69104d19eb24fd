"""Failures on a real cluster: what is told of them, and how people override the decisions."""

from __future__ import annotations

import json

import pytest

from cells import finish, results, submit, wait
from resilient_nb.client import Client
from resilient_nb.core import causes as cs
from resilient_nb.core.model import Interval, JobState
from resilient_nb.core.recap import DeadReport, RecapReport
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.execute import execute
from resilient_nb.notebook.options import parse_arguments
from resilient_nb.wire.codec import build

#: Fails at step 7 as long as there is no file of this name.
FAILS = """
import os, ctypes, time
steps = []
for n in run.steps(10):
    steps.append(n)
    if n == 7 and not os.path.exists({gate!r}):
        time.sleep(1.0)  # the checkpoint of step 5 is there by then
        {fault}
"""


def resilient(*words: str) -> str:
    """Return what the shell command prints."""
    return str(execute(parse_arguments(words)))


def test_a_crash_at_one_step_is_tried_once_more_and_then_a_person_may(
    client: Client, tmp_path: object
) -> None:
    gate = f"{tmp_path}/open"
    cell = FAILS.format(gate=gate, fault="ctypes.string_at(0)")
    job = submit(client, "crashing", cell, workers=1, out=("steps",), every=Interval(steps=5))
    view = finish(client, job)
    assert view.state is JobState.FAILED
    found = [(f.cause, f.decision, f.step) for f in view.failures]
    assert found == [(cs.CRASH, "retry", 7), (cs.CRASH, "stop", 7)]
    assert "string_at" in view.failures[0].stacks
    assert view.failures[0].lost_steps == 2
    assert view.failures[0].down_s > 0
    with pytest.raises(InvalidRequest, match="resilient retry crashing --anyway"):
        resilient("retry", "crashing")
    open(gate, "w").close()
    assert "goes on from step 5" in resilient("retry", "crashing", "--anyway")
    assert finish(client, "crashing#2").state is JobState.SUCCEEDED
    assert results(client, "crashing#2")["steps"] == list(range(10))


def test_a_dead_letter_is_listed_and_requeued(client: Client, tmp_path: object) -> None:
    gate = f"{tmp_path}/open"
    cell = FAILS.format(gate=gate, fault="raise OSError('the printer is on fire')")
    finish(client, submit(client, "letter", cell, workers=1, retries=0))
    report = build(DeadReport, json.loads(resilient("dead", "--json")))
    [mine] = [letter for letter in report.letters if letter.job == "letter#1"]
    assert (mine.cause, mine.spent) == (cs.USER_ERROR, "retries")
    shown = resilient("dead", "letter")
    assert "Raised from line 8: raise OSError('the printer is on fire')" in shown
    assert "resilient retry letter" in resilient("why", "letter")
    night = build(RecapReport, json.loads(resilient("recap", "--since", "1h", "--json")))
    assert "letter#1" in [row.job for row in night.jobs if row.act]
    with pytest.raises(InvalidRequest, match=r"900\.0 GiB of memory .* is the most here"):
        resilient("retry", "letter", "--memory", "900GiB")
    open(gate, "w").close()
    assert "letter#2 goes on from step 5" in resilient("dead", "letter", "--requeue")
    assert finish(client, "letter#2").state is JobState.SUCCEEDED
    assert "letter#1" not in resilient("dead", "--json")


def test_a_pause_is_ended_by_a_person(client: Client) -> None:
    """A network that stays down; a retry doesn't wait for the pause."""
    cell = "raise ConnectionRefusedError(111, 'refused')"
    job = submit(client, "offline", cell, workers=1)

    def paused_long(view: object) -> bool:
        found = client.watch(job, timeout=0.0).job
        return found.state is JobState.QUEUED and len(found.failures) >= 3

    view = wait(client, job, paused_long)
    assert {f.cause for f in view.failures} == {cs.NETWORK}
    assert "offline#1" in resilient("retry", "offline")
    client.cancel(job)
    finish(client, job)
