"""Output of ranks for Python code: the bytes from an offset on, or all that comes."""

from __future__ import annotations

import sys

from resilient_nb.client import Client
from resilient_nb.wire.requests import ReadLog


def read(
    client: Client, job: str, rank: int = 0, epoch: int | None = None, offset: int = 0
) -> bytes:
    """Return a rank's output from a byte offset on; a negative one counts from the end."""
    piece = client.log(ReadLog(job, rank, epoch, offset))
    parts, end = [piece.data], piece.offset + len(piece.data)
    while end < piece.size and piece.data:
        piece = client.log(ReadLog(job, rank, piece.epoch, end))
        parts.append(piece.data)
        end += len(piece.data)
    return b"".join(parts)


def follow(client: Client, job: str, rank: int, epoch: int | None) -> None:
    """Print a rank's output until the job has ended; without an epoch, of each attempt."""
    seen, offset, at = -1, 0, epoch
    while True:
        watched = client.watch(job, seen, 2.0)
        seen = watched.version
        piece = client.log(ReadLog(job, rank, at, offset))
        if epoch is None and piece.epoch != at:
            at, offset = piece.epoch, 0  # a new attempt has a new log
            continue
        sys.stdout.write(piece.data.decode(errors="replace"))
        sys.stdout.flush()
        offset += len(piece.data)
        if watched.job.state.final and offset >= piece.size:
            return
