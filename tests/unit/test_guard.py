"""The embedded cluster's processes bring back its watchdog, whatever becomes of its file."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from resilient_nb.cluster import guard
from resilient_nb.cluster.record import Record, read, write
from resilient_nb.config import Settings
from resilient_nb.processes import Process

RECORD = Record("tcp://127.0.0.1:1", 3, Process(1, 0.0), {"scheduler": Process(2, 0.0)})


def test_a_file_that_was_damaged_and_put_right_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESILIENT_NB_HOME", str(tmp_path))
    monkeypatch.setattr(guard, "_EVERY", 0.0)
    looks, started = 0, asyncio.Event()
    file = tmp_path / "cluster.json"

    def look(where: Path) -> Record | None:
        nonlocal looks
        looks += 1
        return read(where)

    def start(settings: Settings, workers: int) -> None:
        assert workers == RECORD.workers
        started.set()

    monkeypatch.setattr(guard, "read", look)
    monkeypatch.setattr(guard, "start_watchdog", start)

    async def scene() -> None:
        file.write_text("{")
        task = asyncio.create_task(guard._guard())
        async with asyncio.timeout(10.0):
            while looks < 2:
                assert not task.done()
                await asyncio.sleep(0)
            write(file, RECORD)
            await started.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(scene())
