"""The agent's part in memory copies: completed, copied from peers, put back, removed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resilient_nb.agent.peers import PIECE, PeerStore, answer
from resilient_nb.agent.shelving import Shelving
from resilient_nb.rank.shelved import open_start
from resilient_nb.storage.copying import Copier
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.recalling import Recalled, recall
from resilient_nb.storage.shelf import ShelfStore
from resilient_nb.supervisor import shelf
from resilient_nb.supervisor.place import Place
from resilient_nb.testing.fakes import fake_settings
from resilient_nb.wire.orders import Kept, PutBack, Shelve
from tests.unit.stored_home import StoredHome

FIRST, SECOND = "digits/00000010-e1", "digits/00000020-e1"


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
def root(tmp_path: Path) -> str:
    (tmp_path / "shm").mkdir()
    return str(tmp_path / "shm")


def values(home: StoredHome, checkpoint: Any, identity: str) -> None:
    found = checkpoint.read_many(home.values[identity])
    for name, array in home.values[identity].items():
        np.testing.assert_array_equal(found[name].array, array)


class Host:
    """An agent's shelving, and how it reads other hosts' shelves."""

    def __init__(self, name: str, home: StoredHome, root: str, others: dict[str, Host]) -> None:
        self.settings = fake_settings(
            home.settings.home.parent / name, host=name, store=home.settings.store, shelf=root
        )
        self.place = Place.of(self.settings.home, "c0ffee", name)
        self.asked: list[tuple[str, str]] = []
        self._others = others
        others[name] = self

    def start(self) -> None:
        self.work = Shelving(self.settings, self.place, self.ask)

    async def ask(self, agent: str, what: str, key: str, offset: int) -> dict[str, Any]:
        self.asked.append((agent, key))
        if agent not in self._others:
            raise ConnectionError("gone")
        return await self._others[agent].work.read(what, key, offset)

    @property
    def store(self) -> ShelfStore:
        return ShelfStore(shelf.shelf_of(self.settings.shelf, self.place) / "runs")


async def until(done: Callable[[], object]) -> None:
    """Wait until something holds (pytest-timeout bounds it)."""
    while not done():
        await asyncio.sleep(0.01)


@pytest.fixture
def pair(home: StoredHome, root: str) -> Iterator[tuple[Host, Host]]:
    others: dict[str, Host] = {}
    one, two = Host("a", home, root, others), Host("b", home, root, others)
    yield one, two
    for host in (one, two):
        host.work.close()


def test_a_peer_copies_from_memory_and_not_from_the_store(
    home: StoredHome, pair: tuple[Host, Host]
) -> None:
    one, two = pair

    async def main() -> None:
        one.start()
        two.start()
        assert one.work.there == ()
        one.work.obey(Shelve(SECOND))
        await until(lambda: one.work.there == (SECOND,))
        shutil.rmtree(home.settings.runs)
        two.work.obey(Shelve(SECOND, ("nobody", "a")))
        await until(lambda: two.work.there == (SECOND,))

    asyncio.run(main())
    values(home, open_at(two.store, SECOND), SECOND)
    assert {agent for agent, _ in two.asked} == {"nobody", "a"}


def test_ranks_wait_for_what_is_on_its_way_but_not_for_ever(
    home: StoredHome, pair: tuple[Host, Host]
) -> None:
    one, two = pair
    runs = [home.settings.runs]

    async def main() -> None:
        one.start()
        two.start()
        one.work.obey(Shelve(SECOND))
        await until(lambda: one.work.there == (SECOND,))
        two.work.obey(Shelve(SECOND, ("a",), awaited=True))
        assert two.store.announced("digits").exists()
        opened = await asyncio.to_thread(open_start, runs, SECOND, str(two.store.root))
        assert isinstance(opened, Recalled)
        values(home, opened, SECOND)
        assert opened.account.store == 0
        assert not two.store.announced("digits").exists()

    asyncio.run(main())
    two.store.announce("digits")  # its agent was killed
    opened = open_start(runs, SECOND, str(two.store.root), patience=0.05)
    values(home, opened, SECOND)


def test_a_half_copy_is_never_taken_for_one(
    home: StoredHome, pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    put, left = ShelfStore.put, [3]

    def few(self: ShelfStore, key: str, parts: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        put(self, key, parts)

    async def main() -> None:
        one.start()
        pair[1].start()
        with monkeypatch.context() as patch:
            patch.setattr(ShelfStore, "put", few)
            one.work.obey(Shelve(SECOND))
            await until(lambda: one.work.trouble)
        assert one.work.there == ()
        assert list(one.store.list())
        assert "a has no copy of the newest" in one.work.trouble["digits"]
        assert "RESILIENT_NB_SHELF" in one.work.trouble["digits"]
        opened = recall(one.store, [home.settings.runs], SECOND)
        values(home, opened, SECOND)
        one.work.obey(Shelve(SECOND))  # there is room again: it goes on
        await until(lambda: one.work.there == (SECOND,))
        await until(lambda: not one.work.trouble)

    asyncio.run(main())


def test_at_most_the_newest_whole_one_stays(home: StoredHome, pair: tuple[Host, Host]) -> None:
    one, _ = pair

    async def main() -> None:
        one.start()
        pair[1].start()
        one.work.obey(Shelve(FIRST))
        await until(lambda: one.work.there == (FIRST,))
        one.store.put("digits/00000030-e1/c", [b"being written"])
        one.store.put("digits/00000030-e0/c", [b"debris"])
        one.store.put("other/00000010-e1/c", [b"debris"])
        one.work.keep({"digits": Kept(SECOND, 1, True)})
        await until(lambda: "other" not in one.store.folders())
        assert one.work.there == (FIRST,)  # until there is a newer one
        one.work.obey(Shelve(SECOND))
        await until(lambda: SECOND in (one.work.there or ()))
        one.work.keep({"digits": Kept(SECOND, 1, True)})
        await until(lambda: one.work.there == (SECOND,))
        await until(lambda: not one.store.path("digits/00000030-e0").exists())
        values(home, open_at(one.store, SECOND), SECOND)  # what it refers to stayed
        assert one.store.read("digits/00000030-e1/c") == b"being written"
        await until(lambda: not one.store.path(f"{FIRST}/model/weight").exists())
        assert one.store.path(f"{FIRST}/model/frozen").exists()
        one.work.keep({})
        await until(lambda: not one.store.folders())

    asyncio.run(main())


def test_a_host_that_has_only_a_part_keeps_that_of_the_head(
    home: StoredHome, pair: tuple[Host, Host]
) -> None:
    one, _ = pair

    async def main() -> None:
        one.start()
        pair[1].start()
        one.work.prepare()
        for identity in (FIRST, SECOND):
            Copier(home.runs, one.store, atomic=True).copy(identity)
            one.store.delete([f"{identity}/zarr.json"])
        one.work.keep({"digits": Kept(SECOND, 1, False)})
        await until(lambda: not one.store.path(f"{FIRST}/model/weight").exists())
        assert one.store.path(f"{FIRST}/model/frozen").exists()
        assert one.store.path(f"{SECOND}/model/weight").exists()

    asyncio.run(main())


def test_what_the_store_has_lost_is_put_back(home: StoredHome, pair: tuple[Host, Host]) -> None:
    one, _ = pair

    async def main() -> None:
        one.start()
        pair[1].start()
        one.work.obey(Shelve(SECOND))
        await until(lambda: one.work.there == (SECOND,))
        shutil.rmtree(Path(home.settings.runs))
        one.work.obey(PutBack(SECOND))
        await until(lambda: Path(home.settings.runs, SECOND, "zarr.json").exists())
        await until(lambda: not one.work._wanted)

    asyncio.run(main())
    values(home, open_at(home.runs, SECOND), SECOND)


def test_large_objects_come_in_pieces_and_nothing_else_is_told(tmp_path: Path) -> None:
    copies, data = ShelfStore(tmp_path), os.urandom(PIECE + 1000)
    copies.put("r/1/c", [data])

    async def main() -> None:
        sizes: list[int] = []

        async def ask(what: str, key: str, offset: int) -> dict[str, Any]:
            reply = answer(copies, what, key, offset)
            sizes.append(len(reply.get("data", b"")))
            return reply

        peer = PeerStore("a", asyncio.get_running_loop(), ask)
        assert await asyncio.to_thread(peer.read, "r/1/c") == data
        assert max(sizes) == PIECE
        part = bytearray(100)
        assert await asyncio.to_thread(peer.read_into, "r/1/c", 7, memoryview(part)) == 100
        assert part == data[7:107]
        assert await asyncio.to_thread(peer.size, "r/1/c") == len(data)
        for key in ("../secret", "/etc/passwd", "r/1/none"):
            with pytest.raises(FileNotFoundError):
                await asyncio.to_thread(peer.read, key)

    asyncio.run(main())
