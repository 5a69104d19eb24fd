"""What a checkpoint holds of a rank: tracked objects, random numbers, and plain values.

Tracked objects are those given to `run.track`, or, if there are none by the first step, the
modules, optimizers, schedulers and scalers found among the cell's names. Plain values (numbers,
strings, lists, dicts) that the loop has changed are found by themselves, so that a `history`
list or a `best` loss goes on too; what the loop didn't change stays as the cell set it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from resilient_nb.errors import CannotStore, CheckpointError, InvalidRequest
from resilient_nb.rank.randomness import random_state, set_random_state
from resilient_nb.rank.tensors import check_storable, from_leaf, map_leaves, map_tensors, to_leaf
from resilient_nb.storage.checkpoints import Checkpoint
from resilient_nb.storage.tree import Json, TensorLeaf, flatten, unflatten

_PLAIN = (
    bool, int, float, complex, str, bytes, list, dict, tuple, set, type(None),
)  # fmt: skip
#: Plain values beyond this many characters (or bytes of tensors) are left alone (and said so).
_PLAIN_LIMIT = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """A rank's state at a step, copied: nothing in it is shared with the training loop."""

    leaves: dict[str, TensorLeaf]  # of tracked objects, by names that all ranks share
    documents: dict[str, Json]
    own_leaves: dict[str, TensorLeaf]  # of this rank alone, under `rank-<n>/`
    own_document: dict[str, Json]


