"""Torch tensors to numpy views and back, bit for bit, for every dtype a state dict can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from resilient_nb.errors import CannotStore
from resilient_nb.storage.tree import TensorLeaf

#: Dtypes that numpy lacks are stored as the bits of an unsigned integer of the same width.
_BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}
_NATIVE = {
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16,
    torch.int32, torch.int64, torch.float16, torch.float32, torch.float64, torch.complex64,
    torch.complex128,
}  # fmt: skip


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """Return `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


@cache
def numpy_dtype(dtype: torch.dtype) -> str:
    """Return what numpy calls the array that `to_leaf` gives."""
    if dtype in _NATIVE:
        return dtype_name(dtype)
    return f"uint{8 * dtype.itemsize}"


def check_storable(tensor: torch.Tensor, where: Callable[[], str]) -> None:
    """Raise CannotStore, which says `where` it is, for tensors that have no plain dense bytes."""
    reason = None
    if tensor.is_quantized or dtype_name(tensor.dtype).startswith("q"):
        reason = "a quantized tensor"
    elif tensor.is_nested:
        reason = "a nested tensor"
    elif tensor.layout is not torch.strided:
        reason = f"a sparse tensor ({dtype_name(tensor.layout)})"
    elif tensor.is_meta:
        reason = "a meta tensor, which has no values"
    elif type(tensor) not in (torch.Tensor, torch.nn.Parameter) and _is_hollow(tensor):
        reason = f"of the class {type(tensor).__name__}, which has no memory of its own"
    elif tensor.dtype not in _NATIVE and tensor.element_size() not in _BITS:
        reason = f"of dtype {tensor.dtype}"
    if reason is not None:
        raise CannotStore(
            f"{where()} is {reason}; checkpoints hold dense tensors. Convert it, or leave it out."
        )


def _is_hollow(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values are elsewhere (in tensors that it wraps), or aren't there yet."""
    return (
        is_lazy(tensor)
        or is_traceable_wrapper_subclass(tensor)
        or (tensor.nbytes > 0 and tensor.data_ptr() == 0)  # MaskedTensor, FakeTensor
    )


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether values can be read right into the tensor's memory."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
        and (tensor.dtype in _NATIVE or tensor.element_size() in _BITS)
    )


def copyable(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view that torch can copy: of some dtypes (int4, bits8) it knows only the bits."""
    dtype = tensor.dtype
    if dtype in _NATIVE or dtype.is_floating_point or dtype.is_complex:
        return tensor
    return tensor.view(_BITS[tensor.element_size()])


def of_array(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return a tensor with an array's memory, only to be read.

    Torch warns of arrays that are read-only: such a one is shown to it as if it weren't. The tensor
    doesn't keep it alive then.
    """
    if array.flags.writeable:
        return torch.from_numpy(array)
    about = array.__array_interface__
    same = SimpleNamespace(__array_interface__={**about, "data": (about["data"][0], False)})
    return torch.from_numpy(np.asarray(same))


def to_leaf(tensor: torch.Tensor) -> TensorLeaf:
    """Return a view of a contiguous CPU tensor's memory as an array; nothing is copied."""
    name = dtype_name(tensor.dtype)
    if tensor.dtype not in _NATIVE:
        tensor = tensor.view(_BITS[tensor.element_size()])
    return TensorLeaf(tensor.detach().numpy(), name)


def from_leaf(leaf: TensorLeaf) -> Any:
    """Return the tensor (or numpy array) that a leaf was made from; shares its memory."""
    if leaf.torch_dtype is None:
        return leaf.array
    array = leaf.array if leaf.array.flags.writeable else leaf.array.copy()
    tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    dtype = getattr(torch, leaf.torch_dtype)
    return tensor if tensor.dtype == dtype else tensor.view(dtype)


def map_tensors(value: Any, change: Any) -> Any:
    """Return `value` with `change(tensor)` in place of each tensor in its dicts, lists, tuples."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def where_is(tensor: torch.Tensor, state: Any, name: str) -> str:
    """Say which tensor of a tracked object's state it is."""
    path = _path(tensor, state)
    return f"Tensor {'.'.join(map(str, path))} of {name!r}" if path else f"Tensor {name!r}"


def _path(tensor: torch.Tensor, value: Any) -> tuple[Any, ...] | None:
    """Return the keys that lead to a tensor, None if it isn't there."""
    if value is tensor:
        return ()
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif type(value) in (list, tuple):
        items = enumerate(value)
    for key, item in items:
        if (path := _path(tensor, item)) is not None:
            return (key, *path)
    return None


def map_leaves(value: Any, change: Any) -> Any:
    """Return `value` with `change(leaf)` in place of each leaf in its dicts, lists, tuples."""
    if isinstance(value, TensorLeaf):
        return change(value)
    if isinstance(value, dict):
        return {key: map_leaves(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_leaves(item, change) for item in value)
    return value
