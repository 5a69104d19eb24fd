"""A home whose journal speaks of checkpoints that are really in its store."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resilient_nb.core import events as ev
from resilient_nb.core.names import checkpoint_id
from resilient_nb.core.world import World
from resilient_nb.storage.claim import claim
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.storage.manifest import Manifest, TensorRecord
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.stores import blob_key, open_store, out_key
from resilient_nb.storage.tree import TensorLeaf
from resilient_nb.storage.writing import Options, commit, write_documents, write_part
from resilient_nb.testing.builders import START, Story
from resilient_nb.testing.fakes import fake_settings

OPTIONS = Options(chunk_bytes=64 << 10, pack_bytes=8 << 10)
Arrays = dict[str, npt.NDArray[Any]]


class StoredHome:
    """The home of a cluster that has trained. What it does is journaled at once."""

    def __init__(self, folder: Path, cluster_id: str = "c0ffee", **changes: Any) -> None:
        self.settings = fake_settings(folder, **changes)
        self.store = open_store(self.settings.store)
        self.runs = open_store(self.settings.runs)
        self.story = Story()
        self._recorded = 0
        self._manifests: dict[str, Manifest] = {}
        self._random = np.random.default_rng(0)
        self.values: dict[str, Arrays] = {}
        self.story.then(ev.ClusterCreated(START, cluster_id))
        claim(self.store, cluster_id)
        self.record()

    @property
    def world(self) -> World:
        return self.story.world

    def record(self) -> None:
        """Journal what happened since the last time."""
        with closing(SqliteJournal(self.settings.journal)) as journal:
            journal.append(self.story.events[self._recorded :])
            journal.records.write([("digits#1", "loss", self._recorded, 0.5)])
        self._recorded = len(self.story.events)

    def train(self, *steps: int, run: str = "digits", captured_by: str = "", **spec: Any) -> None:
        """Submit a job that captured something and takes checkpoints, and leave it running."""
        captured = pickle.dumps(f"captured by {captured_by or run}")
        name = hashlib.sha256(captured).hexdigest()
        self.store.put(blob_key(name), [captured])
        self.story.submit(run, captured=name, **spec).start(run)
        self.go_on(*steps, run=run)

    def go_on(self, *steps: int, run: str = "digits") -> None:
        """Take more checkpoints."""
        for step in steps:
            self._write(run, step)
            self.story.checkpoint(step, run)
        self.record()

    def finish(self, run: str = "digits") -> None:
        """Let the job succeed; it returns something."""
        job = self.story.job(run)
        self.story.succeed(run, returned=("model",))
        self.store.put(out_key(run, job.number), [pickle.dumps(f"returned by {job.id}")])
        self.record()

    def _write(self, run: str, step: int) -> None:
        """Write a checkpoint; of what the one before had, half is as it was."""
        parent = self.world.runs[run].head
        identity = checkpoint_id(run, step, self.story.job(run).epoch)
        arrays = dict(self.values[parent]) if parent else self._first()
        for name in ("model/weight", "optimizer/a"):
            arrays[name] = self._random.random(arrays[name].shape, np.float32)
        leaves = {n: TensorLeaf(a, str(a.dtype)) for n, a in arrays.items()}
        digests = {name: digest(array) for name, array in arrays.items()}
        known = {r.name: r for r in self._manifests[parent].tensors} if parent else {}
        kept = {n: r for n, r in known.items() if r.digest == digests[n]}
        new = {name: leaf for name, leaf in leaves.items() if name not in kept}
        written = write_part(self.runs, identity, new, digests, options=OPTIONS)
        documents = write_documents(self.runs, identity, {"shared": {"step": step}})
        records: dict[str, TensorRecord] = {**kept, **written}
        manifest = Manifest(
            run=run, job=self.story.job(run).id, epoch=self.story.job(run).epoch, step=step,
            parent=parent, world_size=1, created_at=START + step,
            tensors=tuple(records[name] for name in arrays), documents=tuple(documents.values()),
        )  # fmt: skip
        commit(self.runs, manifest)
        self._manifests[identity], self.values[identity] = manifest, arrays

    def _first(self) -> Arrays:
        shapes = {
            "model/frozen": (50, 1000), "model/weight": (40, 1000), "optimizer/a": (500,),
            "optimizer/b": (700,), "optimizer/empty": (0,),
        }  # fmt: skip
        return {name: self._random.random(shape, np.float32) for name, shape in shapes.items()}

    def drop(self, *identities: str, run: str = "digits") -> None:
        """Drop checkpoints, and remove from the store what nothing refers to any more."""
        self.story.then(ev.CheckpointsDropped(self.story.now, run, identities))
        self.record()
        for identity in identities:
            needed = {
                f"{at}/{key}/"
                for name, manifest in self._manifests.items()
                if name not in identities
                for at, key in manifest.arrays
            }
            self.runs.delete(
                entry.key
                for entry in list(self.runs.list(identity))
                if not any(entry.key.startswith(array) for array in needed)
            )

    def check(self, runs: ObjectStore | None = None, *but: str) -> None:
        """Compare every checkpoint of a store of runs with what was trained."""
        for run in self.world.runs.values():
            for identity in run.checkpoints:
                if identity not in but:
                    found = open_at(runs or self.runs, identity).read_many(self.values[identity])
                    for name, array in self.values[identity].items():
                        np.testing.assert_array_equal(found[name].array, array)

    def elsewhere(self, folder: Path) -> StoredHome:
        """Return the same cluster with another home, which is as it is."""
        other = object.__new__(StoredHome)
        other.__dict__.update({k: copy(v) for k, v in self.__dict__.items()})
        other.story.events = list(self.story.events)
        other.settings = fake_settings(folder)
        other.store = open_store(other.settings.store)
        other.runs = open_store(other.settings.runs)
        return other

    def moved(self, folder: Path) -> StoredHome:
        """Return the same cluster with a copy of its home."""
        shutil.copytree(self.settings.home, folder, symlinks=True)
        return self.elsewhere(folder)


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, but for links."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if path.resolve() == path.absolute()
    }
