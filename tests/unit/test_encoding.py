"""`storage.encoding`: compressed checkpoints are smaller, and any reader of Zarr reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numcodecs.zstd import Zstd

from resilient_nb.errors import CheckpointError, CorruptCheckpoint, InvalidRequest
from resilient_nb.storage.encoding import codecs_of, decode, encode, fit
from resilient_nb.storage.keys import Keyring
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import checkpoint_of
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.tree import STORABLE_DTYPES, Shard, TensorLeaf
from resilient_nb.storage.writing import Options, merge, write_part
from tests.unit.checkpoints import IDENTITY, LEAVES, OPTIONS, assert_equal, leaf, numbers, run, save

COMPRESSED = replace(OPTIONS, codecs=codecs_of("zstd"))
NONE = Keyring()


def weights(count: int = 300_000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.02, count).astype("f4")


@pytest.mark.parametrize("text", ["", "zstd", "zstd:1", "zstd:9"])
def test_compression_is_named_as_users_write_it(text: str) -> None:
    [*found] = codecs_of(text)
    assert len(found) == bool(text)


@pytest.mark.parametrize("text", [
    "gzip", "zstd:0", "zstd:10", "zstd:", "zstd:-1", "zstd:x", "zstd:１", "ZSTD", " zstd", ":3",
])  # fmt: skip
def test_other_compressions_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="use zstd"):
        codecs_of(text)


@pytest.mark.parametrize("dtype", sorted(STORABLE_DTYPES))
def test_every_dtype_comes_back(tmp_path: Path, dtype: str) -> None:
    shapes = [(), (0,), (7,), (3, 0, 2), (5, 3), (2, 1, 3, 4), (1000,), (41, 10)]
    leaves = {f"m/{i}": leaf(numbers(shape, dtype)) for i, shape in enumerate(shapes)}
    store = LocalStore(tmp_path)
    manifest = save(store, leaves, options=COMPRESSED)
    assert all(record.codecs == COMPRESSED.codecs for record in manifest.tensors)
    checkpoint = open_at(store, IDENTITY)
    assert checkpoint.manifest == manifest
    for name, wanted in leaves.items():
        assert_equal(checkpoint.read(name), wanted)
        assert_equal(checkpoint.read_many(leaves)[name], wanted)


def test_a_process_that_only_knows_zarr_reads_it(tmp_path: Path) -> None:
    leaves = {**LEAVES, "model/big": leaf(weights(5000).reshape(50, 100), "float32")}
    save(LocalStore(tmp_path), leaves, options=COMPRESSED)
    np.savez(tmp_path / "wanted.npz", *(leaves[n].array for n in ("model/big", "model/0.weight")))
    script = """
import sys, zarr, numpy
group = zarr.open_group(sys.argv[1], mode="r")
wanted = numpy.load(sys.argv[2])
for name, key in (("model/big", "arr_0"), ("model/0.weight", "arr_1")):
    assert numpy.array_equal(group[name][...], wanted[key]), name
assert [c.to_dict()["name"] for c in group["model/big"].metadata.codecs] == [
    "bytes", "blosc", "crc32c"]
