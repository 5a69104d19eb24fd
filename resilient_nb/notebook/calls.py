"""Which names of the notebook are read when its functions are called. Nothing is called here."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def followed(names: Iterable[str], namespace: Mapping[str, object]) -> set[str]:
    """Return these names, and those that the notebook's functions and classes among them read."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _read_by(namespace.get(name), namespace)
    return found


def _read_by(value: object, namespace: Mapping[str, object]) -> set[str]:
    """Return what a value's functions read; an object has those of its class."""
    names: set[str] = set()
    seen: dict[int, object] = {}
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, FunctionType) and part.__globals__ is namespace:
            names |= _globals_in(part.__code__)
        waiting += _parts(part, namespace)
    return names


def _parts(value: object, namespace: Mapping[str, object]) -> Iterator[object]:
    match value:
        case FunctionType():
            for cell in value.__closure__ or ():  # what a decorator wraps
                try:
                    yield cell.cell_contents
                except ValueError:
                    continue  # not yet made
        case MethodType() | staticmethod() | classmethod():
            yield value.__func__
        case property():
            yield from (value.fget, value.fset, value.fdel)
        case functools.partial():
            yield value.func
        case functools._lru_cache_wrapper():
            yield value.__wrapped__
        case type():
            if value.__module__ == namespace.get("__name__"):
                yield from (*vars(value).values(), *value.__bases__)
        case _:
            yield type(value)


def _globals_in(code: CodeType) -> set[str]:
    found = {i.argval for i in dis.get_instructions(code) if i.opname in _READS}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _globals_in(constant)
    return found
