"""Which rank of a gang keeps the others waiting, by the time that each computes for a step.

Ranks that are averaged at every step all take as long as the slowest: only what they compute
themselves, without their wait for others, tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low

#: A rank is slow that takes more than so many times what is usual in its gang, in so many steps
#: in a row, over so many seconds. What is less than the last, in seconds, isn't worth a restart.
FACTOR, STEPS, SECONDS, _WORTH = 2.0, 20, 5.0, 0.002
#: Ranks are compared over at least so many steps at a time: one alone says little.
WINDOW = 5


@dataclass(slots=True)
class _Made:
    """Steps that a rank has made, and the seconds that it computed for them."""

    steps: int = 0
    compute_s: float = 0.0

    def add(self, steps: int, compute_s: float) -> None:
        self.steps += steps
        self.compute_s += compute_s


@dataclass(frozen=True)
class Straggler:
    """A rank that was slow for long, and what a step takes it and the others, in seconds."""

    rank: int
    takes: float
    usual: float


class Race:
    """The latest steps of a gang's ranks, and since when each is slow.

    Attributes:
        stragglers: the ranks that have been slow for long.
    """

    def __init__(self, ranks: int) -> None:
        self.stragglers: frozenset[int] = frozenset()
        self._window = {rank: _Made() for rank in range(ranks)}
        self._slow = {rank: _Made() for rank in range(ranks)}
        self._behind = set(self._window)  # who hasn't made a window's steps

    def add(self, rank: int, steps: int, compute_s: float) -> Straggler | None:
        """Take more steps of a rank, and the seconds that it computed for them.

        Returns:
            Who straggles, if that shows now.
        """
        made = self._window[rank]
        made.add(steps, compute_s)
        if made.steps >= WINDOW:
            self._behind.discard(rank)
        return None if self._behind else self._compare()

    def _compare(self) -> Straggler | None:
        takes = {r: made.compute_s / made.steps for r, made in self._window.items()}
        usual = median_low(takes.values())
        for rank, made in self._window.items():
            slow = takes[rank] > FACTOR * usual and takes[rank] - usual > _WORTH
            if slow:
                self._slow[rank].add(made.steps, made.compute_s)
            else:
                self._slow[rank] = _Made()
        self._window = {rank: _Made() for rank in takes}
        self._behind = set(takes)
        self.stragglers = frozenset(
            r for r, s in self._slow.items() if s.steps >= STEPS and s.compute_s >= SECONDS
        )
        if not self.stragglers:
            return None
        worst = max(self.stragglers, key=lambda r: (takes[r], -r))
        return Straggler(worst, takes[worst], usual)
