"""How nested plain values differ: dicts, lists and tuples of numbers and texts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Characters of a value that are shown.
_MOST = 200

_INT64 = range(-(2**63), 2**63)

_Test = Callable[[object], bool]


@dataclass(frozen=True)
class ValueChange:
    """A plain value that differs, as Python writes it; None where there is none."""

    path: str
    a: str | None
    b: str | None


def _is_none_of_ours(_: object) -> bool:
    return False


def value_changes(
    a: Any, b: Any, path: str = "", opaque: _Test = _is_none_of_ours
) -> Iterator[ValueChange]:
    """Yield the values that differ in nested dicts, lists and tuples, by their paths.

    Of lists of different lengths that is said once, and what both have is compared.

    Args:
        a: the first.
        b: the second.
        path: of both.
        opaque: whether a value is a tensor's place; all of these count as equal.
    """
    if opaque(a) and opaque(b):
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _entry(a, b, key, _below(path, key), opaque)
    elif type(a) is type(b) and isinstance(a, (list, tuple)):
        if len(a) != len(b):
            yield ValueChange(path, _said(a, opaque), _said(b, opaque))
        for n, (one, other) in enumerate(zip(a, b, strict=False)):
            yield from value_changes(one, other, f"{path}[{n}]", opaque)
    elif not is_same(a, b):
        yield ValueChange(path, _said(a, opaque), _said(b, opaque))


def _entry(
    a: Mapping[Any, Any],
    b: Mapping[Any, Any],
    key: Any,
    path: str,
    opaque: Callable[[object], bool],
) -> Iterator[ValueChange]:
    if key in a and key in b:
        yield from value_changes(a[key], b[key], path, opaque)
    elif key in a:
        if not opaque(a[key]):  # what became of a tensor is told with the tensors
            yield ValueChange(path, _said(a[key], opaque), None)
    elif not opaque(b[key]):
        yield ValueChange(path, None, _said(b[key], opaque))


def _below(path: str, key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{_text(key)}]" if path or not isinstance(key, str) else key


def is_same(a: Any, b: Any) -> bool:
    """Return whether two plain values are equal and of one type. NaN is equal to NaN."""
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def _said(value: Any, opaque: _Test) -> str:
    if opaque(value):
        return "a tensor"
    if isinstance(value, (list, tuple, dict)) and (len(value) > 4 or _nested(value, opaque)):
        return f"{type(value).__name__} of {len(value):,}"
    text = _text(value)
    if len(text) <= _MOST:
        return text
    return f"{text[:_MOST]}… ({len(text):,} characters)"


def _nested(value: Any, opaque: _Test) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return any(opaque(v) or isinstance(v, (list, tuple, dict, set)) for v in items)


def _text(value: object) -> str:
    if isinstance(value, int) and value not in _INT64:
        return hex(value)  # repr() refuses more than 4300 digits
    return repr(value)
