"""`rank.state`: what is saved comes back bit for bit, through a real checkpoint."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resilient_nb.core.names import checkpoint_id
from resilient_nb.errors import CannotStore, InvalidRequest, StateMismatch
from resilient_nb.rank.saver import Request
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.stored import Stored
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.wire.orders import CheckpointWritten
from tests.unit.shelf import POSITION, Shelf, a_tracker, tracking


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


class Cell:
    """What a training cell makes: the names, and steps that change all of them."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.half = nn.Linear(2, 2).to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        self.noise = torch.Generator().manual_seed(seed)
        self.history: list[float] = []
        self.table = np.zeros(3)
        self.mean = torch.zeros(2, dtype=torch.float64)

    def names(self) -> dict[str, Any]:
        return dict(vars(self))

    def step(self) -> None:
        x = torch.randn(5, 3, generator=self.noise) + torch.rand(1)
        loss = self.model(x).pow(2).mean() * (1 + random.random()) + float(np.random.random())
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.history.append(loss.item())
        self.table += np.random.random(3)
        self.mean += torch.rand(2, dtype=torch.float64)

    def bits(self) -> str:
        torch.set_printoptions(precision=20)
        try:
            parts = [
                {k: v.tolist() for k, v in self.model.state_dict().items()},
                {k: v.view(torch.uint16).tolist() for k, v in self.half.state_dict().items()},
                self.optimizer.state_dict(), self.schedule.state_dict(), self.scaler.state_dict(),
                self.noise.get_state().tolist(), self.history, self.table.tolist(),
                self.mean.tolist(),
            ]  # fmt: skip
            return repr(parts)
        finally:
            torch.set_printoptions(profile="default")


def tracked(cell: Cell) -> Tracker:
    tracker = a_tracker({})
    for name, value in cell.names().items():
        tracker.add(name, value)
    return tracker


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_a_resumed_cell_goes_on_bit_for_bit(shelf: Shelf) -> None:
    cell = Cell(0)
    seed_all(1)
    for _ in range(3):
        cell.step()
    tracker = tracked(cell)
    stored = shelf.write(tracker.snapshot())
    middle = cell.bits()
    for _ in range(3):
        cell.step()
    end = cell.bits()
    assert end != middle

    other = Cell(99)  # as a resumed cell: made anew, with whatever random numbers
    seed_all(77)
    for _ in range(2):
        other.step()
    fresh = tracked(other)
    fresh.restore(stored)
    fresh.restore_own(stored)
    assert other.bits() == middle
    for _ in range(3):
        other.step()
    assert other.bits() == end


def test_a_checkpoint_says_what_it_is(shelf: Shelf) -> None:
    cell = Cell(0)
    cell.step()
    stored = shelf.write(tracked(cell).snapshot(), step=40)
    assert (stored.id, stored.step, stored.position) == (
        "digits/00000040-e1",
        40,
        POSITION,
    )
    assert stored.numerics["torch"] == torch.__version__
    [written] = shelf.sent
    assert isinstance(written, CheckpointWritten)
    assert (written.checkpoint.parent, written.checkpoint.metrics) == (None, {"loss": 0.5})
    shelf.write(tracked(cell).snapshot(), step=60)
    assert shelf.sent[1].checkpoint.parent == "digits/00000040-e1"


def test_a_rank_that_the_checkpoint_doesnt_know_takes_what_rank_0_had(shelf: Shelf) -> None:
    cell = Cell(0)
    cell.step()
    mine = shelf.write(tracked(cell).snapshot())
    path = shelf.folder / "runs" / mine.id
    new = Stored(open_checkpoint(path), 3)
    assert (mine.knows_rank, new.knows_rank) == (True, False)
    assert repr(new.own()) == repr(mine.own())


def test_how_the_batch_has_grown_is_said_only_if_it_can(shelf: Shelf) -> None:
    snapshot = tracked(Cell(0)).snapshot()
    scaling: dict[str, Any] = {"rule": "linear", "workers": 3, "factor": 1.5, "batch": 96}
    for step, grown in ((1, None), (2, scaling)):
        shelf.saver.write(Request(step, POSITION, snapshot, {}, None, grown))
        shelf.saver.wait()
        path = shelf.folder / "runs" / checkpoint_id("digits", step, 1)
        assert open_checkpoint(path).manifest.info.get("scaling") == grown


