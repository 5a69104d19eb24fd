"""`--in` and `run.input` on a real cluster: passed on, lost, made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cells import finish, results, submit, wait
from resilient_nb import cli
from resilient_nb.client import Client
from resilient_nb.core.causes import INPUT_LOST
from resilient_nb.core.model import JobState
from resilient_nb.storage.stores import out_key

PREP = """
class Scale:
    def __call__(self, x):
        return factor * x
factor, scale = 3, Scale()
features = [float(n) for n in range(6)]
"""
USE = """
import torch
weight = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.1)
run.track(optimizer=optimizer)
for step in run.steps(4):
    loss = ((weight - scale(features[step])) ** 2).sum()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
total = weight.item()
"""


def prepare(client: Client, run: str, source: str = PREP) -> str:
    job = submit(client, run, source, 1, ("features", "scale"))
    assert finish(client, job).state is JobState.SUCCEEDED
    return job


def train(client: Client, run: str, after: str) -> str:
    return submit(client, run, USE, 2, ("total",), after=(after,), inputs=("features", "scale"))


def test_a_lost_input_is_made_again_and_the_training_follows(client: Client, home: Path) -> None:
    prep = prepare(client, "prep-a")
    whole = train(client, "use-a", prep)
    assert finish(client, whole).state is JobState.SUCCEEDED

    stored = home / "store" / out_key("prep-a", 1)
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(bytes(data))
    job = train(client, "use-b", prep)
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED, view.failures
    [failure] = view.failures
    assert (failure.cause, failure.decision) == (INPUT_LOST, "retry")
    assert "What prep-a#1 returned is lost: it is damaged" in failure.message
    assert client.watch("prep-a#2").job.state is JobState.SUCCEEDED
    assert results(client, job) == results(client, whole)


def test_what_cant_be_made_again_is_waited_for_and_said(
    client: Client, home: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    prep = prepare(client, "prep-c", f"import os; os.stat({str(flag)!r})\n{PREP}")
    (home / "store" / out_key("prep-c", 1)).unlink()
    flag.unlink()
    job = train(client, "use-c", prep)
    wait(client, job, lambda view: "prep-c#2, which failed: resume it" in view.reason)
    flag.touch()
    assert cli.main(["resume", "prep-c"]) == 0
    view = finish(client, job)
    assert (view.state, view.failures) == (JobState.SUCCEEDED, ())


DATA = """
import time
place = run.input({place!r}, name="train")
history = []
for step in run.steps(400):
    if step >= 20:
        history.append(open(place, "rb").read(1))
    time.sleep(0.02)
    run.log(seen=step)
"""


def test_declared_data_that_goes_away_is_said_and_blamed(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.bin"
    file.write_bytes(b"x" * 10_000)
    job = submit(client, "reads", DATA.format(place=str(file)), 1)
    wait(client, job, lambda view: view.step > 25)
    file.rename(tmp_path / "aside")
    view = finish(client, job)
    [failure] = view.failures
    assert (view.state, failure.cause, failure.decision) == (JobState.FAILED, INPUT_LOST, "stop")
    assert failure.error is not None
    assert failure.error.lost_input == str(file)
    (tmp_path / "aside").rename(file)
    with file.open("ab") as more:
        more.write(b"y")
    assert cli.main(["resume", "reads"]) == 0
    wait(client, "reads#2", lambda view: any("has changed since step" in n for n in view.notes))
    head = client.resolve("reads").step
    wait(client, "reads#2", lambda view: view.step > head)  # before that there is nothing to save
    client.cancel("reads#2")
    finish(client, "reads#2")
    capsys.readouterr()
    assert cli.main(["checkpoints", client.resolve("reads").ref, "--json"]) == 0
    [data] = json.loads(capsys.readouterr().out)["recorded"]["data"]
    assert (data["name"], data["type"], data["place"]) == ("train", "file", str(file))
    assert data["length"] == 10_001
