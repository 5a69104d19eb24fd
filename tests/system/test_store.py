"""A cluster whose store is a bucket: jobs survive there as they do on a disk, and in copies."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cells import GATED, finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Interval, JobState
from resilient_nb.loading import load_path
from resilient_nb.storage.mirrored import open_path
from resilient_nb.storage.stores import open_store
from resilient_nb.testing.s3 import S3Server
from resilient_nb.wire.requests import Resume

STORE = "s3://bucket/team/store"
OUT = ("weights", "seen")
EPOCHS, EVERY = 4, Interval(steps=8)  # 28 steps


@pytest.fixture(scope="module")
def far() -> Iterator[Client]:
    """The client of a cluster of its own with two workers, whose store is on an S3 server."""
    home = Path(tempfile.mkdtemp(prefix="rnb-"))
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        server.make_bucket("bucket")
        patch.setenv("RESILIENT_NB_HOME", str(home))
        patch.setenv("RESILIENT_NB_STORE", STORE)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        settings = load_settings()
        try:
            embedded.up(settings, 2, print)
            record = embedded.find(settings)
            assert record is not None
            client = Client(record.address, patience=40.0)
            yield client
            client.close()
        finally:
            embedded.down(settings, print)
            left = processes_of(home)
            shutil.rmtree(home)
        assert left == []


@pytest.fixture(scope="module")
def reference(client: Client) -> str:
    """The digest of the end of a run that a disk's cluster was let finish."""
    job = finish(client, submit(client, "on-disk", train(EPOCHS), 2, OUT, EVERY))
    assert job.state is JobState.SUCCEEDED
    return client.resolve("on-disk").digest


def slow(gate: Path) -> tuple[str, dict[str, float]]:
    """Return a cell, and what it takes from its notebook."""
    source = train(EPOCHS, gates={18: gate})
    return source.replace("else 0.0)", "else pause)"), {"pause": 0.03}


def test_a_killed_rank_goes_on_from_a_bucket(reference: str, far: Client, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    source, values = slow(killed)
    job = submit(
        far, "killed", source, 2, OUT, EVERY, captured=far.put(pickle.dumps(values)), **GATED
    )
    view = wait(far, job, lambda v: v.step >= 12)
    os.kill(view.ranks[-1].pid, signal.SIGKILL)
    killed.touch()
    view = finish(far, job)
    assert view.state is JobState.SUCCEEDED, view
    assert [f.cause for f in view.failures] == ["killed from outside"]
    assert view.failures[0].resumes_from in (8, 16)
    end = far.resolve("killed")
    assert end.digest == reference
    assert end.path == f"{STORE}/runs/{end.id}"
    assert results(far, job)["seen"] == EPOCHS * 210 // 2
    for checkpoint in far.runs("killed")[0].checkpoints:
        opened = open_path(checkpoint.path)
        opened.read_many(opened.names())
    assert set(load_path(end.path)) >= {"model", "optimizer"}
    assert not Path(load_settings().home, "store").exists()


def test_a_job_goes_on_from_its_second_copy(reference: str, far: Client, tmp_path: Path) -> None:
    cancelled = tmp_path / "cancelled"
    source, values = slow(cancelled)
    captured = far.put(pickle.dumps(values))
    copy = str(tmp_path / "copy")
    job = submit(far, "copied", source, 2, OUT, EVERY, captured=captured, replicas=(copy,), **GATED)
    wait(far, job, lambda v: v.step >= 12)
    far.cancel(job)
    cancelled.touch()
    assert wait(far, job, lambda v: v.state.final).state is JobState.CANCELLED
    while {c.replicated for c in far.runs("copied")[0].checkpoints} != {"yes"}:
        time.sleep(0.05)
    store = open_store(STORE)
    store.delete([entry.key for entry in store.list()])
    head = far.resolve("copied")
    assert head.copies == (f"{copy}/runs/{head.id}",)
    assert set(load_path(head.path, copies=head.copies)) >= {"model", "optimizer"}
    resumed = far.resume(Resume("copied", uuid.uuid4().hex))
    assert resumed.resumes_from == head.step
    assert finish(far, resumed.job).state is JobState.SUCCEEDED
    assert far.resolve("copied").digest == reference
