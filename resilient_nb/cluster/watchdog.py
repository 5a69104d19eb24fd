"""`python -m resilient_nb.cluster.watchdog`: starts scheduler and workers, and restarts them.

Dask restarts nothing when a scheduler or a nanny dies. This process does, on the same port,
so that agents and notebooks find the cluster again. A watchdog that follows a dead one adopts
what still lives. SIGTERM ends the whole cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from resilient_nb.cluster.record import Lock, Record, read, write
from resilient_nb.config import load_settings
from resilient_nb.processes import Process, os_user

logger = logging.getLogger("resilient_nb.watchdog")

_POLL = 0.1
#: A part that keeps dying within so many seconds is restarted ever more slowly, at most after
#: the second number.
_YOUNG, _SLOWEST = 3.0, 10.0
_END_GRACE = 5.0
#: A process that has begun has a command line after so many seconds, however busy the machine is.
_EXECUTES = 1.0
#: Dask samples its workers' stacks a hundred times a second; our ranks are not its tasks.
_QUIET = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}


@dataclass
class _Part:
    """One supervised process: how to start it and how it has been doing."""

    role: str
    command: list[str]
    process: Process | None = None
    child: subprocess.Popen[bytes] | None = None  # None if an earlier watchdog started it
    failures: int = 0
    not_before: float = 0.0
    started_at: float = 0.0


class Watchdog:
    """Keeps the parts of the embedded cluster alive."""

    def __init__(self, file: Path, logs: Path, workers: int, old: Record | None) -> None:
        self._file, self._logs, self._workers = file, logs, workers
        self._address = old.address if old else f"tcp://127.0.0.1:{_free_port()}"
        port = self._address.rpartition(":")[2]
        python = [sys.executable, "-m"]
        scheduler = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
        preload = ["--preload", "resilient_nb", "--preload", "resilient_nb.cluster.guard"]
        scheduler += ["--port", port, *preload, *_dashboard()]
        nannies = [*python, "distributed.cli.dask_worker", self._address]
        nannies += ["--nworkers", str(workers), "--nthreads", "1", "--host", "127.0.0.1"]
        nannies += [*preload, "--memory-limit", "0", "--no-dashboard"]
        nannies += ["--local-directory", str(logs.parent / "dask")]
        self._parts = [_Part("scheduler", scheduler), _Part("workers", nannies)]
        for part in self._parts:
            known = old.parts.get(part.role) if old else None
            if known is not None and known.find():
                part.process, part.started_at = known, time.monotonic()
        self._stopped = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_signal(self, *_: object) -> None:
        self._stopped = True

    def run(self) -> None:
        """Watch until told to stop, then end every part."""
        try:
            self._publish()  # whoever adopts living parts must be known as their watchdog
            while not self._stopped:
                started = [self._tend(part) for part in self._parts]
                if any(started):
                    self._publish()
                time.sleep(_POLL)
        finally:
            self._end()
            self._file.unlink(missing_ok=True)

    def _tend(self, part: _Part) -> bool:
        """Start a part if it isn't there; True if it was started."""
        now = time.monotonic()
        if part.process is not None:
            if _alive(part):
                return False
            lived = now - part.started_at
            part.failures = part.failures + 1 if lived < _YOUNG else 0
            pause = min(_SLOWEST, 0.5 * 2.0**part.failures) if part.failures > 1 else 0.0
            part.process, part.not_before = None, now + pause
            logger.warning("%s died; restarting in %.1f s", part.role, pause)
            if part.role == "scheduler":
                self._drop_workers()
        if now < part.not_before:
            return False
        part.started_at = now
        with (self._logs / f"{part.role}.log").open("ab") as log:
            part.child = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **_QUIET},
            )
        part.process = Process.of(part.child.pid)
        return True

    def _drop_workers(self) -> None:
        """Without their scheduler Dask's workers would take seconds to close; don't wait."""
        process = self._parts[1].process
        root = process.find() if process is not None else None
        if root is not None:
            kill_tree(root)
            self._parts[1].started_at = 0.0  # no failure of theirs

    def _publish(self) -> None:
        parts = {p.role: p.process for p in self._parts if p.process is not None}
        record = Record(self._address, self._workers, Process.of(os.getpid()), parts)
        write(self._file, record)

    def _end(self) -> None:
        """End workers first, so that they don't look for a scheduler that is gone."""
        self._drop_workers()
        scheduler = self._parts[0].process
        root = scheduler.find() if scheduler is not None else None
        if root is not None:
            end_tree(root)


def end_tree(root: psutil.Process) -> None:
    """SIGTERM a process and all below it; SIGKILL what is left after a grace time."""
    family = _family(root)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(family, timeout=_END_GRACE)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_END_GRACE)


def kill_tree(root: psutil.Process) -> None:
    """SIGKILL a process and all below it."""
    for process in reversed(_family(root)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all below it, but for those that tidy up after the others.

    multiprocessing's resource tracker ends by itself when it is the last, and then removes the
    semaphores that the others had. Killed with them, it would leave them in /dev/shm for ever.
    """
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        found = [root, *root.children(recursive=True)]
    return [process for process in found if not _tidies_up(process)]


def _tidies_up(process: psutil.Process) -> bool:
    deadline = time.monotonic() + _EXECUTES
    try:
        while not (command := process.cmdline()) and time.monotonic() < deadline:
            time.sleep(0.001)  # it is just being executed, and nobody knows yet what it is
        return any("multiprocessing.resource_tracker" in part for part in command)
    except psutil.Error:
        return False


def _alive(part: _Part) -> bool:
    if part.child is not None:
        part.child.poll()  # reap it
    return part.process is not None and part.process.find() is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _dashboard() -> list[str]:
    """Dask's dashboard needs bokeh, its measures don't; any free port, on loopback."""
    shown = [] if importlib.util.find_spec("bokeh") is not None else ["--no-dashboard"]
    return [*shown, "--dashboard-address", "127.0.0.1:0"]


def main() -> None:
    """Watch this home's embedded cluster, unless another watchdog does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, required=True)
    workers = parser.parse_args().workers
    settings = load_settings()
    lock = Lock(settings.cluster_file)
    if not lock.take():
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    old = read(settings.cluster_file)
    os.environ["RESILIENT_NB_MAX_WORKERS"] = str(workers * settings.slots)
    os.environ["RESILIENT_NB_OWNER"] = os_user()
    Watchdog(settings.cluster_file, settings.logs, workers, old).run()


if __name__ == "__main__":
    main()
