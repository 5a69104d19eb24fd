"""The pickler of captured names: cloudpickle, taught what a notebook's namespace means.

A payload is one ordinary pickle of a dict, so that the rank needs `pickle.loads` and nothing of
this package, and all that the names share stays shared: `a is b`, an optimizer's parameters, two
tensors that look at one memory.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import io
import linecache
import pickle
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import cloudpickle

from resilient_nb.errors import CannotCapture
from resilient_nb.notebook.namespace import Notebook

PROTOCOL = 5

_SOURCE_LIMIT = 1_000_000
"""Characters of helpers' source that travel at most."""


class StaysInNotebook(CannotCapture):
    """The value says of itself that it is never sent (`__resilient_nocapture__`)."""


class _Call:
    """Stands in a pickle for what a call gives when the pickle is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._made = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._made


class NotebookPickler(cloudpickle.Pickler):
    """Pickles notebook values by value and notes what they drag along.

    Functions of the notebook get the globals of the loading process's `__main__`, which are also
    the cell's: a helper sees what the cell assigns, as it does in the notebook.

    Attributes:
        uses: Notebook names that pickled functions refer to, each with one function's name.
        sources: Text of the notebook cells that define what was pickled, by file name.
    """

    def __init__(self, file: Any, notebook: Notebook) -> None:
        super().__init__(file, protocol=PROTOCOL)
        self._notebook = notebook
        # By this table cloudpickle decides which functions share globals once loaded.
        self.globals_ref[id(notebook.namespace)] = _Call(
            vars, _Call(importlib.import_module, "__main__")
        )
        self.uses: dict[str, str] = {}
        self.sources: dict[str, str] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Say how to pickle `obj`; pickle calls this for all but the simplest values."""
        if getattr(type(obj), "__resilient_nocapture__", False):
            raise StaysInNotebook("it belongs to the notebook")
        if isinstance(obj, CodeType):
            self._keep_source(obj.co_filename)
        if isinstance(obj, functools.cached_property):  # its lock (before Python 3.12) can't go
            return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
        torch = sys.modules.get("torch")
        if torch is not None:
            if isinstance(obj, torch.storage.TypedStorage) and _on_cpu(obj._untyped_storage):
                return _typed_storage(torch, obj)
            if isinstance(obj, torch.UntypedStorage) and _on_cpu(obj):
                return _storage(torch, obj)
        reduced = super().reducer_override(obj)
        if isinstance(obj, FunctionType) and reduced is not NotImplemented:
            self._note_uses(obj, reduced)
        elif reduced is NotImplemented and self._is_known_by_name_only(obj):
            return _by_value(obj)
        return reduced

    def _is_known_by_name_only(self, obj: Any) -> bool:
        """Say if pickle would only write a name of `__main__`, which another process lacks."""
        return (
            getattr(obj, "__module__", None) == "__main__"
            and type(obj).__module__ != "__main__"
            and type(obj) not in self.dispatch_table
            and isinstance(obj.__reduce_ex__(PROTOCOL), str)
        )

    def _note_uses(self, function: FunctionType, reduced: Any) -> None:
        """Note the globals that go with a function, and keep back those that must not."""
        if function.__globals__ is not self._notebook.namespace:
            return
        _, slots = reduced[2]
        slots["__globals__"] = {
            name: value for name, value in slots["__globals__"].items() if name in self._notebook
        }
        for name in slots["__globals__"]:
            self.uses.setdefault(name, function.__qualname__)

    def _keep_source(self, filename: str) -> None:
        """Keep the text of a notebook cell; entries of real files have a modification time."""
        entry = linecache.cache.get(filename)
        if entry is None or len(entry) != 4 or entry[1] is not None:
            return
        if sum(map(len, self.sources.values())) + entry[0] <= _SOURCE_LIMIT:
            self.sources[filename] = "".join(entry[2])


def _by_value(obj: Any) -> tuple[object, ...]:
    """Reduce what cloudpickle leaves to pickle, and pickle to its name in `__main__`."""
    if isinstance(obj, functools._lru_cache_wrapper):
        settings = obj.cache_parameters()
        made = (obj.__wrapped__, settings["maxsize"], settings["typed"], functools._CacheInfo)
        return functools._lru_cache_wrapper, made, vars(obj)
    if isinstance(obj, typing.NewType):
        return typing.NewType, (obj.__name__, obj.__supertype__)
    raise pickle.PicklingError(f"its type {type(obj).__qualname__} is pickled by name only")


def _on_cpu(memory: Any) -> bool:
    return bool(memory.device.type == "cpu")


def _typed_storage(torch: Any, storage: Any) -> tuple[object, ...]:
    """Reduce the wrapper that torch makes anew for each tensor to the memory below it.

    The memory's own object is the same for all tensors that look at it, so pickle's memo sees
    that they share it; torch's own way copies it for each of them.
    """
    memory = storage._untyped_storage
    make = partial(
        torch.storage.TypedStorage, wrap_storage=memory, dtype=storage.dtype, _internal=True
    )
    return make, ()


def _storage(torch: Any, storage: Any) -> tuple[object, ...]:
    """Reduce memory to its bytes, with one copy where torch's own way makes several.

    `from_buffer` copies into memory that torch aligned: sums must not depend on where a pickle
    happened to lie.
    """
    size = storage.nbytes()
    if not size:
        return torch.UntypedStorage, (0,)
    memory = (ctypes.c_char * size).from_address(storage.data_ptr())
    make = partial(torch.UntypedStorage.from_buffer, byte_order=sys.byteorder, dtype=torch.uint8)
    return make, (pickle.PickleBuffer(memory),)


@dataclass(frozen=True)
class Pickled:
    """A payload, and what `NotebookPickler` noted while it was made."""

    payload: bytes
    uses: Mapping[str, str]
    sources: Mapping[str, str]


def pickled(names: Iterable[str], notebook: Notebook) -> Pickled:
    """Pickle the values of all these names into one payload, the pickle of a dict.

    Raises:
        Exception: whatever the first value that can't be pickled raises.
    """
    file = io.BytesIO()
    pickler = NotebookPickler(file, notebook)
    pickler.dump({name: notebook[name] for name in names})
    return Pickled(file.getvalue(), pickler.uses, pickler.sources)


def sizes(names: Iterable[str], notebook: Notebook) -> dict[str, int]:
    """Measure in bytes what each name adds to the payload; what is shared counts once.

    Functions come last, so that the data they use counts for the data's own name.
    """
    sink = _Counter()
    pickler = NotebookPickler(sink, notebook)
    found: dict[str, int] = {}
    for name in sorted(names, key=lambda name: callable(notebook[name])):
        before = sink.count
        pickler.dump(notebook[name])
        found[name] = sink.count - before
    return found


def refusal(value: object, notebook: Notebook) -> tuple[Exception | None, Mapping[str, str]]:
    """Return why the value can't be pickled, if so, and the notebook names that it uses."""
    pickler = NotebookPickler(_Counter(), notebook)
    try:
        pickler.dump(value)
    except Exception as error:
        return error, pickler.uses
    return None, pickler.uses


class _Counter:
    """A file that only counts."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.count += size
        return size
