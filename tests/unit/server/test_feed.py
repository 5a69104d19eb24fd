"""What browsers are fed with: deltas as they are, and a word when the cluster is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.wire.codec import PROTOCOL
from resilient_nb.wire.feed import FRAME_EVERY
from tests.unit.server.control import FakeControl

Fetch = Callable[..., Awaitable[Any]]
PATIENCE = 5.0


class Browser:
    """A tab: its socket, and what it was told last of each thing."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.times: list[float] = []

    async def next(self) -> dict[str, Any]:
        """Return the next message."""
        text = await asyncio.wait_for(self._socket.read_message(), PATIENCE)
        assert text is not None, "the socket was closed"
        message: dict[str, Any] = json.loads(text)
        if message["type"] == "news":
            self.times.append(asyncio.get_running_loop().time())
        return message

    async def until(self, fits: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the first message that fits."""
        while not fits(message := await self.next()):
            pass
        return message

    async def news(self) -> dict[str, Any]:
        """Return the next news."""
        return await self.until(lambda message: message["type"] == "news")

    async def job(self, name: str) -> dict[str, Any]:
        """Return the next that is new of a job."""
        message = await self.until(lambda m: any(j["job"] == name for j in m.get("jobs", ())))
        return dict(next(job for job in message["jobs"] if job["job"] == name))

    async def wish(self, *jobs: str) -> None:
        """Want every detail of these jobs."""
        await self._socket.write_message(json.dumps({"type": "wish", "jobs": jobs}))

    async def send(self, data: str | bytes) -> None:
        """Send anything, as text or as bytes."""
        await self._socket.write_message(data, binary=isinstance(data, bytes))

    async def closed(self) -> tuple[int, str]:
        """Return how the socket was closed."""
        while await asyncio.wait_for(self._socket.read_message(), PATIENCE) is not None:
            pass
        return self._socket.close_code, self._socket.close_reason


Open = Callable[..., Any]


@pytest.fixture
def browser(jp_ws_fetch: Fetch) -> Open:
    """Open tabs; each is closed at the end of its block."""

    @asynccontextmanager
    async def opened(**params: str) -> AsyncIterator[Browser]:
        socket = await jp_ws_fetch("resilient-nb", "feed", params=params)
        try:
            yield Browser(socket)
        finally:
            socket.close()

    return opened


@pytest.fixture
def get_status(jp_fetch: Fetch) -> Fetch:
    """Ask which cluster is looked at."""

    async def got() -> dict[str, Any]:
        return dict(json.loads((await jp_fetch("resilient-nb", "status")).body))

    return got


def follows(cluster: FakeControl, full: bool) -> list[tuple[str, ...]]:
    """Return which jobs were asked for, in full or from a cursor on."""
    return [follow.jobs for follow in cluster.follows if (follow.cursor == 0) is full]


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_first_comes_who_one_is_then_everything(browser: Open, cluster: FakeControl) -> None:
    async with browser() as tab:
        hello = await tab.next()
        assert (hello["type"], hello["protocol"], hello["user"]) == ("hello", PROTOCOL, "ada")
        news = await tab.next()
        assert news["type"] == "news"
        assert (news["cluster_id"], news["at"]) == ("c1", 1.5)
        assert news["board"]["full"] is True
        assert news["jobs"] == news["unknown"] == []


async def test_the_cluster_knows_better_who_one_is(browser: Open, cluster: FakeControl) -> None:
    cluster.user = "ada@example.org"
    async with browser() as tab:
        assert (await tab.next())["user"] == "ada"
        assert (await tab.next())["user"] == "ada@example.org"
        assert (await tab.next())["type"] == "news"
        async with browser() as other:
            assert (await other.next())["user"] == "ada@example.org"
            assert (await other.next())["type"] == "news"


async def test_changes_pass_through_as_they_are(browser: Open, cluster: FakeControl) -> None:
    cluster.job("digits#1", "first")
    async with browser() as tab:
        await tab.news()
        await tab.wish("digits#1", "nobody#1")
        news = await tab.news()
        assert news["jobs"][0]["full"] is True
        assert news["jobs"][0]["notes"] == ["first"]
        assert news["unknown"] == ["nobody#1"]
        assert news["board"] is None
        cluster.job("digits#1", "<b>second</b>")
        news = await tab.news()
        assert news["jobs"] == [
            {"job": "digits#1", "full": False, "head": None, "failures": None, "chaos": None,
             "notes": ["<b>second</b>"], "run": None, "ranks": [], "world": None, "points": {}}
        ]  # fmt: skip
        assert news["unknown"] == []  # that was said
        cluster.job("nobody#1", "it exists after all")
        assert (await tab.job("nobody#1"))["notes"] == ["it exists after all"]


async def test_who_gets_everything_makes_nobody_else_get_it_again(
    browser: Open, cluster: FakeControl
) -> None:
    cluster.job("a#1", "a")
    cluster.job("b#1", "b")
    async with browser() as tab:
        await tab.wish("a#1")
        assert (await tab.job("a#1"))["full"] is True
        await tab.wish("a#1", "b#1")
        assert (await tab.job("b#1"))["full"] is True
        cluster.job("a#1", "a2")
        assert (await tab.job("a#1"))["full"] is False
        cluster.job("b#1", "b2")
        assert (await tab.job("b#1"))["full"] is False
    assert [set(jobs) for jobs in follows(cluster, full=True) if jobs] == [{"a#1"}, {"b#1"}]


async def test_tabs_share_one_follower_and_get_what_each_wants(
    browser: Open, cluster: FakeControl
) -> None:
    cluster.job("a#1", "a")
    cluster.job("b#1", "b")
    async with browser() as one, browser() as two:
        await one.wish("a#1")
        await two.wish("b#1")
        assert (await one.job("a#1"))["full"] is True
        assert (await two.job("b#1"))["full"] is True
        await eventually(lambda: ("a#1", "b#1") in follows(cluster, full=False))
        cluster.job("a#1", "a2")
        assert (await one.job("a#1"))["notes"] == ["a2"]
        cluster.job("b#1", "b2")
        news = await two.news()
        assert [job["job"] for job in news["jobs"]] == ["b#1"]  # nothing of what only one wants
        assert news["jobs"][0]["notes"] == ["b2"]


async def test_there_are_no_more_than_four_news_a_second(
    browser: Open, cluster: FakeControl
) -> None:
    cluster.job("a#1", "0")
    async with browser() as tab:
        await tab.wish("a#1")
        await tab.job("a#1")
        done = asyncio.Event()

        async def change() -> None:
            number = 0
            while not done.is_set():
                number += 1
                cluster.board(str(number))
                cluster.job("a#1", str(number))
                await asyncio.sleep(0.001)

        changing = asyncio.create_task(change())
        tab.times.clear()
        for _ in range(5):
            await tab.news()
        done.set()
        await changing
    # The times are those of receiving: of five, the first may have come late.
    assert tab.times[-1] - tab.times[0] > 3 * FRAME_EVERY


async def test_the_cluster_goes_and_comes_back(browser: Open, cluster: FakeControl) -> None:
    cluster.job("a#1", "before")
    async with browser() as tab:
        await tab.wish("a#1")
        await tab.job("a#1")
        await cluster.stop()
        down = await tab.until(lambda m: m["type"] == "down")
        assert not down["no_cluster"]
        assert cluster.address in down["why"]
        assert "%resilient up" in down["why"]
        async with browser() as late:  # which hears it, too
            assert (await late.until(lambda m: m["type"] == "down"))["why"]
        cluster.cluster_id = "c2"
        cluster.job("a#1", "after")
        await cluster.start()
        since = asyncio.get_running_loop().time()
        news = await tab.news()
        assert asyncio.get_running_loop().time() - since < 5.0
        assert news["cluster_id"] == "c2"
        assert news["board"]["full"] is True
        assert [(j["full"], j["notes"]) for j in news["jobs"]] == [(True, ["after"])]


async def test_without_any_cluster_one_is_told_to_start_one(
    browser: Open, control: FakeControl, tmp_path: Path
) -> None:
    async with browser() as tab:
        assert (await tab.next())["type"] == "hello"
        down = await tab.next()
        assert down["no_cluster"] is True
        assert "`up`" in down["why"]
        # What `connect` does in a kernel is noticed here.
        await control.start()
        home = tmp_path / "home-of-ours"
        home.mkdir()
        (home / "address").write_text(control.address)
        assert (await tab.next())["type"] == "news"
        (home / "address").unlink()
        assert (await tab.next())["no_cluster"] is True


async def test_another_cluster_is_chosen(
    browser: Open, cluster: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeControl()
    other.cluster_id = "c9"
    await other.start()
    try:
        async with browser() as tab, browser(cluster=cluster.address) as fixed:
            assert (await tab.news())["cluster_id"] == "c1"
            assert (await fixed.news())["cluster_id"] == "c1"
            monkeypatch.setenv("RESILIENT_NB_ADDRESS", other.address)
            assert (await tab.news())["cluster_id"] == "c9"
            cluster.board("still here")
            assert (await fixed.news())["board"]["gone"] == ["still here"]
    finally:
        await other.stop()


async def test_nobody_is_followed_for_nobody(
    browser: Open, cluster: FakeControl, jp_serverapp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilient_nb.server.follower.LINGER", 0.05)
    follower = jp_serverapp.web_app.settings["resilient_nb_clusters"].follower("")
    async with browser() as tab:
        await tab.news()
        assert not follower.idle
    await eventually(lambda: follower.idle)
    async with browser() as tab:
        assert (await tab.news())["board"]["full"] is True


async def test_the_server_ends_while_a_tab_is_open(
    browser: Open, cluster: FakeControl, jp_serverapp: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clusters = jp_serverapp.web_app.settings["resilient_nb_clusters"]
    async with browser() as tab:
        await tab.news()
        await clusters.close()
        assert clusters.follower("").idle
        await tab.send("not a wish")  # so that the server closes the socket
        await tab.closed()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cluster.json", b"{"),
        ("cluster.json", b'{"address": "tcp://127.0.0.1:1", "workers": 2, "parts": []}'),
        ("cluster.json", b'{"parts": {"scheduler": {"pid": 1, "color": "red"}}}'),
        ("address", b"\xff"),
        ("address", b"tcp://127.0.0.1:1\ncolor=red"),
    ],
)
async def test_a_damaged_file_is_named_and_may_be_put_right(
    browser: Open, control: FakeControl, tmp_path: Path, get_status: Fetch, name: str, data: bytes
) -> None:
    home = tmp_path / "home-of-ours"
    home.mkdir()
    (home / name).write_bytes(data)
    async with browser() as tab:
        down = await tab.until(lambda m: m["type"] == "down")
        assert str(home / name) in down["why"]
        assert "delete it" in down["why"]
        assert (await get_status())["error"] == down["why"]
        await control.start()
        (home / "address").write_text(control.address)
        assert (await tab.next())["type"] == "news"


async def test_what_goes_wrong_is_said_once_and_tried_again(
    browser: Open,
    cluster: FakeControl,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr("resilient_nb.connection.chosen", fail)
        async with browser() as tab, browser() as other:
            for each in (tab, other):
                down = await each.until(lambda m: m["type"] == "down")
                assert "log of the Jupyter server" in down["why"]
            patch.undo()
            assert (await tab.next())["type"] == "news"
    failures = [record for record in caplog.records if record.exc_info]
    assert len(failures) == 1
    assert "can't be followed" in failures[0].message


@pytest.mark.parametrize(
    "data",
    [
        "nonsense",
        "[]",
        '{"type": "wish", "jobs": [1]}',
        '{"type": "wish", "jobs": ["\\ud800"]}',
        f'{{"type": "{"é" * 100}"}}',  # which the reason repeats
        b'{"type": "wish", "jobs": ["\xff"]}',
    ],
)
async def test_what_is_no_wish_closes_the_socket(
    browser: Open, cluster: FakeControl, data: str | bytes
) -> None:
    async with browser() as tab:
        await tab.send(data)
        code, why = await tab.closed()
        assert code == 1007
        assert why.startswith("This is no wish: ")


async def test_too_many_wishes_close_the_socket(browser: Open, cluster: FakeControl) -> None:
    async with browser() as tab:
        await tab.wish(*(f"run#{n}" for n in range(1001)))
        assert (await tab.closed())[1] == "A wish has 1000 jobs at most."


async def test_settings_that_cant_be_read_are_said(browser: Open, tmp_path: Path) -> None:
    home = tmp_path / "home-of-ours"
    home.mkdir()
    (home / "config.toml").write_text("slots = ")
    async with browser() as tab:
        down = await tab.until(lambda m: m["type"] == "down")
        assert "config.toml" in down["why"]
        assert not down["no_cluster"]
