"""`storage.opening` and `reading`: what was written or a named error, and no byte too many."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.errors import CheckpointError, CorruptCheckpoint, InvalidRequest
from resilient_nb.storage import corrupting, writing
from resilient_nb.storage.encoding import codecs_of
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest, manifest_json
from resilient_nb.storage.opening import open_at, open_checkpoint
from resilient_nb.storage.tree import STORABLE_DTYPES, TensorLeaf
from resilient_nb.storage.writing import Options, is_committed
from tests.unit.checkpoints import (
    DOCUMENTS,
    IDENTITY,
    LEAVES,
    OPTIONS,
    assert_equal,
    leaf,
    numbers,
    opened,
    save,
)

PACKED = Options(chunk_bytes=1000, pack_bytes=1 << 20)
ZSTD = replace(OPTIONS, codecs=codecs_of("zstd"))
ZSTD_PACKED = replace(PACKED, codecs=codecs_of("zstd"))
KINDS = {"plain": OPTIONS, "packed": PACKED, "zstd": ZSTD, "zstd packed": ZSTD_PACKED}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


# --- what is written is read --------------------------------------------------------------------


@kinds
def test_a_checkpoint_comes_back(store: LocalStore, options: Options) -> None:
    info = {"torch": "2.13", "position": [1, 2]}
    manifest = save(store, metrics={"loss": 0.5}, info=info, options=options)
    checkpoint = open_checkpoint(store.path(IDENTITY))
    assert checkpoint.manifest == manifest
    assert (manifest.id, checkpoint.path) == (IDENTITY, str(store.path(IDENTITY)))
    assert checkpoint.names() == list(LEAVES)
    for name, found in checkpoint.read_many(LEAVES).items():
        assert_equal(found, LEAVES[name])
        found.array[...] = 0  # its own memory, writable
    assert {name: checkpoint.document(name) for name in DOCUMENTS} == DOCUMENTS


SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (0, 5), (5, 3), (2, 1, 3, 4), (1000,), (41, 10)]


@kinds
@pytest.mark.parametrize("dtype", sorted(STORABLE_DTYPES))
def test_every_dtype_and_rank_for_every_reader(
    store: LocalStore, dtype: str, options: Options
) -> None:
    """Ours, zarr-python and TensorStore agree bit for bit."""
    leaves = {f"m/{i}": leaf(numbers(shape, dtype)) for i, shape in enumerate(SHAPES)}
    manifest = save(store, leaves, options=options)
    checkpoint, path = open_at(store, IDENTITY), store.path(IDENTITY)
    group = zarr.open_group(path, mode="r")
    arrays: dict[str, list[np.ndarray[Any, Any]]] = {}
    for record in manifest.tensors:
        if record.key not in arrays:
            array = group[record.key]
            assert isinstance(array, zarr.Array)
            arrays[record.key] = [np.asarray(array[...]), read_with_tensorstore(path / record.key)]
        wanted = leaves[record.name]
        assert_equal(checkpoint.read(record.name), wanted)
        for whole in arrays[record.key]:
            part = whole
            if record.offset is not None:
                part = whole[record.offset : record.offset + wanted.array.size]
            assert_equal(leaf(part.reshape(wanted.array.shape)), wanted)


def read_with_tensorstore(path: Path) -> np.ndarray[Any, Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


def test_tensorstore_reads_unchanged_arrays_where_zarr_does(store: LocalStore) -> None:
    first = save(store)
    second = save(store, {}, kept={t.name: t for t in first.tensors}, step=140)
    path = store.path(second.id) / "model/0.weight"
    for found in (zarr.open_array(path, mode="r")[...], read_with_tensorstore(path)):
        assert_equal(leaf(np.asarray(found), "float32"), LEAVES["model/0.weight"])


@kinds
def test_arrays_of_another_order_or_byte_order(store: LocalStore, options: Options) -> None:
    arrays = [numbers((4, 5)).T, numbers((9,), ">i4"), numbers((8, 8))[::2, 1:5]]
    leaves = {f"m/{i}": leaf(array) for i, array in enumerate(arrays)}
    save(store, leaves, options=options)
    for name, wanted in leaves.items():
        assert_equal(open_at(store, IDENTITY).read(name), wanted)


@kinds
def test_nan_and_negative_zero_keep_their_bits(store: LocalStore, options: Options) -> None:
    array = np.array([0x7FC00001, 0xFFFFFFFF, 0x80000000, 0x7F800001], "u4").view("f4")
    zeros = np.full(1000, -0.0)
    save(store, {"m/x": leaf(array), "m/y": leaf(zeros)}, options=options)
    assert open_at(store, IDENTITY).read("m/x").array.tobytes() == array.tobytes()
    assert open_at(store, IDENTITY).read("m/y").array.tobytes() == zeros.tobytes()


@kinds
@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_are_read_by_threads(
    store: LocalStore, options: Options, threads: int
) -> None:
    leaves = {f"m/{i}": leaf(numbers((1200, 300), seed=i)) for i in range(3)}
    save(store, leaves, options=replace(options, chunk_bytes=1 << 18, threads=threads))
    for name, found in open_at(store, IDENTITY).read_many(leaves, threads=threads).items():
        assert_equal(found, leaves[name])


@kinds
def test_arrays_that_are_there_are_filled(store: LocalStore, options: Options) -> None:
    save(store, options=options)
    targets = {name: np.ones_like(tensor.array) for name, tensor in LEAVES.items()}
    open_at(store, IDENTITY).read_into(targets)
    for name, tensor in LEAVES.items():
        np.testing.assert_array_equal(targets[name], tensor.array)
    for wrong in (np.zeros((16, 3, 3)), np.zeros((144,), "f4")):
        with pytest.raises(CheckpointError, match=r"0.weight .*float32\[16, 3, 3\]; it doesn't"):
            open_at(store, IDENTITY).read_into({"model/0.weight": wrong})


@kinds
def test_any_region_can_be_read(store: LocalStore, options: Options) -> None:
    whole = numbers((23, 9, 4), seed=3)
    save(store, {"m/x": leaf(whole)}, options=options)
    checkpoint = open_at(store, IDENTITY)
    for start, shape in [((0, 0, 0), (23, 9, 4)), ((6, 1, 0), (9, 8, 4)), ((22, 8, 3), (1, 1, 1)),
                         ((5, 0, 0), (0, 9, 4))]:  # fmt: skip
        found = checkpoint.read_region("m/x", start, shape)
        wanted = whole[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
        assert_equal(found, leaf(wanted))


class Counting(LocalStore):
    """Counts the bytes that are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.count = 0

    def read(self, key: str) -> bytes:
        data = super().read(key)
        self.count += 0 if key.endswith("zarr.json") else len(data)
        return data

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        count = super().read_into(key, offset, view)
        self.count += count
        return count


