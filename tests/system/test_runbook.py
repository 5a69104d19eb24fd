"""The runbook's commands do what it says, in disasters that are real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from cells import finish, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Interval, JobState
from resilient_nb.loading import load_path

TEXT = (Path(__file__).parents[2] / ".github" / "RUNBOOK.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: "".join(re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S))
    for section in TEXT.split("\n## ")[1:]
}


class Machine:
    """A home folder with its environment, in which one types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backup = folder / "backup"
        self.home = folder / "home"

    def follow(self, section: str) -> str:
        """Do what a section of the runbook says."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = {
            **os.environ, "PATH": path, "BACKUP": str(self.backup),
            "NEW_STORE": str(self.folder / "new"),
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", SECTIONS[section]],
            env=env, text=True, capture_output=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def client(self) -> Client:
        record = embedded.find(load_settings())
        assert record is not None
        return Client(record.address, patience=20.0)

    def down(self) -> None:
        if embedded.find(load_settings()) is not None:
            embedded.down(load_settings(), print)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(Path(tempfile.mkdtemp(prefix="rnb-")))
    monkeypatch.setenv("RESILIENT_NB_HOME", str(machine.home))
    yield machine
    machine.down()
    left = processes_of(machine.home)
    shutil.rmtree(machine.folder)
    assert left == []


class Known(NamedTuple):
    """What must come back of a run."""

    head: str | None
    tags: Mapping[str, str]
    jobs: tuple[str, ...]
    checkpoints: list[tuple[str, str]]


def runs(client: Client) -> dict[str, Known]:
    return {
        run.name: Known(run.head, run.tags, run.jobs, [(c.id, c.digest) for c in run.checkpoints])
        for run in client.runs()
    }


def lose_half_the_store(machine: Machine) -> None:
    store = Path(load_settings().store)
    shutil.rmtree(store / "runs" / "done")
    [chunk, *_] = sorted(store.glob("runs/half/*/model/*/c*"))
    chunk.write_bytes(b"nonsense")


def lose_the_machine(machine: Machine) -> None:
    machine.down()
    shutil.rmtree(machine.home)


@pytest.mark.timeout(300)
def test_everything_comes_back(machine: Machine) -> None:
    embedded.up(load_settings(), 2, print)
    client = machine.client
    assert finish(client, submit(client, "done", train(2))).state is JobState.SUCCEEDED
    client.tag("done", "good")
    half = submit(client, "half", train(400, pause=0.1), workers=1, every=Interval(steps=20))
    wait(client, half, lambda view: len(view.checkpoints) > 1)
    client.vacate_all()
    wait(client, half, lambda view: view.state is JobState.QUEUED)
    known = runs(client)

    machine.follow("Back up")
    machine.follow("See whether the backup is good")

    disasters: dict[str, Callable[[Machine], None]] = {
        "The store is lost or damaged": lose_half_the_store,
        "The machine is lost": lose_the_machine,
        "The cluster doesn't answer": lambda machine: None,
        "Move to another store": lambda machine: None,
    }
    for section, strike in disasters.items():
        strike(machine)
        said = machine.follow(section)
        assert "something is in neither" not in said
        found = runs(machine.client)
        assert found["done"] == known["done"], section
        before = known["half"].checkpoints
        assert found["half"].checkpoints[: len(before)] == before, section
        load_path(machine.client.resolve("done@good").path)["model"]
    assert {"Back up", "See whether the backup is good", *disasters} == set(SECTIONS)

    assert machine.client.resolve("done").path.startswith(f"{machine.folder}/new/runs/")
    wait(machine.client, half, lambda view: view.state is JobState.RUNNING)
    machine.client.cancel(half)
    wait(machine.client, half, lambda view: view.state.final)
