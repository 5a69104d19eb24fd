"""`control.replication`: copies follow, what is dropped goes, and what is wrong is said."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control import replication
from resilient_nb.control.replication import Replication
from resilient_nb.core.replicas import replicas_of, wanted_in
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError, InvalidRequest
from resilient_nb.storage.backup import backup, restore
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.mirrored import open_anywhere, open_path
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.stores import open_store, read_blob
from resilient_nb.testing.builders import Story
from tests.unit.stored_home import StoredHome, files


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "_SOON", 0.02)
    monkeypatch.setattr(replication, "_AGAIN", 0.05)
    monkeypatch.setattr("resilient_nb.storage.disk.Disk.syncfs", lambda disk, folder: None)


@pytest.fixture
def home(tmp_path: Path) -> StoredHome:
    home = StoredHome(tmp_path / "home", replicas=(str(tmp_path / "copy"),))
    home.train(10, 20)
    return home


@pytest.fixture
def copies(home: StoredHome) -> Iterator[Replication]:
    copies = Replication(home.settings)
    yield copies
    copies.close()
    for replica in copies._replicas.values():
        replica._thread.join()


def until(done: Callable[[], bool]) -> None:
    """Wait until something holds (pytest-timeout bounds it)."""
    while not done():
        time.sleep(0.01)


def states(copies: Replication, home: StoredHome) -> set[str]:
    world, always = home.world, home.settings.replicas
    return {
        copies.state(wanted_in(world, run.name, always), identity)
        for run in world.runs.values()
        for identity in run.checkpoints
    }


def follow(copies: Replication, home: StoredHome) -> None:
    """Wait until all checkpoints have their copies."""
    copies.look(home.world)
    until(lambda: states(copies, home) == {"yes"})


def test_copies_follow_each_commit(home: StoredHome, copies: Replication, tmp_path: Path) -> None:
    assert states(copies, home) == {"lagging"}
    follow(copies, home)
    home.check(LocalStore(tmp_path / "copy/runs"))
    home.go_on(30)
    follow(copies, home)
    home.check(LocalStore(tmp_path / "copy/runs"))
    captured = home.story.job().spec.captured
    assert captured is not None
    read_blob(LocalStore(tmp_path / "copy"), captured)
    assert copies.alerts() == {str(tmp_path / "copy"): None}


def test_what_is_dropped_is_removed_from_the_copies(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    home.go_on(30)
    follow(copies, home)
    home.drop("digits/00000010-e1", "digits/00000020-e1")
    copies.look(home.world)
    runs = LocalStore(tmp_path / "copy/runs")
    wanted = {entry.key for entry in home.runs.list()}
    until(lambda: {entry.key for entry in runs.list()} == wanted)
    home.check(runs)


def test_a_backup_that_is_a_replica_keeps_what_was_dropped(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    home.go_on(30)
    backup(home.settings, str(tmp_path / "copy"), print)
    home.drop("digits/00000010-e1")
    home.go_on(40)
    follow(copies, home)
    open_at(LocalStore(tmp_path / "copy/runs"), "digits/00000010-e1")


def test_a_place_that_can_not_be_written_is_said_and_tried_again(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    (tmp_path / "copy").write_text("in the way")
    copies.look(home.world)
    until(lambda: copies.alerts()[str(tmp_path / "copy")] is not None)
    alert = copies.alerts()[str(tmp_path / "copy")]
    assert alert is not None
    assert alert.startswith(f"Second copies to {tmp_path}/copy fail")
    assert states(copies, home) == {"failing"}
    (tmp_path / "copy").unlink()
    until(lambda: states(copies, home) == {"yes"})
    until(lambda: copies.alerts() == {str(tmp_path / "copy"): None})


def test_a_damaged_checkpoint_holds_up_no_other(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    path = Path(home.settings.runs, "digits/00000010-e1/model/weight/c.0.0")
    good = path.read_bytes()
    path.write_bytes(b"x" * len(good))
    copies.look(home.world)
    until(lambda: states(copies, home) == {"yes", "failing"})
    assert "digits/00000010-e1" in str(copies.alerts())
    path.write_bytes(good)
    until(lambda: states(copies, home) == {"yes"})


@pytest.mark.parametrize("place", ["home/store", "home/store/runs", "other"])
def test_a_place_that_is_something_else_is_left_alone(tmp_path: Path, place: str) -> None:
    StoredHome(tmp_path / "another", "decade", store=tmp_path / "other")
    home = StoredHome(tmp_path / "home", replicas=(str(tmp_path / place),))
    home.train(10)
    before = files(tmp_path)
    copies = Replication(home.settings)
    copies.look(home.world)
    until(lambda: any(copies.alerts().values()))
    copies.close()
    assert files(tmp_path) == before


def test_a_lost_store_is_restored_from_a_replica(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    follow(copies, home)
    before = {e.key: e.size for e in home.store.list("blobs")}
    shutil.rmtree(home.settings.store)
    restore(home.settings, str(tmp_path / "copy"), print)
    home.check()
    assert {e.key: e.size for e in home.store.list("blobs")} == before


def test_only_the_runs_that_ask_for_copies_get_them(tmp_path: Path) -> None:
    home = StoredHome(tmp_path / "home")
    home.train(10)
    home.train(10, run="kept", replicas=(str(tmp_path / "a"), str(tmp_path / "b")))
    copies = Replication(home.settings)
    copies.look(home.world)
    until(lambda: states(copies, home) == {"", "yes"})
    copies.close()
    for name in ("a", "b"):
        assert LocalStore(tmp_path / name / "runs").read("kept/00000010-e1/zarr.json")
        assert not (tmp_path / name / "runs/digits").exists()


def test_a_fork_may_be_read_where_its_origins_copies_are() -> None:
    def a_world(**spec: Any) -> World:
        story = Story().submit("digits", replicas=("/a",)).start().checkpoint(20)
        head = story.world.runs["digits"].head
        return story.run("fork", head).submit("fork", **spec).world

    world = a_world(replicas=("/b", "/always"))
    assert wanted_in(world, "fork", ("/always",)) == ("/always", "/b")
    assert replicas_of(world, "fork", ("/always",)) == ("/always", "/b", "/a")
    assert replicas_of(world, "digits", ()) == ("/a",)
    assert wanted_in(a_world(), "fork", ()) == ()


# --- reading where one store has lost or damaged what another has ---


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", [spoil, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize(
    "key",
    [
        "zarr.json",
        "model/weight/c.0.0",
        "optimizer/%pack-0-float32-0/c.0",
        "state/shared/zarr.json",
    ],
)
def test_what_one_store_has_damaged_is_read_from_another(
    home: StoredHome, copies: Replication, tmp_path: Path, key: str, how: Callable[[Path], object]
) -> None:
    follow(copies, home)
    other, name = tmp_path / "copy/runs", "digits/00000020-e1"
    how(Path(home.settings.runs, name, key))
    how(other / "digits/00000010-e1/model/frozen/c.0.0")  # which is as good in the first
    for checkpoint in (
        open_anywhere([home.settings.runs, str(other)], name),
        open_path(f"{home.settings.runs}/{name}", [f"{other}/{name}"]),
    ):
        found = checkpoint.read_many(home.values[name])
        for tensor, array in home.values[name].items():
            assert (found[tensor].array == array).all()
        assert checkpoint.document("shared") == {"step": 20}
    how(other / name / key)

    def read_all() -> None:
        checkpoint = open_anywhere([home.settings.runs, str(other)], name)
        checkpoint.read_many(home.values[name])
        checkpoint.document("shared")

    with pytest.raises(CheckpointError, match=name):
        read_all()


def test_a_first_store_that_is_gone_is_read_from_its_copy(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    follow(copies, home)
    both = open_store([home.settings.runs, str(tmp_path / "copy/runs")])
    home.check(both)
    shutil.rmtree(home.settings.store)
    home.check(both)
    places = [home.settings.runs, str(tmp_path / "copy/runs")]
    assert open_anywhere(places, "digits/00000020-e1").document("shared") == {"step": 20}
    captured = home.story.job().spec.captured
    assert captured is not None
    read_blob(open_store([home.settings.store, str(tmp_path / "copy")]), captured)


def test_damaged_captured_values_are_read_from_another_store(
    home: StoredHome, copies: Replication, tmp_path: Path
) -> None:
    follow(copies, home)
    captured = home.story.job().spec.captured
    assert captured is not None
    store = open_store([home.settings.store, str(tmp_path / "copy")])
    good = read_blob(store, captured)
    spoil(Path(home.settings.store, "blobs", captured))
    assert read_blob(store, captured) == good
    spoil(tmp_path / "copy/blobs" / captured)
    with pytest.raises(InvalidRequest, match="damaged: submit the cell again"):
        read_blob(store, captured)
