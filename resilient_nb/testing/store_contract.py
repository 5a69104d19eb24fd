"""What every `ObjectStore` must keep, as a suite that pytest can run.

class TestMine(ObjectStoreContract):
    def make(self, folder: Path) -> ObjectStore:
        return MyStore(folder)
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resilient_nb.storage.objects import Entry, ObjectStore, join
from resilient_nb.storage.zarr3 import document_key, pack_key, safe_key

#: Around the sizes at which stores write differently: a page, direct writes, several parts.
SIZES = (0, 1, 4095, 4096, (1 << 20) - 1, (1 << 20) + 4097, (9 << 20) + 1)

#: Keys as checkpoints have them, with everything that a name may hold.
KEYS = (
    "cluster",
    "digits/00000020-e1/zarr.json",
    *(
        join("digits/00000020-e1", key)
        for key in (
            join(safe_key("model/0.weight"), "c.0.0"),
            join(safe_key("model/a b%/ü~'\"<>&#?*:|\\"), "c"),
            join(pack_key("state", 0, "float32", 0), "c.0"),
            document_key("rank-0"),
        )
    ),
)


class ObjectStoreContract:
    """The suite. `make` opens the store that lives at `folder`, new or again."""

    examples = 30
    """Of random sequences of calls; fewer where each call takes long."""

    def make(self, folder: Path) -> ObjectStore:
        """Open the store of a folder; other folders have other stores."""
        raise NotImplementedError

    def test_what_was_put_is_read(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        for size in SIZES:
            data, whole, parts = os.urandom(size), f"{size}/whole", f"{size}/parts"
            store.put(whole, [data])
            store.put(parts, [data[:5], bytearray(data[5:4100]), memoryview(data)[4100:], b""])
            store.flush()
            for key in (whole, parts):
                assert store.read(key) == data
                assert store.size(key) == size
            assert self.make(tmp_path).read(parts) == data

    def test_an_object_may_have_no_parts(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        store.put("empty", [])
        assert store.read("empty") == b""

    def test_any_kind_of_memory_can_be_put(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        numbers = memoryview(bytearray(range(64))).cast("I").toreadonly()
        store.put("numbers", [numbers, numbers.cast("B").cast("B", (8, 8))])
        assert store.read("numbers") == bytes(range(64)) * 2

    def test_a_second_put_replaces_the_first(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        for size in (2 << 20, 10, 5000, 0):
            data = os.urandom(size)
            store.put("a", [data])
            assert store.read("a") == data
        assert [entry.key for entry in store.list()] == ["a"]

    def test_any_range_can_be_read(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        for size in (1, 5000, (1 << 20) + 11):
            data = os.urandom(size)
            store.put("a", [data])
            for offset in (0, 1, size // 2, size - 1, size, size + 1, 10 * size):
                for count in (0, 1, 100, size, 2 * size):
                    view = bytearray(count)
                    found = store.read_into("a", offset, memoryview(view))
                    assert found == max(0, min(count, size - offset))
                    assert view[:found] == data[offset : offset + count]
                    assert not any(view[found:])

    def test_what_is_missing_is_told_as_missing(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        calls: list[Callable[[str], object]] = [
            store.read,
            store.size,
            lambda key: store.read_into(key, 0, memoryview(bytearray(10))),
            lambda key: store.read_into(key, 5, memoryview(bytearray(0))),
        ]
        store.put("a/b/c", [b"1"])
        for key in ("nothing", "a/b/d", "a/x/y", "z/c"):
            for call in calls:
                error = _raised(FileNotFoundError, call, key)
                assert error.errno is not None
                assert key in str(error)

    def test_only_the_first_creates(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        store.create("a/b", b"first")
        for again in (store, self.make(tmp_path)):
            _raised(FileExistsError, again.create, "a/b", b"second")
        store.put("c", [b"put"])
        _raised(FileExistsError, store.create, "c", b"created")
        assert store.read("a/b") == b"first"
        assert store.read("c") == b"put"
        assert sorted(entry.key for entry in store.list()) == ["a/b", "c"]

    def test_of_many_that_create_at_once_one_does(self, tmp_path: Path) -> None:
        stores = [self.make(tmp_path) for _ in range(4)]
        start = threading.Barrier(8)

        def attempt(number: int) -> bool:
            start.wait()
            try:
                stores[number % 4].create("a/claim", f"{number}".encode() * 1000)
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(attempt, range(8)))
        assert won.count(True) == 1
        assert stores[0].read("a/claim") == f"{won.index(True)}".encode() * 1000

    def test_a_created_object_can_be_removed_and_created_again(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        store.create("a", b"1")
        store.delete(["a"])
        store.create("a", b"2")
        assert store.read("a") == b"2"

    def test_keys_come_back_as_they_were(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        for key in KEYS:
            store.put(key, [key.encode()])
        found = {entry.key: entry.size for entry in store.list()}
        assert found == {key: len(key.encode()) for key in KEYS}
        for key in KEYS:
            assert store.read(key) == key.encode()
        store.delete(KEYS)
        assert list(store.list()) == []

    def test_a_listing_is_of_whole_pieces(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        keys = ["a/b/c", "a/b/d/e", "a/bc", "a/b.c", "ab", "b/a/b/c"]
        for key in keys:
            store.put(key, [b"1"])

        def listed(prefix: str) -> list[str]:
            return sorted(entry.key for entry in store.list(prefix))

        assert listed("") == sorted(keys)
        assert listed("a") == ["a/b.c", "a/b/c", "a/b/d/e", "a/bc"]
        assert listed("a/b") == ["a/b/c", "a/b/d/e"]
        assert listed("a/b/d") == ["a/b/d/e"]
        assert listed("nothing") == []

    def test_an_empty_store_has_nothing(self, tmp_path: Path) -> None:
        store = self.make(tmp_path / "new")
        assert list(store.list()) == []
        store.flush()
        store.delete(["a", "b/c"])

    def test_deleting_takes_what_was_named_and_nothing_else(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        keys = [f"run/{number % 3}/{number}" for number in range(30)]
        for key in [*keys, "run/0/keep", "other"]:
            store.put(key, [b"1"])
        self.make(tmp_path).delete(["missing", *keys, "run/9/missing"])
        assert sorted(entry.key for entry in store.list()) == ["other", "run/0/keep"]
        store.delete(keys)
        store.delete([])
        store.put(keys[0], [b"again"])
        assert store.read(keys[0]) == b"again"

    def test_a_link_adds_nothing(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        store.put("a/array/c.0", [b"12345"])
        store.link("b/array", "a/array")
        store.link("b/array", "a/array")
        assert sum(entry.size for entry in store.list()) == 5
        store.delete(entry.key for entry in list(store.list("b")))
        assert list(store.list()) == [Entry("a/array/c.0", 5)]

    def test_threads_may_use_it_at_once(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        blobs = {f"t/{number % 5}/{number}": os.urandom(number * 5000) for number in range(40)}

        def work(key: str) -> bool:
            store.put(key, [blobs[key]])
            view = bytearray(len(blobs[key]))
            store.read_into(key, 0, memoryview(view))
            return view == blobs[key] == store.read(key)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, blobs))
        assert {entry.key for entry in store.list()} == set(blobs)

    def test_it_says_where_it_is_and_what_it_likes(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        assert store.url == self.make(tmp_path).url
        assert store.block >= 1 << 16
        assert store.threads >= 1

    def test_it_behaves_as_a_dict_would(self, tmp_path: Path) -> None:
        for seed in range(self.examples):
            chance = random.Random(seed)
            store, model = self.make(tmp_path / str(seed)), dict[str, bytes]()
            for _ in range(chance.randrange(12)):
                key = chance.choice(["a", "b/c", "b/d", "b/e/f"])
                call, data = chance.choice(["put", "create", "delete"]), chance.randbytes(3)
                if call == "put":
                    store.put(key, [data])
                    model[key] = data
                elif call == "delete":
                    store.delete([key])
                    model.pop(key, None)
                elif key in model:
                    _raised(FileExistsError, store.create, key, data)
                else:
                    store.create(key, data)
                    model[key] = data
            assert {e.key: e.size for e in store.list()} == {k: len(v) for k, v in model.items()}
            assert {key: store.read(key) for key in model} == model


def _raised(kind: type[OSError], call: Callable[..., object], *args: object) -> OSError:
    """Return what a call raises, which must be of this kind."""
    try:
        call(*args)
    except kind as error:
        return error
    raise AssertionError(f"{call} of {args} raises no {kind.__name__}")
