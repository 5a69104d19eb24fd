"""Slots and GPUs of gangs side by side, and of ranks that share a worker."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.rank.group import gpu_of
from resilient_nb.supervisor.seats import Seat, first_fit

few = st.integers(1, 8)


@given(st.lists(few, max_size=6), few, st.data())
def test_gangs_side_by_side_have_slots_of_their_own(
    gangs: list[int], wanted: int, data: st.DataObject
) -> None:
    seats: list[Seat] = []
    for slots in gangs:
        seats.append(Seat(0, 1, slots, first_fit(seats, slots)))
    left = data.draw(st.lists(st.sampled_from(seats), unique=True) if seats else st.just([]))
    first = first_fit(left, wanted)
    for seat in left:
        assert first + wanted <= seat.first_slot or seat.first_slot + seat.slots <= first
    assert first <= sum(seat.first_slot + seat.slots for seat in left)
    assert first_fit([], wanted) == 0


def seats(ranks: int, slots: int, first: int = 0) -> list[Seat]:
    return [Seat(rank, ranks, slots, first) for rank in range(ranks)]


@given(few, few, st.integers(0, 20), st.integers(0, 8))
def test_ranks_with_a_gpu_of_their_own_never_share(
    ranks: int, more: int, first: int, gpus: int
) -> None:
    found = [gpu_of(s, gpus, shared=False) for s in seats(ranks, ranks + more - 1, first)]
    if gpus >= ranks:
        assert len(set(found)) == ranks
        assert set(found) <= set(range(gpus))
    else:
        assert found == [None] * ranks  # all or none: they reduce together


@given(few, few, st.integers(0, 20), st.integers(1, 8))
def test_ranks_that_share_are_spread_evenly_over_the_gangs_gpus(
    ranks: int, slots: int, first: int, gpus: int
) -> None:
    found = [gpu_of(s, gpus, shared=True) for s in seats(ranks, slots, first)]
    counts = Counter(found)
    assert None not in counts
    assert len(counts) == min(ranks, slots, gpus)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_neighbours_share_a_gpu() -> None:
    assert [gpu_of(s, 8, shared=True) for s in seats(4, 2)] == [0, 0, 1, 1]
    assert [gpu_of(s, 8, shared=True) for s in seats(4, 2, first=2)] == [2, 2, 3, 3]
    assert [gpu_of(s, 0, shared=True) for s in seats(4, 2)] == [None] * 4
    assert [gpu_of(s, 8, shared=False) for s in seats(2, 4)] == [0, 2]  # two slots a rank
