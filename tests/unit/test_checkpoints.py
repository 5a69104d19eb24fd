"""`storage.checkpoints`: plain Zarr, verified on every read, committed wholly or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec

import resilient_nb.storage
from resilient_nb.errors import CannotStore, CheckpointError, CorruptCheckpoint
from resilient_nb.storage.checkpoints import (
    DocumentRecord,
    Manifest,
    TensorRecord,
    checkpoint_digest,
    commit,
    digest,
    is_committed,
    open_checkpoint,
    safe_key,
    write_documents,
    write_part,
)
from resilient_nb.storage.tree import STORABLE_DTYPES, Json, TensorLeaf

# Single-threaded, since the children fork.
HERE = {
    **os.environ,
    "PYTHONPATH": str(Path(resilient_nb.storage.__file__).parents[2]),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return np.asarray(values).astype(dtype)


def leaf(array: np.ndarray, torch_dtype: str | None = None) -> TensorLeaf:
    return TensorLeaf(array, torch_dtype)


LEAVES = {
    "model/0.weight": leaf(numbers((16, 3, 3)), "float32"),
    "model/0.bias": leaf(numbers((16,), "uint16"), "bfloat16"),
    "optimizer/state.0.step": leaf(numbers(()), "float32"),
    "rank-0/rng": leaf(numbers((4,), "uint32")),
}
DOCUMENTS: dict[str, Json] = {"shared": {"dict": {"lr": 0.1}}, "rank-0": {"tensor": "rank-0/rng"}}


def save(
    path: Path,
    leaves: Mapping[str, TensorLeaf] = LEAVES,
    documents: Mapping[str, Json] = DOCUMENTS,
    **changed: Any,
) -> Manifest:
    manifest = Manifest(
        run="digits",
        job="digits#2",
        epoch=3,
        step=120,
        parent="digits/00000100-e2",
        world_size=1,
        created_at=1.5,
        tensors=tuple(write_part(path, leaves, chunk_bytes=1000).values()),
        documents=tuple(write_documents(path, documents).values()),
    )
    manifest = replace(manifest, **changed)
    commit(path, manifest)
    return manifest


def assert_equal(found: TensorLeaf, wanted: TensorLeaf) -> None:
    assert found.torch_dtype == wanted.torch_dtype
    assert found.array.dtype == wanted.array.dtype.newbyteorder("=")
    assert found.array.shape == wanted.array.shape
    np.testing.assert_array_equal(found.array, wanted.array)


def run(script: str, *arguments: str, isolated: bool = False) -> str:
    flags = ["-I", "-W", "error"] if isolated else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", script, *arguments],
        env=HERE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What is written is read.


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "digits"
    manifest = save(path, metrics={"loss": 0.5}, info={"torch": "2.13", "position": [1, 2]})
    checkpoint = open_checkpoint(path)
    assert checkpoint.manifest == manifest
    assert manifest.id == "digits/00000120-e3"
    assert checkpoint.names() == list(LEAVES)
    for name, found in checkpoint.read_many(LEAVES).items():
        assert_equal(found, LEAVES[name])
    assert {name: checkpoint.document(name) for name in DOCUMENTS} == DOCUMENTS


@pytest.mark.parametrize("dtype", sorted(STORABLE_DTYPES))
def test_every_dtype_and_rank(tmp_path: Path, dtype: str) -> None:
    shapes = [(), (0,), (1,), (7,), (3, 0, 2), (0, 5), (5, 3), (2, 1, 3, 4), (1000,), (41, 10)]
    leaves = {f"m/{i}": leaf(numbers(shape, dtype)) for i, shape in enumerate(shapes)}
    save(tmp_path / "c", leaves)
    checkpoint, group = open_checkpoint(tmp_path / "c"), zarr.open_group(tmp_path / "c", mode="r")
    for name, wanted in leaves.items():
        assert_equal(checkpoint.read(name), wanted)
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert_equal(leaf(np.asarray(array[...])), wanted)


def test_arrays_of_another_order_or_byte_order(tmp_path: Path) -> None:
    arrays = [numbers((4, 5)).T, numbers((9,), ">i4"), numbers((8, 8))[::2, 1:5]]
    leaves = {f"m/{i}": leaf(array) for i, array in enumerate(arrays)}
    records = write_part(tmp_path / "c", leaves)
    for name, wanted in leaves.items():
        assert records[name].digest == digest(wanted.array)
        plain = wanted.array.astype(wanted.array.dtype.newbyteorder("="), order="C")
        assert records[name].digest == f"{google_crc32c.value(plain.tobytes()):08x}"
    save(tmp_path / "d", leaves)
    for name, wanted in leaves.items():
        assert_equal(open_checkpoint(tmp_path / "d").read(name), wanted)


def test_nan_and_negative_zero_keep_their_bits(tmp_path: Path) -> None:
    array = np.array([0x7FC00001, 0xFFFFFFFF, 0x80000000, 0x7F800001], "u4").view("f4")
    save(tmp_path / "c", {"m/x": leaf(array)})
    assert open_checkpoint(tmp_path / "c").read("m/x").array.tobytes() == array.tobytes()


def test_large_tensors_are_read_by_threads(tmp_path: Path) -> None:
    leaves = {f"m/{i}": leaf(numbers((1200, 300), seed=i)) for i in range(3)}
    parts = write_part(tmp_path / "c", leaves, chunk_bytes=1 << 18)
    manifest = Manifest(
        run="r",
        job="r#1",
        epoch=1,
        step=1,
        parent=None,
        world_size=1,
        created_at=0,
        tensors=tuple(parts.values()),
    )
    commit(tmp_path / "c", manifest)
    for name, found in open_checkpoint(tmp_path / "c").read_many(leaves, threads=3).items():
        assert_equal(found, leaves[name])
        found.array[...] = 0  # its own memory, writable


def test_the_digest_is_the_crc32c_of_the_raw_bytes() -> None:
    array = np.frombuffer(b"123456789", "u1")
    assert digest(array) == "e3069283"
    assert digest(np.empty((0, 3))) == "00000000"
    large = numbers((700_000,))  # more than one block
    assert digest(large) == f"{google_crc32c.value(large.tobytes()):08x}"


def test_metrics_may_be_nan(tmp_path: Path) -> None:
    save(tmp_path / "c", metrics={"loss": float("nan"), "best": float("-inf"), "acc": 0.25})
    metrics = open_checkpoint(tmp_path / "c").manifest.metrics
    assert np.isnan(metrics["loss"])
    assert (metrics["best"], metrics["acc"]) == (float("-inf"), 0.25)


# Plain Zarr.

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
    save(tmp_path / "c")
    found, step, shared = json.loads(run(READ_WITH_ZARR_ALONE, str(tmp_path / "c"), isolated=True))
    wanted = {
        name: [
            given.array.dtype.name,
            list(given.array.shape),
            given.array.tolist(),
            {"torch_dtype": given.torch_dtype} if given.torch_dtype else {},
        ]
        for name, given in LEAVES.items()
    }
    assert found == wanted
    assert (step, shared) == (120, DOCUMENTS["shared"])


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float64", "complex64"])
def test_the_files_are_those_that_zarr_would_write(tmp_path: Path, dtype: str) -> None:
    array = numbers((30, 4), dtype) + np.ones((), dtype)  # zarr leaves out chunks of zeros
    write_part(tmp_path / "ours", {"m/x": leaf(array, "t")}, chunk_bytes=8 * array[0].nbytes)
    theirs = zarr.create_array(
        tmp_path / "theirs",
        shape=array.shape,
        dtype=array.dtype,
        chunks=(8, 4),
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"torch_dtype": "t"},
    )
    theirs[...] = array
    written = {file.name: file for file in (tmp_path / "theirs").iterdir()}
    mine = {file.name: file for file in (tmp_path / "ours" / "m" / "x").iterdir()}
    assert mine.keys() == written.keys()
    assert len(mine) == 5
    for name in mine:
        if name == "zarr.json":
            assert json.loads(mine[name].read_text()) == json.loads(written[name].read_text())
        else:
            assert mine[name].read_bytes() == written[name].read_bytes()


# Keys.

HARD_NAMES = ["a", "a/", "a/b", "a/b/c", "a/b%2Fc", "a/%", "a/%_", "/", "", "../x", "a/..", "a/.b"]
HARD_NAMES += ["c/0", "a/c", "a/c.0", "a/zarr.json", "zarr.json/a", "state/shared", "a/state"]
HARD_NAMES += ["__a/__b", "a/x\\y", "a/x:y", "a/\0\n", "a/é", "a/e\u0301", "a/\ud800", "A/b", "a/ "]
HARD_NAMES += ["a/" + "x" * 300, "a/" + "x" * 299 + "y", "a/" + "é" * 100, "a/b?#*", "c", "a/~2"]


@pytest.mark.parametrize(
    "name", ["model/0.weight", "optimizer/state.0.exp_avg", "rank-0/rng.torch", "model/a[0]~2"]
)
def test_plain_names_are_their_own_key(name: str) -> None:
    assert safe_key(name).replace("%7E", "~") == safe_key(name) == name


def test_hard_names_live_together_and_zarr_reads_them(tmp_path: Path) -> None:
    leaves = {name: leaf(np.array([i])) for i, name in enumerate(HARD_NAMES)}
    manifest = save(tmp_path / "c", leaves, {name: name for name in ["c", "..", "zarr.json", ""]})
    checkpoint = open_checkpoint(tmp_path / "c")
    group = zarr.open_group(tmp_path / "c", mode="r")
    for record in manifest.tensors:
        assert_equal(checkpoint.read(record.name), leaves[record.name])
        array = group[record.key]
        assert isinstance(array, zarr.Array)
        assert array[...] == leaves[record.name].array
    listed = [n for n, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert sorted(listed) == sorted(record.key for record in manifest.tensors)
    assert [checkpoint.document(r.name) for r in manifest.documents] == ["c", "..", "zarr.json", ""]


tricky = st.text(st.sampled_from("/%.c_:\\~a5F2Ez\ud800é\0 s"), max_size=8)


@given(st.sets(tricky | st.text(max_size=4) | st.sampled_from(HARD_NAMES), max_size=30))
@settings(max_examples=120, deadline=None)
def test_no_two_names_have_one_key(names: set[str]) -> None:
    keys = {safe_key(name) for name in names}
    assert len(keys) == len(names)
    for key in keys:
        group, array = key.split("/")  # depth two always: no array inside another's directory
        for piece in (group, array):
            assert piece.isascii()
            assert piece.isprintable()
            assert 0 < len(piece) <= 200
            assert piece not in ("c", "zarr.json")
            assert not piece.startswith((".", "__"))
            assert not set(piece) & set('\\:*?"<>|')
        assert group != "state"


# Commit.


def test_before_the_commit_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert not is_committed(tmp_path / "c")
    write_part(tmp_path / "c", LEAVES)
    write_documents(tmp_path / "c", DOCUMENTS)
    assert not is_committed(tmp_path / "c")
    with pytest.raises(CheckpointError, match="no committed checkpoint"):
        open_checkpoint(tmp_path / "c")
    zarr.open_group(tmp_path / "c")  # in its default mode it writes a root group
    assert not is_committed(tmp_path / "c")
    save(tmp_path / "c")
    assert is_committed(tmp_path / "c")


def test_a_committed_checkpoint_never_changes(tmp_path: Path) -> None:
    manifest = save(tmp_path / "c")
    for write in (
        lambda: write_part(tmp_path / "c", LEAVES),
        lambda: write_documents(tmp_path / "c", DOCUMENTS),
        lambda: commit(tmp_path / "c", manifest),
    ):
        with pytest.raises(CheckpointError, match="never changes"):
            write()


def test_a_commit_needs_every_part(tmp_path: Path) -> None:
    manifest = save(tmp_path / "c")
    for half in (replace(manifest, documents=()), replace(manifest, tensors=())):
        with pytest.raises(CheckpointError, match=r"can't be committed: .* not written"):
            commit(tmp_path / "d", half)
    assert not is_committed(tmp_path / "d")


def test_writing_again_before_the_commit_replaces(tmp_path: Path) -> None:
    name = "model/0.weight"
    write_part(tmp_path / "c", {name: leaf(numbers((500, 9)))}, chunk_bytes=1000)
    write_documents(tmp_path / "c", {"shared": "much longer than the next one" * 100})
    save(tmp_path / "c")
    assert_equal(open_checkpoint(tmp_path / "c").read(name), LEAVES[name])
    assert open_checkpoint(tmp_path / "c").document("shared") == DOCUMENTS["shared"]


@pytest.mark.parametrize("dtype", ["O", "U3", "M8[s]", "g"])
def test_dtypes_that_zarr_does_not_specify(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(CannotStore, match="m/x is an array of dtype"):
        write_part(tmp_path / "c", {"m/x": leaf(np.zeros(2, dtype))})
    assert not (tmp_path / "c").exists()


def test_what_is_not_strict_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotStore, match="shared isn't strict JSON"):
        write_documents(tmp_path / "c", {"shared": float("nan")})
    with pytest.raises(CannotStore, match="the manifest isn't strict JSON"):
        save(tmp_path / "c", info={"bad": {1, 2}})
    assert not is_committed(tmp_path / "c")


def test_a_full_disk_keeps_its_errno(tmp_path: Path) -> None:
    (tmp_path / "c" / "m" / "x").mkdir(parents=True)
    (tmp_path / "c" / "m" / "x" / "c.0").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as failure:
        write_part(tmp_path / "c", {"m/x": leaf(numbers((100_000,)))})
    assert failure.value.errno == errno.ENOSPC


# Damage.


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def truncate(file: Path, _: int) -> None:
    os.truncate(file, file.stat().st_size - 1)


def remove(file: Path, _: int) -> None:
    file.unlink()


def extend(file: Path, _: int) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


CHUNKS = {"m/x": leaf(numbers((51, 10), seed=7))}  # 3 chunks of 17 rows


@pytest.mark.parametrize("chunk", ["c.0.0", "c.2.0"])
@pytest.mark.parametrize(
    ("damage", "offset"),
    [(flip, 0), (flip, 100), (flip, -1), (truncate, 0), (extend, 0), (remove, 0)],
)
def test_a_damaged_chunk_is_never_returned(
    tmp_path: Path, chunk: str, damage: Callable[[Path, int], None], offset: int
) -> None:
    save(tmp_path / "c", CHUNKS)
    checkpoint = open_checkpoint(tmp_path / "c")
    damage(tmp_path / "c" / "m" / "x" / chunk, offset)
    with pytest.raises(CorruptCheckpoint, match=rf"digits/00000120-e3 .*m/x .*({chunk}|digest)"):
        checkpoint.read("m/x")
    assert checkpoint.document("shared") == DOCUMENTS["shared"]


def test_padding_is_verified_too(tmp_path: Path) -> None:
    array = numbers((50, 11))  # 3 chunks of 17 rows, the last with one row of padding
    save(tmp_path / "c", {"m/x": leaf(array)})
    flip(tmp_path / "c" / "m" / "x" / "c.2.0", -5)
    with pytest.raises(CorruptCheckpoint, match="crc32c"):
        open_checkpoint(tmp_path / "c").read("m/x")


def test_an_exchanged_tensor_is_noticed(tmp_path: Path) -> None:
    other = {"m/x": leaf(numbers((51, 10), seed=8))}
    save(tmp_path / "c", CHUNKS)
    save(tmp_path / "d", other)
    for file in (tmp_path / "d" / "m" / "x").iterdir():
        file.replace(tmp_path / "c" / "m" / "x" / file.name)
    with pytest.raises(CorruptCheckpoint, match="doesn't match its digest"):
        open_checkpoint(tmp_path / "c").read("m/x")


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chunked") / "c"
    save(path, CHUNKS)
    return path


@given(st.lists(st.tuples(st.integers(0, 350), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_damaged_array_metadata_never_gives_other_values(
    chunked: Path, changes: list[tuple[int, int]]
) -> None:
    file = chunked / "m" / "x" / "zarr.json"
    intact = file.read_bytes()
    text = bytearray(intact)
    for offset, byte in changes:
        text[offset % len(text)] = byte
    file.write_bytes(text)
    try:
        with suppress(CorruptCheckpoint):
            assert_equal(open_checkpoint(chunked).read("m/x"), CHUNKS["m/x"])
    finally:
        file.write_bytes(intact)


@pytest.mark.parametrize("damage", [flip, remove])
def test_a_damaged_document(tmp_path: Path, damage: Callable[[Path, int], None]) -> None:
    save(tmp_path / "c")
    damage(tmp_path / "c" / "state" / "shared" / "zarr.json", 70)
    with pytest.raises(CorruptCheckpoint, match=r"digits/00000120-e3 .*shared"):
        open_checkpoint(tmp_path / "c").document("shared")


@pytest.mark.parametrize("replaced", [(b'"step":120', b'"step":121'), (b"}", b""), (b'"key"', b"")])
def test_a_damaged_manifest(tmp_path: Path, replaced: tuple[bytes, bytes]) -> None:
    save(tmp_path / "c")
    root = tmp_path / "c" / "zarr.json"
    root.write_bytes(root.read_bytes().replace(*replaced))
    assert is_committed(tmp_path / "c"), "or it would be taken for garbage"
    with pytest.raises(CorruptCheckpoint, match="the manifest"):
        open_checkpoint(tmp_path / "c")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "c", format=2)
    with pytest.raises(CheckpointError, match="Update resilient_nb"):
        open_checkpoint(tmp_path / "c")


def test_a_name_it_never_had(tmp_path: Path) -> None:
    save(tmp_path / "c")
    checkpoint = open_checkpoint(tmp_path / "c")
    for read in (checkpoint.read, checkpoint.document, lambda name: checkpoint.read_many([name])):
        with pytest.raises(CheckpointError, match="has no 'nope'"):
            read("nope")


# Equal state, equal digest.


def test_the_checkpoint_digest_covers_shared_state_alone(tmp_path: Path) -> None:
    first = save(tmp_path / "a")
    rank = {**LEAVES, "rank-0/rng": leaf(numbers((9,)))}
    other = save(
        tmp_path / "b",
        dict(reversed(rank.items())),
        {**DOCUMENTS, "rank-0": 1, "rank-1": 2},
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
    assert checkpoint_digest(first) == checkpoint_digest(open_checkpoint(tmp_path / "b").manifest)


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
    tmp_path: Path, leaves: dict[str, TensorLeaf], documents: dict[str, Json]
) -> None:
    first = save(tmp_path / "a")
    other = save(tmp_path / "b", {**LEAVES, **leaves}, {**DOCUMENTS, **documents})
    assert checkpoint_digest(first) != checkpoint_digest(other)


# Several processes, and their deaths. The children fork: an interpreter each would be slow.

WRITE_AT_ONCE = """
import json, os, sys
from dataclasses import asdict
import numpy as np
from resilient_nb.storage.checkpoints import Manifest, commit, write_documents, write_part
from resilient_nb.storage.tree import TensorLeaf
path, ranks = sys.argv[1], 4

