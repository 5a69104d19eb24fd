"""Which samples each rank sees at each step: a pure function of seed, epoch and position.

The batch is global: `batch_size` samples in one shuffled order, whatever the number of ranks;
each rank takes a contiguous slice of it. So the same batches come in the same order for any
world size, and a run can go on in the middle of an epoch: with batches of another size too,
since the place in an epoch is kept in samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.randomness import random_state, set_random_state


@dataclass(frozen=True)
class Place:
    """A position in a loop: `batch` batches of epoch `epoch` are done.

    `samples` is how many samples these were (of an iterable: its items). It is None where
    there are none to count, and in older checkpoints, whose batches were all of one size.
    """

    epoch: int = 0
    batch: int = 0
    samples: int | None = None


@dataclass(frozen=True)
class Batch:
    """What a step gets, its weight in the average over ranks, and the place after it."""

    value: Any
    weight: float
    after: Place


@dataclass(frozen=True)
class Plan:
    """How `run.batches` was called. `grow` gives the size of a global batch of this many."""

    batch_size: int | None
    epochs: int
    shuffle: bool
    drop_last: bool
    seed: int
    grow: Callable[[int], int] | None = None


class Source:
    """Batches of one `run.batches` call for one rank.

    Raises:
        InvalidRequest: the arguments can't be right; said before the first batch.
    """

    def __init__(self, data: Any, plan: Plan, rank: int, world_size: int) -> None:
        self._rank, self._world = rank, world_size
        self._plan = plan
        self._data = data
        if plan.epochs < 0:
            raise InvalidRequest(f"epochs can't be {plan.epochs}.")
        if isinstance(data, DataLoader):
            self._check_loader(plan)
        if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
            self._of_loader(data)
        elif _has_index(data):
            if plan.batch_size is None:
                raise InvalidRequest("run.batches(dataset, ...) needs batch_size=.")
            self._dataset = data
            self._loader_options: dict[str, Any] = {}
            self._check(len(data), plan.batch_size)
        else:
            self._of_iterable(data)

    def reseed(self, loop: int) -> None:
        """Give each loop of a cell an order of its own; the first has the job's seed."""
        if loop:
            self._plan = replace(self._plan, seed=_mix(self._plan.seed, loop))

    @property
    def length(self) -> int | None:
        """Batches in one epoch, None if nobody knows."""
        return self.left(Place(self._plan.epochs - 1))

    def left(self, start: Place) -> int | None:
        """Batches from a place to the end of the last epoch, None if nobody knows."""
        try:
            if self._batch_sampler is not None:
                whole = len(self._batch_sampler)
                here = max(0, whole - start.batch)
            else:
                samples = len(self._samples)
                whole = self._batches_in(samples)
                here = self._batches_in(max(0, samples - self._done(start)))
        except TypeError:
            return None  # a generator, or a DataLoader over a stream
        return here + max(0, self._plan.epochs - 1 - start.epoch) * whole

    def batches(self, start: Place) -> Iterator[Batch]:
        """Yield this rank's batches from `start` on."""
        for epoch in range(start.epoch, self._plan.epochs):
            place = start if epoch == start.epoch else Place(epoch)
            place = replace(place, samples=self._done(place))
            for value, weight, count in self._epoch(place):
                place = Place(epoch, place.batch + 1, (place.samples or 0) + count)
                yield Batch(value, weight, place)

    def _done(self, place: Place) -> int:
        """Return how many of the epoch's samples were seen before a place."""
        return place.batch * self._size if place.samples is None else place.samples

    def _batches_in(self, samples: int) -> int:
        whole, rest = divmod(samples, self._size)
        return whole + bool(rest and not self._drop_last)

    # --- where indices come from ----------------------------------------------------------

    _samples: Any = None  # what one epoch goes through: the dataset, a sampler, or an iterable
    _batch_sampler: BatchSampler | None = None  # makes batches that are no size of ours
    _dataset: Any = None
    _size: int = 1
    _drop_last = False
    _shuffle = False

    def _check(self, length: int, size: int) -> None:
        grown = self._grown(size)
        if grown < self._world:
            raise InvalidRequest(
                f"batch_size={size} can't be divided over {self._world} workers: it is the global "
                "batch, shared by all ranks. Raise it, or lower --workers."
            )
        if length == 0:
            raise InvalidRequest("The dataset is empty.")
        self._samples, self._size, self._drop_last = self._dataset, grown, self._plan.drop_last
        self._shuffle = self._plan.shuffle

    def _grown(self, size: int) -> int:
        return size if self._plan.grow is None else self._plan.grow(size)

    @staticmethod
    def _check_loader(plan: Plan) -> None:
        if plan.batch_size is not None or plan.shuffle or plan.drop_last:
            raise InvalidRequest(
                "The DataLoader says batch_size, shuffle and drop_last already: set them there, or "
                "give run.batches its dataset."
            )

    def _of_loader(self, loader: DataLoader[Any]) -> None:
        """Take a DataLoader's settings; its batches become the global batches."""
        self._dataset = loader.dataset
        self._loader_options = {
            "collate_fn": loader.collate_fn,
            "num_workers": loader.num_workers,
            "pin_memory": loader.pin_memory,
            "worker_init_fn": loader.worker_init_fn,
        }
        if loader.batch_sampler is None:
            raise InvalidRequest("A DataLoader without batches (batch_size=None) can't be divided.")
        if loader.batch_size is not None and _is_plain(loader.sampler):
            self._check(len(loader.dataset), loader.batch_size)  # type: ignore[arg-type]
            self._shuffle = type(loader.sampler) is RandomSampler
            self._drop_last = loader.drop_last
        elif type(loader.batch_sampler) is BatchSampler:
            self._samples = loader.batch_sampler.sampler
            self._size = self._grown(loader.batch_sampler.batch_size)
            self._drop_last = loader.batch_sampler.drop_last
        elif self._plan.grow is not None:
            raise InvalidRequest(
                "--scale can't enlarge the batches of a batch_sampler: give the DataLoader "
                "batch_size=, or keep the batch with an elastic job without --scale."
            )
        else:
            self._batch_sampler = loader.batch_sampler  # type: ignore[assignment]

    def _of_iterable(self, data: Any) -> None:
        if not isinstance(data, Iterable):
            raise InvalidRequest(
                f"run.batches takes a Dataset, a DataLoader or an iterable of batches, not a "
                f"{type(data).__name__}."
            )
        if self._plan.batch_size is not None or self._plan.shuffle:
            raise InvalidRequest(
                "batch_size and shuffle need a dataset with a length and an index; an iterable "
                "gives its own batches, one to each rank in turn."
            )
        if isinstance(data, Iterator) and self._plan.epochs > 1:
            raise InvalidRequest("An iterator can be read only once: give a list or a Dataset.")
        self._samples, self._size = data, self._world

    def _epoch(self, start: Place) -> Iterator[tuple[Any, float, int]]:
        """Yield values, weights, and how many samples each global batch has."""
        if self._dataset is None:
            return self._taken_in_turn(self._done(start))
        slices = [
            (*_slice(indices, self._rank, self._world), len(indices))
            for indices in self._index_batches(start)
        ]
        if (
            self._samples is self._dataset
            and type(self._dataset) is TensorDataset
            and (
                self._loader_options.get("num_workers", 0) == 0
                and self._loader_options.get("collate_fn", _default_collate) is _default_collate
            )
        ):
            return self._from_tensors(slices)
        return self._loaded(start, slices)

    def _index_batches(self, start: Place) -> Iterator[Sequence[int]]:
        """Yield each global batch's indices. The order never depends on the global RNG."""
        if self._batch_sampler is not None:
            yield from self._drawn(self._batch_sampler, start.epoch)[start.batch :]
            return
        order = self._order(start.epoch)
        for at in range(self._done(start), len(order), self._size):
            batch = order[at : at + self._size]
            if len(batch) == self._size or not self._drop_last:
                yield batch

    def _order(self, epoch: int) -> list[int]:
        """Return an epoch's samples in order."""
        if self._samples is not self._dataset:
            return self._drawn(self._samples, epoch)
        length = len(self._dataset)
        if not self._shuffle:
            return list(range(length))
        generator = torch.Generator().manual_seed(_mix(self._plan.seed, epoch))
        order: list[int] = torch.randperm(length, generator=generator).tolist()
        return order

    def _drawn(self, sampler: Iterable[Any], epoch: int) -> list[Any]:
        """Return what a sampler gives in an epoch."""
        before = random_state()
        torch.manual_seed(_mix(self._plan.seed, epoch))
        drawn = list(sampler)
        set_random_state(before)
        return drawn

    # --- from indices to values -----------------------------------------------------------

    def _from_tensors(
        self, slices: list[tuple[Sequence[int], float, int]]
    ) -> Iterator[tuple[Any, float, int]]:
        """Index whole tensors at once: the same values as fetching and collating one by one."""
        tensors = self._dataset.tensors
        for indices, weight, count in slices:
            where = torch.tensor(indices)
            yield [tensor[where] for tensor in tensors], weight, count

    def _loaded(
        self, start: Place, slices: list[tuple[Sequence[int], float, int]]
    ) -> Iterator[tuple[Any, float, int]]:
        options = dict(self._loader_options)
        dataset: Any = self._dataset
        batches: list[Any] = [list(indices) for indices, *_ in slices]
        if options.get("num_workers", 0) > 0:
            # Loading processes have random numbers of their own: tie them to the batch, so
            # that they don't depend on where the run was resumed.
            dataset = _Seeded(dataset, _mix(self._plan.seed + self._rank, start.epoch))
            batches = [(start.batch + n, indices) for n, indices in enumerate(batches)]
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            # Its own generator: making an iterator must not draw from the global one.
            generator=torch.Generator(),
            **options,
        )
        for value, (_, weight, count) in zip(loader, slices, strict=True):
            yield value, weight, count

    def _taken_in_turn(self, skip: int) -> Iterator[tuple[Any, float, int]]:
        """Give the iterable's items to the ranks in turn, from item `skip` on."""
        before = random_state()
        items = iter(self._data)
        for _ in range(skip):
            next(items, None)
        if skip:
            set_random_state(before)  # what was skipped had drawn its numbers before
        while group := list(islice(items, self._world)):
            if self._rank < len(group):
                yield group[self._rank], 1.0 / len(group), len(group)
            else:  # nothing left for this rank: it takes part without weight
                yield group[0], 0.0, len(group)


