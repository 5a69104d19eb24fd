"""`diff`: what it measures is right, what is equal isn't read, and what is wrong is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.differences import DiffReport, Kind, TensorChange
from resilient_nb.core.plain_values import value_changes
from resilient_nb.core.recorded import (
    CellRecord,
    DataRecord,
    LoopRecord,
    Recorded,
)
from resilient_nb.errors import CorruptCheckpoint, UnknownName, VersionMismatch
from resilient_nb.rank.tensors import to_leaf
from resilient_nb.storage.comparing import Side, compare
from resilient_nb.storage.describing import describe, recorded
from resilient_nb.storage.encoding import codecs_of
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.tree import Json, Shard, TensorLeaf, flatten
from resilient_nb.storage.values import change, numbers
from resilient_nb.storage.writing import Options, commit, merge, shards_digest, write_part
from resilient_nb.wire.codec import plain
from tests.unit.checkpoints import OPTIONS, a_manifest, save
from tests.unit.compared import INFO, RECORD, Counting, a_view

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
]  # fmt: skip
WHOLE = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint32]
DTYPES = [*FLOATS, *WHOLE, torch.complex64, torch.complex128]

Tensors = Mapping[str, torch.Tensor]


class Shelf:
    """Checkpoints of one run, by step, from tensors and other state."""

    def __init__(self, folder: Path) -> None:
        self.store = Counting(LocalStore(folder))

    def put(
        self,
        step: int,
        tensors: Tensors,
        state: Mapping[str, Any] | None = None,
        options: Options = OPTIONS,
        **changed: Any,
    ) -> Side:
        leaves = {name: to_leaf(tensor.contiguous()) for name, tensor in tensors.items()}
        return self.put_leaves(step, leaves, state, options, **changed)

    def put_leaves(
        self,
        step: int,
        leaves: Mapping[str, TensorLeaf],
        state: Mapping[str, Any] | None = None,
        options: Options = OPTIONS,
        plain_values: Mapping[str, Any] | None = None,
        **changed: Any,
    ) -> Side:
        shared: dict[str, Json] = {name: flatten(v, name)[0] for name, v in (state or {}).items()}
        own, _ = flatten({"random": (1, step), "plain": dict(plain_values or {})}, "rank-0")
        documents: dict[str, Json] = {"shared": shared, "rank-0": {"state": own}}
        manifest = save(
            self.store, leaves, documents, options=options, step=step, epoch=1, **changed
        )
        return a_side(open_at(self.store, manifest.id))


def a_side(checkpoint: Checkpoint) -> Side:
    return Side(a_view(checkpoint.manifest), checkpoint)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def a_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    values = torch.randn(shape, dtype=torch.float64) * 4
    if dtype.is_complex:
        return torch.complex(values, torch.randn(shape, dtype=torch.float64)).to(dtype)
    return values.abs().to(dtype) if dtype in (torch.uint8, torch.uint32) else values.to(dtype)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def the_one(report: DiffReport) -> TensorChange:
    [found] = report.tensors
    return found


def nothing_differs(report: DiffReport) -> bool:
    parts = (
        report.state, report.metrics, report.code.diff, report.code.helpers, report.config,
        report.data, report.versions, report.environment, report.numerics,
    )  # fmt: skip
    return report.equal and not any(parts) and report.read == 0


# What is measured is right.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (7, 5), (40, 30)], ids=str)
@pytest.mark.parametrize("codecs", ["", "zstd"])
def test_the_change_is_what_torch_says(
    shelf: Shelf, dtype: torch.dtype, shape: tuple[int, ...], codecs: str
) -> None:
    a, b = a_tensor(dtype, shape, 1), a_tensor(dtype, shape, 2)
    options = replace(OPTIONS, codecs=codecs_of(codecs))
    sides = (shelf.put(n, {"model/w": t}, options=options) for n, t in ((1, a), (2, b)))
    found = the_one(compare(*sides))
    delta = wide(b) - wide(a)
    if not delta.count_nonzero():
        assert found.kind is Kind.EQUAL
        return
    assert found.kind is Kind.CHANGED
    assert found.dtype_a == found.dtype_b == str(dtype).removeprefix("torch.")
    assert found.differing == delta.count_nonzero()
    assert found.norm == pytest.approx(torch.linalg.vector_norm(delta).item(), rel=1e-12)
    assert found.max_abs == pytest.approx(delta.abs().max().item(), rel=1e-12)
    before = torch.linalg.vector_norm(wide(a)).item()
    assert found.relative == (pytest.approx(found.norm / before, rel=1e-12) if before else None)
    assert (found.nan_a, found.nan_b, found.undefined) == (0, 0, 0)


@pytest.mark.parametrize(
    "dtype", [*FLOATS[3:], torch.float8_e8m0fnu, torch.uint8, torch.int8, torch.float16], ids=str
)
def test_every_bit_pattern_is_the_number_that_torch_reads(dtype: torch.dtype) -> None:
    bits = np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}")
    tensor = torch.from_numpy(bits).view(dtype)
    found = numbers(to_leaf(tensor).array, str(dtype).removeprefix("torch."))
    assert np.array_equal(found, tensor.to(torch.float64).numpy(), equal_nan=True)


def test_two_small_floats_in_a_byte_are_two() -> None:
    values = numbers(np.array([0x10, 0xF7], np.uint8), "float4_e2m1fn_x2")
    assert values.tolist() == [0.0, 0.5, 6.0, -6.0]


def test_whole_numbers_are_exact_to_the_last_bit(shelf: Shelf) -> None:
    low, high = -(2**63), 2**63 - 1
    a = shelf.put(1, {"m/i": torch.tensor([low, 2**62, high, 0])})
    b = shelf.put(2, {"m/i": torch.tensor([high, 2**62 + 1, low, 0])})
    found = the_one(compare(a, b))
    assert found.differing == 3
    assert found.max_abs == float(2**64 - 1)
    assert found.norm == pytest.approx(math.sqrt(2) * 2.0**64)
    near = change(np.array([2**62]), np.array([2**62 + 1]), "int64", "int64")
    assert (near.norm, near.max_abs) == (1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-200, 1e-310, 1e200])
def test_squares_neither_vanish_nor_overflow(scale: float) -> None:
    found = change(np.zeros(2), np.array([3.0, 4.0]) * scale, "float64", "float64")
    assert found.norm == pytest.approx(5 * scale, rel=1e-9)


def test_values_that_are_not_finite_are_counted_and_left_out(shelf: Shelf) -> None:
    nan, inf = math.nan, math.inf
    a = shelf.put(1, {"m/w": torch.tensor([1.0, nan, nan, inf, inf, -inf, 3.0])})
    b = shelf.put(2, {"m/w": torch.tensor([nan, nan, 2.0, inf, -inf, 0.0, 7.0])})
    found = the_one(compare(a, b))
    assert (found.nan_a, found.nan_b) == (2, 2)
    assert found.differing == 5
    assert found.undefined == 4
    assert (found.norm, found.max_abs) == (4.0, 4.0)


def test_what_is_the_same_number_in_other_bits_is_equal(shelf: Shelf) -> None:
    quiet, other = np.array([0x7FC00000, 0], np.uint32), np.array([0x7FC00001, 1 << 31], np.uint32)
    a = shelf.put(1, {"m/w": torch.from_numpy(quiet).view(torch.float32)})
    b = shelf.put(2, {"m/w": torch.from_numpy(other).view(torch.float32)})
    report = compare(a, b)
    assert the_one(report).kind is Kind.EQUAL
    assert report.equal
    assert report.read == 16


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), max_size=40))
def test_a_change_of_any_floats_is_symmetric_and_none_for_the_same(
    pairs: list[tuple[float, float]],
) -> None:
    a, b = (
        np.array(side, np.float32) for side in (zip(*pairs, strict=True) if pairs else ([], []))
    )
    there, back = change(a, b, "float32", "float32"), change(b, a, "float32", "float32")
    assert (there.differing, there.undefined) == (back.differing, back.undefined)
    assert there.norm == pytest.approx(back.norm)
    assert there.max_abs == back.max_abs
    assert (there.nan_a, there.nan_b) == (back.nan_b, back.nan_a)
    same = change(a, a, "float32", "float32")
    assert (same.norm, same.max_abs, same.differing, same.undefined) == (0.0, 0.0, 0, 0)


# What becomes of tensors.


def some(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name.replace("__", "/"): tensor for name, tensor in tensors.items()}


def test_a_checkpoint_does_not_differ_from_itself(shelf: Shelf) -> None:
    tensors = {f"model/{n}": a_tensor(d, (9, 9), n) for n, d in enumerate(DTYPES)}
    side = shelf.put(1, tensors, {"opt": {"lr": 0.1}}, metrics={"loss": math.nan}, info=INFO)
    shelf.store.count = 0
    report = compare(side, side)
    assert nothing_differs(report)
    assert {t.kind for t in report.tensors} == {Kind.EQUAL}
    assert report.notes == ()
    assert shelf.store.count == 0


NAMES = st.sampled_from(["model/a", "model/b", "opt/c", "rank-0/d"])
VALUES = st.lists(st.integers(-3, 3), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES))
def test_what_is_added_one_way_is_removed_the_other(
    tmp_path_factory: pytest.TempPathFactory, a: dict[str, Any], b: dict[str, Any]
) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("laws"))
    one, other = (
        shelf.put(n, {name: torch.tensor(v, dtype=torch.float32) for name, v in side.items()})
        for n, side in ((1, a), (2, b))
    )
    there, back = compare(one, other), compare(other, one)
    assert [t.name for t in there.tensors] == sorted({*a, *b})
    swap = {Kind.ADDED: Kind.REMOVED, Kind.REMOVED: Kind.ADDED}
    for t, u in zip(there.tensors, back.tensors, strict=True):
        assert swap.get(t.kind, t.kind) is u.kind
        assert (t.norm, t.max_abs, t.differing) == (u.norm, u.max_abs, u.differing)
        assert (t.shape_a, t.dtype_a, t.nbytes_a) == (u.shape_b, u.dtype_b, u.nbytes_b)
    assert there.equal == back.equal == (a == b)
    assert sum(p.tensors for p in there.parts) == len(there.tensors)
    for p, q in zip(there.parts, back.parts, strict=True):
        assert (p.name, p.added, p.removed, p.norm) == (q.name, q.removed, q.added, q.norm)


def test_other_shapes_and_dtypes_are_told_apart(shelf: Shelf) -> None:
    ones = torch.ones(4)
    a = shelf.put(1, some(m__shape=ones, m__dtype=ones, m__rounded=ones / 3, m__gone=ones))
    b = shelf.put(
        2, some(m__shape=torch.ones(2, 2), m__dtype=ones.half(), m__new=ones,
                m__rounded=(ones / 3).bfloat16())
    )  # fmt: skip
    report = compare(a, b)
    found = {t.name: t for t in report.tensors}
    assert {name[2:]: t.kind.value for name, t in found.items()} == {
        "shape": "reshaped", "dtype": "retyped", "rounded": "retyped", "gone": "removed",
        "new": "added",
    }  # fmt: skip
    assert (found["m/shape"].norm, found["m/shape"].shape_b) == (None, (2, 2))
    assert (found["m/dtype"].norm, found["m/dtype"].dtype_b) == (0.0, "float16")
    assert found["m/rounded"].norm == pytest.approx(2 * (0.333984375 - 1 / 3), rel=1e-4)
    [part] = report.parts
    assert (part.tensors, part.equal, part.changed, part.added, part.removed) == (5, 0, 3, 1, 1)


def test_a_part_is_measured_as_one_tensor_without_its_counters(shelf: Shelf) -> None:
    a = shelf.put(1, some(m__a=torch.tensor([3.0, 0]), m__b=torch.tensor([4.0, 0]),
                          m__step=torch.tensor(0.0), m__seen=torch.tensor([0]),
                          n__step=torch.tensor(0.0)))  # fmt: skip
    b = shelf.put(2, some(m__a=torch.tensor([6.0, 0]), m__b=torch.tensor([8.0, 0]),
                          m__step=torch.tensor(99.0), m__seen=torch.tensor([99]),
                          n__step=torch.tensor(99.0)))  # fmt: skip
    model, counter = compare(a, b).parts
    assert (model.norm, model.max_abs, model.relative) == (5.0, 4.0, 1.0)
    assert (counter.norm, counter.relative) == (99.0, None)


def test_tied_tensors_are_compared_once(shelf: Shelf) -> None:
    a, b = (
        shelf.put(n, some(m__a=torch.full((400,), n), m__b=torch.full((400,), n))) for n in (1, 2)
    )
    report = compare(a, b)
    assert [t.norm for t in report.tensors] == [20.0, 20.0]
    assert report.read == 2 * 400 * 8


# What is read.


def test_only_what_differs_is_read_and_each_chunk_once(shelf: Shelf) -> None:
    big, small = torch.arange(2000.0), torch.arange(9.0)
    a = shelf.put(1, some(m__big=big, m__same=big + 1, m__small=small, m__kept=small + 1))
    b = shelf.put(2, some(m__big=big * 2, m__same=big + 1, m__small=small * 2, m__kept=small + 1))
    shelf.store.count, shelf.store.keys = 0, []
    report = compare(a, b)
    assert report.read == 2 * (8000 + 36)
    chunks = [key for key in shelf.store.keys if "/m/big/" in key]
    assert {key.rpartition("/")[2] for key in chunks} == {f"c.{n}" for n in range(8)}
    assert not any("/m/same/" in key for key in shelf.store.keys)
    assert shelf.store.count <= report.read + 16 * 10  # and the sums behind the chunks


@pytest.mark.parametrize("only", ["model", "opt"])
def test_only_one_part(shelf: Shelf, only: str) -> None:
    a = shelf.put(1, some(model__w=torch.ones(500), opt__m=torch.ones(500)),
                  {"model": {"v": 1}, "opt": {"v": 1}})  # fmt: skip
    b = shelf.put(2, some(model__w=torch.zeros(500), opt__m=torch.zeros(500)),
                  {"model": {"v": 2}, "opt": {"v": 2}})  # fmt: skip
    shelf.store.keys = []
    report = compare(a, b, only)
    assert {t.part for t in report.tensors} == {only}
    assert [(v.path, v.a, v.b) for v in report.state] == [(f"{only}.v", "1", "2")]
    assert all(f"/{only}/" in key for key in shelf.store.keys)


def test_a_part_that_neither_has_is_refused(shelf: Shelf) -> None:
    side = shelf.put(1, some(model__w=torch.ones(5)), {"opt": {}}, plain_values={"history": [1]})
    with pytest.raises(UnknownName, match=r"Neither digits@1 nor digits@1 has 'modle'; they have"):
        compare(side, side, "modle")
    for only in ("model", "opt", "history"):
        assert compare(side, side, only).only == only


def test_other_divisions_of_the_same_tensor_are_compared(shelf: Shelf) -> None:
    """Ranks hold parts of it: its chunks are theirs, and its digest is over theirs."""
    whole = np.arange(35.0, dtype=np.float32).reshape(5, 7)
    parts = {
        (n,): TensorLeaf(np.ascontiguousarray(whole[n * 2 : n * 2 + 2]), "float32",
                         Shard((5, 7), (2, 7), (n, 0)))
        for n in range(3)
    }  # fmt: skip
    manifest = a_manifest(step=2, epoch=1)
    total = shards_digest({(n[0], 0): digest(leaf.array) for n, leaf in parts.items()})
    records = [
        write_part(shelf.store, manifest.id, {"m/w": leaf}, {"m/w": total}, rank=n[0])["m/w"]
        for n, leaf in parts.items()
    ]
    manifest = replace(manifest, tensors=(merge(records),))
    commit(shelf.store, manifest)
    sharded = a_side(open_at(shelf.store, manifest.id))
    same = shelf.put(1, {"m/w": torch.from_numpy(whole)}, options=replace(OPTIONS, chunk_bytes=40))
    assert the_one(compare(same, sharded)).kind is Kind.EQUAL
    other = shelf.put(3, {"m/w": torch.from_numpy(whole + 1)})
    assert the_one(compare(sharded, other)).norm == pytest.approx(math.sqrt(35))


def test_damage_is_named(shelf: Shelf, tmp_path: Path) -> None:
    a = shelf.put(1, some(m__big=torch.arange(2000.0)))
    b = shelf.put(2, some(m__big=torch.arange(2000.0) + 1))
    chunk = tmp_path / b.checkpoint.identity / "m" / "big" / "c.3"
    chunk.write_bytes(chunk.read_bytes()[:-20] + bytes(20))
    with pytest.raises(CorruptCheckpoint, match="digits/00000002-e1 is damaged: m/big"):
        compare(a, b)


# Other state.


@pytest.mark.parametrize(
    ("a", "b", "changes"),
    [
        ({"lr": 0.1}, {"lr": 0.1}, []),
        ({"lr": 0.1}, {"lr": 0.2}, [("lr", "0.1", "0.2")]),
        ({"g": [{"lr": 1}]}, {"g": [{"lr": 1.0}]}, [("g[0].lr", "1", "1.0")]),
        ({"x": math.nan}, {"x": math.nan}, []),
        ({"x": True}, {"x": 1}, [("x", "True", "1")]),
        ({"h": [1, 2]}, {"h": [1, 2, 3, 4, 5]}, [("h", "[1, 2]", "list of 5")]),
        ({"h": []}, {"h": [[1]]}, [("h", "[]", "list of 1")]),
        ({"h": (1, 2)}, {"h": (1, 3)}, [("h[1]", "2", "3")]),
        ({"a b": 1, 3: "x"}, {}, [("a b", "1", None), ("[3]", "'x'", None)]),
        ({"m": {"a b": 1}}, {"m": {"a b": 2}}, [("m['a b']", "1", "2")]),
        ({}, {"n": None}, [("n", None, "None")]),
        ({"n": 16**5000}, {"n": 0}, [("n", f"0x1{'0' * 197}… (5,003 characters)", "0")]),
        ({"s": {1}}, {"s": {2}}, [("s", "{1}", "{2}")]),
    ],
)
def test_values_that_differ_have_a_path(
    a: dict[Any, Any], b: dict[Any, Any], changes: list[tuple[str, str | None, str | None]]
) -> None:
    assert [(c.path, c.a, c.b) for c in value_changes(a, b)] == changes


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=2), v, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(PLAIN, PLAIN)
def test_plain_values_differ_both_ways_or_not_at_all(a: Any, b: Any) -> None:
    assert list(value_changes(a, a)) == []
    there, back = list(value_changes(a, b)), list(value_changes(b, a))
    assert sorted((c.path, str(c.a), str(c.b)) for c in there) == sorted(
        (c.path, str(c.b), str(c.a)) for c in back
    )
    assert bool(there) or repr(a) == repr(b) or a == b


def test_hyperparameters_and_plain_values_differ_and_tensors_are_told_elsewhere(
    shelf: Shelf,
) -> None:
    model = torch.nn.Linear(2, 2)

    def state(lr: float) -> dict[str, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        found = optimizer.state_dict()
        found["state"] = {0: {"buffer": TensorLeaf(np.zeros(2, np.float32), "float32")}}
        return {"opt": found}

    a = shelf.put_leaves(1, {}, state(0.1), plain_values={"history": [1.0], "best": 3})
    b = shelf.put_leaves(2, {}, state(0.2), plain_values={"history": [1.0, 2.0], "best": 3})
    assert [(v.path, v.a, v.b) for v in compare(a, b).state] == [
        ("opt.param_groups[0].lr", "0.1", "0.2"),
        ("history", "[1.0]", "[1.0, 2.0]"),
    ]


def test_a_report_is_bounded(shelf: Shelf) -> None:
    a = shelf.put(1, {}, {"table": list(range(5000))})
    b = shelf.put(2, {}, {"table": list(range(1, 5001))})
    report = compare(a, b)
    assert (len(report.state), report.hidden, report.equal) == (1000, 4000, False)


# What is recorded.


def test_what_is_recorded_comes_back(shelf: Shelf) -> None:
    side = shelf.put(1, {}, info=INFO)
    assert recorded(side.checkpoint.manifest) == RECORD
    assert recorded(shelf.put(2, {}).checkpoint.manifest) == Recorded()
    broken = shelf.put(3, {}, info={"config": {"workers": "two"}})
    with pytest.raises(VersionMismatch, match="What digits/00000003-e1 records of its origin"):
        recorded(broken.checkpoint.manifest)


def test_code_config_data_and_machine_are_compared(shelf: Shelf) -> None:
    assert RECORD.cell is not None
    assert RECORD.config is not None
    cell = replace(RECORD.cell, source="a = 1\nb = 3\n", sha256="bb", helpers={"Cell In[9]": "ff"})
    loops = (LoopRecord(0, "batches", 60, 6, True, False),)
    other = replace(
        RECORD, cell=cell, config=replace(RECORD.config, loops=loops, out=("m",)),
        data=(DataRecord(0, "TensorDataset", 210, "4567"),), numerics={"cpu": "AVX512"},
        versions={"python": "3.11", "torch": "2.14", "scikit-learn": "1.9"},
    )  # fmt: skip
    a = shelf.put(1, {}, info=INFO, metrics={"loss": 0.5, "a": 1.0, "n": math.nan})
    b = shelf.put(2, {}, info=plain(other), metrics={"loss": 0.25, "b": 1.0, "n": math.nan})
    report = compare(a, b)
    assert report.code.diff == (
        "--- digits@1", "+++ digits@2", "@@ -1,2 +1,2 @@", " a = 1", "-b = 2", "+b = 3",
    )  # fmt: skip
    assert report.code.equal is False
    assert report.code.helpers == ()  # the same text: only the notebook counts its cells anew
    assert [(c.path, c.a, c.b) for c in report.config] == [
        ("out", "()", "('m',)"), ("loops[0].batch_size", "30", "60"),
    ]  # fmt: skip
    assert [(c.path, c.b) for c in report.data] == [("[0].fingerprint", "'4567'")]
    assert [(c.path, c.a) for c in report.versions] == [
        ("torch", "'2.13'"), ("scikit-learn", None),
    ]  # fmt: skip
    assert [c.path for c in report.numerics] == ["cpu"]
    assert report.environment == ()
    assert [(m.name, m.a, m.b) for m in report.metrics] == [
        ("loss", 0.5, 0.25), ("a", 1.0, None), ("b", None, 1.0),
    ]  # fmt: skip
    assert report.equal  # the state is


def test_what_isnt_recorded_is_said_and_not_compared(shelf: Shelf) -> None:
    report = compare(shelf.put(1, {}, info=INFO), shelf.put(2, {}))
    assert report.code.equal is None
    assert report.config == ()
    assert report.notes == (
        "digits@2 doesn't record its cell, config, data, versions, environment, numerics: these "
        "aren't compared.",
    )


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        (lambda c: replace(c, label="In [9]"), True),
        (lambda c: replace(c, helpers={"Cell In[3]": "ee"}), False),
        (lambda c: replace(c, source=None, sha256="bb"), False),
    ],
)
def test_a_cell_is_its_source_and_its_helpers(
    shelf: Shelf, change: Callable[[CellRecord], CellRecord], equal: bool
) -> None:
    assert RECORD.cell is not None
    other = replace(RECORD, cell=change(RECORD.cell))
    report = compare(shelf.put(1, {}, info=INFO), shelf.put(2, {}, info=plain(other)))
    assert report.code.equal is equal
    assert report.code.diff == ()


def test_a_checkpoint_says_whose_tensors_it_has(shelf: Shelf) -> None:
    first = shelf.put(1, some(m__a=torch.ones(400), m__b=torch.ones(3).half()))
    kept = {t.name: t for t in first.checkpoint.manifest.tensors}
    second = shelf.put(2, some(m__c=torch.ones(400)), kept=kept, info=INFO)
    manifest = second.checkpoint.manifest
    tied = replace(kept["m/a"], name="n/tied", tied="m/a")
    manifest = replace(manifest, tensors=(*manifest.tensors, tied))
    report = describe(second.view, manifest)
    assert (report.tensors, report.own_tensors) == (4, 1)
    [holder] = report.holders
    assert (holder.ref, holder.tensors, holder.nbytes) == ("digits@1", 2, 1606)
    assert [(p.name, p.tensors, dict(p.dtypes)) for p in report.parts] == [
        ("m", 3, {"float32": 2, "float16": 1}), ("n", 1, {"float32": 1}),
    ]  # fmt: skip
    assert report.recorded == RECORD
