"""`rank.leaving`: ranks of any speed agree on one step, whoever is asked, and whenever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.rank.leaving import Leaving

PATIENCE = 20.0


class Group:
    """Ranks that are threads here; the store is real."""

    def __init__(self, rank: int, world_size: int, store: Any) -> None:
        self.rank, self.world_size, self.store = rank, world_size, store


class Rank(threading.Thread):
    """A loop: `between` runs within each step, `ask_in` is the step in which it is asked."""

    def __init__(
        self, group: Any, steps: int, between: Callable[[int], None], ask_in: int | None
    ) -> None:
        super().__init__(daemon=True)
        self.step = 0
        self.left_at: int | None = None
        self.out = threading.Event()
        self.begun = True
        self._steps, self._between, self._ask_in = steps, between, ask_in
        self.leaving = Leaving(group, self._underway, self.out.set)

    def _underway(self) -> int | None:
        assert self.leaving.asked  # else a boundary could be passed without a look
        return self.step + 1 if self.begun else None

    def run(self) -> None:
        for _ in range(self._steps):
            if self.step + 1 == self._ask_in:
                threading.Thread(target=self.leaving.ask, daemon=True).start()
            self._between(self.step + 1)
            self.step += 1
            if self.leaving.asked and self.leaving.due(self.step):
                self.left_at = self.step
                return


def gang(size: int, make: Callable[[Any], Rank]) -> list[Rank]:
    store = dist.HashStore()
    return [make(Group(rank, size, store)) for rank in range(size)]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.booleans(), st.data())
def test_all_leave_at_one_step(size: int, coupled: bool, data: st.DataObject) -> None:
    """With a collective in each step or without, and with ranks of different speed."""
    meet = threading.Barrier(size, timeout=PATIENCE)
    asked = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    tick = threading.Event()  # never set: waiting for it takes a while

    def make(group: Any) -> Rank:
        pause = data.draw(st.sampled_from([0.0001, 0.0003, 0.001]))

        def between(step: int) -> None:
            tick.wait(pause)
            if coupled:
                meet.wait()

        step = data.draw(st.integers(1, 20)) if group.rank in asked else None
        return Rank(group, 100_000, between, step)

    ranks = gang(size, make)
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE)
    steps = {rank.left_at for rank in ranks}
    assert len(steps) == 1
    assert None not in steps
    assert not any(rank.out.is_set() for rank in ranks)


def test_a_rank_that_has_not_begun_sends_all_out() -> None:
    store = dist.HashStore()
    begun, late = (Rank(Group(n, 2, store), 1, lambda _: None, None) for n in range(2))
    begun.step, late.begun = 7, False
    begun.leaving.ask()
    for rank in (begun, late):
        assert rank.out.wait(PATIENCE)


class Gone:
    """The store of a rank 0 that has left."""

    def clone(self) -> Gone:
        return self

    def wait(self, *_: object) -> None:
        raise dist.DistNetworkError("connection reset")

    set = wait


def test_one_whose_rank_0_has_left_leaves_too_unless_it_was_over() -> None:
    one, over = (Rank(Group(1, 2, Gone()), 1, lambda _: None, None) for _ in range(2))
    over.leaving.close()
    for rank in (one, over):
        assert not rank.out.is_set()  # nobody was asked: then it is control's to say
        rank.leaving.ask()
    assert (one.out.is_set(), over.out.is_set()) == (True, False)


def test_one_alone_leaves_at_its_next_boundary() -> None:
    [alone] = gang(1, lambda group: Rank(group, 10, lambda _: None, None))
    alone.leaving.ask()
    assert alone.leaving.due(1)
    [waiting] = gang(1, lambda group: Rank(group, 10, lambda _: None, None))
    waiting.begun = False
    waiting.leaving.ask()
    assert waiting.out.is_set()