class _Seeded(Dataset[Any]):
    """A dataset whose random numbers depend on the batch alone."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitems__(self, batch: tuple[int, list[int]]) -> list[Any]:
        import random

        import numpy as np

        number, indices = batch
        seed = _mix(self._seed, number)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        if hasattr(self._dataset, "__getitems__"):
            items: list[Any] = self._dataset.__getitems__(indices)
            return items
        return [self._dataset[i] for i in indices]


_default_collate = torch.utils.data.default_collate


def _has_index(data: Any) -> bool:
    return (
        not isinstance(data, IterableDataset)
        and hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and (isinstance(data, Dataset) or not isinstance(data, (list, tuple, dict, str, bytes)))
    )


def _is_plain(sampler: Any) -> bool:
    """Whether a sampler is all samples once, in order or shuffled: then the order is ours."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) is SequentialSampler


def _slice(indices: Sequence[int], rank: int, world: int) -> tuple[Sequence[int], float]:
    """Return a rank's slice of a global batch and its weight in the average.

    Slices differ by at most one sample. With fewer samples than ranks, a rank without any
    takes the first with weight 0, so that it still takes part in every collective.
    """
    size = len(indices)
    begin, end = rank * size // world, (rank + 1) * size // world
    if begin == end:
        return indices[:1], 0.0
    return indices[begin:end], (end - begin) / size


def _mix(seed: int, number: int) -> int:
    """Return a seed for the n-th of a series (a splitmix64 step)."""
    z = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) % 2**63
