"""The tables of what was measured, beside the journal's events, and the rows of facts in them."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from itertools import groupby

from resilient_nb.core.facts import Facts

COLUMNS = [field.name for field in fields(Facts)]
_SUMS = ("seconds", "steps", "items", "data_s", "compute_s", "wait_s", "checkpoint_s", "cpu_s",
         "read", "written", "missing_s")  # fmt: skip
_MOST = ("longest_s", "rss", "round_trip")
#: The last line is for journals of before points were thinned.
SCHEMA = """
CREATE TABLE IF NOT EXISTS points (
    job TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, value REAL,
    PRIMARY KEY (job, name, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
    job TEXT NOT NULL, name TEXT NOT NULL, stride INTEGER NOT NULL, step INTEGER NOT NULL,
    value REAL, PRIMARY KEY (job, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (
    job TEXT NOT NULL, rank INTEGER NOT NULL, epoch INTEGER NOT NULL, at INTEGER NOT NULL,
    width INTEGER NOT NULL, seconds REAL NOT NULL, step INTEGER NOT NULL, steps INTEGER NOT NULL,
    items INTEGER NOT NULL, data_s REAL NOT NULL, compute_s REAL NOT NULL, wait_s REAL NOT NULL,
    checkpoint_s REAL NOT NULL, longest_s REAL NOT NULL, rss INTEGER NOT NULL,
    cpu_s REAL NOT NULL, read INTEGER NOT NULL, written INTEGER NOT NULL,
    missing_s REAL NOT NULL, round_trip REAL NOT NULL, disk_free INTEGER,
    PRIMARY KEY (job, rank, at, epoch)) WITHOUT ROWID;
INSERT INTO metrics SELECT job, name, 1, max(step), value FROM points GROUP BY job, name;
"""
#: A row that is there already gets what is new of the same seconds.
ADD = (
    f"INSERT INTO facts (job, rank, {', '.join(COLUMNS)}) "
    f"VALUES ({', '.join('?' * (2 + len(COLUMNS)))}) "
    "ON CONFLICT (job, rank, at, epoch) DO UPDATE SET step = excluded.step, "
    + "".join(f"{name} = {name} + excluded.{name}, " for name in _SUMS)
    + "".join(f"{name} = max({name}, excluded.{name}), " for name in _MOST)
    + "disk_free = coalesce(min(disk_free, excluded.disk_free), disk_free, excluded.disk_free)"
)
_HOW = {**dict.fromkeys(_SUMS, "sum"), "at": "min", "disk_free": "min"}
BY_RANK = (
    "SELECT "
    + ", ".join(f"{_HOW.get(name, 'max')}({name})" for name in COLUMNS)
    + " FROM facts WHERE job = ? GROUP BY rank"
)


def facts_of(file: sqlite3.Connection, job: str, rank: int | None) -> dict[int, list[Facts]]:
    """Return the rows of a job's ranks, or of one, in order."""
    one = "" if rank is None else "AND rank = ?"
    rows = file.execute(
        f"SELECT rank, {', '.join(COLUMNS)} FROM facts WHERE job = ? {one} "
        "ORDER BY rank, at, epoch",
        (job,) if rank is None else (job, rank),
    )
    return {
        number: [Facts(*row[1:]) for row in several]
        for number, several in groupby(rows, lambda row: row[0])
    }


def number(value: float | None) -> float:
    """SQLite stores NaN as NULL."""
    return float("nan") if value is None else value
