"""Reading files of other formats into states by name; nothing of a file is executed."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resilient_nb.core.names import check_name
from resilient_nb.errors import CheckpointError, InvalidRequest
from resilient_nb.interchange import dcp
from resilient_nb.rank.tensors import from_leaf, map_leaves, to_leaf
from resilient_nb.storage.tree import TensorLeaf, unflatten

#: What begins our names in the metadata of safetensors files, and some of them.
OURS = "resilient_nb."
STATE, ARRAYS, ONLY = f"{OURS}state", f"{OURS}arrays", f"{OURS}only"
NEEDS = "safetensors files need the package safetensors: pip install 'resilient_nb[interchange]'."

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_WHY_NOT = (
    "is a pickle, and loading one can run code that its author put in. If you trust where it is "
    "from, say --allow-pickle (allow_pickle=True): it is then read by torch's weights-only "
    "unpickler, which knows tensors and plain values only. That is a guard, and no proof: it was "
    "got round in the past. Prefer safetensors."
)


@dataclass(frozen=True)
class Wanted:
    """What to take of a file.

    Attributes:
        name: what to call it as a tracked object; None for the names that the file has, if it
            holds several objects, else `model`.
        only: just this part of the file.
        allow_pickle: whether files that are pickles may be read at all.
    """

    name: str | None = None
    only: str | None = None
    allow_pickle: bool = False


def read(path: Path, wanted: Wanted) -> dict[str, Any]:
    """Return the states that a file or folder holds, by the names of tracked objects.

    Raises:
        InvalidRequest: it isn't there, its format isn't known, or it may not be read.
        CheckpointError: it is damaged, or holds what can't be read safely.
    """
    if wanted.name is not None:
        check_tracked(wanted.name)
    if not path.exists():
        raise InvalidRequest(f"There is no {path}.")
    if path.is_dir():
        if not (path / dcp.METADATA).exists():
            raise InvalidRequest(
                f"The folder {path} has no {dcp.METADATA}, so it is none of "
                "torch.distributed.checkpoint's. Name the file in it that is meant."
            )
        _may_unpickle(path, wanted)
        return _by_name(dcp.read(path, wanted.only), wanted, path)
    if path.suffix == ".safetensors":
        return _safetensors(path, wanted)
    if path.suffix in _PICKLES:
        _may_unpickle(path, wanted)
        return _by_name(_part(_unpickled(path), wanted.only, path), wanted, path)
    raise InvalidRequest(
        f"What {path} holds can't be told from its name: it must end in .safetensors or .pt, or "
        "be a folder of torch.distributed.checkpoint."
    )


def check_tracked(name: str) -> str:
    """Return a name that a tracked object can have.

    Raises:
        InvalidRequest: it can't have it.
    """
    check_name(name, "tracked object's")
    if name.startswith("rank-"):
        raise InvalidRequest(f"{name!r} is reserved: choose another name.")
    return name


def _may_unpickle(path: Path, wanted: Wanted) -> None:
    if not wanted.allow_pickle:
        raise InvalidRequest(f"{path} {_WHY_NOT}")


def _unpickled(path: Path) -> Any:
    """Read what torch.save wrote, as far as possible without a copy in memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats: the writer's business
            return _loaded(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values ({unpickler_says(error)}), and is "
            "not read. Save its state_dict() alone, in the program that made it."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} can't be read as a file of torch.save: {error}") from error


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # of before torch 1.6


def unpickler_says(error: Exception) -> str:
    """Return why torch's weights-only unpickler refused, without its advice to trust the file."""
    named = global_in(error)
    return f"it names {named}" if named else "it is no such file"


def global_in(error: Exception) -> str | None:
    """Return the class or function that torch's weights-only unpickler refused, if it was one."""
    found = _GLOBAL.search(str(error))
    return found[1] if found else None


def _part(state: Any, only: str | None, path: Path) -> Any:
    if only is None:
        return state
    if not isinstance(state, Mapping) or only not in state:
        has = ", ".join(map(str, list(state)[:20])) if isinstance(state, Mapping) else "no parts"
        raise InvalidRequest(f"{path} has no {only!r}; it has {has}.")
    return state[only]


def _by_name(state: Any, wanted: Wanted, path: Path) -> dict[str, Any]:
    """Divide a state into tracked objects."""
    if wanted.name is not None:
        return {wanted.name: state}
    several = isinstance(state, Mapping) and wanted.only is None
    if several and state and all(isinstance(part, dict) for part in state.values()):
        names = [str(name) for name in state]
        try:
            return {check_tracked(str(name)): part for name, part in state.items()}
        except InvalidRequest as error:
            raise InvalidRequest(
                f"{path} holds {', '.join(names)}. {error} Say which one with --only, and what to "
                "call it with --as."
            ) from error
    return {"model": state}


# --- safetensors --------------------------------------------------------------------------


def _safetensors(path: Path, wanted: Wanted) -> dict[str, Any]:
    tensors, about = _read_safetensors(path)
    # Tied tensors are there once; their other names are in the metadata, as is usual.
    for name, other in about.items():
        if name not in tensors and other in tensors and not is_about_the_file(name):
            tensors[name] = tensors[other]
    if STATE not in about:
        return _by_name(_part(tensors, wanted.only, path), wanted, path)
    states = _restored(tensors, about, path)
    if wanted.only is not None:
        states = {wanted.only: _part(states, wanted.only, path)}
    if wanted.name is None:
        return states
    if len(states) != 1:
        raise InvalidRequest(
            f"{path} holds {', '.join(states)}: --as {wanted.name} is for one of them. Say which "
            "with --only, or leave --as out."
        )
    return {wanted.name: next(iter(states.values()))}


def is_about_the_file(key: str) -> bool:
    """Whether metadata of this name is no tie of a tensor of this name."""
    return key == "format" or key.startswith(OURS)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InvalidRequest(NEEDS) from None
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} can't be read as a safetensors file: {error}") from error


def _restored(
    tensors: Mapping[str, torch.Tensor], about: Mapping[str, str], path: Path
) -> dict[str, Any]:
    """Rebuild the states of a file that we wrote."""
    try:
        documents = json.loads(about[STATE])
        arrays = set(json.loads(about.get(ARRAYS, "[]")))
        alone = about.get(ONLY)
        leaves: dict[str, TensorLeaf] = {}
        found: dict[int, Any] = {}
        for key, tensor in tensors.items():
            name = key if alone is None else f"{alone}/{key}"
            leaf = to_leaf(tensor.contiguous())
            if key in arrays:
                leaf = TensorLeaf(leaf.array, None)
            leaves[name] = leaf
            found[id(leaf)] = tensor if leaf.torch_dtype else from_leaf(leaf)
        return {
            check_tracked(name): map_leaves(unflatten(document, leaves), lambda v: found[id(v)])
            for name, document in documents.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"What {path} says of its states is damaged ({error}); another program that reads "
            "safetensors still gets its tensors."
        ) from error
