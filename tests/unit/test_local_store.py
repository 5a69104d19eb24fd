"""`storage.local` beyond the contract of stores: direct writes, links, and what is durable when."""

from __future__ import annotations

import array
import errno
import fcntl
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resilient_nb.storage.disk import Disk
from resilient_nb.storage.local import DIRECT_BYTES, LocalStore
from resilient_nb.storage.objects import Entry

BLOCK = 8 << 20


class Listening(Disk):
    """Keeps (method, file name) of each call; `refuse` makes one fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        self.flags: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name.startswith("_") or name in ("calls", "refuse", "flags"):
            return method

        def call(*args: Any) -> Any:
            self.calls.append((name, args[0].name if isinstance(args[0], Path) else ""))
            if name == "open":
                self.flags.append(args[1])
            if name in self.refuse:
                raise OSError(self.refuse[name], os.strerror(self.refuse[name]))
            return method(*args)

        return call


@pytest.fixture
def disk() -> Listening:
    return Listening()


@pytest.fixture
def store(tmp_path: Path, disk: Listening) -> LocalStore:
    return LocalStore(tmp_path / "store", disk)


@pytest.mark.parametrize("extra", [-BLOCK + DIRECT_BYTES, -1, 0, 1, 4095, 4096, 4097, BLOCK])
def test_any_size_is_written_directly_in_any_parts(
    store: LocalStore, disk: Listening, extra: int
) -> None:
    data = np.random.default_rng(0).integers(0, 256, BLOCK + extra, np.uint8)
    cuts = [0, 7, 4096, 4096, 5000, data.size // 2, data.size]
    store.put("a", [data[a:b].data for a, b in pairwise(cuts)])
    assert store.read("a") == data.tobytes()
    assert disk.flags[0] & os.O_DIRECT


def test_a_file_system_without_direct_writes_is_asked_once(
    store: LocalStore, disk: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Disk.open

    def open(disk: Disk, path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return real(disk, path, flags)

    monkeypatch.setattr(Disk, "open", open)
    data = os.urandom(BLOCK + 5)
    for key in ("a", "b"):
        store.put(key, [data[:11], data[11:]])
        assert store.read(key) == data
    assert [bool(flags & os.O_DIRECT) for flags in disk.flags] == [True, False, False]


@pytest.mark.parametrize("size", [100, DIRECT_BYTES + 100])
def test_a_short_write_is_gone_on_with(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(Disk, "write", lambda disk, file, data: os.write(file, data[:4096]))
    data = os.urandom(size)
    store.put("a", [data])
    assert store.read("a") == data


def test_processes_that_are_forked_share_no_memory(store: LocalStore) -> None:
    """Ranks and their writers are forked from a process that has all of this loaded."""
    store.put("before", [b"x" * 5000])
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                for turn in range(20):
                    store.put(f"{number}/{turn}", [bytes([number]) * (DIRECT_BYTES + turn)])
            finally:
                os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    for number in range(4):
        for turn in range(20):
            assert set(store.read(f"{number}/{turn}")) == {number}


def test_a_large_read_of_a_file_that_is_cut_says_how_much_there_was(store: LocalStore) -> None:
    data = os.urandom(3 << 20)
    store.put("a", [data])
    view = bytearray(4 << 20)
    assert store.read_into("a", 5, memoryview(view)) == len(data) - 5
    assert view[: len(data) - 5] == data[5:]


def test_nothing_is_seen_of_what_is_being_created(
    store: LocalStore, disk: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Entry]] = []
    real = Disk.link

    def link(disk: Disk, path: Path, name: Path) -> None:
        seen.append([e for e in store.list() if not e.key.rpartition("/")[2].startswith(".tmp-")])
        real(disk, path, name)

    monkeypatch.setattr(Disk, "link", link)
    store.create("a/b", b"123")
    assert seen == [[]]
    assert list(store.list()) == [Entry("a/b", 3)]


def test_what_was_created_is_durable_with_all_folders_that_were_made(
    store: LocalStore, disk: Listening
) -> None:
    store.create("a/b/c", b"123")
    after = [call for call in disk.calls if call[0] in ("fsync", "link", "fsync_folder")]
    assert after[:2] == [("fsync", ""), ("link", after[1][1])]
    root = store.root
    assert {name for _, name in after[2:]} == {root.parent.name, root.name, "a", "b"}
    disk.calls.clear()
    store.create("a/b/d", b"123")
    assert [call for call in disk.calls if call[0] == "fsync_folder"] == [("fsync_folder", "b")]


def test_what_fails_after_the_name_is_given_leaves_a_whole_object(
    store: LocalStore, disk: Listening
) -> None:
    disk.refuse = {"unlink": errno.EIO}
    store.create("a", b"123")  # what is left over is superfluous
    disk.refuse = {"fsync_folder": errno.EIO}
    with pytest.raises(OSError, match="Input/output"):
        store.create("b", b"123")
    assert store.read("b") == b"123"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links(store: LocalStore, disk: Listening, code: int) -> None:
    disk.refuse = {"link": code, "symlink": code}
    store.create("a/b", b"1")
    with pytest.raises(FileExistsError):
        store.create("a/b", b"2")
    store.link("c/d", "a")
    assert (store.read("a/b"), [e.key for e in store.list()]) == (b"1", ["a/b"])


def test_the_folders_of_runs_are_spread_and_no_others(store: LocalStore, disk: Listening) -> None:
    for step in (10, 20):
        store.put(f"run/{step}/model/zarr.json", [b"{}"])
    spread = [args for name, *args in disk.calls if name == "spread"]
    assert spread == [["run"]]


def test_spreading_sets_the_folders_flag(tmp_path: Path) -> None:
    try:
        Disk().spread(tmp_path)
    except OSError as error:
        pytest.skip(f"the file system here has no such flag: {error}")
    flags, file = array.array("i", [0]), os.open(tmp_path, os.O_RDONLY)
    fcntl.ioctl(file, 0x80086601, flags)  # FS_IOC_GETFLAGS
    os.close(file)
    assert flags[0] & 0x00020000  # FS_TOPDIR_FL, which `lsattr` shows as T


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM])
def test_a_file_system_that_can_not_spread(store: LocalStore, disk: Listening, code: int) -> None:
    disk.refuse = {"spread": code}
    store.put("run/10/zarr.json", [b"{}"])
    assert store.read("run/10/zarr.json") == b"{}"


@pytest.mark.parametrize("method", ["open", "write", "fsync", "link", "mkdir"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_what_fails_before_leaves_nothing(
    store: LocalStore, disk: Listening, method: str, code: int
) -> None:
    disk.refuse = {method: code}
    with pytest.raises(OSError, match=os.strerror(code)) as found:
        store.create("a/b", b"123")
    assert found.value.errno == code
    assert list(store.list()) == []


def test_a_link_is_given_again_as_it_should_be(store: LocalStore) -> None:
    for name in ("one", "two"):
        store.put(f"{name}/x", [name.encode()])
    store.link("a/x", "one")
    store.link("a/x", "two")
    assert (store.path("a/x") / "x").read_bytes() == b"two"
    assert [e.key for e in store.list("a")] == [e.key for e in store.list("a/x")] == ["a/x"]
    assert store.read("one/x") == b"one"


def test_a_link_is_the_shortest_way(store: LocalStore) -> None:
    """So that a run's folder can be copied by itself."""
    store.put("run/10/model/w/x", [b"1"])
    store.link("run/20/model/w", "run/10/model/w")
    assert os.readlink(store.path("run/20/model/w")) == "../../10/model/w"
    assert store.read("run/20/model/w/x") == b"1"


