"""`rank.batches`: the same global batches in the same order, for any number of ranks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.batches import Batch, Place, Plan, Source
from resilient_nb.rank.scaling import global_batch

worlds = st.integers(1, 5)


class Squares(Dataset[int]):
    """A map-style dataset that isn't a TensorDataset: goes through a DataLoader."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


class Noisy(Squares):
    """Adds random numbers from all three generators, as augmentation does."""

    def __getitem__(self, index: int) -> Any:
        return index, random.random(), np.random.random(), torch.rand(()).item()


class Stream(IterableDataset[torch.Tensor]):
    """An iterable dataset without a length."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(7))


def tensors(length: int) -> TensorDataset:
    return TensorDataset(torch.arange(length))


def plan(batch_size: int | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {"epochs": 1, "shuffle": False, "drop_last": False, "seed": 0}
    return Plan(batch_size, **{**values, **changes})


def run(data: Any, how: Plan, world: int, start: Place | None = None) -> list[list[Batch]]:
    """Return each rank's batches."""
    return [list(Source(data, how, r, world).batches(start or Place())) for r in range(world)]


def numbers(value: Any) -> list[int]:
    """Return the sample numbers of one rank's batch."""
    while isinstance(value, (list, tuple)):
        value = value[0]
    return [int(number) for number in value]


def global_batches(ranks: list[list[Batch]]) -> list[list[int]]:
    """Join the ranks' slices in rank order; a rank of weight 0 takes part without samples."""
    assert len({len(batches) for batches in ranks}) == 1
    return [
        [n for batch in step if batch.weight for n in numbers(batch.value)]
        for step in zip(*ranks, strict=True)
    ]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


# --- laws ---


@settings(deadline=None, max_examples=150)
@given(worlds, st.integers(1, 40), st.integers(0, 12), st.booleans(), st.booleans(),
       st.integers(0, 2**40), st.integers(0, 3))  # fmt: skip
def test_slices_are_the_global_batch_in_order_for_any_world_size(
    world: int, length: int, extra: int, shuffle: bool, drop_last: bool, seed: int, epochs: int
) -> None:
    size = world + extra
    how = plan(size, shuffle=shuffle, drop_last=drop_last, seed=seed, epochs=epochs)
    [alone] = run(tensors(length), how, 1)
    expected = [numbers(batch.value) for batch in alone]
    ranks = run(tensors(length), how, world)
    assert global_batches(ranks) == expected
    for step in zip(*ranks, strict=True):
        assert abs(sum(batch.weight for batch in step) - 1.0) < 1e-12
        sizes = [len(numbers(batch.value)) for batch in step]
        assert max(sizes) - min(sizes) <= 1
        assert len({batch.after for batch in step}) == 1
        for batch in step:
            assert numbers(batch.value)  # nobody comes to a collective without data
    per_epoch = length // size if drop_last else -(-length // size)
    assert len(expected) == epochs * per_epoch
    assert Source(tensors(length), how, 0, world).length == per_epoch
    for epoch in range(epochs):
        seen = [n for batch in expected[epoch * per_epoch :][:per_epoch] for n in batch]
        assert len(set(seen)) == len(seen) == (per_epoch * size if drop_last else length)
        if not shuffle:
            assert seen == sorted(seen)


@settings(deadline=None, max_examples=100)
@given(worlds, st.integers(1, 30), st.integers(0, 5), st.booleans(), st.data())
def test_a_resume_from_any_place_gives_the_same_tail(
    world: int, length: int, extra: int, shuffle: bool, data: st.DataObject
) -> None:
    how = plan(world + extra, shuffle=shuffle, epochs=3, seed=5)
    whole = run(tensors(length), how, world)
    done = data.draw(st.integers(0, len(whole[0])))
    place = whole[0][done - 1].after if done else Place()
    again = run(tensors(length), how, world, place)
    assert global_batches(again) == global_batches(whole)[done:]
    assert [[b.after for b in r] for r in again] == [[b.after for b in r[done:]] for r in whole]


