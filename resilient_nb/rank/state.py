"""What a checkpoint holds of a rank: tracked objects, random numbers, and plain values.

Tracked objects are those given to `run.track`, or, if there are none by the first step, the
modules, optimizers, schedulers and scalers found among the cell's names. Plain values that the loop
has changed are found by themselves (see `plain`), so that a `history` list goes on, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from resilient_nb.errors import InvalidRequest, StateMismatch
from resilient_nb.rank.forms import refill
from resilient_nb.rank.gradients import averages_itself, left_out
from resilient_nb.rank.live import live_tensors
from resilient_nb.rank.plain import LIMIT, PlainValues
from resilient_nb.rank.randomness import random_state, set_random_state
from resilient_nb.rank.segment import ALIGNMENT, aligned
from resilient_nb.rank.sharded import local_of
from resilient_nb.rank.snapshot import Copier, Part, Snapshot, Sources
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.tensors import dtype_name, map_tensors, to_leaf, where_is
from resilient_nb.rank.waiting import NAME, give_gradients, waiting_gradients
from resilient_nb.storage.tree import Json, TensorLeaf, flatten


class Tracker:
    """The tracked objects of one rank."""

    def __init__(self, rank: int, namespace: dict[str, Any], note: Callable[[str], None]) -> None:
        self._rank = rank
        self._namespace = namespace
        self._note = note
        self._objects: dict[str, Any] = {}
        self._plain = PlainValues(namespace, note)
        self._copier = Copier()

    @property
    def names(self) -> list[str]:
        """What is tracked."""
        return list(self._objects)

    def modules(self) -> list[nn.Module]:
        """Return the tracked modules, in the order of tracking."""
        return [o for o in self._objects.values() if isinstance(o, nn.Module)]

    def wrapped(self) -> set[int]:
        """Return the ids of parameters that a DDP or FSDP module of the cell averages.

        The cell may track the module inside it.
        """
        values = (*self._namespace.values(), *self._objects.values())
        modules = [v for v in values if isinstance(v, nn.Module) and averages_itself(v)]
        return {id(p) for module in modules for p in module.parameters()}

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
        else:
            self._find()
        self._warn_unsharded()

    def _find(self) -> None:
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

    def _warn_unsharded(self) -> None:
        for name, value in self._objects.items():
            left = left_out(value) if isinstance(value, nn.Module) else []
            if left and not self._rank:
                self._note(
                    f"Of {name!r} some parameters are sharded, but not {left[0]} ({len(left)} in "
                    "all): nobody averages its gradients over ranks."
                )

    def mark(self) -> None:
        """Remember plain values as they are before the first step."""
        self._plain.mark(self._tracked())

    # --- out ----------------------------------------------------------------------------

    def snapshot(self, at_once: bool = True, stepped: set[int] | None = None) -> Snapshot:
        """Copy the state; the snapshot before must have been written.

        Args:
            at_once: whether all of it is copied before this returns. Otherwise what only the
                optimizer's step changes is copied while the loop's next turn is under way.
            stepped: ids of the optimizers that stepped in the turn that has ended; None if no
                gradients are to be kept.

        Raises:
            CannotStore: naming what has no representation.
        """
        sources = Sources()
        leaves: dict[str, TensorLeaf] = {}
        documents: dict[str, Json] = {}
        gradients = {} if stepped is None else waiting_gradients(self._objects, stepped)
        for name, value in {**self._objects, **({NAME: gradients} if gradients else {})}.items():
            documents[name], found = flatten(_stand_ins(sources, name, value), name)
            leaves.update(found)
        own = {"random": random_state(), **self._plain.changed(self._tracked(), self.modules())}
        document, own_leaves = flatten(map_tensors(own, to_leaf), f"rank-{self._rank}")
        if not self._rank:
            self._plain.tell_of_objects(self._tracked())
        parts = Part(leaves, documents), Part(own_leaves, {"state": document})
        return self._copier.copy(parts, sources, set() if at_once else self._steady())

    def prepare(self) -> None:
        """The state has the size that it will have: make room for copies of it."""
        sizes: list[int] = []
        for value in self._objects.values():
            map_tensors(_state_of(value), lambda tensor: sizes.append(local_of(tensor).nbytes))
        self._copier.prepare(sum(aligned(size, size) + ALIGNMENT for size in sizes) + LIMIT)

    def on_wait(self, told: Callable[[float], None]) -> None:
        """Have a function told for how many seconds each step waits for a snapshot."""
        self._copier.on_wait = told

    def let_go(self) -> None:
        """The cell's code is about to do as it likes: wait until the state is copied."""
        self._copier.fence()

    def _steady(self) -> set[int]:
        """Return the addresses of tensors that change in optimizers' steps only."""
        steady = {local_of(p).data_ptr() for module in self.modules() for p in module.parameters()}
        for value in self._objects.values():
            if isinstance(value, torch.optim.Optimizer):
                for state in value.state.values():
                    map_tensors(state, lambda tensor: steady.add(local_of(tensor).data_ptr()))
        return steady

    # --- in -----------------------------------------------------------------------------

    def restore(self, stored: Stored, names: list[str] | None = None) -> None:
        """Give tracked objects the state they had.

        Raises:
            StateMismatch: the checkpoint lacks one, or its state doesn't fit the object.
        """
        for name in self._objects if names is None else names:
            value = self._objects[name]
            try:
                _give_back(value, stored.state(name, live_tensors(value, name)))
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                if _lacks_memory(error):
                    raise
                raise StateMismatch(
                    f"The state of {name!r} in checkpoint {stored.id} doesn't fit this cell's "
                    f"{name!r}: {error}. If you changed it on purpose, start over with "
                    "--resume never."
                ) from error

    def restore_own(self, stored: Stored) -> None:
        """Give back random numbers, gradients, and the plain values that the loop had changed."""
        give_gradients(self._objects, stored)
        own = stored.own()
        self._plain.give_back(own)
        set_random_state(own["random"])

    def fill(self, stored: Stored) -> None:
        """Define names that a loop had made, for code after it: the loop itself is skipped."""
        self._plain.define(stored.own())

    def _tracked(self) -> set[int]:
        return {id(value) for value in self._objects.values()}


