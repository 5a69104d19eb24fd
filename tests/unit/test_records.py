"""`storage.records`: what was measured is bounded on disk, and right after anything."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core import facts as core_facts
from resilient_nb.core import thinning
from resilient_nb.core.facts import Facts
from resilient_nb.errors import JournalFailed
from resilient_nb.storage.records import Records
from resilient_nb.storage.reserve import Reserve

JOB = "digits#1"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Series that are full soon."""
    monkeypatch.setattr(core_facts, "MOST_ROWS", 24)
    monkeypatch.setattr(thinning, "MOST_POINTS", 24)


@contextmanager
def opened(path: Path | None = None) -> Iterator[Records]:
    name = ":memory:" if path is None else path
    with closing(sqlite3.connect(name, isolation_level=None)) as file:
        file.execute("PRAGMA synchronous = OFF")
        yield Records(file, path)


def row(at: int, epoch: int = 1, **changes: float) -> Facts:
    values = {"seconds": 1.0, "steps": 4, "step": 4 * at, "compute_s": 0.5, **changes}
    return Facts(epoch, at, **values)  # type: ignore[arg-type]


def count(records: Records, table: str) -> int:
    [found] = records._file.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found)


def test_facts_of_the_same_second_add_up(tmp_path: Path) -> None:
    with opened(tmp_path / "j.db") as records:
        records.write(facts=[(JOB, 0, row(5, longest_s=2.0)), (JOB, 1, row(5))])
        records.write(facts=[(JOB, 0, row(5, longest_s=1.0, rss=7, disk_free=3))])
        [found] = records.facts(JOB, 0)[0]
        assert (found.steps, found.seconds, found.longest_s, found.rss) == (8, 2.0, 2.0, 7)
        assert found.disk_free == 3
        assert set(records.facts(JOB)) == {0, 1}
        assert records.facts("other#1") == {}
        total = records.totals([JOB, "other#1"])
        assert (total[JOB].steps, total[JOB].compute_s) == (8, 1.5)
        assert set(total) == {JOB}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.data())
def test_rows_are_bounded_and_lose_no_step(gaps: list[int], data: st.DataObject) -> None:
    """Also over attempts, and if the process is replaced by another at any time."""
    at, epoch, steps = 1_000_000, 1, 0
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        records = Records(file)
        for gap in gaps:
            if data.draw(st.integers(0, 9)) == 0:
                records = Records(file)
            epoch += data.draw(st.integers(0, 5)) == 0
            batch = [(JOB, 0, row(at + n, epoch)) for n in range(7)]
            records.write(facts=batch)
            at, steps = at + 7 + gap, steps + 28
            found = records.facts(JOB)[0]
            assert sum(r.steps for r in found) == steps
            assert len(found) <= 24
            assert [r.at for r in found] == sorted(r.at for r in found)
            assert found[-1].epoch == epoch


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1), st.data())
def test_points_are_bounded_and_those_made_again_replace_the_old(
    legs: list[tuple[int, int]], data: st.DataObject
) -> None:
    """A run makes some steps, goes back to a checkpoint, goes on; its scheduler restarts."""
    every = data.draw(st.sampled_from([1, 3, 10]))
    step, truth = 0, {}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        records = Records(file)
        for number, (made, back) in enumerate(legs):
            if data.draw(st.booleans()):
                records = Records(file)
            step = max(0, step - back)
            truth = {at: value for at, value in truth.items() if at <= step}
            new = [at for at in range(step + 1, step + made + 1) if at % every == 1 % every]
            truth.update(dict.fromkeys(new, float(number)))
            records.write([(JOB, "loss", at, float(number)) for at in new])
            step += made
            if not new:
                continue
            found = records.series(JOB, 1000)["loss"]
            assert found[-1] == (max(truth), truth[max(truth)])
            assert all(truth[at] == value for at, value in found if at <= max(new))
            assert len(found) <= 25
            assert [at for at, _ in found] == sorted({at for at, _ in found})
            assert records.newest([JOB]) == {JOB: {"loss": truth[max(truth)]}}


