"""Reading what torch.distributed.checkpoint wrote, of any world size, in one process.

Its `.metadata` is a pickle, which is read here by an unpickler that knows only what such files
hold, and makes plain records of it; values and tensors are read by torch's weights-only unpickler.
Nothing outside the folder is opened, whatever the metadata says.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from resilient_nb.errors import CheckpointError, InvalidRequest

METADATA = ".metadata"

_RECORDS = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}  # fmt: skip
_SOUND = (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError, EOFError)
#: Tensor metadata's record.
_TENSOR = "TensorStorageMetadata"


def read(folder: Path, only: str | None = None) -> Any:
    """Return the state that a folder holds, with whole tensors.

    Args:
        folder: as it was given to `dcp.save`.
        only: return just this entry of it, and read no other.

    Raises:
        InvalidRequest: there is no such entry.
        CheckpointError: something of it is damaged, or no plain value.
    """
    try:
        about = _Unpickler(io.BytesIO((folder / METADATA).read_bytes())).load()
        paths = {name: tuple(path) for name, path in (about.planner_data or {}).items()}
        kinds: Mapping[str, Any] = about.state_dict_metadata
        pieces = _pieces(about.storage_data)
    except (*_SOUND, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder / METADATA} can't be read: {error}") from error
    whole: dict[Any, Any] = {}
    for name, kind in kinds.items():
        path = paths.get(name) or (name,)
        if only is None or path[0] == only:
            value = _value(folder, name, kind, pieces.get(name, []))
            _put(whole, path, value, folder)
    if only is not None and only not in whole:
        parts = dict.fromkeys(str((paths.get(name) or (name,))[0]) for name in kinds)
        raise InvalidRequest(f"{folder} has no {only!r}; it has {', '.join(list(parts)[:20])}.")
    state = _listed(whole)
    return state if only is None else state[only]


class _Record:
    """What stands for an object of the metadata: its attributes, and no behaviour."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state
        if isinstance(state, dict):
            vars(self).update(state)


class _Unpickler(pickle.Unpickler):
    """Knows the names that a metadata file may hold; none of them leads to code of the file."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return type(name, (_Record,), {})
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("torch.serialization", "_get_layout"):
            return str
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module.partition(".")[0] == "pathlib" and name.endswith("Path"):
            return lambda *parts: "/".join(map(str, parts))
        raise pickle.UnpicklingError(f"{module}.{name} doesn't belong in it")


def _pieces(stored: Mapping[Any, Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Return by name where its pieces are: (offsets or None, storage info)."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    for index, info in stored.items():
        found.setdefault(index.fqn, []).append((getattr(index, "offset", None), info))
    return found


def _value(folder: Path, name: str, kind: Any, pieces: Sequence[tuple[Any, Any]]) -> Any:
    try:
        if type(kind).__name__ == _TENSOR:
            return _tensor(folder, kind, pieces)
        [(_, info)] = pieces
        return _load(folder, info)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{name} in {folder} is no plain value, and is not read. Leave it out: say with --only "
            "which entry is wanted."
        ) from None
    except (*_SOUND, OSError) as error:
        raise CheckpointError(f"{name} in {folder} can't be read: {error}") from error


def _tensor(folder: Path, kind: Any, pieces: Sequence[tuple[Any, Any]]) -> torch.Tensor:
    size, dtype = tuple(kind.size), kind.properties.state[0]
    whole = torch.empty(size, dtype=dtype)
    filled = 0
    for offsets, info in pieces:
        part = _load(folder, info)
        if not isinstance(part, torch.Tensor) or part.dtype != dtype:
            raise ValueError("a piece of it is of another kind")
        target = whole
        for axis, (start, length) in enumerate(zip(offsets or (0,) * len(size), part.shape,
                                                   strict=True)):  # fmt: skip
            target = target.narrow(axis, start, length)
        target.copy_(part)
        filled += part.numel()
    if filled != whole.numel():
        raise ValueError(f"{filled} of its {whole.numel()} elements are there")
    return whole


def _load(folder: Path, info: Any) -> Any:
    if getattr(info, "transform_descriptors", None):
        raise ValueError("it was written by an extension of torch.distributed.checkpoint")
    path = (folder / info.relative_path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"its data is outside the folder ({info.relative_path})")
    with open(path, "rb") as file:
        file.seek(info.offset)
        data = file.read(info.length)
    if len(data) != info.length:
        raise ValueError(f"{info.relative_path} ends too early")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


# --- the shape of the state ---------------------------------------------------------------


class _Places(dict[int, Any]):
    """A list under construction: its items by their places."""


def _put(whole: dict[Any, Any], path: tuple[Any, ...], value: Any, folder: Path) -> None:
    """Set a value at the end of a path of keys (text) and of places in lists (numbers)."""
    at: Any = whole
    for key, following in pairwise(path):
        new: Any = _Places() if isinstance(following, int) else {}
        at = at.setdefault(key, new)
        if not isinstance(at, dict):
            raise CheckpointError(f"The metadata of {folder} contradicts itself at {path}.")
    at[path[-1]] = value


def _listed(value: Any) -> Any:
    """Return the state with its lists, and with an optimizer's parameters numbered again."""
    if isinstance(value, _Places):
        return [_listed(value[place]) for place in sorted(value)]
    if not isinstance(value, dict):
        return value
    found = {key: _listed(item) for key, item in value.items()}
    if {"state", "param_groups"} <= found.keys() and all(map(_is_number, _parameters(found))):
        # Their numbers have become text in the paths.
        found["state"] = {
            int(key) if isinstance(key, str) and key.isdecimal() else key: item
            for key, item in found["state"].items()
        }
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int)


def _parameters(optimizer: Mapping[str, Any]) -> Iterator[Any]:
    for group in optimizer["param_groups"]:
        if isinstance(group, dict):
            yield from group.get("params", ())