def test_a_snapshot_shares_nothing_with_the_loop(shelf: Shelf) -> None:
    cell = Cell(0)
    cell.step()
    snapshot = tracked(cell).snapshot()
    before = cell.bits()
    for _ in range(3):
        cell.step()
    stored = shelf.write(snapshot)
    other = Cell(5)
    tracked(other).restore(stored)
    assert other.bits() == before


def test_buffers_are_used_again_and_follow_a_changed_state(shelf: Shelf) -> None:
    """AdamW's moments appear with the first step: the second snapshot has more tensors."""
    cell = Cell(0)
    tracker = tracked(cell)
    shelf.write(tracker.snapshot(), step=1)
    for step in (2, 3):
        cell.step()
        stored = shelf.write(tracker.snapshot(), step)
        other = Cell(5)
        tracked(other).restore(stored)
        assert other.bits() == cell.bits()


def test_snapshots_use_the_same_memory_again() -> None:
    cell = Cell(0)
    tracker = tracked(cell)
    segments = set()
    for _ in range(4):
        cell.step()
        segments.add(tracker.snapshot().segment)
    assert len(segments) == 1


def test_restoring_twice_gives_the_same(shelf: Shelf) -> None:
    cell = Cell(0)
    cell.step()
    stored = shelf.write(tracked(cell).snapshot())
    before = cell.bits()
    tracker = tracked(cell)
    for _ in range(2):
        cell.step()
        tracker.restore(stored)
        assert cell.bits() == before


def test_lists_and_dicts_are_restored_in_place(shelf: Shelf) -> None:
    history, scores = [1.0], {"a": 1, 2: (3, None)}
    tracker = a_tracker()
    tracker.add("history", history)
    tracker.add("scores", scores)
    stored = shelf.write(tracker.snapshot())
    history.append(2.0)
    scores.clear()
    tracker.restore(stored)
    assert (history, scores) == ([1.0], {"a": 1, 2: (3, None)})


def test_only_the_named_objects_are_restored(shelf: Shelf) -> None:
    a, b = [1], [1]
    tracker = a_tracker()
    tracker.add("a", a)
    tracker.add("b", b)
    stored = shelf.write(tracker.snapshot())
    a[:], b[:] = [2], [2]
    tracker.restore(stored, ["a"])
    assert (a, b) == ([1], [2])


# --- what is found, and what can't be tracked ---


def test_what_the_cell_has_is_found_once(shelf: Shelf) -> None:
    cell = Cell(0)
    names = {**cell.names(), "again": cell.model, "_private": nn.Linear(1, 1),
             "loss_fn": nn.MSELoss()}  # fmt: skip
    notes: list[str] = []
    tracker = a_tracker(names, notes)
    tracker.find()
    assert tracker.names == ["model", "half", "optimizer", "schedule", "scaler"]
    assert notes == ["Tracks model, half, optimizer, schedule, scaler (found in the cell)."]
    assert tracker.modules() == [cell.model, cell.half]


def test_nothing_is_looked_for_if_the_cell_tracks_by_itself() -> None:
    cell = Cell(0)
    tracker = a_tracker(cell.names())
    tracker.add("net", cell.model)
    tracker.find()
    assert tracker.names == ["net"]


@pytest.mark.parametrize("value", [1, "x", None, (1,), len])
def test_what_has_no_state_to_give_back_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"run\.track\(x=\.\.\.\): a .* has no state"):
        a_tracker().add("x", value)


def test_what_has_no_plain_bytes_is_named() -> None:
    tracker = a_tracker()
    tracker.add("table", {"a": torch.eye(3).to_sparse()})
    with pytest.raises(CannotStore, match="'table' is a sparse tensor"):
        tracker.snapshot()


def test_a_state_that_doesnt_fit_says_what_to_do(shelf: Shelf) -> None:
    tracker = a_tracker()
    tracker.add("model", nn.Linear(2, 2))
    stored = shelf.write(tracker.snapshot())
    other = a_tracker()
    other.add("model", nn.Linear(3, 2))
    with pytest.raises(StateMismatch, match=r"'model' in checkpoint digits/00000020-e1 doesn't"):
        other.restore(stored)
    missing = a_tracker()
    missing.add("net", nn.Linear(2, 2))
    with pytest.raises(StateMismatch, match=r"has no 'net'.* model"):
        missing.restore(stored)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
}


