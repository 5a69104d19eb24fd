"""Saving and loading with nothing else running: ours, and everybody's.

Saves are timed from the call until everything is durable, loads until the values are in a live
model's and optimizer's own tensors, which exist already. Ours is what a rank's writer does: digests
of all tensors, the files of those that have changed, the documents, the commit; and what `load`
does, with every byte verified.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from checkpoint_loop import Training
from checkpoint_peers import SAVES, sync, tensors
from resilient_nb.loading import State
from resilient_nb.rank.tensors import map_tensors, to_leaf
from resilient_nb.storage.hashing import digests
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.storage.tree import Json, TensorLeaf, flatten
from resilient_nb.storage.writing import commit, write_documents, write_part

OURS, DELTA, PARTIAL = "resilient_nb", "resilient_nb, 5 % changed", "resilient_nb, 1 % of the bytes"
MMAP = "torch.load(mmap=True)"
CHANGED, PART = 0.05, 0.01
SMALL_COUNT, SMALL_BYTES = 2000, 64 << 10

#: Seconds of each round, by what was timed.
Times = dict[str, list[float]]


# --- our side -------------------------------------------------------------------------------


def leaves_of(state: Mapping[str, Any]) -> tuple[dict[str, Json], dict[str, TensorLeaf]]:
    """Return documents and leaves, as a rank makes them; nothing is copied."""
    documents: dict[str, Json] = {}
    leaves: dict[str, TensorLeaf] = {}
    for name, value in state.items():
        documents[name], found = flatten(map_tensors(value, to_leaf), name)
        leaves |= found
    return documents, leaves


def save_ours(
    store: LocalStore, step: int, state: Mapping[str, Any], base: Manifest | None = None
) -> Manifest:
    """Save what differs from `base`; return the committed manifest."""
    documents, leaves = leaves_of(state)
    found, kept = None, {}
    if base is not None:
        found = digests({name: leaf.array for name, leaf in leaves.items()})
        kept = {t.name: t for t in base.tensors if found.get(t.name) == t.digest}
    manifest = Manifest(
        run="bench", job="bench#1", epoch=1, step=step, parent=base.id if base else None,
        world_size=1, created_at=time.time(), tensors=(),
    )  # fmt: skip
    new = {name: leaf for name, leaf in leaves.items() if name not in kept}
    records = {**kept, **write_part(store, manifest.id, new, found, kept=kept.values())}
    done = write_documents(store, manifest.id, {"shared": documents})
    filled = {"tensors": tuple(records[n] for n in leaves), "documents": tuple(done.values())}
    manifest = Manifest(**{**vars(manifest), **filled})
    commit(store, manifest)
    return manifest


def load_ours(path: str, training: Training) -> None:
    """Read a checkpoint right into the training's own tensors."""
    state = State(open_checkpoint(path))
    state.read("model", training.model)
    state.read("optimizer", training.optimizer)


def load_part(path: str, targets: Mapping[str, TensorLeaf]) -> None:
    """Read some tensors into arrays that exist."""
    open_checkpoint(path).read_into({name: leaf.array for name, leaf in targets.items()})


def share(leaves: Mapping[str, TensorLeaf], fraction: float) -> dict[str, TensorLeaf]:
    """Choose whole tensors that together make this fraction of the bytes, large ones first."""
    left = fraction * sum(leaf.array.nbytes for leaf in leaves.values())
    chosen = {}
    for name, leaf in sorted(leaves.items(), key=lambda item: -item[1].array.nbytes):
        if leaf.array.nbytes <= left:
            chosen[name] = leaf
            left -= leaf.array.nbytes
    return chosen


