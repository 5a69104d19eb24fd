"""The journal on SQLite: an append-only table of events, and metric points beside it.

Events are durable when `append` returns (WAL, `synchronous=FULL`); points are batched with
`NORMAL`, so a power cut may cost the last of them but never a decision. One process writes.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from resilient_nb.core.events import EVENTS, Event
from resilient_nb.errors import ResilientError
from resilient_nb.wire.codec import Registry

_EVENTS = Registry(*EVENTS.values())
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS points (
    job TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, value REAL,
    PRIMARY KEY (job, name, step)) WITHOUT ROWID;
"""
#: Format of the file, in SQLite's own `user_version`.
_FORMAT = 1


class SqliteJournal:
    """The `Journal` port on one SQLite file, which is created readable by its owner only."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal.

        Raises:
            ResilientError: if the file was written by a newer version.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._events = self._connect(path, "FULL")
        self._points = self._connect(path, "NORMAL")
        (version,) = self._events.execute("PRAGMA user_version").fetchone()
        if version > _FORMAT:
            raise ResilientError(
                f"{path} was written by a newer resilient_nb (format {version}): upgrade this one."
            )
        self._events.executescript(_SCHEMA)
        self._events.execute(f"PRAGMA user_version = {_FORMAT}")

    @staticmethod
    def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
        # The control plane is one thread at a time; which one is its host's business.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def append(self, events: Sequence[Event]) -> None:
        """Make all `events` durable in one transaction, or none."""
        rows = []
        for event in events:
            body = _EVENTS.pack(event)
            rows.append((body.pop("kind"), json.dumps(body)))  # strict JSON would lose a nan
        with _transaction(self._events):
            self._events.executemany("INSERT INTO events (kind, body) VALUES (?, ?)", rows)

    def events(self) -> Iterator[Event]:
        """Yield every event in the order of appending."""
        for kind, body in self._events.execute("SELECT kind, body FROM events ORDER BY seq"):
            yield _EVENTS.unpack({"kind": kind, **json.loads(body)})

    def record(self, rows: Iterable[tuple[str, str, int, float]]) -> None:
        """Keep metric points (job, metric, step, value); the last for a step wins."""
        with _transaction(self._points):
            self._points.executemany("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?)", rows)

    def series(self, job: str, limit: int) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """Return each metric of a job as at most about `limit` (step, value) pairs, in order.

        Longer series are thinned evenly; the last point is always there.
        """
        found: dict[str, tuple[tuple[int, float], ...]] = {}
        names = self._points.execute("SELECT DISTINCT name FROM points WHERE job = ?", (job,))
        for (name,) in names.fetchall():
            points = self._points.execute(
                "SELECT step, value FROM points WHERE job = ? AND name = ? ORDER BY step",
                (job, name),
            ).fetchall()
            stride = -(-len(points) // limit)
            # SQLite stores NaN as NULL.
            found[name] = tuple(
                (step, float("nan") if value is None else value)
                for step, value in points[(len(points) - 1) % stride :: stride]
            )
        return found

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._events.close()
        self._points.close()


class _transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK if the block raises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
