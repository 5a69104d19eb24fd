"""Real ranks whose loss diverges: who is blamed, what is kept, and what they compute afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gangs import Gang, Make, Supervised, making, returned

from cells import finish, results, submit
from resilient_nb.client import Client
from resilient_nb.core.causes import DIVERGED
from resilient_nb.core.diagnosis import diagnose
from resilient_nb.core.model import Interval, JobState, OnNan, Outcome, RankEnd, StopPolicy
from resilient_nb.wire.orders import Kill, RankDone

#: Ten steps an epoch. Sample 45 is in the sixth batch, in the second rank's half if there are two.
TRAIN = """
import torch
from torch import nn
model = nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
features = torch.randn(80, 4)
labels = features.sum(1, keepdim=True)
features[45] = float("nan")
data = torch.utils.data.TensorDataset(features, labels)
run.track(model=model, optimizer=optimizer)
losses = []
for number, (x, y) in enumerate(run.batches(data, batch_size=8, epochs=2), run.step + 1):
    {first}
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    {log}
    losses.append(loss.item())
weights = [p.detach().clone() for p in model.parameters()]
"""
LOG = "run.log(loss=loss)"
BAD = (6, 16)


def train(log: str = LOG, first: str = "pass") -> str:
    return TRAIN.format(log=log, first=first)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Supervised]]:
    made = [Supervised(tmp_path_factory.mktemp("h0") / "place")]
    yield made
    for host in made:
        host.end()


@pytest.fixture
def gang(hosts: list[Supervised], tmp_path: Path) -> Make:
    return making(hosts, tmp_path)


def failed(gang: Gang) -> list[RankEnd]:
    """Wait until a rank has failed, and end the others, as control does."""
    gang.wait(lambda: gang._all(RankDone))
    for host in gang.hosts:
        host.send(Kill(gang.job, gang.epoch))
    return gang.ended()


@pytest.mark.parametrize("ranks", [1, 2])
def test_without_its_batches_a_run_computes_what_a_bare_loop_without_them_does(
    gang: Make, ranks: int
) -> None:
    bare = gang(train(first=f"if number in {BAD}: continue"), out=("losses", "weights"))
    bare.begin([ranks])
    assert {end.outcome for end in bare.ended()} == {Outcome.FINISHED}

    made = gang(train(), out=("losses", "weights"), interval=Interval(steps=2))
    skip: tuple[int, ...] = ()
    kept: list[Any] = []
    for bad in BAD:
        made.begin([ranks], on_nan=OnNan.SKIP, skip=skip)
        found = diagnose(failed(made))
        assert (found.cause, found.rank, found.step) == (DIVERGED, ranks - 1, bad - 1)
        assert found.error is not None
        assert (found.error.type, found.error.metric) == ("Diverged", "loss")
        assert f"loss is nan at step {bad} on rank {ranks - 1}." in found.error.message
        assert all(c.step < bad for c in made.checkpoints)
        kept += made.checkpoints
        made.head = max((c for c in kept if c.step <= bad - 2), key=lambda c: c.step, default=None)
        assert made.head is not None
        skip = (*skip, bad)
    made.begin([ranks], on_nan=OnNan.SKIP, skip=skip)
    assert {(end.outcome, end.step) for end in made.ended()} == {(Outcome.FINISHED, 20)}
    assert "Step 16 was left out: its loss was not finite." in made.notes
    ours, expected = returned(made), returned(bare)
    assert ours["losses"] == expected["losses"]
    assert all(a.equal(b) for a, b in zip(ours["weights"], expected["weights"], strict=True))


@pytest.mark.parametrize(
    "log",
    [
        "try: run.log(loss=loss)\n    except Exception: pass",
        "try: run.log(loss=loss)\n    except BaseException: pass",
        "try: run.log(loss=loss)\n    except BaseException: break",
        "try: run.log(loss=loss)\n    except BaseException as e: raise ValueError('mine') from e",
        "try: run.log(loss=loss)\n    except BaseException: run.checkpoint('bad'); run.log(x=1)",
    ],
)
def test_no_cell_goes_on_after_it_and_no_checkpoint_has_its_step(gang: Make, log: str) -> None:
    made = gang(train(log), interval=Interval(steps=6))
    made.begin([1], on_nan=OnNan.SKIP)
    found = diagnose(made.ended())
    assert (found.cause, found.step) == (DIVERGED, 5)
    assert made.checkpoints == []


def test_nobody_looks_if_told_so(gang: Make) -> None:
    made = gang(train(), interval=Interval(steps=100))
    made.begin([1], on_nan=OnNan.IGNORE)
    assert [(end.outcome, end.step) for end in made.ended()] == [(Outcome.FINISHED, 20)]


#: Each step moves w by its learning rate; the loss of one step is infinite.
STEPS = """
import torch
w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
optimizer = torch.optim.SGD([w], lr=1.0)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
run.track(w=w, optimizer=optimizer, scheduler=scheduler)
for n in run.steps(12):
    w.grad = torch.ones_like(w)
    optimizer.step()
    scheduler.step()
    run.log(loss=float("inf") if run.step + 1 == {bad} else 1.0)
