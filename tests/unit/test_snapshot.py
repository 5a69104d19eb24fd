"""`rank.snapshot`: training goes on while its state is copied, and the copy is of one moment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resilient_nb.rank import snapshot as snapshots
from resilient_nb.rank.segment import ALIGNMENT, Segment, aligned
from resilient_nb.rank.snapshot import CHANGED, Snapshot
from resilient_nb.storage.zarr3 import PAGE
from tests.unit.shelf import Shelf, tracking

PATIENCE = 20.0


class Gate:
    """Holds up the thread that copies; `reached` when it is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        real = snapshots._copy_all

        def copy(copies: Any, *arguments: Any, **options: Any) -> None:
            if threading.current_thread().name == "resilient_nb snapshot":
                held = self.open
                self.reached.set()
                assert held.wait(PATIENCE)
            real(copies, *arguments, **options)

        monkeypatch.setattr(snapshots, "_copy_all", copy)

    def pass_one(self) -> None:
        """Have it make the first of its copies, and wait before the second."""
        assert self.reached.wait(PATIENCE)
        held, self.open = self.open, threading.Event()
        self.reached.clear()
        held.set()
        assert self.reached.wait(PATIENCE)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


class Loop:
    """A model whose weights are large enough to be copied later, and a loop's steps."""

    def __init__(self, kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(200, 150), nn.BatchNorm1d(150), nn.Linear(150, 120))
        self.optimizer = kind(self.model.parameters(), lr=0.01)
        self.tracker = tracking(model=self.model, optimizer=self.optimizer)

    def turn(self) -> None:
        """Go forward and backward, which changes BatchNorm's statistics."""
        self.optimizer.zero_grad()
        self.model(torch.randn(8, 200)).pow(2).mean().backward()

    def step(self) -> None:
        self.turn()
        self.optimizer.step()

    def lazy(self) -> Snapshot:
        return self.tracker.snapshot(at_once=False)


def proven(kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW) -> Loop:
    """Return a loop that has been found to change its weights in steps only."""
    loop = Loop(kind)
    loop.step()
    assert loop.lazy().wait()
    loop.step()
    return loop


def values(snapshot: Snapshot) -> dict[str, bytes]:
    assert snapshot.wait()
    return {name: leaf.array.tobytes() for name, leaf in snapshot.leaves.items()}


def finished(snapshot: Snapshot) -> bool:
    return snapshot._whole.is_set()


def in_thread(call: Callable[[], None]) -> tuple[threading.Thread, threading.Event]:
    done = threading.Event()

    def work() -> None:
        call()
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, done


def test_training_goes_on_while_the_state_is_copied(gate: Gate) -> None:
    loop = proven()
    other = tracking(model=loop.model, optimizer=loop.optimizer)
    at_once = values(other.snapshot())
    snapshot = loop.lazy()
    assert gate.reached.wait(PATIENCE)
    loop.turn()
    assert not finished(snapshot)
    gate.open.set()
    assert values(snapshot) == at_once
    assert torch.randn(1) is not None


def test_the_next_step_waits_until_the_state_is_copied(gate: Gate) -> None:
    loop, waits = proven(), list[float]()
    loop.tracker.on_wait(waits.append)
    at_once = values(tracking(model=loop.model, optimizer=loop.optimizer).snapshot())
    snapshot = loop.lazy()
    thread, stepped = in_thread(loop.step)
    assert gate.reached.wait(PATIENCE)
    assert not stepped.wait(0.05)
    gate.open.set()
    thread.join(PATIENCE)
    assert values(snapshot) == at_once
    assert len(waits) == 1
    assert waits[0] > 0.04


@pytest.mark.parametrize("call", [
    lambda loop: loop.tracker.let_go(), lambda loop: loop.lazy(),
    lambda loop: loop.tracker.snapshot(),
], ids=["let go", "the next", "the next at once"])  # fmt: skip
def test_so_does_whatever_else_may_change_it(gate: Gate, call: Callable[[Loop], Any]) -> None:
    loop = proven()
    snapshot = loop.lazy()
    thread, done = in_thread(lambda: call(loop))
    assert gate.reached.wait(PATIENCE)
    assert not done.wait(0.05)
    gate.open.set()
    thread.join(PATIENCE)
    assert snapshot.wait()


def test_what_is_small_or_no_parameter_is_copied_at_once(gate: Gate) -> None:
    loop = proven()
    mean = loop.model[1].running_mean
    mean_of_ema = torch.ones(200, 200)
    loop.tracker.add("ema", mean_of_ema)
    before = mean.clone(), loop.model[0].bias.detach().clone()
    snapshot = loop.lazy()
    loop.turn()  # changes the running mean
    mean_of_ema.zero_()
    with torch.no_grad():
        loop.model[0].bias.add_(1.0)
    assert not finished(snapshot)
    gate.open.set()
    assert snapshot.wait()
    leaves = snapshot.leaves
    np.testing.assert_array_equal(leaves["model/1.running_mean"].array, before[0].numpy())
    np.testing.assert_array_equal(leaves["model/0.bias"].array, before[1].numpy())
    assert (leaves["ema/value"].array == 1.0).all()
    assert not torch.equal(mean, before[0])