def test_a_long_series_covers_all_of_its_run() -> None:
    with opened() as records:
        for step in range(0, 5000, 10):
            records.write([(JOB, "loss", step + 7, step / 2)])
        found = [step for step, _ in records.series(JOB, 1000)["loss"]]
        assert (found[0], found[-1]) == (7, 4997)
        assert len(found) > 8
        assert max(b - a for a, b in pairwise(found)) < 5000 / 4
        assert len(records.series(JOB, 5)["loss"]) <= 5


def test_a_metric_that_is_logged_twice_in_a_step_has_its_last_value() -> None:
    with opened() as records:
        for value in (1.0, 2.0):
            records.write([(JOB, "loss", 1, value), (JOB, "loss", 1, value + 0.5)])
        assert records.series(JOB, 10) == {"loss": ((1, 2.5),)}


def test_a_job_with_very_many_metrics_keeps_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient_nb.storage.records.MOST_METRICS", 3)
    with opened() as records:
        records.write([(JOB, f"m{n}", 1, 0.0) for n in range(5)])
        records.write([("b#1", "m", 1, 0.0), (JOB, "m1", 2, 0.0)])
        assert sorted(records.series(JOB, 9)) == ["m0", "m1", "m2"]
        assert records.crowded == {JOB}


def test_a_journal_of_before_there_were_facts_keeps_its_points(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(
            "CREATE TABLE points (job TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, "
            "value REAL, PRIMARY KEY (job, name, step)) WITHOUT ROWID"
        )
        points = [(JOB, "loss", step, step / 2) for step in range(100)]
        file.executemany("INSERT INTO points VALUES (?, ?, ?, ?)", points)
    with opened(path) as records:
        assert len(records.series(JOB, 1000)["loss"]) == 100
        records.write([(JOB, "loss", 100, 7.0)])
        found = records.series(JOB, 1000)["loss"]
        assert (found[0], found[-1]) == ((0, 0.0), (100, 7.0))
        assert len(found) <= 25


def test_a_write_that_fails_keeps_nothing_and_the_next_is_right(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with opened(path) as records:
        records.write([(JOB, "loss", 1, 1.0)], [(JOB, 0, row(1))])
        with closing(sqlite3.connect(path)) as file, file:
            file.execute(
                "CREATE TRIGGER full BEFORE INSERT ON facts "
                "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
        with pytest.raises(sqlite3.DatabaseError, match="disk is full"):
            records.write([(JOB, "loss", 2, 2.0)], [(JOB, 0, row(2))])
        assert records.series(JOB, 9) == {"loss": ((1, 1.0),)}
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("DROP TRIGGER full")
        records.write([(JOB, "loss", 2, 2.0)], [(JOB, 0, row(2))])
        assert records.series(JOB, 9) == {"loss": ((1, 1.0), (2, 2.0))}
        assert [r.at for r in records.facts(JOB)[0]] == [1, 2]


def test_reading_waits_for_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with opened(path) as records:
        records._file.execute("PRAGMA journal_mode = WAL")
        records.write([(JOB, "loss", 1, 1.0)])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert records.newest([JOB, "none#1"]) == {JOB: {"loss": 1.0}, "none#1": {}}
            other.execute("ROLLBACK")


def test_what_is_thinned_takes_no_more_room(tmp_path: Path) -> None:
    with opened(tmp_path / "j.db") as records:
        for at in range(2000):
            records.write([(JOB, "loss", at, 0.5)], [(JOB, 0, row(at)), (JOB, 1, row(at))])
        assert count(records, "points") <= 24
        assert count(records, "facts") <= 48
    assert (tmp_path / "j.db").stat().st_size < 100_000


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with opened(path) as records:
        records.write([(JOB, "loss", 1, 1.0)])
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("DROP TABLE metrics")
        with pytest.raises(JournalFailed, match="What was measured can't be read"):
            records.newest([JOB])


def test_room_that_cant_be_kept_leaves_nothing_that_passes_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a quota a disk has room for others only."""
    reserve = Reserve(tmp_path / "journal.db.reserve")

    def refused(*_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refused)
        reserve.keep()
    assert list(tmp_path.iterdir()) == []
    reserve.keep()
    assert (tmp_path / "journal.db.reserve").stat().st_size == 1 << 20
