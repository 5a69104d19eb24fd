"""Crash points of a checkpoint's commit: `make crash POINTS=10000`, or with a seed.

Each point is one system call of an attempt that writes a checkpoint, commits it, and has an older
one swept; there the process is killed, the call fails with EIO, the disk is full, or the power is
lost. Afterwards every checkpoint must be whole or not there, the one that was acknowledged must be
there, another attempt must succeed, and a sweep must leave what is needed and nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from resilient_nb.errors import CheckpointError
from resilient_nb.storage import local
from resilient_nb.storage.contents import contents, links
from resilient_nb.storage.disk import Disk
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest, TensorRecord
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.sweep import Standing, Sweeper
from resilient_nb.storage.tree import Json, TensorLeaf
from resilient_nb.storage.writing import (
    Options,
    commit,
    is_committed,
    write_documents,
    write_part,
)
from resilient_nb.testing.faults import (
    Call,
    Fault,
    FaultyDisk,
    RecordingDisk,
    Tree,
    crash,
    plant,
    planted,
)

POWER = "power loss"
KINDS = (*Fault, POWER)
OPTIONS = Options(chunk_bytes=16 << 10, pack_bytes=2 << 10, threads=1)
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Saved:
    """A checkpoint: what it is, and what must be read from it."""

    manifest: Manifest
    values: Arrays
    documents: dict[str, Json]

    @property
    def id(self) -> str:
        return self.manifest.id


def save(store: ObjectStore, saved: Saved, before: Saved | None) -> Saved:
    """Write and commit a checkpoint; return it with all that its manifest says."""
    manifest, records = saved.manifest, dict[str, TensorRecord]()
    found = {name: digest(array) for name, array in saved.values.items()}
    if before is not None:
        records = {t.name: t for t in before.manifest.tensors if found.get(t.name) == t.digest}
    leaves = {n: TensorLeaf(a, str(a.dtype)) for n, a in saved.values.items() if n not in records}
    records.update(write_part(store, manifest.id, leaves, found, options=OPTIONS))
    documents = write_documents(store, manifest.id, saved.documents)
    manifest = replace(
        manifest,
        tensors=tuple(records[name] for name in saved.values),
        documents=tuple(documents.values()),
    )
    commit(store, manifest)
    return replace(saved, manifest=manifest)


def problem(store: ObjectStore, saved: Saved, must: bool) -> str:
    """Return what is wrong with a checkpoint, "" if it is whole, or not there and needn't be."""
    if not is_committed(store, saved.id):
        return f"{saved.id} is lost" if must else ""
    try:
        checkpoint = open_at(store, saved.id)
        read = checkpoint.read_many(saved.values, threads=1)
        documents = {name: checkpoint.document(name) for name in saved.documents}
    except (CheckpointError, OSError) as error:
        return f"{saved.id} is torn: {error}"
    same = all(
        read[name].array.tobytes() == array.tobytes() and read[name].array.shape == array.shape
        for name, array in saved.values.items()
    )
    good = same and documents == saved.documents and checkpoint.names() == list(saved.values)
    return "" if good else f"{saved.id} is torn: other values"


class Scene:
    """Two checkpoints, and an attempt that is about to add a third and to sweep the first."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="crash-", dir=_memory()))
        try:
            store = LocalStore(self.folder, FaultyDisk())
            self.old = save(store, self._first(), None)
            self.last = save(store, self._next(self.old, 120, 1), self.old)
            self.new = self._next(self.last, 140, 2)
            self.retry = self._next(self.last, 140, 3)
            self.before: Tree = planted(self.folder)
        finally:
            shutil.rmtree(self.folder)

    def _first(self) -> Saved:
        shapes = {
            "model/big": (30, 300), "model/frozen": (7, 500), "model/bias": (40,),
            "optimizer/exp_avg": (30, 300), "optimizer/step": (), "rank-0/rng": (100,),
            "model/empty": (0, 3),
        }  # fmt: skip
        values = {name: self._random.random(shape, np.float32) for name, shape in shapes.items()}
        values = {name: np.asarray(array) for name, array in values.items()}
        return Saved(_empty(100, 1, None), values, {"shared": {"step": 100}, "rank-0": 100})

    def _next(self, last: Saved, step: int, epoch: int) -> Saved:
        """Return what follows: some tensors have changed, and some haven't."""
        values = dict(last.values)
        for name in values:
            if name != "model/frozen" and self._random.random() < 0.6:
                values[name] = np.asarray(self._random.random(values[name].shape, np.float32))
        values["optimizer/step"] = np.asarray(np.float32(step))
        documents: dict[str, Json] = {"shared": {"step": step}, "rank-0": [step, epoch]}
        return Saved(_empty(step, epoch, last.id), values, documents)

    def attempt(self, disk: Disk, told: Callable[[], None]) -> None:
        """Write the new checkpoint, say so, and sweep the oldest."""
        store = LocalStore(self.folder, disk)
        save(store, self.new, self.last)
        told()
        Sweeper(store).sweep(Standing(frozenset({self.last.id, self.new.id}), {"digits": (2, 140)}))

    def check(self, acknowledged: bool, old: bool) -> str:
        """Return what is wrong after a fault, "" if nothing is.

        Args:
            acknowledged: whether the attempt has said that its checkpoint is committed.
            old: whether the oldest checkpoint is whole if it is there at all.
        """
        disk = FaultyDisk()
        store = LocalStore(self.folder, disk)
        found = [
            problem(store, self.last, must=True),
            problem(store, self.new, must=acknowledged),
            problem(store, self.old, must=False) if old else "",
        ]
        if any(found):
            return "; ".join(filter(None, found))
        retry = save(store, self.retry, self.last)
        live = [self.last, retry]
        if acknowledged:
            live.append(replace(self.new, manifest=open_at(store, self.new.id).manifest))
        standing = Standing(frozenset(s.id for s in live), {"digits": (3, 140)})
        Sweeper(store).sweep(standing)
        found = [problem(store, saved, must=True) for saved in live]
        return "; ".join(filter(None, [*found, _leftover(store, live)]))


