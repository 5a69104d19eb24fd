"""`core.stragglers`: one slow rank is found, an even gang never has any."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.stragglers import FACTOR, SECONDS, STEPS, WINDOW, Race, Straggler


def run(race: Race, takes: list[float], steps: int, at_once: int = 5) -> list[Straggler]:
    """Let each rank make steps that take it so long; return what is found on the way."""
    found = []
    for _ in range(-(-steps // at_once)):
        for rank, each in enumerate(takes):
            straggler = race.add(rank, at_once, at_once * each)
            found += [straggler] if straggler is not None else []
    return found


@given(
    st.lists(st.floats(0.5, 0.99), min_size=2, max_size=8),
    st.floats(0.001, 100),
    st.integers(1, 40),
)
def test_an_even_gang_has_none(parts: list[float], second: float, at_once: int) -> None:
    assert not run(Race(len(parts)), [second * part for part in parts], 400, at_once)


@given(
    st.integers(2, 8),
    st.floats(0.05, 10),
    st.floats(2.2, 50),
    st.integers(1, 12),
    st.data(),
)
def test_a_slow_rank_is_found_after_some_steps_and_seconds(
    ranks: int, usual: float, times: float, at_once: int, data: st.DataObject
) -> None:
    slow = data.draw(st.integers(0, ranks - 1))
    takes = [usual * times if rank == slow else usual for rank in range(ranks)]
    race, enough = Race(ranks), max(STEPS, SECONDS / (usual * times))
    assert not run(race, takes, int(min(STEPS, enough)) - at_once - WINDOW, at_once)
    found = run(race, takes, int(enough) + 3 * (at_once + WINDOW), at_once)
    assert {f.rank for f in found} == {slow}
    assert found[0].takes > FACTOR * found[0].usual


def test_a_rank_that_was_slow_for_a_while_is_forgiven() -> None:
    race = Race(3)
    for _ in range(10):
        assert not run(race, [0.1, 0.1, 1.0], STEPS - WINDOW)
        assert not run(race, [0.1, 0.1, 0.1], WINDOW)


def test_where_most_are_slow_it_is_the_usual() -> None:
    assert not run(Race(4), [0.1, 1.0, 1.0, 1.0], 200)


def test_tiny_steps_are_not_worth_a_restart() -> None:
    assert not run(Race(2), [0.0001, 0.001], 100_000, 1000)


def test_all_ranks_are_waited_for() -> None:
    race = Race(2)
    assert all(race.add(0, 5, 5.0) is None for _ in range(100))
