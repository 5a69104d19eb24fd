"""The journal on SQLite: an append-only table of events, and measurements beside it.

Events are durable when `append` returns (WAL, `synchronous=FULL`); `records` are batched with
`NORMAL`, so a power cut may cost the last of them but never a decision. One process writes.

A disk that is full or broken makes `append` fail as a whole, and the next one may succeed. Each
event has a number and a checksum, so that one that is damaged or missing is never passed over.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import xxhash

from resilient_nb.core.events import EVENTS, Event
from resilient_nb.errors import JournalDamaged, JournalFailed, ResilientError
from resilient_nb.storage.records import Records
from resilient_nb.storage.reserve import Reserve
from resilient_nb.wire.codec import Registry

_EVENTS = Registry(*EVENTS.values())
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, sum INTEGER);
"""
#: Format of the file, in SQLite's own `user_version`: 2 since events have checksums.
_FORMAT = 2
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: Steps of SQLite's machine between two looks at the clock.
_LOOK_EVERY = 20_000


class SqliteJournal:
    """The `Journal` port on one SQLite file, which is created readable by its owner only."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal.

        Raises:
            JournalFailed: its disk is full or broken, say; it may be another time.
            JournalDamaged: the file is no journal any more.
            ResilientError: it was written by a newer version.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._reserve = Reserve(path.with_name(f"{path.name}.reserve"))
            self._events = self._connect("FULL")
            self._prepare()
            self._reserve.keep()
            self.records = Records(self._connect("NORMAL"), path)
        except (OSError, sqlite3.Error) as error:
            raise _failure(path, error) from error

    def _prepare(self) -> None:
        """Make or update the tables; a journal that has them isn't written."""
        (version,) = self._events.execute("PRAGMA user_version").fetchone()
        if version > _FORMAT:
            raise ResilientError(
                f"{self._path} was written by a newer resilient_nb (format {version}): upgrade "
                "this one."
            )
        if version == _FORMAT:
            return
        with _transaction(self._events):
            if version == 1:
                self._events.execute("ALTER TABLE events ADD COLUMN sum INTEGER")
            for statement in _SCHEMA.split(";"):
                self._events.execute(statement)
            self._events.execute(f"PRAGMA user_version = {_FORMAT}")

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        # The control plane is one thread at a time; which one is its host's business.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def append(self, events: Sequence[Event]) -> None:
        """Make all `events` durable in one transaction, or none.

        Raises:
            JournalFailed: none is, and the journal is as it was.
        """
        rows = []
        for event in events:
            body = _EVENTS.pack(event)
            kind, text = body.pop("kind"), json.dumps(body)  # strict JSON would lose a nan
            rows.append((kind, text, _sum(kind, text)))
        try:
            self._insert(rows)
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error
        if self._reserve.spent:
            self._reserve.keep()

    def _insert(self, rows: Sequence[tuple[str, str, int]]) -> None:
        try:
            self._insert_once(rows)
        except sqlite3.OperationalError:
            # What frees the disk (dropping checkpoints, say) must be written before.
            if not self._reserve.spend():
                raise
            self._insert_once(rows)

    def _insert_once(self, rows: Sequence[tuple[str, str, int]]) -> None:
        with _transaction(self._events):
            self._events.executemany("INSERT INTO events (kind, body, sum) VALUES (?, ?, ?)", rows)

    def probe(self) -> None:
        """Write what changes nothing.

        Raises:
            JournalFailed: events couldn't be written either.
        """
        try:
            with _transaction(self._events):
                self._events.execute(f"PRAGMA user_version = {_FORMAT}")
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error
        self._reserve.keep()

    def events(self) -> Iterator[Event]:
        """Yield every event in the order of appending.

        Raises:
            JournalDamaged: at the first that is missing or isn't as it was written.
            VersionMismatch: at one that this version doesn't know.
        """
        for kind, body in _rows(self._events, self._path):
            yield _EVENTS.unpack({"kind": kind, **json.loads(body)})

    def verify(self) -> int:
        """Look at every event, and return how many there are.

        Raises:
            JournalDamaged: at the first that is missing or isn't as it was written.
        """
        return sum(1 for _ in _rows(self._events, self._path))

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._events.close()
        self.records.close()


def readable(path: Path) -> Iterator[Event]:
    """Yield the events of a journal, whatever else is in the file. Raises as `events` does."""
    with closing(sqlite3.connect(path)) as connection:
        for kind, body in _rows(connection, path):
            yield _EVENTS.unpack({"kind": kind, **json.loads(body)})


def check(path: Path, seconds: float) -> str | None:
    """Return what SQLite finds damaged in a journal, "" if nothing; None if time ran out."""
    give_up = time.monotonic() + seconds
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > give_up, _LOOK_EVERY)
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.Error as error:
            return None if _code(error) == sqlite3.SQLITE_INTERRUPT else str(error)
    return "" if found == ["ok"] else "; ".join(found)


class _transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK if the block or the commit raises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # Some errors end the transaction by themselves, and a full disk can fail the commit.
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")


def _rows(connection: sqlite3.Connection, path: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and JSON of each event, as long as they are as they were written."""
    last = 0
    try:
        known = {row[1] for row in connection.execute("PRAGMA table_info(events)")}
        found = "sum" if "sum" in known else "NULL"  # of before there were checksums
        rows = connection.execute(f"SELECT seq, kind, body, {found} FROM events ORDER BY seq")
        while (row := next(rows, None)) is not None:
            _check_row(row, last)
            yield row[1], row[2]
            last += 1
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise _damage(path, last, str(error)) from error


def _check_row(row: tuple[int, str, str, int | None], last: int) -> None:
    seq, kind, text, found = row
    if seq != last + 1:
        raise ValueError(f"event {last + 1} is missing")
    if found is None:
        dict(json.loads(text))  # of before there were checksums
    elif found != _sum(kind, text):
        raise ValueError(f"event {seq} doesn't match its checksum")


def _sum(kind: str, body: str) -> int:
    return xxhash.xxh32_intdigest(f"{kind}\0{body}".encode())


def _code(error: Exception) -> int:
    """Return SQLite's error code, without what makes it more precise; 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _failure(path: Path, error: Exception) -> JournalFailed:
    if _code(error) in _DAMAGE:
        return JournalDamaged(
            f"The journal {path} is damaged ({error}), so nothing more is written to it. What runs "
            "goes on. Restart the scheduler: it brings back what can be read."
        )
    return JournalFailed(
        f"The journal {path} can't be written ({error}): nothing was changed. What runs goes on, "
        "and what happens is kept where it happened. Free some space on its disk: the rest "
        "follows by itself."
    )


def _damage(path: Path, after: int, why: str) -> JournalDamaged:
    return JournalDamaged(f"The journal {path} is damaged after event {after}: {why}.", after)
