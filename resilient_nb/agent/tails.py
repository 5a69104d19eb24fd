"""Shipping ranks' output: which bytes of which log control doesn't have yet."""

from __future__ import annotations

from collections.abc import Mapping

from resilient_nb.supervisor.place import Place
from resilient_nb.wire.orders import LogChunk

#: Most that one report carries of one log, in bytes.
PIECE = 256 << 10


class Tails:
    """Offsets that control has confirmed, and reading from there on."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._confirmed: dict[str, int] = {}

    def chunk(self, job: str, epoch: int, rank: int) -> LogChunk | None:
        """Return the next piece of a log, or None if control has it all.

        An empty piece asks control how much it has (after another agent shipped before).
        """
        key = f"{job}/{epoch}/{rank}"
        offset = self._confirmed.get(key)
        data = self._read(job, epoch, rank, offset or 0)
        if not data and offset is not None:
            return None
        return LogChunk(job, epoch, rank, offset or 0, data)

    def covered(self, job: str, epoch: int, rank: int, chunk: LogChunk | None) -> bool:
        """Whether control has the whole log once it has taken `chunk`."""
        if chunk is None:
            return True
        known = f"{job}/{epoch}/{rank}" in self._confirmed
        return known and len(chunk.data) < PIECE

    def confirm(self, sizes: Mapping[str, int]) -> None:
        """Take from control's reply how much it has of each log."""
        self._confirmed.update(sizes)

    def _read(self, job: str, epoch: int, rank: int, offset: int) -> bytes:
        run, _, number = job.partition("#")
        try:
            with self._place.log(run, int(number), epoch, rank).open("rb") as file:
                file.seek(offset)
                return file.read(PIECE)
        except OSError:
            return b""  # nothing was printed, or its disk is broken: the rest is told all the same
