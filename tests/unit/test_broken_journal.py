"""A journal on a full disk, and one that is damaged: nothing is half done, forgotten or killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.config import Settings
from resilient_nb.control.commands import Commands
from resilient_nb.control.opening import Unopened, catch_up, open_journal, problem
from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import evolve, replay
from resilient_nb.core.model import Job, JobState, Outcome
from resilient_nb.errors import JournalDamaged, JournalFailed
from resilient_nb.storage import salvage
from resilient_nb.storage.claim import claim
from resilient_nb.storage.journal import SqliteJournal, check
from resilient_nb.storage.stores import open_store
from resilient_nb.testing.builders import START, Story, a_checkpoint, a_spec
from resilient_nb.testing.contracts import a_history, world_problems
from resilient_nb.testing.fakes import FakeCluster, fake_settings
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq
from tests.unit.checkpoints import LEAVES, save

SMALL = {"model/bias": LEAVES["model/1.bias"]}


# --- a full disk: the file ---


def fill(journal: SqliteJournal) -> None:
    """Let SQLite have not one page more."""
    (pages,) = journal._events.execute("PRAGMA page_count").fetchone()
    journal._events.execute(f"PRAGMA max_page_count = {pages}")


def append_until_full(journal: SqliteJournal) -> int:
    taken = 0

    def append() -> None:
        nonlocal taken
        for _ in range(10_000):
            journal.append([ev.RunCreated(START, f"r{taken}"), ev.RunCreated(START, "x" * 500)])
            taken += 1

    with pytest.raises(JournalFailed, match=r"database or disk is full.*Free some space"):
        append()
    return taken


def test_a_full_disk_takes_all_of_a_batch_or_nothing(tmp_path: Path) -> None:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        fill(journal)
        taken = append_until_full(journal)
        assert len(list(journal.events())) == 2 * taken
        with pytest.raises(JournalFailed):
            journal.append([ev.RunCreated(START, "y" * 5000)])
        journal._events.execute("PRAGMA max_page_count = 100000")
        journal.append([ev.RunCreated(START, "there is room again")])
        assert list(journal.events())[-1] == ev.RunCreated(START, "there is room again")
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        assert journal.verify() == 2 * taken + 1


# --- a full disk: the engine ---


class Desk:
    """A fake cluster with one host, whose journal can be full."""

    def __init__(self, home: Path) -> None:
        self.cluster = FakeCluster(home, {"h0": 2})
        self.host = self.cluster.hosts["h0"]

    def submit(self, run: str = "digits", workers: int = 1, **spec: Any) -> None:
        commands = Commands(self.cluster.engine, "x")
        commands(rq.Submit(run, a_spec(workers, **spec), f"r-{run}"), self.cluster.settings.user)

    def running(self, run: str = "digits", workers: int = 1) -> Job:
        self.submit(run, workers)
        for _ in range(5):
            self.cluster.round(0.3)
        assert self.job().state is JobState.RUNNING
        return self.job()

    def job(self, name: str = "digits#1") -> Job:
        return self.cluster.engine.world.jobs[name]

    def fill(self, full: bool = True) -> None:
        self.cluster.journal.full = full

    def calm(self) -> None:
        self.fill(False)
        for _ in range(40):
            self.cluster.round(0.5)
        assert replay(self.cluster.journal.events()) == self.cluster.engine.world


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_fact_that_the_journal_doesnt_take_is_kept_by_its_host(desk: Desk) -> None:
    desk.running()
    [rank] = desk.host.ranks.values()
    desk.host.write_checkpoint(rank, None)
    desk.host.end(rank, Outcome.FINISHED, exit_code=0)
    desk.fill()
    world = desk.cluster.engine.world
    for _ in range(60):  # long enough for a rank without an end to be given up
        desk.cluster.round(1.0)
    assert desk.cluster.engine.world == world
    assert len(desk.host.facts) == 2
    desk.calm()
    assert desk.job().state is JobState.SUCCEEDED
    assert desk.cluster.engine.world.runs["digits"].head is not None
    assert desk.host.facts == {}


def test_an_end_without_its_stop_is_stopped_when_there_is_room(desk: Desk) -> None:
    """The journal takes the one event and not the other."""
    desk.running(workers=2)
    rank = next(iter(desk.host.ranks.values()))
    desk.host.end(rank, Outcome.EXITED, signal=9)
    append, taken = desk.cluster.journal.append, []

    def once(events: Any) -> None:
        desk.cluster.journal.full = bool(taken)
        taken.append(events)
        append(events)

    desk.cluster.journal.append = once  # type: ignore[method-assign]
    desk.cluster.report("h0")
    desk.cluster.journal.append = append  # type: ignore[method-assign]
    assert desk.job().stop is None
    assert list(desk.job().ends) == [0]
    desk.calm()
    assert desk.job().attempts == 2
    assert desk.job().state is JobState.RUNNING


def test_people_are_told_and_new_jobs_refused(desk: Desk) -> None:
    desk.running()
    desk.fill()
    with pytest.raises(JournalFailed, match="can't be written"):
        desk.submit("other")
    assert "other" not in desk.cluster.engine.world.runs
    commands = Commands(desk.cluster.engine, "x")
    report = commands(rq.GetQueue(), "ada")
    assert any("can't be written" in text for text in report.alerts)
    view = desk.cluster.engine.view(desk.job())
    assert any("can't be written" in text for text in view.alerts)
    with pytest.raises(JournalFailed):
        commands(rq.Cancel("digits"), "ada")
    assert desk.job().stop is None
    desk.calm()
    assert not any("can't be written" in text for text in commands(rq.GetQueue(), "ada").alerts)
    desk.submit("other")


def test_what_was_asked_of_a_host_is_asked_again(desk: Desk) -> None:
    desk.running()
    desk.fill()
    desk.cluster.engine.vacate("h0", "Its worker retires.")
    assert desk.job().stop is None
    desk.fill(False)
    desk.cluster.engine.tick()
    assert desk.job().state is JobState.STOPPING


# --- damage: the file ---


def settle_file(path: Path) -> None:
    """Have all of a journal in its one file."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def written(path: Path, story: Story | None = None) -> list[ev.Event]:
    events = (story or a_history()).events
    with closing(SqliteJournal(path)) as journal:
        journal.append(events)
        journal.records.write([("digits#1", "loss", 1, 0.5)])
    settle_file(path)
    return events


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x04
    path.write_bytes(bytes(data))


