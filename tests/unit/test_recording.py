"""`control.recording`: what samples say is written now and then, and no failure is felt."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from resilient_nb.control import recording
from resilient_nb.control.recording import EVERY, Recording
from resilient_nb.core.facts import Facts, in_all
from resilient_nb.testing.builders import START
from resilient_nb.testing.fakes import MemoryJournal
from resilient_nb.wire.orders import Sample


class Disk:
    """Records that can't always be written."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.real = MemoryJournal().records
        self.crowded: set[str] = set()
        self.tries = 0

    def write(self, points: Iterable[Any] = (), facts: Iterable[Any] = ()) -> None:
        self.tries += 1
        if self.fails is not None:
            raise self.fails
        self.real.write(points, facts)

    def series(self, job: str, limit: int) -> Mapping[str, Any]:
        if self.fails is not None:
            raise self.fails
        return self.real.series(job, limit)


FULL = sqlite3.OperationalError("database or disk is full")


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


def a_sample(rank: int = 0, epoch: int = 1, **changes: Any) -> Sample:
    values = {"step": 4, "steps": 4, "compute_s": 0.2, "wait_s": 0.05, "rss": 100, "cpu": 0.5}
    return Sample("digits#1", epoch, rank, **{**values, **changes})


def whole(journal: MemoryJournal, rank: int = 0) -> Facts:
    return in_all(journal.records.facts("digits#1")[rank])


def test_samples_become_rows_by_the_second(journal: MemoryJournal) -> None:
    kept = Recording(journal.records)
    for quarter in range(40):
        kept.sample(a_sample(step=4 * quarter, rss=quarter), START + quarter / 4)
        kept.sample(a_sample(1, compute_s=0.1), START + quarter / 4)
        kept.write_if_due(START + quarter / 4, lambda job, epoch: True)
    kept.write()
    rows = journal.records.facts("digits#1")
    assert [row.at for row in rows[0]] == [START + n for n in range(10)]
    assert {row.steps for row in rows[0]} == {16}
    total = whole(journal)
    assert (total.steps, total.step, total.rss) == (160, 156, 39)
    assert (total.seconds, total.cpu_s) == (9.75, 4.875)
    assert total.compute_s == pytest.approx(8.0)
    assert whole(journal, 1).compute_s == pytest.approx(4.0)


def test_what_was_read_and_written_is_counted_once(journal: MemoryJournal) -> None:
    kept = Recording(journal.records, adopted=[("digits#1", 1)])
    for second, (read, written) in enumerate([(500, 50), (700, 50), (600, 80)]):
        kept.sample(a_sample(read=read, written=written), START + second)
    kept.write()
    # It ran before this process did: nobody knows how much of the first is new.
    assert (whole(journal).read, whole(journal).written) == (200, 30)
    kept.sample(a_sample(epoch=2, read=1000), START + 9)
    kept.write()
    assert whole(journal).read == 1200


def test_a_silence_is_no_time_that_was_looked_at(journal: MemoryJournal) -> None:
    kept = Recording(journal.records)
    for at in (0.0, 1.0, 101.0, 102.0, 90.0):  # and the clock is set back
        kept.sample(a_sample(), START + at)
    kept.write()
    assert (whole(journal).seconds, whole(journal).steps) == (2.0, 20)


def test_metrics_are_those_of_rank_0(journal: MemoryJournal) -> None:
    kept = Recording(journal.records)
    for rank in (0, 1):
        kept.sample(a_sample(rank, points=((1, {"loss": float(rank)}),)), START)
    kept.write()
    assert kept.series("digits#1", 10) == {"loss": ((1, 0.0),)}


def test_it_is_written_every_now_and_then(journal: MemoryJournal) -> None:
    kept = Recording(journal.records)
    for at, written in ((0.0, 1), (EVERY / 2, 1), (EVERY, 3)):
        kept.sample(a_sample(steps=1), START + at)
        kept.write_if_due(START + at, lambda job, epoch: written < 3)  # noqa: B023
        assert whole(journal).steps == written
    assert not kept._ranks  # of an attempt that is over


def test_a_full_disk_costs_nothing_if_it_passes() -> None:
    disk = Disk()
    kept = Recording(disk)  # type: ignore[arg-type]
    disk.fails = FULL
    kept.sample(a_sample(points=((1, {"loss": 1.0}),)), START)
    kept.write()
    alert = kept.alert()
    assert alert is not None
    assert "database or disk is full" in alert
    assert "Training goes on" in alert
    assert kept.series("digits#1", 9) == {}
    disk.fails = None
    kept.sample(a_sample(), START + 0.5)
    kept.write()
    assert kept.alert() is None
    assert in_all(disk.real.facts("digits#1")[0]).steps == 8
    assert kept.series("digits#1", 9) == {"loss": ((1, 1.0),)}


def test_what_waits_for_a_disk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MOST_WAITING", 5)
    disk = Disk()
    kept = Recording(disk)  # type: ignore[arg-type]
    disk.fails = FULL
    for second in range(8):
        kept.sample(a_sample(points=((second, {"loss": 1.0}),)), START + second)
        kept.write()
    assert kept.lost == 6
    assert "6 values are lost" in (kept.alert() or "")
    disk.fails = None
    kept.write()
    assert len(disk.real.facts("digits#1")[0]) == 5


def test_much_that_waits_for_a_disk_is_tried_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try takes a part of a second, in which the scheduler does nothing else."""
    monkeypatch.setattr(recording, "_MANY", 4)
    disk = Disk()
    disk.fails = FULL
    kept = Recording(disk)  # type: ignore[arg-type]
    for second in range(100):
        kept.sample(a_sample(), START + second)
        kept.write_if_due(START + second, lambda job, epoch: True)
    assert 5 <= disk.tries <= 8
    disk.fails = None
    kept.write_if_due(START + 120, lambda job, epoch: True)
    assert kept.trouble == ""


def test_what_can_never_be_written_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    kept = Recording(disk)  # type: ignore[arg-type]
    disk.fails = OverflowError("int too large")
    kept.sample(a_sample(), START)
    kept.write()
    assert (kept.lost, len(caplog.records)) == (1, 1)
    disk.fails = None
    kept.sample(a_sample(), START + 1)
    kept.write()
    assert in_all(disk.real.facts("digits#1")[0]).steps == 4
    assert kept.alert() is None