@pytest.mark.parametrize("options", [OPTIONS, PACKED], ids=["plain", "packed"])
def test_only_what_is_asked_for_is_read(store: LocalStore, options: Options) -> None:
    leaves = {f"m/{i}": leaf(numbers((100,), seed=i)) for i in range(100)}
    save(store, leaves, options=options)
    counting = Counting(store.root)
    checkpoint = open_at(counting, IDENTITY)
    assert counting.count == 0
    checkpoint.read_many(["m/7", "m/8", "m/50"])
    assert 1200 <= counting.count <= 1212


# --- damage --------------------------------------------------------------------------------------


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def truncate(file: Path, _: int) -> None:
    os.truncate(file, file.stat().st_size - 1)


def empty(file: Path, _: int) -> None:
    os.truncate(file, 0)


def remove(file: Path, _: int) -> None:
    file.unlink()


def extend(file: Path, _: int) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


CHUNKS = {"m/x": leaf(numbers((51, 10), seed=7))}  # 3 chunks of 17 rows


@pytest.mark.parametrize("options", [OPTIONS, ZSTD], ids=["plain", "zstd"])
@pytest.mark.parametrize("chunk", ["c.0.0", "c.2.0"])
@pytest.mark.parametrize(
    ("damage", "offset"),
    [(flip, 0), (flip, 100), (flip, -1), (truncate, 0), (extend, 0), (empty, 0), (remove, 0)],
)
def test_a_damaged_chunk_is_never_returned(
    store: LocalStore,
    chunk: str,
    damage: Callable[[Path, int], None],
    offset: int,
    options: Options,
) -> None:
    save(store, CHUNKS, options=options)
    checkpoint = open_at(store, IDENTITY)
    damage(store.path(IDENTITY) / "m" / "x" / chunk, offset)
    with pytest.raises(CorruptCheckpoint, match=rf"digits/00000120-e3 .*m/x .*{chunk}") as found:
        checkpoint.read("m/x")
    assert found.value.checkpoint == IDENTITY
    assert pickle.loads(pickle.dumps(found.value)).checkpoint == IDENTITY
    assert checkpoint.document("shared") == DOCUMENTS["shared"]


