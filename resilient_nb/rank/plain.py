"""Values of the cell that checkpoints keep unasked, if the loop changes them.

Numbers, strings, containers of these, small tensors and arrays, each rank's own. What the loop
didn't change stays as the cell set it, so that an edited constant takes effect. What it changes,
but can't be kept, is named, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from resilient_nb.errors import CannotStore
from resilient_nb.rank.forms import (
    CONTAINERS,
    Kinds,
    fill,
    gather,
    spread,
    text_of,
    unknown_factories,
)
from resilient_nb.rank.sharded import is_sharded, local_of
from resilient_nb.rank.tensors import map_tensors, to_leaf
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.tree import flatten

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_PLAIN = (*_SCALARS, *CONTAINERS, tuple, np.ndarray)
#: Values beyond this many characters (or bytes of tensors) are left alone (and said so).
LIMIT = 1 << 20


class PlainValues:
    """Those of one rank.

    Args:
        namespace: the cell's names.
        note: takes lines for the user.
    """

    def __init__(self, namespace: dict[str, Any], note: Callable[[str], None]) -> None:
        self._namespace = namespace
        self._note = note
        self._baseline: dict[str, str] = {}
        self._factories: frozenset[str] = frozenset()  # defaultdicts that the cell makes itself
        self._attributes: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()

    def mark(self, tracked: set[int]) -> None:
        """Remember values as they are before the first step; `tracked` has ids of objects."""
        found = self._found(tracked)
        self._baseline = {name: _look(value)[0] for name, value in found.items()}
        self._factories = frozenset(n for n, v in found.items() if hasattr(v, "default_factory"))
        self._attributes = {n: _attributes(v) for n, v in self._objects(tracked).items()}

    def changed(self, tracked: set[int], modules: Iterable[nn.Module]) -> dict[str, Any]:
        """Return what a state document has of values that the loop has changed.

        Args:
            tracked: ids of objects that are kept anyway.
            modules: that are kept anyway, too: with what only refers to their tensors.
        """
        memory = {_memory(t) for m in modules for t in (*m.parameters(), *m.buffers())} - {0}
        plain: dict[str, Any] = {}
        kinds: dict[str, Kinds] = {}
        for name, value in self._found(tracked).items():
            text, leaves = _look(value)
            if any(isinstance(leaf, torch.Tensor) and _memory(leaf) in memory for leaf in leaves):
                continue  # an optimizer's group, say: kept with what is tracked
            alone = isinstance(value, (torch.Tensor, np.ndarray))
            nbytes = sum(map(_nbytes, leaves))
            if alone and (nbytes > LIMIT or not _is_dense(value)):
                continue  # the loop's batch, as a rule
            # Of leaves in it the text says only which they are: with any it counts as changed.
            held = not alone and 0 < nbytes <= LIMIT
            same = text == self._baseline.get(name)
            if same and not held:
                continue
            if len(text) + nbytes > LIMIT:
                self._tell(name, f"is too large to be kept unasked: run.track({name}={name}).")
                continue
            try:
                plain[name], kinds[name] = self._taken(name, value)
            except (CannotStore, RecursionError, TypeError, RuntimeError):
                if not same:
                    self._tell(name, "holds more than plain values: not kept in checkpoints.")
        return {"plain": plain, "kinds": {name: found for name, found in kinds.items() if found}}

    def _taken(self, name: str, value: Any) -> tuple[Any, Kinds]:
        """Return a value as documents have it, and what its containers are; shares nothing."""
        kinds: Kinds = []
        plain = spread(value, _copied, kinds)
        if any(path or name not in self._factories for path in unknown_factories(kinds)):
            raise CannotStore(f"{name!r} has a defaultdict whose factory only the loop knows")
        flatten(map_tensors(plain, to_leaf), "plain")
        return plain, kinds

    def give_back(self, own: dict[str, Any]) -> None:
        """Give names what `changed` returned, in place where the cell has made the like."""
        for name, value in _given(own).items():
            if not fill(self._namespace.get(name), value):
                self._namespace[name] = value

    def define(self, own: dict[str, Any]) -> None:
        """Give back only what the cell hasn't."""
        for name, value in _given(own).items():
            self._namespace.setdefault(name, value)

    def tell_of_objects(self, tracked: set[int]) -> None:
        """Name objects of the cell's own classes that have changed: nothing keeps them."""
        for name, value in self._objects(tracked).items():
            if name not in self._attributes or _attributes(value) == self._attributes[name]:
                continue
            track = f"run.track({name}={name})"
            if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
                track += " needs state_dict() and load_state_dict(), or keep its numbers in a dict"
            self._tell(
                name,
                f"({type(value).__name__}) changes in the loop and isn't kept in checkpoints: "
                f"{track}.",
            )

    def _tell(self, name: str, text: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._note(f"{name!r} {text}")

    def _found(self, tracked: set[int]) -> dict[str, Any]:
        return {
            name: value
            for name, value in self._namespace.items()
            if not name.startswith("_")
            and not isinstance(value, nn.Parameter)
            and not is_sharded(value)
            and (type(value) in _PLAIN or isinstance(value, (np.generic, torch.Tensor)))
            and id(value) not in tracked
        }

    def _objects(self, tracked: set[int]) -> dict[str, Any]:
        """Return objects of classes that the notebook or the cell defines."""
        kinds = (type, nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
        return {
            name: value
            for name, value in self._namespace.items()
            if not name.startswith("_")
            and type(value).__module__ == "__main__"
            and not isinstance(value, kinds)
            and id(value) not in tracked
        }


def _look(value: Any) -> tuple[str, list[Any]]:
    """Return a text that differs if a value has changed, and the tensors and arrays in it.

    Of those in a container the text has only which they are; that of a small one that is a value by
    itself has its content: a new one may lie where an old one was, and `.data` counts no changes.
    """
    leaves: list[Any] = []

    def look(leaf: Any) -> str:
        leaves.append(leaf)
        content = _content(leaf) if leaf is value else None
        return _which(leaf) if content is None else content

    try:
        return text_of(spread(value, look, [])), leaves
    except RecursionError:  # it contains itself, or nearly: it can't be kept
        with suppress(Exception):
            return repr(value), leaves
        return object.__repr__(value), leaves


def _which(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return f"tensor {id(leaf)} {0 if leaf.is_inference() else leaf._version}"
    return f"array {id(leaf)}"


def _content(leaf: Any) -> str | None:
    """Return what is in a tensor or array; None if it is large, or has no plain bytes."""
    if _nbytes(leaf) > LIMIT or not _is_dense(leaf):
        return None
    if isinstance(leaf, np.ndarray):
        content = digest(np.frombuffer(leaf.tobytes(), np.uint8))
        return f"array {leaf.dtype} {leaf.shape} {content}"
    try:
        stored = to_leaf(_copied(leaf)).array
    except (RuntimeError, TypeError, KeyError):  # a meta tensor, a quantized one
        return None
    return f"tensor {leaf.dtype} {leaf.shape} {digest(stored)}"


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's own numbers and strings, and how long its own containers are."""
    found: dict[str, Any] = {}
    for name, attribute in getattr(value, "__dict__", {}).items():
        if type(attribute) in _SCALARS or isinstance(attribute, np.generic):
            found[name] = attribute
        elif type(attribute) in CONTAINERS:
            found[name] = len(attribute)
    return found


def _given(own: dict[str, Any]) -> dict[str, Any]:
    kinds = own.get("kinds", {})  # older checkpoints have none
    return {name: gather(value, kinds.get(name, [])) for name, value in own["plain"].items()}


def _memory(tensor: torch.Tensor) -> int:
    """Return the address of the memory that a tensor lies in, 0 if it has none."""
    try:
        return local_of(tensor).untyped_storage().data_ptr()
    except (RuntimeError, ValueError):  # a sparse one, or one that has no shape yet
        return 0


def _nbytes(leaf: Any) -> int:
    try:
        return int(leaf.nbytes)
    except RuntimeError:  # a sparse one: it can't be kept anyway
        return 0


def _is_dense(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.layout is torch.strided


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    if is_sharded(leaf):
        raise CannotStore("sharded tensors are kept if they are tracked")
    return leaf.detach().cpu().clone()
