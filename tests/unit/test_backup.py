"""`storage.backup`: nothing is lost, nothing damaged is kept, whoever is killed when."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from resilient_nb import cli
from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.transfers import TransferReport
from resilient_nb.errors import (
    CheckpointError,
    Conflict,
    CorruptCheckpoint,
    InvalidRequest,
    ResilientError,
)
from resilient_nb.storage import snapshots
from resilient_nb.storage.backup import backup, restore
from resilient_nb.storage.claim import claim
from resilient_nb.storage.contents import contents, damage
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.objects import Buffer
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.stores import open_store, sub_folder
from resilient_nb.testing.s3 import S3Server
from resilient_nb.wire.codec import build
from tests.unit.stored_home import StoredHome, files


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StoredHome:
    """Two runs, one a fork; a job that has succeeded, one that runs; a tag; arrays shared."""
    home = StoredHome(tmp_path_factory.mktemp("trained") / "home")
    home.train(10, 20, 30)
    home.finish()
    home.story.then(ev.CheckpointTagged(home.story.now, "digits", "digits/00000030-e1", "good"))
    home.story.run("fork", "digits/00000020-e1")
    home.train(40, 50, run="fork")
    home.drop("digits/00000010-e1")  # whose arrays all others refer to
    return home


@pytest.fixture
def home(trained: StoredHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredHome:
    # No power is cut here.
    monkeypatch.setattr("resilient_nb.storage.disk.Disk.syncfs", lambda disk, folder: None)
    return trained.moved(tmp_path / "home")


def save(home: StoredHome, place: object, **how: Any) -> TransferReport:
    return backup(home.settings, str(place), print, **how)


def load(home: StoredHome, place: object, **how: Any) -> TransferReport:
    return restore(home.settings, str(place), print, **how)


def check(home: StoredHome, original: StoredHome) -> None:
    """Compare a restored home with what it was."""
    with closing(SqliteJournal(home.settings.journal)) as journal:
        assert replay(journal.events()) == original.world
        assert journal.records.series("digits#1", 10)
    original.check(home.runs)
    for folder in ("out", "blobs"):
        kept = {e.key: original.store.read(e.key) for e in original.store.list(folder)}
        assert {e.key: home.store.read(e.key) for e in home.store.list(folder)} == kept


def problems(place: object) -> list[str]:
    """Return what is wrong with a backup: a checkpoint that isn't whole."""
    runs = open_store(sub_folder(str(place), "runs"))
    keys = [entry.key for entry in runs.list()]
    roots = [key for key in keys if key.count("/") == 2 and key.endswith("/zarr.json")]
    committed = [key.removesuffix("/zarr.json") for key in roots]
    return [
        f"{identity}: {key} {why}"
        for identity in committed
        for key, piece in contents(open_at(runs, identity).manifest).items()
        if (why := damage(piece, runs.read(key)))
    ]


