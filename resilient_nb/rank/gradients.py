"""Averaging gradients over ranks, in a fixed order, so that a resumed run adds the same way.

Stock DDP rebuilds its buckets after the first backward pass, so a restarted process adds in
another order and the last bits differ. Here one flat buffer a module and dtype, in the order
of `parameters()`, is all-reduced at the end of each backward pass that touched the module:
before any clipping, scaling or step sees the gradients, as with DDP.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from resilient_nb.errors import InvalidRequest

#: Most bytes that one all-reduce carries.
BUCKET_BYTES = 64 << 20


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

    def average(self, weight: float) -> None:
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

    def __init__(self, world_size: int) -> None:
        self.weight = 1.0 / world_size
        self._modules: dict[int, list[_Bucket]] = {}
        self._known: set[int] = set()
        self._touched: set[int] = set()
        self._pass: int | None = None  # the backward pass that has our callback

    def __contains__(self, module: nn.Module) -> bool:
        """Whether all of the module's parameters are averaged already."""
        return all(id(p) in self._known for p in module.parameters() if p.requires_grad)

    def attach(self, module: nn.Module) -> None:
        """Average the gradients of a module's parameters from now on."""
        if any(isinstance(m, nn.parallel.DistributedDataParallel) for m in module.modules()):
            return  # it averages by itself
        own = [p for p in module.parameters() if p.requires_grad and id(p) not in self._known]
        if not own:
            return
        self._known.update(id(p) for p in own)
        self._modules[id(module)] = [_Bucket(part) for part in _split(own)]
        for p in own:
            p.register_post_accumulate_grad_hook(self._hook(id(module)))

    def _hook(self, module: int) -> Any:
        def hook(parameter: torch.Tensor) -> None:
            if parameter.grad is not None and parameter.grad.layout is not torch.strided:
                raise InvalidRequest(
                    "Sparse gradients can't be averaged over ranks: use sparse=False."
                )
            current = torch._C._current_graph_task_id()
            if self._pass != current:
                # A pass that raised never called back: what it touched is not this one's.
                self._pass, self._touched = current, set()
                # Runs once at the end of this backward pass, as DDP's own reduction does.
                torch.autograd.Variable._execution_engine.queue_callback(self._average)
            self._touched.add(module)

        return hook

    def _average(self) -> None:
        self._pass = None
        touched, self._touched = self._touched, set()
        with torch.no_grad():
            for module, buckets in self._modules.items():
                if module in touched:
                    for bucket in buckets:
                        bucket.average(self.weight)


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
