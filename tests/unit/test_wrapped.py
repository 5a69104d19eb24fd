"""Modules that DDP or FSDP takes care of: nothing of ours averages or broadcasts them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from resilient_nb.rank.boundary import Boundary
from resilient_nb.rank.gradients import GradientAveraging, averages_itself, left_out
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import Phases
from resilient_nb.rank.state import Tracker


@pytest.fixture(autouse=True)
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Its hook is on every optimizer of the process, and would outlive the test.
    monkeypatch.setattr(
        "resilient_nb.rank.boundary.register_optimizer_step_post_hook", lambda hook: None
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Team:
    """A rank of two that remembers what it was to broadcast."""

    rank, world_size = 0, 2

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        self.sent += tensors


def a_boundary(namespace: dict[str, Any], notes: list[str]) -> tuple[Boundary, Team]:
    team, tracker = Team(), Tracker(0, namespace, notes.append)
    schedule: Any = SimpleNamespace(
        waited=None, plan=lambda _: None, look=lambda _: 1, resume=lambda: None
    )
    telemetry, leaving = SimpleNamespace(phases=Phases()), SimpleNamespace(asked=False)
    rest: list[Any] = [team, tracker, None, telemetry, leaving, None]
    parts = Parts(*rest)
    return Boundary(parts, schedule, None, notes.append), team


def a_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was averaged by us; DDP and FSDP don't come by here."""
    sizes: list[int] = []
    monkeypatch.setattr(
        "resilient_nb.rank.gradients.dist.all_reduce", lambda flat: sizes.append(flat.numel())
    )
    return sizes


def backward(module: nn.Module) -> None:
    module(torch.ones(2, 3)).sum().backward()


def test_who_averages_itself() -> None:
    assert not averages_itself(a_net())
    assert averages_itself(DistributedDataParallel(a_net()))
    assert averages_itself(nn.ModuleDict({"inner": DistributedDataParallel(a_net())}))
    sharded = a_net()
    fully_shard(sharded)
    assert averages_itself(sharded)
    backward(sharded)
    assert averages_itself(sharded)  # also while its parameters are whole


@pytest.mark.parametrize("tracked", ["net", "wrapped"])
def test_a_module_in_ddp_is_left_to_it(tracked: str, reduced: list[int]) -> None:
    net = a_net()
    names = {"net": net, "wrapped": DistributedDataParallel(net)}
    boundary, team = a_boundary(names, [])
    boundary.track({tracked: names[tracked]})
    backward(names["wrapped"])
    assert (team.sent, reduced) == ([], [])


def test_a_module_that_is_wrapped_after_it_was_tracked(reduced: list[int]) -> None:
    names: dict[str, Any] = {"net": a_net()}
    boundary, team = a_boundary(names, [])
    boundary.track(names)
    assert len(team.sent) == 4
    backward(names["net"])
    assert reduced.pop() == 25
    names["wrapped"] = DistributedDataParallel(names["net"])
    boundary.enter(0)
    backward(names["wrapped"])
    assert (len(team.sent), reduced) == (4, [])


@pytest.mark.parametrize("before", [False, True])
def test_a_sharded_module_is_left_alone(before: bool, reduced: list[int]) -> None:
    net = a_net()
    boundary, team = a_boundary({"net": net}, [])
    if before:
        boundary.track({"net": net})
    fully_shard(net)
    weights = [p.detach().full_tensor() for p in net.parameters()]  # type: ignore[operator]
    boundary.track({"net": net})
    boundary.enter(0)
    backward(net)
    assert len(team.sent) == (4 if before else 0)
    assert reduced == []
    assert all(
        torch.equal(p.detach().full_tensor(), w)  # type: ignore[operator]
        for p, w in zip(net.parameters(), weights, strict=True)
    )


def test_other_modules_are_averaged_all_the_same(reduced: list[int]) -> None:
    names: dict[str, Any] = {"a": a_net(), "b": a_net()}
    fully_shard(names["a"])
    boundary, team = a_boundary(names, [])
    boundary.enter(0)
    backward(names["a"])
    assert reduced == []
    backward(names["b"])
    assert (len(team.sent), reduced) == (4, [25])


def test_what_is_detached_can_be_attached_again(reduced: list[int]) -> None:
    net, averaging = a_net(), GradientAveraging(2)
    averaging.attach(net)
    averaging.detach(net)
    assert net not in averaging
    backward(net)
    averaging.detach(net)  # twice does no harm
    assert reduced == []
    averaging.attach(net)
    backward(net)
    assert reduced == [25]


def test_parameters_that_nobody_averages_are_named() -> None:
    net = a_net()
    fully_shard(net, ignored_params={net[1].weight, net[1].bias})
    net[1].bias.requires_grad_(False)
    assert left_out(net) == ["1.weight"]
    notes: list[str] = []
    boundary, _ = a_boundary({"net": net}, notes)
    boundary.enter(0)
    assert [note for note in notes if "nobody averages" in note] == [
        "Of 'net' some parameters are sharded, but not 1.weight (1 in all): nobody averages its "
        "gradients over ranks."
    ]
    assert left_out(a_net()) == []
