"""Processes that outlive the one that starts them, and their identity."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def os_user() -> str:
    """Return the OS user of this process: by its number, whatever the environment says."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container that runs under a number without a name
        return f"uid-{number}"


def start_detached(command: Sequence[str], output: Path, env: Mapping[str, str]) -> None:
    """Start a process in a session of its own, that is nobody's child.

    A shell starts it and ends at once, so that no zombie is left to whoever called this, and
    no signal to the caller's process group (an interrupt in a notebook, say) reaches it.

    Args:
        command: program and arguments.
        output: the file that its output is appended to.
        env: its environment.
    """
    with output.open("ab") as file:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=dict(env),
            check=True,
        )
