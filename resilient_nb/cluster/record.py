"""The file that lets any kernel or shell find the embedded cluster: `<home>/cluster.json`."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Process:
    """A process that can't be mistaken for a later one with the same number."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the identity of a live process."""
        return cls(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """Return the process if it still lives (a zombie doesn't)."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return process if alive and process.create_time() == self.started else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class Record:
    """What is known of the embedded cluster. `parts` are scheduler and workers, by role."""

    address: str
    workers: int
    watchdog: Process
    parts: dict[str, Process]


def read(file: Path) -> Record | None:
    """Return the record, or None if there is none."""
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    parts = {role: Process(**part) for role, part in data["parts"].items()}
    return Record(data["address"], data["workers"], Process(**data["watchdog"]), parts)


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