def part(round, rank):
    names = [f"model/{i}" for i in range(rank, 24, ranks)] + [f"rank-{rank}/rng"]
    return {name: TensorLeaf(np.full((5, 7), 10 * round + rank), None) for name in names}

for round in range(12):
    ready, go = os.pipe()
    results, children = [], []
    for rank in range(ranks):
        reader, writer = os.pipe()
        results.append(reader)
        children.append(os.fork())
        if children[-1] == 0:
            os.close(go)
            os.read(ready, 1)  # ends for all when the parent closes
            to = f"{path}/{round}"
            records = list(write_part(to, part(round, rank)).values())
            documents = write_documents(to, {f"rank-{rank}": rank})
            body = [asdict(r) for r in [*records, *documents.values()]]
            os.write(writer, json.dumps(body).encode())
            os._exit(0)
        os.close(writer)
    os.close(go)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    print(json.dumps([json.loads(os.read(reader, 1 << 20)) for reader in results]))
    for descriptor in [ready, *results]:
        os.close(descriptor)
"""


def test_processes_write_parts_of_one_checkpoint_at_once(tmp_path: Path) -> None:
    for number, line in enumerate(run(WRITE_AT_ONCE, str(tmp_path)).splitlines()):
        path = tmp_path / str(number)
        rows = [row for rank in json.loads(line) for row in rank]
        tensors = [TensorRecord(**{**r, "shape": tuple(r["shape"])}) for r in rows if "key" in r]
        documents = [DocumentRecord(**r) for r in rows if "sha256" in r]
        assert (len(tensors), len(documents)) == (28, 4)
        manifest = Manifest(
            run="r",
            job="r#1",
            epoch=1,
            step=number,
            parent=None,
            world_size=4,
            created_at=0,
            tensors=tuple(tensors),
            documents=tuple(documents),
        )
        commit(path, manifest)
        checkpoint = open_checkpoint(path)
        for rank in range(4):
            names = [f"rank-{rank}/rng", *(f"model/{i}" for i in range(rank, 24, 4))]
            for found in checkpoint.read_many(names).values():
                assert (found.array == 10 * number + rank).all()
        assert [checkpoint.document(f"rank-{rank}") for rank in range(4)] == [0, 1, 2, 3]
        assert len(list(zarr.open_group(path, mode="r").members(max_depth=None))) == 28 + 5 + 5


KILL = """
import os, random, signal, sys, time
import numpy as np
from resilient_nb.storage.checkpoints import Manifest, commit, write_documents, write_part
from resilient_nb.storage.tree import TensorLeaf
path, seconds, random = sys.argv[1], float(sys.argv[2]), random.Random(5)

