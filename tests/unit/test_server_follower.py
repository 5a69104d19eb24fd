"""A browser that can't keep up, and what is asked for on whose behalf."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from resilient_nb.connection import Chosen
from resilient_nb.server import follower as following
from resilient_nb.server import listener as listening
from resilient_nb.server.follower import WAIT, Cursor, Follower
from resilient_nb.server.frames import Pieces, news
from resilient_nb.server.listener import Listener
from resilient_nb.wire.codec import to_json
from resilient_nb.wire.feed import Board, Follow, Followed, JobDelta
from tests.unit.server.control import FakeControl

PATIENCE = 20.0


class Network:
    """Takes messages, unless it is blocked."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.tried = 0
        self._open = asyncio.Event()
        self._open.set()

    def block(self) -> None:
        """Take nothing more."""
        self._open.clear()

    def unblock(self) -> None:
        """Take what comes, and what waits."""
        self._open.set()

    async def write(self, message: bytes) -> None:
        """Take a message."""
        self.tried += 1
        await self._open.wait()
        self.taken.append(json.loads(message))


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def a_follower() -> AsyncIterator[tuple[FakeControl, Follower]]:
    control = FakeControl()
    await control.start()
    follower = Follower(lambda: Chosen(control.address), "ada")
    try:
        yield control, follower
    finally:
        await follower.close()
        await control.stop()


def listen(follower: Follower, *jobs: str) -> tuple[Network, Listener]:
    network = Network()
    listener = Listener(network.write, follower.changed)
    listener.wish(frozenset(jobs))
    follower.add(listener)
    return network, listener


def test_a_slow_browser_gets_everything_later_and_nothing_piles_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "SLOW_EVERY", 0.3)

    async def scene() -> None:
        async with a_follower() as (control, follower):
            control.job("a#1", "0")
            slow, _ = listen(follower, "a#1")
            quick, _ = listen(follower, "a#1")
            await eventually(lambda: len(slow.taken) == len(quick.taken) == 2)  # hello and all
            slow.block()
            for number in range(1, 6):
                before = len(quick.taken)
                control.job("a#1", str(number))
                await eventually(lambda before=before: len(quick.taken) > before)
            assert slow.tried == 3  # one is on its way, and no other
            assert [m["jobs"][0]["notes"] for m in quick.taken[-5:]] == [[n] for n in "12345"]
            slow.unblock()
            await eventually(lambda: len(slow.taken) == 4)
            late, whole = slow.taken[2:]
            assert late["jobs"][0]["notes"] == ["1"]
            assert whole["board"]["full"] is True
            assert [(j["full"], j["notes"]) for j in whole["jobs"]] == [(True, ["5"])]
            control.job("a#1", "6")
            await eventually(lambda: len(slow.taken) == 5)
            assert slow.taken[-1]["jobs"][0]["full"] is False

    asyncio.run(scene())


def test_a_blocked_browser_is_told_what_holds_when_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "SLOW_EVERY", 0.3)

    async def scene() -> None:
        async with a_follower() as (control, follower):
            network, _ = listen(follower)
            await eventually(lambda: len(network.taken) == 2)
            network.block()
            control.board("x")
            await eventually(lambda: network.tried == 3)
            await control.stop()
            other, _ = listen(follower)
            await eventually(lambda: other.taken[-1:] and other.taken[-1]["type"] == "down")
            network.unblock()
            await eventually(lambda: len(network.taken) == 4)
            assert [m["type"] for m in network.taken] == ["hello", "news", "news", "down"]

    asyncio.run(scene())


def test_who_leaves_while_it_is_waited_for_is_told_nothing_more() -> None:
    async def scene() -> None:
        async with a_follower() as (control, follower):
            network, listener = listen(follower)
            await eventually(lambda: len(network.taken) == 2)
            network.block()
            control.board("x")
            await eventually(lambda: network.tried == 3)
            follower.remove(listener)
            network.unblock()
            other, _ = listen(follower)
            await eventually(lambda: len(other.taken) == 2)
            assert len(network.taken) == 2

    asyncio.run(scene())


