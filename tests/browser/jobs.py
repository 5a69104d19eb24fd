"""Notebooks of the browser tests, and jobs that go on until somebody ends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cells import submit, wait
from resilient_nb.client import Client
from resilient_nb.core.model import Interval, JobState

SETUP = """%load_ext resilient_nb
import torch
from torch import nn
features = torch.randn(160, 8, generator=torch.Generator().manual_seed(0))
data = torch.utils.data.TensorDataset(features, features.sum(1, keepdim=True))"""

TRAIN = """%%resilient {name} --workers 2 --checkpoint-every 10 --keep all --out weights {more}
import os, time
model = nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
run.track(model=model, optimizer=optimizer)
for x, y in run.batches(data, batch_size=16, epochs={epochs}, shuffle=True):
    while run.step == 150 and not os.path.exists({gate!r}): time.sleep(0.01)
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(loss=loss)
    print("step", run.step)
    time.sleep({pause})
weights = {{name: value.clone() for name, value in model.state_dict().items()}}"""


def train(name: str, epochs: int = 10, pause: float = 0.05, gate: str = "/") -> str:
    """Return a cell that trains: ten steps an epoch, a checkpoint after each.

    After 150 steps it waits until there is a file of the gate's name.
    """
    more = "" if gate == "/" else "--hang-after never"
    return TRAIN.format(name=name, more=more, epochs=epochs, pause=pause, gate=gate)


#: Goes on for hours. Two ranks, so that one can be killed.
ENDLESS = """
import time
for _ in run.steps(1_000_000):
    run.log(loss=1 / (run.step + 1))
    print("step", run.step)
    time.sleep(0.05)
"""


@contextmanager
def endless(client: Client, run: str, source: str = ENDLESS, workers: int = 2) -> Iterator[str]:
    """Give a job that runs, and end it afterwards."""
    job = submit(client, run, source, workers, every=Interval(steps=20))
    try:
        wait(client, job, lambda view: view.state is JobState.RUNNING and view.step > 3)
        yield job
    finally:
        client.cancel(job)
        wait(client, job, lambda view: view.state.final)
