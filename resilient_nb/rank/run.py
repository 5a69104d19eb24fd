"""`run`: the handle that a cell trains with.

The training loop stays the cell's own. Each turn of a `run.batches` or `run.steps` loop is a
step boundary, where the state is whole: there checkpoints are taken, and a resumed job goes
on. On resume the cell runs from its top; loops that were complete are skipped, and in the
loop that was not, the state is restored and the loop goes on with the next batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import index
from typing import Any

import torch

from resilient_nb.core.names import check_name
from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.batches import Place, Plan, Source
from resilient_nb.rank.boundary import Boundary
from resilient_nb.rank.inputs import Inputs
from resilient_nb.rank.phases import COMPUTE
from resilient_nb.rank.waiting import NAME as WAITING


class Run:
    """The handle in the cell. All ranks of a job run the same cell, each with its own `run`.

    Attributes:
        rank: this process's number in the gang, from 0.
        world_size: how many ranks there are. It is the same in every attempt of an elastic
            job (unless it scales the learning rate): its ranks share what workers it holds.
        workers: how many workers the job holds in this attempt.
        device: the torch device that is this rank's (its GPU, or the CPU).
        step: optimizer steps done so far, over all attempts and loops.
        epoch: the epoch of the current `batches` loop, from 0.
        loops: how many `batches` and `steps` loops were begun.
    """

    __resilient_nocapture__ = True

    def __init__(self, boundary: Boundary, seed: int, inputs: Inputs) -> None:
        self._boundary = boundary
        self._inputs = inputs
        self._seed = seed
        self.loops = 0
        self.epoch = 0
        self.rank: int = boundary.group.rank
        self.world_size: int = boundary.group.world_size
        self.workers: int = boundary.group.workers
        self.device: torch.device = boundary.group.device

    def __repr__(self) -> str:
        return f"<run: rank {self.rank} of {self.world_size}, step {self.step}, {self.device}>"

    @property
    def step(self) -> int:
        """Optimizer steps done so far."""
        return self._boundary.step

    @property
    def should_stop(self) -> bool:
        """Whether all ranks are about to leave; `batches` and `steps` see to it by themselves."""
        return self._boundary.leaving

    def track(self, **objects: Any) -> None:
        """Keep the state of these objects in checkpoints; on resume, give it back here.

        Args:
            objects: modules, optimizers, LR schedulers, GradScalers, generators, tensors,
                arrays, lists, dicts, or anything with `state_dict` and `load_state_dict`. The
                names are those of the arrays in the checkpoint (`model/0.weight`).

        Raises:
            InvalidRequest: an object has no state, or a name is no name.
            CheckpointError: on resume, the stored state doesn't fit the object.
        """
        if not objects:
            raise InvalidRequest("run.track needs names: run.track(model=model, ...).")
        for name in objects:
            check_name(name, "tracked object's")
            if name.startswith("rank-") or name == WAITING:
                raise InvalidRequest(f"{name!r} is reserved: choose another name.")
        self._boundary.track(objects)

    def input(self, data: Any, name: str | None = None) -> Any:
        """Declare data that the cell reads, and return it.

        It is checked that it is there, and again every few seconds; checkpoints record its
        fingerprint, and a resumed job says if that has changed. Call it on every rank.

        Args:
            data: a path or URL, of a file or a folder; or an array or tensor.
            name: what it is called (default: as the file).

        Raises:
            InputLost: it isn't there, or can't be read.
            ConnectionError: what holds it can't be reached.
            InvalidRequest: it is nothing that can be looked at.
        """
        return self._inputs.declare(data, name)

    def batches(
        self,
        data: Any,
        batch_size: int | None = None,
        *,
        epochs: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> Iterator[Any]:
        """Loop over data; each turn is one step.

        Args:
            data: a map-style Dataset (or anything with a length and an index), a DataLoader, or
                an iterable of ready batches, which go to the ranks in turn.
            batch_size: samples in the *global* batch, divided over the ranks. The average of
                gradients is weighted by what each rank got, so it is the global mean. A job
                that scales its learning rate has this batch on its fewest workers, and a
                larger one on more.
            epochs: passes over the data.
            shuffle: a new order each epoch (and in each loop of the cell), from the job's seed;
                equal for any world size.
            drop_last: leave out the last batch of an epoch if it is smaller.

        Yields:
            This rank's part of each batch, as the dataset's collate function makes it.

        Raises:
            InvalidRequest: the arguments can't be right.
        """
        growth = self._boundary.growth
        grow = growth.batch if growth is not None else None
        size = None if batch_size is None else index(batch_size)  # of NumPy's numbers, plain ones
        plan = Plan(size, index(epochs), shuffle, drop_last, self._seed, grow)
        source = Source(data, plan, self.rank, self.world_size)
        return self._batches(source, data, plan)

    def _batches(self, source: Source, data: Any, plan: Plan) -> Iterator[Any]:
        loop, boundary = self._next_loop(), self._boundary
        source.reseed(loop)
        start = boundary.enter(loop)
        if self.rank == 0:  # which writes manifests
            boundary.origin.batches(loop, data, plan)
        if start is None:
            return
        left = source.left(start)
        if left is not None:
            boundary.total = boundary.step + left
        averaging = boundary.averaging
        try:
            for batch in source.batches(start):
                self.epoch = batch.after.epoch
                if boundary.step + 1 in boundary.skip:
                    boundary.leave_out(loop, batch.after)
                    continue
                if averaging is not None:
                    averaging.weight = batch.weight
                boundary.phases.enter(COMPUTE)
                yield batch.value
                boundary.step_done(loop, batch.after)
        except GeneratorExit:
            boundary.cut(loop)
            raise
        finally:
            if averaging is not None:
                averaging.weight = 1.0 / self.world_size
            boundary.exit()

    def steps(self, count: int) -> Iterator[int]:
        """Loop without data: yield 0 .. count - 1; each turn is one step."""
        if count < 0:
            raise InvalidRequest(f"run.steps can't make {count} steps.")
        return self._steps(index(count))

    def _steps(self, count: int) -> Iterator[int]:
        loop, boundary = self._next_loop(), self._boundary
        start = boundary.enter(loop)
        if self.rank == 0:
            boundary.origin.steps(loop, count)
        if start is None:
            return
        boundary.total = boundary.step + max(0, count - start.batch)
        try:
            for number in range(start.batch, count):
                if boundary.step + 1 in boundary.skip:
                    boundary.leave_out(loop, Place(0, number + 1))
                    continue
                boundary.phases.enter(COMPUTE)
                yield number
                boundary.step_done(loop, Place(0, number + 1))
        except GeneratorExit:
            boundary.cut(loop)
            raise
        finally:
            boundary.exit()

    def log(self, **metrics: Any) -> None:
        """Record metrics of this step: numbers, or tensors of one element.

        Shown are those of rank 0. A loss (whatever ends in `loss`) that is not finite ends the
        attempt, on any rank; how the run goes on is the option --on-nan.
        """
        self._boundary.log(metrics)

    def checkpoint(self, tag: str | None = None) -> None:
        """Take a checkpoint at the end of this step (outside a loop: now), and tag it.

        Call it on every rank.
        """
        if tag is not None:
            check_name(tag, "tag")
            if tag.isdigit():
                raise InvalidRequest(f"Tag {tag} would read as a step: give it a letter.")
        self._boundary.request_checkpoint(self.loops, tag)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self._boundary.group.barrier()

    def _next_loop(self) -> int:
        self.loops += 1
        return self.loops - 1