KINDS = {
    "tensors": tensors,
    "a dataset": lambda length: Squares(length),
    "a loader's sampler": lambda length: DataLoader(
        Squares(length), batch_size=6, sampler=list(range(length - 1, -1, -1))
    ),
    "a loader": lambda length: DataLoader(Squares(length), batch_size=6, shuffle=True),
    "an iterable": lambda length: [torch.tensor([n]) for n in range(length)],
}


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(KINDS)), st.integers(1, 60), st.integers(1, 3), st.data())
def test_each_sample_is_seen_once_an_epoch_whatever_sizes_a_growing_job_has(
    kind: str, length: int, base: int, data: st.DataObject
) -> None:
    """In random turns of random length, each with other workers and so another batch."""
    epochs, size = 2, 6
    seen: list[list[int]] = [[] for _ in range(epochs)]
    place, over, steps = Place(), False, 0
    while not over:
        workers = data.draw(st.integers(base, base + 4), label="workers")
        turns = data.draw(st.integers(1, 6), label="turns")

        def grow(batch: int, workers: int = workers) -> int:
            return global_batch(batch, workers, base)

        of_its_own = kind.startswith("a loader") or kind == "an iterable"
        how = plan(None if of_its_own else size, epochs=epochs, seed=3, grow=grow,
                   shuffle=not of_its_own)  # fmt: skip
        sources = [Source(KINDS[kind](length), how, rank, workers) for rank in range(workers)]
        left = sources[0].left(place)
        ranks = [list(source.batches(place)) for source in sources]
        assert left == len(ranks[0])
        for batches in zip(*[batches[:turns] for batches in ranks], strict=True):
            shown = [n for batch in batches if batch.weight for n in numbers(batch.value)]
            expected = workers if kind == "an iterable" else grow(size)
            done = len(seen[batches[0].after.epoch])
            assert len(shown) == min(expected, length - done)
            seen[batches[0].after.epoch] += shown
            place, steps = batches[0].after, steps + 1
        over = turns >= len(ranks[0])
    assert [sorted(epoch) for epoch in seen] == [list(range(length))] * epochs


@settings(deadline=None, max_examples=60)
@given(worlds, st.integers(1, 40), st.integers(0, 6), st.booleans(), st.integers(0, 30))
def test_a_place_without_samples_is_that_of_an_older_checkpoint(
    world: int, length: int, extra: int, drop_last: bool, done: int
) -> None:
    how = plan(world + extra, epochs=2, shuffle=True, drop_last=drop_last)
    source = Source(tensors(length), how, 0, world)
    places = [batch.after for batch in source.batches(Place())]
    for place in places[done : done + 1]:
        assert place.samples is not None
        old = Place(place.epoch, place.batch)
        tails = [[numbers(b.value) for b in source.batches(p)] for p in (place, old)]
        assert tails[0] == tails[1]
        if not drop_last:
            assert source.left(place) == len(tails[0])
        assert source.left(place) == source.left(old)


def test_a_batch_samplers_batches_cant_grow() -> None:
    loader = DataLoader(Squares(6), batch_sampler=[[0, 5], [1, 2, 3], [4]])
    with pytest.raises(InvalidRequest, match="--scale can't enlarge"):
        Source(loader, plan(grow=lambda size: 2 * size), 0, 1)


def test_a_resume_may_have_another_world_size() -> None:
    how = plan(6, shuffle=True, epochs=2)
    expected = global_batches(run(tensors(25), how, 1))
    place = run(tensors(25), how, 4)[0][5].after
    assert global_batches(run(tensors(25), how, 3, place)) == expected[6:]


@pytest.mark.parametrize("make", [tensors, Squares])
def test_shuffling_neither_depends_on_nor_touches_the_global_generators(make: Any) -> None:
    how = plan(4, shuffle=True, epochs=2)

    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = state()
        found.append(global_batches(run(make(21), how, 2)))
        assert state() == before
    assert found[0] == found[1]