def _empty(step: int, epoch: int, parent: str | None) -> Manifest:
    return Manifest(
        run="digits", job="digits#1", epoch=epoch, step=step, parent=parent, world_size=1,
        created_at=float(epoch), tensors=(),
    )  # fmt: skip


def _leftover(store: ObjectStore, live: Sequence[Saved]) -> str:
    """Return what is there and isn't needed, or the other way round."""
    wanted = {f"{saved.id}/zarr.json" for saved in live}
    for saved in live:
        wanted |= contents(saved.manifest).keys() | links(saved.manifest).keys()
    there = {entry.key for entry in store.list()}
    extra, missing = sorted(there - wanted), sorted(wanted - there)
    text = f"debris is left: {extra[:3]}" if extra else ""
    return text + (f"the sweep took {missing[:3]}" if missing else "")


@dataclass
class Tally:
    """What came of the points."""

    points: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    torn: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def add(self, kind: str, call: str, acknowledged: bool, wrong: str) -> None:
        self.points[kind] += 1
        self.struck[call] += 1
        self.acknowledged += acknowledged
        if wrong:
            where = "torn" if "torn" in wrong else "lost" if "lost" in wrong else "other"
            getattr(self, where).append(f"{kind} at {call}: {wrong}")


def run(points: int, seed: int) -> Tally:
    """Try so many points, evenly of all kinds and at random calls."""
    usual = local.DIRECT_BYTES, local._BLOCK
    local.DIRECT_BYTES, local._BLOCK = 8 << 10, 8 << 10  # small tensors are large ones here
    try:
        return _run(points, seed)
    finally:
        local.DIRECT_BYTES, local._BLOCK = usual


def _run(points: int, seed: int) -> Tally:
    random, tally = Random(seed), Tally()
    made, scene, recorded = 0, Scene(seed), list[Call]()
    while made < points:
        if made % 500 == 0:
            scene = Scene(random.getrandbits(32))
            recorded = _recorded(scene)
        kind = KINDS[made % len(KINDS)]
        at = random.randint(1, len(recorded))
        made += 1
        try:
            if kind == POWER:
                _power(scene, recorded, at, random, tally)
            else:
                plant(scene.before, scene.folder)
                _fault(scene, Fault(kind), at, tally)
        finally:
            shutil.rmtree(scene.folder, ignore_errors=True)
    return tally


_TOLD = Call("told", ())


def _recorded(scene: Scene) -> list[Call]:
    """Return all calls of an attempt, and the moment at which it has told."""
    plant(scene.before, scene.folder)
    disk = RecordingDisk()
    scene.attempt(disk, lambda: disk.calls.append(_TOLD))
    shutil.rmtree(scene.folder)
    return disk.calls


def _power(scene: Scene, calls: list[Call], at: int, random: Random, tally: Tally) -> None:
    plant(crash(scene.before, scene.folder, calls[:at], random), scene.folder)
    acknowledged = _TOLD in calls[:at]
    # What is swept has no order on the disk: its manifest may be the last to go.
    wrong = scene.check(acknowledged, old=_TOLD not in calls[:at])
    tally.add(POWER, calls[at - 1].name, acknowledged, wrong)


def _fault(scene: Scene, fault: Fault, at: int, tally: Tally) -> None:
    disk, told = FaultyDisk(fault, at), list[str]()
    if fault is Fault.KILL:
        told = _killed(scene, disk)
        struck = "call"
    else:
        with suppress(OSError):
            scene.attempt(disk, lambda: told.append("told"))
        struck = disk.struck or "none"
    tally.add(fault, struck, bool(told), scene.check(bool(told), old=True))


def _killed(scene: Scene, disk: Disk) -> list[str]:
    """Have the attempt made by a process that doesn't survive it; return what it has told."""
    ears, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            scene.attempt(disk, lambda: os.write(mouth, b"told") and None)
        finally:
            os._exit(0)
    os.close(mouth)
    os.waitpid(child, 0)
    told = os.read(ears, 10)
    os.close(ears)
    return [told.decode()] if told else []


def _memory() -> str | None:
    """Where nothing has to be written to a disk, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.monotonic()
    tally = run(given.points, given.seed)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.points.items()))
    print(f"{given.points:,} points with seed {given.seed}: {counts}")
    calls = ", ".join(f"{count:,} {call}" for call, count in tally.struck.most_common())
    print(f"struck at: {calls}; {tally.acknowledged:,} after the checkpoint was acknowledged")
    for wrong in [*tally.torn, *tally.lost, *tally.other][:20]:
        print(f"  {wrong}")
    print(f"{time.monotonic() - began:.0f} s")
    others = f", {len(tally.other)} other failures" if tally.other else ""
    print(f"{len(tally.torn)} torn, {len(tally.lost)} acknowledged lost{others}")
    return 1 if tally.torn or tally.lost or tally.other else 0


if __name__ == "__main__":
    sys.exit(main())
