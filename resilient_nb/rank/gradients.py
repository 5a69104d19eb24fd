"""Averaging gradients over ranks, in a fixed order, so that a resumed run adds the same way.

Stock DDP rebuilds its buckets after the first backward pass, so a restarted process adds in
another order and the last bits differ. Here one flat buffer a module and dtype, in the order
of `parameters()`, is all-reduced at the end of each backward pass that touched the module:
before any clipping, scaling or step sees the gradients, as with DDP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.phases import WAIT, Phases
from resilient_nb.rank.sharded import is_sharded

#: Most bytes that one all-reduce carries.
BUCKET_BYTES = 64 << 20

_WRAPPERS = (nn.parallel.DistributedDataParallel, FullyShardedDataParallel, FSDPModule)


def averages_itself(module: nn.Module) -> bool:
    """Whether DDP or FSDP takes care of a module, or its parameters are sharded in another way."""
    return any(isinstance(m, _WRAPPERS) for m in module.modules()) or any(
        is_sharded(p) for p in module.parameters()
    )


def left_out(module: nn.Module) -> list[str]:
    """Return which parameters nobody averages: plain ones in a module with sharded ones."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not any(is_sharded(p) for _, p in named):
        return []
    return [name for name, p in named if not is_sharded(p)]


class _Bucket:
    """Parameters of one dtype and device that share an all-reduce."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        size = sum(p.numel() for p in parameters)
        # Behind the gradients one flag a parameter: how many ranks have a gradient for it.
        first = parameters[0]
        self.flat = torch.zeros(size + len(parameters), dtype=first.dtype, device=first.device)
        self.views: list[torch.Tensor] = []
        at = 0
        for p in parameters:
            self.views.append(self.flat[at : at + p.numel()].view_as(p))
            at += p.numel()
        self.flags = self.flat[at:]

    def average(self, weight: float, phases: Phases) -> None:
        """Replace each gradient by the sum over ranks of weight x gradient."""
        present = [p.grad is not None for p in self.parameters]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if all(present):
            torch._foreach_copy_(self.views, gradients)
        else:
            for view, p in zip(self.views, self.parameters, strict=True):
                view.zero_() if p.grad is None else view.copy_(p.grad)
        self.flat.mul_(weight)
        self.flags.copy_(torch.tensor(present, dtype=self.flags.dtype))
        if self.flat.is_cuda and dist.get_backend() == "gloo":
            # It waits for the GPU anyway, and what that still computes is no wait for others.
            torch.cuda.current_stream(self.flat.device).synchronize()
        with phases.within(WAIT):
            dist.all_reduce(self.flat)
        if all(present):
            torch._foreach_copy_(gradients, self.views)
            return
        # A parameter that only other ranks used gets its share; one nobody used keeps None.
        for view, p, flag in zip(self.views, self.parameters, self.flags.tolist(), strict=True):
            if p.grad is not None:
                p.grad.copy_(view)
            elif flag > 0:
                p.grad = view.clone()


class GradientAveraging:
    """Hooks on modules' parameters. `weight` is this rank's share of the current batch."""

    def __init__(self, world_size: int, phases: Phases | None = None) -> None:
        self.weight = 1.0 / world_size
        self._phases = phases or Phases()
        self._modules: dict[int, list[_Bucket]] = {}
        self._known: set[int] = set()
        self._frozen: dict[int, list[nn.Parameter]] = {}
        # Modules touched by each backward pass under way. Passes nest (reentrant activation
        # checkpointing), and one that raised never calls back.
        self._passes: dict[int, set[int]] = {}

    def __contains__(self, module: nn.Module) -> bool:
        """Whether all of the module's parameters are averaged already."""
        return all(id(p) in self._known for p in module.parameters() if p.requires_grad)

    def attach(self, module: nn.Module) -> None:
        """Average the gradients of a module's parameters from now on."""
        parameters = list(module.parameters())
        self._frozen[id(module)] = [p for p in parameters if not p.requires_grad]
        self._adopt(id(module), parameters)

    def detach(self, module: nn.Module) -> None:
        """Leave a module to others: it was wrapped, or sharded, after it was attached."""
        for bucket in self._modules.pop(id(module), ()):
            self._known.difference_update(id(p) for p in bucket.parameters)
        self._frozen.pop(id(module), None)

    def _adopt(self, module: int, parameters: list[nn.Parameter]) -> bool:
        """Average those parameters that need it and aren't yet; False if there are none."""
        own = [p for p in parameters if p.requires_grad and id(p) not in self._known]
        self._known.update(id(p) for p in own)
        self._modules.setdefault(module, []).extend(_Bucket(part) for part in _split(own))
        for p in own:
            p.register_post_accumulate_grad_hook(self._hook(module))
        return bool(own)

    def _hook(self, module: int) -> Any:
        def hook(parameter: torch.Tensor) -> None:
            if parameter.grad is not None and parameter.grad.layout is not torch.strided:
                raise InvalidRequest(
                    "Sparse gradients can't be averaged over ranks: use sparse=False."
                )
            current = torch._C._current_graph_task_id()
            touched = self._passes.get(current)
            if touched is None:
                touched = self._passes[current] = set()
                # Runs once at the end of this backward pass, as DDP's own reduction does.
                engine = torch.autograd.Variable._execution_engine
                engine.queue_callback(partial(self._average, current))
            touched.add(module)

        return hook

    def _average(self, current: int) -> None:
        touched = self._passes.pop(current)
        for module, frozen in self._frozen.items():
            if any(p.requires_grad for p in frozen) and self._adopt(module, frozen):
                touched.add(module)  # unfrozen since: this pass was their first
                self._frozen[module] = [p for p in frozen if not p.requires_grad]
        with torch.no_grad():
            for module, buckets in self._modules.items():
                if module in touched:
                    for bucket in buckets:
                        bucket.average(self.weight, self._phases)


def _split(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group parameters by dtype and device into buckets of bounded size, in order."""
    done: list[list[nn.Parameter]] = []
    filling: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for p in parameters:
        bucket = filling.setdefault((p.dtype, p.device), [])
        if bucket and sum(q.nbytes for q in bucket) + p.nbytes > BUCKET_BYTES:
            done.append(bucket)
            bucket = filling[p.dtype, p.device] = []
        bucket.append(p)
    return done + [bucket for bucket in filling.values() if bucket]
