"""kill -9 of every kind of process, alone and at random: the job ends with the same numbers."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import psutil
import pytest
import torch

from cells import GATED, finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster.record import read
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState
from resilient_nb.core.views import JobView
from resilient_nb.storage.opening import open_checkpoint

OUT = ("weights", "history", "seen")


def pids(role: str, home: Path) -> list[int]:
    """Return the live processes of a role."""
    record = read(load_settings().cluster_file)
    assert record is not None
    if role == "watchdog":
        return [record.watchdog.pid]
    if role in ("scheduler", "nanny"):
        part = record.parts["scheduler" if role == "scheduler" else "workers"].find()
        return [part.pid] if part else []
    if role == "supervisor":
        return [int(file.read_text()) for file in home.glob("supervisors/*/pid")]
    assert role == "worker"
    return [p.pid for p, words in processes_of(home) if "multiprocessing.spawn" in words]


def check_equal(client: Client, job: str, reference: str) -> None:
    """Compare everything two jobs returned, and their last checkpoints, bit for bit."""
    ours, theirs = results(client, job), results(client, reference)
    assert ours["history"] == theirs["history"]
    assert ours["seen"] == theirs["seen"]
    for name, tensor in theirs["weights"].items():
        assert torch.equal(ours["weights"][name], tensor), name
    ends = [client.resolve(j.partition("#")[0]) for j in (job, reference)]
    assert ends[0].digest == ends[1].digest


def check_whole(client: Client, run: str) -> None:
    """Every acknowledged checkpoint is there and every byte of it is right."""
    for checkpoint in client.runs(run)[0].checkpoints:
        opened = open_checkpoint(checkpoint.path)
        opened.read_many(opened.names())


@pytest.fixture(scope="session")
def references(client: Client) -> dict[int, str]:
    """Uninterrupted runs by number of ranks."""
    return {
        workers: finish(client, submit(client, f"ref-{workers}", train(), workers, OUT)).id
        for workers in (1, 2, 3, 4)
    }


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_killed_rank(
    client: Client, references: dict[int, str], workers: int, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    source = train(pause=0.03, gates={30: killed})
    job = submit(client, f"rank-{workers}", source, workers, OUT, **GATED)
    view = wait(client, job, lambda v: v.step >= 12)
    os.kill(view.ranks[-1].pid, signal.SIGKILL)
    killed.touch()
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    assert [f.cause for f in view.failures] == ["killed from outside"]
    assert view.failures[0].rank == workers - 1
    check_equal(client, job, references[workers])
    check_whole(client, f"rank-{workers}")


@pytest.mark.parametrize("role", ["worker", "nanny", "scheduler", "watchdog"])
def test_managers_die_and_training_goes_on(
    client: Client, home: Path, references: dict[int, str], role: str, tmp_path: Path
) -> None:
    """What manages the ranks dies; they are adopted, and no step is lost."""
    killed = tmp_path / "killed"
    source = train(epochs=6, pause=0.1, gates={36: killed})
    job = submit(client, f"adopt-{role}", source, 2, OUT, **GATED)
    before = wait(client, job, lambda v: v.step >= 6)
    for pid in pids(role, home):
        os.kill(pid, signal.SIGKILL)
    killed.touch()
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    assert view.attempts == 1, view.failures
    assert [r.pid for r in view.ranks] == [r.pid for r in before.ranks]
    check_equal(client, job, references[2])


def test_killed_supervisor(
    client: Client, home: Path, references: dict[int, str], tmp_path: Path
) -> None:
    """The parent of the ranks dies, and they with it; a new one takes over."""
    killed = tmp_path / "killed"
    source = train(pause=0.05, gates={36: killed})
    job = submit(client, "supervisor", source, 2, OUT, **GATED)
    before = wait(client, job, lambda v: v.step >= 12)
    (pid,) = pids("supervisor", home)
    os.kill(pid, signal.SIGKILL)
    killed.touch()
    assert not psutil.wait_procs([_process(r.pid) for r in before.ranks if r.pid], 5)[1]
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    assert view.attempts == 2
    check_equal(client, job, references[2])


def test_random_kills(client: Client, home: Path, references: dict[int, str]) -> None:
    """Kills of random roles at random steps, in runs of 1 to 4 ranks."""
    dice = random.Random(2)
    for workers in (1, 2, 3, 4):
        name = f"random-{workers}"
        job = submit(client, name, train(pause=0.05), workers, OUT)
        kills = 0
        while kills < 3:
            goal = 42 * (kills + dice.random()) / 3
            view = wait(client, job, lambda v, g=goal: v.step >= g or v.state.final)
            if view.state.final:
                break
            _kill_one(dice.choice(["rank", "rank", "worker", "nanny", "scheduler"]), view, home)
            kills += 1
        view = finish(client, job)
        assert view.state is JobState.SUCCEEDED, view.failures
        check_equal(client, job, references[workers])
        check_whole(client, name)


def _kill_one(role: str, view: JobView, home: Path) -> None:
    targets = [r.pid for r in view.ranks if r.pid] if role == "rank" else pids(role, home)
    for pid in targets[:1]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself meanwhile


def _process(pid: int) -> psutil.Process:
    return psutil.Process(pid)