# --- loops that change their weights themselves ---------------------------------------------------


@pytest.mark.parametrize("change", [
    lambda loop: loop.model[0].weight.mul_(0.5),
    lambda loop: loop.model[2].weight[3].zero_(),
    lambda loop: nn.init.zeros_(loop.model[0].weight),
    lambda loop: loop.optimizer.state[loop.model[0].weight]["exp_avg"].zero_(),
    lambda loop: loop.model[0].weight.copy_(torch.ones(150, 200)),
    lambda loop: loop.model.load_state_dict(loop.model.state_dict()),
], ids=["scaled", "row", "init", "moment", "copied", "loaded"])  # fmt: skip
def test_a_change_before_the_step_is_noticed(
    tmp_path: Path, gate: Gate, change: Callable[[Loop], Any]
) -> None:
    loop, shelf = proven(), Shelf(tmp_path)
    snapshot = loop.lazy()
    assert gate.reached.wait(PATIENCE)
    with torch.no_grad():
        change(loop)
    gate.open.set()
    assert CHANGED in str(shelf.try_to_write(snapshot))
    assert not shelf.path().joinpath("zarr.json").exists()
    loop.step()
    # Later ones are at once, and right.
    gate.open.clear()
    right = values(tracking(model=loop.model, optimizer=loop.optimizer).snapshot())
    snapshot = loop.lazy()
    assert finished(snapshot)
    with torch.no_grad():
        loop.model[0].weight.zero_()
    assert values(snapshot) == right
    assert shelf.try_to_write(snapshot, step=21) is None


def test_a_change_that_no_counter_counts_is_found_in_the_first_turn(gate: Gate) -> None:
    """`p.data` is another tensor with the same memory: here, weights are clipped before steps."""
    loop = Loop()
    loop.step()
    first = loop.lazy()
    assert finished(first), "the first is copied at once, and compared"
    right = values(first)
    loop.turn()
    loop.model[0].weight.data.clamp_(-0.01, 0.01)
    loop.optimizer.step()
    assert values(first) == right
    assert finished(loop.lazy()), "so all are"


@pytest.mark.parametrize("copied", [0, 1], ids=["before the first copy", "in the middle"])
@pytest.mark.parametrize("change", [
    lambda weight: weight.data.mul_(2), lambda weight: weight.data[:, 100:].zero_(),
    lambda weight: weight.data[:75].fill_(float("nan")), lambda weight: weight.data.t().neg_(),
], ids=["scaled", "columns", "rows", "turned"])  # fmt: skip
def test_a_change_that_no_counter_counts_is_found_in_any_turn(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, copied: int, change: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(snapshots, "_BATCH_BYTES", 1)  # each tensor by itself
    loop = proven()
    snapshot = loop.lazy()
    if copied:
        gate.pass_one()
    change(loop.model[0].weight)
    gate.open.set()
    assert not snapshot.wait()
    loop.step()
    assert finished(loop.lazy()), "later ones are at once"


def test_a_change_after_the_last_copy_does_no_harm() -> None:
    loop = proven()
    right = values(tracking(model=loop.model, optimizer=loop.optimizer).snapshot())
    snapshot = loop.lazy()
    assert snapshot.wait()
    loop.model[0].weight.data.mul_(2)
    loop.step()
    assert values(snapshot) == right
    assert not loop.tracker._copier._under_way


@pytest.mark.parametrize("delay", [0, 0.0005, 0.002, 0.01])
def test_a_race_with_the_copies_tears_nothing(delay: float) -> None:
    weight = nn.Parameter(torch.ones(2000, 2000))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    module = nn.Module()
    module.weight, weight.grad = weight, torch.zeros_like(weight)
    tracker = tracking(module=module, optimizer=optimizer)
    for _ in range(5):
        wanted = weight[0, 0].item()
        snapshot = tracker.snapshot(at_once=False)
        if tracker._copier._proven:
            time.sleep(delay)
            weight.data.mul_(2)
        if snapshot.wait():
            assert (snapshot.leaves["module/weight"].array == wanted).all()
        optimizer.step()


def test_a_loop_without_changes_is_found_to_be_one(gate: Gate) -> None:
    loop = Loop()
    loop.step()
    with torch.no_grad():
        loop.model[0].weight[0, 0] = float("nan")  # not equal to itself
    assert finished(loop.lazy())
    loop.step()
    assert not finished(loop.lazy())


def test_a_loop_that_never_steps_is_never_trusted(gate: Gate) -> None:
    loop = Loop()
    for _ in range(3):
        loop.turn()
        assert finished(loop.lazy())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.LBFGS,
                                  torch.optim.RMSprop])  # fmt: skip
