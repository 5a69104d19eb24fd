"""Making a checkpoint of what another program wrote: the first of a run that no job has begun."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from resilient_nb.core.model import Checkpoint
from resilient_nb.core.names import check_name, checkpoint_id
from resilient_nb.core.places import Place, is_url, sub_folder
from resilient_nb.errors import CheckpointError, InvalidRequest
from resilient_nb.interchange.files import Wanted, read
from resilient_nb.rank.tensors import check_storable, map_tensors, to_leaf, where_is
from resilient_nb.storage.claim import owner
from resilient_nb.storage.encoding import codecs_of, key_of
from resilient_nb.storage.keys import encrypting_key
from resilient_nb.storage.manifest import Manifest, TensorRecord, checkpoint_of
from resilient_nb.storage.objects import ObjectStore, join
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.tree import Json, TensorLeaf, flatten
from resilient_nb.storage.writing import Options, commit, write_documents, write_part
from resilient_nb.storage.zarr3 import GROUP

#: More failed imports of one name than that are hardly left by accident.
_MOST_TRIES = 1000


@dataclass(frozen=True)
class Target:
    """Where an import goes: its run, the step that it counts as, and the store of runs."""

    run: str
    step: int
    runs: ObjectStore


def write_import(path: Path, target: Target, wanted: Wanted, compress: str = "") -> Checkpoint:
    """Write what a file holds to the store as a checkpoint; the journal doesn't know it yet.

    Args:
        path: a .safetensors or .pt file, or a folder of torch.distributed.checkpoint.
        target: where it goes.
        wanted: what of the file.
        compress: "" or `zstd[:LEVEL]`.

    Raises:
        InvalidRequest: the file may not be read, or the names can't be.
        CheckpointError: it can't be read, or holds what checkpoints can't.
        OSError: of the store. Nothing stays behind.
    """
    check_name(target.run)
    state = _flat(read(path, wanted))
    identity, epoch = _claim(target)
    try:
        return _write(state, target, identity, epoch, path, compress)
    except BaseException:
        discard(target.runs, identity)
        raise


def open_runs(store: Place, cluster_id: str) -> ObjectStore:
    """Return the cluster's store of runs.

    Raises:
        CheckpointError: what is there from here isn't that store.
    """
    found = owner(open_store(store))
    if found != cluster_id and (found or not is_url(store)):
        raise CheckpointError(
            f"The store of the cluster, {store}, can't be seen from here. Import on a machine "
            "that shares it with the cluster."
        )
    return open_store(sub_folder(store, "runs"))


def discard(runs: ObjectStore, identity: str) -> None:
    """Remove an import that came to nothing."""
    found = sorted(entry.key for entry in runs.list(identity))
    manifest = join(identity, "zarr.json")  # first: half of it must not look whole
    runs.delete([manifest, *(key for key in found if key != manifest)])


def _claim(target: Target) -> tuple[str, int]:
    """Take a folder that nobody has: others may import under this name, or have tried to."""
    for epoch in count(1):
        identity = checkpoint_id(target.run, target.step, epoch)
        try:
            target.runs.create(join(identity, "state", "zarr.json"), GROUP)
            return identity, epoch
        except FileExistsError:
            if epoch >= _MOST_TRIES:
                break
    raise InvalidRequest(
        f"{_MOST_TRIES} imports under the name {target.run} have failed: import under another."
    )


@dataclass(frozen=True)
class _Flat:
    """States as documents and tensors; `tied` names those that are other ones."""

    documents: Mapping[str, Json]
    leaves: Mapping[str, TensorLeaf]
    tied: Mapping[str, str]


def _flat(states: Mapping[str, Any]) -> _Flat:
    documents: dict[str, Json] = {}
    leaves: dict[str, TensorLeaf] = {}
    memory: dict[int, Any] = {}  # by leaf, what memory its tensor has
    for name, state in states.items():

        def stand_in(tensor: torch.Tensor, name: str = name, state: Any = state) -> TensorLeaf:
            check_storable(tensor, lambda: where_is(tensor, state, name))
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            leaf = to_leaf(plain)
            if tensor.numel():
                memory[id(leaf)] = (
                    tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device,
                )  # fmt: skip
            return leaf

        documents[name], found = flatten(map_tensors(state, stand_in), name)
        leaves.update(found)
    firsts: dict[Any, str] = {}
    tied = {}
    for name, leaf in leaves.items():
        first = firsts.setdefault(memory.get(id(leaf), name), name)
        if first != name:
            tied[name] = first
    return _Flat(documents, leaves, tied)


def _write(
    state: _Flat, target: Target, identity: str, epoch: int, path: Path, compress: str
) -> Checkpoint:
    own = {name: leaf for name, leaf in state.leaves.items() if name not in state.tied}
    options = Options(codecs=codecs_of(compress, encrypting_key()))
    records = write_part(target.runs, identity, own, options=options)
    tied: dict[str, TensorRecord] = {
        name: replace(records[first], name=name, tied=first) for name, first in state.tied.items()
    }
    key_id = key_of(options.codecs)
    # As of a rank that has nothing of its own.
    mine: Json = {"state": {"dict": {"plain": {"dict": {}}}}}
    documents = {"shared": dict(state.documents), "rank-0": mine}
    written = write_documents(target.runs, identity, documents, key_id)
    manifest = Manifest(
        run=target.run,
        job="",
        epoch=epoch,
        step=target.step,
        parent=None,
        world_size=1,
        created_at=time.time(),
        tensors=tuple(sorted((*records.values(), *tied.values()), key=lambda t: t.name)),
        documents=tuple(written.values()),
        info={"imported": path.name.encode(errors="replace").decode()},
        key_id=key_id,
    )
    commit(target.runs, manifest)
    return checkpoint_of(manifest)
