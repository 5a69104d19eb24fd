"""What tests of `diff`, `checkpoints` and `load` share."""

from __future__ import annotations

from typing import Any

from resilient_nb.core.recorded import (
    CellRecord,
    ConfigRecord,
    DataRecord,
    EnvironmentRecord,
    LoopRecord,
    Recorded,
)
from resilient_nb.core.views import CheckpointView
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.wire.codec import plain

#: What a checkpoint says of where it comes from, and how its manifest has it.
RECORD = Recorded(
    CellRecord("a = 1\nb = 2\n", "In [1]", "aa", {"Cell In[3]": "ff"}),
    ConfigRecord(2, 2, 0, "20 steps", loops=(LoopRecord(0, "batches", 30, 6, True, False),)),
    (DataRecord(0, "TensorDataset", 210, "0123"),),
    {"python": "3.11", "torch": "2.13"},
    {"cpu": "AVX2"},
    EnvironmentRecord("node-1", "EPYC", 2, "Linux"),
)
INFO: dict[str, Any] = {"position": {"loop": 0}, **plain(RECORD)}


class Counting:
    """A store that counts the bytes of chunks that are read."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.url, self.block, self.threads = store.url, store.block, store.threads
        self.count = 0
        self.keys: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str) -> bytes:
        data = self._store.read(key)
        self._note(key, len(data))
        return data

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        self._note(key, len(view))
        return self._store.read_into(key, offset, view)

    def _note(self, key: str, count: int) -> None:
        if not key.endswith("zarr.json"):
            self.count += count
            self.keys.append(key)


def a_view(manifest: Manifest) -> CheckpointView:
    return CheckpointView(
        ref=f"{manifest.run}@{manifest.step}", run=manifest.run, step=manifest.step, at=1e9,
        nbytes=sum(t.nbytes for t in manifest.tensors), digest=f"{manifest.step:032x}",
        parent=manifest.parent, id=manifest.id, path=f"/store/{manifest.id}",
    )  # fmt: skip
