"""Each click is one request, names exactly what it is about, and is answered in a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilient_nb import errors
from resilient_nb.core.views import JobView, RunView
from resilient_nb.errors import InvalidRequest, ResilientError
from resilient_nb.server.actions import done, request, status
from resilient_nb.wire import requests as rq
from resilient_nb.wire.feed import Action
from tests.unit.server.control import a_job

ID = "digits/00000120-e1"
RUN = RunView(
    name="digits", created_at=0.0, head=ID, forked_from=None, tags={}, checkpoints=(), jobs=(),
    active_job=None,
)  # fmt: skip


def click(verb: Any, **parts: Any) -> Action:
    return Action(verb, "r1", **parts)


@pytest.mark.parametrize(
    ("action", "message", "kind"),
    [
        (click("cancel", job="digits#1"), rq.Cancel("digits#1"), JobView),
        (click("restart", job="digits#1", epoch=2), rq.Restart("digits#1", 2), JobView),
        (
            click("retry", job="digits#1", epoch=2, anyway=True, memory=5),
            rq.Retry("digits#1", "r1", 2, True, 5),
            rq.Submitted,
        ),
        (click("resume", run="digits"), rq.Resume("digits", "r1"), rq.Submitted),
        (
            click("resume", run="digits", ref=ID, head=""),
            rq.Resume("digits", "r1", ID, head=""),
            rq.Submitted,
        ),
        (click("rollback", run="digits", ref=ID, head="x"), rq.Rollback(ID, head="x"), RunView),
        (click("fork", ref=ID, name="other"), rq.Fork(ID, "other"), RunView),
        (click("tag", ref=ID, name="best"), rq.Tag(ID, "best"), RunView),
    ],
)
def test_each_verb_is_a_request(action: Action, message: Any, kind: type[Any]) -> None:
    assert request(action) == (message, kind)
    assert rq.REQUESTS.unpack(rq.REQUESTS.pack(message)) == message


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        (click("cancel"), "job"),
        (click("restart", job="digits#1"), "epoch"),
        (click("retry", job="digits#1"), "epoch"),
        (click("resume", job="digits#1"), "run"),
        (click("rollback", run="digits"), "ref"),
        (click("fork", ref=ID), "name"),
        (click("tag", name="best"), "ref"),
        (Action("cancel", "", job="digits#1"), "request_id"),
    ],
)
def test_what_is_missing_is_named(action: Action, missing: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{action.verb}.*needs '{missing}'"):
        request(action)


@pytest.mark.parametrize(
    "parts", [{"memory": -1}, {"memory": 2**63}, {"epoch": -1}, {"epoch": 2**63}]
)
def test_a_number_that_cant_be_is_refused(parts: dict[str, int]) -> None:
    [name] = parts
    with pytest.raises(InvalidRequest, match=f"no '{name}' of"):
        request(click("retry", **{"job": "digits#1", "epoch": 1, **parts}))


def test_a_run_isnt_rolled_back_to_anothers_checkpoint() -> None:
    with pytest.raises(InvalidRequest, match="no checkpoint of run other"):
        request(click("rollback", run="other", ref=ID))


def test_what_is_done_is_said() -> None:
    cancelled = done(click("cancel", job="digits#1"), a_job())
    assert (cancelled.said, cancelled.job) == ("Job digits#1 is stopping.", "digits#1")
    made = done(click("resume", run="digits"), rq.Submitted("digits#2", "digits", 120, ""))
    assert made.said == "Job digits#2 was submitted; it goes on from step 120."
    assert (made.job, made.run) == ("digits#2", "digits")
    back = done(click("rollback", ref=ID), RUN)
    assert back.said == "The head of digits is digits@120. Nothing was deleted."
    forked = done(click("fork", ref=ID, name="other"), replace(RUN, name="other"))
    assert forked.said == "Run other begins at digits@120: resume it to go on there."
    assert forked.run == "other"
    assert done(click("tag", ref=ID, name="best"), RUN).said == "digits@120 is tagged best."


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest, 400),
        (errors.CannotCapture, 400),
        (errors.NotAllowed, 403),
        (errors.UnknownName, 404),
        (errors.Conflict, 409),
        (errors.AlreadyRunning, 409),
        (errors.StaleEpoch, 409),
        (errors.ClusterUnreachable, 503),
        (errors.NoCluster, 503),
        (errors.JournalDamaged, 503),
        (errors.VersionMismatch, 409),
        (errors.CorruptCheckpoint, 500),
    ],
)
def test_errors_have_a_status(error: type[ResilientError], code: int) -> None:
    assert status(error("why")) == code