def test_a_link_never_takes_the_place_of_an_object(store: LocalStore) -> None:
    store.put("one/x", [b"1"])
    store.put("b/x/old", [b"2"])
    store.link("b/x", "one")
    assert store.read("b/x/old") == b"2"


def test_nothing_is_written_through_a_link(store: LocalStore) -> None:
    store.put("one/x", [b"1"])
    store.link("two", "one")
    store.put("two/x", [b"2"])
    assert (store.read("one/x"), store.read("two/x")) == (b"1", b"2")


@pytest.mark.parametrize("call", [
    lambda store: store.put("new/key", [b"1"]), lambda store: store.create("new/key", b"1"),
])  # fmt: skip
def test_folders_are_private(store: LocalStore, call: Callable[[LocalStore], None]) -> None:
    call(store)
    assert store.path("new").stat().st_mode & 0o777 == 0o700


def test_flushing_syncs_the_file_system_once(store: LocalStore, disk: Listening) -> None:
    store.flush()
    assert disk.calls == []
    for number in range(5):
        store.put(str(number), [b"1"])
    disk.calls.clear()
    store.flush()
    assert disk.calls == [("syncfs", "store")]
    disk.refuse = {"syncfs": errno.EIO}
    with pytest.raises(OSError, match="Input/output"):
        store.flush()


def test_a_c_library_without_syncfs_syncs_all(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("resilient_nb.storage.disk._libc", object())
    monkeypatch.setattr("resilient_nb.storage.disk.os.sync", lambda: synced.append(1))
    store.put("a", [b"1"])
    store.flush()
    assert synced == [1]