@pytest.mark.parametrize(
    ("was", "now", "what"),
    [
        ("SGD", "Adam", "Adam needs betas, eps.* and these have only lr, momentum"),
        ("Adam", "SGD", "SGD needs momentum, dampening.* and these have only lr, betas"),
        ("Adam", "AdamW", None),
        ("SGD", "SGD", None),
    ],
)
def test_the_state_of_another_optimizer_doesnt_fit(
    shelf: Shelf, was: str, now: str, what: str | None
) -> None:
    model = nn.Linear(2, 2)
    old, new = OPTIMIZERS[was](model.parameters()), OPTIMIZERS[now](model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    old.step()
    stored = shelf.write(tracking(opt=old).snapshot())
    tracker = tracking(opt=new)
    if what is None:
        tracker.restore(stored)
        new.step()
    else:
        with pytest.raises(
            StateMismatch, match=rf"'opt' in.* doesn't fit.*: {what}.*--resume never"
        ):
            tracker.restore(stored)


def test_what_an_older_torch_has_stored_of_an_optimizer_fits(shelf: Shelf) -> None:
    model = nn.Linear(2, 2)
    old = torch.optim.Adam(model.parameters())
    del old.param_groups[0]["decoupled_weight_decay"], old.param_groups[0]["fused"]
    stored = shelf.write(tracking(opt=old).snapshot())
    tracking(opt=torch.optim.Adam(model.parameters())).restore(stored)


def test_that_memory_is_short_is_no_misfit(shelf: Shelf) -> None:
    class Full(nn.Linear):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    stored = shelf.write(tracking(model=nn.Linear(1, 1)).snapshot())
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        tracking(model=Full(1, 1)).restore(stored)


@pytest.mark.parametrize(("was", "now", "why"), [
    (torch.zeros(1), torch.zeros(2, 3), r"a tensor float32\[1\], and is a tensor float32\[2, 3\]"),
    (torch.tensor(0.0), torch.zeros(3), r"a tensor float32\[\], and is a tensor float32\[3\]"),
    (torch.zeros(2), torch.zeros(2, dtype=torch.int32), "a tensor float32.* is a tensor int32"),
    (np.zeros(1), np.zeros((2, 3)), r"an array float64\[1\], and is an array float64\[2, 3\]"),
    (np.zeros(2, "f4"), np.zeros(2), "an array float32.* an array float64"),
    (np.zeros(2), torch.zeros(2, dtype=torch.float64), "an array float64.* a tensor float64"),
    ({"a": 1}, [0], "a dict, and is a list"),
    ([("a", 1)], {"a": 0}, "a list, and is a dict"),
])  # fmt: skip
def test_what_is_of_another_shape_dtype_or_kind_doesnt_fit(
    shelf: Shelf, was: Any, now: Any, why: str
) -> None:
    stored = shelf.write(tracking(t=was).snapshot())
    before = repr(now)
    with pytest.raises(StateMismatch, match=f"'t' in.* doesn't fit.*: it was {why}.*--resume"):
        tracking(t=now).restore(stored)
    assert repr(now) == before


def test_what_is_of_the_same_shape_and_dtype_fits(shelf: Shelf) -> None:
    was = {
        "bits": torch.tensor(1.5, dtype=torch.bfloat16), "none": torch.zeros(0, 3),
        "big": np.array([1, 2], ">i4"), "scalar": np.array(2.0), "rows": [1, 2], "map": {"a": 1},
        "order": OrderedDict(a=1),
    }  # fmt: skip
    now = {
        "bits": torch.tensor(0.0, dtype=torch.bfloat16), "none": torch.zeros(0, 3),
        "big": np.array([0, 0], ">i4"), "scalar": np.array(0.0), "rows": [],
        "map": {"b": 2, "c": 3}, "order": OrderedDict(),
    }  # fmt: skip
    tracking(**now).restore(shelf.write(tracking(**was).snapshot()))
    assert repr(now) == repr(was)
