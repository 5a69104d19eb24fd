"""Small checkpoints for tests of `storage`: tensors, documents, and how they are saved."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import resilient_nb.storage
from resilient_nb.storage.hashing import digests
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest, TensorRecord
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.tree import Json, TensorLeaf
from resilient_nb.storage.writing import Options, commit, write_documents, write_part

#: Single-threaded, since their children fork.
HERE = {
    **os.environ,
    "PYTHONPATH": str(Path(resilient_nb.storage.__file__).parents[2]),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
#: What is no more than 64 bytes shares arrays; what is more than 1,000 has several chunks.
OPTIONS = Options(chunk_bytes=1000, pack_bytes=65, threads=1)
IDENTITY = "digits/00000120-e3"


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> npt.NDArray[Any]:
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return np.asarray(values).astype(dtype)


def leaf(array: npt.NDArray[Any], torch_dtype: str | None = None) -> TensorLeaf:
    return TensorLeaf(array, torch_dtype)


LEAVES = {
    "model/0.weight": leaf(numbers((16, 3, 3)), "float32"),
    "model/0.bias": leaf(numbers((16,), "uint16"), "bfloat16"),
    "model/1.bias": leaf(numbers((9,), "uint16", 1), "bfloat16"),
    "optimizer/state.0.step": leaf(numbers(()), "float32"),
    "rank-0/rng": leaf(numbers((4,), "uint32")),
}
DOCUMENTS: dict[str, Json] = {"shared": {"dict": {"lr": 0.1}}, "rank-0": {"tensor": "rank-0/rng"}}


def written(
    store: ObjectStore,
    identity: str,
    leaves: Mapping[str, TensorLeaf],
    options: Options = OPTIONS,
    rank: int = 0,
) -> dict[str, TensorRecord]:
    """Write a part; return its records."""
    found = digests({name: leaf.array for name, leaf in leaves.items()})
    return write_part(store, identity, leaves, found, rank=rank, options=options)


def a_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        run="digits",
        job="digits#2",
        epoch=3,
        step=120,
        parent="digits/00000100-e2",
        world_size=1,
        created_at=1.5,
        tensors=(),
    )
    return replace(manifest, **changes)


def save(
    store: ObjectStore,
    leaves: Mapping[str, TensorLeaf] = LEAVES,
    documents: Mapping[str, Json] = DOCUMENTS,
    *,
    kept: Mapping[str, TensorRecord] | None = None,
    options: Options = OPTIONS,
    **changed: Any,
) -> Manifest:
    """Commit a checkpoint with these tensors, and some that earlier ones have."""
    manifest = a_manifest(**changed)
    records = {**written(store, manifest.id, leaves, options), **(kept or {})}
    found = write_documents(store, manifest.id, documents, manifest.key_id)
    manifest = replace(
        manifest, tensors=tuple(records.values()), documents=tuple(found.values()), **changed
    )
    commit(store, manifest)
    return manifest


def opened(folder: Path, identity: str = IDENTITY) -> Checkpoint:
    return open_at(LocalStore(folder), identity)


def assert_equal(found: TensorLeaf, wanted: TensorLeaf) -> None:
    """Compare two tensors bit for bit."""
    assert found.torch_dtype == wanted.torch_dtype
    assert found.array.dtype == wanted.array.dtype.newbyteorder("=")
    assert found.array.shape == wanted.array.shape
    plain = np.asarray(wanted.array, wanted.array.dtype.newbyteorder("="))
    assert found.array.tobytes() == plain.tobytes()


def run(script: str, *arguments: str, isolated: bool = False) -> str:
    """Run a script in a process of its own, where any warning is an error."""
    flags = ["-I", "-W", "error"] if isolated else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", script, *arguments],
        env=HERE,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