def refuse(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_damaged_already_cant_be_damaged_on_purpose(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, CHUNKS)
    chunk = store.path(IDENTITY) / "m" / "x" / "c.0.0"
    before = chunk.read_bytes()
    flipped = corrupting.flip(str(store.path(IDENTITY)))
    assert chunk.read_bytes() != before
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        flipped.undo()  # it must not end who wants it mended
    flipped.undo()
    assert chunk.read_bytes() == before
    empty(chunk, 0)
    with pytest.raises(InvalidRequest, match="damaged already"):
        corrupting.flip(str(store.path(IDENTITY)))


@pytest.mark.parametrize(("damage", "offset"), [(flip, 0), (flip, 64), (empty, 0), (remove, 0)])
@pytest.mark.parametrize("options", [PACKED, ZSTD_PACKED], ids=["packed", "zstd packed"])
def test_a_damaged_pack_is_never_returned(
    store: LocalStore, damage: Callable[[Path, int], None], offset: int, options: Options
) -> None:
    leaves = {f"m/{i}": leaf(numbers((8,), seed=i)) for i in range(4)}
    save(store, leaves, options=options)
    damage(store.path(IDENTITY) / "m" / "%pack-0-float32-0" / "c.0", offset)
    checkpoint = open_at(store, IDENTITY)
    damaged = []
    for name, wanted in leaves.items():
        try:
            assert_equal(checkpoint.read(name), wanted)
        except CorruptCheckpoint as error:
            damaged += [name] if f"{IDENTITY} is damaged: {name} " in str(error) else ["unnamed"]
    single = damage is flip and not options.codecs
    assert damaged == ([f"m/{offset // 32}"] if single else list(leaves))
    with pytest.raises(CorruptCheckpoint, match=damaged[0]):
        checkpoint.read_many(leaves)


def test_two_that_changed_places_in_a_pack_are_noticed(store: LocalStore) -> None:
    leaves = {f"m/{i}": leaf(np.full(8, i, "f4")) for i in range(2)}
    save(store, leaves, options=PACKED)
    file = store.path(IDENTITY) / "m" / "%pack-0-float32-0" / "c.0"
    data = file.read_bytes()
    file.write_bytes(data[32:64] + data[:32] + data[64:])
    with pytest.raises(CorruptCheckpoint, match="m/0 doesn't match its checksum"):
        open_at(store, IDENTITY).read_many(leaves)


def test_padding_is_verified_too(store: LocalStore) -> None:
    array = numbers((50, 11))  # 3 chunks of 17 rows, the last with one row of padding
    save(store, {"m/x": leaf(array)})
    flip(store.path(IDENTITY) / "m" / "x" / "c.2.0", -5)
    with pytest.raises(CorruptCheckpoint, match=r"m/x .*checksum"):
        open_at(store, IDENTITY).read("m/x")


def test_an_exchanged_tensor_is_noticed(store: LocalStore) -> None:
    """Each chunk has the right crc32c: only the manifest can tell."""
    other = {"m/x": leaf(numbers((51, 10), seed=8))}
    save(store, CHUNKS)
    second = save(store, other, step=140)
    for file in (store.path(second.id) / "m" / "x").iterdir():
        file.replace(store.path(IDENTITY) / "m" / "x" / file.name)
    with pytest.raises(CorruptCheckpoint, match="doesn't match its checksum"):
        open_at(store, IDENTITY).read("m/x")


def test_a_disk_that_cant_read_is_damage_and_a_store_out_of_reach_is_not(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, CHUNKS)
    checkpoint = open_at(store, IDENTITY)

    def fails(code: int) -> None:
        def read_into(store: LocalStore, key: str, offset: int, view: memoryview) -> int:
            raise OSError(code, os.strerror(code), key)

        monkeypatch.setattr(LocalStore, "read_into", read_into)

    fails(errno.EIO)
    with pytest.raises(CorruptCheckpoint, match=r"m/x can't be read .*Input/output"):
        checkpoint.read("m/x")
    fails(errno.ETIMEDOUT)
    with pytest.raises(TimeoutError):
        checkpoint.read("m/x")


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chunked")
    save(LocalStore(path), CHUNKS)
    return path


changes = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=3)