def test_epochs_and_seeds_shuffle_differently() -> None:
    def order(seed: int) -> list[list[int]]:
        batches = global_batches(run(tensors(50), plan(10, shuffle=True, epochs=2, seed=seed), 1))
        return [flat(batches[:5]), flat(batches[5:])]

    first, second = order(0)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))
    assert order(1)[0] != first
    assert order(0) == [first, second]
    # Neighbouring (seed, epoch) pairs must not share an order, as seed + epoch would make them.
    assert order(1)[0] != second


@settings(deadline=None, max_examples=20)
@given(worlds, st.integers(1, 20), st.integers(0, 4), st.booleans())
def test_any_dataset_gives_what_a_tensor_dataset_gives(
    world: int, length: int, extra: int, shuffle: bool
) -> None:
    how = plan(world + extra, shuffle=shuffle, epochs=2)
    expected = global_batches(run(tensors(length), how, world))
    assert global_batches(run(Squares(length), how, world)) == expected


def test_values_are_what_collating_one_by_one_gives() -> None:
    data = TensorDataset(torch.randn(10, 3), torch.arange(10))
    for batch in Source(data, plan(4, shuffle=True), 0, 1).batches(Place()):
        chosen = torch.utils.data.default_collate([data[n] for n in batch.value[1].tolist()])
        assert all(torch.equal(a, b) for a, b in zip(batch.value, chosen, strict=True))


def test_arrays_and_tensors_are_datasets_of_their_rows() -> None:
    for data in (np.arange(9), torch.arange(9)):
        assert global_batches(run(data, plan(4), 2)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


# --- a DataLoader's settings ---


def loader_batches(loader: DataLoader[Any], world: int, **changes: Any) -> list[list[int]]:
    return global_batches(run(loader, plan(None, **changes), world))


@pytest.mark.parametrize("world", [1, 3])
def test_a_loader_gives_its_batches_divided(world: int) -> None:
    loader = DataLoader(Squares(10), batch_size=4)
    assert loader_batches(loader, world) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert Source(loader, plan(), 0, world).length == 3
    last = DataLoader(Squares(10), batch_size=4, drop_last=True)
    assert len(loader_batches(last, world)) == 2


def test_a_shuffling_loader_is_shuffled_by_the_jobs_seed() -> None:
    loader = DataLoader(Squares(40), batch_size=8, shuffle=True)
    first = loader_batches(loader, 2, seed=3)
    torch.manual_seed(99)
    assert loader_batches(loader, 1, seed=3) == first
    assert loader_batches(loader, 1, seed=4) != first
    assert sorted(flat(first)) == list(range(40))
    assert flat(first) != list(range(40))


class Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(9, -1, -1))

    def __len__(self) -> int:
        return 10


def test_a_custom_samplers_order_is_kept() -> None:
    loader = DataLoader(Squares(10), batch_size=4, sampler=Backwards())
    assert loader_batches(loader, 2) == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]
    assert Source(loader, plan(), 0, 2).length == 3


