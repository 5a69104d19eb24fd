"""Tensors of a tracked object as they are now: what fits is read right into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from resilient_nb.errors import CannotStore
from resilient_nb.rank.sharded import is_sharded
from resilient_nb.rank.tensors import is_plain, map_tensors
from resilient_nb.storage.tree import TensorLeaf, flatten


@dataclass(frozen=True)
class Live:
    """What is there of an object's state, by the names that it is stored under.

    Attributes:
        tensors: those that can be filled, and sharded ones.
        parameters: an optimizer's sharded parameters by the beginning of their state's names,
            `optimizer/state.0.`: a new optimizer has no state yet, and it is sharded as they are.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    parameters: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def pattern(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return the DTensor as which a stored tensor is wanted, None if it is wanted whole."""
        found = self.tensors.get(name)
        if found is not None:
            return found if is_sharded(found) and tuple(found.shape) == shape else None
        group, _, leaf = name.partition("/")
        owner = ".".join(leaf.split(".")[:2])
        # What has no dimensions is a step count: a plain number everywhere.
        return self.parameters.get(f"{group}/{owner}.") if shape else None


def live_tensors(value: Any, name: str) -> Live:
    """Return what is there of a tracked object, if it is read right into the object.

    Args:
        value: a module, optimizer, tensor, list or dict; nothing is taken from others.
        name: that it is tracked under.
    """
    state = _state(value)
    filled = isinstance(value, (nn.Module, torch.optim.Optimizer))
    found: dict[int, tuple[TensorLeaf, torch.Tensor]] = {}

    def stand_in(tensor: torch.Tensor) -> Any:
        if not (is_sharded(tensor) or (filled and is_plain(tensor))):
            return None
        leaf = TensorLeaf(np.empty(0, np.uint8), None)
        found[id(leaf)] = leaf, tensor
        return leaf

    try:
        _, leaves = flatten(map_tensors(state, stand_in), name)
    except CannotStore:
        return Live()
    tensors = {n: found[id(leaf)][1] for n, leaf in leaves.items() if id(leaf) in found}
    return Live(tensors, _parameters(value, name))


def _state(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return value.state_dict(keep_vars=True)
    if isinstance(value, torch.optim.Optimizer):
        return value.state_dict()
    plain = isinstance(value, (torch.Tensor, list, dict)) and not hasattr(value, "load_state_dict")
    return value if plain else None


def _parameters(value: Any, name: str) -> dict[str, torch.Tensor]:
    if not isinstance(value, torch.optim.Optimizer):
        return {}
    # In the order of the groups, which is how an optimizer's state dict numbers them.
    ordered = [p for group in value.param_groups for p in group["params"]]
    numbered = dict(enumerate(dict.fromkeys(ordered)))
    return {f"{name}/state.{n}.": p for n, p in numbered.items() if is_sharded(p)}
