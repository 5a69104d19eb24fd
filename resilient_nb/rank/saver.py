"""Writing checkpoints beside training: a thread per rank, one checkpoint at a time.

Each rank compares digests with the others through the store. What is equal on all ranks
(with averaged gradients, nearly everything) is divided over them by size; what differs (say
BatchNorm's running statistics) each rank writes for itself. Rank 0 then writes the manifest
and reports; the journal's commit makes it a checkpoint.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import zarr
from torch.distributed import Store  # type: ignore[attr-defined]

from resilient_nb.core.model import Checkpoint
from resilient_nb.core.names import checkpoint_id
from resilient_nb.rank.state import Snapshot
from resilient_nb.storage.checkpoints import (
    Manifest,
    TensorRecord,
    checkpoint_digest,
    commit,
    digest,
    write_documents,
    write_part,
)
from resilient_nb.storage.tree import Json, TensorLeaf
from resilient_nb.wire.codec import from_json, to_json
from resilient_nb.wire.orders import Attempt, CheckpointWritten

#: How long the writers of one checkpoint wait for each other.
_PATIENCE = timedelta(seconds=120)


@dataclass(frozen=True)
class Request:
    """One checkpoint to write."""

    step: int
    position: dict[str, int]
    snapshot: Snapshot
    metrics: dict[str, float]
    tag: str | None
    scaling: dict[str, Json] | None = None  # how the batch has grown, if it does


class Saver:
    """Writes one checkpoint at a time, in its own thread."""

    def __init__(
        self,
        attempt: Attempt,
        rank: int,
        store: Store,
        send: Callable[[object], None],
        note: Callable[[str], None],
    ) -> None:
        self._attempt = attempt
        self._rank = rank
        self._world = attempt.world_size
        self._send = send
        self._note = note
        # A connection of its own: waiting on one blocks every other use of it.
        self._store = store.clone() if self._world > 1 else store  # type: ignore[attr-defined]
        self._parent = attempt.start_id
        self._last: Checkpoint | None = None
        self._thread: threading.Thread | None = None
        self._answered = threading.Condition()
        self._answers: dict[int, bool] = {}
        self.failed: str | None = None

    def write(self, request: Request) -> None:
        """Begin to write; waits for the one before."""
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(request,), name="resilient_nb checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def tag_last(self, step: int, tag: str) -> None:
        """Tag the checkpoint of `step`, which was the last to be written."""
        self.wait()
        if self._last is not None and self._last.step == step:
            self._send(CheckpointWritten(self._last, tag))

    def answered(self, step: int, accepted: bool) -> None:
        """The journal has accepted or refused a checkpoint."""
        with self._answered:
            self._answers[step] = accepted
            self._answered.notify_all()

    def wait_for_commit(self, step: int) -> None:
        """Wait until the journal has answered for `step` (however long it is away)."""
        self.wait()
        if self.failed is not None:
            return
        with self._answered:
            self._answered.wait_for(lambda: step in self._answers)

    # --- in the thread ------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        try:
            self._write(request)
            self.failed = None
        except Exception as error:
            # Training goes on: the last committed checkpoint still stands.
            self.failed = f"The checkpoint at step {request.step} failed: {error}"
            self._note(self.failed)

    def _write(self, request: Request) -> None:
        attempt, snapshot, rank = self._attempt, request.snapshot, self._rank
        path = Path(attempt.store, "runs", checkpoint_id(attempt.run, request.step, attempt.epoch))
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        mine, own = self._share(request)
        records = write_part(path, {**mine, **snapshot.own_leaves})
        part = {"records": [asdict(r) for r in records.values()], "own": own}
        parts = self._gather(f"{request.step}/part", part, to_all=False)
        if rank != 0:
            return
        self._forget(request.step)
        documents: dict[str, Json] = {"shared": dict(snapshot.documents)}
        documents.update({f"rank-{n}": parts[n]["own"] for n in range(self._world)})
        manifest = self._manifest(request, parts, write_documents(path, documents).values())
        commit(path, manifest)
        checkpoint = Checkpoint(
            id=checkpoint_id(attempt.run, request.step, attempt.epoch),
            run=attempt.run,
            job=attempt.job,
            epoch=attempt.epoch,
            step=request.step,
            parent=self._parent,
            digest=checkpoint_digest(manifest),
            nbytes=sum(t.nbytes for t in manifest.tensors),
            at=manifest.created_at,
            metrics=request.metrics,
        )
        self._parent, self._last = checkpoint.id, checkpoint
        self._send(CheckpointWritten(checkpoint, request.tag))

    def _share(self, request: Request) -> tuple[dict[str, TensorLeaf], dict[str, Json]]:
        """Return the tensors that this rank writes, and its own document."""
        snapshot, rank = request.snapshot, self._rank
        own: dict[str, Json] = dict(snapshot.own_document)
        if self._world == 1:
            return dict(snapshot.leaves), own
        digests = {name: digest(leaf.array) for name, leaf in snapshot.leaves.items()}
        seen = {"tensors": digests, "documents": snapshot.documents}
        views = self._gather(f"{request.step}/digest", seen, to_all=True)
        first = views[0]
        equal = [
            name
            for name, value in first["tensors"].items()
            if all(view["tensors"].get(name) == value for view in views)
        ]
        sizes = {name: snapshot.leaves[name].array.nbytes for name in equal}
        mine = {n: snapshot.leaves[n] for n in _divide(sizes, self._world)[rank]}
        apart = [n for n in snapshot.leaves if n not in sizes]
        if rank == 0:
            mine.update({name: snapshot.leaves[name] for name in apart})
        else:
            apart = [n for n in apart if first["tensors"].get(n) != digests[n]]
            mine.update({f"rank-{rank}/{n}": snapshot.leaves[n] for n in apart})
            own["tensors"] = list(apart)
            own["documents"] = {
                name: document
                for name, document in snapshot.documents.items()
                if first["documents"].get(name) != document
            }
        return mine, own

    def _gather(self, name: str, value: Any, to_all: bool) -> list[Any]:
        """Exchange plain values over ranks; only rank 0 gets them unless `to_all`."""
        if self._world == 1:
            return [value]
        keys = [f"checkpoint/{name}/{rank}" for rank in range(self._world)]
        self._store.set(keys[self._rank], to_json(value).decode())
        if self._rank != 0 and not to_all:
            return []
        try:
            self._store.wait(keys, _PATIENCE)
        except dist.DistStoreError as error:
            raise TimeoutError(
                "another rank didn't take part; call run.checkpoint on every rank"
            ) from error
        return [from_json(self._store.get(key)) for key in keys]

    def _forget(self, step: int) -> None:
        """Drop what was exchanged: every rank has read it, or it would not have sent its part."""
        if self._world > 1:
            for rank in range(self._world):
                self._store.delete_key(f"checkpoint/{step}/digest/{rank}")
                self._store.delete_key(f"checkpoint/{step}/part/{rank}")

    def _manifest(self, request: Request, parts: list[Any], documents: Any) -> Manifest:
        attempt = self._attempt
        tensors = [
            TensorRecord(**{**r, "shape": tuple(r["shape"])}) for p in parts for r in p["records"]
        ]
        info: dict[str, Json] = {"position": {**request.position}, "numerics": {**numerics()}}
        if request.scaling is not None:
            info["scaling"] = request.scaling
        return Manifest(
            run=attempt.run,
            job=attempt.job,
            epoch=attempt.epoch,
            step=request.step,
            parent=self._parent,
            tensors=tuple(sorted(tensors, key=lambda t: t.name)),
            documents=tuple(documents),
            world_size=self._world,
            created_at=time.time(),
            metrics=request.metrics,
            info=info,
        )


def numerics() -> dict[str, str]:
    """Return what must be equal for a resumed run to compute the same bits."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "zarr": zarr.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "",
    }


def _divide(sizes: dict[str, int], ranks: int) -> list[list[str]]:
    """Divide names over ranks so that bytes are even: largest first, to the emptiest."""
    shares: list[list[str]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for name in sorted(sizes, key=lambda n: (-sizes[n], n)):
        least = load.index(min(load))
        shares[least].append(name)
        load[least] += sizes[name]
    return shares
