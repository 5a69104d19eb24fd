"""`rank.waiting`: gradients accumulated over turns are kept until their optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard as Split

from resilient_nb.errors import CannotStore, InvalidRequest
from resilient_nb.rank.run import Run
from resilient_nb.rank.sharded import local_of
from resilient_nb.rank.snapshot import Snapshot
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.waiting import NAME, waiting_gradients
from tests.unit.meshes import as_rank, placed
from tests.unit.shelf import Shelf


def a_tracker(objects: dict[str, Any]) -> Tracker:
    tracker = Tracker(0, {}, print)
    for name, value in objects.items():
        tracker.add(name, value)
    return tracker


def two() -> dict[str, Any]:
    """Two modules with an optimizer each, as a GAN has them, and a parameter by itself."""
    torch.manual_seed(0)
    objects: dict[str, Any] = {"g": nn.Linear(2, 3), "d": nn.Linear(3, 1)}
    objects["w"] = nn.Parameter(torch.ones(2))
    for name in ("g", "d"):
        objects[f"{name}_optimizer"] = torch.optim.SGD(objects[name].parameters(), lr=0.1)
    return objects


def backward(objects: dict[str, Any]) -> None:
    objects["d"](objects["g"](objects["w"])).sum().backward()


def names(objects: dict[str, Any], *stepped: str) -> list[str]:
    found = waiting_gradients(objects, {id(objects[name]) for name in stepped})
    return [f"{name}/{key}" for name, keys in found.items() for key in keys]


def test_which_gradients_wait() -> None:
    objects = two()
    assert names(objects) == []
    backward(objects)
    every = ["g/weight", "g/bias", "d/weight", "d/bias", "w/value"]
    assert names(objects) == every
    assert names(objects, "d_optimizer") == every[:2]
    assert names(objects, "g_optimizer", "d_optimizer") == []
    objects["g"].zero_grad()
    assert names(objects, "d_optimizer") == []


def taken(shelf: Shelf, tracker: Tracker, step: int = 20) -> Any:
    snapshot: Snapshot = tracker.snapshot(stepped=set())
    return shelf.write(snapshot, step)


@pytest.fixture
def shelf(tmp_path: Any) -> Shelf:
    return Shelf(tmp_path)


def test_they_come_back_bit_for_bit(shelf: Shelf) -> None:
    objects = two()
    backward(objects)
    objects["d"].bias.grad = None
    stored = taken(shelf, a_tracker(objects))
    fresh = two()
    fresh["d"].bias.grad = torch.ones(1)
    tracker = a_tracker(fresh)
    tracker.restore(stored)
    tracker.restore_own(stored)
    assert fresh["d"].bias.grad is None
    for name in ("g", "d"):
        for a, b in zip(objects[name].parameters(), fresh[name].parameters(), strict=True):
            assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)
    assert torch.equal(objects["w"].grad, fresh["w"].grad)
    backward(fresh)
    fresh["g_optimizer"].step()  # they are gradients as any


def test_a_turn_that_steps_keeps_none_and_touches_none(shelf: Shelf) -> None:
    objects = two()
    backward(objects)
    tracker = a_tracker(objects)
    stored = shelf.write(tracker.snapshot())
    assert not stored.has(NAME)
    before = objects["w"].grad.clone()
    tracker.restore_own(stored)
    assert torch.equal(objects["w"].grad, before)


def test_sharded_gradients_come_back_sharded(shelf: Shelf) -> None:
    def a_layer(mesh: Any) -> nn.Linear:
        torch.manual_seed(1)
        layer = nn.Linear(3, 5)
        layer.weight = nn.Parameter(placed(layer.weight.detach(), mesh, [Split(0)]))
        return layer

    with as_rank(0, (1,)) as mesh:
        layer = a_layer(mesh)
        layer.weight.grad = placed(torch.arange(15.0).reshape(5, 3), mesh, [Split(0)])
        stored = taken(shelf, a_tracker({"m": layer}))
    with as_rank(1, (2,)) as mesh:
        fresh = a_layer(mesh)
        a_tracker({"m": fresh}).restore_own(stored)
        assert fresh.weight.grad.placements == (Split(0),)
        assert local_of(fresh.weight.grad).tolist() == [[9, 10, 11], [12, 13, 14]]
        assert fresh.bias.grad is None


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_what_fsdp_holds_back_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    fully_shard(net)
    for reduce in (True, False):
        net.set_requires_gradient_sync(reduce)
        net(torch.ones(1, 2)).sum().backward()
        if reduce:
            assert set(waiting_gradients({"net": net}, set())["net"]) == {
                "0.weight", "0.bias", "1.weight", "1.bias"
            }  # fmt: skip
    with pytest.raises(CannotStore, match="'net' holds gradients of this rank's batches alone"):
        waiting_gradients({"net": net}, set())


def test_the_name_is_taken() -> None:
    run = object.__new__(Run)
    with pytest.raises(InvalidRequest, match="'waiting-gradients' is reserved"):
        run.track(**{NAME: []})
