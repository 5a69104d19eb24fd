"""Which value keeps a capture from being pickled, and how to say so."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import CellType, FunctionType, MethodType

from resilient_nb.errors import CannotCapture
from resilient_nb.notebook.namespace import Notebook
from resilient_nb.notebook.pickling import StaysInNotebook, refusal

_DEPTH = 6
_CHILDREN = 50
"""How deep and how wide to look for the part of a value that is to blame."""


@dataclass(frozen=True)
class Culprit:
    """The name that can't be sent. `used_by` is a function, where the cell has no such name."""

    name: str
    used_by: str | None
    value: object
    error: Exception


def find_culprit(names: Iterable[str], notebook: Notebook) -> Culprit | None:
    """Pickle names one by one, and those that functions use, to find the one to blame.

    Data is blamed before the functions that use it. None if each name alone can be pickled.
    """
    waiting: deque[tuple[str, str | None]] = deque((name, None) for name in names)
    seen = {name for name, _ in waiting}
    failing: list[Culprit] = []
    while waiting:
        name, used_by = waiting.popleft()
        error, uses = refusal(notebook[name], notebook)
        if error is None:
            continue
        failing.append(Culprit(name, used_by, notebook[name], error))
        waiting.extend((used, function) for used, function in uses.items() if used not in seen)
        seen |= uses.keys()
    data = (culprit for culprit in failing if not isinstance(culprit.value, (FunctionType, type)))
    return next(data, failing[-1] if failing else None)


def explain(culprit: Culprit, notebook: Notebook) -> CannotCapture:
    """Return the error for the user: which name, what it is, what to do."""
    path, value, error = culprit.name, culprit.value, culprit.error
    for _ in range(_DEPTH):
        for label, part in islice(_parts(path, value), _CHILDREN):
            found, _ = refusal(part, notebook)
            if found is not None:
                path, value, error = label, part, found
                break
        else:
            break
    use = f", which `{culprit.used_by}` uses," if culprit.used_by else ""
    it = "it" if path == culprit.name else f"`{path}`"
    if isinstance(error, StaysInNotebook):
        reason, way_out = f", and {error}", "Take the values that you need out of it before."
    else:
        reason = f" ({type(error).__name__}: {error})"
        way_out = "Make it inside the cell, or del it."
    return CannotCapture(
        f"`{culprit.name}`{use} can't be sent to the workers: "
        f"{it} is {_a(_type_name(value))}{reason}. {way_out}"
    )


def _parts(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield what is pickled as a part of a value, with how one would write it."""
    match value:
        case dict():
            yield from ((f"{path}[{key!r}]", part) for key, part in value.items())
        case list() | tuple():
            yield from ((f"{path}[{index}]", part) for index, part in enumerate(value))
        case set() | frozenset():
            yield from ((f"{path}: an element", part) for part in value)
        case MethodType():
            yield f"{path}.__self__", value.__self__
        case FunctionType():
            yield from _parts_of_function(path, value)
        case type():
            yield from ((f"{path}.{name}", part) for name, part in vars(value).items())
        case _ if _pickles_its_dict(value):
            yield from ((f"{path}.{name}", part) for name, part in vars(value).items())


def _parts_of_function(path: str, function: FunctionType) -> Iterator[tuple[str, object]]:
    cells: tuple[CellType, ...] = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        if cell != CellType():  # an empty cell equals only another empty one
            yield f"{path}: {name}", cell.cell_contents
    for part in function.__defaults__ or ():
        yield f"{path}: a default", part
    for name, part in (function.__kwdefaults__ or {}).items():
        yield f"{path}: {name}", part


def _pickles_its_dict(value: object) -> bool:
    """Say if the object is pickled in the default way, as its attributes."""
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
    )


def _type_name(value: object) -> str:
    kind = type(value)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
