"""`rank.writer` and what the saver makes of it: a process that may die, or find the disk full."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from resilient_nb.errors import CannotStore, InvalidRequest
from resilient_nb.rank.saver import Request, Saver
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.writer import WriterHere, WriterProcess
from resilient_nb.storage.disk import Disk
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.orders import CheckpointFailed, CheckpointWritten
from tests.unit.checkpoints import HERE, a_manifest
from tests.unit.shelf import POSITION, Shelf, tracking

PATIENCE = 20.0


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is so; return what it gives."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.002)
    return found


@pytest.fixture
def writer(full_disk: Path) -> Iterator[WriterProcess]:
    writer = WriterProcess()
    yield writer
    os.kill(writer.pid, signal.SIGKILL)
    writer.close()


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As long as this file exists, the disk is full: also for processes that are forked now."""
    flag, write = tmp_path / "full", Disk.write

    def full(disk: Disk, file: int, data: Any) -> int:
        if flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(disk, file, data)

    monkeypatch.setattr(Disk, "write", full)
    return flag


def state(seed: int, size: int = 100_000) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"large": torch.randn(size), "small": torch.randn(7), "half": torch.ones(3).bfloat16()}


def check(stored: Any, given: dict[str, torch.Tensor]) -> None:
    found = stored.state("x")
    assert list(found) == list(given)
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_another_process_writes_the_same(tmp_path: Path, writer: WriterProcess) -> None:
    given = state(0)
    there, here = Shelf(tmp_path / "a", writer), Shelf(tmp_path / "b", WriterHere())
    tracker = tracking(x=given)
    for step in (1, 2):
        for shelf in (there, here):
            check(shelf.write(tracker.snapshot(), step), given)
        found = [shelf.sent[-1].checkpoint.digest for shelf in (there, here)]
        assert found[0] == found[1]
        given["small"].add_(1.0)
    given["more"] = torch.randn(1_000_000)  # another segment
    check(there.write(tracker.snapshot(), 3), given)


def test_a_writer_that_is_killed_in_the_middle(tmp_path: Path, writer: WriterProcess) -> None:
    given = state(0, 8_000_000)
    tracker, shelf = tracking(x=given), Shelf(tmp_path, writer)
    first = shelf.write(tracker.snapshot(), 1)
    original = {name: tensor.clone() for name, tensor in given.items()}
    given["large"].add_(1.0)
    shelf.saver.write(Request(2, POSITION, tracker.snapshot(), {}, None))
    chunk = shelf.path(2) / "x" / "large"
    until(lambda: chunk.exists() or not shelf.saver.busy)
    os.kill(writer.pid, signal.SIGKILL)
    shelf.saver.wait()
    assert not (shelf.path(2) / "zarr.json").exists()
    assert shelf.saver.failed == (
        "The checkpoint at step 2 failed: the process that writes checkpoints was killed"
    )
    assert [type(fact) for fact in shelf.sent] == [CheckpointWritten, CheckpointFailed]
    assert "writes its next checkpoints by itself" in shelf.notes[0]
    third = shelf.write(tracker.snapshot(), 3)
    check(third, given)
    check(first, original)
    assert shelf.sent[-1].checkpoint.parent == first.id


@pytest.mark.parametrize("method", ["attach", "digests", "write", "commit"])
def test_a_writer_that_is_killed_at_any_call(
    tmp_path: Path, writer: WriterProcess, method: str
) -> None:
    given = state(0)

    def call(name: str, *arguments: Any) -> Any:
        if name == method:
            os.kill(writer.pid, signal.SIGKILL)
            until(lambda: psutil.Process(writer.pid).status() == psutil.STATUS_ZOMBIE)
        return writer(name, *arguments)

    shelf, tracker = Shelf(tmp_path, call), tracking(x=given)
    assert "was killed" in str(shelf.try_to_write(tracker.snapshot(), 1))
    check(shelf.write(tracker.snapshot(), 2), given)


def test_a_full_disk_is_told_by_its_number_and_passes(
    tmp_path: Path, writer: WriterProcess, full_disk: Path
) -> None:
    given = state(0)
    tracker, shelf = tracking(x=given), Shelf(tmp_path, writer)
    shelf.write(tracker.snapshot(), 1)
    full_disk.touch()
    given["large"].add_(1.0)
    assert "No space left on device" in str(shelf.try_to_write(tracker.snapshot(), 2))
    assert isinstance(fact := shelf.sent[-1], CheckpointFailed)
    assert (fact.errno, fact.step) == (errno.ENOSPC, 2)
    full_disk.unlink()
    check(shelf.write(tracker.snapshot(), 3), given)
    assert shelf.notes == [], "the writer lives"


def test_errors_come_back_as_they_are(tmp_path: Path, writer: WriterProcess) -> None:
    calls: list[tuple[tuple[Any, ...], type[Exception]]] = [
        (("nonsense",), AttributeError),
        (("digests", {"x": None}), AttributeError),
        (("commit", "nonsense://bucket", a_manifest(), {}), InvalidRequest),
        (("commit", str(tmp_path), a_manifest(), {"x": float("nan")}), CannotStore),
    ]
    for arguments, kind in calls:
        with pytest.raises(kind):
            writer(*arguments)
    assert writer("digests", {}) == {}