def test_a_random_sampler_draws_by_seed_and_epoch_and_resumes() -> None:
    sampler = WeightedRandomSampler([1.0] * 10, num_samples=20)
    loader = DataLoader(Squares(10), batch_size=5, sampler=sampler)
    before = torch.get_rng_state()
    whole = run(loader, plan(epochs=2), 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    tail = run(loader, plan(epochs=2), 2, whole[0][4].after)
    assert global_batches(tail) == global_batches(whole)[5:]
    assert global_batches(whole)[:4] != global_batches(whole)[4:]


def test_a_random_sampler_with_replacement_keeps_its_number_of_samples() -> None:
    # It has the type of a plain shuffle, but not its settings.
    sampler = RandomSampler(Squares(10), replacement=True, num_samples=30)
    loader = DataLoader(Squares(10), batch_size=5, sampler=sampler)
    assert len(flat(loader_batches(loader, 2))) == 30


def test_a_batch_samplers_batches_are_the_global_batches() -> None:
    loader = DataLoader(Squares(6), batch_sampler=[[0, 5], [1, 2, 3], [4]])
    assert loader_batches(loader, 2) == [[0, 5], [1, 2, 3], [4]]


@pytest.mark.parametrize("changes", [{"batch_size": 7}, {"shuffle": True}, {"drop_last": True}])
def test_what_a_loader_already_decides_cant_be_given_again(changes: dict[str, Any]) -> None:
    """It would be ignored, and nobody would notice."""
    loader = DataLoader(Squares(10), batch_size=4)
    with pytest.raises(InvalidRequest, match="DataLoader"):
        Source(loader, plan(**{"batch_size": None, **changes}), 0, 1)


def test_a_loaders_collate_function_is_used() -> None:
    loader = DataLoader(Squares(4), batch_size=4, collate_fn=lambda items: [sum(items)])
    [batch] = Source(loader, plan(), 0, 1).batches(Place())
    assert batch.value == [6]


def test_loading_processes_random_numbers_depend_on_the_batch_alone() -> None:
    loader = DataLoader(Noisy(12), batch_size=4, num_workers=2)

    def drawn(start: Place) -> list[Any]:
        source = Source(loader, plan(epochs=2), 0, 2)
        return [[t.tolist() for t in batch.value] for batch in source.batches(start)]

    torch.manual_seed(1)
    whole = drawn(Place())
    torch.manual_seed(2)
    assert drawn(Place(1, 1)) == whole[4:]
    values = [value for batch in whole for part in batch[1:] for value in part]
    assert len(set(values)) == len(values)


# --- iterables ---


def test_an_iterable_gives_its_items_in_turn() -> None:
    items = [torch.tensor([n]) for n in range(7)]
    ranks = run(items, plan(), 3)
    taken = [[(numbers(b.value)[0], round(b.weight, 3)) for b in batches] for batches in ranks]
    assert taken == [
        [(0, 0.333), (3, 0.333), (6, 1.0)],
        [(1, 0.333), (4, 0.333), (6, 0.0)],
        [(2, 0.333), (5, 0.333), (6, 0.0)],
    ]
    assert Source(items, plan(), 0, 3).length == 3


def test_an_iterable_resumes_where_it_was() -> None:
    items = [torch.tensor([n]) for n in range(7)]
    whole = run(items, plan(epochs=2), 2)
    assert global_batches(run(items, plan(epochs=2), 2, Place(1, 2))) == global_batches(whole)[6:]


def test_an_iterable_dataset_behind_a_loader_has_no_length_and_works() -> None:
    loader = DataLoader(Stream(), batch_size=2)
    source = Source(loader, plan(), 0, 1)
    assert source.length is None
    assert [numbers(b.value) for b in source.batches(Place())] == [[0, 1], [2, 3], [4, 5], [6]]


def test_a_generator_is_read_once() -> None:
    items = (torch.tensor([n]) for n in range(3))
    [batches] = run(items, plan(), 1)
    assert len(batches) == 3
    assert Source(iter([1]), plan(), 0, 1).length is None


# --- errors, said before the first batch ---


@pytest.mark.parametrize(("data", "how", "world", "words"), [
    (tensors(9), plan(), 1, "needs batch_size="),
    (tensors(9), plan(2), 3, "batch_size=2 can't be divided over 3 workers"),
    (tensors(9), plan(0), 1, "batch_size=0"),
    (tensors(0), plan(2), 1, "dataset is empty"),
    (tensors(9), plan(2, epochs=-1), 1, "epochs can't be -1"),
    (5, plan(2), 1, "not a int"),
    (iter([1]), plan(epochs=2), 1, "only once"),
    (iter([1]), plan(2), 1, "need a dataset with a length"),
    (iter([1]), plan(shuffle=True), 1, "need a dataset with a length"),
    (DataLoader(Squares(3), batch_size=None), plan(), 1, "batch_size=None"),
    (DataLoader(Squares(9), batch_size=2), plan(), 3, "can't be divided over 3 workers"),
])  # fmt: skip
def test_what_cant_be_right_is_said_first(data: Any, how: Plan, world: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Source(data, how, 0, world)
