"""Nobody gets in without Jupyter's word, and every answer is JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from jupyter_server.auth import Authorizer
from tornado.httpclient import HTTPClientError
from traitlets.config import Config

from resilient_nb.wire import requests as rq
from tests.unit.server.control import FakeControl, a_job

Fetch = Callable[..., Awaitable[Any]]

QUESTIONS = ("log", "search", "diff", "why", "status")
CLICK = json.dumps({"verb": "cancel", "request_id": "r1", "job": "digits#1"})


async def refused(answer: Awaitable[Any]) -> tuple[int, dict[str, str]]:
    """Return status and body of what must not succeed."""
    with pytest.raises(HTTPClientError) as caught:
        await answer
    response = caught.value.response
    assert response is not None
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.headers["Cache-Control"] == "no-store"
    return caught.value.code, json.loads(response.body)


@pytest.mark.parametrize("name", QUESTIONS)
async def test_without_a_token_nothing_is_answered(jp_fetch: Fetch, name: str) -> None:
    code, body = await refused(jp_fetch("resilient-nb", name, headers={"Authorization": "no"}))
    assert (code, body["code"]) == (403, "not-allowed")


async def test_without_a_token_nothing_is_done(jp_fetch: Fetch, cluster: FakeControl) -> None:
    headers = {"Authorization": "no"}
    post = jp_fetch("resilient-nb", "actions", headers=headers, method="POST", body=CLICK)
    code, body = await refused(post)
    assert code == 403
    assert set(body) == {"code", "message"}
    assert cluster.asked == []


async def test_without_a_token_there_is_no_socket(jp_ws_fetch: Fetch, cluster: FakeControl) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await jp_ws_fetch("resilient-nb", "feed", headers={"Authorization": "no"})
    assert caught.value.code == 403
    assert cluster.follows == []


async def cookie(fetch: Fetch) -> dict[str, str]:
    """Return the headers of a browser that has logged in: a cookie, and no token."""
    page = await fetch("api", "status")
    found = [text.partition(";")[0] for text in page.headers.get_list("Set-Cookie")]
    host = urlsplit(page.effective_url).netloc  # the cookie is this one's
    return {"Authorization": "none", "Cookie": "; ".join([*found, "_xsrf=x"]), "Host": host}


async def test_a_page_of_another_site_gets_no_socket(jp_fetch: Fetch, jp_ws_fetch: Fetch) -> None:
    browser = await cookie(jp_fetch)
    (await jp_ws_fetch("resilient-nb", "feed", headers=dict(browser))).close()
    headers = {**browser, "Origin": "https://evil.example"}
    with pytest.raises(HTTPClientError) as caught:
        await jp_ws_fetch("resilient-nb", "feed", headers=headers)
    assert caught.value.code == 403


async def test_a_click_of_another_sites_page_is_not_done(
    jp_fetch: Fetch, cluster: FakeControl
) -> None:
    """The browser sends the cookie along, but can't know the XSRF token."""
    browser = await cookie(jp_fetch)
    post = partial(jp_fetch, "resilient-nb", "actions", method="POST", body=CLICK)
    assert (await refused(post(headers=dict(browser))))[0] == 403
    assert cluster.asked == []
    cluster.answers[rq.Cancel] = a_job()
    assert (await post(headers={**browser, "X-XSRFToken": "x"})).code == 200


async def test_a_picture_of_another_sites_page_makes_no_connection(
    jp_fetch: Fetch, cluster: FakeControl
) -> None:
    browser = await cookie(jp_fetch)
    fetch = partial(jp_fetch, "resilient-nb", "status")
    headers = {**browser, "Referer": "https://evil.example/page"}
    assert (await refused(fetch(headers=headers)))[0] == 403
    assert (await fetch(headers={**browser, "X-XSRFToken": "x"})).code == 200


class OnlyReading(Authorizer):
    """Lets everybody look."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "resilient_nb" or action == "read"


class Nothing(Authorizer):
    """Lets nobody do anything with jobs."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "resilient_nb"


class TestWhoMayOnlyRead:
    @pytest.fixture
    def jp_server_config(self, jp_server_config: Config) -> Config:
        jp_server_config.ServerApp.authorizer_class = OnlyReading
        return jp_server_config

    async def test_sees_and_steers_nothing(
        self, jp_fetch: Fetch, jp_ws_fetch: Fetch, cluster: FakeControl
    ) -> None:
        assert (await jp_fetch("resilient-nb", "status")).code == 200
        (await jp_ws_fetch("resilient-nb", "feed")).close()
        post = jp_fetch("resilient-nb", "actions", method="POST", body=CLICK)
        code, body = await refused(post)
        assert (code, body["code"]) == (403, "not-allowed")
        assert not any(isinstance(message, rq.Cancel) for message in cluster.asked)

    async def test_names_no_cluster(
        self, jp_fetch: Fetch, jp_ws_fetch: Fetch, control: FakeControl
    ) -> None:
        """It could be one's own, which has the server unpickle what one likes."""
        await control.start()
        params = {"cluster": control.address}
        for name in QUESTIONS:
            code, body = await refused(jp_fetch("resilient-nb", name, params=params))
            assert (code, body["code"]) == (403, "not-allowed")
            assert "leave that setting empty" in body["message"]
        with pytest.raises(HTTPClientError, match="403"):
            await jp_ws_fetch("resilient-nb", "feed", params=params)
        assert (control.asked, control.follows) == ([], [])


class TestWhoMayDoNothing:
    @pytest.fixture
    def jp_server_config(self, jp_server_config: Config) -> Config:
        jp_server_config.ServerApp.authorizer_class = Nothing
        return jp_server_config

    async def test_sees_nothing(
        self, jp_fetch: Fetch, jp_ws_fetch: Fetch, cluster: FakeControl
    ) -> None:
        for name in QUESTIONS:
            assert (await refused(jp_fetch("resilient-nb", name)))[0] == 403
        with pytest.raises(HTTPClientError, match="403"):
            await jp_ws_fetch("resilient-nb", "feed")
        assert cluster.follows == []


async def test_what_isnt_there_is_refused_in_json_too(jp_fetch: Fetch, cluster: Any) -> None:
    code, body = await refused(jp_fetch("resilient-nb", "why"))
    assert (code, body["code"]) == (400, "invalid-request")
    assert "'job'" in body["message"]
    code, body = await refused(jp_fetch("resilient-nb", "actions"))
    assert code == 405
    assert body["message"]
