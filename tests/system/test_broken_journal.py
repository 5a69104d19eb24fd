"""The journal's disk breaks, or the journal itself, while a job trains: the job doesn't."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch

from cells import GATED, finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.cluster.record import read
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState
from resilient_nb.errors import JournalFailed

OUT = ("weights", "history", "seen")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own: what a journal has forgotten, other tests would miss."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESILIENT_NB_HOME", str(folder))
        patch.setenv("RESILIENT_NB_LEAVE_GRACE", "10")
        yield folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    settings = load_settings()
    try:
        embedded.up(settings, 2, print)
        record = embedded.find(settings)
        assert record is not None
        with closing(Client(record.address, patience=40.0)) as client:
            yield client
    finally:
        embedded.down(settings, print)
    assert processes_of(home) == []


@pytest.fixture(scope="module")
def reference(client: Client) -> str:
    job = submit(client, "undisturbed", train(epochs=4), 2, OUT)
    assert finish(client, job).state is JobState.SUCCEEDED
    return job


def same_numbers(client: Client, job: str, other: str) -> None:
    ours, theirs = results(client, job), results(client, other)
    assert ours["history"] == theirs["history"]
    for key, tensor in theirs["weights"].items():
        assert torch.equal(ours["weights"][key], tensor), key


def scheduler() -> psutil.Process:
    record = read(load_settings().cluster_file)
    assert record is not None
    found = record.parts["scheduler"].find()
    assert found is not None
    # The part may be a parent of the process that has the journal open.
    for process in [found, *found.children(recursive=True)]:
        if any("journal.db" in file.path for file in process.open_files()):
            return process
    raise AssertionError("nobody has the journal open")


def until(holds: Callable[[], object], seconds: float = 40.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_disk_that_takes_nothing_costs_no_training(
    client: Client, reference: str, tmp_path: Path
) -> None:
    full, seen = tmp_path / "full", tmp_path / "seen"
    source = train(epochs=4, pause=0.05, gates={9: full, 22: seen})
    job = submit(client, "on-a-full-disk", source, 2, OUT, **GATED)
    view = wait(client, job, lambda view: len(view.checkpoints) >= 1 and view.step >= 8)
    pids = [rank.pid for rank in view.ranks]
    process = scheduler()
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (1, before[1]))  # no file may grow any more
    full.touch()
    try:
        wait(client, job, lambda view: bool(view.alerts))
        with pytest.raises(JournalFailed, match=r"journal\.db can't be written"):
            submit(client, "refused", train(), 1)
        assert any("can't be written" in text for text in client.queue().alerts)
        # It trains on, past checkpoints that nobody can commit.
        view = wait(client, job, lambda view: view.step >= 20)
        assert [rank.pid for rank in view.ranks] == pids
        assert len(view.checkpoints) < 3
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
        seen.touch()
    view = finish(client, job)
    assert (view.state, view.attempts, view.failures) == (JobState.SUCCEEDED, 1, ())
    until(lambda: not client.queue().alerts)
    same_numbers(client, job, reference)


def test_a_damaged_journal_costs_no_training(
    client: Client, home: Path, reference: str, tmp_path: Path
) -> None:
    journal, killed = home / "journal.db", tmp_path / "killed"
    source = train(epochs=4, pause=0.1, gates={24: killed})
    job = submit(client, "on-a-damaged-journal", source, 2, OUT, **GATED)
    wait(client, job, lambda view: len(view.checkpoints) >= 2)
    process = scheduler()
    os.kill(process.pid, signal.SIGSTOP)  # what is damaged must be what the next one reads
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    with closing(sqlite3.connect(journal)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = file.execute(
            "SELECT seq FROM events WHERE kind = 'CheckpointCommitted' AND body LIKE ? "
            "ORDER BY seq",
            (f'%"{job}"%',),
        ).fetchall()
        with file:
            file.execute("UPDATE events SET sum = sum + 1 WHERE seq = ?", rows[0])
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.kill(process.pid, signal.SIGKILL)
    killed.touch()
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED, view.failures
    assert view.failures == ()
    [alert] = [text for text in client.queue().alerts if "is damaged after event" in text]
    assert "from the store" in alert
    same_numbers(client, job, reference)
    assert client.resolve("on-a-damaged-journal").digest == client.resolve("undisturbed").digest


def test_an_old_copy_of_the_journal_costs_no_training(
    client: Client, home: Path, reference: str, tmp_path: Path
) -> None:
    journal, old = home / "journal.db", home / "journal.old"
    copied, killed = tmp_path / "copied", tmp_path / "killed"
    source = train(epochs=5, pause=0.1, gates={12: copied, 30: killed})
    job = submit(client, "on-an-old-journal", source, 2, OUT, **GATED)
    view = wait(client, job, lambda view: len(view.checkpoints) >= 1)
    with closing(sqlite3.connect(journal)) as source, closing(sqlite3.connect(old)) as target:
        source.backup(target)
    os.kill(view.ranks[1].pid, signal.SIGKILL)  # another attempt, of which the copy doesn't know
    copied.touch()
    wait(client, job, lambda view: view.attempts == 2 and len(view.checkpoints) >= 3)
    process = scheduler()
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    for suffix in ("-wal", "-shm"):
        Path(f"{journal}{suffix}").unlink()
    old.rename(journal)
    os.kill(process.pid, signal.SIGKILL)
    killed.touch()
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED, view.failures
    assert any("forgotten attempts" in text for text in client.queue().alerts)
    ours, theirs = results(client, job), results(client, reference)
    assert ours["history"][: len(theirs["history"])] == theirs["history"]
    # It went on from what the copy didn't know.
    [run] = client.runs("on-an-old-journal")
    assert {c.step for c in run.checkpoints} >= {5, 10, 15, 20, 25, 30}
