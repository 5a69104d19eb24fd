"""Loops around the loops of `run`: they go on as before until the checkpoint's place is reached."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.rank.around import NAME, Around, rewritten


class Killed(Exception):
    """The process ends here."""


class FakeRun:
    """Has loops of two steps, which are skipped up to a place, as on resume."""

    def __init__(self, around: Around, kill_at: int = 10**9, place: int = 0) -> None:
        self.around, self.kill_at, self.place = around, kill_at, place
        self.loops = 0
        self.trained: list[int] = []

    def batches(self) -> Iterator[int]:
        number, self.loops = self.loops, self.loops + 1
        if number == self.kill_at:
            raise Killed
        if number < self.place:
            return
        self.around.repeats = False
        self.trained.append(number)
        yield from range(2)


def execute(source: str, run: FakeRun, **names: Any) -> dict[str, Any]:
    tree = rewritten(ast.parse(source))
    namespace = {"run": run, NAME: run.around, **names}
    exec(compile(tree, "cell", "exec"), namespace)
    return namespace


def killed_and_resumed(source: str, at: int, **names: Iterable[bool]) -> tuple[list[int], Any]:
    """Return which loops trained after a kill in one, and the names then.

    Decisions (`names`) are right before the kill, and from the place on; in between they are the
    opposite, as of a state that isn't the one of then.
    """
    first = FakeRun(Around(), kill_at=at)
    with pytest.raises(Killed):
        execute(source, first, **{name: iter(all_) for name, all_ in names.items()})
    second = FakeRun(Around(first.around.course), place=at)

    def decisions(all_: Iterable[bool]) -> Iterator[bool]:
        for good in all_:
            yield good == bool(second.trained)

    found = execute(source, second, **{name: decisions(all_) for name, all_ in names.items()})
    return second.trained, found


EARLY = """
turns = 0
for epoch in range(9):
    for _ in run.batches(): pass
    turns += 1
    if next(stop): break
else:
    turns = -1
"""


@given(st.integers(0, 8), st.integers(0, 8))
def test_early_stopping_decides_as_before_and_then_by_itself(stops_after: int, at: int) -> None:
    if at > stops_after:
        return
    stop = [n == stops_after for n in range(9)]
    trained, found = killed_and_resumed(EARLY, at, stop=stop)
    assert trained == list(range(at, stops_after + 1))
    assert found["turns"] == stops_after + 1


PHASES = """
for epoch in range(5):
    for _ in run.batches(): pass
    if next(one): break
second = 0
while next(two):
    for _ in run.batches(): pass
    second += 1
"""


@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_a_loop_that_had_ended_ends_where_it_did(one: int, two: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, one + two - 1))
    # How often each is asked differs where a loop is left as before: none is asked in vain.
    decisions = {
        "one": [n == one for n in range(1, 6)],
        "two": [*[True] * two, False, False],
    }
    trained, _ = killed_and_resumed(PHASES, at, **decisions)
    assert trained == list(range(at, one + two))


FOLDS = """
def fit(fold):
    for epoch in range(4):
        for _ in run.batches(): pass
        if next(stop): return epoch
    return None
found = [fit(fold) for fold in range(2)]
for fold in range(2):
    found.append(fit(fold))
"""


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.data())
def test_functions_that_return_from_their_loops(stops: list[int], data: st.DataObject) -> None:
    stop = [n == after for after in stops for n in range(after + 1)]
    loops = sum(after + 1 for after in stops)
    at = data.draw(st.integers(0, loops - 1))
    trained, found = killed_and_resumed(FOLDS, at, stop=stop)
    assert trained == list(range(at, loops))
    assert found["found"][-1] == stops[-1]


def test_only_loops_around_loops_of_run_are_touched() -> None:
    source = """
for x in [1, 2]:
    if x: break
while True:
    break
for batch in run.batches():
    if batch: break
def plain():
    for x in [1]:
        return x
"""
    assert ast.dump(rewritten(ast.parse(source))) == ast.dump(ast.parse(source))


def test_an_interrupted_loop_counts_as_ended() -> None:
    source = """
try:
    for epoch in range(3):
        for _ in run.batches(): pass
        raise ValueError
except ValueError: pass
for epoch in range(2):
    for _ in run.batches(): pass
"""
    run = FakeRun(Around())
    execute(source, run)
    assert run.around.course == [[1, 1], [2, 1]]


def test_functions_of_other_cells_count() -> None:
    other = "def train():\n    for _ in run.batches(): pass\ndef fit(): train()"
    tree = rewritten(ast.parse("for e in range(3):\n    fit()"), [other, "%magic"])
    assert NAME in ast.unparse(tree)
    assert NAME not in ast.unparse(rewritten(ast.parse("for e in range(3):\n    fit()")))


def test_lines_stay_where_they_are() -> None:
    source = "for e in range(3):\n    for _ in run.batches(): pass\n    1 / 0"
    with pytest.raises(ZeroDivisionError) as caught:
        execute(source, FakeRun(Around()))
    assert caught.traceback[-1].lineno == 2