class Buffers:
    """Memory that snapshots are copied into, used again for the next one."""

    def __init__(self) -> None:
        self._pool: list[torch.Tensor] = []
        self._used = 0

    def begin(self) -> None:
        """Reuse everything: the last snapshot has been written."""
        self._used = 0

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a CPU tensor of the same shape and dtype."""
        if self._used < len(self._pool):
            old = self._pool[self._used]
            if old.shape == tensor.shape and old.dtype == tensor.dtype:
                self._used += 1
                return old
            del self._pool[self._used :]
        new = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        self._pool.append(new)
        self._used += 1
        return new


class Tracker:
    """The tracked objects of one rank."""

    def __init__(self, rank: int, namespace: dict[str, Any], note: Callable[[str], None]) -> None:
        self._rank = rank
        self._namespace = namespace
        self._note = note
        self._objects: dict[str, Any] = {}
        self._baseline: dict[str, str] = {}
        self._buffers = Buffers()

    @property
    def names(self) -> list[str]:
        """What is tracked."""
        return list(self._objects)

    def modules(self) -> list[nn.Module]:
        """Return the tracked modules, in the order of tracking."""
        return [o for o in self._objects.values() if isinstance(o, nn.Module)]

    def add(self, name: str, value: Any) -> None:
        """Track an object.

        Raises:
            InvalidRequest: its state can't be taken and given back in place.
        """
        if not _has_state(value):
            raise InvalidRequest(
                f"run.track({name}=...): a {type(value).__name__} has no state that can be "
                "restored in place. Track modules, optimizers, schedulers, tensors, arrays, lists, "
                "dicts, or anything with state_dict() and load_state_dict()."
            )
        self._objects[name] = value

    def find(self) -> None:
        """Track what the cell's names hold, unless the cell has tracked something itself."""
        if self._objects:
            self._warn_untracked()
            return
        kinds = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
        scaler = torch.amp.GradScaler
        seen: set[int] = set()
        for name, value in self._namespace.items():
            if name.startswith("_") or id(value) in seen:
                continue
            if isinstance(value, (*kinds, scaler)) and not _is_stateless(value):
                seen.add(id(value))
                self._objects[name] = value
        if self._rank:
            return
        if self._objects:
            self._note(f"Tracks {', '.join(self._objects)} (found in the cell).")
        else:
            self._note("Nothing to track: no module or optimizer among the cell's names.")

    def _warn_untracked(self) -> None:
        """Tracking something by hand means tracking all by hand: say what was left out."""
        covered = {id(part) for module in self.modules() for part in module.modules()}
        covered |= {id(value) for value in self._objects.values()}
        left = [
            name
            for name, value in self._namespace.items()
            if isinstance(value, (nn.Module, torch.optim.Optimizer))
            and not name.startswith("_")
            and id(value) not in covered
            and not _is_stateless(value)
        ]
        if left and not self._rank:
            self._note(f"Not tracked, so not kept and not averaged over ranks: {', '.join(left)}.")

    def mark(self) -> None:
        """Remember plain values as they are before the first step."""
        self._baseline = {name: _look(value) for name, value in self._plain().items()}

    # --- out ----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Copy the state.

        Raises:
            CannotStore: naming what has no representation.
        """
        self._buffers.begin()
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        leaves: dict[str, TensorLeaf] = {}
        documents: dict[str, Json] = {}
        for name, value in self._objects.items():
            state = map_tensors(_state_of(value), lambda t, n=name: self._copy(t, n, pairs))
            documents[name], found = flatten(state, name)
            leaves.update(_detached(found))
        own: dict[str, Any] = {"random": random_state(), "plain": self._changed()}
        own = map_tensors(own, to_leaf)
        document, own_leaves = flatten(own, f"rank-{self._rank}")
        _copy_all(pairs)
        return Snapshot(leaves, documents, _detached(own_leaves), {"state": document})

    def _copy(
        self, tensor: torch.Tensor, name: str, pairs: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> TensorLeaf:
        check_storable(tensor, f"A tensor of {name!r}")
        buffer = self._buffers.like(tensor)
        pairs.append((buffer, tensor.detach()))
        return to_leaf(buffer)

    # --- in -----------------------------------------------------------------------------

    def restore(self, stored: Stored, names: list[str] | None = None) -> None:
        """Give tracked objects the state they had.

        Raises:
            CheckpointError: the checkpoint lacks one, or its state doesn't fit the object.
        """
        for name in self._objects if names is None else names:
            state = stored.state(name)
            try:
                _give_back(self._objects[name], state)
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"The state of {name!r} in checkpoint {stored.id} doesn't fit this cell's "
                    f"{name!r}: {error}. If you changed it on purpose, start over with "
                    "--resume never."
                ) from error

    def restore_own(self, stored: Stored) -> None:
        """Give back random numbers and the plain values that the loop had changed."""
        own = stored.own()
        for name, value in own["plain"].items():
            old = self._namespace.get(name)
            if type(old) is type(value) and isinstance(old, (list, dict)):
                _refill(old, value)  # in place: other names may refer to it
            else:
                self._namespace[name] = value
        set_random_state(own["random"])

    def fill(self, stored: Stored) -> None:
        """Define names that a loop had made, for code after it: the loop itself is skipped."""
        for name, value in stored.own()["plain"].items():
            self._namespace.setdefault(name, value)

    # --- plain values -------------------------------------------------------------------

    def _plain(self) -> dict[str, Any]:
        tracked = {id(o) for o in self._objects.values()}
        return {
            name: value
            for name, value in self._namespace.items()
            if not name.startswith("_")
            and not isinstance(value, nn.Parameter)
            and (type(value) in _PLAIN or isinstance(value, (np.generic, torch.Tensor)))
            and id(value) not in tracked
        }

    def _changed(self) -> dict[str, Any]:
        changed = {}
        tracked = {id(t) for m in self.modules() for t in (*m.parameters(), *m.buffers())}
        for name, value in self._plain().items():
            is_tensor = isinstance(value, torch.Tensor)
            if is_tensor and (value.nbytes > _PLAIN_LIMIT or value.layout is not torch.strided):
                continue  # the loop's batch, as a rule
            if _holds_any(value, tracked) or (
                is_tensor and _look(value) == self._baseline.get(name)
            ):
                continue  # an optimizer's group, say: kept with what is tracked
            try:
                plain = map_tensors(value, lambda t: t.detach().cpu().clone())
                _, leaves = flatten(map_tensors(plain, to_leaf), "plain")
            except (CannotStore, RecursionError, TypeError, RuntimeError):
                if _look(value) != self._baseline.get(name):
                    self._note(f"{name!r} holds more than plain values: not kept in checkpoints.")
                continue
            text, nbytes = _look(value), sum(leaf.array.nbytes for leaf in leaves.values())
            # The repr of arrays is rounded: a list or dict with any always counts as changed.
            held = not is_tensor and 0 < nbytes <= _PLAIN_LIMIT
            if text == self._baseline.get(name) and not held:
                continue
            if len(text) + nbytes > _PLAIN_LIMIT:
                self._note(f"{name!r} is too large to be kept unasked: run.track({name}={name}).")
                continue
            changed[name] = plain
        return changed


class Stored:
    """A checkpoint as one rank reads it; tensors are read once and kept until `forget`."""

    def __init__(self, checkpoint: Checkpoint, rank: int) -> None:
        self.id = checkpoint.manifest.id
        self.step = checkpoint.manifest.step
        info: Any = checkpoint.manifest.info
        self.position: dict[str, int] = info["position"]
        self.numerics: dict[str, str] = info["numerics"]
        self._checkpoint = checkpoint
        world = checkpoint.manifest.world_size
        # A rank that the checkpoint doesn't know takes what rank 0 had.
        self.knows_rank = rank < world
        self._rank = rank if rank < world else 0
        self._shared: Any = checkpoint.document("shared")
        self._mine: Any = checkpoint.document(f"rank-{self._rank}")
        self._leaves: dict[str, TensorLeaf] = {}

    def state(self, name: str) -> Any:
        """Return a tracked object's state as it was on this rank, tensors as tensors."""
        document = self._mine.get("documents", {}).get(name, self._shared.get(name))
        if document is None:
            raise CheckpointError(
                f"Checkpoint {self.id} has no {name!r}, only: "
                f"{', '.join(self._shared) or 'nothing'}. Track the "
                "same names, or start over with --resume never."
            )
        return map_leaves(unflatten(document, _Lookup(self)), _fresh)

    def own(self) -> Any:
        """Return what only this rank had: random numbers, plain values."""
        return map_leaves(unflatten(self._mine["state"], _Lookup(self)), _fresh)

    def forget(self) -> None:
        """Let go of the tensors that were read."""
        self._leaves.clear()

    def leaf(self, name: str) -> TensorLeaf:
        """Read one tensor: this rank's own version if it had one."""
        if name not in self._leaves:
            own = name in self._mine.get("tensors", ())
            self._leaves[name] = self._checkpoint.read(f"rank-{self._rank}/{name}" if own else name)
        return self._leaves[name]