assert not any(name.startswith("resilient_nb") for name in sys.modules)
print("read")
"""
    output = run(script, str(tmp_path / IDENTITY), str(tmp_path / "wanted.npz"), isolated=True)
    assert output == "read\n"


def test_tensorstore_reads_it(tmp_path: Path) -> None:
    import tensorstore

    values = weights(5000).reshape(50, 100)
    save(LocalStore(tmp_path), {"model/big": leaf(values)}, options=COMPRESSED)
    path = str(tmp_path / IDENTITY / "model/big")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    found = tensorstore.open(spec).result().read().result()
    np.testing.assert_array_equal(found, values)


def test_shuffling_wins_twice_what_zstd_alone_does(tmp_path: Path) -> None:
    values = weights()
    alone = values.nbytes / len(Zstd(level=1).encode(values))
    manifest = save(
        LocalStore(tmp_path), {"m/w": leaf(values)}, options=Options(codecs=codecs_of("zstd"))
    )
    ratio = values.nbytes / checkpoint_of(manifest).written
    assert ratio > 1.1
    assert ratio - 1 > 1.5 * (alone - 1)


def test_what_is_written_counts_as_it_is_stored(tmp_path: Path) -> None:
    leaves = {"m/zeros": leaf(np.zeros(5000, "f4")), "m/a": leaf(np.zeros(10, "f4"))}
    store = LocalStore(tmp_path)
    plain = save(store, leaves)
    small = save(store, leaves, options=COMPRESSED, step=200)
    assert checkpoint_of(plain).written > 20_000 > 10 * checkpoint_of(small).written
    chunks = [e for e in store.list(small.id) if e.key.rpartition("/")[2].startswith("c.")]
    assert checkpoint_of(small).written == pytest.approx(sum(entry.size for entry in chunks), abs=2)


def test_a_region_of_a_compressed_tensor_is_read_alone(tmp_path: Path) -> None:
    values = numbers((40, 30))
    save(LocalStore(tmp_path), {"m/x": leaf(values)}, options=COMPRESSED)
    found = open_at(LocalStore(tmp_path), IDENTITY).read_region("m/x", (7, 3), (20, 11))
    np.testing.assert_array_equal(found.array, values[7:27, 3:14])


def test_shards_are_compressed_one_by_one(tmp_path: Path) -> None:
    store, whole = LocalStore(tmp_path), numbers((10, 6))
    parts = []
    for index, rows in enumerate((whole[:5], whole[5:])):
        shard = TensorLeaf(rows, "float32", Shard((10, 6), (5, 6), (index, 0)))
        parts.append(
            write_part(store, IDENTITY, {"m/x": shard}, {"m/x": "d"}, rank=index,
                       options=COMPRESSED)["m/x"]
        )  # fmt: skip
    save(store, {}, kept={"m/x": merge(parts)})
    np.testing.assert_array_equal(open_at(store, IDENTITY).read("m/x").array, whole)


def test_every_damaged_byte_of_a_compressed_chunk_is_found(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    save(store, {"m/x": leaf(numbers((20,)))}, options=replace(COMPRESSED, pack_bytes=1))
    path = store.path(f"{IDENTITY}/m/x/c.0")
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        with pytest.raises(CorruptCheckpoint, match="m/x"):
            open_at(store, IDENTITY).read("m/x")
    path.write_bytes(good)
    open_at(store, IDENTITY).read("m/x")


def test_chunks_too_large_for_blosc_are_compressed_without_a_shuffle() -> None:
    [small] = fit(codecs_of("zstd:3"), "a/b", 4, 1 << 20)
    [large] = fit(codecs_of("zstd:3"), "a/b", 4, 1 << 31)
    assert small["configuration"]["typesize"] == 4
    assert large == {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
    for codec in (small, large):
        data = weights(1000).tobytes()
        stored = encode([codec], data, "c.0", NONE)
        assert bytes(decode([codec], stored, "c.0", NONE)) == data


def test_damage_that_the_sum_misses_is_an_error_all_the_same() -> None:
    codecs = fit(codecs_of("zstd"), "a/b", 4, 4000)
    stored = bytes(encode(codecs, weights(1000).tobytes(), "c.0", NONE))
    with pytest.raises(ValueError, match="decompress"):
        decode(codecs, stored[: len(stored) // 2], "c.0", NONE)


def test_an_unknown_codec_asks_for_an_update(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Codec pickle is unknown"):
        decode([{"name": "pickle", "configuration": {}}], b"", "c.0", NONE)


def test_metadata_tells_the_width_of_what_is_shuffled(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    arrays = {"m/f8": numbers((400,), "f8"), "m/u2": numbers((900,), "u2")}
    save(store, {name: leaf(array) for name, array in arrays.items()}, options=COMPRESSED)
    for name, array in arrays.items():
        meta = json.loads(store.read(f"{IDENTITY}/{name}/zarr.json"))
        assert meta["codecs"][1]["configuration"]["typesize"] == array.itemsize
