"""`rank.stored`: tied tensors stay one, live ones are filled, unchanged ones are written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from resilient_nb.loading import load_path
from resilient_nb.rank.live import live_tensors
from resilient_nb.rank.stored import Stored
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import checkpoint_of
from resilient_nb.storage.opening import open_checkpoint
from tests.unit.shelf import Shelf, tracking

LARGE = 300 * 300  # floats: an array of their own


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def tensor_bytes(folder: Path) -> int:
    """Return the bytes of all chunks of the folder's tensors, but for random numbers."""
    store = LocalStore(folder / "runs")
    return sum(e.size for e in store.list() if "/c" in e.key and "/rank-" not in e.key)


# --- tied ---------------------------------------------------------------------------------------


class Tied(nn.Module):
    """As in language models: the embedding is the output layer, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, width)
        self.head = nn.Linear(width, 300, bias=False)
        self.head.weight = self.embedding.weight
        self.other = nn.Parameter(self.embedding.weight.detach().clone())  # equal, but not tied


@pytest.mark.parametrize("width", [4, 300], ids=["packed", "large"])
def test_tied_tensors_stay_tied(shelf: Shelf, width: int) -> None:
    model = Tied(width)
    stored = shelf.write(tracking(model=model).snapshot())
    # Once for the two, and once for the one that only looks like them.
    assert tensor_bytes(shelf.folder) == pytest.approx(2 * model.other.nbytes, abs=8)
    if width == 300:  # so that other readers see both names
        group = zarr.open_group(shelf.path(), mode="r")
        for name in ("embedding.weight", "head.weight"):
            values = np.asarray(group[f"model/{name}"][...])  # type: ignore[index]
            np.testing.assert_array_equal(values, model.head.weight.detach().numpy())
    by_name = {t.name: t for t in stored.manifest.tensors}
    assert by_name["model/head.weight"].tied == "model/embedding.weight"
    assert by_name["model/other"].tied is None
    for state in (stored.state("model"), load_path(str(shelf.path()))["model"]):
        assert state["head.weight"] is state["embedding.weight"]
        assert state["other"] is not state["embedding.weight"]
        assert torch.equal(state["other"], model.other)
    fresh = Tied(width)
    tracking(model=fresh).restore(stored)
    assert fresh.head.weight is fresh.embedding.weight
    assert torch.equal(fresh.head.weight, model.head.weight)
    assert torch.equal(fresh.other, model.other)


def test_tensors_in_a_list_are_one_if_they_were(shelf: Shelf) -> None:
    a, b = torch.randn(3), torch.randn(3)
    given = [a, a, b, {"x": a}, a.view(1, 3), b.clone()]
    found = shelf.write(tracking(x=given).snapshot()).state("x")
    assert found[0] is found[1] is found[3]["x"]
    assert len({id(t) for t in (found[0], found[2], found[4], found[5])}) == 4
    found[0].zero_()
    assert torch.equal(found[4], a.view(1, 3)), "of another shape, it was another tensor"


def test_what_was_tied_may_become_two_and_the_other_way_round(shelf: Shelf) -> None:
    """A teacher that begins as the model itself, say, and is then left behind."""
    a = torch.randn(LARGE)
    state: dict[str, torch.Tensor] = {"model": a, "teacher": a}
    tracker = tracking(x=state)
    first = shelf.write(tracker.snapshot(), 1).state("x")
    assert first["model"] is first["teacher"]
    state["teacher"] = a.clone()
    was = a.clone()
    a.add_(1.0)
    stored = shelf.write(tracker.snapshot(), 2)
    second = stored.state("x")
    assert torch.equal(second["model"], was + 1.0)
    assert torch.equal(second["teacher"], was)
    assert checkpoint_of(stored.manifest).written < 1.1 * a.nbytes, "the teacher is as it was"
    state["model"] = state["teacher"]
    third = shelf.write(tracker.snapshot(), 3).state("x")
    assert third["model"] is third["teacher"]
    assert torch.equal(third["model"], was)


# --- in place -----------------------------------------------------------------------------------


class Cell:
    def __init__(self, seed: int, width: int = 40) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(30, width), nn.BatchNorm1d(width))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.tracker = tracking(model=self.model, optimizer=self.optimizer)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(6, 30)).pow(2).sum().backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        found = dict(self.model.state_dict(keep_vars=True))
        for number, state in enumerate(self.optimizer.state.values()):
            found |= {f"{number}.{name}": value for name, value in state.items()}
        return found


def test_live_tensors_are_filled_where_they_are(shelf: Shelf) -> None:
    cell, other = Cell(0), Cell(1)
    cell.step()
    other.step()
    stored = shelf.write(cell.tracker.snapshot())
    before = {name: (id(t), t.data_ptr()) for name, t in other.tensors().items()}
    other.tracker.restore(stored)
    found = other.tensors()
    assert {name: t.data_ptr() for name, t in found.items()} == {
        n: p for n, (_, p) in before.items()
    }
    assert all(torch.equal(found[name], tensor) for name, tensor in cell.tensors().items())
    assert all(found[name].requires_grad == p.requires_grad for name, p in cell.tensors().items())


def test_a_new_optimizer_gets_its_state(shelf: Shelf) -> None:
    cell, other = Cell(0), Cell(1)
    cell.step()
    other.tracker.restore(shelf.write(cell.tracker.snapshot()))
    assert all(torch.equal(other.tensors()[n], t) for n, t in cell.tensors().items())


def test_another_shape_is_not_filled(shelf: Shelf) -> None:
    cell, other = Cell(0), Cell(1, width=41)
    stored = shelf.write(cell.tracker.snapshot())
    was = other.model[0].weight.detach().clone()
    state = stored.state("model", live_tensors(other.model, "model"))
    assert state["0.weight"].shape == (40, 30)
    assert torch.equal(other.model[0].weight, was)
    # What fits is filled all the same, and is itself in the state.
    assert state["1.num_batches_tracked"] is other.model[1].num_batches_tracked


@pytest.mark.parametrize("change", [
    lambda p: p.to(torch.bfloat16), lambda p: p.double(), lambda p: p.reshape(30, 40),
], ids=["bfloat16", "float64", "shape"])  # fmt: skip
def test_another_dtype_is_not_filled(shelf: Shelf, change: Any) -> None:
    cell, other = Cell(0), Cell(1)
    stored = shelf.write(cell.tracker.snapshot())
    other.model[0].weight = nn.Parameter(change(other.model[0].weight.detach()))
    was = other.model[0].weight.detach().clone()
    state = stored.state("model", live_tensors(other.model, "model"))
    assert torch.equal(other.model[0].weight, was)
    assert torch.equal(state["0.weight"], cell.model[0].weight)


def test_tensors_that_cant_be_filled_are_copied_into(shelf: Shelf) -> None:
    cell, other = Cell(0), Cell(1)
    stored = shelf.write(cell.tracker.snapshot())
    other.model[0].weight = nn.Parameter(torch.zeros(30, 40).t())  # not contiguous
    assert "model/0.weight" not in live_tensors(other.model, "model").tensors
    other.tracker.restore(stored)
    assert torch.equal(other.model[0].weight, cell.model[0].weight)


def test_two_names_of_one_live_tensor(shelf: Shelf) -> None:
    """The checkpoint has two tensors where the cell now has one: as `load_state_dict`, the last
    one wins, and nothing is read into one memory twice at once."""
    a, b = nn.Linear(200, 200), nn.Linear(200, 200)
    two = nn.ModuleDict({"a": a, "b": b})
    stored = shelf.write(tracking(model=two).snapshot())
    shared = nn.Linear(200, 200)
    one = nn.ModuleDict({"a": shared, "b": shared})
    tracking(model=one).restore(stored)
    assert torch.equal(shared.weight, b.weight)
    plain = nn.ModuleDict({"a": nn.Linear(200, 200)})
    plain["b"] = plain["a"]
    plain.load_state_dict(two.state_dict())
    assert torch.equal(shared.weight, plain["a"].weight)


# --- what is not written again --------------------------------------------------------------------


def frozen_and_not() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "frozen": torch.randn(19 * LARGE),
        "trained": torch.randn(LARGE),
        "step": torch.zeros(1),
    }


def test_unchanged_tensors_are_not_written_again(shelf: Shelf) -> None:
    state = frozen_and_not()
    tracker = tracking(x=state)
    total = sum(t.nbytes for t in state.values())
    shelf.write(tracker.snapshot(), 1)
    first = tensor_bytes(shelf.folder)
    assert first == pytest.approx(total, rel=0.001)
    state["trained"].add_(1.0)
    stored = shelf.write(tracker.snapshot(), 2)
    assert tensor_bytes(shelf.folder) - first < 0.055 * total
    assert shelf.sent[1].checkpoint.written < 0.055 * total
    assert shelf.sent[1].checkpoint.nbytes > total
    found = stored.state("x")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    shelf.write(tracker.snapshot(), 3)
    [third] = [s.checkpoint for s in shelf.sent if s.checkpoint.step == 3]
    assert third.changed == third.written == 0
    for name in ("frozen", "trained"):
        target = os.readlink(shelf.path(3) / "x" / name)
        assert target.endswith(f"{'00000001' if name == 'frozen' else '00000002'}-e1/x/{name}")


def test_nor_are_they_after_a_resume_or_in_a_fork(tmp_path: Path) -> None:
    state = frozen_and_not()
    shelf = Shelf(tmp_path)
    stored = shelf.write(tracking(x=state).snapshot(), 1)
    before = tensor_bytes(tmp_path)
    fork = Shelf(tmp_path, job="other#1", start=stored.manifest)
    state["trained"].mul_(2.0)
    tracker = tracking(x=state)
    for step in (2, 3):
        forked = fork.write(tracker.snapshot(), step)
        assert tensor_bytes(tmp_path) - before < 1.01 * state["trained"].nbytes
        assert {t.at for t in forked.manifest.tensors if t.name == "x/frozen"} == {stored.id}
        found = forked.state("x")
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_zeros_of_another_shape_or_dtype_are_others(shelf: Shelf) -> None:
    """Their bytes are the same."""
    state = {"x": torch.zeros(6)}
    tracker = tracking(x=state)
    shelf.write(tracker.snapshot(), 1)
    for step, zeros in enumerate((torch.zeros(2, 3), torch.zeros(6, dtype=torch.int32),
                                  torch.zeros(3, dtype=torch.float64)), 2):  # fmt: skip
        state["x"] = zeros
        found = shelf.write(tracker.snapshot(), step).state("x")["x"]
        assert (found.dtype, found.shape) == (zeros.dtype, zeros.shape)


@pytest.fixture
def written(shelf: Shelf) -> Stored:
    return shelf.write(tracking(x=frozen_and_not()).snapshot())


def test_a_partial_load_reads_no_more_than_it_needs(shelf: Shelf, written: Stored) -> None:
    (shelf.path() / "x" / "frozen" / "c.0").unlink()
    state = load_path(str(shelf.path()))
    assert torch.equal(state.tensor("x/trained"), frozen_and_not()["trained"])
    assert open_checkpoint(shelf.path()).manifest == written.manifest
