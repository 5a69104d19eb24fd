"""`storage.zarr3`: keys that live together, and files as zarr itself would write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from resilient_nb.storage.encoding import codecs_of, fit
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.tree import STORABLE_DTYPES
from resilient_nb.storage.writing import Options
from resilient_nb.storage.zarr3 import (
    GROUP,
    PAGE,
    array_json,
    chunk_count,
    chunk_index,
    chunk_name,
    document_key,
    group_key,
    pack_key,
    row_chunks,
    safe_key,
    split,
)
from tests.unit.checkpoints import (
    DOCUMENTS,
    IDENTITY,
    LEAVES,
    OPTIONS,
    assert_equal,
    leaf,
    numbers,
    opened,
    run,
    save,
    written,
)

# --- files ------------------------------------------------------------------------------------

READ_WITH_ZARR_ALONE = """
import json, sys
import zarr
assert "resilient_nb" not in sys.modules
group = zarr.open_group(sys.argv[1])
found = {name: [node.dtype.name, node.shape, node[...].tolist(), dict(node.attrs)]
         for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}
manifest = group.attrs["resilient_nb"]
print(json.dumps([found, manifest["step"], group["state/shared"].attrs["document"]]))
"""


def test_zarr_alone_reads_it_without_a_warning(tmp_path: Path) -> None:
    save(LocalStore(tmp_path))
    path = str(tmp_path / IDENTITY)
    found, step, shared = json.loads(run(READ_WITH_ZARR_ALONE, path, isolated=True))
    weight = LEAVES["model/0.weight"].array
    assert found.pop("model/0.weight") == [
        "float32", [16, 3, 3], weight.tolist(), {"torch_dtype": "float32"},
    ]  # fmt: skip
    packed = {}
    for dtype, shape, values, attributes in found.values():
        assert len(shape) == 1
        for name, where in attributes["tensors"].items():
            size = math.prod(where["shape"])
            part = np.array(values[where["offset"] : where["offset"] + size], dtype)
            packed[name] = leaf(part.reshape(where["shape"]), where.get("torch_dtype"))
    assert packed.keys() == LEAVES.keys() - {"model/0.weight"}
    for name, tensor in packed.items():
        assert_equal(tensor, LEAVES[name])
    assert (step, shared) == (120, DOCUMENTS["shared"])


def compression(width: int) -> BloscCodec:
    return BloscCodec(typesize=width, cname="zstd", clevel=1, shuffle="shuffle", blocksize=1 << 20)


@pytest.mark.parametrize("codecs", [(), codecs_of("zstd")], ids=["plain", "zstd"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float64", "complex64"])
def test_the_files_are_those_that_zarr_would_write(
    tmp_path: Path, dtype: str, codecs: tuple[Any, ...]
) -> None:
    array = numbers((30, 4), dtype) + np.ones((), dtype)  # zarr leaves out chunks of zeros
    options = Options(chunk_bytes=8 * array[0].nbytes, pack_bytes=0, codecs=codecs)
    written(LocalStore(tmp_path), "ours", {"m/x": leaf(array, "t")}, options)
    theirs = zarr.create_array(
        tmp_path / "theirs",
        shape=array.shape,
        dtype=array.dtype,
        chunks=(8, 4),
        serializer=BytesCodec(endian="little"),
        compressors=[*(compression(array.itemsize) for _ in codecs), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"torch_dtype": "t"},
    )
    theirs[...] = array
    wanted = {file.name: file for file in (tmp_path / "theirs").iterdir()}
    mine = {file.name: file for file in (tmp_path / "ours" / "m" / "x").iterdir()}
    assert mine.keys() == wanted.keys()
    assert len(mine) == 5
    for name in mine:
        if name == "zarr.json":
            assert json.loads(mine[name].read_text()) == json.loads(wanted[name].read_text())
        else:
            assert mine[name].read_bytes() == wanted[name].read_bytes()


@pytest.mark.parametrize("dtype", sorted(STORABLE_DTYPES))
def test_metadata_of_every_dtype_is_as_zarr_reads_it(dtype: str) -> None:
    found = zarr.core.metadata.ArrayV3Metadata.from_dict(
        json.loads(array_json((3, 2), dtype, (3, 2), fit(codecs_of("zstd"), "a/b", 2, 12)))
    )
    assert found.dtype.to_native_dtype() == np.dtype(dtype)
    assert found.fill_value == np.zeros((), dtype)
    assert json.loads(GROUP) == {"zarr_format": 3, "node_type": "group", "attributes": {}}


# --- keys -------------------------------------------------------------------------------------

HARD_NAMES = ["a", "a/", "a/b", "a/b/c", "a/b%2Fc", "a/%", "a/%_", "/", "", "../x", "a/..", "a/.b"]
HARD_NAMES += ["c/0", "a/c", "a/c.0", "a/zarr.json", "zarr.json/a", "state/shared", "a/state"]
HARD_NAMES += ["__a/__b", "a/x\\y", "a/x:y", "a/\0\n", "a/é", "a/e\u0301", "a/\ud800", "A/b", "a/ "]
HARD_NAMES += ["a/" + "x" * 300, "a/" + "x" * 299 + "y", "a/" + "é" * 100, "a/b?#*", "c", "a/~2"]
HARD_NAMES += ["a/%pack-0-int64-0", "%/x", "a/%%", "a/%pack"]


@pytest.mark.parametrize(
    "name", ["model/0.weight", "optimizer/state.0.exp_avg", "rank-0/rng.torch", "model/a[0]~2"]
)
def test_plain_names_are_their_own_key(name: str) -> None:
    assert safe_key(name).replace("%7E", "~") == safe_key(name) == name


@pytest.mark.parametrize("pack_bytes", [0, 1000])
def test_hard_names_live_together_and_zarr_reads_them(tmp_path: Path, pack_bytes: int) -> None:
    leaves = {name: leaf(np.array([i])) for i, name in enumerate(HARD_NAMES)}
    hard = ["c", "..", "zarr.json", "", "\ud800"]
    options = Options(pack_bytes=pack_bytes)
    texts = {name: number for number, name in enumerate(hard)}
    manifest = save(LocalStore(tmp_path), leaves, texts, options=options)
    checkpoint = opened(tmp_path)
    group = zarr.open_group(tmp_path / IDENTITY, mode="r")
    for record in manifest.tensors:
        wanted = leaves[record.name]
        assert_equal(checkpoint.read(record.name), wanted)
        array = group[record.key]
        assert isinstance(array, zarr.Array)
        at = record.offset or 0
        assert array[at : at + 1] == wanted.array
    listed = [n for n, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert sorted(listed) == sorted({record.key for record in manifest.tensors})
    assert [checkpoint.document(name) for name in hard] == [0, 1, 2, 3, 4]


tricky = st.text(st.sampled_from("/%.c_:\\~a5F2Ez\ud800é\0 s"), max_size=8)
names = st.sets(tricky | st.text(max_size=4) | st.sampled_from(HARD_NAMES), max_size=30)


@given(names)
@settings(max_examples=120, deadline=None)
def test_no_two_names_have_one_key(names: set[str]) -> None:
    keys = {safe_key(name) for name in names}
    assert len(keys) == len(names)
    keys |= {document_key(name).removesuffix("/zarr.json") for name in names}
    assert len(keys) == 2 * len(names), "documents live in a group of their own"
    for key in keys:
        group, array = key.split("/")  # depth two always: no array inside another's directory
        for piece in (group, array):
            assert piece.isascii()
            assert piece.isprintable()
            assert 0 < len(piece) <= 200
            assert piece not in ("c", "zarr.json")
            assert not piece.startswith((".", "__"))
            assert not set(piece) & set('\\:*?"<>|')


@given(names, st.integers(0, 99), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_tensor_has_the_key_of_a_pack(names: set[str], rank: int, number: int) -> None:
    packs = {pack_key(n.partition("/")[0], rank, "float32", number) for n in names}
    assert not packs & {safe_key(name) for name in names}
    for key in packs:
        assert key.split("/")[0] in {group_key(name.partition("/")[0]) for name in names}


# --- chunks -----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 40), max_size=4).map(tuple),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(1, 5000),
)
@settings(max_examples=300, deadline=None)
def test_chunks_are_the_array_in_pieces(shape: tuple[int, ...], itemsize: int, most: int) -> None:
    chunk = split(shape, itemsize, most)
    assert len(chunk) == len(shape)
    assert chunk[1:] == tuple(max(1, n) for n in shape[1:]), "only rows are divided"
    row = math.prod(shape[1:]) * itemsize if shape else itemsize
    if math.prod(shape):
        assert math.prod(chunk) * itemsize < most + row
    pieces = list(row_chunks(shape, chunk, itemsize))
    at = 0
    for number, (name, piece) in enumerate(pieces):
        assert piece.start == at
        at = piece.stop
        assert chunk_index(name) == (number, *[0] * (len(shape) - 1))[: len(shape)]
        assert chunk_name(chunk_index(name)) == name
    assert at == math.prod(shape) * itemsize


@given(st.integers(1, 10**6), st.integers(1, 20_000), st.integers(1, 64 << 20))
def test_chunks_are_filled(rows: int, row: int, most: int) -> None:
    """Chunks have one size, and what the last one lacks is written as zeros."""
    chunk = split((rows, row), 1, most)
    count = chunk_count((rows, row), chunk)
    assert count * chunk[0] - rows < count * PAGE // math.gcd(PAGE, row)


def test_large_chunks_begin_at_pages() -> None:
    chunk = split((50257, 768), 4, 64 << 20)  # GPT-2's embedding
    assert chunk == (16756, 768)
    assert math.prod(chunk) * 4 % PAGE == 0
    assert chunk_count((50257, 768), chunk) == 3


def test_names_of_chunks() -> None:
    assert [chunk_name(index) for index in ((), (0,), (3, 0, 12))] == ["c", "c.0", "c.3.0.12"]
    assert OPTIONS.chunk_bytes == 1000
    assert split((51, 10), 4, 1000) == (17, 10)
    assert split((), 4, 1000) == ()
    assert split((3, 5000), 4, 1000) == (1, 5000)
