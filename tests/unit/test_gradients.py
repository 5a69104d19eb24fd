"""`rank.gradients` on real process groups: the average is the full batch's gradient."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from resilient_nb.errors import InvalidRequest
from resilient_nb.rank import gradients
from resilient_nb.rank.batches import _slice
from resilient_nb.rank.gradients import GradientAveraging

Body = Callable[[int, int], Any]


def _rank(body: Body, rank: int, world: int, store: str, answers: Any) -> None:
    try:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world
        )
        answers.put((rank, body(rank, world), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
    answers.close()
    answers.join_thread()


def on_ranks(world: int, body: Body) -> list[Any]:
    """Run `body(rank, world)` in processes of one gloo group; return what each gives."""
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "store"))
        ranks = [
            fork.Process(target=_rank, args=(body, r, world, store, answers)) for r in range(world)
        ]
        for process in ranks:
            process.start()
        try:
            told = [answers.get(timeout=60) for _ in ranks]
            found = {rank: (value, error) for rank, value, error in told}
        finally:
            for process in ranks:
                process.join(20)
                process.kill()
    assert not [error for _, error in found.values() if error], found
    return [found[r][0] for r in range(world)]


class Net(nn.Module):
    """Two branches; `use` says which of them takes part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))
        self.double()

    def forward(self, x: torch.Tensor, use: tuple[int, ...] = (0, 1)) -> torch.Tensor:
        h = torch.tanh(self.body(x))
        return sum((self.heads[n](h) for n in use), torch.zeros(())).pow(2).mean()


def data(count: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def grads(net: nn.Module) -> list[list[float] | None]:
    return [None if p.grad is None else p.grad.flatten().tolist() for p in net.parameters()]


def close(a: Any, b: Any) -> bool:
    return all(
        (x is None and y is None) or torch.allclose(torch.tensor(x), torch.tensor(y), atol=1e-12)
        for x, y in zip(a, b, strict=True)
    )


def averaged(world: int) -> tuple[Net, GradientAveraging]:
    net, averaging = Net(), GradientAveraging(world)
    averaging.attach(net)
    return net, averaging


def full_gradient(count: int, times: int = 1) -> Any:
    net = Net()
    for _ in range(times):
        net(data(count)).backward()
    return grads(net)


@pytest.mark.parametrize(("world", "count"), [(2, 8), (2, 7), (3, 7), (3, 2)])
def test_uneven_shares_average_to_the_full_batchs_gradient(world: int, count: int) -> None:
    """With fewer samples than ranks, one takes part with weight 0."""

    def body(rank: int, world: int) -> Any:
        net, averaging = averaged(world)
        rows, averaging.weight = _slice(list(range(count)), rank, world)
        net(data(count)[list(rows)]).backward()
        return grads(net)

    found = on_ranks(world, body)
    assert close(found[0], full_gradient(count))
    assert all(one == found[0] for one in found)  # bit for bit the same on every rank


def test_accumulated_gradients_and_small_buckets() -> None:
    """Two backward passes before a step; every parameter in a bucket of its own."""

    def body(rank: int, world: int) -> Any:
        gradients.BUCKET_BYTES = 1  # in this process only
        net, averaging = averaged(world)
        for _ in range(2):
            net(data(8)[rank * 4 : rank * 4 + 4]).backward()
        [buckets] = averaging._modules.values()
        return grads(net), len(buckets)

    found = on_ranks(2, body)
    assert close(found[0][0], full_gradient(8, times=2))
    assert found[0] == found[1]
    assert found[0][1] == len(list(Net().parameters()))


def test_parameters_unused_on_one_rank_get_their_share_and_those_unused_everywhere_none() -> None:
    def body(rank: int, world: int) -> Any:
        net, _ = averaged(world)
        net(data(4), use=(0,) if rank == 0 else (0, 1)).backward()
        return grads(net)

    def full() -> Any:
        net = Net()
        sum(0.5 * net(data(4), use=use) for use in [(0,), (0, 1)]).backward()  # type: ignore[union-attr]
        return grads(net)

    found = on_ranks(2, body)
    assert close(found[0], full())
    assert found[0] == found[1]
    assert found[0][-2:] == [None, None]  # the third head: an optimizer must skip it


def test_a_repeated_run_adds_in_the_same_order() -> None:
    def body(rank: int, world: int) -> Any:
        net, _ = averaged(world)
        for step in range(3):
            net.zero_grad()
            net(data(9)[rank * 3 : rank * 3 + 3] * (step + 1)).backward()
            with torch.no_grad():  # by hand: an optimizer would import much in each process
                for p in net.parameters():
                    p -= 0.1 * p.grad if p.grad is not None else 0.0
        return [p.flatten().tolist() for p in net.parameters()]

    first, again = on_ranks(3, body), on_ranks(3, body)
    assert first == again
    assert first[0] == first[1] == first[2]


# --- without processes ---


@pytest.fixture
def reduces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand in for the collective: two ranks with equal gradients; returns the sizes reduced."""
    sizes: list[int] = []

    def all_reduce(flat: torch.Tensor) -> None:
        sizes.append(flat.numel())
        flat.mul_(2)

    monkeypatch.setattr(gradients.dist, "all_reduce", all_reduce)
    return sizes


def test_one_reduction_for_each_backward_pass(reduces: list[int]) -> None:
    net, _ = averaged(2)
    for times in (1, 2):
        net(data(4)).backward()
        assert len(reduces) == times


def test_attaching_twice_averages_once(reduces: list[int]) -> None:
    net, averaging = averaged(2)
    averaging.attach(net)
    averaging.attach(nn.Sequential(net.body))  # shares its parameters
    assert net in averaging
    net(data(4)).backward()
    assert len(reduces) == 1


def test_frozen_parameters_are_left_alone(reduces: list[int]) -> None:
    net = Net()
    net.body.requires_grad_(False)
    averaging = GradientAveraging(2)
    averaging.attach(net)
    net(data(4)).backward()
    assert net.body.weight.grad is None
    assert reduces == [sum(p.numel() + 1 for p in net.heads.parameters())]


def test_dtypes_are_reduced_apart(reduces: list[int]) -> None:
    net = nn.ModuleList([nn.Linear(2, 1).float(), nn.Linear(3, 1).double()])
    GradientAveraging(2).attach(net)
    loss = net[0](torch.ones(1, 2)).sum().double() + net[1](torch.ones(1, 3).double()).sum()
    loss.backward()
    assert sorted(reduces) == [5, 6]


def test_a_backward_pass_that_failed_doesnt_end_the_averaging(reduces: list[int]) -> None:
    """The cell may catch the error and go on: its gradients must still be averaged."""
    net, _ = averaged(2)

    def explode(grad: torch.Tensor) -> None:
        raise RuntimeError("no")

    loss = net(data(4))
    handle = net.body.weight.register_hook(explode)
    with pytest.raises(RuntimeError, match="no"):
        loss.backward()
    handle.remove()
    net.zero_grad()
    before = len(reduces)
    net(data(4)).backward()
    assert len(reduces) == before + 1


def test_sparse_gradients_are_refused_with_a_way_out(reduces: list[int]) -> None:
    net = nn.Embedding(5, 2, sparse=True)
    GradientAveraging(2).attach(net)
    with pytest.raises(InvalidRequest, match="sparse=False"):
        net(torch.tensor([1])).sum().backward()
