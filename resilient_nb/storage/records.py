"""What was measured of jobs, in the journal's file: facts of ranks and points of metrics.

No truth about jobs depends on it, so it is written in batches that a power cut may cost
(`synchronous=NORMAL`). It is bounded: `core.facts` and `core.thinning` say what is merged and
what is left out when a job runs for long.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from operator import attrgetter
from pathlib import Path

from resilient_nb.core.facts import Facts, most_rows, thinned, together
from resilient_nb.core.thinning import MOST_METRICS, most_points, opens, spaced, stride_for
from resilient_nb.errors import JournalFailed
from resilient_nb.storage.record_tables import ADD, BY_RANK, COLUMNS, SCHEMA, facts_of, number

Point = tuple[str, str, int, float]  # job, metric, step, value
_rest = attrgetter(*COLUMNS[3:])  # behind epoch, at and width
Series = tuple[tuple[int, float], ...]

#: Of what is known of series no more is remembered: it can be read again.
_REMEMBERED = 10_000
#: After thinning so much of the room is in use at most, so that it isn't due again at once.
_FILLED = 0.75
#: Rows and points that one write may thin, or little more: the others' turn comes with the next.
_THINNED = 4096


@dataclass
class _Metric:
    """The state of a series: `kept` is its last point in the table, `step` its newest."""

    stride: int = 1
    count: int = 0
    kept: int | None = None
    step: int | None = None
    value: float = 0.0


@dataclass
class _Rank:
    width: int = 1
    count: int = 0
    last: tuple[int, int] | None = None


class Records:
    """Keeps and reads measurements. Whoever writes is one thread at a time; any may read.

    Args:
        connection: to the journal's file, in autocommit mode.
        path: of the file; None if it is in memory.

    Attributes:
        crowded: jobs of which some metrics aren't kept, since they have too many.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None = None) -> None:
        self._file, self._path = connection, path
        self.crowded: set[str] = set()
        self._metrics: dict[tuple[str, str], _Metric] = {}
        self._names: dict[str, int] = {}  # how many metrics a job has
        self._ranks: dict[tuple[str, int], _Rank] = {}
        self._sizes: dict[str, int] = {}  # how many ranks a job has
        self._room = 0  # for thinning
        if not self._one("SELECT count(*) FROM sqlite_master WHERE name = ?", "facts")[0]:
            with self._transaction():
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)

    # --- writing ------------------------------------------------------------------------

    def write(
        self, points: Iterable[Point] = (), facts: Iterable[tuple[str, int, Facts]] = ()
    ) -> None:
        """Keep what is new: all of it, or nothing and an exception.

        Args:
            points: (job, metric, step, value), in the order in which they were logged. One whose
                step was seen before supersedes those from there on: steps are made again.
            facts: (job, rank, row). Rows of the same time and attempt are added up.
        """
        if len(self._metrics) + len(self._ranks) > _REMEMBERED:
            self._forget()
        self._room = _THINNED
        with self._transaction():
            for (job, name), several in _by_metric(points):
                self._add_points(job, name, several)
            for job, rank, row in facts:
                self._add_facts(job, rank, row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._file.execute("COMMIT")
        except BaseException:
            self._forget()  # what is remembered isn't what is in the file
            if self._file.in_transaction:
                with suppress(sqlite3.Error):  # some errors end it by themselves
                    self._file.execute("ROLLBACK")
            raise

    def _forget(self) -> None:
        for known in (self._metrics, self._names, self._ranks, self._sizes):
            known.clear()

    def _add_points(self, job: str, name: str, points: list[tuple[int, float]]) -> None:
        metric = self._metric(job, name)
        if metric is None:
            self.crowded.add(job)
            return
        new: dict[int, float] = {}
        for step, value in points:
            if metric.step is not None and step < metric.step:
                self._insert(job, name, new)
                new = {}
                self._cut(job, name, metric, step)
            if step == metric.kept:
                new[step] = value
            elif opens(step, metric.kept, metric.stride):
                new[step], metric.kept = value, step
                metric.count += 1
            metric.step, metric.value = step, value
        self._insert(job, name, new)
        if metric.count > most_points(self._names[job]) and self._room > 0:
            self._room -= metric.count
            self._thin_points(job, name, metric)
        self._file.execute(
            "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?)",
            (job, name, metric.stride, metric.step, metric.value),
        )

    def _metric(self, job: str, name: str) -> _Metric | None:
        """Return what is known of a series; None if its job has too many others."""
        if (known := self._metrics.get((job, name))) is not None:
            return known
        if job not in self._names:
            self._names[job] = self._one("SELECT count(*) FROM metrics WHERE job = ?", job)[0]
        row = self._one(
            "SELECT stride, step, value FROM metrics WHERE job = ? AND name = ?", job, name
        )
        if row is None and self._names[job] >= MOST_METRICS:
            return None
        if row is None:
            self._names[job] += 1
            known = _Metric()
        else:
            known = _Metric(row[0], step=row[1])
            self._count(job, name, known)
        self._metrics[job, name] = known
        return known

    def _count(self, job: str, name: str, metric: _Metric) -> None:
        metric.count, metric.kept = self._one(
            "SELECT count(*), max(step) FROM points WHERE job = ? AND name = ?", job, name
        )

    def _insert(self, job: str, name: str, points: Mapping[int, float]) -> None:
        rows = ((job, name, step, value) for step, value in points.items())
        self._file.executemany("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?)", rows)

    def _cut(self, job: str, name: str, metric: _Metric, step: int) -> None:
        """Steps from here on are made again."""
        self._file.execute(
            "DELETE FROM points WHERE job = ? AND name = ? AND step >= ?", (job, name, step)
        )
        self._count(job, name, metric)

    def _thin_points(self, job: str, name: str, metric: _Metric) -> None:
        where = "FROM points WHERE job = ? AND name = ?"
        found = self._file.execute(f"SELECT step {where} ORDER BY step", (job, name))
        steps = [step for (step,) in found]
        most = int(_FILLED * most_points(self._names[job]))
        metric.stride = stride_for(steps, metric.stride, most)
        gone = set(steps).difference(spaced(steps, metric.stride))
        self._file.executemany(f"DELETE {where} AND step = ?", ((job, name, step) for step in gone))
        self._count(job, name, metric)

    def _add_facts(self, job: str, rank: int, row: Facts) -> None:
        known = self._rank(job, rank)
        at = row.at // known.width * known.width
        # Not `astuple`, which copies each value: most of what is written are these rows.
        self._file.execute(ADD, (job, rank, row.epoch, at, known.width, *_rest(row)))
        if known.last != (at, row.epoch):
            known.last = at, row.epoch
            known.count += 1
        most = most_rows(self._sizes[job])
        if known.count > most and self._room > 0:
            self._room -= known.count
            self._thin_facts(job, rank, int(_FILLED * most))

    def _rank(self, job: str, rank: int) -> _Rank:
        if (known := self._ranks.get((job, rank))) is None:
            where = "FROM facts WHERE job = ? AND rank = ?"
            count, width = self._one(f"SELECT count(*), max(width) {where}", job, rank)
            known = self._ranks[job, rank] = _Rank(width or 1, count)
            self._sizes[job] = max(rank + 1, self._sizes.get(job, 0))
        return known

    def _thin_facts(self, job: str, rank: int, most: int) -> None:
        rows = thinned(facts_of(self._file, job, rank)[rank], most)
        self._file.execute("DELETE FROM facts WHERE job = ? AND rank = ?", (job, rank))
        self._file.executemany(ADD, ((job, rank, *astuple(row)) for row in rows))
        self._ranks[job, rank] = _Rank(rows[-1].width, len(rows))

    def _one(self, query: str, *values: object) -> tuple[int, ...]:
        found: tuple[int, ...] = self._file.execute(query, values).fetchone()
        return found

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()

    # --- reading ------------------------------------------------------------------------

    def series(self, job: str, limit: int) -> Mapping[str, Series]:
        """Return each metric of a job as at most about `limit` (step, value) pairs, in order.

        Longer series are thinned evenly; the last point is always there.
        """
        found = {}
        with self._reading() as file:
            newest = file.execute("SELECT name, step, value FROM metrics WHERE job = ?", (job,))
            for name, step, value in newest.fetchall():
                rows = file.execute(
                    "SELECT step, value FROM points WHERE job = ? AND name = ? AND step < ? "
                    "ORDER BY step",
                    (job, name, step),
                )
                points = [*rows, (step, value)]
                stride = -(-len(points) // limit)
                kept = points[(len(points) - 1) % stride :: stride]
                found[name] = tuple((at, number(value)) for at, value in kept)
        return found

    def newest(self, jobs: Iterable[str]) -> Mapping[str, Mapping[str, float]]:
        """Return the newest value of each metric of jobs."""
        with self._reading() as file:
            return {
                job: {
                    name: number(value)
                    for name, value in file.execute(
                        "SELECT name, value FROM metrics WHERE job = ?", (job,)
                    )
                }
                for job in jobs
            }

    def facts(self, job: str, rank: int | None = None) -> Mapping[int, Sequence[Facts]]:
        """Return the rows of a job's ranks (or of one), in order."""
        with self._reading() as file:
            return facts_of(file, job, rank)

    def totals(self, jobs: Iterable[str]) -> Mapping[str, Facts]:
        """Return what the gangs of jobs did in all, if anything was measured."""
        with self._reading() as file:
            rows = {job: [Facts(*row) for row in file.execute(BY_RANK, (job,))] for job in jobs}
        return {job: together(ranks) for job, ranks in rows.items() if ranks}

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection of its own, so that any thread may read while another writes."""
        try:
            if self._path is None:
                yield self._file
                return
            name = f"{self._path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(name, uri=True)) as file:
                yield file
        except sqlite3.Error as error:
            raise JournalFailed(f"What was measured can't be read ({error}).") from error


def _by_metric(
    points: Iterable[Point],
) -> Iterator[tuple[tuple[str, str], list[tuple[int, float]]]]:
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for job, name, step, value in points:
        found.setdefault((job, name), []).append((step, value))
    yield from found.items()
