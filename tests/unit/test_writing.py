"""`storage.writing`: committed wholly or not at all, once, and never anything twice."""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr

from resilient_nb.core.names import checkpoint_id
from resilient_nb.errors import CannotStore, CheckpointError
from resilient_nb.storage.encoding import codecs_of
from resilient_nb.storage.hashing import Sealing, crc32c, digest, digests
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import (
    checkpoint_digest,
    checkpoint_of,
    manifest_from,
    manifest_json,
)
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.tree import Json, Shard, TensorLeaf
from resilient_nb.storage.writing import (
    Options,
    commit,
    hashed,
    is_committed,
    merge,
    shards_digest,
    write_documents,
    write_part,
)
from tests.unit.checkpoints import (
    DOCUMENTS,
    IDENTITY,
    LEAVES,
    OPTIONS,
    a_manifest,
    assert_equal,
    leaf,
    numbers,
    opened,
    save,
    written,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def objects(store: ObjectStore, prefix: str = "") -> dict[str, bytes]:
    """Return all objects, but for links."""
    return {e.key: store.read(e.key) for e in store.list(prefix) if e.size}


# --- commit -----------------------------------------------------------------------------------


def test_before_the_commit_there_is_no_checkpoint(store: LocalStore) -> None:
    assert not is_committed(store, IDENTITY)
    written(store, IDENTITY, LEAVES)
    write_documents(store, IDENTITY, DOCUMENTS)
    assert not is_committed(store, IDENTITY)
    with pytest.raises(CheckpointError, match="no committed checkpoint"):
        open_at(store, IDENTITY)
    save(store)
    assert is_committed(store, IDENTITY)


def test_a_group_that_zarr_makes_is_no_checkpoint(store: LocalStore) -> None:
    written(store, IDENTITY, LEAVES)
    zarr.open_group(store.path(IDENTITY))  # in its default mode it writes a root group
    assert (store.path(IDENTITY) / "zarr.json").exists()
    assert not is_committed(store, IDENTITY)


def test_a_committed_checkpoint_never_changes(store: LocalStore) -> None:
    manifest = save(store)
    before = objects(store)
    for write in (
        lambda: written(store, IDENTITY, {"model/0.weight": leaf(numbers((400, 3)))}),
        lambda: write_documents(store, IDENTITY, {"shared": None}),
        lambda: commit(store, manifest),
    ):
        with pytest.raises(CheckpointError, match="never changes"):
            write()
    assert objects(store) == before


def test_of_two_who_commit_at_once_one_does(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has looked before, and found nothing."""
    records = tuple(written(store, IDENTITY, LEAVES).values())
    first, second = (a_manifest(tensors=records, metrics={"loss": x}) for x in (1.0, 2.0))
    create = LocalStore.create

    def late(store: LocalStore, key: str, data: bytes) -> None:
        monkeypatch.setattr(LocalStore, "create", create)
        commit(store, first)
        store.create(key, data)

    monkeypatch.setattr(LocalStore, "create", late)
    with pytest.raises(CheckpointError, match="never changes"):
        commit(store, second)
    assert open_at(store, IDENTITY).manifest == first


def test_a_commit_needs_every_part(store: LocalStore) -> None:
    manifest = save(store)
    other = {"epoch": 4}
    for half in (replace(manifest, documents=()), replace(manifest, tensors=())):
        moved = replace(
            half, tensors=tuple(replace(t, at="digits/00000120-e4") for t in half.tensors), **other
        )
        with pytest.raises(CheckpointError, match=r"can't be committed: .* not written"):
            commit(store, moved)
    assert not is_committed(store, "digits/00000120-e4")


@pytest.mark.parametrize("gone", [
    "model/0.weight/c.0.0.0", "model/0.weight/zarr.json", "model/%pack-0-uint16-0/c.0",
    "state/rank-0/zarr.json",
])  # fmt: skip
def test_a_commit_looks_whether_each_object_is_there(store: LocalStore, gone: str) -> None:
    records = tuple(written(store, IDENTITY, LEAVES).values())
    documents = tuple(write_documents(store, IDENTITY, DOCUMENTS).values())
    store.delete([f"{IDENTITY}/{gone}"])
    name = "rank-0" if gone.startswith("state") else r"model/."
    with pytest.raises(CheckpointError, match=rf"can't be committed: {name}"):
        commit(store, a_manifest(tensors=records, documents=documents))


def test_writing_again_before_the_commit_replaces(store: LocalStore) -> None:
    name = "model/0.weight"
    written(store, IDENTITY, {name: leaf(numbers((500, 9)))})
    write_documents(store, IDENTITY, {"shared": "much longer than the next one" * 100})
    save(store)
    assert_equal(open_at(store, IDENTITY).read(name), LEAVES[name])
    assert open_at(store, IDENTITY).document("shared") == DOCUMENTS["shared"]


@pytest.mark.parametrize("dtype", ["O", "U3", "M8[s]", "g"])
def test_dtypes_that_zarr_does_not_specify(store: LocalStore, dtype: str) -> None:
    leaves = {"m/y": leaf(np.zeros(2)), "m/x": leaf(np.zeros(2, dtype))}
    with pytest.raises(CannotStore, match="m/x is an array of dtype"):
        write_part(store, IDENTITY, leaves, dict.fromkeys(leaves, ""))
    assert list(store.list()) == []


def test_what_is_not_strict_json_is_refused(store: LocalStore) -> None:
    with pytest.raises(CannotStore, match="shared isn't strict JSON"):
        write_documents(store, IDENTITY, {"shared": float("nan")})
    with pytest.raises(CannotStore, match="the manifest isn't strict JSON"):
        save(store, info={"bad": object()})
    assert not is_committed(store, IDENTITY)


def test_metrics_may_be_nan(store: LocalStore) -> None:
    save(store, metrics={"loss": float("nan"), "best": float("-inf"), "acc": 0.25})
    metrics = open_at(store, IDENTITY).manifest.metrics
    assert math.isnan(metrics["loss"])
    assert (metrics["best"], metrics["acc"]) == (float("-inf"), 0.25)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_of_the_store_keeps_its_errno(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(file: int, data: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("resilient_nb.storage.disk.os.write", fail)
    for name, options in (("m/x", OPTIONS), ("m/y", Options(pack_bytes=1 << 20))):
        with pytest.raises(OSError, match=os.strerror(code)) as failure:
            written(store, IDENTITY, {name: leaf(numbers((100_000,)))}, options)
        assert failure.value.errno == code


def test_after_one_failure_nothing_more_is_written(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, tried = LocalStore.put, []

    def fail(store: LocalStore, key: str, parts: Any) -> None:
        tried.append(key)
        if key.endswith("zarr.json"):
            put(store, key, parts)
        else:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(LocalStore, "put", fail)
    leaves = {f"m/{i}": leaf(numbers((1000,), seed=i)) for i in range(50)}
    with pytest.raises(OSError, match="full"):
        written(store, IDENTITY, leaves, Options(pack_bytes=0, threads=2))
    assert len(tried) < 20


# --- packs ------------------------------------------------------------------------------------


def test_small_tensors_share_an_array_per_object_and_dtype(store: LocalStore) -> None:
    leaves = {f"model/{i}": leaf(numbers((i,), seed=i), "float32") for i in range(10)}
    leaves |= {f"model/b{i}": leaf(numbers((2, i), "int64"), "int64") for i in range(3)}
    leaves |= {f"optimizer/{i}": leaf(numbers((5,), seed=i), "float32") for i in range(3)}
    leaves["model/large"] = leaf(numbers((100,)), "float32")
    records = written(store, IDENTITY, leaves, replace(OPTIONS, pack_bytes=128), rank=2)
    keys = {record.key for record in records.values()}
    assert keys == {
        "model/%pack-2-float32-0", "model/%pack-2-int64-0", "optimizer/%pack-2-float32-0",
        "model/large",
    }  # fmt: skip
    assert (records["model/large"].offset, records["model/3"].offset) == (None, 3)
    array = zarr.open_array(store.path(f"{IDENTITY}/model/%pack-2-float32-0"), mode="r")
    values = np.asarray(array[...])
    assert array.attrs["tensors"]["model/4"] == {  # type: ignore[index,call-overload]
        "offset": 6, "shape": [4], "torch_dtype": "float32",
    }  # fmt: skip
    for name in leaves:
        if (record := records[name]).key.endswith("float32-0") and name.startswith("model"):
            assert record.offset is not None
            part = values[record.offset : record.offset + math.prod(record.shape)]
            np.testing.assert_array_equal(part, leaves[name].array)
    count = sum(entry.size for entry in store.list(IDENTITY) if not entry.key.endswith("json"))
    stored = sum(record.stored for record in records.values())
    assert count - len(leaves) < stored <= count, "each has its share of what is stored"


def test_packs_have_a_size(store: LocalStore) -> None:
    leaves = {f"m/{i}": leaf(numbers((100,), "uint8", i)) for i in range(25)}
    records = written(store, IDENTITY, leaves, replace(OPTIONS, pack_bytes=101))
    assert len({record.key for record in records.values()}) == 3
    save(store, leaves, epoch=4, options=replace(OPTIONS, pack_bytes=101))
    for name, found in open_at(store, "digits/00000120-e4").read_many(leaves).items():
        assert_equal(found, leaves[name])


def test_a_pack_of_nothing(store: LocalStore) -> None:
    leaves = {"m/a": leaf(np.zeros((0, 3), "f4")), "m/b": leaf(np.zeros((0,), "f4"), "float32")}
    save(store, leaves)
    for name, wanted in leaves.items():
        assert_equal(open_at(store, IDENTITY).read(name), wanted)
    assert zarr.open_group(store.path(IDENTITY), mode="r")["m/%pack-0-float32-0"].shape == (0,)  # type: ignore[union-attr]


# --- what is not written again ------------------------------------------------------------------


def test_unchanged_tensors_are_found_where_they_were_written(store: LocalStore) -> None:
    first = save(store)
    changed = {"optimizer/state.0.step": leaf(numbers((), seed=5), "float32")}
    kept = {t.name: t for t in first.tensors if t.name not in changed}
    before = objects(store)
    second = save(store, changed, kept=kept, step=140, parent=first.id)
    new = {key: data for key, data in objects(store).items() if key not in before}
    tensors = sum(len(data) for key, data in new.items() if not key.endswith("zarr.json"))
    assert tensors == 4 + 4 == checkpoint_of(second).written, "one float and its crc32c"
    assert {key: new.get(key, data) for key, data in before.items()} == before
    assert second.arrays == {(t.at, t.key) for t in second.tensors}
    checkpoint = open_at(store, second.id)
    for name, wanted in {**LEAVES, **changed}.items():
        assert_equal(checkpoint.read(name), wanted)


def test_foreign_readers_find_unchanged_arrays_too(store: LocalStore) -> None:
    first = save(store)
    kept = {t.name: t for t in first.tensors}
    save(store, {}, kept=kept, run="fork", step=140)
    path = store.path("fork/00000140-e3")
    assert (path / "model/0.weight").is_symlink()
    found = zarr.open_group(path, mode="r")["model/0.weight"]
    np.testing.assert_array_equal(np.asarray(found[...]), LEAVES["model/0.weight"].array)  # type: ignore[index]
    moved = store.root.rename(store.root.parent / f"{store.root.name}-moved")
    found = zarr.open_group(moved / "fork/00000140-e3", mode="r")["model/0.weight"]
    np.testing.assert_array_equal(np.asarray(found[...]), LEAVES["model/0.weight"].array)  # type: ignore[index]


def test_a_try_that_failed_never_writes_through_a_link(store: LocalStore) -> None:
    """It gave a name to an array of another checkpoint; the next try has it changed."""
    first = save(store)
    before = objects(store)
    store.link("digits/00000140-e3/model/0.weight", f"{IDENTITY}/model/0.weight")
    other = {"model/0.weight": leaf(numbers((16, 3, 3), seed=9), "float32")}
    second = save(store, other, step=140)
    assert {key: data for key, data in objects(store).items() if key in before} == before
    assert_equal(open_at(store, second.id).read("model/0.weight"), other["model/0.weight"])
    assert_equal(open_at(store, first.id).read("model/0.weight"), LEAVES["model/0.weight"])


# --- shards -------------------------------------------------------------------------------------


def sharded(
    whole: np.ndarray[Any, Any], chunk: tuple[int, ...]
) -> dict[tuple[int, ...], TensorLeaf]:
    """Return a tensor's parts on a regular grid."""
    counts = [-(-n // c) for n, c in zip(whole.shape, chunk, strict=True)]
    return {
        index: TensorLeaf(
            np.ascontiguousarray(
                whole[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk, strict=True))]
            ),
            "float32",
            Shard(whole.shape, chunk, index),
        )
        for index in np.ndindex(*counts)
    }


@pytest.mark.parametrize("codecs", [(), codecs_of("zstd")], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    ("shape", "chunk"), [((10, 6), (4, 6)), ((6, 10), (6, 4)), ((7, 9), (3, 4)), ((5,), (2,))]
)
def test_ranks_write_parts_of_one_tensor(
    store: LocalStore, shape: tuple[int, ...], chunk: tuple[int, ...], codecs: tuple[Any, ...]
) -> None:
    whole = numbers(shape)
    parts = sharded(whole, chunk)
    total = shards_digest({index: digest(part.array) for index, part in parts.items()})
    records = []
    for rank, part in enumerate(parts.values()):
        options = Options(codecs=codecs)
        found = write_part(
            store, IDENTITY, {"m/x": part}, {"m/x": total}, rank=rank, options=options
        )
        records.append(found["m/x"])
    record = merge(records)
    assert (record.shape, record.chunk, record.digest) == (shape, chunk, total)
    assert (record.nbytes, len(record.sums)) == (whole.nbytes, len(parts))
    commit(store, a_manifest(tensors=(record,)))
    assert_equal(open_at(store, IDENTITY).read("m/x"), leaf(whole, "float32"))
    array = zarr.open_group(store.path(IDENTITY), mode="r")["m/x"]
    np.testing.assert_array_equal(np.asarray(array[...]), whole)  # type: ignore[index]


def test_what_is_kept_is_linked_while_the_rest_is_written(store: LocalStore) -> None:
    first = save(store)
    kept = [t for t in first.tensors if t.offset is None]
    later = checkpoint_id("digits", 130, 3)
    write_part(store, later, {"m/new": leaf(numbers((200,)))}, options=OPTIONS, kept=kept)
    linked = [entry.key for entry in store.list(later) if store.path(entry.key).is_symlink()]
    assert linked == sorted(f"{later}/{t.key}" for t in kept)
    for tensor in kept:
        assert store.path(f"{later}/{tensor.key}/zarr.json").exists()


def test_the_digest_of_parts_is_of_their_places_too() -> None:
    a, b = digest(numbers((3,))), digest(numbers((3,), seed=1))
    found = {shards_digest(parts) for parts in (
        {(0,): a, (1,): b}, {(0,): b, (1,): a}, {(0, 0): a, (1, 0): b}, {(0,): a},
    )}  # fmt: skip
    assert len(found) == 4
    assert shards_digest({(1,): b, (0,): a}) == shards_digest({(0,): a, (1,): b})


# --- digests ------------------------------------------------------------------------------------


def test_the_digest_is_of_the_raw_bytes() -> None:
    array = np.frombuffer(b"123456789", "u1")
    assert digest(array) == xxhash.xxh3_128_hexdigest(b"123456789")
    assert digest(np.empty((0, 3))) == xxhash.xxh3_128_hexdigest(b"")
    large = numbers((700_000,))
    assert crc32c(np.frombuffer(b"123456789", "u1")) == 0xE3069283
    assert digest(large.astype(">f4")) == digest(large) == digest(large.reshape(-1, 7))
    assert digest(numbers((4, 6)).T) == digest(np.ascontiguousarray(numbers((4, 6)).T))
    many = {str(i): numbers((2_000_000,), seed=i) for i in range(3)}  # by threads
    assert digests(many) == {name: digest(array) for name, array in many.items()}


@pytest.mark.parametrize("offset", [0, 64])
@pytest.mark.parametrize("size", [0, 1, 256 << 10, (9 << 20) + 5])
def test_a_chunk_is_sealed_wherever_it_lies_and_however_often_it_is_written(
    offset: int, size: int
) -> None:
    memory = np.frombuffer(mmap.mmap(-1, size + offset + 1), np.uint8)
    data, filling = memory[offset : offset + size], np.zeros(100, np.uint8)
    data[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    whole = np.concatenate([data, filling])
    end = crc32c(whole).to_bytes(4, "little")
    sealing = Sealing([data, filling], xxhash.xxh3_128(b"before"))
    for _ in range(2):
        assert b"".join(sealing) == whole.tobytes() + end
        assert sealing.seal == (end, xxhash.xxh3_64_hexdigest(whole.tobytes() + end))
        assert sealing.whole is not None
        assert sealing.whole.hexdigest() == xxhash.xxh3_128_hexdigest(b"before" + data.tobytes())
    assert sealing.nbytes == whole.size + 4


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 4000])
@pytest.mark.parametrize("compress", ["", "zstd"])
def test_what_is_hashed_in_one_pass_is_stored_as_ever(
    tmp_path: Path, rows: int, compress: str
) -> None:
    """Digests and objects are those of two passes, padded chunks and small tensors included."""
    options = Options(chunk_bytes=8 * 400, pack_bytes=64, codecs=codecs_of(compress))
    leaves = {
        "m/a": leaf(numbers((rows, 100))),
        "m/b": leaf(numbers((3,))),
        "n/c": leaf(np.array(1.5)),
    }
    found, seals = hashed(leaves, options)
    assert found == {name: digest(x.array) for name, x in leaves.items()}
    assert bool(seals) is (not compress)
    plain, quick = LocalStore(tmp_path / "plain"), LocalStore(tmp_path / "quick")
    records = write_part(plain, IDENTITY, leaves, found, options=options)
    assert write_part(quick, IDENTITY, leaves, found, options=options, seals=seals) == records
    assert objects(quick) == objects(plain)
    later = LocalStore(tmp_path / "later")
    assert write_part(later, IDENTITY, leaves, options=options) == records
    assert objects(later) == objects(plain)


def test_the_checkpoint_digest_covers_shared_state_alone(store: LocalStore) -> None:
    first = save(store)
    rank = {**LEAVES, "rank-0/rng": leaf(numbers((9,)))}
    other = save(
        store,
        dict(reversed(rank.items())),
        {**DOCUMENTS, "rank-0": 1, "rank-1": 2},
        options=Options(pack_bytes=0, codecs=codecs_of("zstd")),
        run="other",
        job="other#1",
        epoch=9,
        step=1,
        parent=None,
        created_at=7.0,
        world_size=2,
        metrics={"loss": 1.0},
    )
    assert checkpoint_digest(first) == checkpoint_digest(other)
    assert checkpoint_digest(first) == checkpoint_digest(open_at(store, other.id).manifest)


@pytest.mark.parametrize(
    ("leaves", "documents"),
    [
        ({"model/0.bias": leaf(numbers((16,), "uint16", seed=1), "bfloat16")}, {}),
        ({"model/0.bias": leaf(numbers((16,), "uint16"), "uint16")}, {}),
        ({"model/0.bias": leaf(numbers((16, 1), "uint16"), "bfloat16")}, {}),
        ({"model/more": leaf(numbers(()))}, {}),
        ({}, {"shared": {"dict": {"lr": 0.2}}}),
    ],
)
def test_the_checkpoint_digest_sees_every_change(
    store: LocalStore, leaves: dict[str, TensorLeaf], documents: dict[str, Json]
) -> None:
    first = save(store)
    other = save(store, {**LEAVES, **leaves}, {**DOCUMENTS, **documents}, epoch=4)
    assert checkpoint_digest(first) != checkpoint_digest(other)


def test_a_manifest_is_json_and_back(store: LocalStore) -> None:
    manifest = save(
        store, info={"position": [1, {"a": None}]}, options=Options(codecs=codecs_of("zstd"))
    )
    assert manifest_from(json.loads(json.dumps(manifest_json(manifest)))) == manifest
    assert opened(store.root).manifest == manifest
    with pytest.raises(ValueError, match="Expected"):
        manifest_from({**manifest_json(manifest), "tensors": [1]})  # type: ignore[dict-item]
