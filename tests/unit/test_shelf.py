"""Checkpoints in memory: what is put there, what is read from it, and where it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resilient_nb.errors import CheckpointError, CorruptCheckpoint
from resilient_nb.rank.shelved import ShelvedWriter, open_start, words
from resilient_nb.rank.writer import WriterHere
from resilient_nb.storage import shelf as storage_shelf
from resilient_nb.storage.copying import Copier
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.recalling import Account, Recalled, recall
from resilient_nb.storage.shelf import Doubled, ShelfStore
from resilient_nb.storage.writing import Options
from resilient_nb.supervisor import shelf
from resilient_nb.supervisor.place import Place
from tests.unit.stored_home import StoredHome


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient_nb.storage.disk.Disk.syncfs", lambda disk, folder: None)
    monkeypatch.setattr("resilient_nb.storage.disk.Disk.fsync", lambda disk, file: None)


@pytest.fixture
def home(tmp_path: Path) -> StoredHome:
    home = StoredHome(tmp_path / "home")
    home.train(10, 20)
    return home


@pytest.fixture
def copies(tmp_path: Path) -> ShelfStore:
    return ShelfStore(tmp_path / "shelf" / "runs")


def copy(home: StoredHome, target: ShelfStore, identity: str) -> None:
    Copier(home.runs, target, atomic=True).copy(identity)


FIRST, SECOND = "digits/00000010-e1", "digits/00000020-e1"


def test_an_object_has_its_name_only_when_it_is_whole(
    copies: ShelfStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies.put("digits/x/c", [b"before"])

    def full(*_: Any) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr("resilient_nb.storage.disk.Disk.write", full)
    with pytest.raises(OSError, match="full"):
        copies.put("digits/x/c", [b"after"])
    assert list(copies.list()) == []  # the old one would not be what was meant either


def test_it_takes_no_more_than_there_is(
    copies: ShelfStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_shelf, "room", lambda folder: 10)
    copies.put("digits/x/small", [b"0123456789"])
    with pytest.raises(OSError, match="memory are free"):
        copies.put("digits/x/large", [b"0123456789", b"0"])
    assert [entry.key for entry in copies.list()] == ["digits/x/small"]


def test_what_is_put_is_put_twice_and_the_copy_may_fail(
    tmp_path: Path, copies: ShelfStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LocalStore(tmp_path / "first")
    both = Doubled(first, copies)
    both.put("r/1/c", [b"a", b"b"])
    assert (first.read("r/1/c"), copies.read("r/1/c")) == (b"ab", b"ab")
    both.create("r/1/zarr.json", b"{}")
    assert copies.whole() == ()  # an agent makes it whole, when the journal has it
    monkeypatch.setattr(storage_shelf, "room", lambda folder: 0)
    both.put("r/2/c", [b"c"])
    assert first.read("r/2/c") == b"c"
    assert "memory are free" in both.trouble


def test_a_rank_is_told_once_that_there_is_no_memory(
    tmp_path: Path, home: StoredHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    runs = home.settings.runs
    writer = ShelvedWriter(WriterHere(), runs, str(tmp_path / "shelf"), notes.append)
    assert writer("write", runs, "digits/00000030-e1", {}, {}, 0, Options()) == {}
    assert notes == []
    monkeypatch.setattr(ShelfStore, "put", _full)
    work: Any = writer._writer
    for step in (1, 2):
        work._work._stores[runs].put(f"digits/{step}/c", [b"x"])
        writer("write", runs, f"digits/0000004{step}-e1", {}, {}, 0, Options())
    assert len(notes) == 1
    assert "RESILIENT_NB_SHELF" in notes[0]


def _full(self: ShelfStore, key: str, parts: Any) -> None:
    raise OSError(28, "No space left on device")


# --- reading ----------------------------------------------------------------------------


def values(home: StoredHome, checkpoint: Any, identity: str) -> None:
    found = checkpoint.read_many(home.values[identity])
    for name, array in home.values[identity].items():
        np.testing.assert_array_equal(found[name].array, array)


def test_what_is_in_memory_is_read_there(home: StoredHome, copies: ShelfStore) -> None:
    copy(home, copies, SECOND)
    opened = recall(copies, [home.settings.runs], SECOND)
    values(home, opened, SECOND)
    assert opened.account.store == 0
    assert opened.account.memory > 300_000
    assert words(20, opened.account).startswith("Step 20 was restored from memory (")


def test_a_copy_without_a_manifest_gives_what_it_has(home: StoredHome, copies: ShelfStore) -> None:
    copy(home, copies, SECOND)
    copies.delete([f"{SECOND}/zarr.json", f"{SECOND}/model/weight/c.0.0"])
    opened = recall(copies, [home.settings.runs], SECOND)
    values(home, opened, SECOND)
    assert opened.account.store > 0
    assert opened.account.memory > 0
    assert "from memory, but for" in words(20, opened.account)
    shutil.rmtree(home.settings.runs)
    with pytest.raises(CheckpointError, match="no committed checkpoint"):
        recall(copies, [home.settings.runs], SECOND)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_copy_is_read_from_the_store(home: StoredHome, copies: ShelfStore) -> None:
    copy(home, copies, SECOND)
    for entry in list(copies.list()):
        damage(copies.path(entry.key))
    opened = recall(copies, [home.settings.runs], SECOND)
    values(home, opened, SECOND)
    assert opened.document("shared") == {"step": 20}
    assert opened.account.store > 300_000


def test_a_truncated_copy_is_read_from_the_store(home: StoredHome, copies: ShelfStore) -> None:
    copy(home, copies, SECOND)
    for entry in list(copies.list()):
        os.truncate(copies.path(entry.key), entry.size // 2)
    values(home, recall(copies, [home.settings.runs], SECOND), SECOND)


def test_damage_in_memory_is_no_excuse_for_damage_in_the_store(
    home: StoredHome, copies: ShelfStore
) -> None:
    copy(home, copies, SECOND)
    for store in (copies, LocalStore(home.settings.runs)):
        damage(store.path(f"{SECOND}/model/weight/c.0.0"))
    with pytest.raises(CorruptCheckpoint, match="model/weight"):
        values(home, recall(copies, [home.settings.runs], SECOND), SECOND)


def test_what_only_memory_has_is_read_there(home: StoredHome, copies: ShelfStore) -> None:
    copy(home, copies, SECOND)
    shutil.rmtree(home.settings.runs)
    opened = open_start([home.settings.runs], SECOND, str(copies.root))
    assert isinstance(opened, Recalled)
    values(home, opened, SECOND)


def test_without_a_shelf_it_is_the_store(home: StoredHome) -> None:
    assert not isinstance(open_start([home.settings.runs], SECOND, ""), Recalled)
    assert words(3, Account(0, 5_000_000, 0.5)) == (
        "Step 3 was restored from the store; this host had no copy of it in memory "
        "(5.0 MB in 0.50 s)."
    )


# --- where a shelf is -------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(tmp_path / "home", "c0ffee", "a")


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "shm").mkdir()
    return str(tmp_path / "shm")


def files(root: str) -> list[Path]:
    return sorted(Path(root).rglob("*"))


def test_a_shelf_is_its_users_alone_and_goes_with_its_supervisor(root: str, place: Place) -> None:
    assert shelf.find(place) == ""
    made = shelf.make(root, place)
    assert shelf.find(place) == str(made.root)
    assert shelf.make(root, place).root == made.root
    assert "c0ffee-a" in str(made.root)
    made.put("r/1/c", [b"x"])
    folders = [path for path in files(root) if path.is_dir()]
    assert {path.stat().st_mode & 0o077 for path in folders} == {0}
    shelf.drop(place)
    assert files(root) == []
    assert shelf.find(place) == ""
    shelf.drop(place)


def test_a_folder_that_others_may_use_is_no_shelf(root: str, place: Place) -> None:
    (Path(root) / f"resilient_nb-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="isn't ours"):
        shelf.make(root, place)


@pytest.mark.parametrize(("given", "why"), [("", "is empty"), ("/nowhere", "/nowhere is no")])
def test_where_there_can_be_none_it_says_why(given: str, why: str) -> None:
    assert why in shelf.possible(given)


def test_only_what_is_left_of_the_dead_is_removed(root: str, place: Place, tmp_path: Path) -> None:
    mine, dead = shelf.make(root, place), shelf.make(root, Place.of(tmp_path / "home", "old", "a"))
    lives = Place.of(tmp_path / "home", "c0ffee", "b")
    alive, other = shelf.make(root, lives), shelf.make(root, Place.of(tmp_path / "two", "x", "a"))
    gone = shelf.make(root, Place.of(tmp_path / "three", "x", "a"))
    unknown = Path(root) / f"resilient_nb-{os.getuid()}" / "half-made"
    unknown.mkdir()
    shutil.rmtree(tmp_path / "three")
    lives.alive = lambda: True  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "alive", lambda self: self.folder == lives.folder)
        shelf.drop_stale(root, place)
    there = [store.root.parent.exists() for store in (mine, dead, alive, other, gone)]
    assert there == [True, False, True, True, False]
    assert unknown.exists()
    os.utime(unknown, (0, 0))
    shelf.drop_stale(root, place)
    assert not unknown.exists()