# --- there and back ---


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a backup may be."""
    if request.param == "folder":
        yield str(tmp_path / "backup")
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/backup"
    else:
        with S3Server() as server, pytest.MonkeyPatch.context() as patch:
            server.make_bucket("bucket")
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield "s3://bucket/some/backup"


def test_what_was_backed_up_comes_back(home: StoredHome, place: str, tmp_path: Path) -> None:
    report = save(home, place)
    assert (report.checkpoints, report.there, report.damaged) == (4, 0, ())
    assert report.objects > 4
    assert problems(place) == []
    other = home.elsewhere(tmp_path / "other")
    found = load(other, place)
    assert (found.checkpoints, found.there, found.damaged) == (4, 0, ())
    assert found.journal == report.journal
    check(other, home)
    again = load(other, place)
    assert (again.objects, again.there, again.journal) == (0, 4, "")


def test_a_backup_copies_only_what_is_new(home: StoredHome, tmp_path: Path) -> None:
    first = save(home, tmp_path / "backup")
    second = save(home, tmp_path / "backup")
    assert (second.objects, second.nbytes, second.there) == (0, 0, 4)
    assert second.journal == first.journal
    home.go_on(60, run="fork")
    third = save(home, tmp_path / "backup")
    new = sum(entry.size for entry in home.runs.list("fork/00000060-e1"))
    assert third.nbytes == new
    assert third.there == 4
    assert third.journal > second.journal
    assert save(home, tmp_path / "backup").objects == 0


def test_only_the_newest_copies_of_the_journal_are_kept(home: StoredHome, tmp_path: Path) -> None:
    keys = []
    for step in (60, 70, 80, 90, 100):
        home.go_on(step, run="fork")
        keys.append(save(home, tmp_path / "backup").journal)
    kept = sorted(e.key for e in LocalStore(tmp_path / "backup").list("journal"))
    assert kept == sorted([*keys[-3:], *(k.replace(".db", ".json") for k in keys[-3:])])


def test_pruning_removes_what_was_dropped_and_nothing_else(
    home: StoredHome, tmp_path: Path
) -> None:
    save(home, tmp_path / "backup")
    kept = files(tmp_path / "backup")
    (tmp_path / "backup/runs/other").mkdir()
    (tmp_path / "backup/runs/other/note").write_text("of somebody who wrote here, too")
    home.go_on(60, 70, run="fork")
    save(home, tmp_path / "backup")
    home.drop("fork/00000050-e1", "fork/00000060-e1", run="fork")
    before = home.story.job("digits").spec.captured
    home.train(10, captured_by="another")  # the same run, with other captured values
    newer = tmp_path / "backup/blobs" / ("0" * 64)
    newer.write_text("of a job that the journal's copy doesn't know yet")
    report = save(home, tmp_path / "backup", prune=True)
    assert report.freed > 0
    assert not (tmp_path / f"backup/blobs/{before}").exists()
    assert newer.exists()
    newer.unlink()
    Path(home.settings.store, f"blobs/{before}").unlink()
    runs = files(tmp_path / "backup/runs")
    assert runs.pop("other/note")
    assert runs.keys() == files(Path(home.settings.runs)).keys()
    assert len(list((tmp_path / "backup/journal").iterdir())) == 2
    other = home.elsewhere(tmp_path / "other")
    load(other, tmp_path / "backup")
    check(other, home)
    assert kept.keys() - files(tmp_path / "backup").keys()
    assert save(home, tmp_path / "backup", prune=True).freed == 0


def test_a_backup_is_a_store_that_can_be_read(home: StoredHome, tmp_path: Path) -> None:
    import zarr

    save(home, tmp_path / "backup")
    group = zarr.open_group(tmp_path / "backup/runs/fork/00000050-e1", mode="r")
    frozen = home.values["fork/00000050-e1"]["model/frozen"]
    assert (group["model/frozen"][:] == frozen).all()  # type: ignore[index]


def test_a_dry_run_counts_and_changes_nothing(home: StoredHome, tmp_path: Path) -> None:
    report = save(home, tmp_path / "backup", dry_run=True)
    assert not (tmp_path / "backup").exists()
    real = save(home, tmp_path / "backup")
    assert report.objects == real.objects - 4  # the manifests themselves aren't counted
    other = home.elsewhere(tmp_path / "other")
    report = load(other, tmp_path / "backup", dry_run=True)
    assert report.objects == real.objects - 4
    assert not (tmp_path / "other").exists()


def test_while_the_cluster_goes_on_the_backup_is_of_one_moment(
    home: StoredHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = snapshots.take
    moments = iter([lambda: home.drop("fork/00000040-e1", run="fork"), lambda: None])

    def and_go_on(journal: Path, to: Path) -> snapshots.Snapshot:
        snapshot = take(journal, to)
        next(moments)()
        return snapshot

    monkeypatch.setattr(snapshots, "take", and_go_on)
    home.finish("fork")
    report = save(home, tmp_path / "backup")
    assert report.damaged == ()
    other = home.elsewhere(tmp_path / "other")
    load(other, tmp_path / "backup")
    check(other, home)


# --- whoever is killed when ---


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Ends the process at the n-th time that something is written below a folder."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.left: int | None = None
        put, create = LocalStore.put, LocalStore.create

        def dying_put(store: LocalStore, key: str, parts: Sequence[Buffer]) -> None:
            if self._due(store.root, folder):
                data = b"".join(bytes(part) for part in parts)
                put(store, key, [data[: len(data) // 2]])
                raise Killed
            put(store, key, parts)

        def dying_create(store: LocalStore, key: str, data: bytes) -> None:
            if self._due(store.root, folder):
                raise Killed
            create(store, key, data)

        patch.setattr(LocalStore, "put", dying_put)
        patch.setattr(LocalStore, "create", dying_create)

    def _due(self, root: Path, folder: Path) -> bool:
        if self.left is None or not root.is_relative_to(folder):
            return False
        self.left -= 1
        return self.left < 0

    def kill_at(self, number: int, work: Callable[[], object]) -> bool:
        """Do some work; return whether it was killed."""
        self.left = number
        try:
            work()
        except Killed:
            return True
        finally:
            self.left = None
        return False


def test_a_backup_that_is_killed_anywhere_goes_on(
    home: StoredHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, chance = tmp_path / "backup", random.Random(4)
    killer = Killer(monkeypatch, folder)
    number = 0
    while killer.kill_at(number, lambda: save(home, folder)):
        assert problems(folder) == []
        killer.kill_at(chance.randrange(20), lambda: save(home, folder))
        assert problems(folder) == []
        if chance.random() < 0.2:
            save(home, folder)
            other = home.elsewhere(tmp_path / f"other-{number}")
            load(other, folder)
            check(other, home)
        shutil.rmtree(folder, ignore_errors=True)
        number += chance.randrange(1, 6)
    assert number > 30


def test_the_last_backup_stands_until_the_next_is_whole(
    home: StoredHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    save(home, folder)
    before = home.world
    home.go_on(60, 70, run="fork")
    home.finish("fork")
    killer = Killer(monkeypatch, folder)
    for number in range(100):
        killed = killer.kill_at(number, lambda: save(home, folder))
        other = home.elsewhere(tmp_path / "other")
        load(other, folder)
        with closing(SqliteJournal(other.settings.journal)) as journal:
            assert replay(journal.events()) == (before if killed else home.world)
        if not killed:
            break
        shutil.rmtree(tmp_path / "other")
    check(other, home)


def test_a_restore_that_is_killed_anywhere_goes_on(
    home: StoredHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(home, tmp_path / "backup")
    other = home.elsewhere(tmp_path / "other")
    killer = Killer(monkeypatch, tmp_path / "other")
    number = 0
    while killer.kill_at(number, lambda: load(other, tmp_path / "backup")):
        assert not other.settings.journal.exists()
        number += 1
    assert number > 5
    check(other, home)


_BACKUP = """
import sys
from resilient_nb.config import load_settings
from resilient_nb.storage.backup import backup
backup(load_settings(), sys.argv[1], print)
"""


def count(folder: Path) -> int:
    """Return how many files there are, while others make and rename them."""
    return sum(len(names) for _, _, names in os.walk(folder))


def test_a_backup_survives_sigkill(home: StoredHome, tmp_path: Path) -> None:
    for step in range(60, 300, 10):
        home.go_on(step, run="fork")
    folder, settings = tmp_path / "backup", home.settings
    # What is killed can't remove its temporary folder.
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**os.environ, "RESILIENT_NB_HOME": str(settings.home), "TMPDIR": str(temporary)}
    for seconds in (0.0, 0.03, 0.1):
        process = subprocess.Popen([sys.executable, "-c", _BACKUP, str(folder)], env=env)
        seen = count(folder)
        while process.poll() is None and count(folder) == seen:
            time.sleep(0.005)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert problems(folder) == []
    report = save(home, folder)
    assert report.damaged == ()
    other = home.elsewhere(tmp_path / "other")
    load(other, folder)
    check(other, home)


# --- what is damaged ---


def spoil(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


CHUNKS = ["model/weight/c.1.0", "optimizer/%pack-0-float32-0/c.0", "state/shared/zarr.json",
          "zarr.json", "model/weight/zarr.json"]  # fmt: skip


@pytest.mark.parametrize("key", CHUNKS)
@pytest.mark.parametrize("how", [spoil, Path.unlink, lambda path: path.write_bytes(b"{")])
def test_what_is_damaged_is_named_and_not_copied(
    home: StoredHome, tmp_path: Path, key: str, how: Callable[[Path], object]
) -> None:
    name = "digits/00000030-e1"
    if key == "model/weight/zarr.json" and how is spoil:
        pytest.skip("metadata without a checksum")
    how(Path(home.settings.runs, name, key))
    with pytest.raises(CorruptCheckpoint, match=name) as found:
        save(home, tmp_path / "backup")
    assert "Everything else was copied" in str(found.value)
    assert problems(tmp_path / "backup") == []
    other = home.elsewhere(tmp_path / "other")
    with pytest.raises(CorruptCheckpoint, match=name):
        load(other, tmp_path / "backup")
    home.check(other.runs, name)
    with closing(SqliteJournal(other.settings.journal)) as journal:
        assert replay(journal.events()) == home.world


@pytest.mark.parametrize("key", CHUNKS)
def test_a_good_copy_is_not_replaced_by_a_damaged_one(
    home: StoredHome, tmp_path: Path, key: str
) -> None:
    save(home, tmp_path / "backup")
    before = files(tmp_path / "backup")
    spoil(Path(home.settings.runs, "digits/00000030-e1", key))
    save(home, tmp_path / "backup")
    assert files(tmp_path / "backup") == before
    load(home, tmp_path / "backup")  # which mends it
    home.check()


@pytest.mark.parametrize("key", CHUNKS)
def test_what_a_backup_has_lost_is_copied_again(home: StoredHome, tmp_path: Path, key: str) -> None:
    save(home, tmp_path / "backup")
    path = tmp_path / "backup/runs/digits/00000030-e1" / key
    good = path.read_bytes()
    path.unlink()
    assert save(home, tmp_path / "backup").objects == 1
    assert path.read_bytes() == good
    if key != "model/weight/zarr.json":  # its size isn't known
        path.write_bytes(good[:-1])
        assert save(home, tmp_path / "backup").objects == 1
    assert path.read_bytes() == good


def test_a_damaged_backup_is_named_and_harms_nothing(home: StoredHome, tmp_path: Path) -> None:
    save(home, tmp_path / "backup")
    spoil(tmp_path / "backup/runs/digits/00000030-e1/model/weight/c.1.0")
    load(home, tmp_path / "backup")
    home.check()
    shutil.rmtree(home.settings.runs)
    with pytest.raises(CorruptCheckpoint, match=r"digits/00000030-e1.*model/weight"):
        load(home, tmp_path / "backup")
    home.check(home.runs, "digits/00000030-e1")


def test_a_damaged_copy_of_the_journal_is_not_restored(home: StoredHome, tmp_path: Path) -> None:
    journal = save(home, tmp_path / "backup").journal
    spoil(tmp_path / "backup" / journal)
    other = home.elsewhere(tmp_path / "other")
    with pytest.raises(CorruptCheckpoint, match="journal"):
        load(other, tmp_path / "backup")
    assert not other.settings.journal.exists()


def test_damaged_captured_values_are_named(home: StoredHome, tmp_path: Path) -> None:
    [entry, *_] = home.store.list("blobs")
    spoil(Path(home.settings.store, entry.key))
    with pytest.raises(CorruptCheckpoint, match=entry.key):
        save(home, tmp_path / "backup")
    assert not (tmp_path / "backup" / entry.key).exists()


def test_returned_values_that_were_removed_are_no_damage(home: StoredHome, tmp_path: Path) -> None:
    shutil.rmtree(Path(home.settings.store, "out"))
    assert save(home, tmp_path / "backup").damaged == ()


def test_a_large_file_goes_through_no_memory(
    home: StoredHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilient_nb.storage.files._IN_MEMORY", 10)
    save(home, tmp_path / "backup")
    other = home.elsewhere(tmp_path / "other")
    load(other, tmp_path / "backup")
    check(other, home)


# --- what is refused ---


def refused(work: Callable[[], object], kind: type[ResilientError], words: str) -> None:
    with pytest.raises(kind, match=words):
        work()


def test_a_lost_store_comes_back_under_a_living_journal(home: StoredHome, tmp_path: Path) -> None:
    save(home, tmp_path / "backup")
    shutil.rmtree(home.settings.store)
    report = load(home, tmp_path / "backup")
    assert report.journal == ""
    home.check()
    home.go_on(60, run="fork")
    shutil.rmtree(home.settings.runs)
    refused(lambda: load(home, tmp_path / "backup"), CorruptCheckpoint, "fork/00000060-e1")
    home.check(home.runs, "fork/00000060-e1")


def test_anothers_backup_and_store_are_left_alone(home: StoredHome, tmp_path: Path) -> None:
    save(home, tmp_path / "backup")
    other = StoredHome(tmp_path / "other", "decade")
    before = files(tmp_path)
    refused(lambda: save(other, tmp_path / "backup"), Conflict, "another cluster")
    refused(lambda: load(other, tmp_path / "backup"), Conflict, "journal of another cluster")
    other.settings.journal.unlink()
    refused(lambda: load(other, tmp_path / "backup"), Conflict, "store .* belongs to another")
    after = files(tmp_path)
    assert {k: v for k, v in after.items() if "journal.db" not in k} == {
        k: v for k, v in before.items() if "journal.db" not in k
    }


def test_a_store_that_knows_more_than_the_backup_is_left_alone(
    home: StoredHome, tmp_path: Path
) -> None:
    save(home, tmp_path / "backup")
    home.go_on(60, run="fork")
    for path in home.settings.home.glob("journal.db*"):
        path.unlink()
    refused(lambda: load(home, tmp_path / "backup"), Conflict, "fork/00000060-e1")
    home.check()


def test_another_life_of_the_cluster_is_told_from_this_one(
    home: StoredHome, tmp_path: Path
) -> None:
    save(home, tmp_path / "backup")
    other = home.elsewhere(tmp_path / "other")
    load(other, tmp_path / "backup")
    home.go_on(60, run="fork")
    save(home, tmp_path / "backup")
    refused(lambda: save(other, tmp_path / "backup"), Conflict, "another life")
    with closing(sqlite3.connect(other.settings.journal)) as connection:
        row = connection.execute("SELECT kind, body FROM events WHERE seq = 1").fetchone()
        connection.executemany("INSERT INTO events (kind, body) VALUES (?, ?)", [row] * 3)
        connection.commit()
    refused(lambda: save(other, tmp_path / "backup"), Conflict, "another life")


def test_what_makes_no_sense_is_refused(home: StoredHome, tmp_path: Path) -> None:
    empty = home.elsewhere(tmp_path / "empty")
    refused(lambda: save(empty, tmp_path / "backup"), CheckpointError, "RESILIENT_NB_HOME")
    refused(lambda: load(empty, tmp_path / "nothing"), CheckpointError, "no backup")
    refused(lambda: load(home, tmp_path / "nothing"), CheckpointError, "no backup")
    store = home.settings.store
    for place in (store, f"{store}/runs", str(Path(store).parent)):
        refused(lambda p=place: save(home, p), InvalidRequest, "another place")  # type: ignore[misc]
    (tmp_path / "file").write_text("")
    refused(lambda: save(home, tmp_path / "file/x"), CheckpointError, "goes on")
    claim(LocalStore(tmp_path / "replica"), home.world.cluster_id)
    refused(lambda: load(empty, tmp_path / "replica"), CheckpointError, "no backup")


# --- as it is typed ---


def shell(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def test_from_a_shell(
    home: StoredHome,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESILIENT_NB_HOME", str(home.settings.home))
    place = str(tmp_path / "backup")
    code, out, _ = shell(capsys, "backup", place, "--dry-run")
    assert code == 0
    assert "would copy" in out
    assert "0 of 4 checkpoints were there" in out
    code, out, err = shell(capsys, "backup", place, "--json")
    assert (code, err) == (0, "")
    assert build(TransferReport, json.loads(out)).checkpoints == 4
    code, out, _ = shell(capsys, "backup", place)
    assert "4 of 4 checkpoints were there" in out
    monkeypatch.setenv("RESILIENT_NB_HOME", str(tmp_path / "other"))
    code, out, _ = shell(capsys, "restore", place)
    assert code == 0
    assert "the journal included" in out
    check(home.elsewhere(tmp_path / "other"), home)


def test_a_shell_is_told_what_is_damaged(
    home: StoredHome,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESILIENT_NB_HOME", str(home.settings.home))
    spoil(Path(home.settings.runs, "digits/00000030-e1/model/weight/c.1.0"))
    code, _, err = shell(capsys, "backup", str(tmp_path / "backup"))
    assert code == 1
    assert "Checkpoint digits/00000030-e1 is damaged" in err
    code, _, err = shell(capsys, "backup", "ftp://somewhere")
    assert code == 2
    assert "s3://" in err
