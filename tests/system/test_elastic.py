"""An elastic job on a cluster that others use too: any size, any kill, the same numbers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cells import finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Interval, JobState, Priority, Scaling
from resilient_nb.core.views import JobView

OUT = ("weights", "history", "seen")
EVERY = Interval(steps=10)
EPOCHS = 150  # of 7 steps
BUSY = "import time\nfor _ in run.steps(100_000): time.sleep(0.02)"


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The client of a cluster of four slots, where nobody waits for long."""
    home = tmp_path_factory.mktemp("home")
    (home / "policy.toml").write_text('patience = "1s"\n')
    before = os.environ.get("RESILIENT_NB_HOME")
    os.environ["RESILIENT_NB_HOME"] = str(home)
    settings = load_settings()
    client = Client(embedded.up(settings, 4, print).address, patience=40.0)
    try:
        yield client
    finally:
        client.close()
        embedded.down(settings, print)
        left = processes_of(home)
        if before is None:
            del os.environ["RESILIENT_NB_HOME"]
        else:
            os.environ["RESILIENT_NB_HOME"] = before
    assert left == []


def running(view: JobView) -> bool:
    return view.state is JobState.RUNNING and all(rank.pid for rank in view.ranks)


def kill_one(client: Client, job: str, holding: Callable[[JobView], bool]) -> None:
    """kill -9 the last rank once it has made steps at this size; wait until it goes on."""
    view = wait(client, job, lambda v: running(v) and holding(v))
    view = wait(client, job, lambda v: running(v) and holding(v) and v.step >= view.step + 3)
    os.kill(view.ranks[-1].pid, signal.SIGKILL)
    failures = len(view.failures)
    wait(client, job, lambda v: len(v.failures) > failures and running(v) and v.step >= view.step)


GROWING = """
import time, torch
data = torch.utils.data.TensorDataset(torch.arange(14000))
w = torch.nn.Linear(1, 1, bias=False)
first = w.weight.item()
optimizer = torch.optim.SGD(w.parameters(), lr=0.5)
run.track(w=w, optimizer=optimizer)
moved, samples = 0.0, 0
for [x] in run.batches(data, batch_size=20, shuffle=True):
    optimizer.zero_grad()
    w(torch.ones(len(x), 1)).mean().backward()
    optimizer.step()
    moved += 0.5 * run.workers / 2
    size = torch.tensor([len(x)])
    torch.distributed.all_reduce(size)
    samples += size.item()
    time.sleep(0.04)
result = samples, moved, first - w.weight.item(), optimizer.param_groups[0]["lr"]
"""


def test_a_job_that_scales_its_rate_says_so_and_sees_each_sample_once(four: Client) -> None:
    job = submit(four, "growing", GROWING, 2, ("result",), EVERY, max_workers=4,
                 scaling=Scaling.LINEAR)  # fmt: skip
    view = wait(four, job, lambda v: running(v) and v.held == 4 and v.step >= 20)
    assert len(view.ranks) == 4
    other = submit(four, "other", BUSY, 2, priority=Priority.HIGH)
    view = wait(four, job, lambda v: running(v) and v.held == 2 and v.step > view.step)
    assert len(view.ranks) == 2
    cancel(four, other)
    view = finish(four, job)
    assert view.state is JobState.SUCCEEDED, view.failures
    assert not view.failures
    for workers in (2, 4):
        said = f"On {workers} workers (2 at least): global batch {workers * 10}, learning rate × "
        assert any(note.startswith(said) for note in view.notes), view.notes
    samples, moved, change, rate = results(four, job)["result"]
    assert (samples, rate) == (14000, 0.5)
    assert change == pytest.approx(moved, rel=1e-4)


def cancel(client: Client, job: str) -> None:
    client.cancel(job)
    finish(client, job)


@pytest.mark.timeout(400)
def test_4_2_1_4_workers_with_kills_give_the_numbers_of_a_fixed_size(
    four: Client, tmp_path: Path
) -> None:
    fixed = submit(four, "fixed", train(EPOCHS), 4, OUT, EVERY)
    assert finish(four, fixed).state is JobState.SUCCEEDED

    job = submit(four, "elastic", train(EPOCHS, pause=0.04), 1, OUT, EVERY, max_workers=4)
    view = wait(four, job, lambda v: running(v) and v.held == 4)
    assert len(view.ranks) == 4
    kill_one(four, job, lambda v: v.held == 4)

    first = submit(four, "first", BUSY, 2, priority=Priority.HIGH)
    kill_one(four, job, lambda v: v.held == 2)
    assert wait(four, first, running).held == 2

    second = submit(four, "second", BUSY, 1, priority=Priority.HIGH)
    kill_one(four, job, lambda v: v.held == 1)
    wait(four, second, running)

    cancel(four, second)
    cancel(four, first)
    kill_one(four, job, lambda v: v.held == 4)

    view = finish(four, job)
    assert view.state is JobState.SUCCEEDED, view.failures
    assert [f.cause for f in view.failures] == ["killed from outside"] * 4
    ours, theirs = results(four, job), results(four, fixed)
    assert ours["history"] == theirs["history"]
    assert ours["seen"] == theirs["seen"]
    for name, tensor in theirs["weights"].items():
        assert torch.equal(ours["weights"][name], tensor), name
    assert four.resolve("elastic").digest == four.resolve("fixed").digest