total, rate = -w.item(), optimizer.param_groups[0]["lr"]
"""


def test_the_rate_is_lowered_once_for_each_divergence(gang: Make) -> None:
    made = gang("", out=("total", "rate"), interval=Interval(steps=2))
    expected, at, scale = 0.0, 0, 1.0
    for bad in (8, 11, 0):
        made.source = STEPS.format(bad=bad)
        made.begin([1], on_nan=OnNan.LOWER_LR, lr_scale=scale)
        [end] = made.ended()
        reached = 12
        if bad:
            assert (diagnose([end]).cause, end.step) == (DIVERGED, bad - 1)
            made.head = max(
                (c for c in made.checkpoints if c.step <= bad - 2), key=lambda c: c.step
            )
            reached = made.head.step
            wanted = None if scale == 1 else {"factor": scale, "own": scale}
            assert made.info().get("lowered") == wanted
        else:
            assert end.outcome is Outcome.FINISHED
            assert any("multiplied by 0.25" in note for note in made.notes)
        expected += sum(scale * 0.5 ** (step // 5) for step in range(at, reached))
        at, scale = reached, scale / 2
    assert returned(made)["total"] == pytest.approx(expected)
    assert returned(made)["rate"] == pytest.approx(0.5 ** (12 // 5))  # as the schedule has it


def test_a_loop_without_data_leaves_steps_out_too(gang: Make) -> None:
    made = gang(STEPS.format(bad=0), out=("total",))
    made.begin([1], on_nan=OnNan.SKIP, skip=(3, 12), spike=5.0)
    assert [(end.outcome, end.step) for end in made.ended()] == [(Outcome.FINISHED, 12)]
    assert returned(made)["total"] == 5 + 5 * 0.5  # ten steps, of which each fifth halves the rate
    assert "Step 3 was left out: its loss was not finite, or far off." in made.notes


ASYNC = """
import asyncio
async def loss(n):
    await asyncio.sleep(0)
    return 100.0 if n == 30 else 1.0
for n in run.steps(50):
    run.log(loss=await loss(n))
"""


def test_a_spike_counts_if_asked_for_in_an_async_cell_too(gang: Make) -> None:
    made = gang(ASYNC)
    made.begin([1], on_nan=OnNan.SKIP, spike=10.0)
    found = diagnose(made.ended())
    assert (found.cause, found.step) == (DIVERGED, 30)
    assert "more than 10 times its usual 1, at step 31" in found.message
    made.begin([1], on_nan=OnNan.SKIP)
    assert [(end.outcome, end.step) for end in made.ended()] == [(Outcome.FINISHED, 50)]


# --- a whole cluster ---


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_goes_back_and_on_without_the_batch_that_did_harm(
    client: Client, workers: int
) -> None:
    out = ("losses", "weights")
    bare = submit(
        client, f"bare-{workers}", train(first=f"if number in {BAD}: continue"), workers, out
    )
    job = submit(client, f"nan-{workers}", train(), workers, out, Interval(steps=2))
    view = finish(client, job)
    assert (view.state, view.attempts, view.step) == (JobState.SUCCEEDED, 3, 20)
    assert [(f.cause, f.rank, f.step, f.decision) for f in view.failures] == [
        (DIVERGED, workers - 1, bad - 1, "retry") for bad in BAD
    ]
    assert "without step 6" in view.failures[0].reason
    assert "Step 6 was left out: its loss was not finite." in view.notes
    finish(client, bare)
    ours, expected = results(client, job), results(client, bare)
    assert ours["losses"] == expected["losses"]
    assert all(a.equal(b) for a, b in zip(ours["weights"], expected["weights"], strict=True))


def test_a_job_that_diverges_whatever_is_done_is_given_up(client: Client) -> None:
    source = "for n in run.steps(50):\n    run.log(loss=float('nan') if n >= 8 else 1.0)\n"
    source += "    if n == 3: run.checkpoint()"
    view = finish(client, submit(client, "hopeless", source, 1, on_nan=OnNan.LOWER_LR))
    assert (view.state, view.attempts) == (JobState.FAILED, 4)
    assert view.failures[-1].spent
    stopped = finish(client, submit(client, "stops", source, 1, on_nan=OnNan.STOP))
    assert (stopped.state, stopped.attempts) == (JobState.FAILED, 1)


def test_a_deadline_that_passes_stops_a_job_at_a_checkpoint_by_policy(client: Client) -> None:
    source = "import time\ndone = [0]\nrun.track(done=done)\nfor n in run.steps(10_000):\n"
    source += "    done[0] += 1; time.sleep(0.02); run.log(loss=1 / (n + 1))"
    options: dict[str, Any] = {"deadline": 2.0, "stop_policy": StopPolicy.STOP}
    view = finish(client, submit(client, "timely", source, 1, every=Interval(steps=10), **options))
    assert view.state is JobState.CANCELLED
    assert view.reason.startswith("Stopped, since it misses its deadline (--stop-policy stop).")
    last = client.runs("timely")[0].checkpoints[-1]
    assert (last.step, last.tags) == (view.step, ("best",))


#: The sixth step has a finite loss, and gradients that aren't: the loss of the seventh tells.
GRADIENTS = """
import torch
w = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([w], lr=1.0)
run.track(w=w, optimizer=optimizer)
for n in run.steps(12):
    run.log(loss=w)
    w.grad = torch.full_like(w, float("nan") if n == 5 else 1.0)
    optimizer.step()
total = -w.item()
"""


def test_a_step_that_only_had_bad_gradients_is_found_out(client: Client) -> None:
    job = submit(client, "gradients", GRADIENTS, 1, ("total",), Interval(steps=1))
    view = finish(client, job)
    assert (view.state, [f.step for f in view.failures]) == (JobState.SUCCEEDED, [6, 7])
    assert [f.reason.partition(", ")[2].partition(":")[0] for f in view.failures] == [
        "without step 7",
        "without steps 6 and 8",
    ]
    assert results(client, job)["total"] == 9
