"""Several processes write one checkpoint, and die at any moment: all or nothing is there.

The children fork: an interpreter each would be slow.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import zarr

from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import DocumentRecord, TensorRecord
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.writing import commit, is_committed
from resilient_nb.testing.faults import Watched
from tests import bit_flips, crash_points
from tests.unit.checkpoints import a_manifest, run

WRITE_AT_ONCE = """
import json, os, sys
import msgspec
import numpy as np
from resilient_nb.storage.hashing import digests
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.tree import TensorLeaf
from resilient_nb.storage.writing import Options, write_documents, write_part
store, ranks = LocalStore(sys.argv[1]), 4

def part(round, rank):
    names = [f"model/{i}" for i in range(rank, 24, ranks)] + [f"rank-{rank}/rng"]
    return {name: np.full((5, 7 + 80 * (i % 2)), 10 * round + rank) for i, name in enumerate(names)}

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
            to, arrays = f"r/{round:08d}-e1", part(round, rank)
            leaves = {name: TensorLeaf(array, None) for name, array in arrays.items()}
            options = Options(pack_bytes=1000)
            records = write_part(store, to, leaves, digests(arrays), rank=rank, options=options)
            documents = write_documents(store, to, {f"rank-{rank}": rank})
            body = msgspec.to_builtins([list(records.values()), list(documents.values())])
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
    store = LocalStore(tmp_path)
    for number, line in enumerate(run(WRITE_AT_ONCE, str(tmp_path)).splitlines()):
        tensors, documents = [], []
        for parts in json.loads(line):
            tensors += msgspec.convert(parts[0], list[TensorRecord])
            documents += msgspec.convert(parts[1], list[DocumentRecord])
        assert (len(tensors), len(documents)) == (28, 4)
        manifest = a_manifest(
            run="r",
            epoch=1,
            step=number,
            world_size=4,
            tensors=tuple(tensors),
            documents=tuple(documents),
        )
        commit(store, manifest)
        checkpoint = open_at(store, manifest.id)
        for rank in range(4):
            names = [f"rank-{rank}/rng", *(f"model/{i}" for i in range(rank, 24, 4))]
            for found in checkpoint.read_many(names).values():
                assert (found.array == 10 * number + rank).all()
        assert [checkpoint.document(f"rank-{rank}") for rank in range(4)] == [0, 1, 2, 3]
        nodes = zarr.open_group(store.path(manifest.id), mode="r").members(max_depth=None)
        # 5 groups and 1 for documents; of each rank 3 large tensors, and 2 packs.
        assert len(list(nodes)) == 6 + 4 + 4 * (3 + 2)


KILL = """
import os, random, signal, sys, time
import numpy as np
from resilient_nb.storage.hashing import digests
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.tree import TensorLeaf
from resilient_nb.storage.writing import (
    Options, commit, is_committed, write_documents, write_part)
store, seconds, random = LocalStore(sys.argv[1]), float(sys.argv[2]), random.Random(5)
options = Options(chunk_bytes=4096, pack_bytes=300)

def save(number):
    to = f"r/{number:08d}-e1"
    arrays = {f"model/{i}": np.full((40, 30 if i % 2 else 1), number, "i1") for i in range(6)}
    leaves = {name: TensorLeaf(array, None) for name, array in arrays.items()}
    tensors = tuple(write_part(store, to, leaves, digests(arrays), options=options).values())
    documents = tuple(write_documents(store, to, {"shared": number}).values())
    commit(store, Manifest(run="r", job="r#1", epoch=1, step=number, parent=None, world_size=1,
                           created_at=0.0, tensors=tensors, documents=documents))

began, usual, number, lived = time.monotonic(), 0.01, 0, 0
while time.monotonic() - began < seconds or not 3 < lived < number - 3:
    child = os.fork()
    if child == 0:
        save(number)
        os._exit(0)
    time.sleep(random.uniform(0, 2 * usual))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = is_committed(store, f"r/{number:08d}-e1")
    usual *= 0.8 if done else 1.25  # about half of them live
    lived, number = lived + done, number + 1
"""


def test_a_kill_at_any_moment_leaves_all_or_nothing(tmp_path: Path) -> None:
    run(KILL, str(tmp_path), "1.5")
    store = LocalStore(tmp_path)
    paths = list((tmp_path / "r").iterdir())
    committed = [path for path in paths if is_committed(store, f"r/{path.name}")]
    for path in committed:
        checkpoint = open_at(store, f"r/{path.name}")
        number = int(path.name[:8])
        assert checkpoint.document("shared") == checkpoint.manifest.step == number
        found = checkpoint.read_many(checkpoint.names())
        assert len(found) == 6
        assert all((tensor.array == number).all() for tensor in found.values())
    assert len(committed) > 3, "no child lived: the kills show nothing"
    # Many are killed before they have made a folder.
    assert len(paths) > len(committed), "no child died halfway: the kills show nothing"


def test_no_crash_point_tears_or_loses_anything() -> None:
    """A share of what `make crash` does."""
    tally = crash_points.run(150, seed=2)
    assert (tally.torn, tally.lost, tally.other) == ([], [], [])
    assert set(tally.points) == set(crash_points.KINDS)
    assert tally.acknowledged > 5
    assert {"mkdir", "open", "write", "close", "unlink", "syncfs"} <= tally.struck.keys()


@pytest.mark.parametrize(("owner", "name"), [
    (LocalStore, "flush"), (Watched, "fsync"), (Watched, "fsync_folder"),
])  # fmt: skip
def test_the_crash_points_notice_what_is_not_made_durable(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    monkeypatch.setattr(owner, name, lambda *_: None)
    tallies = (crash_points.run(30, seed=seed) for seed in range(10))
    assert any(tally.torn or tally.lost for tally in tallies)


def test_no_damage_goes_unnoticed() -> None:
    tally = bit_flips.run(60, seed=3)
    assert tally.missed == []
    assert set(tally.of) == {"chunk", "array", "group", "document", "manifest"}
    assert tally.said > 10
