"""State sharded by FSDP2: killed and resumed bit for bit, and resumed on any number of ranks."""

from __future__ import annotations

import os
import signal
from math import prod
from typing import Any

import pytest
import torch

from cells import GATED, finish, results, submit, wait
from resilient_nb.client import Client
from resilient_nb.core.model import Interval, JobState
from resilient_nb.loading import load_path

#: Sizes that no number of ranks divides, and a layer of fewer rows than ranks.
CELL = """
import os, time, torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
def whole(tensors):
    return {{k: t.full_tensor() if hasattr(t, "full_tensor") else t.clone()
            for k, t in tensors.items()}}
model = nn.Sequential(nn.Linear(13, 259), nn.ReLU(), nn.Dropout(0.2), nn.Linear(259, 259),
                      nn.ReLU(), nn.Linear(259, 3))
if {mesh}:
    names = ("copies", "parts")[-len({mesh}):]
    mesh = init_device_mesh("cpu", {mesh}, mesh_dim_names=names)
    fully_shard(model[3], mesh=mesh)
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
features = torch.randn(160, 13)
data = torch.utils.data.TensorDataset(features, (features.sum(1) > 0).long())
run.track(model=model, optimizer=optimizer, scheduler=scheduler)
history, _begun = [], None  # a private name is not restored
for x, y in run.batches(data, batch_size=40, epochs={epochs}, shuffle=True):
    while run.step == 12 and not os.path.exists({gate!r}): time.sleep(0.01)
    if _begun is None:
        moments = {{f"{{n}}.{{k}}": t for n, s in optimizer.state_dict()["state"].items()
                   for k, t in s.items()}}
        _begun = run.step, whole(model.state_dict()), whole(moments)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    history.append(loss.item())
    time.sleep({pause})
weights, begun = whole(model.state_dict()), _begun
"""
OUT = ("weights", "history", "begun")
EVERY = Interval(steps=3)


def sharded(epochs: int, mesh: tuple[int, ...], pause: float = 0.0, gate: str = "/") -> str:
    """Return the cell: 4 steps an epoch; without a mesh nothing is sharded.

    After 12 steps it waits until there is a file of the gate's name.
    """
    return CELL.format(epochs=epochs, mesh=mesh, pause=pause, gate=gate)


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.fixture(scope="module")
def killed(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on two ranks, one of which was killed."""
    gate = tmp_path_factory.mktemp("sharded") / "killed"
    source = sharded(4, (2,), pause=0.1, gate=str(gate))
    job = submit(client, "sharded", source, 2, OUT, EVERY, **GATED)
    view = wait(client, job, lambda v: v.step >= 8)
    os.kill(view.ranks[1].pid, signal.SIGKILL)
    gate.touch()
    view = finish(client, job)
    assert (view.state, view.attempts) == (JobState.SUCCEEDED, 2), view.failures
    return job


def test_a_killed_rank_changes_no_bit(client: Client, killed: str) -> None:
    reference = submit(client, "sharded-reference", sharded(4, (2,)), 2, OUT, EVERY)
    assert finish(client, reference).state is JobState.SUCCEEDED
    ours, theirs = results(client, killed), results(client, reference)
    assert ours["history"] == theirs["history"]
    assert same(ours["weights"], theirs["weights"])
    assert ours["begun"][0] >= 6
    assert client.resolve("sharded").digest == client.resolve("sharded-reference").digest


def test_a_notebook_reads_whole_tensors(client: Client, killed: str) -> None:
    state = load_path(client.resolve("sharded@16").path)
    assert same(state["model"], results(client, killed)["weights"])
    assert state["optimizer"]["state"][0]["exp_avg"].shape == (259, 13)
    assert state.tensor("model/5.weight").shape == (3, 259)


def test_it_goes_on_with_any_number_of_ranks(client: Client, killed: str) -> None:
    """From two ranks to two times two (HSDP), to two, to one without shards, and to three."""
    step = 16
    for mesh in ((2, 2), (2,), (), (3,)):
        source, ranks = sharded((step + 4) // 4, mesh), prod(mesh)
        job = submit(client, "sharded", source, ranks, OUT, EVERY, resume=f"sharded@{step}")
        view = finish(client, job)
        assert view.state is JobState.SUCCEEDED, view.failures
        stored = load_path(client.resolve(f"sharded@{step}").path)
        begun, weights, moments = results(client, job)["begun"]
        assert begun == step
        assert same(weights, stored["model"])
        states = stored["optimizer"]["state"].items()
        assert same(moments, {f"{n}.{k}": t for n, s in states for k, t in s.items()})
        step += 4
        assert client.resolve("sharded").step == step
