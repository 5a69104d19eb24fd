"""Stored bits as numbers, and how two arrays of them differ, in bounded memory.

Dtypes that numpy lacks (bfloat16, the 8-bit floats) are stored as unsigned integers of the same
bits. Here they become floats exactly, by table, so that comparing needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Elements that are compared at a time: what is computed of them stays in the processor's cache.
_BLOCK = 1 << 14

#: 8-bit floats: bits of the exponent and of the mantissa, and the exponent's bias.
_SMALL = {
    "float8_e4m3fn": (4, 3, 7),
    "float8_e4m3fnuz": (4, 3, 8),
    "float8_e5m2": (5, 2, 15),
    "float8_e5m2fnuz": (5, 2, 16),
}


@dataclass
class Change:
    """What the change of an array comes to; `add` adds that of another part of it.

    `before` is the norm of what the first array had. The rest is as in `TensorChange`.
    """

    norm: float = 0.0
    max_abs: float = 0.0
    before: float = 0.0
    differing: int = 0
    nan_a: int = 0
    nan_b: int = 0
    undefined: int = 0

    def add(self, other: Change) -> None:
        """Add what another part of the array came to."""
        self.norm = math.hypot(self.norm, other.norm)
        self.max_abs = max(self.max_abs, other.max_abs)
        self.before = math.hypot(self.before, other.before)
        self.differing += other.differing
        self.nan_a += other.nan_a
        self.nan_b += other.nan_b
        self.undefined += other.undefined


def change(a: Array, b: Array, dtype_a: str, dtype_b: str) -> Change:
    """Return how two arrays of one shape differ.

    Args:
        a: the first, as it is stored.
        b: the second.
        dtype_a: as torch names it; of a numpy array, as numpy does.
        dtype_b: the second's.
    """
    total = Change()
    one, other = a.reshape(-1), b.reshape(-1)
    for start in range(0, one.size, _BLOCK):
        at = slice(start, start + _BLOCK)
        total.add(_of_block(numbers(one[at], dtype_a), numbers(other[at], dtype_b)))
    return total


def numbers(array: Array, dtype: str) -> Array:
    """Return stored values as numbers that numpy computes with: exactly the same ones.

    Args:
        array: one axis of values, as they are stored.
        dtype: what they are. Bits without a meaning are unsigned integers.
    """
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "float4_e2m1fn_x2":
        return _table(dtype)[np.stack([array & 15, array >> 4], axis=-1).reshape(-1)]
    if dtype in _SMALL or dtype == "float8_e8m0fnu":
        return _table(dtype)[array]
    if array.dtype.kind in "fc":
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    wide = array.dtype.itemsize == 8
    return array if wide else array.astype(np.int64)


def _of_block(a: Array, b: Array) -> Change:
    if a.dtype.kind in "iu" and a.dtype == b.dtype:
        return _of_integers(a, b)
    if a.dtype.kind in "iu":
        a = a.astype(np.float64)
    if b.dtype.kind in "iu":
        b = b.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(b - a)
    if math.isfinite(most := float(size.max(initial=0.0))):
        return Change(_norm(size, most), most, _size(a), int(np.count_nonzero(size)))
    return _of_unusual(a, b)


def _of_unusual(a: Array, b: Array) -> Change:
    """Values that aren't finite, or that are so far apart that the change isn't."""
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    differs = (a != b) & ~(nan_a & nan_b)
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(over="ignore"):
        size = np.abs(b[finite] - a[finite])
    most = float(size.max(initial=0.0))
    return Change(
        norm=_norm(size, most),
        max_abs=most,
        before=_size(a[finite]),
        differing=int(np.count_nonzero(differs)),
        nan_a=int(np.count_nonzero(nan_a)),
        nan_b=int(np.count_nonzero(nan_b)),
        undefined=int(np.count_nonzero(differs & ~finite)),
    )


def _of_integers(a: Array, b: Array) -> Change:
    """The change of 64-bit integers may need 65 bits; without its sign it fits into 64."""
    one, other = a.view(np.uint64), b.view(np.uint64)
    size = np.where(b > a, other - one, one - other)
    most = float(size.max(initial=0))
    differing = int(np.count_nonzero(size))
    return Change(
        _norm(size.astype(np.float64), most), most, _size(a.astype(np.float64)), differing
    )


def _norm(size: Array, most: float) -> float:
    """Return the L2 norm of absolute values whose largest is `most`; no BLAS is woken for it."""
    if most == 0.0 or not math.isfinite(most):
        return most
    if 1e-100 < most < 1e100:
        return math.sqrt(float(np.square(size).sum()))
    return most * math.sqrt(float(np.square(size / most).sum()))


def _size(values: Array) -> float:
    size = np.abs(values)
    return _norm(size, float(size.max(initial=0.0)))


@cache
def _table(dtype: str) -> Array:
    """Return the value of every bit pattern of a small float."""
    if dtype == "float8_e8m0fnu":
        return np.array([*(2.0 ** (bits - 127) for bits in range(255)), math.nan])
    if dtype == "float4_e2m1fn_x2":
        positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        return np.array([*positive, *(-value for value in positive)])
    return np.array([_small_float(bits, dtype) for bits in range(256)])


def _small_float(bits: int, dtype: str) -> float:
    exponent_bits, mantissa_bits, bias = _SMALL[dtype]
    sign = -1.0 if bits >> 7 else 1.0
    exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = bits & ((1 << mantissa_bits) - 1)
    if dtype.endswith("fnuz"):
        if bits == 0x80:
            return math.nan
    elif exponent == (1 << exponent_bits) - 1:
        if dtype == "float8_e5m2":
            return sign * math.inf if mantissa == 0 else math.nan
        if mantissa == (1 << mantissa_bits) - 1:
            return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
