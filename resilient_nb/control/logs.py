"""Ranks' output, kept per attempt: `<root>/<run>/<number>/<epoch>/rank-<n>.log`."""

from __future__ import annotations

import os
from pathlib import Path

from resilient_nb.core.names import split_job
from resilient_nb.wire.orders import LogChunk
from resilient_nb.wire.requests import LogPiece

#: What is kept of one rank's output in one attempt, in bytes.
LIMIT = 64 << 20
_CUT = b"\n[resilient_nb: output beyond 64 MiB is not kept]\n"


class LogStore:
    """Appends what agents ship and reads it back. A repeated chunk changes nothing."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def append(self, chunk: LogChunk) -> int:
        """Add a chunk if it is the next one; return how many bytes there are now."""
        path = self._folder(chunk.job) / str(chunk.epoch) / f"rank-{chunk.rank}.log"
        size = path.stat().st_size if path.exists() else 0
        if chunk.offset != size or not chunk.data or size >= LIMIT:
            # Past the limit the agent is told that its data is taken, or it would send it for ever.
            return max(size, chunk.offset + len(chunk.data)) if size >= LIMIT else size
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = chunk.data
        if size + len(data) > LIMIT:
            data = data[: LIMIT - size] + _CUT
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        return size + len(data)

    def read(self, job: str, rank: int, epoch: int | None, offset: int, limit: int) -> LogPiece:
        """Return bytes from `offset`; a negative one counts from the end."""
        folder = self._folder(job)
        epochs = sorted(int(p.name) for p in folder.iterdir()) if folder.exists() else []
        chosen = epoch if epoch is not None else (epochs[-1] if epochs else 0)
        path = folder / str(chosen) / f"rank-{rank}.log"
        if not path.exists():
            return LogPiece(b"", 0, 0, chosen, tuple(epochs))
        size = path.stat().st_size
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        with path.open("rb") as file:
            file.seek(start)
            return LogPiece(file.read(limit), start, size, chosen, tuple(epochs))

    def _folder(self, job: str) -> Path:
        run, number = split_job(job)
        return self._root / run / str(number)
