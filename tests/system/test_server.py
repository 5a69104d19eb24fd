"""A real Jupyter server with the extension, beside a real cluster: watch and steer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

import resilient_nb
from cells import finish, submit, train
from resilient_nb.client import Client
from resilient_nb.cluster.record import read
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState

TOKEN = "for-tests"
PATIENCE = 60.0
CONFIG = Path(resilient_nb.__file__).parents[1] / "labextension/jupyter-config/server-config"


@dataclass(frozen=True)
class Web:
    """The Jupyter server's address, and requests to it."""

    netloc: str

    async def ask(self, path: str, body: Any = None, **params: Any) -> tuple[int, Any]:
        """Return status and body."""
        query = "&".join(
            f"{name}={str(value).replace('#', '%23')}" for name, value in params.items()
        )
        request = HTTPRequest(
            f"http://{self.netloc}/resilient-nb/{path}?{query}",
            "GET" if body is None else "POST",
            {"Authorization": f"token {TOKEN}"},
            None if body is None else json.dumps(body),
        )
        response = await AsyncHTTPClient().fetch(request, raise_error=False)
        return response.code, json.loads(response.body)

    async def click(self, verb: str, **parts: Any) -> tuple[int, Any]:
        """Do something; return status and body."""
        return await self.ask("actions", {"verb": verb, "request_id": uuid.uuid4().hex, **parts})

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[Tab]:
        """Open a browser's tab."""
        headers = {"Authorization": f"token {TOKEN}"}
        socket = await websocket_connect(
            HTTPRequest(f"ws://{self.netloc}/resilient-nb/feed", headers=headers)
        )
        try:
            yield Tab(socket)
        finally:
            socket.close()