def _has_state(value: Any) -> bool:
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return True
    return isinstance(value, (torch.Tensor, torch.Generator, np.ndarray, list, dict))


def _is_stateless(value: Any) -> bool:
    """Losses such as CrossEntropyLoss are modules without any state."""
    return isinstance(value, nn.Module) and not value.state_dict()


def _stand_ins(sources: Sources, name: str, value: Any) -> Any:
    """Return the state of a tracked object, with leaves in place of tensors."""
    state = _state_of(value)
    return map_tensors(state, lambda t: sources.add(t, lambda: where_is(t, state, name)))


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
        _check_like(value, state, torch.Tensor)
        with torch.no_grad():
            value.copy_(state)
    elif isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, np.ndarray):
        _check_like(value, state, np.ndarray)
        np.copyto(value, state, casting="equiv")  # of either byte order
    elif isinstance(value, (list, dict)) and not hasattr(value, "load_state_dict"):
        kind = list if isinstance(value, list) else dict
        if type(state) is not kind:
            raise TypeError(f"it was {_what(state)}, and is a {kind.__name__}")
        refill(value, state)
    else:
        try:
            value.load_state_dict(state)
        finally:  # what torch says of it is no more than `KeyError: 'step'`
            if isinstance(value, torch.optim.Optimizer):
                _check_groups(value)


def _check_like(value: Any, state: Any, kind: type) -> None:
    """Copying would repeat a smaller one, and convert another dtype, without a word."""
    if not isinstance(state, kind) or _what(state) != _what(value):
        raise ValueError(f"it was {_what(state)}, and is {_what(value)}")


def _what(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {dtype_name(value.dtype)}{list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype.name}{list(value.shape)}"
    return f"a {type(value).__name__}"


def _check_groups(optimizer: torch.optim.Optimizer) -> None:
    """Torch takes another class's groups as they are, and fails in the first step, if at all."""
    for group in optimizer.param_groups:
        # What a newer torch has added, the optimizer has set itself.
        if lacking := [name for name in optimizer.defaults if name not in group]:
            raise ValueError(
                f"{type(optimizer).__name__} needs {', '.join(lacking)} in its groups, and these "
                f"have only {', '.join(name for name in group if name != 'params')}"
            )


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