def save(to, number):
    leaves = {f"model/{i}": TensorLeaf(np.full((40, 30), number), None) for i in range(6)}
    tensors = tuple(write_part(to, leaves, chunk_bytes=4096).values())
    documents = tuple(write_documents(to, {"shared": number}).values())
    commit(to, Manifest(run="r", job="r#1", epoch=1, step=number, parent=None, world_size=1,
                        created_at=0.0, tensors=tensors, documents=documents))

began = time.monotonic()
for warm in range(3):
    save(f"{path}/{warm}", warm)
usual = (time.monotonic() - began) / 3
number = 3
while time.monotonic() - began < seconds:
    child = os.fork()
    if child == 0:
        save(f"{path}/{number}", number)
        os._exit(0)
    time.sleep(random.uniform(0, 1.5 * usual))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    number += 1
"""


def test_a_kill_at_any_moment_leaves_all_or_nothing(tmp_path: Path) -> None:
    run(KILL, str(tmp_path), "2")
    committed = [path for path in tmp_path.iterdir() if is_committed(path)]
    for path in committed:
        checkpoint, number = open_checkpoint(path), int(path.name)
        assert checkpoint.document("shared") == checkpoint.manifest.step == number
        found = checkpoint.read_many(checkpoint.names())
        assert len(found) == 6
        assert all((tensor.array == number).all() for tensor in found.values())
    torn = len(list(tmp_path.iterdir())) - len(committed)
    assert len(committed) > 3, "no child lived: the kills show nothing"
    assert torn > 3, "no child died halfway: the kills show nothing"