# --- timing ---------------------------------------------------------------------------------


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes, with the disk idle before."""
    os.sync()
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rotated(names: Iterable[str], number: int) -> list[str]:
    """Return the names in an order that differs by round."""
    names = list(names)
    at = number % len(names)
    return names[at:] + names[:at]


@dataclass
class Saves:
    """Times of saving one state, and the sizes of what we wrote."""

    nbytes: int
    times: Times = field(default_factory=dict)
    full_bytes: int = 0
    delta_bytes: int = 0


def saves(folder: Path, state: Mapping[str, Any], rounds: int, delta: bool) -> Saves:
    """Time everybody's saves of a state, in an order that changes from round to round."""
    found = Saves(sum(t.nbytes for t in tensors(state)))
    for number in range(rounds):
        for name in rotated([*SAVES, OURS], number):
            place = folder / "save"
            place.mkdir()
            if name == OURS:
                _save_both(place, state, found, delta)
            else:
                seconds = timed(lambda n=name, p=place: SAVES[n](p / "state", state))
                found.times.setdefault(name, []).append(seconds)
            shutil.rmtree(place)
    return found


def _save_both(place: Path, state: Mapping[str, Any], found: Saves, delta: bool) -> None:
    """Time a save of ours and then one of the state with 5 % of its bytes changed."""
    store = LocalStore(place)
    made: list[Manifest] = []
    seconds = timed(lambda: made.append(save_ours(store, 1, state)))
    found.times.setdefault(OURS, []).append(seconds)
    found.full_bytes = folder_bytes(place / made[0].id)
    if not delta:
        return
    for leaf in share(leaves_of(state)[1], CHANGED).values():
        leaf.array[...] += 1
    seconds = timed(lambda: made.append(save_ours(store, 2, state, made[0])))
    found.times.setdefault(DELTA, []).append(seconds)
    found.delta_bytes = folder_bytes(place / made[1].id)


def small_state() -> dict[str, Any]:
    """Return 2,000 tensors of 64 KiB."""
    torch.manual_seed(0)
    return {"model": {f"t{n}": torch.randn(SMALL_BYTES // 4) for n in range(SMALL_COUNT)}}


def loads(folder: Path, training: Training, rounds: int) -> tuple[Times, Times, str]:
    """Time loads with a warm and with a cold page cache; say how it was made cold."""
    place = folder / "load"
    store = LocalStore(place)
    state = training.state()
    path = f"{place}/{save_ours(store, 1, state).id}"
    file = place / "state.pt"
    torch.save(state, file)
    targets = share(leaves_of(state)[1], PART)
    calls: dict[str, Callable[[], None]] = {
        OURS: lambda: load_ours(path, training),
        MMAP: lambda: load_mmap(file, state),
        PARTIAL: lambda: load_part(path, targets),
    }
    wanted = [t.clone() for t in tensors(state)]
    warm: Times = {}
    cold: Times = {}
    how = ""
    for number in range(rounds):
        for name in rotated(calls, number):
            for times, is_cold in ((cold, True), (warm, False)):
                if is_cold:
                    how = forget(place)
                if name != PARTIAL:
                    torch._foreach_zero_(list(tensors(state)))
                times.setdefault(name, []).append(timed(calls[name]))
                _compare(list(tensors(state)), wanted, name)
    shutil.rmtree(place)
    return warm, cold, how


def load_mmap(file: Path, state: Mapping[str, Any]) -> None:
    """Copy into tensors that exist what `torch.load` has mapped."""
    loaded = torch.load(file, mmap=True, weights_only=True)
    with torch.no_grad():
        torch._foreach_copy_(list(tensors(state)), list(tensors(loaded)))


def _compare(found: list[torch.Tensor], wanted: list[torch.Tensor], name: str) -> None:
    if not all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)):
        raise RuntimeError(f"{name} has loaded other values than were saved.")


# --- the disk -------------------------------------------------------------------------------


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; links don't count."""
    files = (path for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(path.stat().st_size for path in files)


def forget(folder: Path) -> str:
    """Have the page cache forget the files below a folder; return how."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            sync(path)
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return "posix_fadvise(DONTNEED) on each file"
    return "posix_fadvise(DONTNEED) on each file and /proc/sys/vm/drop_caches"