def test_no_flipped_bit_is_taken_for_an_event(tmp_path: Path) -> None:
    """Wherever a bit is flipped: all events are right up to where damage is said, or all are."""
    events = written(tmp_path / "whole.db")
    size = (tmp_path / "whole.db").stat().st_size
    path, seen = tmp_path / "journal.db", 0
    for at in range(50, size, max(1, size // 150)):
        shutil.copy(tmp_path / "whole.db", path)
        flip(path, at)
        found = []
        try:
            with closing(SqliteJournal(path)) as journal:
                for event in journal.events():
                    found.append(event)
        except JournalFailed:
            seen += 1
        assert found == events[: len(found)], at
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert seen > 20


def test_a_missing_event_is_damage(tmp_path: Path) -> None:
    events = written(tmp_path / "journal.db")
    with closing(sqlite3.connect(tmp_path / "journal.db")) as file, file:
        file.execute("DELETE FROM events WHERE seq = 5")
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        with pytest.raises(JournalDamaged, match="event 5 is missing") as caught:
            list(journal.events())
        assert caught.value.after == 4
    assert salvage.readable(tmp_path / "journal.db").events == tuple(events[:4])


def test_a_journal_of_before_there_were_checksums_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    events = written(path)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("ALTER TABLE events DROP COLUMN sum")
        file.execute("PRAGMA user_version = 1")
    assert salvage.readable(path).events == tuple(events)
    with closing(SqliteJournal(path)) as journal:
        journal.append([ev.ClusterCreated(START, "again")])
        assert list(journal.events()) == [*events, ev.ClusterCreated(START, "again")]


def test_a_check_finds_damage_that_events_dont_show(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    written(path)
    assert check(path, 10.0) == ""
    with closing(sqlite3.connect(path)) as file:
        (page,) = file.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'points'"
        ).fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : (page - 1) * size + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    settings = fake_settings(tmp_path)
    assert "damaged" in problem(settings)
    journal = open_journal(settings)  # which writes it anew
    assert isinstance(journal, SqliteJournal)
    with closing(journal):
        assert list(journal.events()) == a_history().events
    assert problem(settings) == ""


# --- damage: what is brought back ---


class Home:
    """A home with a journal and a store, whose checkpoints are really there."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = fake_settings(folder)
        self.story = Story().then(ev.ClusterCreated(START, "c0ffee"))
        self.store = open_store(self.settings.store)
        self.runs = open_store(self.settings.runs)
        claim(self.store, "c0ffee")

    def checkpoint(self, step: int, run: str = "digits") -> None:
        self.story.checkpoint(step, run)
        head = self.story.world.runs[run].head
        assert head is not None
        new = self.story.world.checkpoint(head)
        save(
            self.runs, SMALL, {}, run=new.run, job=new.job, epoch=new.epoch, step=new.step,
            parent=new.parent,
        )  # fmt: skip

    def damage(self, after: int) -> None:
        """Write the journal, and damage the event behind so many."""
        written(self.settings.journal, self.story)
        with closing(sqlite3.connect(self.settings.journal)) as file, file:
            file.execute("UPDATE events SET body = body || ' ' WHERE seq = ?", (after + 1,))

    def open(self) -> SqliteJournal:
        journal = open_journal(self.settings)
        assert isinstance(journal, SqliteJournal), journal
        return journal


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_forgotten_checkpoints_come_back_and_are_not_written_over(home: Home) -> None:
    home.story.submit("digits").start("digits")
    home.checkpoint(20)
    known = len(home.story.events)
    home.story.stop().requeue().start()
    home.checkpoint(40)
    home.checkpoint(60)
    newest = home.story.world.runs["digits"].head
    home.story.run("fork", newest).submit("fork").start("fork")
    home.checkpoint(80, "fork")
    home.damage(after=known)
    with closing(home.open()) as journal:
        world = replay(journal.events())
        assert journal.records.series("digits#1", 10) == {"loss": ((1, 0.5),)}
    assert world.cluster_id == "c0ffee"
    assert world.salvaged is not None
    assert f"damaged after event {known}" in world.salvaged.text
    assert "3 checkpoints that it had forgotten are back" in world.salvaged.text
    assert set(world.runs["digits"].checkpoints) == {
        "digits/00000020-e1", "digits/00000040-e2", "digits/00000060-e2"
    }  # fmt: skip
    assert world.runs["digits"].head == newest
    assert world.runs["digits"].epoch > 2
    assert world.jobs["digits#1"].state is JobState.RUNNING
    assert world.runs["fork"].forked_from == newest
    assert world.runs["fork"].head == "fork/00000080-e1"
    assert world_problems(world) == []
    assert list(home.settings.home.glob("journal.db.damaged-*"))


def test_a_file_that_is_no_journal_any_more_keeps_whose_it_was(home: Home) -> None:
    home.story.submit("digits").start("digits")
    home.checkpoint(20)
    written(home.settings.journal, home.story)
    home.settings.journal.write_bytes(b"nothing of it is left" * 1000)
    with closing(home.open()) as journal:
        world = replay(journal.events())
    assert world.cluster_id == "c0ffee"
    assert world.runs["digits"].head == "digits/00000020-e1"
    assert world.runs["digits"].epoch > 1


def test_a_journal_that_is_older_than_the_store_is_brought_up_to_date(home: Home) -> None:
    home.story.submit("digits").start("digits")
    home.checkpoint(20)
    world = home.story.world
    assert catch_up(home.settings, world) == []
    home.story.stop().requeue().start()
    home.checkpoint(40)
    newest = home.story.world.runs["digits"].head
    home.story.run("other", newest).submit("other").start("other")
    home.checkpoint(60, "other")
    news = catch_up(home.settings, world)
    assert [type(event) for event in news] == [
        ev.JournalSalvaged, ev.CheckpointsFound, ev.RunCreated, ev.CheckpointsFound
    ]  # fmt: skip
    caught_up = reduce(evolve, news, world)
    assert caught_up.runs["digits"].head == newest
    assert caught_up.runs["other"].forked_from == newest
    assert world_problems(caught_up) == []
    assert catch_up(home.settings, caught_up) == []
    assert catch_up(home.settings, home.story.world) == []


def test_a_checkpoint_on_its_way_or_dropped_is_not_forgotten(home: Home) -> None:
    home.story.submit("digits").start("digits")
    world = home.story.world
    home.checkpoint(20)
    assert catch_up(home.settings, world) == []  # its attempt is known: the fact will come


def test_nothing_is_decided_without_the_store(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.story.submit("digits").start("digits")
    home.damage(after=2)
    before = home.settings.journal.read_bytes()
    monkeypatch.setattr(
        "resilient_nb.storage.salvage._folders", _raise(OSError(5, "Input/output error"))
    )
    found = open_journal(home.settings)
    assert isinstance(found, Unopened)
    assert "Input/output error" in str(found.why)
    assert found.cluster_id == "c0ffee"
    assert home.settings.journal.read_bytes() == before


def test_nothing_is_decided_when_the_store_is_not_mounted(home: Home, tmp_path: Path) -> None:
    home.story.submit("digits").start("digits")
    home.damage(after=3)
    Path(home.settings.store).rename(tmp_path / "elsewhere")
    found = open_journal(home.settings)
    assert isinstance(found, Unopened)
    assert "isn't this cluster's" in str(found.why)


@pytest.mark.parametrize("renames", range(4))
def test_a_salvage_that_was_killed_is_finished(
    home: Home, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.story.submit("digits").start("digits")
    home.damage(after=3)
    rename, left = Path.rename, [renames]

    def fail(self: Path, target: Any) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with contextlib.suppress(KeyboardInterrupt):
        open_journal(home.settings)
    monkeypatch.undo()
    with closing(home.open()) as journal:
        world = replay(journal.events())
    assert world.salvaged is not None
    assert "digits#1" in world.jobs


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


# --- damage: ranks that live ---


def forget(desk: Desk, events: int) -> None:
    """A new control plane, whose journal has lost all but the first events."""
    del desk.cluster.journal._lines[events:]
    desk.cluster.journal.append([ev.JournalSalvaged(desk.cluster.clock(), "Damaged.")])
    desk.cluster.restart_engine()


def test_ranks_of_a_forgotten_attempt_leave_at_a_checkpoint_and_the_job_goes_on(desk: Desk) -> None:
    desk.submit()
    known = len(list(desk.cluster.journal.events()))
    for _ in range(5):
        desk.cluster.round(0.3)
    [rank] = desk.host.ranks.values()
    forget(desk, known)
    assert desk.job().epoch == 0
    for _ in range(10):
        desk.cluster.round(0.5)
    assert [key for _, key in desk.cluster.live()] == [("digits#1", 1, 0)]  # alive
    assert rank.leaving
    assert not any(isinstance(order, orders.Kill) for _, order in desk.cluster.orders)
    desk.cluster.round(60.0)
    assert desk.job().state is JobState.QUEUED
    assert "leave h0 at a checkpoint" in desk.cluster.engine.queue.reason(desk.job())
    desk.host.write_checkpoint(rank, None)
    desk.host.end(rank, Outcome.LEFT, exit_code=0)
    for _ in range(5):
        desk.cluster.round(1.0)
    assert desk.cluster.engine.world.runs["digits"].head == "digits/00000001-e1"
    [rank] = desk.host.ranks.values()
    assert rank.attempt.start_step == 1
    assert rank.attempt.epoch > 2  # none that may be forgotten
    assert replay(desk.cluster.journal.events()) == desk.cluster.engine.world
    assert world_problems(desk.cluster.engine.world) == []


def test_a_forgotten_jobs_last_checkpoint_is_kept_too(desk: Desk) -> None:
    desk.running()
    [rank] = desk.host.ranks.values()
    forget(desk, 0)
    desk.cluster.round(0.5)
    assert rank.leaving
    desk.host.write_checkpoint(rank, "digits/00000000-e1")
    desk.host.end(rank, Outcome.LEFT, exit_code=0)
    desk.cluster.round(0.5)
    world = desk.cluster.engine.world
    assert world.runs["digits"].head == "digits/00000001-e1"
    assert world.runs["digits"].checkpoints["digits/00000001-e1"].parent is None
    assert desk.host.facts == {}


def test_an_older_attempt_is_ended_all_the_same(desk: Desk) -> None:
    desk.running()
    desk.host.end(next(iter(desk.host.ranks.values())), Outcome.EXITED, signal=9)
    for _ in range(5):
        desk.cluster.round(0.5)
    assert desk.job().epoch == 2
    desk.cluster.orders.clear()
    report = desk.host.report()
    old = orders.RankRow("digits#1", 1, 0, 4711)
    desk.cluster.engine.report(replace(report, ranks=(*report.ranks, old)))
    assert ("h0", orders.Kill("digits#1", 1)) in desk.cluster.orders


def test_a_checkpoint_of_before_the_run_went_on_isnt_its_head(desk: Desk) -> None:
    desk.running()
    stray = a_checkpoint("digits#9", 5, 0)
    desk.cluster.engine.strays.wrote(stray)
    assert desk.cluster.engine.world.runs["digits"].head is None


# --- a disk that is really full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where one may be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def eat_all(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def test_a_full_file_system_and_its_reserve(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilient_nb.storage.reserve.SPARE", 0)
    path = small_disk / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        journal.append([ev.RunCreated(START, "before")])
        assert path.with_name("journal.db.reserve").stat().st_blocks * 512 == 1 << 20
        eat_all(small_disk / "eaten")
        journal.append([ev.RunCreated(START, "x" * 100_000)])  # what frees the disk, say
        assert not path.with_name("journal.db.reserve").exists()
        eat_all(small_disk / "more")
        with pytest.raises(JournalFailed, match="disk is full"):
            journal.append([ev.RunCreated(START, "y" * 100_000)])
        with pytest.raises(JournalFailed):
            journal.append([ev.RunCreated(START, "z" * 100_000)])
        (small_disk / "eaten").unlink()
        journal.append([ev.RunCreated(START, "after")])
        assert path.with_name("journal.db.reserve").exists()
        names = [event.run for event in journal.events() if isinstance(event, ev.RunCreated)]
        assert names == ["before", "x" * 100_000, "after"]


# --- nothing is started before it is known who lives ---


def test_after_a_loss_all_hosts_are_heard_first_but_not_for_ever(desk: Desk) -> None:
    desk.submit()
    events = [ev.CapacityChanged(desk.cluster.clock(), 2)]
    desk.cluster.journal.append(events)
    forget(desk, 1000)  # it had all of them
    assert desk.cluster.engine.closing_until > desk.cluster.clock()
    desk.cluster.report("h0")
    assert desk.job().state is JobState.QUEUED
    desk.cluster.round(1.0)  # as many slots as before are here
    assert desk.job().state is JobState.STARTING

    desk.cluster.journal.append([ev.CapacityChanged(desk.cluster.clock(), 20)])
    desk.submit("other")
    forget(desk, 1000)
    for _ in range(20):
        desk.cluster.round(1.0)
    assert desk.job("other#1").state is JobState.QUEUED
    for _ in range(20):
        desk.cluster.round(1.0)
    assert desk.job("other#1").state is not JobState.QUEUED


def test_a_comparison_with_the_store_is_waited_for_a_little(desk: Desk) -> None:
    strays = desk.cluster.engine.strays
    strays.compare(5.0)
    desk.submit()
    desk.cluster.report("h0")
    assert desk.job().state is JobState.QUEUED
    strays.compared([])
    assert desk.job().state is JobState.STARTING
    desk.submit("other")
    found = a_checkpoint("other#1", 7, 3)
    now = desk.cluster.clock()
    strays.compared(
        [ev.JournalSalvaged(now, "Old."), ev.CheckpointsFound(now, "other", (found,), found.id)]
    )
    assert desk.cluster.engine.alerts["salvaged"] == "Old."
    assert desk.cluster.engine.closing_until > now
    world = desk.cluster.engine.world
    assert world.runs["other"].head == found.id
    begun = a_checkpoint("digits#1", 7, 1)  # by an attempt that began meanwhile
    strays.compared(
        [ev.JournalSalvaged(now, "Old."), ev.CheckpointsFound(now, "digits", (begun,), begun.id)]
    )
    assert desk.cluster.engine.world.runs["digits"] == world.runs["digits"]


def test_a_lease_that_closes_the_cluster_stays(desk: Desk) -> None:
    desk.cluster.engine.strays.compare(5.0)
    Commands(desk.cluster.engine, "x")(rq.VacateAll(), desk.cluster.settings.user)
    lease = desk.cluster.engine.closing_until
    desk.cluster.engine.strays.compared([])
    assert desk.cluster.engine.closing_until == lease
