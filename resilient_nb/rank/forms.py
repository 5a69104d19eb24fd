"""Containers as dicts, lists and tuples, which state documents have, and back.

A document has no Counter, OrderedDict, defaultdict or deque: each is written as the dict or list
that it is nearest to, and what it was is said beside that, by its place. Who doesn't know of that
reads dicts and lists.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

#: Where a container is in a value (the number of the item at each level), what it is, and what
#: else there is to know of it: a deque's maxlen, the name of a defaultdict's factory.
Kinds: TypeAlias = list[tuple[tuple[int, ...], str, Any]]

CONTAINERS = (list, dict, set, Counter, OrderedDict, defaultdict, deque)

#: A defaultdict's factory that has no name here: only the cell itself can make it.
_UNKNOWN = "?"
_FACTORIES: dict[str, Any] = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, tuple, *CONTAINERS)
}
_DICTS = (dict, Counter, OrderedDict, defaultdict)


def spread(
    value: Any, change: Callable[[Any], Any], kinds: Kinds, path: tuple[int, ...] = ()
) -> Any:
    """Return a value as dicts, lists and tuples, with `change(leaf)` for tensors and arrays.

    Args:
        value: of any kind; what is no container stays as it is.
        change: of what a tensor or an array is to be replaced by.
        kinds: gets what containers are more than that.
        path: the value's own place.
    """
    if isinstance(value, torch.Tensor) or type(value) is np.ndarray:
        return change(value)
    kind = type(value)
    if kind in _DICTS:
        _tell(value, kinds, path)
        return {k: spread(v, change, kinds, (*path, n)) for n, (k, v) in enumerate(value.items())}
    if kind in (list, tuple, deque):
        _tell(value, kinds, path)
        items = (spread(item, change, kinds, (*path, n)) for n, item in enumerate(value))
        return tuple(items) if kind is tuple else list(items)
    return value


def _tell(value: Any, kinds: Kinds, path: tuple[int, ...]) -> None:
    kind, more = type(value), None
    if kind in (dict, list, tuple):
        return
    if kind is deque:
        more = value.maxlen
    elif kind is defaultdict and (factory := value.default_factory) is not None:
        name = getattr(factory, "__name__", "")
        more = name if _FACTORIES.get(name) is factory else _UNKNOWN
    kinds.append((path, kind.__name__, more))


def gather(value: Any, kinds: Kinds) -> Any:
    """Return what `spread` took apart. Arrays can be written to, whatever they were read from."""
    return _gather(value, {tuple(path): (kind, more) for path, kind, more in kinds}, ())


def _gather(value: Any, kinds: dict[Any, tuple[str, Any]], path: tuple[int, ...]) -> Any:
    if type(value) is dict:
        value = {k: _gather(v, kinds, (*path, n)) for n, (k, v) in enumerate(value.items())}
    elif type(value) in (list, tuple):
        value = type(value)(_gather(item, kinds, (*path, n)) for n, item in enumerate(value))
    elif type(value) is np.ndarray and not value.flags.writeable:
        return value.copy()
    match kinds.get(path):
        case "Counter", _:
            return Counter(value)
        case "OrderedDict", _:
            return OrderedDict(value)
        case "defaultdict", factory:
            return defaultdict(_FACTORIES.get(factory), value)
        case "deque", maxlen:
            return deque(value, maxlen)
    return value


def unknown_factories(kinds: Kinds) -> list[tuple[int, ...]]:
    """Return the places of defaultdicts that `gather` gives no factory."""
    return [path for path, _, more in kinds if more == _UNKNOWN]


def text_of(value: Any) -> str:
    """Return `repr(value)`, or the like of it where that fails.

    Python refuses to write ints of more than 4300 digits, and a class's own `__repr__` may do
    anything.
    """
    try:
        return repr(value)
    except RecursionError:
        return object.__repr__(value)
    except Exception:
        kind = type(value)
    if kind is int:
        return hex(value)
    if kind is dict:
        return str([(text_of(k), text_of(v)) for k, v in value.items()])
    if kind in (list, tuple, set):
        return f"{kind.__name__} {[text_of(item) for item in value]}"
    return object.__repr__(value)


def refill(container: Any, content: Any) -> None:
    """Give a container of the cell other content: other names may refer to it."""
    container.clear()
    (container.extend if isinstance(container, (list, deque)) else container.update)(content)


def fill(old: Any, value: Any) -> bool:
    """Give what the cell has made a value's content; return whether it can have it."""
    if type(old) is not type(value):
        return False
    if type(old) in CONTAINERS:
        refill(old, value)
        return True
    if type(old) is not np.ndarray:
        return False
    fits = (old.shape, old.dtype.name) == (value.shape, value.dtype.name) and old.flags.writeable
    if fits:
        np.copyto(old, value, casting="equiv")  # of either byte order
    return bool(fits)
