"""Starting, finding and ending the embedded cluster."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from resilient_nb.client import Client
from resilient_nb.cluster.record import Record, read, start_watchdog
from resilient_nb.cluster.watchdog import end_tree
from resilient_nb.config import Settings
from resilient_nb.core.views import ClusterView
from resilient_nb.errors import (
    AlreadyRunning,
    ClusterUnreachable,
    InvalidRequest,
    ResilientError,
)
from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.place import Place
from resilient_nb.supervisor.shelf import drop as drop_shelf

Say = Callable[[str], None]
_START_PATIENCE = 90.0


def find(settings: Settings) -> Record | None:
    """Return the embedded cluster of this home if it is up (or being restarted).

    A cluster whose watchdog was killed gets a new one.
    """
    record = read(settings.cluster_file)
    if record is None:
        return None
    if record.watchdog.find() is None:
        if not any(part.find() for part in record.parts.values()):
            return None  # the machine was restarted: nothing is left of it
        start_watchdog(settings, record.workers)
    return record


def up(settings: Settings, workers: int | None, say: Say) -> ClusterView:
    """Start the embedded cluster and wait until it can run jobs.

    Raises:
        AlreadyRunning: it is up; the message says with how many workers.
        InvalidRequest: the number of workers can't be right.
        ClusterUnreachable: it didn't start; the message ends with its log.
    """
    # Two at least, so that the examples run everywhere.
    count = workers if workers is not None else max(2, min(4, os.cpu_count() or 2))
    if count < 1 or count > 256:
        raise InvalidRequest(f"--workers {count}: a local cluster has 1 to 256 workers.")
    record = find(settings)
    if record is not None:
        raise AlreadyRunning(
            f"The cluster is up already, at {record.address} with {record.workers} workers. "
            "End it first to change that: %resilient down."
        )
    try:
        for folder in (settings.home, settings.logs, settings.home / "dask"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidRequest(
            f"The home folder {settings.home} can't be written: {error.strerror}. Set "
            "RESILIENT_NB_HOME to another place."
        ) from error
    settings.cluster_file.unlink(missing_ok=True)
    say(f"Starting a local cluster with {count} workers ...")
    start_watchdog(settings, count)
    return _wait_ready(settings, count, say)


def _wait_ready(settings: Settings, workers: int, say: Say) -> ClusterView:
    """Return once every slot is there and ranks can be forked at once."""
    give_up = time.monotonic() + _START_PATIENCE
    client: Client | None = None
    while time.monotonic() < give_up:
        record = read(settings.cluster_file)
        if record is not None:
            client = client or Client(record.address, patience=0.0)
            try:
                view = client.cluster()
            except ResilientError:
                view = None  # not listening yet
            if view and view.hosts and all(h.warm for h in view.hosts) and view.slots >= workers:
                for job in (*view.running, *view.queued):
                    say(f"{job} is unfinished: it goes on.")
                client.close()
                return view
        time.sleep(0.1)
    raise ClusterUnreachable(
        f"The cluster did not start within {_START_PATIENCE:.0f} s. The end of its logs "
        f"({settings.logs}):\n{_log_ends(settings.logs)}"
    )


def _log_ends(folder: Path) -> str:
    parts = []
    for name in ("watchdog.log", "scheduler.log", "workers.log"):
        file = folder / name
        if file.exists():
            lines = file.read_text(errors="replace").splitlines()[-5:]
            parts.append("\n".join([f"{name}:", *(f"  {line}" for line in lines)]))
    return "\n".join(parts)


def down(settings: Settings, say: Say) -> None:
    """End the embedded cluster wholly: jobs checkpoint and go back to the queue first.

    Raises:
        ClusterUnreachable: it isn't up.
    """
    record = read(settings.cluster_file)
    if record is None or find(settings) is None:
        settings.cluster_file.unlink(missing_ok=True)
        end_supervisors(settings.home)
        raise ClusterUnreachable("No local cluster is up.")
    _await_watchdog(settings)
    _vacate(Client(record.address, patience=3.0), settings.leave_grace, say)
    watchdog = read(settings.cluster_file)
    process = watchdog.watchdog.find() if watchdog else None
    if process is not None:
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs([process], timeout=30)
    for part in record.parts.values():
        if (left := part.find()) is not None:
            end_tree(left)
    end_supervisors(settings.home)
    settings.cluster_file.unlink(missing_ok=True)
    shutil.rmtree(settings.home / "dask", ignore_errors=True)
    say("The cluster is down.")


def _await_watchdog(settings: Settings) -> None:
    """A new watchdog may be on its way: it must be there to be told to end."""
    give_up = time.monotonic() + 10.0
    while time.monotonic() < give_up:
        record = read(settings.cluster_file)
        if record is None or record.watchdog.find() is not None:
            return
        time.sleep(0.05)


def _vacate(client: Client, grace: float, say: Say) -> None:
    """Let running jobs checkpoint and leave; those that can't are killed after the grace time."""
    try:
        left = client.vacate_all()
        for job in left:
            say(f"{job} takes a checkpoint and goes back to the queue; it goes on at the next up.")
        give_up = time.monotonic() + grace + 5.0
        while left and time.monotonic() < give_up:
            time.sleep(0.1)
            left = client.vacate_all()
    except ResilientError as error:
        say(f"Jobs could not be asked to leave ({error}); they go on from their last checkpoint.")


def end_supervisors(home: Path) -> None:
    """End the supervisors of this home; their ranks die with them."""
    for file in home.glob("supervisors/*/pid"):
        try:
            process = psutil.Process(int(file.read_text()))
            if any("resilient_nb.supervisor" in part for part in process.cmdline()):
                end_tree(process)
        except (psutil.Error, ValueError, FileNotFoundError):
            continue
    for folder in home.glob("supervisors/*/"):
        place = Place(folder)  # of one that was killed
        drop_shelf(place)
        scratch.sweep(place)
    shutil.rmtree(home / "supervisors", ignore_errors=True)
