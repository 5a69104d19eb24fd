"""Journal, logs, checkpoints and results on one disk that is full to the last byte."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cells import GATED, finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState

OUT = ("weights", "history")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of a cluster of its own, on a small file system, where one may be made."""
    home = tmp_path / "home"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(home)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    monkeypatch.setenv("RESILIENT_NB_HOME", str(home))
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.fixture
def small(disk: Path) -> Iterator[Client]:
    settings = load_settings()
    try:
        embedded.up(settings, 2, print)
        record = embedded.find(settings)
        assert record is not None
        with contextlib.closing(Client(record.address, patience=40.0)) as client:
            yield client
    finally:
        (disk / "eaten").unlink(missing_ok=True)
        embedded.down(settings, print)
    assert processes_of(disk) == []


def eat_all(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def test_a_job_trains_to_its_end_and_returns_when_there_is_room(
    small: Client, disk: Path, tmp_path: Path
) -> None:
    talk = "    seen += len(x)\n    print(run.step, 'x' * 3000)"
    full = tmp_path / "full"  # beside the disk
    source = train(epochs=4, pause=0.05, gates={12: full}).replace("    seen += len(x)", talk)
    full.touch()
    whole = submit(small, "whole", source, 2, OUT)
    assert finish(small, whole).state is JobState.SUCCEEDED
    full.unlink()
    job = submit(small, "full", source, 2, OUT, **GATED)
    wait(small, job, lambda view: view.step >= 8 and bool(view.checkpoints))
    eat_all(disk / "eaten")
    full.touch()
    view = wait(small, job, lambda view: any("can't be kept" in note for note in view.notes))
    assert view.attempts == 1
    (disk / "eaten").unlink()
    view = finish(small, job)
    assert (view.state, view.attempts, view.failures) == (JobState.SUCCEEDED, 1, ())
    assert results(small, job)["history"] == results(small, whole)["history"]
    assert view.checkpoints[-1].step == view.step, "nor is what it has learnt last lost"
