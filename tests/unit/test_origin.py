"""What a checkpoint records of where it comes from, and that gathering it disturbs nothing."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from resilient_nb.core.model import Cell, Interval, Scaling
from resilient_nb.core.names import checkpoint_id
from resilient_nb.core.recorded import DataRecord, LoopRecord, Recorded
from resilient_nb.rank.batches import Plan
from resilient_nb.rank.fingerprint import fingerprint
from resilient_nb.rank.origin import Origin, versions
from resilient_nb.rank.saver import Request, Saver
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.writer import WriterHere
from resilient_nb.storage.describing import recorded
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.testing.builders import an_attempt

PLAN = Plan(30, 6, True, False, 0)


class Own(Dataset[Any]):
    """A user's dataset that must not be asked for items by anybody but the loop."""

    def __init__(self, **held: Any) -> None:
        vars(self).update(held)

    def __getitem__(self, n: int) -> Any:
        raise AssertionError("an item was asked for")

    def __len__(self) -> int:
        return 7


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it was begun")


class Evil:
    """Raises whatever is done with it."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Evil
        raise RuntimeError(name)


def arrays() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "one axis": torch.arange(100_000),
        "rows": torch.randn(500, 40),
        "images": torch.randn(20, 3, 64, 64),
        "not contiguous": torch.randn(50, 60).T,
        "conjugate": torch.randn(5, 6, dtype=torch.complex64).conj(),
        "half": torch.randn(30).bfloat16(),
        "number": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "numpy": np.arange(5000.0).reshape(50, 100),
        "list": [(torch.randn(3), n) for n in range(100)],
        "words": [f"word {n}" for n in range(1000)],
        "dict": {"a": [1, 2], "b": torch.ones(3)},
    }


@pytest.mark.parametrize("name", sorted(arrays()))
def test_equal_data_has_equal_fingerprints_and_no_random_number_is_drawn(name: str) -> None:
    first, again = arrays()[name], arrays()[name]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    assert fingerprint(first) == fingerprint(again) != ""
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[union-attr]


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", ["one axis", "rows", "not contiguous", "conjugate", "numpy"])
def test_another_first_or_last_value_is_seen(name: str, place: int) -> None:
    data, other = arrays()[name], arrays()[name]
    if name == "conjugate":
        other = other.resolve_conj()
    other[(place,) * other.ndim] += 1
    assert fingerprint(data) != fingerprint(other)


def test_all_fingerprints_differ() -> None:
    data = [*arrays().values(), torch.zeros(3, 0), torch.arange(100_000.0), [1, 2], (1, 2), [12]]
    data += [["1", "2"], ["12"], {"a": 1}, [True, 2], [b"1", b"2"], TensorDataset(torch.ones(3))]
    assert len({fingerprint(value) for value in data}) == len(data)


def test_datasets_are_what_they_are_made_of() -> None:
    ones, whole = torch.ones(8, 2), TensorDataset(torch.arange(8))
    assert fingerprint(TensorDataset(ones)) == fingerprint(TensorDataset(ones.clone()))
    parts = [Subset(whole, [0, 1]), Subset(whole, [0, 2]), ConcatDataset([whole, whole]), whole]
    assert len({fingerprint(part) for part in parts}) == 4


def test_a_users_dataset_is_known_by_what_it_holds_and_never_asked() -> None:
    found = fingerprint(Own(data=torch.ones(5), path="/a", seen=3))
    assert found == fingerprint(Own(data=torch.ones(5), path="/b", seen=4)) != ""
    assert found != fingerprint(Own(data=torch.zeros(5), path="/a", seen=3))
    assert fingerprint(Own(path="/a")) == fingerprint(Stream()) == fingerprint(iter([1])) == ""
    # Hugging Face's datasets have one of their own.
    assert fingerprint(Own(_fingerprint="ab12")) != fingerprint(Own(_fingerprint="ab13"))


def test_the_amount_that_is_looked_at_is_bounded() -> None:
    """A tensor as long as no memory, and lists that contain each other for ever."""
    fingerprint(torch.zeros(1).expand(1 << 45))
    fingerprint(torch.zeros(1, 1).expand(1 << 30, 1 << 30))
    endless: list[Any] = [torch.zeros(1).expand(1 << 40)] * 100
    endless += [endless] * 100
    fingerprint(endless)


LEAVES = st.integers() | st.floats() | st.text() | st.binary() | st.none() | st.booleans()


@settings(max_examples=50, deadline=None)
@given(st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_anything_plain_can_be_looked_at(value: Any) -> None:
    assert fingerprint(value) == fingerprint(value)


def data_of(data: Any) -> DataRecord:
    origin = Origin(an_attempt())
    origin.batches(0, data, PLAN)
    [found] = recorded_of(origin).data
    return found


def recorded_of(origin: Origin) -> Recorded:
    return msgspec.convert(origin.info(), Recorded)


def test_what_cant_be_looked_at_is_said() -> None:
    assert data_of(Evil()) == DataRecord(
        0, f"{__name__}.Evil", None, "", "can't be looked at: RuntimeError"
    )
    assert data_of(Stream()).note == "nothing that lies in memory"
    sparse = torch.eye(3).to_sparse()
    assert data_of(TensorDataset(sparse)).note.startswith("can't be looked at")


def test_a_loader_is_its_dataset_and_says_how_it_divides_it() -> None:
    dataset = TensorDataset(torch.arange(20.0))
    origin = Origin(an_attempt())
    origin.batches(0, dataset, PLAN)
    origin.batches(
        1, DataLoader(dataset, 4, shuffle=True, drop_last=True), Plan(None, 2, False, False, 0)
    )
    origin.batches(2, DataLoader(dataset, 4, sampler=range(3)), Plan(None, 1, False, False, 0))
    origin.steps(3, 50)
    record = recorded_of(origin)
    assert record.config is not None
    assert record.config.loops == (
        LoopRecord(0, "batches", 30, 6, True, False),
        LoopRecord(1, "batches", 4, 2, True, True, 0),
        LoopRecord(2, "batches", 4, 1, None, False, 0),
        LoopRecord(3, "steps", steps=50),
    )
    first, *others = record.data
    assert (first.type, first.length) == ("torch.utils.data.dataset.TensorDataset", 20)
    assert {data.fingerprint for data in others} == {first.fingerprint}


def test_of_many_loops_the_first_and_the_latest_are_kept() -> None:
    origin = Origin(an_attempt())
    for loop in range(1000):
        origin.steps(loop, 1)
    record = recorded_of(origin)
    assert record.config is not None
    kept = [loop.loop for loop in record.config.loops]
    assert kept == [*range(8), *range(992, 1000)]


def test_cell_config_and_machine_are_recorded() -> None:
    cell = Cell(
        "a = f()", "/tmp/1.py", "In [5]", {"/tmp/1.py": "a = f()", "/tmp/2.py": "def f(): 1"}
    )
    record = recorded_of(Origin(an_attempt(
        cell=cell, world_size=4, workers=2, seed=7, out=("a",), interval=Interval(steps=5),
        scaling=Scaling.SQRT, compress="zstd",
    )))  # fmt: skip
    assert record.cell is not None
    assert (record.cell.source, record.cell.label) == ("a = f()", "In [5]")
    assert list(record.cell.helpers) == ["/tmp/2.py"]
    assert len(record.cell.sha256) == 64
    config = record.config
    assert config is not None
    assert (config.workers, config.world_size, config.seed, config.out) == (2, 4, 7, ("a",))
    assert (config.interval, config.scaling, config.compress) == ("5 steps", "sqrt", "zstd")
    assert record.environment is not None
    assert record.environment.host
    assert record.environment.cores >= 1
    assert record.numerics["torch"] == torch.__version__
    assert record.data == ()


def test_a_very_long_cell_is_known_by_its_digest() -> None:
    record = recorded_of(Origin(an_attempt(cell=Cell("x" * 300_000))))
    assert record.cell is not None
    assert record.cell.source is None


def test_versions_are_looked_up_and_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    has, none, odd = Lazy("rnb_has"), Lazy("rnb_none"), Lazy("rnb_odd")
    vars(has)["__version__"], vars(odd)["__version__"] = "1.2", 3
    for module in (has, none, odd, Lazy("rnb_has.part"), Lazy("_rnb")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "rnb_gone", None)  # type: ignore[arg-type]
    found = versions()
    assert {name for name in found if "rnb" in name} == {"rnb_has"}
    assert list(found)[:3] == ["python", "resilient_nb", "torch"]
    assert found["numpy"] == np.__version__
    for n in range(500):
        monkeypatch.setitem(sys.modules, f"rnb_{n}", has)
    assert len(versions()) == 203


def test_a_checkpoint_has_it_all(tmp_path: Path) -> None:
    attempt = an_attempt(store=str(tmp_path), cell=Cell("train()"))
    said: list[Any] = []
    saver = Saver(attempt, 0, dist.HashStore(), said.append, said.append, WriterHere())
    saver.origin.batches(0, TensorDataset(torch.ones(4)), PLAN)
    tracker = Tracker(0, {}, said.append)
    tracker.add("model", torch.nn.Linear(1, 1))
    position = {"loop": 0, "epoch": 0, "batch": 1}
    saver.write(Request(20, position, tracker.snapshot(), {}, None))
    saver.wait()
    assert saver.failed is None
    manifest = open_checkpoint(tmp_path / "runs" / checkpoint_id("digits", 20, 1)).manifest
    record = recorded(manifest)
    assert record.cell is not None
    assert record.cell.source == "train()"
    assert record.data[0].length == 4
    assert manifest.info["position"] == position
    assert manifest.info["numerics"] == dict(record.numerics)
