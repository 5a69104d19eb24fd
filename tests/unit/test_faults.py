"""`testing.faults`: what fails as disks do, and what a power loss may leave."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from resilient_nb.storage.local import LocalStore
from resilient_nb.testing.faults import (
    Fault,
    FaultyDisk,
    RecordingDisk,
    Tree,
    crash,
    plant,
    planted,
)


def calls(folder: Path) -> int:
    """Return how many calls `work` makes."""
    disk = FaultyDisk()
    work(LocalStore(folder, disk))
    return disk.count


def work(store: LocalStore) -> None:
    store.put("a/x", [b"1" * 10_000])
    store.flush()
    store.create("b", b"2")


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SHORT])
def test_each_call_fails_once_and_in_its_way(tmp_path: Path, fault: Fault) -> None:
    total, struck = calls(tmp_path / "all"), set()
    assert total > 10
    for at in range(1, total + 1):
        disk = FaultyDisk(fault, at)
        code = None
        try:
            work(LocalStore(tmp_path / f"{at}", disk))
        except OSError as error:
            code = error.errno
        struck.add(disk.struck)
        superfluous = disk.struck == "unlink"  # of what has its name by then
        superfluous |= disk.struck == "spread" and fault is Fault.EIO  # a full disk stays so
        assert code == (None if superfluous else errno.EIO if fault is Fault.EIO else errno.ENOSPC)
    assert struck == {
        "mkdir", "spread", "open", "write", "close", "syncfs", "fsync", "link", "unlink",
        "fsync_folder",
    }  # fmt: skip


def test_a_short_write_is_half_of_it(tmp_path: Path) -> None:
    disk = FaultyDisk(Fault.SHORT, 6)
    with pytest.raises(OSError, match="No space"):
        work(LocalStore(tmp_path / "a", disk))
    assert (disk.struck, (tmp_path / "a/a/x").stat().st_size) == ("write", 4096)


def test_a_full_disk_still_lets_go(tmp_path: Path) -> None:
    disk = FaultyDisk(Fault.ENOSPC, 5)
    store = LocalStore(tmp_path / "a", disk)
    store.put("a", [b"1"])
    with pytest.raises(OSError, match="No space"):
        store.put("b", [b"1"])
    with pytest.raises(OSError, match="No space"):
        store.put("c", [b"1"])
    store.delete(["a"])
    assert list(store.list()) == []


def test_a_process_can_be_killed_at_a_call(tmp_path: Path) -> None:
    for at in (1, 5, 9):
        child = os.fork()
        if child == 0:
            try:
                work(LocalStore(tmp_path / f"{at}", FaultyDisk(Fault.KILL, at)))
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


# --- power loss ---------------------------------------------------------------------------------


def outcomes(folder: Path, act: Callable[[LocalStore], None], until: int | None = None) -> set[str]:
    """Return what a power loss after some calls may leave, as texts."""
    before = planted(folder)
    disk = RecordingDisk()
    act(LocalStore(folder, disk))
    found = disk.calls[:until]
    return {shown(crash(before, folder, found, Random(seed))) for seed in range(300)}


def shown(tree: Tree) -> str:
    return ",".join(f"{n}={c.decode() if isinstance(c, bytes) else c}" for n, c in tree.items())


def test_what_was_put_may_be_there_or_not_until_it_is_flushed(tmp_path: Path) -> None:
    found = outcomes(tmp_path, lambda store: store.put("a", [b"12"]))
    assert found == {"", "a=", "a=12", "a=\0\0"}

    def flushed(store: LocalStore) -> None:
        store.put("b", [b"34"])
        store.flush()

    assert outcomes(tmp_path, flushed) == {"a=12,b=34"}


def test_names_may_be_there_without_those_that_came_before(tmp_path: Path) -> None:
    def two(store: LocalStore) -> None:
        store.put("a", [b"1"])
        store.put("b", [b"2"])

    found = outcomes(tmp_path, two)
    assert {"a=1,b=2", "b=2", "a=1", "a=,b=2"} <= found


def test_what_was_created_is_there_for_good(tmp_path: Path) -> None:
    found = outcomes(tmp_path, lambda store: store.create("deep/er/a", b"12"))
    assert {text.partition(",deep/er/.tmp")[0] for text in found} == {
        "deep=None,deep/er=None,deep/er/a=12"
    }
    disk = RecordingDisk()
    LocalStore(tmp_path, disk).create("b", b"12")
    link = [call.name for call in disk.calls].index("link")
    for until in range(link + 1):
        folder = tmp_path / f"until-{until}"
        folder.mkdir()
        for text in outcomes(folder, lambda store: store.create("b", b"12"), until):
            assert ",b=" not in text
            assert not text.startswith("b=")


def test_pages_may_be_lost_one_by_one(tmp_path: Path) -> None:
    data = b"1" * 4096 + b"2" * 4096 + b"3" * 100
    found = outcomes(tmp_path, lambda store: store.put("a", [data]))
    assert f"a={data.decode()}" in found
    assert any("1" not in text and "2" in text for text in found)


def test_what_was_replaced_or_removed_may_be_there_again(tmp_path: Path) -> None:
    plant({"a": b"old", "f": None, "f/x": b"1", "l": "a"}, tmp_path)
    assert shown(planted(tmp_path)) == "a=old,f=None,f/x=1,l=a"

    def act(store: LocalStore) -> None:
        store.delete(["f/x", "l"])
        store.put("a", [b"new"])

    found = outcomes(tmp_path, act)
    assert {"a=old,f=None,f/x=1,l=a", "a=new"} <= found
    assert any(text.startswith("a=,") or text == "a=" for text in found), "cut, and not written"


def test_a_plant_is_what_was_planted(tmp_path: Path) -> None:
    tree: Tree = {"a": None, "a/b": b"1", "a/c": "b", "d": b""}
    plant(tree, tmp_path / "x")
    assert planted(tmp_path / "x") == tree
