"""Where a supervisor is found: its folder, its socket, and how to start it."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path

from resilient_nb.processes import start_detached

#: A Unix socket's path must be shorter than this many bytes.
_SOCKET_LIMIT = 100


class Place:
    """The folder of one host's supervisor in one cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.lock = folder / "lock"
        self.pid = folder / "pid"
        self.output = folder / "output.log"

    @classmethod
    def of(cls, home: Path, cluster_id: str, host: str) -> Place:
        """Return the place of a host's supervisor below a home folder."""
        return cls(home / "supervisors" / f"{cluster_id}-{host}")

    @property
    def digest(self) -> str:
        """A short name for it that no other place has."""
        return hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]

    def alive(self) -> bool:
        """Whether a supervisor of this machine serves the folder."""
        try:
            command = Path(f"/proc/{int(self.pid.read_text())}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        return os.fsencode(self.folder) in command.split(b"\0")

    def make(self) -> None:
        """Create the folder, for its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def log(self, run: str, number: int, epoch: int, rank: int) -> Path:
        """Where a rank's output goes until it has been shipped."""
        return self.folder / "ranks" / run / str(number) / str(epoch) / f"rank-{rank}.log"

    def start(self, entry: str, orphan_grace: float) -> None:
        """Start a supervisor in a session of its own; it exits at once if there is one."""
        self.make()
        command = [sys.executable, "-m", "resilient_nb.supervisor", str(self.folder)]
        command += ["--entry", entry, "--orphan-grace", str(orphan_grace)]
        # NumPy's BLAS would start threads at import, and a process with threads can't be forked
        # safely. Ranks set their own number of threads.
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        # Dask's nannies have malloc give memory back at every turn: that costs a training loop
        # four times the page faults and a quarter of its speed.
        env.pop("MALLOC_TRIM_THRESHOLD_", None)
        start_detached(command, self.output, env)


def short_path(path: Path) -> tuple[str, int | None]:
    """Return a path that fits a socket address, and a descriptor to close after its use.

    A long one is reached through `/proc/self/fd` of its folder (Linux).
    """
    if len(os.fsencode(path)) < _SOCKET_LIMIT:
        return str(path), None
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    return f"/proc/self/fd/{fd}/{path.name}", fd


def listen(path: Path) -> socket.socket:
    """Return a listening Unix socket that only its owner can reach."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    name, fd = short_path(path)
    mask = os.umask(0o177)
    try:
        server.bind(name)
    finally:
        os.umask(mask)
        if fd is not None:
            os.close(fd)
    server.listen(64)
    return server