def test_other_optimizers_are_fenced_too(kind: Callable[..., torch.optim.Optimizer]) -> None:
    loop = Loop(kind)
    for _ in range(4):
        loop.turn()
        at_once = values(tracking(model=loop.model, optimizer=loop.optimizer).snapshot())
        snapshot = loop.lazy()
        loop.optimizer.zero_grad()

        def closure() -> torch.Tensor:
            loss = loop.model.eval()(torch.ones(8, 200)).pow(2).mean()
            loss.backward()
            return loss

        loop.optimizer.step(closure)
        assert values(snapshot) == at_once


def test_complex_weights_and_their_conjugates() -> None:
    """What is compared must be comparable."""
    weight = nn.Parameter(torch.randn(100, 200, dtype=torch.complex64))
    pair = [weight, weight.detach().conj()]
    module = nn.Module()
    module.weight = weight
    optimizer = torch.optim.SGD([weight], lr=0.1)
    tracker = tracking(module=module, optimizer=optimizer, pair=pair)
    for _ in range(3):
        wanted = [tensor.resolve_conj().numpy().copy() for tensor in (weight.detach(), pair[1])]
        snapshot = tracker.snapshot(at_once=False)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert snapshot.wait()
        for number in (0, 1):
            found = snapshot.leaves[f"pair/{number}"].array
            np.testing.assert_array_equal(found, wanted[number])


def test_tensors_of_inference_are_copied_at_once(gate: Gate) -> None:
    """They have no counter."""
    loop = proven()
    with torch.inference_mode():
        loop.model.register_buffer("table", torch.ones(300, 300))
    state = loop.optimizer.state[loop.model[0].weight]
    with torch.inference_mode():
        state["cache"] = torch.ones(300, 300)
    assert not finished(snapshot := loop.lazy())
    gate.open.set()
    assert snapshot.wait()


@given(
    st.lists(st.sampled_from(["snapshot", "step", "turn", "scale", "data", "at once"]), max_size=12)
)
@settings(max_examples=25, deadline=None)
def test_a_snapshot_is_right_or_says_that_it_isnt(script: list[str]) -> None:
    loop = proven()
    taken: tuple[Snapshot, dict[str, bytes]] | None = None

    def check() -> None:
        if taken is not None and taken[0].wait():
            assert values(taken[0]) == taken[1]

    for word in script:
        if word == "turn":
            loop.turn()
        elif word == "step":
            loop.step()
        elif word == "scale":
            with torch.no_grad():
                loop.model[2].weight.mul_(0.5)
        elif word == "data":
            loop.model[2].weight.data.mul_(0.5)
        else:
            check()  # the one before must have been written
            right = values(tracking(model=loop.model, optimizer=loop.optimizer).snapshot())
            taken = loop.tracker.snapshot(at_once=word == "at once"), right
    check()


# --- memory ---------------------------------------------------------------------------------------


def test_a_state_that_has_grown_gets_more_memory() -> None:
    table: list[torch.Tensor] = [torch.ones(10)]
    tracker = tracking(table=table)
    first = tracker.snapshot()
    assert tracker.snapshot().segment is first.segment
    table.append(torch.ones(1_000_000))
    second = tracker.snapshot()
    assert second.segment is not first.segment
    assert (second.leaves["table/1"].array == 1.0).all()


def test_memory_is_made_beside_the_loop() -> None:
    loop = Loop()
    loop.step()
    loop.tracker.prepare()
    snapshot = loop.lazy()
    assert snapshot.segment.size < 4 << 20
    assert loop.lazy().segment is snapshot.segment


@pytest.mark.parametrize(("nbytes", "grain"), [(4, ALIGNMENT), (1 << 20, PAGE)])
@given(offset=st.integers(0, 1 << 40))
def test_tensors_begin_where_they_may(offset: int, nbytes: int, grain: int) -> None:
    assert aligned(offset, nbytes) % grain == 0
    assert 0 <= aligned(offset, nbytes) - offset < grain


def test_no_two_tensors_overlap() -> None:
    torch.manual_seed(0)
    table = {n: torch.randn(n * 7 % 50, dtype=torch.float64) for n in range(40)}
    snapshot = tracking(table=table).snapshot()
    slots = sorted(snapshot.slots.values(), key=lambda slot: (slot.offset, slot.nbytes))
    for one, two in pairwise(slots):
        assert one.offset % ALIGNMENT == 0
        assert one.offset + one.nbytes <= two.offset


def test_a_segment_has_no_name_and_room() -> None:
    segment = Segment(5)
    assert segment.populate()
    tensor = segment.tensor(64, (3, 5), torch.float32)
    tensor.fill_(2.0)
    assert segment.tensor(64, (15,), torch.float32).tolist() == [2.0] * 15
    assert os.readlink(f"/proc/self/fd/{segment.fd}").startswith("/memfd:")


def test_memory_that_isnt_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would give it, and then kill a process that uses it."""

    def never(*_: int) -> None:
        raise AssertionError("was asked")

    monkeypatch.setattr("resilient_nb.rank.segment.os.posix_fallocate", never)
    assert not Segment(1 << 44).populate()
