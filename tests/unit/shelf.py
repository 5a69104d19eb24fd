"""What tests of `rank.state` and below share: a gang of one that saves, and restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from resilient_nb.core.names import checkpoint_id
from resilient_nb.rank.saver import Request, Saver
from resilient_nb.rank.snapshot import Snapshot
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.writer import Writer, WriterHere
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.testing.builders import an_attempt

POSITION = {"loop": 0, "epoch": 1, "batch": 2}


class Shelf:
    """Writes snapshots as the saver of a gang of one does, and opens them."""

    def __init__(
        self,
        folder: Path,
        writer: Writer | None = None,
        job: str = "digits#1",
        start: Manifest | None = None,
    ) -> None:
        self.sent: list[Any] = []
        self.notes: list[str] = []
        self.folder = folder
        start_id = start.id if start else None
        self.attempt = an_attempt(job, store=str(folder), start_id=start_id)
        self.saver = Saver(
            self.attempt, 0, dist.HashStore(), self.sent.append, self.notes.append,
            writer or WriterHere(), start,
        )  # fmt: skip

    def try_to_write(self, snapshot: Snapshot, step: int = 20) -> str | None:
        """Return why it failed, None if it didn't."""
        self.saver.write(Request(step, POSITION, snapshot, {"loss": 0.5}, None))
        self.saver.wait()
        return self.saver.failed

    def write(self, snapshot: Snapshot, step: int = 20) -> Stored:
        assert self.try_to_write(snapshot, step) is None
        return Stored(open_checkpoint(self.path(step)), 0)

    def path(self, step: int = 20) -> Path:
        return self.folder / "runs" / checkpoint_id(self.attempt.run, step, 1)


def a_tracker(namespace: dict[str, Any] | None = None, notes: list[str] | None = None) -> Tracker:
    said: list[str] = [] if notes is None else notes
    return Tracker(0, {} if namespace is None else namespace, said.append)


def tracking(**objects: Any) -> Tracker:
    """Return a tracker of these objects."""
    tracker = a_tracker()
    for name, value in objects.items():
        tracker.add(name, value)
    return tracker
