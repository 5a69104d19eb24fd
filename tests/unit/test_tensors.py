"""`rank.tensors`: every dtype and kind of tensor comes back bit for bit, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import torch
import zarr
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.masked import masked_tensor
from torch.testing._internal.two_tensor import TwoTensor

from resilient_nb.errors import CannotStore
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.tensors import dtype_name, from_leaf, is_plain, numpy_dtype, to_leaf
from tests.unit.shelf import Shelf, tracking

QUANTIZED = {"qint8", "qint32", "quint8", "quint4x2", "quint2x4"}
DTYPES = sorted(
    {
        dtype_name(dtype)
        for dtype in vars(torch).values()
        if isinstance(dtype, torch.dtype) and dtype_name(dtype) not in QUANTIZED
    }
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor's values in their order."""
    plain = tensor.resolve_conj().resolve_neg()
    width = plain.element_size()
    same = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
    return plain.view(same[width]).contiguous().numpy().tobytes()


def some(dtype: torch.dtype, count: int = 24) -> torch.Tensor:
    """Return random bits as a dtype's values."""
    raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8)
    return (raw % 2 if dtype is torch.bool else raw).view(dtype)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_of_torch_comes_back_bit_for_bit(shelf: Shelf, name: str) -> None:
    dtype = getattr(torch, name)
    whole = some(dtype).reshape(4, 6)
    given = [whole, whole.t(), whole[1:3, ::2], whole[0, 0], whole[:0], whole[:, :1]]
    assert numpy_dtype(dtype) in ("bool", name, f"uint{8 * dtype.itemsize}")
    for number, pack in enumerate((given, [some(dtype, 300_000).reshape(-1, 30)])):
        found = shelf.write(tracking(x=pack).snapshot(), step=number).state("x")
        for mine, theirs in zip(found, pack, strict=True):
            assert (mine.dtype, mine.shape) == (dtype, theirs.shape)
            assert bits(mine) == bits(theirs)
            assert mine.is_contiguous()


#: As numpy (with ml_dtypes) and TensorStore call the bits of dtypes that Zarr has no name for.
FOREIGN = {"bfloat16": "bfloat16", "float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2"}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_readers_see_the_bits(shelf: Shelf, name: str) -> None:
    """The attributes say what they are of."""
    values = torch.tensor([[0.5, -2.0, 448.0], [1.5, 0.0, -0.0]]).to(getattr(torch, name))
    shelf.write(tracking(x=[values.repeat(200_000, 1)]).snapshot())
    path = shelf.path() / "x" / "0"
    array = zarr.open_array(path, mode="r")
    assert array.attrs["torch_dtype"] == name
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    theirs = tensorstore.open(spec, read=True).result()[:2].read().result()
    kind = tensorstore.dtype(FOREIGN[name]).numpy_dtype
    for found in (np.asarray(array[:2]), theirs):
        np.testing.assert_array_equal(found.view(kind).astype("f4"), values.float().numpy())


KINDS: dict[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: torch.randn(3, 4).t(),
    "slice": lambda: torch.randn(4, 3, 2)[:, 1],
    "scalar": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0, 3),
    "expanded": lambda: torch.ones(1).expand(5),
    "nan": lambda: torch.tensor([float("nan"), -0.0, float("inf")]),
    "channels last": lambda: torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
    "conj": lambda: torch.randn(4, dtype=torch.complex64).conj(),
    "conj of complex32": lambda: torch.randn(4, dtype=torch.complex64).to(torch.complex32).conj(),
    "negative": lambda: torch.randn(4, dtype=torch.complex64).conj().imag,
    "complex 0-d": lambda: torch.tensor(1 + 2j, dtype=torch.complex128),
    "wants gradients": lambda: torch.randn(3, requires_grad=True),
    "in a graph": lambda: torch.randn(3, requires_grad=True) * 2,
    "of inference": lambda: inferred(),
    "parameter": lambda: nn.Parameter(torch.randn(3)),
    "overlapping": lambda: torch.randn(10).as_strided((4, 4), (2, 1)),
    "reversed view": lambda: torch.from_numpy(np.arange(6.0)[::-1].copy()),
}


def inferred() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(3) * 2


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tensor_comes_back(shelf: Shelf, kind: str) -> None:
    tensor = KINDS[kind]()
    [found] = shelf.write(tracking(x=[tensor]).snapshot()).state("x")
    assert (found.dtype, found.shape, found.requires_grad) == (tensor.dtype, tensor.shape, False)
    assert bits(found) == bits(tensor.detach())


def test_a_conjugate_is_no_tied_tensor(shelf: Shelf) -> None:
    """It has the memory of what it is the conjugate of, but not its values."""
    z = torch.randn(5, dtype=torch.complex64)
    x, given = z.imag, [z, z.conj(), z.imag, z.conj().imag]
    found = shelf.write(tracking(x=given).snapshot()).state("x")
    for mine, theirs in zip(found, given, strict=True):
        assert torch.equal(mine, theirs)
    assert x.data_ptr() == given[3].data_ptr()


def ties(stored: Stored) -> dict[str, str | None]:
    return {t.name: t.tied for t in stored.manifest.tensors if t.name.startswith("x/")}


