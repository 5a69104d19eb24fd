"""`storage.journal`: the shipped contract, and what only a file has."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from resilient_nb.core import events as ev
from resilient_nb.errors import JournalFailed, ResilientError, VersionMismatch
from resilient_nb.ports import Journal
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.testing.builders import START
from resilient_nb.testing.contracts import JournalContract, a_history
from resilient_nb.testing.fakes import MemoryJournal


class TestSqliteJournal(JournalContract):
    def make(self, folder: Path) -> Journal:
        return SqliteJournal(folder / "home" / "journal.db")


class TestMemoryJournal(JournalContract):
    def setup_method(self) -> None:
        self._known: dict[Path, MemoryJournal] = {}

    def make(self, folder: Path) -> Journal:
        return self._known.setdefault(folder, MemoryJournal())


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(SqliteJournal(tmp_path / "home" / "journal.db")) as journal:
            journal.append([ev.ClusterCreated(START, "x")])
            journal.records.write([("a#1", "loss", 1, 1.0)])
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "home").iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(ResilientError, match=r"newer resilient_nb \(format 99\): upgrade"):
        SqliteJournal(path)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (99,)
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_an_event_of_an_unknown_kind_is_an_error_not_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        journal.append(a_history().events)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("INSERT INTO events (kind, body) VALUES ('Tomorrow', '{}')")
    with closing(SqliteJournal(path)) as journal, pytest.raises(VersionMismatch, match="Tomorrow"):
        list(journal.events())


def test_a_journal_of_before_there_was_auto_replays(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    history = a_history().events
    with closing(SqliteJournal(path)) as journal:
        journal.append(history)
    added = ("auto", "overhead")
    with closing(sqlite3.connect(path)) as file, file:
        paths = ", ".join(f"'$.spec.interval.{name}'" for name in added)
        changed = file.execute(
            f"UPDATE events SET body = json_remove(body, {paths}), sum = NULL "
            "WHERE kind = 'JobSubmitted'"
        )
        assert changed.rowcount >= 1
    with closing(SqliteJournal(path)) as journal:
        assert list(journal.events()) == history


def test_a_batch_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        with closing(sqlite3.connect(path)) as file, file:
            file.execute(
                "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'RunCreated' "
                "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
        with pytest.raises(JournalFailed, match="disk is full"):
            journal.append([ev.ClusterCreated(START, "x"), ev.RunCreated(START, "a")])
        assert list(journal.events()) == []
        journal.append([ev.ClusterCreated(START, "y")])  # no transaction is left open
        assert list(journal.events()) == [ev.ClusterCreated(START, "y")]


def test_what_append_returned_for_survives_a_kill(tmp_path: Path) -> None:
    """The process dies right after `append`, without closing anything."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from resilient_nb.core import events as ev\n"
        "from resilient_nb.storage.journal import SqliteJournal\n"
        "journal = SqliteJournal(Path(sys.argv[1]))\n"
        "journal.append([ev.ClusterCreated(1.0, 'kept'), ev.RunCreated(2.0, 'a')])\n"
        "journal._events.execute('BEGIN IMMEDIATE')\n"
        "journal._events.execute(\"INSERT INTO events (kind, body) VALUES ('RunCreated', '{}')\")\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "journal.db"
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert done.returncode == -9
    with closing(SqliteJournal(path)) as journal:
        assert list(journal.events()) == [ev.ClusterCreated(1.0, "kept"), ev.RunCreated(2.0, "a")]


def test_decisions_are_synced_to_disk_before_append_returns(tmp_path: Path) -> None:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        assert journal._events.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert journal._events.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.close()
    journal.close()
