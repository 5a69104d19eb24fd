"""Recording: samples of ranks become rows of facts and metric points, written now and then.

Whatever happens to them, training and the queue go on: a write that fails is said, and what it
was to keep is tried again with the next, as long as it isn't too much.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

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


@dataclass
class _Last:
    """What the sample before said, and when it came."""

    at: float
    read: int
    written: int


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
        self._last: dict[_Key, _Last] = {}
        self._facts: dict[tuple[_Key, int], Facts] = {}  # by second
        self._points: list[tuple[str, str, int, float]] = []
        self._written_at = 0.0

    def sample(
        self, sample: Sample, now: float, round_trip: float = 0.0, disk_free: int | None = None
    ) -> None:
        """Take a sample of a current attempt, and how its host is; metrics are those of rank 0."""
        key = (sample.job, sample.epoch, sample.rank)
        row = replace(self._row(key, sample, now), round_trip=round_trip, disk_free=disk_free)
        before = self._facts.get((key, row.at))
        if before is not None:
            self._facts[key, row.at] = before + row
        elif len(self._facts) < _MOST_WAITING:
            self._facts[key, row.at] = row
        else:
            self.lost += 1
        if sample.rank == 0 and sample.points:
            self._add_points(sample)

    def _row(self, key: _Key, sample: Sample, now: float) -> Facts:
        last = self._last.get(key)
        if last is None:
            # Of a rank that began with us everything is new; of another, nobody knows what is.
            known = key[:2] in self._adopted
            last = _Last(now, sample.read if known else 0, sample.written if known else 0)
        passed = now - last.at
        seconds = passed if 0 <= passed <= _GAP else 0.0
        row = Facts(
            epoch=sample.epoch,
            at=place(now, 1),
            seconds=seconds,
            step=sample.step,
            steps=sample.steps,
            items=sample.items,
            data_s=sample.data_s,
            compute_s=sample.compute_s,
            wait_s=sample.wait_s,
            checkpoint_s=sample.checkpoint_s,
            longest_s=sample.longest_s,
            rss=sample.rss,
            cpu_s=sample.cpu * seconds,
            read=max(0, sample.read - last.read),
            written=max(0, sample.written - last.written),
            missing_s=seconds if sample.missing else 0.0,
        )
        self._last[key] = _Last(now, max(sample.read, last.read), max(sample.written, last.written))
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
        waiting = len(self._facts) + len(self._points)
        pause = _SELDOM if self.trouble and waiting > _MANY else EVERY
        if abs(now - self._written_at) < pause or not waiting:
            return
        self._written_at = now
        self.write()
        gone = [key for key in self._last if not current(key[0], key[1])]
        for key in gone:
            del self._last[key]

    def write(self) -> None:
        """Write what is new. It never raises."""
        if not self._facts and not self._points:
            return
        rows = [(key[0], key[2], row) for (key, _), row in self._facts.items()]
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
        self._facts.clear()
        self._points.clear()

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
