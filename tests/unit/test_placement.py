"""`core.placement`: as few hosts as possible, evenly over them, and never too much."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.model import Resources, Share
from resilient_nb.core.placement import Room, per_rank, place, ranks_of
from resilient_nb.core.queue import ANYTHING, Gang, Host

GIB = 1 << 30
SLOT = Resources(cpus=4, memory=8 * GIB, gpus=1)

hosts = st.lists(
    st.builds(
        Host,
        id=st.integers(1, 9).map("h{}".format),
        slots=st.integers(0, 5),
        used=st.integers(0, 6),
        slot=st.sampled_from([Resources(), SLOT, Resources(cpus=2, memory=8 * GIB)]),
        closing=st.integers(0, 5).map(lambda n: n == 0),
    ),
    max_size=6,
    unique_by=lambda h: h.id,
)
needs = st.sampled_from(
    [Resources(), Resources(cpus=3), Resources(cpus=6, memory=GIB), Resources(gpus=1)]
)


def gang(workers: int = 1, needs: Resources = ANYTHING, most: int = 0) -> Gang:
    return Gang("a#1", "ada", "g", workers, 0.0, max_workers=most, needs=needs)


def room_for(host: Host, needs: Resources) -> int:
    per = per_rank(needs, host)
    return 0 if per is None else host.free // per


@pytest.mark.parametrize(
    ("needs", "slots", "count"),
    [
        (Resources(), 1, 1),
        (Resources(cpus=4), 1, 1),
        (Resources(cpus=4.5), 2, 2),
        (Resources(cpus=1, memory=20 * GIB), 3, 3),
        (Resources(gpus=2, memory=20 * GIB), 3, 3),
        (Resources(gpus=4), 3, None),  # more than the host has in all
    ],
)
def test_a_rank_takes_as_many_slots_as_its_scarcest_resource(
    needs: Resources, slots: int, count: int | None
) -> None:
    assert per_rank(needs, Host("a", slots, slot=SLOT)) == count


def test_what_a_slot_lacks_no_number_of_slots_makes_up_for() -> None:
    assert per_rank(Resources(gpus=1), Host("a", 8, slot=Resources(cpus=4))) is None


@pytest.mark.parametrize(
    ("workers", "there", "shares"),
    [
        (2, [Host("a", 4), Host("b", 2)], (Share("b", 0, 2, 2),)),  # best fit
        (2, [Host("b", 2), Host("a", 2)], (Share("a", 0, 2, 2),)),  # ties by name
        (3, [Host("a", 1), Host("b", 2)], (Share("b", 0, 2, 2), Share("a", 2, 1, 1))),
        (3, [Host("b", 2), Host("a", 2)], (Share("a", 0, 2, 2), Share("b", 2, 1, 1))),
        (6, [Host("b", 4), Host("a", 4), Host("c", 1)], (Share("a", 0, 3, 3), Share("b", 3, 3, 3))),
        (3, [Host("a", 4, 3), Host("b", 2, 1)], None),
        (1, [Host("a", 1, 3), Host("b", 1)], (Share("b", 0, 1, 1),)),  # a holds too much already
        (1, [Host("a", 1, closing=True), Host("b", 3)], (Share("b", 0, 1, 1),)),
        (1, [], None),
    ],
)
def test_place(workers: int, there: list[Host], shares: tuple[Share, ...] | None) -> None:
    assert place(gang(), workers, workers, there) == shares


def test_ranks_of_an_elastic_gang_are_shared_out_over_its_workers() -> None:
    elastic = gang(2, most=8)
    assert ranks_of(elastic, 3) == 8
    there = [Host("a", 2), Host("b", 1)]
    assert place(elastic, 3, 8, there) == (Share("a", 0, 5, 2), Share("b", 5, 3, 1))


def test_a_rank_that_needs_more_takes_several_slots_of_one_host() -> None:
    big = gang(3, Resources(cpus=8))
    there = [Host("a", 5, slot=SLOT), Host("b", 3, slot=SLOT), Host("c", 1, slot=SLOT)]
    assert place(big, 3, 3, there) == (Share("a", 0, 2, 4), Share("b", 2, 1, 2))
    assert place(big, 4, 4, there) is None


@settings(deadline=None, max_examples=200)
@given(hosts, needs, st.integers(1, 9), st.integers(0, 5))
def test_whole_within_the_free_slots_on_the_fewest_hosts(
    there: list[Host], needs: Resources, workers: int, more: int
) -> None:
    ranks = workers + more
    placement = place(gang(workers, needs), workers, ranks, there)
    rooms = {h.id: room_for(h, needs) for h in there}
    if placement is None:
        assert sum(rooms.values()) < workers
        return
    by_id = {h.id: h for h in there}
    assert [r for s in placement for r in range(s.first, s.first + s.count)] == list(range(ranks))
    assert len({s.host for s in placement}) == len(placement)
    held = []
    for share in placement:
        per = per_rank(needs, by_id[share.host])
        assert per is not None
        assert share.leased % per == 0
        assert 0 < share.leased <= by_id[share.host].free
        held.append(share.leased // per)
        # Evenly: no worker has two ranks more than another.
        assert abs(share.count / held[-1] - ranks / workers) < 1
    assert sum(held) == workers
    fewer = combinations(rooms.values(), len(placement) - 1)
    assert all(sum(some) < workers for some in fewer)


@settings(deadline=None, max_examples=100)
@given(hosts, needs, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_order_of_hosts_doesnt_matter(
    there: list[Host], needs: Resources, workers: int, rng: object
) -> None:
    shuffled = list(there)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    fixed = gang(workers, needs)
    assert place(fixed, workers, workers, there) == place(fixed, workers, workers, shuffled)


@settings(deadline=None, max_examples=100)
@given(hosts, st.lists(st.tuples(st.integers(1, 9), st.integers(-4, 4)), max_size=8), needs)
def test_a_room_that_was_changed_is_like_a_new_one(
    there: list[Host], changes: list[tuple[int, int]], needs: Resources
) -> None:
    room = Room(there)
    used = {h.id: h.used for h in there}
    for number, slots in changes:
        host = f"h{number}"
        room.copy().add(host, 3)  # a copy's changes are its own
        room.add(host, slots)
        if host in used:
            used[host] -= slots
    fresh = Room(Host(h.id, h.slots, used[h.id], h.slot, h.closing) for h in there)
    assert room.total == fresh.total
    assert room.workers(needs) == fresh.workers(needs)
    for workers in range(1, 8):
        assert room.place(needs, workers, workers) == fresh.place(needs, workers, workers)
