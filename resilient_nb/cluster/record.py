"""The file that lets any kernel or shell find the embedded cluster: `<home>/cluster.json`."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from resilient_nb.config import Settings
from resilient_nb.errors import ClusterUnreachable
from resilient_nb.processes import Process, start_detached


@dataclass(frozen=True)
class Record:
    """What is known of the embedded cluster. `parts` are scheduler and workers, by role."""

    address: str
    workers: int
    watchdog: Process
    parts: dict[str, Process]


def read(file: Path) -> Record | None:
    """Return the record, or None if there is none.

    Raises:
        ClusterUnreachable: it can't be read.
    """
    try:
        data = json.loads(file.read_text())
        parts = {role: Process(**part) for role, part in data["parts"].items()}
        return Record(data["address"], data["workers"], Process(**data["watchdog"]), parts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ClusterUnreachable(
            f"{file} says where the local cluster is, and can't be read ({error}). If it is "
            "damaged, or another version's, delete it and start the cluster again (`up`): jobs in "
            "its journal are not lost."
        ) from error


def write(file: Path, record: Record) -> None:
    """Replace the record, readable by its owner only."""
    part = file.with_suffix(".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as out:
        json.dump(asdict(record), out)
    part.replace(file)


class Lock:
    """The watchdog's lock: who holds it is the cluster's only watchdog, until its death."""

    def __init__(self, file: Path) -> None:
        self._file = file.with_suffix(".lock")

    def take(self) -> bool:
        """Take the lock for the life of this process; False if another process has it."""
        self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            return False
        return True

    def release(self) -> None:
        """Let another process take it."""
        os.close(self._fd)


def start_watchdog(settings: Settings, workers: int) -> None:
    """Start a watchdog for this home; it ends at once if there is one."""
    command = [sys.executable, "-m", "resilient_nb.cluster.watchdog", "--workers", str(workers)]
    env = {**os.environ, "RESILIENT_NB_HOME": str(settings.home)}
    start_detached(command, settings.logs / "watchdog.log", env)