class _Lookup(Mapping[str, TensorLeaf]):
    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> TensorLeaf:
        return self._stored.leaf(name)

    def __iter__(self) -> Any:
        raise TypeError("names are looked up, not listed")

    def __len__(self) -> int:
        raise TypeError("names are looked up, not counted")


def _fresh(leaf: TensorLeaf) -> Any:
    # A copy: the leaf may be given back a second time, at the place in the loop.
    return from_leaf(TensorLeaf(leaf.array.copy(), leaf.torch_dtype))


def _look(value: Any) -> str:
    """Return a text that differs if a plain value, or a tensor by itself, has changed."""
    if isinstance(value, torch.Tensor):
        return f"tensor {id(value)} {value._version}"
    return repr(value)


def _holds_any(value: Any, tensors: set[int]) -> bool:
    found: list[bool] = []
    try:
        map_tensors(value, lambda tensor: found.append(id(tensor) in tensors))
    except RecursionError:
        return False
    return any(found)


def _detached(leaves: dict[str, TensorLeaf]) -> dict[str, TensorLeaf]:
    """Return leaves with numpy arrays copied (tensors were): the loop may change its own."""
    return {
        name: TensorLeaf(leaf.array.copy(), None) if leaf.torch_dtype is None else leaf
        for name, leaf in leaves.items()
    }


def _has_state(value: Any) -> bool:
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return True
    return isinstance(value, (torch.Tensor, torch.Generator, np.ndarray, list, dict))


def _is_stateless(value: Any) -> bool:
    """Losses such as CrossEntropyLoss are modules without any state."""
    return isinstance(value, nn.Module) and not value.state_dict()


def _state_of(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, (np.ndarray, list, dict)) and not hasattr(value, "state_dict"):
        return value.copy()
    return value.state_dict()


def _give_back(value: Any, state: Any) -> None:
    if isinstance(value, torch.Tensor):
        with torch.no_grad():
            value.copy_(state)
    elif isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, np.ndarray):
        np.copyto(value, state, casting="no")
    elif isinstance(value, (list, dict)) and not hasattr(value, "load_state_dict"):
        _refill(value, state)
    else:
        value.load_state_dict(state)


def _refill(value: Any, content: Any) -> None:
    value.clear()
    (value.extend if isinstance(value, list) else value.update)(content)


def _copy_all(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy in one call a dtype and device: it holds the GIL no longer than needed."""
    groups: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for to, source in pairs:
        tos, sources = groups.setdefault((source.dtype, source.device), ([], []))
        tos.append(to)
        sources.append(source)
    with torch.no_grad():
        for tos, sources in groups.values():
            torch._foreach_copy_(tos, sources)
