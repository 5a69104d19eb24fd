"""A scheduler whose journal can't be opened: it says so, keeps ranks, and begins when it can."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler

from resilient_nb.config import Settings
from resilient_nb.control import plugin as module
from resilient_nb.control.opening import Unopened
from resilient_nb.control.plugin import ControlPlugin
from resilient_nb.errors import JournalFailed, ResilientError
from resilient_nb.storage.claim import claim
from resilient_nb.storage.stores import open_store
from resilient_nb.testing.builders import a_report
from resilient_nb.testing.fakes import fake_settings
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import PROTOCOL, REPORT, REQUEST, plain


async def until(holds: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


async def ask(scheduler: Scheduler, request: object) -> dict[str, Any]:
    answer: dict[str, Any] = await scheduler.handlers[REQUEST](
        comm=None, protocol=PROTOCOL, request=rq.REQUESTS.pack(request)
    )
    return answer


async def report(scheduler: Scheduler) -> Any:
    return await scheduler.handlers[REPORT](protocol=PROTOCOL, report=plain(a_report()))


def test_it_waits_for_its_journal_and_then_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.05)
    settings = fake_settings(tmp_path)
    claim(open_store(settings.store), "c0ffee")
    settings.journal.mkdir()  # what can't be opened

    async def scenario() -> None:
        async with Scheduler(
            port=0, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as scheduler:
            plugin = ControlPlugin(settings)
            await scheduler.register_scheduler_plugin(plugin, idempotent=True)
            answer = await ask(scheduler, rq.GetQueue())
            assert answer["error"]["code"] == "journal-failed"
            # An agent learns whose its supervisor is; nothing that it says is taken.
            told = await report(scheduler)
            assert (told["cluster_id"], told["idle"], told["acknowledged"]) == ("c0ffee", True, ())
            settings.journal.rmdir()
            await until(lambda: plugin._unopened is None)
            told = await report(scheduler)
            assert "idle" not in told
            assert told["cluster_id"] == plugin._engine.world.cluster_id

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_that_are_registered_at_once_one_is_alive_and_known_to_dask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    settings, real = fake_settings(tmp_path), module.open_journal
    errors = [ResilientError("Too new.")] if fails else []

    def opened(settings: Settings) -> object:
        time.sleep(0.05)
        if errors:
            raise errors.pop()
        return real(settings)

    monkeypatch.setattr(module, "open_journal", opened)

    async def scenario() -> None:
        async with Scheduler(
            port=0, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as scheduler:
            told = await asyncio.gather(
                *[
                    scheduler.register_scheduler_plugin(ControlPlugin(settings), idempotent=True)
                    for _ in range(3)
                ],
                return_exceptions=True,
            )
            assert [str(error) for error in told if error is not None] == ["Too new."] * fails
            alive = scheduler.plugins["resilient_nb"]
            assert isinstance(alive, ControlPlugin)
            assert alive._unopened is None
            assert scheduler.handlers[REQUEST].__self__ is alive
            assert "error" not in await report(scheduler)

    asyncio.run(scenario())


def test_a_journal_that_turns_out_to_be_too_new_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = [Unopened(JournalFailed("No disk yet."), "")]

    def opened(settings: Settings) -> object:
        if found:
            return found.pop()
        raise ResilientError("Too new.")

    monkeypatch.setattr(module, "open_journal", opened)

    async def scenario() -> None:
        async with Scheduler(
            port=0, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as scheduler:
            plugin = ControlPlugin(fake_settings(tmp_path))
            await scheduler.register_scheduler_plugin(plugin, idempotent=True)
            await until(lambda: all(task.done() for task in plugin._tasks))
            assert "Too new." in str((await ask(scheduler, rq.GetQueue()))["error"])

    asyncio.run(scenario())
