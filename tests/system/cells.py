"""Cells that the system tests submit, and how they submit and follow them."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resilient_nb.client import Client
from resilient_nb.core.hangs import NEVER
from resilient_nb.core.model import Cell, Interval, JobSpec
from resilient_nb.core.views import JobView
from resilient_nb.wire.requests import Submit

#: Everything that a resumed run must get back: dropout's random numbers, BatchNorm's running
#: statistics (which differ by rank), optimizer and scheduler, a list, a counter, mid-epoch data.
TRAIN = """
import os, time, torch
from torch import nn
model = nn.Sequential(
    nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
features = torch.randn(210, 12)
labels = (features.sum(1) > 0).long() + (features[:, 0] > 1).long()
data = torch.utils.data.TensorDataset(features, labels)
run.track(model=model, optimizer=optimizer, scheduler=scheduler)
history, seen = [], 0
print("rank", run.rank, "begins at step", run.step)
for x, y in run.batches(data, batch_size=30, epochs={epochs}, shuffle=True):
    while not os.path.exists({gates}.get(run.step, '/')): time.sleep(0.01)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    run.log(loss=loss)
    history.append(loss.item())
    seen += len(x)
    time.sleep(0 if os.path.exists({until!r}) else {pause})
weights = {{k: v.clone() for k, v in model.state_dict().items()}}
"""


#: Options of a job that stands still at gates.
GATED = {"hang_after": NEVER}


def train(
    epochs: int = 6,
    pause: float = 0.0,
    gates: Mapping[int, Path] | None = None,
    until: Path | None = None,
) -> str:
    """Return the training cell: 7 steps an epoch.

    After so many steps it waits until there is a file of that name: what a test does to a job
    that trains is done before it ends, however slow the machine is. It must not count as hung
    meanwhile: `**GATED`. Where steps must be made all the while, it pauses in each until there is
    a file `until`.
    """
    closed = {step: str(path) for step, path in (gates or {}).items()}
    return TRAIN.format(epochs=epochs, pause=pause, gates=closed, until=str(until or ""))


def submit(
    client: Client,
    run: str,
    source: str,
    workers: int = 2,
    out: tuple[str, ...] = (),
    every: Interval | None = None,
    resume: str = "auto",
    **options: Any,
) -> str:
    """Submit a cell and return the job."""
    cell = Cell(source, "Cell In[1]", "Cell In[1]")
    spec = JobSpec(cell, workers=workers, out=out, interval=every or Interval(steps=5), **options)
    return client.submit(Submit(run, spec, uuid.uuid4().hex, resume=resume)).job


def wait(client: Client, job: str, until: Callable[[JobView], bool]) -> JobView:
    """Return the job as soon as `until` holds (pytest-timeout bounds it)."""
    seen = -1
    while True:
        watched = client.watch(job, seen, 5.0)
        seen = watched.version
        if until(watched.job):
            return watched.job
        assert not watched.job.state.final, watched.job


def finish(client: Client, job: str) -> JobView:
    """Return the job when it has ended."""
    return wait(client, job, lambda view: view.state.final)


def results(client: Client, job: str) -> dict[str, Any]:
    """Return what the job returned."""
    values: dict[str, Any] = pickle.loads(client.out(job))
    return values