class Tab:
    """What one browser is told."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def wish(self, *jobs: str) -> None:
        """Want every detail of these."""
        await self._socket.write_message(json.dumps({"type": "wish", "jobs": jobs}))

    async def until(self, fits: Callable[[dict[str, Any]], Any]) -> Any:
        """Return what `fits` returns of the first message that fits."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = json.loads(await self._socket.read_message())
                if found := fits(message):
                    return found

    async def row(self, job: str, fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Return the list's row of a job as soon as it fits."""

        def find(message: dict[str, Any]) -> Any:
            rows = (message.get("board") or {}).get("rows", ())
            return next((row for row in rows if row["id"] == job and fits(row)), None)

        return dict(await self.until(find))

    async def job(self, name: str, fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Return what is new of a job as soon as it fits."""

        def find(message: dict[str, Any]) -> Any:
            jobs = message.get("jobs", ())
            return next((job for job in jobs if job["job"] == name and fits(job)), None)

        return dict(await self.until(find))


@pytest.fixture(scope="module")
def web(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A Jupyter server that finds the extension by what is shipped, and the cluster by itself."""
    folder = tmp_path_factory.mktemp("jupyter")
    enabled = folder / "etc" / "jupyter_server_config.d"
    shutil.copytree(CONFIG, enabled)
    places = {
        "JUPYTER_CONFIG_PATH": str(folder / "etc"),
        **{f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")},
    }
    command = [
        sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root",
        f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
        "--ServerApp.ip=127.0.0.1",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env={**os.environ, **places}, stderr=output)
    try:
        yield Web(_netloc(folder / "RUNTIME" / f"jpserver-{process.pid}.json", process))
    finally:
        process.terminate()
        code = process.wait(30)
    said = log.read_text()
    assert code == 0, said
    assert "Traceback" not in said, said
    assert "never" not in said, said  # awaited, or retrieved


def _netloc(file: Path, process: subprocess.Popen[bytes]) -> str:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and process.poll() is None:
        if file.exists() and (text := file.read_text()).endswith("}"):
            return f"127.0.0.1:{json.loads(text)['port']}"
        time.sleep(0.05)
    raise AssertionError(f"The Jupyter server didn't start: {process.poll()}.")


def test_a_job_is_watched_through_the_death_of_the_scheduler(client: Client, web: Web) -> None:
    async def scene() -> None:
        async with web.tab() as tab:
            assert (await tab.until(lambda m: m["type"] == "hello" and m))["version"]
            assert (await tab.until(lambda m: m["type"] == "news" and m))["board"]["full"]
            job = await asyncio.to_thread(submit, client, "watched", train(60, 0.1), 2)
            await tab.row(job, lambda row: row["state"] in ("queued", "starting", "running"))
            await tab.wish(job)
            first = await tab.job(job, lambda new: True)
            assert first["full"]
            assert first["head"]["id"] == job
            await tab.job(job, lambda new: "loss" in new["points"] and new["ranks"])
            before = await tab.job(job, lambda new: new["head"] and new["head"]["step"] >= 6)
            assert not before["full"]
            record = read(load_settings().cluster_file)
            assert record is not None
            os.kill(record.parts["scheduler"].pid, signal.SIGKILL)
            answered = asyncio.create_task(asyncio.to_thread(_answered, client, job))
            # A short break may go unsaid; that all is told anew shows that there was one.
            news = await tab.job(job, lambda new: new["full"])
            at = time.monotonic()
            assert at - await answered < 5.0
            assert news["head"]["id"] == job
            await tab.job(job, lambda new: new["head"] and new["head"]["step"] > 6)
            code, done = await web.click("cancel", job=job)
            assert (code, done["job"]) == (200, job), done
            await tab.row(job, lambda row: row["state"] == JobState.CANCELLED)

    asyncio.run(scene())


def _answered(client: Client, job: str) -> float:
    """Return when the cluster answered again."""
    client.watch(job, timeout=0.0)
    return time.monotonic()


def test_a_run_is_steered_by_what_was_shown(client: Client, web: Web) -> None:
    async def scene() -> None:
        job = await asyncio.to_thread(submit, client, "steered", train(3), 1)
        await asyncio.to_thread(finish, client, job)
        async with web.tab() as tab:
            await tab.wish(job)
            run = (await tab.job(job, lambda new: new["run"]))["run"]
            first, *_, last = run["checkpoints"]
            assert run["head"] == last["id"]

            # What was decided when the head was another one is not done.
            code, refused = await web.click("rollback", ref=first["id"], head=first["id"])
            assert (code, refused["code"]) == (409, "conflict")
            code, done = await web.click(
                "rollback", run="steered", ref=first["id"], head=last["id"]
            )
            assert code == 200, done
            assert done["said"] == f"The head of steered is {first['ref']}. Nothing was deleted."
            moved = await tab.job(job, lambda new: new["run"])
            assert moved["run"]["head"] == first["id"]

            code, done = await web.click("tag", ref=last["id"], name="best")
            assert (code, done["said"]) == (200, f"{last['ref']} is tagged best.")
            code, done = await web.click("fork", ref=last["id"], name="steered-2")
            assert (code, done["run"]) == (200, "steered-2")
            code, refused = await web.click("fork", ref=last["id"], name="steered")
            assert (code, refused["code"]) == (409, "conflict")
            code, refused = await web.click("tag", ref="steered/00000001-e9", name="x")
            assert (code, refused["code"]) == (404, "unknown-name")

            code, done = await web.click("resume", run="steered", head=first["id"])
            assert code == 200, done
            await tab.row(done["job"], lambda row: row["state"] == JobState.SUCCEEDED)

    asyncio.run(scene())


def test_what_ranks_have_printed_and_what_differs(client: Client, web: Web) -> None:
    async def scene() -> None:
        job = await asyncio.to_thread(submit, client, "printed", train(2), 2)
        view = await asyncio.to_thread(finish, client, job)
        code, log = await web.ask("log", job=job, rank=1)
        assert code == 200
        assert "rank 1 begins at step 0\n" in log["text"]
        code, found = await web.ask("search", job=job, rank=0, text="BEGINS")
        assert [match["line"] for match in found["matches"]] == ["rank 0 begins at step 0"]
        one, *_, two = (checkpoint.id for checkpoint in view.checkpoints)
        code, report = await web.ask("diff", a=one, b=two)
        assert code == 200, report
        assert report["tensors"]
        code, why = await web.ask("why", job=job)
        assert (code, why["state"]) == (200, "succeeded")
        code, status = await web.ask("status")
        assert (code, status["error"]) == (200, "")
        assert status["cluster_id"] == client.cluster().cluster_id

    asyncio.run(scene())
