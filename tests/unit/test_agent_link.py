"""The agent's way to its supervisor: nothing that passes cuts a host off for good."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.agent import link as module
from resilient_nb.agent.link import SupervisorLink
from resilient_nb.agent.tails import Tails
from resilient_nb.supervisor.place import Place
from resilient_nb.wire.frames import frame

JOB = "digits#1"


def test_it_goes_on_after_a_full_disk_and_words_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESTART", 0.01)
    monkeypatch.setattr(module, "_RETRY", 0.01)
    place, tries, servers = Place(tmp_path / "p"), [], []
    heard: list[Any] = []

    def start() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        if len(tries) == 2:
            place.make()
            servers.append(asyncio.ensure_future(asyncio.start_unix_server(speak, place.socket)))

    async def speak(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(frame({"speaks": len(heard)}))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()

    def hear(news: dict[str, Any]) -> None:
        heard.append(news["speaks"])
        if len(heard) == 1:
            raise ValueError("of another version")

    async def scenario() -> None:
        link = SupervisorLink(place, start, hear)
        running = asyncio.create_task(link.run())
        async with asyncio.timeout(10.0):
            while heard[:2] != [0, 1]:
                await asyncio.sleep(0.01)
                assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server = await servers[0]
        server.close()
        await asyncio.sleep(0.1)  # until what was accepted is closed

    asyncio.run(scenario())


def test_output_that_cant_be_read_holds_nothing_up(tmp_path: Path) -> None:
    """A host that doesn't report what it can would be taken for lost."""
    place = Place(tmp_path)
    place.log("digits", 1, 1, 0).mkdir(parents=True)
    tails = Tails(place)
    chunk = tails.chunk(JOB, 1, 0)
    assert chunk is not None
    assert chunk.data == b""
    tails.confirm({f"{JOB}/1/0": 0})
    assert tails.covered(JOB, 1, 0, tails.chunk(JOB, 1, 0))
