"""A host is lost with all its processes; its job goes on elsewhere, from memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cells import GATED, finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.core.model import Interval, JobState
from resilient_nb.core.views import JobView

EPOCHS = 8  # 56 steps
OUT = ("history", "seen", "weights")


class Site:
    """A Dask scheduler and hosts of one slot each, all of them on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "dask.log").open("wb")
        self._file = folder / "scheduler.json"
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._start("scheduler", "dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        self.client = Client(self._address(), patience=20.0)

    def home(self, name: str) -> Path:
        return self._folder / name

    def host(self, name: str) -> None:
        """Start a host's worker."""
        self._start(
            name, "dask_worker", "--no-nanny", "--nthreads", "1", "--memory-limit", "0",
            "--local-directory", str(self.home(name)),
        )  # fmt: skip

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self.home(name).mkdir()
        env = {
            **os.environ,
            "RESILIENT_NB_HOME": str(self.home(name)),
            "RESILIENT_NB_STORE": str(self._folder / "store"),
            "RESILIENT_NB_SHELF": str(self._folder / "memory"),
            "RESILIENT_NB_HOST": name,
            "RESILIENT_NB_ADOPT_GRACE": "1",
        }
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"]
        command += ["--scheduler-file", str(self._file), "--preload", "resilient_nb"]
        self._parts[name] = subprocess.Popen(command, env=env, stdout=self._log, stderr=self._log)

    def _address(self) -> str:
        while True:
            assert all(part.poll() is None for part in self._parts.values())
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return str(json.loads(self._file.read_text())["address"])
            threading.Event().wait(0.05)

    def hosts(self) -> set[str]:
        """Return the hosts that can run ranks."""
        return {host.id for host in self.client.cluster().hosts if host.warm and host.workers}

    def shelf(self, host: str) -> list[str]:
        """Return the whole checkpoints in a host's memory."""
        found = self._folder.glob(f"memory/*/*-{host}-*/runs/*/*/zarr.json")
        return sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in found)

    def kill(self, host: str) -> None:
        """Lose a host: every process of it, at once."""
        for process, _ in processes_of(self.home(host)):
            with contextlib.suppress(Exception):
                process.send_signal(signal.SIGKILL)
        self._parts.pop(host).wait()

    def close(self) -> None:
        self.client.close()
        for part in reversed(self._parts.values()):
            part.terminate()
            part.wait(30)
        self._log.close()
        for home in self._folder.glob("*/supervisors"):
            embedded.end_supervisors(home.parent)
            assert processes_of(home.parent) == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "memory").mkdir()
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.close()
        assert list((tmp_path / "memory").iterdir()) == []


def until(condition: Any) -> None:
    """Wait for a condition; pytest-timeout bounds it."""
    while not condition():
        threading.Event().wait(0.02)


def steps(view: JobView, least: int) -> bool:
    return view.state is JobState.RUNNING and view.step >= least


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compare what two jobs returned, bit for bit."""
    assert one["history"] == other["history"]
    assert one["seen"] == other["seen"]
    for name, value in one["weights"].items():
        assert torch.equal(value, other["weights"][name]), name


@pytest.mark.timeout(90)
def test_a_job_of_a_lost_host_goes_on_from_a_peers_memory(site: Site, tmp_path: Path) -> None:
    site.host("a")
    site.host("b")
    until(lambda: site.hosts() == {"a", "b"})
    every, client = Interval(steps=20), site.client
    killed = tmp_path / "killed"
    source = train(EPOCHS, pause=0.05, gates={30: killed})
    job = submit(client, "lost", source, 1, OUT, every, memory_copies=1, **GATED)
    view = wait(client, job, lambda view: steps(view, 1))
    (here,) = {row.host for row in view.ranks}
    (peer,) = {"a", "b"} - {here}
    until(lambda: site.shelf(here) and site.shelf(peer))
    site.kill(here)
    killed.touch()
    (there,) = site.shelf(peer)
    head = client.runs("lost")[0].checkpoints[-1]
    assert there == head.id
    # As if the disk of the lost host had been the store.
    shutil.rmtree(tmp_path / "store" / "runs" / head.id)
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED, view
    assert {row.host for row in view.ranks} == {peer}
    (told,) = [note for note in view.notes if "restored" in note]
    assert told.startswith(f"Step {head.step} was restored from memory ("), view.notes
    assert (tmp_path / "store" / "runs" / head.id / "zarr.json").exists()  # it was put back
    plain = submit(client, "plain", train(EPOCHS), 1, OUT, every)
    assert finish(client, plain).state is JobState.SUCCEEDED
    same(results(client, job), results(client, plain))
    until(lambda: not site.shelf(peer))
