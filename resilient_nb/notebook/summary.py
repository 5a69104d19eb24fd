"""Captured values in a few words, and what a submission would send."""

from __future__ import annotations

import sys
from collections.abc import Sized
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

_TIMES = "\N{MULTIPLICATION SIGN}"
_HAVE_SHAPES = frozenset(
    {"torch", "numpy", "pandas", "jax", "jaxlib", "cupy", "polars", "scipy", "xarray", "zarr"}
)
_WIDTH = 40


def describe(value: object) -> str:
    """Say what a value is: `Tensor` with shape and dtype, `Net, 1,234 parameters`, `list of 5`."""
    kind = type(value)
    torch = sys.modules.get("torch")
    match value:
        case ModuleType():
            return f"module {value.__name__}"
        case type():
            return "class"
        case FunctionType() | BuiltinFunctionType():
            return "function"
        case None | bool() | int() | float() | complex():
            return _clipped(value)
        case str() | bytes():
            return _clipped(value) if len(value) < _WIDTH else f"{kind.__name__} of {len(value):,}"
    if torch is not None and isinstance(value, torch.nn.Module):
        return _module(torch, value)
    if kind.__module__.partition(".")[0] in _HAVE_SHAPES and hasattr(value, "shape"):
        return _array(value)
    if isinstance(value, Sized) and kind.__module__ in ("builtins", "collections"):
        return f"{kind.__name__} of {len(value):,}"
    return kind.__qualname__


def _clipped(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _array(value: Any) -> str:
    words = [type(value).__name__, _TIMES.join(str(size) for size in value.shape)]
    if hasattr(value, "dtype"):
        words.append(str(value.dtype).removeprefix("torch."))
    return " ".join(word for word in words if word)


def _module(torch: Any, module: Any) -> str:
    parameters = list(module.parameters())
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in parameters):
        return f"{type(module).__name__}, parameters not made yet"
    return f"{type(module).__name__}, {sum(p.numel() for p in parameters):,} parameters"
