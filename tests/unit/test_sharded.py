"""`rank.sharded`, `rank.live` and reading by parts: from any division to any other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor import Shard as Split
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from resilient_nb.core.division import chunk_of, part
from resilient_nb.core.names import checkpoint_id
from resilient_nb.errors import CannotStore, CheckpointError, CorruptCheckpoint
from resilient_nb.rank import snapshot as snapshots
from resilient_nb.rank.saver import Request, Saver
from resilient_nb.rank.sharded import is_sharded, local_of, part_of
from resilient_nb.rank.snapshot import Snapshot
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.writer import WriterHere
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.opening import open_at, open_checkpoint
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.tree import Shard, TensorLeaf
from resilient_nb.storage.writing import Options, commit, merge, shards_digest, write_part
from resilient_nb.testing.builders import an_attempt
from tests.unit.checkpoints import IDENTITY, a_manifest
from tests.unit.meshes import as_rank, placed

SHAPES = st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple)


def numbers(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(prod(shape), dtype=torch.float32).reshape(shape)


def cut(whole: Any, shard: Shard | None) -> Any:
    if shard is None:
        return whole
    return whole[tuple(slice(s, s + n) for s, n in zip(shard.start, shard.extent, strict=True))]


def nowhere() -> str:
    return "Tensor w"


# --- which part a rank holds ---


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_a_part_is_where_its_shard_says(
    shape: tuple[int, ...], mesh_shape: list[int], data: st.DataObject
) -> None:
    kinds: list[Placement] = [Replicate(), *(Split(dim) for dim in range(len(shape)))]
    placements = [data.draw(st.sampled_from(kinds)) for _ in mesh_shape]
    whole = numbers(shape)
    seen = torch.zeros(shape)
    refused = []
    for rank in range(prod(mesh_shape)):
        with as_rank(rank, mesh_shape) as mesh:
            tensor = placed(whole, mesh, placements)
            try:
                local, shard = part_of(tensor, nowhere)
            except CannotStore as error:
                refused.append(str(error))
                continue
            assert torch.equal(local, cut(whole, shard))
            assert (shard is None) == all(p.is_replicate() for p in placements)
            cut(seen, shard).add_(1)
    if refused:
        assert len(refused) == prod(mesh_shape)  # all ranks say so
        assert "unevenly. Pad it" in refused[0]
    else:
        ways = [s for s, p in zip(mesh_shape, placements, strict=True) if p.is_replicate()]
        assert (seen == prod(ways)).all()


def test_what_a_mesh_holds_otherwise_is_refused() -> None:
    with as_rank(1, (2,)) as mesh:
        w = torch.ones(4)
        partial = DTensor.from_local(w, mesh, [Partial()])
        strided = DTensor.from_local(w, mesh, [_StridedShard(0, split_factor=2)])
        odd = DTensor.from_local(w, mesh, [Split(0)], shape=torch.Size([7]), stride=(1,))
        other = DeviceMesh("cpu", [0])
        elsewhere = DTensor.from_local(w, other, [Split(0)])
        tracker = Tracker(0, {}, print)
        for tensor, why in (
            (partial, r"Tensor a\.0 of 'ema' is a DTensor in Partial\(sum\); it is a sum"),
            (strided, r"Tensor a\.0 of 'ema' is a DTensor in _StridedShard.* shard_placement_fn"),
            (odd, r"holds \[4\], but by its placement \[3\]"),
            (elsewhere, "on a mesh that this rank isn't in"),
        ):
            tracker.add("ema", {"a": [tensor]})
            with pytest.raises(CannotStore, match=why):
                tracker.snapshot()


def test_plain_tensors_are_all_there() -> None:
    plain = torch.ones(2)
    assert part_of(plain, nowhere) == (plain, None)
    assert not is_sharded(plain)
    assert not is_sharded([1])


# --- parts of arrays ---


def divided(
    store: LocalStore, whole: np.ndarray[Any, Any], ways: tuple[int, ...], options: Options
) -> Checkpoint:
    """Store an array that is divided over ranks, as each of them does."""
    chunk = tuple(chunk_of(n, (w,)) or 1 for n, w in zip(whole.shape, ways, strict=True))
    parts: dict[tuple[int, ...], TensorLeaf] = {}
    for at in itertools.product(*map(range, ways)):
        shard = Shard(whole.shape, chunk, at)
        parts[at] = TensorLeaf(np.ascontiguousarray(cut(whole, shard)), "float32", shard)
    total = shards_digest({at: digest(leaf.array) for at, leaf in parts.items()})
    records = [
        write_part(store, IDENTITY, {"m/w": leaf}, {"m/w": total}, options=options)["m/w"]
        for leaf in parts.values()
    ]
    commit(store, a_manifest(tensors=(merge(records),)))
    return open_at(store, IDENTITY)


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.data(), st.sampled_from([(), ({"name": "zstd", "configuration": {"level": 1}},)]))
def test_any_division_is_read_by_any_other(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    data: st.DataObject,
    codecs: tuple[Any, ...],
) -> None:
    whole = numbers(shape).numpy()
    axes = st.tuples(*[st.integers(1, 4)] * len(shape))
    store = LocalStore(tmp_path_factory.mktemp("runs"))
    checkpoint = divided(store, whole, data.draw(axes), Options(codecs=codecs))
    np.testing.assert_array_equal(checkpoint.read("m/w").array, whole)
    ways = data.draw(axes)
    for at in itertools.product(*map(range, ways)):
        spans = [part(n, [w], [i]) for n, w, i in zip(shape, ways, at, strict=True)]
        start, size = tuple(s for s, _ in spans), tuple(n for _, n in spans)
        found = checkpoint.read_region("m/w", start, size).array
        where = tuple(slice(s, s + n) for s, n in spans)
        np.testing.assert_array_equal(found, whole[where])


def test_only_the_chunks_of_a_part_are_read(tmp_path: Path) -> None:
    whole = numbers((8, 3)).numpy()
    checkpoint = divided(LocalStore(tmp_path), whole, (4, 1), Options())
    (tmp_path / IDENTITY / "m" / "w" / "c.3.0").unlink()
    target = np.empty((3, 3), np.float32)
    checkpoint.read_into({"m/w": target}, {"m/w": (1, 0)})
    np.testing.assert_array_equal(target, whole[1:4])
    with pytest.raises(CorruptCheckpoint, match="m/w can't be read"):
        checkpoint.read_region("m/w", (5, 0), (2, 3))


@pytest.mark.parametrize(("start", "shape"), [((7, 0), (2, 3)), ((0,), (2,)), ((-1, 0), (1, 3))])
def test_parts_must_lie_in_the_tensor(
    tmp_path: Path, start: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    checkpoint = divided(LocalStore(tmp_path), numbers((8, 3)).numpy(), (2, 1), Options())
    with pytest.raises(CheckpointError, match=r"m/w .* is float32\[8, 3\]; it doesn't fit"):
        checkpoint.read_region("m/w", start, shape)


def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    store, shard = LocalStore(tmp_path), Shard((4,), (2,), (0,))
    leaf = TensorLeaf(numbers((2,)).numpy(), "float32", shard)
    records = write_part(store, IDENTITY, {"m/w": leaf}, {"m/w": "0"})
    with pytest.raises(CheckpointError, match="of m/w there are 1 of 2 parts"):
        commit(store, a_manifest(tensors=tuple(records.values())))


# --- whole gangs ---

#: How a gang holds its state: the mesh (none: plain tensors), and the placements of parameters.
Gang = tuple[tuple[int, ...], list[Placement]]
GANGS: dict[str, Gang] = {
    "plain": ((1,), []),
    "fsdp-1": ((1,), [Split(0)]),
    "fsdp-2": ((2,), [Split(0)]),
    "fsdp-3": ((3,), [Split(0)]),
    "fsdp-4": ((4,), [Split(0)]),
    "hsdp": ((2, 2), [Replicate(), Split(0)]),
    "two-d": ((2, 3), [Split(0), Split(1)]),
    "copies": ((2,), [Replicate()]),
}


class Cell:
    """A model, with tied and small and large weights, and its optimizer, as one rank has them."""

    def __init__(self, seed: int, mesh: DeviceMesh, placements: list[Placement]) -> None:
        torch.manual_seed(seed)
        self.model = nn.ModuleDict({"a": nn.Linear(6, 7), "b": nn.Linear(6, 2)})
        self.model.register_buffer("count", torch.tensor(seed))
        for layer in self.model.values():
            for name, p in list(layer.named_parameters()):
                if placements:
                    fit = [Replicate() if p.ndim == 1 and x == Split(1) else x for x in placements]
                    setattr(layer, name, nn.Parameter(placed(p.detach(), mesh, fit)))
        self.model["tied"] = self.model["a"]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)

    def step(self) -> None:
        for n, p in enumerate(self.model.parameters()):
            p.grad = torch.ones_like(p) * (n + 1)
        self.optimizer.step()

    def tracker(self, rank: int) -> Tracker:
        tracker = Tracker(rank, {}, print)
        tracker.add("model", self.model)
        tracker.add("optimizer", self.optimizer)
        return tracker

    def tensors(self) -> dict[str, torch.Tensor]:
        states = self.optimizer.state_dict()["state"].items()
        moments = {f"{n}.{k}": t for n, state in states for k, t in state.items()}
        return {**self.model.state_dict(), **moments}


def saved(folder: Path, gang: Gang, step: int = 20, start: Stored | None = None) -> Path:
    """Have a gang write a checkpoint of its first step; return its path."""
    shape, placements = gang
    snapshots = []
    for rank in range(prod(shape)):
        with as_rank(rank, shape) as mesh:
            cell = Cell(0, mesh, placements)
            cell.step()
            snapshots.append(cell.tracker(rank).snapshot())
    return written(folder, snapshots, step, start)


def written(
    folder: Path, snapshots: list[Snapshot], step: int = 20, start: Stored | None = None
) -> Path:
    attempt = an_attempt(store=str(folder), world_size=len(snapshots))
    store, notes = dist.HashStore(), []
    manifest = start.manifest if start else None
    savers = [
        Saver(attempt, rank, store, lambda _: None, notes.append, WriterHere(), manifest)
        for rank in range(len(snapshots))
    ]
    for saver, snapshot in zip(savers, snapshots, strict=True):
        position = {"loop": 0, "epoch": 0, "batch": step}
        saver.write(Request(step, position, snapshot, {}, None))
    for saver in savers:
        saver.wait()
        assert saver.failed is None, saver.failed
    return folder / "runs" / checkpoint_id("digits", step, 1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of the same state by each gang."""
    return {name: saved(tmp_path_factory.mktemp(name), gang) for name, gang in GANGS.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    with as_rank(0, (1,)) as mesh:
        cell = Cell(0, mesh, [])
        cell.step()
        return cell.tensors()


def check(cell: Cell, expected: dict[str, torch.Tensor], placements: list[Placement]) -> None:
    found = cell.tensors()
    assert list(found) == list(expected)
    for name, tensor in found.items():
        sharded = bool(placements) and tensor.ndim > 0
        assert is_sharded(tensor) == sharded, name
        local, shard = part_of(tensor, nowhere)
        assert torch.equal(local, cut(expected[name], shard)), name


_NAMES = list(GANGS)


@pytest.mark.parametrize(
    ("origin", "to"),
    [(name, _NAMES[(n + far) % len(_NAMES)]) for n, name in enumerate(_NAMES) for far in (1, 3)],
)
def test_any_gang_goes_on_from_any_other(
    checkpoints: dict[str, Path], expected: dict[str, torch.Tensor], origin: str, to: str
) -> None:
    shape, placements = GANGS[to]
    for rank in range(prod(shape)):
        stored = Stored(open_checkpoint(checkpoints[origin]), rank)
        with as_rank(rank, shape) as mesh:
            cell = Cell(1, mesh, placements)
            places = [local_of(p).data_ptr() for p in cell.model.parameters()]
            tracker = cell.tracker(rank)
            for _ in range(2):  # the second time into an optimizer that has its state
                tracker.restore(stored)
                check(cell, expected, placements)
            assert places == [local_of(p).data_ptr() for p in cell.model.parameters()]
            cell.step()


@pytest.mark.parametrize("origin", GANGS)
def test_all_of_it_can_be_read_in_one_process(
    checkpoints: dict[str, Path], expected: dict[str, torch.Tensor], origin: str
) -> None:
    stored = Stored(open_checkpoint(checkpoints[origin]), 0)
    found = stored.state("model")
    assert list(found) == [n for n in expected if n in found]
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert found["tied.weight"] is found["a.weight"]


def test_what_didnt_change_is_not_written_again(tmp_path: Path) -> None:
    first = saved(tmp_path, GANGS["fsdp-3"])
    before = Stored(open_checkpoint(first), 0)
    again = open_checkpoint(saved(tmp_path, GANGS["fsdp-3"], 40, before)).manifest
    assert {t.at for t in again.tensors if not t.name.startswith("rank-")} == {before.id}
    other = open_checkpoint(saved(tmp_path, GANGS["fsdp-2"], 60, before)).manifest
    kept = {t.name for t in other.tensors if t.at == before.id}
    # Two rows are divided over three ranks as over two.
    assert kept >= {"model/count", "model/b.weight", "optimizer/state.0.step"}
    assert not kept & {"model/a.weight", "optimizer/state.0.exp_avg"}


class Rowwise(torch.optim.SGD):
    """Its state has other shapes than its parameters."""

    def step(self, closure: Any = None) -> None:
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["rows"] = p.grad.reshape(len(p), -1)[:, :1] * 3


@pytest.mark.parametrize("kind", [torch.optim.SGD, Rowwise])
def test_other_optimizers(tmp_path: Path, kind: Callable[..., torch.optim.Optimizer]) -> None:
    def a_cell(seed: int, mesh: DeviceMesh) -> tuple[Cell, Tracker]:
        cell = Cell(seed, mesh, [Split(0)])
        cell.optimizer = kind(cell.model.parameters(), lr=0.1, momentum=0.9)
        return cell, cell.tracker(mesh.get_rank())

    snapshots, ends = [], []
    for rank in range(2):
        with as_rank(rank, (2,)) as mesh:
            cell, tracker = a_cell(0, mesh)
            cell.step()
            snapshots.append(tracker.snapshot())
            cell.step()
            ends.append({k: local_of(t).clone() for k, t in cell.tensors().items()})
    path = written(tmp_path, snapshots)
    for rank in range(2):
        with as_rank(rank, (2,)) as mesh:
            cell, tracker = a_cell(1, mesh)
            tracker.restore(Stored(open_checkpoint(path), rank))
            rows = [state["rows"] for state in cell.optimizer.state.values() if "rows" in state]
            assert all(is_sharded(r) and r.placements == (Replicate(),) for r in rows)
            assert [len(r) for r in rows] == ([7, 7, 2, 2] if kind is Rowwise else [])
            cell.step()
            for name, tensor in cell.tensors().items():
                assert torch.equal(local_of(tensor), ends[rank][name]), name


def test_sharded_tensors_by_themselves_and_in_lists(tmp_path: Path) -> None:
    def objects(mesh: DeviceMesh, factor: int) -> dict[str, Any]:
        make = lambda n: placed(numbers((n, 2)) * factor, mesh, [Split(0)])  # noqa: E731
        return {"w": make(5), "ema": {"x": [make(3), make(4).to(torch.bfloat16)], "n": factor}}

    def track(rank: int, found: dict[str, Any]) -> Tracker:
        tracker = Tracker(rank, {"norm": found["w"]}, print)
        for name, value in found.items():
            tracker.add(name, value)
        tracker.mark()
        return tracker

    snapshots = []
    for rank in range(2):
        with as_rank(rank, (2,)) as mesh:
            snapshots.append(track(rank, objects(mesh, 1)).snapshot())
    path = written(tmp_path, snapshots)
    with as_rank(2, (3,)) as mesh:
        wanted, found = objects(mesh, 1), objects(mesh, 7)
        track(2, found).restore(Stored(open_checkpoint(path), 2))
        pairs = zip([found["w"], *found["ema"]["x"]], [wanted["w"], *wanted["ema"]["x"]],
                    strict=True)  # fmt: skip
        assert all(torch.equal(local_of(a), local_of(b)) and is_sharded(a) for a, b in pairs)
        assert found["ema"]["n"] == 1


def test_another_dtype_is_converted_as_plain_tensors_are(checkpoints: dict[str, Path]) -> None:
    with as_rank(1, (2,)) as mesh:
        cell = Cell(1, mesh, [Split(0)])
        cell.model.to(torch.bfloat16)
        tracker = Tracker(1, {}, print)
        tracker.add("model", cell.model)
        tracker.restore(Stored(open_checkpoint(checkpoints["fsdp-3"]), 1))
        wanted = Stored(open_checkpoint(checkpoints["plain"]), 0).state("model")
        for name, tensor in cell.model.state_dict().items():
            assert name == "count" or tensor.dtype == torch.bfloat16
            local, shard = part_of(tensor, nowhere)
            assert torch.equal(local, cut(wanted[name].to(local.dtype), shard))


def test_a_shape_that_doesnt_fit_says_so(checkpoints: dict[str, Path]) -> None:
    with as_rank(0, (2,)) as mesh:
        layer = nn.Linear(6, 9)
        layer.weight = nn.Parameter(placed(torch.ones(9, 6), mesh, [Split(0)]))
        tracker = Tracker(0, {}, print)
        tracker.add("model", nn.ModuleDict({"a": layer}))
        stored = Stored(open_checkpoint(checkpoints["fsdp-2"]), 0)
        with pytest.raises(CheckpointError, match=r"'model' in checkpoint .* doesn't fit"):
            tracker.restore(stored)


# --- beside training ---


def large(mesh: DeviceMesh) -> tuple[nn.Linear, torch.optim.Optimizer, Tracker]:
    layer = nn.Linear(256, 256, bias=False)
    layer.weight = nn.Parameter(placed(layer.weight.detach(), mesh, [Split(0)]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    tracker = Tracker(0, {}, print)
    tracker.add("model", layer)
    return layer, optimizer, tracker


def step(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()


@pytest.mark.parametrize("changed", [False, True])
def test_parts_are_copied_while_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """What changes a DTensor outside of a step is noticed, though its part doesn't count it."""
    may, copy_all = threading.Event(), snapshots._copy_all

    def when_allowed(copies: Any, *options: Any) -> None:
        copies = list(copies)
        if any(copy.to.numel() > 1000 for copy in copies) and threading.current_thread() is not (
            threading.main_thread()
        ):
            assert may.wait(20)
        copy_all(copies, *options)

    monkeypatch.setattr(snapshots, "_copy_all", when_allowed)
    with as_rank(0, (2,)) as mesh:
        layer, optimizer, tracker = large(mesh)
        tracker.snapshot(at_once=False)
        step(layer, optimizer)  # the first snapshot is proven
        before = local_of(layer.weight).clone()
        taken = tracker.snapshot(at_once=False)
        if changed:
            with torch.no_grad():
                layer.weight.mul_(2)
        may.set()
        step(layer, optimizer)
        assert taken.wait() is not changed
        [leaf] = taken.leaves.values()
        assert leaf.shard == Shard((256, 256), (128, 256), (0, 0))
        if not changed:
            assert np.array_equal(leaf.array, before.numpy())
