"""`core.division`: parts as torch makes them, and the grids that they are chunks of."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.division import chunk_of, part

LENGTHS = st.integers(0, 40)
WAYS = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def parts(length: int, ways: tuple[int, ...]) -> list[tuple[int, int]]:
    """Every rank's start and size, in the order of coordinates."""
    return [part(length, ways, at) for at in product(*map(range, ways))]


@given(LENGTHS, st.integers(1, 9))
def test_parts_are_those_of_chunk(length: int, ways: int) -> None:
    chunks = [c.tolist() for c in torch.arange(length).chunk(ways)] if length else []
    found = [list(range(s, s + n)) for s, n in parts(length, (ways,))]
    assert found == [*chunks, *[[]] * (ways - len(chunks))]


@given(LENGTHS, WAYS)
def test_parts_are_all_of_it_once(length: int, ways: tuple[int, ...]) -> None:
    held = [n for start, size in parts(length, ways) for n in range(start, start + size)]
    assert held == list(range(length))


@given(LENGTHS, WAYS)
def test_a_grid_has_each_part_as_a_chunk(length: int, ways: tuple[int, ...]) -> None:
    chunk = chunk_of(length, ways)
    held = {start: size for start, size in parts(length, ways) if size}
    if chunk is None:
        step = max(held.values())
        assert held != {s: min(step, length - s) for s in range(0, length, step)}
        assert len(ways) > 1
    else:
        assert held == {s: min(chunk, length - s) for s in range(0, length, chunk)}


@given(st.integers(1, 5), WAYS)
def test_what_can_be_divided_evenly_always_has_a_grid(each: int, ways: tuple[int, ...]) -> None:
    length = each
    for count in ways:
        length *= count
    assert chunk_of(length, ways) == each


@pytest.mark.parametrize(("length", "ways", "chunk"), [
    (31, (2,), 16), (3, (4,), 1), (0, (2,), 1), (7, (), 7), (6, (2, 2), None), (1, (2, 2), 1),
    (2, (2, 2), 1), (12, (2, 3), 2),
])  # fmt: skip
def test_examples(length: int, ways: tuple[int, ...], chunk: int | None) -> None:
    assert chunk_of(length, ways) == chunk