def test_wishes_that_end_are_followed_no_more() -> None:
    async def scene() -> None:
        async with a_follower() as (control, follower):
            control.job("a#1", "0")
            control.job("b#1", "0")
            network, listener = listen(follower, "a#1", "b#1")
            await eventually(lambda: len(network.taken) == 2)
            listener.wish(frozenset({"b#1"}))
            control.job("a#1", "1")
            control.board("first")
            await eventually(lambda: control.follows[-1].jobs == ("b#1",))
            control.board("second")
            await eventually(lambda: network.taken[-1]["board"]["gone"] == ["second"])
            assert not any(job["notes"] == ["1"] for m in network.taken[1:] for job in m["jobs"])

    asyncio.run(scene())


def test_a_browser_that_wants_ever_more_keeps_nothing_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "FRAME_EVERY", 0.01)  # as if there were many of them

    async def scene() -> None:
        async with a_follower() as (control, follower):
            control.job("a#1", "0")
            quick, _ = listen(follower, "a#1")
            await eventually(lambda: len(quick.taken) == 2)
            numbers = itertools.count()

            async def write(message: bytes) -> None:
                restless.wish(frozenset({f"b#{next(numbers)}"}))

            restless = Listener(write, follower.changed)
            follower.add(restless)
            await eventually(lambda: sum(not each.cursor for each in control.follows) > 5)
            for note in "123":
                control.job("a#1", note)
                await eventually(lambda note=note: quick.taken[-1]["jobs"][0]["notes"] == [note])

    asyncio.run(scene())


def test_who_comes_later_isnt_told_that_the_cluster_was_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "LINGER", 0.0)

    async def scene() -> None:
        async with a_follower() as (control, follower):
            await control.stop()
            network, listener = listen(follower)
            await eventually(lambda: network.taken[-1:] and network.taken[-1]["type"] == "down")
            follower.remove(listener)
            await eventually(lambda: follower.idle)
            await control.start()
            later, _ = listen(follower)
            await eventually(lambda: len(later.taken) == 2)
            assert [message["type"] for message in later.taken] == ["hello", "news"]

    asyncio.run(scene())


# --- pure -------------------------------------------------------------------------------


def test_those_behind_catch_up_before_all_are_asked_for_at_once() -> None:
    at = Cursor()
    at.gave_all(10, frozenset())
    assert at.follow(frozenset({"a"})) == Follow(10, ("a",), wait=WAIT)
    at.gave(12)
    at.gave_all(15, frozenset({"a"}))
    at.gave_all(17, frozenset({"a", "b"}))  # one more, before the others have caught up
    assert at.follow(frozenset({"a", "b", "c"})) == Follow(12, ("a",), wait=0.0)
    at.gave(18)
    assert at.follow(frozenset({"a", "b", "c"})) == Follow(15, ("a", "b", "c"), wait=WAIT)
    at.gave(20)
    assert at.follow(frozenset({"c"})) == Follow(20, ("c",), wait=WAIT)


def test_pieces_go_into_news_byte_by_byte() -> None:
    board, job = to_json(Board(gone=("é<b>",))), b'{"job":"a#1" ,"notes":["\\u0041"]}'
    other = to_json(JobDelta("b#1"))
    answer = Followed(5, 2.5, "c1", board, (other, job), ("c#1",))
    frame = news(Pieces.of(answer), True, ["a#1", "z#1"], ["c#1"])
    assert frame is not None
    assert board in frame
    assert job in frame
    assert other not in frame
    assert json.loads(frame)["unknown"] == ["c#1"]
    assert news(Pieces.of(answer), False, ["z#1"], []) is None
    assert news(Pieces.of(Followed(5, 2.5)), True, ["a#1"], []) is None
