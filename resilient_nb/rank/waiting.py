"""Gradients that wait for a step, of loops that accumulate them over several turns.

As a rule a turn ends in `optimizer.step()`, and what is left in `p.grad` is of no more use. Where
it doesn't, a resumed loop must find the gradients that it had: they are kept beside what is
tracked. Those of parameters whose optimizer has just stepped are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from resilient_nb.errors import CannotStore
from resilient_nb.rank.live import live_tensors
from resilient_nb.rank.sharded import is_sharded
from resilient_nb.rank.stored import Stored

#: As checkpoints name them. No name of a cell's has a hyphen.
NAME = "waiting-gradients"

_Gradients = dict[str, dict[str, torch.Tensor]]


def waiting_gradients(objects: Mapping[str, Any], stepped: set[int]) -> _Gradients:
    """Return the gradients that tracked objects' parameters hold for a later turn.

    Args:
        objects: what is tracked, by name.
        stepped: ids of the optimizers that stepped in the turn that has ended.

    Raises:
        CannotStore: FSDP holds some back.
    """
    optimizers = [o for o in objects.values() if isinstance(o, torch.optim.Optimizer)]
    done = _parameters(o for o in optimizers if id(o) in stepped)
    if stepped:
        # Nobody's parameters gather gradients for ever, to no purpose.
        wanted = _parameters(o for o in optimizers if id(o) not in stepped) - done
    else:
        wanted = {id(p) for _, _, p in _named(objects)}
    found: _Gradients = {}
    for name, key, p in _named(objects):
        if id(p) in wanted and p.grad is not None:
            found.setdefault(name, {})[key] = p.grad
    if wanted:
        _refuse_unreduced(objects)
    return found


def give_gradients(objects: Mapping[str, Any], stored: Stored) -> None:
    """Give parameters the gradients that a checkpoint has for them, if it has any."""
    if not stored.has(NAME):
        return
    sharded: _Gradients = {}
    for name, key, p in _named(objects):
        if is_sharded(p):
            sharded.setdefault(name, {})[key] = torch.zeros_like(p)
    found = stored.state(NAME, live_tensors(sharded, NAME))
    for name, key, p in _named(objects):
        gradient = found.get(name, {}).get(key)
        p.grad = None if gradient is None else gradient.to(p.device)


def _named(objects: Mapping[str, Any]) -> Iterator[tuple[str, str, torch.Tensor]]:
    for name, value in objects.items():
        if isinstance(value, nn.Module):
            yield from ((name, key, p) for key, p in value.named_parameters())
        elif isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf:
            yield name, "value", value


def _parameters(optimizers: Iterator[torch.optim.Optimizer]) -> set[int]:
    return {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}


def _refuse_unreduced(objects: Mapping[str, Any]) -> None:
    for name, value in objects.items():
        parts = value.modules() if isinstance(value, nn.Module) else ()
        if any(_holds_back(part) for part in parts if isinstance(part, FSDPModule)):
            raise CannotStore(
                f"{name!r} holds gradients of this rank's batches alone, which checkpoints can't "
                "keep: set_requires_gradient_sync(False) is in force at the end of a turn. Have "
                "all batches of a step in one turn of the loop, or leave it on."
            )


def _holds_back(part: Any) -> bool:
    """Whether a module of FSDP has gradients that it hasn't reduced over ranks."""
    group = part._get_fsdp_state()._fsdp_param_group
    for p in group.fsdp_params if group is not None else ():
        whole = getattr(p, "_unsharded_param", None)
        if p.unsharded_accumulated_grad is not None or (
            whole is not None and whole.grad is not None
        ):
            return True
    return False