@given(changes)
@settings(max_examples=150, deadline=None)
def test_damaged_array_metadata_never_gives_other_values(
    chunked: Path, changes: list[tuple[int, int]]
) -> None:
    unharmed(chunked, chunked / IDENTITY / "m" / "x" / "zarr.json", changes)


@given(changes)
@settings(max_examples=150, deadline=None)
def test_a_damaged_manifest_never_gives_other_values(
    chunked: Path, changes: list[tuple[int, int]]
) -> None:
    unharmed(chunked, chunked / IDENTITY / "zarr.json", changes)


def unharmed(folder: Path, file: Path, changes: list[tuple[int, int]]) -> None:
    """Change some bytes: what is read is right, or an error that says what is damaged."""
    intact = file.read_bytes()
    text = bytearray(intact)
    for offset, byte in changes:
        text[offset % len(text)] = byte
    file.write_bytes(text)
    try:
        assert is_committed(LocalStore(folder), IDENTITY)
        with suppress(CorruptCheckpoint):
            checkpoint = opened(folder)
            assert checkpoint.manifest.step == 120
            assert_equal(checkpoint.read("m/x"), CHUNKS["m/x"])
    finally:
        file.write_bytes(intact)


@pytest.mark.parametrize("damage", [flip, empty, remove])
def test_a_damaged_document(store: LocalStore, damage: Callable[[Path, int], None]) -> None:
    save(store)
    damage(store.path(IDENTITY) / "state" / "shared" / "zarr.json", 70)
    with pytest.raises(CorruptCheckpoint, match=r"digits/00000120-e3 .*shared"):
        open_at(store, IDENTITY).document("shared")


@pytest.mark.parametrize(
    "replaced",
    [(b'"step":120', b'"step":121'), (b"}", b""), (b'"key"', b""), (b'"resilient_nb"', b'"x"'),
     (b'"attributes"', b'"a"'), (b'"resilient_nb_sha256"', b'"y"')],
)  # fmt: skip
def test_a_damaged_manifest(store: LocalStore, replaced: tuple[bytes, bytes]) -> None:
    save(store)
    root = store.path(IDENTITY) / "zarr.json"
    root.write_bytes(root.read_bytes().replace(*replaced))
    assert is_committed(store, IDENTITY), "or it would be taken for garbage"
    with pytest.raises(CorruptCheckpoint, match="the manifest") as found:
        open_at(store, IDENTITY)
    assert found.value.checkpoint == IDENTITY


@pytest.mark.parametrize(("format", "way_out"), [(3, "Update resilient_nb"), (1, "Train it again")])
def test_other_formats_are_refused(store: LocalStore, format: int, way_out: str) -> None:
    save(store, format=format)
    with pytest.raises(CheckpointError, match=way_out) as found:
        open_at(store, IDENTITY)
    assert not isinstance(found.value, CorruptCheckpoint)


def test_a_manifest_of_another_form_is_refused(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_tomorrow(manifest: Manifest) -> dict[str, Any]:
        return {**manifest_json(manifest), "world_size": "two"}

    monkeypatch.setattr(writing, "manifest_json", of_tomorrow)
    save(store)
    with pytest.raises(CheckpointError, match="another version"):
        open_at(store, IDENTITY)


def test_a_name_it_never_had(store: LocalStore) -> None:
    save(store)
    checkpoint = open_at(store, IDENTITY)
    reads: list[Callable[[str], Any]] = [
        checkpoint.read, checkpoint.document, lambda name: checkpoint.read_many([name]),
        lambda name: checkpoint.read_into({name: np.zeros(1)}),
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(CheckpointError, match="has no 'nope'"):
            read("nope")


def test_a_tensor_of_another_checkpoint_is_named_by_the_one_that_needs_it(
    store: LocalStore,
) -> None:
    first = save(store)
    second = save(store, {}, kept={t.name: t for t in first.tensors}, run="fork", step=140)
    flip(store.path(first.id) / "model" / "0.weight" / "c.0.0.0", 3)
    for identity in (first.id, second.id):
        with pytest.raises(CorruptCheckpoint, match=r"model/0\.weight") as found:
            open_at(store, identity).read("model/0.weight")
        assert found.value.checkpoint == identity


def test_leaves_are_by_name(store: LocalStore) -> None:
    """Whatever order the manifest has."""
    leaves: dict[str, TensorLeaf] = dict(reversed(LEAVES.items()))
    save(store, leaves)
    assert open_at(store, IDENTITY).names() == list(leaves)
