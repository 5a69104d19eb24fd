"""Recording: samples of ranks become rows of facts and metric points, written now and then.

Whatever happens to them, training and the queue go on: a write that fails is said, and what it
was to keep is tried again with the next, as long as it isn't too much.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from resilient_nb.core.facts import Facts, place
from resilient_nb.core.thinning import MOST_METRICS
from resilient_nb.ports import Records
from resilient_nb.wire.orders import Sample

logger = logging.getLogger(__name__)

#: Between writes, in seconds.
EVERY = 2.0
#: Between tries to write more than so many at once to a disk that takes none: each takes its time.
_SELDOM, _MANY = 20.0, 5_000
#: Points, and rows of facts, that wait for a disk which takes none. Later ones are dropped.
_MOST_WAITING = 100_000
#: Two samples of a rank that are further apart than this leave a gap: nobody looked.
_GAP = 5.0

_Key = tuple[str, int, int]  # job, epoch, rank


@dataclass(slots=True)
class _Second(Facts):
    """What a rank's samples of one second say, to which more is added in place.

    Thousands of samples come each second.
    """

    def add(self, sample: Sample, seconds: float, last: _Rank) -> None:
        """Add a sample, so many seconds after the last one."""
        self.seconds += seconds
        self.step = sample.step
        self.steps += sample.steps
        self.items += sample.items
        self.data_s += sample.data_s
        self.compute_s += sample.compute_s
        self.wait_s += sample.wait_s
        self.checkpoint_s += sample.checkpoint_s
        if sample.longest_s > self.longest_s:
            self.longest_s = sample.longest_s
        if sample.rss > self.rss:
            self.rss = sample.rss
        self.cpu_s += sample.cpu * seconds
        if sample.read > last.read:
            self.read += sample.read - last.read
        if sample.written > last.written:
            self.written += sample.written - last.written
        if sample.missing:
            self.missing_s += seconds

    def host(self, round_trip: float, disk_free: int | None) -> None:
        """Take how its host is."""
        if round_trip > self.round_trip:
            self.round_trip = round_trip
        if disk_free is not None and (self.disk_free is None or disk_free < self.disk_free):
            self.disk_free = disk_free


@dataclass(slots=True)
class _Rank:
    """What the sample before said, and when it came; the row that the next is added to."""

    at: float
    read: int
    written: int
    row: _Second | None = None


class Recording:
    """Gathers what samples say and has it written. It has no clock: who calls says the time.

    Args:
        records: where it is kept.
        adopted: attempts (job, epoch) that ran before this process began.

    Attributes:
        lost: points and rows that could not be kept.
        trouble: why the last write failed, "" if it didn't.
    """

    def __init__(self, records: Records, adopted: Collection[tuple[str, int]] = ()) -> None:
        self.lost = 0
        self.trouble = ""
        self._records = records
        self._adopted = frozenset(adopted)
        self._ranks: dict[_Key, _Rank] = {}
        self._rows: list[tuple[_Key, _Second]] = []
        self._points: list[tuple[str, str, int, float]] = []
        self._written_at = 0.0

    def sample(
        self, sample: Sample, now: float, round_trip: float = 0.0, disk_free: int | None = None
    ) -> None:
        """Take a sample of a current attempt, and how its host is; metrics are those of rank 0."""
        key = (sample.job, sample.epoch, sample.rank)
        rank, second = self._ranks.get(key), place(now, 1)
        if rank is None:
            # Of a rank that began with us everything is new; of another, nobody knows what is.
            adopted = key[:2] in self._adopted
            read, written = (sample.read, sample.written) if adopted else (0, 0)
            rank = self._ranks[key] = _Rank(now, read, written)
        row = rank.row
        if row is None or row.at != second:
            row = rank.row = self._begin(key, second)
        passed = now - rank.at
        row.add(sample, passed if 0 <= passed <= _GAP else 0.0, rank)
        row.host(round_trip, disk_free)
        rank.at = now
        if sample.read > rank.read:
            rank.read = sample.read
        if sample.written > rank.written:
            rank.written = sample.written
        if sample.rank == 0 and sample.points:
            self._add_points(sample)

    def _begin(self, key: _Key, second: int) -> _Second:
        row = _Second(key[1], second)
        if len(self._rows) < _MOST_WAITING:
            self._rows.append((key, row))
        else:
            self.lost += 1
        return row

    def _add_points(self, sample: Sample) -> None:
        new = [
            (sample.job, name, step, value)
            for step, values in sample.points
            for name, value in values.items()
        ]
        room = max(0, _MOST_WAITING - len(self._points))
        self._points += new[:room]
        self.lost += len(new[room:])

    def write_if_due(self, now: float, current: Callable[[str, int], object]) -> None:
        """Write what is new, if the last time was a while ago.

        Args:
            now: the clock.
            current: says whether an epoch of a job is its current attempt, in any way that is
                true or false: ranks of others are forgotten.
        """
        waiting = len(self._rows) + len(self._points)
        pause = _SELDOM if self.trouble and waiting > _MANY else EVERY
        if abs(now - self._written_at) < pause or not waiting:
            return
        self._written_at = now
        self.write()
        gone = [key for key in self._ranks if not current(key[0], key[1])]
        for key in gone:
            del self._ranks[key]

    def write(self) -> None:
        """Write what is new. It never raises."""
        if not self._rows and not self._points:
            return
        rows = [(job, rank, row) for (job, _, rank), row in self._rows]
        try:
            self._records.write(self._points, rows)
            self.trouble = ""
        except (OSError, sqlite3.Error) as error:
            if not self.trouble:
                logger.warning("measurements can't be written: %s", error)
            self.trouble = str(error) or type(error).__name__
            return  # it may be possible again
        except Exception as error:
            logger.exception("measurements can't be written")
            self.lost += len(rows) + len(self._points)
            self.trouble = str(error) or type(error).__name__
        self._rows.clear()
        self._points.clear()
        for known in self._ranks.values():
            known.row = None

    def readable(self) -> Records:
        """Return the records, with all that is known in them."""
        self.write()
        return self._records

    def alert(self) -> str | None:
        """Return what an administrator should know, None if all is well."""
        if not self.trouble:
            return None
        lost = f" {self.lost:,} values are lost for good." if self.lost else ""
        return f"Measurements of jobs can't be written ({self.trouble}).{lost} Training goes on."

    def series(self, job: str, limit: int) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """Return what was recorded of a job's metrics; nothing if it can't be read."""
        try:
            return self._records.series(job, limit)
        except Exception as error:
            logger.warning("what was measured of %s can't be read: %s", job, error)
            return {}

    def notes(self) -> list[tuple[str, str]]:
        """Return what the users of jobs should know of what is recorded: (job, text)."""
        text = f"Only the first {MOST_METRICS} metrics are kept."
        return [(job, text) for job in self._records.crowded]
