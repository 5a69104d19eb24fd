"""What browsers ask for and do, by REST."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from resilient_nb._version import __version__
from resilient_nb.core.model import JobState
from resilient_nb.core.views import RunView, WhyReport
from resilient_nb.errors import AlreadyRunning, Conflict, NotAllowed, UnknownName
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import PROTOCOL
from tests.unit.server.control import FakeControl, a_job

Fetch = Callable[..., Awaitable[Any]]
CANCEL = {"verb": "cancel", "request_id": "r1", "job": "digits#1"}


@pytest.fixture
def get(jp_fetch: Fetch) -> Fetch:
    """Ask a question; return status and body."""

    async def got(name: str, **params: Any) -> tuple[int, Any]:
        return await outcome(jp_fetch("resilient-nb", name, params=params))

    return got


@pytest.fixture
def post(jp_fetch: Fetch) -> Fetch:
    """Do something; return status and body."""

    async def posted(action: Any, **params: Any) -> tuple[int, Any]:
        body = action if isinstance(action, bytes) else json.dumps(action)
        path = ("resilient-nb", "actions")
        return await outcome(jp_fetch(*path, params=params, method="POST", body=body))

    return posted


async def outcome(answer: Awaitable[Any]) -> tuple[int, Any]:
    try:
        response = await answer
    except HTTPClientError as error:
        response = error.response
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    return response.code, json.loads(response.body)


# --- clicks -----------------------------------------------------------------------------


async def test_a_click_is_done_and_answered(post: Fetch, cluster: FakeControl) -> None:
    cluster.answers[rq.Cancel] = a_job()
    done = {"said": "Job digits#1 is stopping.", "job": "digits#1", "run": "digits"}
    assert await post(CANCEL) == (200, done)
    assert cluster.asked == [rq.Cancel("digits#1")]


async def test_a_click_that_comes_again_is_done_once(post: Fetch, cluster: FakeControl) -> None:
    cluster.answers[rq.Cancel] = a_job()
    first = await post(CANCEL)
    assert await post(CANCEL) == first
    assert len(cluster.asked) == 1
    await post({**CANCEL, "request_id": "r2"})
    assert len(cluster.asked) == 2


async def test_a_click_that_went_wrong_can_be_tried_again(
    post: Fetch, cluster: FakeControl
) -> None:
    cluster.answers[rq.Cancel] = NotAllowed("It is bob's.")
    assert await post(CANCEL) == (403, {"code": "not-allowed", "message": "It is bob's."})
    cluster.answers[rq.Cancel] = a_job()
    assert (await post(CANCEL))[0] == 200


async def test_a_fork_of_which_the_answer_was_lost_is_done(
    post: Fetch, cluster: FakeControl
) -> None:
    ref = "digits/00000120-e1"
    fork = {"verb": "fork", "request_id": "r1", "ref": ref, "name": "wide"}
    run = RunView("wide", 0.0, ref, ref, {}, (), (), None)
    cluster.answers[rq.Fork] = Conflict("Run wide exists already.")
    cluster.answers[rq.ListRuns] = [run]
    assert (await post(fork))[0] == 200
    for other in (replace(run, forked_from="digits/00000100-e1"), replace(run, jobs=("wide#1",))):
        cluster.answers[rq.ListRuns] = [other]
        code, refused = await post({**fork, "request_id": "r2"})
        assert (code, refused["message"]) == (409, "Run wide exists already.")


@pytest.mark.parametrize(
    ("error", "status"),
    [(UnknownName("There is no job."), 404), (AlreadyRunning("It runs."), 409)],
)
async def test_what_is_refused_has_a_code_and_a_sentence(
    post: Fetch, cluster: FakeControl, error: Any, status: int
) -> None:
    cluster.answers[rq.Cancel] = error
    assert await post(CANCEL) == (status, error.to_wire())


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff", "malformed"),
        (b"[]", "object"),
        ({"verb": "cancel"}, "request_id"),
        ({**CANCEL, "verb": "delete"}, "delete"),
        ({**CANCEL, "job": 1}, "$.job"),
        ({**CANCEL, "epoch": "2"}, "$.epoch"),
        ({**CANCEL, "job": ""}, "'job'"),
        ({"verb": "rollback", "request_id": "r", "ref": "no such ref"}, "no such ref"),
    ],
)
async def test_what_is_wrong_with_a_click_is_named(
    post: Fetch, cluster: FakeControl, body: Any, named: str
) -> None:
    code, refused = await post(body)
    assert (code, refused["code"]) == (400, "invalid-request")
    assert named in refused["message"]
    assert cluster.asked == []


async def test_another_cluster_can_be_named(post: Fetch, get: Fetch, control: FakeControl) -> None:
    await control.start()
    control.answers[rq.Cancel] = a_job()
    assert (await post(CANCEL, cluster=control.address))[0] == 200
    assert (await post(CANCEL))[0] == 503  # by default there is none
    assert (await get("status", cluster=control.address))[1]["cluster_id"] == "c1"


async def test_without_a_cluster_one_is_told_so(post: Fetch, get: Fetch) -> None:
    code, refused = await post(CANCEL)
    assert (code, refused["code"]) == (503, "cluster-unreachable")
    assert "`up`" in refused["message"]
    code, status = await get("status")
    assert code == 200
    assert status["user"] == "ada"
    assert status["address"] == status["cluster_id"] == ""
    assert "`up`" in status["error"]


async def test_a_cluster_that_is_away_is_named(
    get: Fetch, cluster: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilient_nb.server.clusters.PATIENCE", 0.0)
    await cluster.stop()
    code, refused = await get("why", job="digits#1")
    assert (code, refused["code"]) == (503, "cluster-unreachable")
    assert cluster.address in refused["message"]


async def test_no_address_is_refused(get: Fetch) -> None:
    code, refused = await get("why", job="digits#1", cluster="nonsense://x")
    assert (code, refused["code"]) == (400, "invalid-request")


# --- questions --------------------------------------------------------------------------


async def test_the_status_says_which_cluster_and_who(get: Fetch, cluster: FakeControl) -> None:
    cluster.user = "ada@example.org"
    expected = {
        "user": "ada@example.org", "version": __version__, "protocol": PROTOCOL,
        "address": cluster.address, "cluster_id": "c1", "error": "",
    }  # fmt: skip
    assert await get("status") == (200, expected)


async def test_why_is_passed_on(get: Fetch, cluster: FakeControl) -> None:
    cluster.answers[rq.Why] = WhyReport("digits#1", JobState.QUEUED, "<b>It waits.</b>", "")
    code, report = await get("why", job="digits#1")
    assert code == 200
    assert report["rule"] == "<b>It waits.</b>"
    assert cluster.asked == [rq.Why("digits#1")]


async def test_a_log_is_read_and_searched(get: Fetch, cluster: FakeControl) -> None:
    def read(ask: rq.ReadLog) -> rq.LogPiece:
        data, size = b"one\ntw\xff\n", 8
        start = max(0, size + ask.offset) if ask.offset < 0 else ask.offset
        return rq.LogPiece(data[start : start + ask.limit], start, size, 2, (1, 2))

    cluster.answers[rq.ReadLog] = read
    assert await get("log", job="digits#1", rank=1, epoch=2, offset=4) == (
        200, {"text": "tw�\n", "offset": 4, "next": 8, "size": 8, "epoch": 2, "epochs": [1, 2]},
    )  # fmt: skip
    assert cluster.asked[0].rank == 1
    assert cluster.asked[0].epoch == 2
    assert await get("search", job="digits#1", text="TW") == (
        200, {"matches": [{"offset": 4, "line": "tw�"}], "more": False, "epoch": 2},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "'job'"),
        ({"job": "a#1", "offset": "x"}, "offset"),
        ({"job": "a#1", "offset": str(2**63)}, "offset"),
        ({"job": "a#1", "rank": "-1"}, "rank"),
        ({"job": "a#1", "limit": "0"}, "limit"),
    ],
)
async def test_what_is_wrong_with_a_question_is_named(
    get: Fetch, cluster: FakeControl, params: dict[str, str], named: str
) -> None:
    code, refused = await get("log", **params)
    assert (code, refused["code"]) == (400, "invalid-request")
    assert named in refused["message"]


async def test_unknown_checkpoints_are_refused(get: Fetch, cluster: FakeControl) -> None:
    cluster.answers[rq.Resolve] = UnknownName("There is no run a.")
    assert (await get("diff", a="a@1", b="a@2"))[0] == 404
