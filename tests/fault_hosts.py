"""Clusters of several hosts, all of them on this machine, for the suite of faults."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.core.model import Injection, JobState
from resilient_nb.wire.requests import Inject
from tests.fault_checks import MOVED
from tests.fault_world import Scene, Seen, until


@dataclass
class Hosts:
    """A Dask scheduler and hosts with homes of their own, all on this machine.

    Attributes:
        folder: holds all of it.
        address: what the scheduler listens at.
        settings: of every process, beside their homes.
    """

    folder: Path
    address: str = "127.0.0.1"
    settings: dict[str, str] = field(default_factory=dict)
    _parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def scheduler(self) -> Client:
        """Start the scheduler; return a client of it."""
        self._start("scheduler", "dask_scheduler", "--host", self.address, "--port", "0")
        file = self.folder / "scheduler.json"

        def address() -> str:
            assert self._parts["scheduler"].poll() is None, "the scheduler didn't start"
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return str(json.loads(file.read_text())["address"])
            return ""

        return Client(until(address), patience=20.0)

    def host(self, name: str, *inside: str) -> None:
        """Start a host's worker. `inside`: a command that the worker's is appended to."""
        self._start(
            name, "dask_worker", "--no-nanny", "--nthreads", "1", "--memory-limit", "0",
            "--local-directory", str(self.folder / name), inside=inside,
        )  # fmt: skip

    def _start(self, name: str, module: str, *arguments: str, inside: tuple[str, ...] = ()) -> None:
        (self.folder / name).mkdir()
        env = {
            **os.environ,
            "RESILIENT_NB_HOME": str(self.folder / name),
            "RESILIENT_NB_STORE": str(self.folder / "store"),
            "RESILIENT_NB_HOST": name,
            **self.settings,
        }
        command = [*inside, sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        command += ["--no-dashboard", "--preload", "resilient_nb"]
        command += ["--scheduler-file", str(self.folder / "scheduler.json")]
        with (self.folder / "dask.log").open("ab") as log:
            self._parts[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def close(self) -> None:
        """End all of it."""
        for part in reversed(self._parts.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(part.pid).children(recursive=True):
                    child.send_signal(signal.SIGKILL)
            part.kill()
            part.wait()
        for home in self.folder.glob("*/supervisors"):
            embedded.end_supervisors(home.parent)


@contextlib.contextmanager
def hosts(address: str = "127.0.0.1", **settings: str) -> Iterator[tuple[Scene, Hosts]]:
    """A scheduler without hosts, of which nothing stays."""
    folder = Path(tempfile.mkdtemp(prefix="rnb-faults-"))
    site = Hosts(folder, address, settings)
    try:
        scene = Scene(site.scheduler(), folder)
        yield scene, site
        scene.clear()
        scene.client.close()
    finally:
        site.close()
        shutil.rmtree(folder, ignore_errors=True)


def straggler_moved() -> Seen:
    """A rank gets a tenth of its time, and another host has room: the gang goes on there."""
    first, second, third = names = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
    with hosts() as (scene, site):

        def warm(count: int) -> None:
            until(lambda: sum(h.warm for h in scene.client.cluster().hosts) == count)

        for name in names[:2]:
            site.host(name)
        warm(2)
        inside = "for _ in range(40): torch.randn(96, 96) @ torch.randn(96, 96)"
        job = scene.loop("moved", inside, steps=4000, pause=0.005)
        slow = job.step(80).ranks[1].host
        assert slow in (first, second)
        site.host(third)
        warm(3)
        struck = time.time()
        scene.client.inject(Inject(job.job, Injection.SLOW, "slow", 1, 60.0))
        text, told = job.said("Goes on without", patience=60.0)
        view = job.when(lambda v: v.attempts == 2 and v.state is JobState.RUNNING)
        left = {rank.host for rank in view.ranks}
        wrong = "" if slow in text and left == set(names) - {slow} else f"it runs on {left}"
        wrong = wrong or ("" if scene.replays() else "the journal tells another world")
        cause = "straggler" if "times what is usual in its gang" in text else text
        return Seen(cause, MOVED, told - struck, 0.0, wrong)
