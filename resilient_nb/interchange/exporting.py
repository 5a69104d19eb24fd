"""Files for other programs: a checkpoint as safetensors, or as a state dict of torch.save."""

from __future__ import annotations

import json
import os
import pickle
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resilient_nb.errors import CannotStore, InvalidRequest
from resilient_nb.interchange.files import (
    ARRAYS,
    NEEDS,
    ONLY,
    OURS,
    STATE,
    global_in,
    is_about_the_file,
)
from resilient_nb.loading import State
from resilient_nb.rank.tensors import dtype_name, from_leaf
from resilient_nb.storage.manifest import checkpoint_digest
from resilient_nb.storage.reading import Checkpoint

_SUFFIXES = (".safetensors", ".pt", ".pth")


def check_path(path: Path, overwrite: bool) -> None:
    """Refuse a file that can't be written.

    Raises:
        InvalidRequest: with what would do.
    """
    if path.suffix not in _SUFFIXES:
        raise InvalidRequest(
            f"{path} must end in .safetensors, which other frameworks read, too, or in .pt."
        )
    if path.exists() and not (overwrite and path.is_file()):
        raise InvalidRequest(
            f"{path} exists already. Choose another name, or say --overwrite."
            if path.is_file()
            else f"{path} is there, and is no file."
        )
    if not path.parent.is_dir():
        raise InvalidRequest(f"There is no folder {path.parent}.")


def export_checkpoint(checkpoint: Checkpoint, path: Path, only: str | None = None) -> None:
    """Write a checkpoint's tracked objects to a file, which appears when it is whole.

    Args:
        checkpoint: open for reading.
        path: a name that ends in .safetensors or .pt; what is there is replaced.
        only: just this tracked object. The file then has its own names (`0.weight`), and not
            `model/0.weight`.

    Raises:
        CheckpointError: the format can't hold something of it.
        UnknownName: there is no such object.
    """
    state = State(checkpoint)
    names = state.names(only) if only else [n for each in state for n in state.names(each)]
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        if path.suffix == ".safetensors":
            _write_safetensors(checkpoint, names, part, only)
        else:
            _write_torch(state, part, only)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# --- safetensors --------------------------------------------------------------------------


def _write_safetensors(
    checkpoint: Checkpoint, names: list[str], path: Path, only: str | None
) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError:
        raise InvalidRequest(NEEDS) from None
    documents: Any = checkpoint.document("shared")
    manifest = checkpoint.manifest
    tensors, ties, arrays = _apart(checkpoint, names, f"{only}/" if only else "")
    about = {
        **ties,
        "format": "pt",
        f"{OURS}run": manifest.run,
        f"{OURS}step": str(manifest.step),
        f"{OURS}digest": checkpoint_digest(manifest),
        # What isn't a tensor, so that an import gives back the whole state.
        STATE: json.dumps({only: documents[only]} if only else documents),
        ARRAYS: json.dumps(arrays),
        **({ONLY: only} if only else {}),
    }
    try:
        save_file(tensors, str(path), metadata=about)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CannotStore(
            f"Checkpoint {manifest.id} can't be written as safetensors ({error}). Export it as .pt."
        ) from error


def _apart(
    checkpoint: Checkpoint, names: list[str], prefix: str
) -> tuple[dict[str, torch.Tensor], dict[str, str], list[str]]:
    """Return each tensor once, the other names of tied ones, and which were numpy arrays."""
    kept: dict[str, str] = {}
    ties: dict[str, str] = {}
    # The file has metadata of some names itself, which can't be ties: their tensors come first.
    for key in sorted((n.removeprefix(prefix) for n in names), key=is_about_the_file, reverse=True):
        name = prefix + key
        other = kept.setdefault(checkpoint.record(name).tied or name, key)
        if other != key and not is_about_the_file(key):
            ties[key] = other
    wanted = [name for name in names if name.removeprefix(prefix) not in ties]
    read = checkpoint.read_many(wanted)
    arrays = [name.removeprefix(prefix) for name in wanted if read[name].torch_dtype is None]
    tensors = {name: torch.as_tensor(from_leaf(read[name])) for name in wanted}
    _check_dtypes(checkpoint.manifest.id, tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, ties, arrays


def _check_dtypes(identity: str, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save

    tried: set[torch.dtype] = set()
    for name, tensor in tensors.items():
        if tensor.dtype in tried:
            continue
        tried.add(tensor.dtype)
        try:
            save({"a": tensor.new_zeros(1)})
        except (SafetensorError, KeyError, ValueError, RuntimeError):
            raise CannotStore(
                f"{name} of {identity} is of dtype {dtype_name(tensor.dtype)}, which safetensors "
                "doesn't have. Export it as .pt, or leave it out with --only."
            ) from None


# --- torch --------------------------------------------------------------------------------


def _write_torch(state: State, path: Path, only: str | None) -> None:
    content = _plain(state[only] if only else {name: state[name] for name in state})
    torch.save(content, path)
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = global_in(error)
        raise CannotStore(
            f"{state.ref} holds something that torch's weights-only unpickler refuses"
            f"{f' ({named})' if named else ''}: an int of more than 2,000 bits, or, with an older "
            "torch, sets, bytes or complex numbers. Export it as .safetensors, or the parts "
            "without it, with --only."
        ) from None


def _plain(value: Any) -> Any:
    """Return a state without what the weights-only unpickler doesn't know: numpy's own."""
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(item) for item in value)
    return value