@pytest.mark.parametrize("first", ["array", "tensor"])
def test_an_array_and_a_tensor_with_its_memory_stay_two_things(shelf: Shelf, first: str) -> None:
    array = np.zeros(4, np.float32)
    given: dict[str, Any] = {"array": array, "tensor": torch.from_numpy(array)}
    order = sorted(given, reverse=first == "tensor")
    shared = {name: given[name] for name in order}
    found = shelf.write(tracking(x=shared).snapshot()).state("x")
    assert {name: type(value) for name, value in found.items()} == {
        "array": np.ndarray, "tensor": torch.Tensor,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bits8", "int4"])
def test_bits_as_two_dtypes_stay_two_things(shelf: Shelf, name: str) -> None:
    raw = torch.arange(8, dtype=torch.uint8)
    given = [raw, raw.view(getattr(torch, name)), raw.view(getattr(torch, name)), raw]
    stored = shelf.write(tracking(x=given).snapshot())
    found = stored.state("x")
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in given]
    assert ties(stored) == {"x/0": None, "x/1": None, "x/2": "x/1", "x/3": "x/0"}


def test_an_array_that_is_read_only_is_kept_without_a_word(
    shelf: Shelf, recwarn: pytest.WarningsRecorder
) -> None:
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    given = {"a": array, "b": array, "c": array[:, ::2], "d": np.broadcast_to(array, (2, 2, 3))}
    stored = shelf.write(tracking(x=given).snapshot())
    found = stored.state("x")
    for name, value in given.items():
        np.testing.assert_array_equal(found[name], value)
    assert ties(stored) == {"x/a": None, "x/b": "x/a", "x/c": None, "x/d": None}
    assert not array.flags.writeable
    assert not recwarn.list


def odd_ones() -> dict[str, torch.Tensor]:
    with FakeTensorMode():
        fake = torch.ones(3)
    pieces = [torch.ones(2), torch.ones(3)]
    return {
        "a nested tensor": torch.nested.nested_tensor(pieces),
        "a nested tensor ": torch.nested.nested_tensor(pieces, layout=torch.jagged),
        "of the class TwoTensor": TwoTensor(torch.ones(3), torch.zeros(3)),
        "of the class FakeTensor": fake,
        "of the class MaskedTensor": masked_tensor(torch.ones(2), torch.tensor([True, False])),
        "a sparse tensor (sparse_coo)": torch.eye(4).to_sparse(),
        "a quantized tensor": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        "a meta tensor, which has no values": torch.empty(3, device="meta"),
    }


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("number", range(8))
def test_what_has_no_plain_bytes_is_refused_by_name(number: int) -> None:
    what, tensor = list(odd_ones().items())[number]
    what = what.strip()
    if "class" in what:
        what += ", which has no memory of its own"
    model = nn.Linear(2, 2)
    model.register_buffer("mask", tensor)
    for tracker, where in (
        (tracking(model=model), "Tensor mask of 'model'"),
        (tracking(table={"a": [1, tensor]}), "Tensor a.1 of 'table'"),
        (tracking(x=tensor), "Tensor 'x'"),
    ):
        with pytest.raises(CannotStore) as found:
            tracker.snapshot()
        assert str(found.value) == (
            f"{where} is {what}; checkpoints hold dense tensors. Convert it, or leave it out."
        )
    assert not is_plain(tensor)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lazy_parameters_are_refused_by_name(dtype: torch.dtype) -> None:
    tracker = tracking(model=nn.Sequential(nn.LazyLinear(3, dtype=dtype)))
    tracker.prepare()
    with pytest.raises(CannotStore, match=r"Tensor 0\.weight of 'model' is of the class Uninit"):
        tracker.snapshot()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_bsr])
def test_all_sparse_layouts_are_refused(layout: torch.layout) -> None:
    sizes = {"blocksize": (2, 2)} if layout is torch.sparse_bsr else {}
    tensor = torch.eye(4).to_sparse(layout=layout, **sizes)
    with pytest.raises(CannotStore, match=r"Tensor a of 'x' is a sparse tensor \(sparse_"):
        tracking(x={"a": tensor}).snapshot()


def test_keys_may_have_lone_surrogates(shelf: Shelf) -> None:
    given = {"w\ud800": torch.ones(2), "w\\ud800": torch.zeros(2), "plain": "\ud800"}
    found = shelf.write(tracking(x=given).snapshot()).state("x")
    assert repr(found) == repr(given)


class Momentum(torch.optim.Optimizer):
    """Its state has everything that an optimizer's may have."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "betas": (0.9, 0.99), "name": "x", "flag": None})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": 3, "mean": torch.randn_like(p), "half": p.detach().to(torch.bfloat16),
                    "history": [1.5, float("nan"), torch.ones(2)], "scale": torch.tensor(2.0),
                    "seen": {"a": (1, 2, None), 7: "seven"}, "deep": {"x": {"y": [torch.zeros(1)]}},
                    "big": 2**70, "raw": b"\0\1", "z": 1 + 2j, "done": False, "set": {1, 2},
                }  # fmt: skip


def test_nested_optimizer_state_with_values_of_all_kinds(shelf: Shelf) -> None:
    model = nn.Linear(3, 2)
    optimizer = Momentum(model.parameters())
    optimizer.step()
    stored = shelf.write(tracking(model=model, optimizer=optimizer).snapshot())
    torch.set_printoptions(precision=20)
    try:
        # Not as an optimizer has it after load_state_dict, which makes nonsense of nested strings.
        assert repr(stored.state("optimizer")) == repr(optimizer.state_dict())
    finally:
        torch.set_printoptions(profile="default")


def test_what_cant_be_told_without_pickle_is_refused_by_name() -> None:
    class Odd:
        pass

    with pytest.raises(CannotStore, match=r"x\.a\[1\] is an? .*Odd; it can't be stored without"):
        tracking(x={"a": [1, Odd()]}).snapshot()


def test_leaves_share_their_tensors_memory() -> None:
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    leaf = to_leaf(tensor)
    leaf.array[0] = 0x3F80
    again = from_leaf(leaf)
    again[1] = 2.0
    assert tensor.tolist() == [1.0, 2.0, 0.0, 0.0]