def test_an_error_that_cant_be_sent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("never")

    def fail(work: Any, slots: Any) -> Any:
        raise Odd("what it says")

    monkeypatch.setattr("resilient_nb.rank.writer.Work.digests", fail)
    writer = WriterProcess()
    try:
        with pytest.raises(RuntimeError, match="Odd: what it says"):
            writer("digests", {})
    finally:
        writer.close()


def test_a_store_out_of_reach_is_no_death_of_the_writer(
    tmp_path: Path, writer: WriterProcess
) -> None:
    def call(name: str, *arguments: Any) -> Any:
        if name == "write":
            raise ConnectionError(errno.EHOSTUNREACH, "can't be reached")
        return writer(name, *arguments)

    shelf, tracker = Shelf(tmp_path, call), tracking(x=state(0))
    assert "can't be reached" in str(shelf.try_to_write(tracker.snapshot(), 1))
    assert shelf.notes == []
    assert shelf.saver._writer is call


def test_it_can_be_closed_and_is_asked_politely_in_vain(writer: WriterProcess) -> None:
    for _ in range(2):
        assert writer("digests", {}) == {}, "the rank says when"
        os.kill(writer.pid, signal.SIGTERM)
    other = WriterProcess()
    other.close()
    assert not psutil.pid_exists(other.pid)


PARENT = """
import os, sys
from resilient_nb.rank.writer import WriterProcess
writer = WriterProcess()
print(writer.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_ends_with_its_rank(number: int | None) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    process = psutil.Process(int(parent.stdout.readline()))
    if number is None:
        parent.stdin.close()
    else:
        parent.send_signal(number)
    parent.wait(PATIENCE)
    assert psutil.wait_procs([process], PATIENCE)[1] == []
    parent.stdout.close()
    parent.stdin.close()


# --- several ranks -----------------------------------------------------------------------------


class Gang:
    """Savers of several ranks; `broken` ranks find the disk full."""

    def __init__(self, folder: Path, world: int) -> None:
        self.folder = folder
        self.sent: list[Any] = []
        self.broken: set[int] = set()
        attempt = an_attempt(store=str(folder), world_size=world)
        store = dist.HashStore()
        self.savers = [
            Saver(attempt, rank, store, self.sent.append, print, self._writer(rank))
            for rank in range(world)
        ]
        self.given = [state(0, 1000) for _ in range(world)]
        self.trackers = [tracking(x=given) for given in self.given]
        for rank, given in enumerate(self.given):
            given["small"] += rank

    def _writer(self, rank: int) -> Any:
        here = WriterHere()

        def call(name: str, *arguments: Any) -> Any:
            if name == "write" and rank in self.broken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return here(name, *arguments)

        return call

    def save(self, step: int, but: int | None = None) -> list[str | None]:
        for rank, saver in enumerate(self.savers):
            if rank != but:
                snapshot = self.trackers[rank].snapshot()
                saver.write(Request(step, POSITION, snapshot, {}, None))
        for saver in self.savers:
            saver.wait()
        return [saver.failed for saver in self.savers]

    def path(self, step: int) -> Path:
        return self.folder / "runs" / "digits" / f"{step:08d}-e1"


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_one_rank_without_space_is_everybodys_failure_and_the_next_works(
    tmp_path: Path, broken: int
) -> None:
    gang = Gang(tmp_path, 3)
    assert gang.save(1) == [None, None, None]
    gang.broken = {broken}
    for given in gang.given:
        given["small"].mul_(2.0)
        given["large"].mul_(2.0)
    failed = gang.save(2)
    assert failed[0] is not None
    assert "No space left" in failed[0]
    [fact] = [fact for fact in gang.sent if isinstance(fact, CheckpointFailed)]
    assert (fact.errno, fact.step) == (errno.ENOSPC, 2)
    if broken:
        assert f"rank {broken}" in fact.text
    assert not (gang.path(2) / "zarr.json").exists()
    gang.broken = set()
    assert gang.save(3) == [None, None, None]
    checkpoint = open_checkpoint(gang.path(3))
    for rank, given in enumerate(gang.given):
        name = f"rank-{rank}/x/small" if rank else "x/small"
        assert torch.equal(torch.from_numpy(checkpoint.read(name).array), given["small"])
    assert checkpoint.manifest.parent == "digits/00000001-e1"


def test_a_rank_that_was_never_snapshotted_holds_nobody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilient_nb.rank.saver._PATIENCE", timedelta(milliseconds=50))
    gang = Gang(tmp_path, 2)
    failed = gang.save(1, but=1)
    assert "another rank didn't take part" in str(failed[0])


def test_what_has_changed_on_one_rank_is_refused_on_all(tmp_path: Path) -> None:
    gang = Gang(tmp_path, 2)
    snapshots = [tracker.snapshot() for tracker in gang.trackers]
    snapshots[1].changed = True
    for rank, snapshot in enumerate(snapshots):
        gang.savers[rank].write(Request(1, POSITION, snapshot, {}, None))
    for saver in gang.savers:
        saver.wait()
    assert all("was changed" in str(saver.failed) for saver in gang.savers)


def test_each_rank_may_have_tensors_of_its_own(tmp_path: Path) -> None:
    gang = Gang(tmp_path, 2)
    gang.given[1]["more"] = torch.eye(3)
    assert gang.save(1) == [None, None]
    assert "rank-1/x/more" in open_checkpoint(gang.path(1)).names()
    for rank, given in enumerate(gang.given):
        check(Stored(open_checkpoint(gang.path(1)), rank), given)
