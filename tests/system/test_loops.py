"""What a cell may do around its loops, resumed in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cells import GATED, finish, results, submit, wait
from resilient_nb.client import Client
from resilient_nb.core.model import Cell, Interval, JobSpec, JobState
from resilient_nb.handles import Run
from resilient_nb.wire.requests import Submit

OUTER = """
import os, random, time, torch
from torch import nn
model = nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
run.track(model=model, optimizer=optimizer)
features = torch.randn(40, 4)
data = torch.utils.data.TensorDataset(features, features.sum(1, keepdim=True))
orders, drawn, best = [], [], None
for epoch in range(4):
    order = []
    for x, y in run.batches(data, batch_size=8, shuffle=True):
        while run.step == 16 and not os.path.exists({gate!r}): time.sleep(0.01)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        order.append(round(x.sum().item(), 4))
        time.sleep({pause})
    orders.append(order)
    drawn.append(random.random())
    best = loss.item() if best is None else min(best, loss.item())
weight = model.weight.detach().clone()
"""


def test_a_plain_loop_over_epochs_resumes_in_the_third(client: Client, tmp_path: Path) -> None:
    out = ("orders", "drawn", "best", "weight")
    killed = tmp_path / "killed"
    calm = finish(client, submit(client, "epochs-calm", OUTER.format(pause=0, gate="/"), 2, out)).id
    source = OUTER.format(pause=0.05, gate=str(killed))
    job = submit(client, "epochs", source, 2, out, Interval(steps=3), **GATED)
    view = wait(client, job, lambda v: v.step >= 13)
    os.kill(view.ranks[0].pid, signal.SIGKILL)
    killed.touch()
    assert finish(client, job).attempts == 2
    ours, theirs = results(client, job), results(client, calm)
    assert ours["weight"].equal(theirs["weight"])
    assert (ours["best"], ours["drawn"]) == (theirs["best"], theirs["drawn"])
    # What ran again before the place of the checkpoint was overwritten by what was stored.
    assert ours["orders"] == theirs["orders"]
    assert len({tuple(order) for order in theirs["orders"]}) == 4, "each epoch has its own order"


LONGER = """
import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in run.steps({steps}):
    loss = model(torch.randn(4, 2)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if run.step == {stop}:
        run.checkpoint(tag="last")
        break
weight = model.weight.detach().clone()
"""


def test_a_finished_run_trains_longer(client: Client) -> None:
    whole = submit(client, "uncut", LONGER.format(steps=20, stop=99), 1, ("weight",))
    finish(client, whole)
    for every in (5, 7):
        name = f"longer-{every}"
        first = LONGER.format(steps=10, stop=99)
        finish(client, submit(client, name, first, 1, ("weight",), Interval(steps=every)))
        spec = JobSpec(
            Cell(LONGER.format(steps=20, stop=99)), out=("weight",), interval=Interval(steps=5)
        )
        more = client.submit(Submit(name, spec, f"more-{every}", resume=f"{name}@10")).job
        assert finish(client, more).step == 20
        assert results(client, more)["weight"].equal(results(client, whole)["weight"])


def test_a_broken_loop_keeps_and_tags_its_last_update(client: Client) -> None:
    job = submit(client, "cut-short", LONGER.format(steps=50, stop=11), 1, ("weight",))
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    assert view.step == 12
    state = Run(client, "cut-short").load("last", only="model")
    assert state["weight"].equal(results(client, job)["weight"])


def test_nested_loops_are_refused(client: Client) -> None:
    nested = "for a in run.steps(2):\n    for b in run.steps(2):\n        pass"
    view = finish(client, submit(client, "nested", nested, 1))
    assert view.state is JobState.FAILED
    assert "inside one another" in view.failures[-1].message


EARLY = """
import os, signal, torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
features = torch.randn(40, 4)
data = torch.utils.data.TensorDataset(features, features.sum(1, keepdim=True))
best, bad, values = float("inf"), 0, []
def train():
    for x, y in run.batches(data, batch_size=8, shuffle=True):
        if run.step == 37 and run.rank == 0 and not os.path.exists({killed!r}):
            open({killed!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
for epoch in range(40):
    train()
    with torch.no_grad():
        value = (model(features) - features.sum(1, keepdim=True)).square().mean().item()
    run.log(value=value)
    values.append(value)
    best, bad = (value, 0) if value < best - 2e-3 else (best, bad + 1)
    if bad >= 3: break
weight = model.weight.detach().clone()
"""


def test_early_stopping_stops_where_it_would_have(client: Client, tmp_path: Path) -> None:
    """What it decides on is computed again with a later model, up to the checkpoint's place."""
    killed = {name: str(tmp_path / name) for name in ("early", "early-calm")}
    Path(killed["early-calm"]).touch()
    views, found = {}, {}
    for name, path in killed.items():
        job = submit(
            client, name, EARLY.format(killed=path), 2, ("values", "epoch", "weight"),
            Interval(steps=3),
        )  # fmt: skip
        views[name], found[name] = finish(client, job), results(client, job)
    assert [views[name].attempts for name in killed] == [2, 1]
    ours, theirs = found["early"], found["early-calm"]
    assert 7 < theirs["epoch"] < 39
    assert (ours["values"], ours["epoch"]) == (theirs["values"], theirs["epoch"])
    assert ours["weight"].equal(theirs["weight"])
    # Nor was anything recorded of what was computed with the wrong model.
    points = {name: set(view.series["value"]) for name, view in views.items()}
    assert points["early"] <= points["early-calm"]


def test_a_cell_that_no_longer_gets_to_the_place_says_so(client: Client) -> None:
    source = """
import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range({epochs}):
    for _ in run.steps(4):
        loss = model(torch.randn(4, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
    finish(client, submit(client, "shorter", source.format(epochs=3), 1))
    again = Submit("shorter", JobSpec(Cell(source.format(epochs=2))), "again", resume="shorter@10")
    view = finish(client, client.submit(again).job)
    assert view.state is JobState.FAILED
    assert "ended after 2 of its loops" in view.failures[-1].message
    assert view.attempts == 1, "it would happen again"


FAILS = """
import torch
model = torch.nn.Linear(2048, 2048)
optimizer = torch.optim.AdamW(model.parameters())
for step in run.steps(40):
    loss = model(torch.ones(1, 2048)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 30:
        run.checkpoint()
    if step == 31:
        raise ValueError("after it")
"""


def test_a_checkpoint_that_is_being_written_as_the_cell_fails_is_kept(client: Client) -> None:
    view = finish(client, submit(client, "fails", FAILS, 2, every=Interval(steps=1000)))
    assert view.state is JobState.FAILED
    assert {c.step for c in Run(client, "fails").checkpoints} == {31}
