"""What ranks did, second by second, in rows that become wider as there are more of them.

A rank's series begins with a row for each second. When it has more than so many rows, neighbours
are merged and the width of all rows doubles: sums add, extremes stay. So a series covers all of
its run, none of its steps is lost, and it is never larger than its limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

#: Rows kept of each rank of a job, and of all its ranks together: if there are many, each has
#: fewer, but not less than the last number.
MOST_ROWS, _ALL_ROWS, _LEAST_ROWS = 2048, 1 << 16, 64


@dataclass(slots=True)
class Facts:
    """What a rank did in the `width` seconds from `at` on, in attempt `epoch`.

    Attributes:
        epoch: the attempt; the last of several where there were too many to keep them apart.
        at: a multiple of the width, in seconds since the epoch.
        width: a power of two.
        seconds: for how long the rank was looked at.
        step: the last step it had made.
        steps: how many it made, of which the next are the sums.
        items: samples of data, of the whole gang, as far as they are counted.
        data_s, compute_s, wait_s, checkpoint_s: seconds of these steps, by phase.
        longest_s: the longest of them.
        rss: the most memory that was seen, in bytes.
        cpu_s: seconds of CPU time.
        read, written: bytes.
        missing_s: seconds for which data that the cell had declared couldn't be read.
        round_trip: the longest that its host waited for the scheduler, in seconds.
        disk_free: the least bytes that were free on its host's disk, None if nobody knows.
    """

    epoch: int
    at: int
    width: int = 1
    seconds: float = 0.0
    step: int = 0
    steps: int = 0
    items: int = 0
    data_s: float = 0.0
    compute_s: float = 0.0
    wait_s: float = 0.0
    checkpoint_s: float = 0.0
    longest_s: float = 0.0
    rss: int = 0
    cpu_s: float = 0.0
    read: int = 0
    written: int = 0
    missing_s: float = 0.0
    round_trip: float = 0.0
    disk_free: int | None = None

    def __add__(self, later: Facts) -> Facts:
        """Return both as one row, in the place of the first."""
        return Facts(
            epoch=later.epoch,
            at=self.at,
            width=self.width,
            seconds=self.seconds + later.seconds,
            step=later.step,
            steps=self.steps + later.steps,
            items=self.items + later.items,
            data_s=self.data_s + later.data_s,
            compute_s=self.compute_s + later.compute_s,
            wait_s=self.wait_s + later.wait_s,
            checkpoint_s=self.checkpoint_s + later.checkpoint_s,
            longest_s=max(self.longest_s, later.longest_s),
            rss=max(self.rss, later.rss),
            cpu_s=self.cpu_s + later.cpu_s,
            read=self.read + later.read,
            written=self.written + later.written,
            missing_s=self.missing_s + later.missing_s,
            round_trip=max(self.round_trip, later.round_trip),
            disk_free=_least(self.disk_free, later.disk_free),
        )


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def most_rows(ranks: int) -> int:
    """Return how many rows are kept of each of so many ranks of a job."""
    return min(MOST_ROWS, max(_LEAST_ROWS, _ALL_ROWS // max(1, ranks)))


def place(at: float, width: int) -> int:
    """Return where the row begins that a moment belongs to."""
    return int(at) // width * width


def thinned(rows: Sequence[Facts], most: int) -> list[Facts]:
    """Return rows of one rank, in order, as at most `most` rows of one width, at least one.

    Attempts are kept apart, unless there are nearly as many of them as rows.
    """
    width = max((row.width for row in rows), default=1)
    found = _widened(rows, width, apart=True)
    while len(found) > max(1, most):
        width *= 2
        # However wide the rows are, an attempt may lie in two of them.
        apart = 2 * len({row.epoch for row in found}) <= most
        found = _widened(found, width, apart)
    return found


def _widened(rows: Iterable[Facts], width: int, apart: bool) -> list[Facts]:
    def key(row: Facts) -> tuple[int, int]:
        return place(row.at, width), row.epoch if apart else 0

    found = []
    # Sorted, since a clock may be set back.
    for (at, _), several in groupby(sorted(rows, key=key), key):
        found.append(replace(in_all(several), at=at, width=width))
    return found


def in_all(rows: Iterable[Facts]) -> Facts:
    """Return rows in order, at least one of them, as one."""
    first, *others = rows
    return sum(others, start=first)


def together(ranks: Sequence[Facts]) -> Facts:
    """Return what ranks of one gang did as one row, at least one of them.

    They make their steps together, so these are counted once, and so is the time.
    """
    return replace(
        in_all(ranks),
        at=min(row.at for row in ranks),
        seconds=max(row.seconds for row in ranks),
        step=max(row.step for row in ranks),
        steps=max(row.steps for row in ranks),
        items=max(row.items for row in ranks),
        missing_s=max(row.missing_s for row in ranks),
    )
