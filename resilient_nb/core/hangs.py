"""Whether a gang hangs, which of its ranks are to blame, and what shows it.

A hang can't be proven, and to end a gang that only works hard is worse than to end one that hangs
late. So what is certain (a stopped process) counts soon, what nearly always is (a rank that
doesn't even say that it lives, ranks that use no CPU) a little later, and a rank that computes is
given very long. Who waits for other ranks is a victim: nothing is held against it, as long as one
that doesn't wait is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Seconds of doing nothing between two steps that are a hang. With what it takes to see them
#: and to say so, that is found within ten.
PATIENCE = 7.5
#: As `hang_after`: nothing is ever taken to hang (JSON has no infinity).
NEVER = 1e12
#: So many times as long where there may be reasons: who waits for data; who is silent, but uses
#: CPU, or writes a checkpoint; who makes its first steps; who computes.
_DATA, _SILENT, _FIRST, _COMPUTING = 8.0, 8.0, 16.0, 80.0
#: So many times as long, too, for a gang that was taken to hang at the same step before: the cell
#: may well wait for something there, and isn't tried a third time.
_SUSPECTED = 4.0
#: No gap between two steps is a hang that is not longer than so many usual ones, or than so many
#: times the longest yet that ended well; and who computes may take so many usual ones.
_USUAL, _LONGEST, _COMPUTING_USUAL = 3.0, 1.5, 30.0
#: Whoever lives says so within so many seconds.
_HEARTBEATS = 2.5
#: Phases of a loop, as samples have them.
_LOADING, _WAIT, _CHECKPOINT = "data", "wait", "checkpoint"


@dataclass(frozen=True)
class Seen:
    """What is known of one rank of a gang that has not ended.

    Attributes:
        rank: its number.
        step: the last that it made.
        first: it makes its first steps in this attempt.
        outside: it is in no loop: before the first, or after one.
        phase: what its loop does (see `orders.Sample`).
        gap_s: seconds since its last step.
        silent_s: seconds since it last said anything.
        idle_s: for how long its processes have used no CPU.
        stopped: its process is stopped.
    """

    rank: int
    step: int = 0
    first: bool = False
    outside: bool = False
    phase: str = "compute"
    gap_s: float = 0.0
    silent_s: float = 0.0
    idle_s: float = 0.0
    stopped: bool = False


@dataclass(frozen=True)
class Pace:
    """How long steps take: usually, and at the longest yet, in seconds; 0: not known."""

    usual: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True)
class Hang:
    """The ranks to blame, and what shows that they hang."""

    ranks: tuple[int, ...]
    why: str


def find(
    ranks: Sequence[Seen], pace: Pace, hang_after: float = 0.0, suspected: bool = False
) -> Hang | None:
    """Return what hangs, None if nothing is known to.

    Args:
        ranks: all of the gang that have not ended.
        pace: of its steps in this attempt.
        hang_after: takes the place of `PATIENCE`, from the first step on; 0: nothing does.
        suspected: it was taken to hang at this step before.
    """
    base = hang_after or PATIENCE * (_SUSPECTED if suspected else 1.0)
    if stopped := [r for r in ranks if r.stopped and r.silent_s >= base]:
        return _hang(stopped, f"stopped (SIGSTOP), for {_least(stopped, 'silent_s')}", ranks)
    told = hang_after > 0
    if silent := [r for r in ranks if _is_silent(r, pace, base, told)]:
        said = f"unable to say anything, for {_least(silent, 'silent_s')}"
        return _hang(silent, f"{said}: what runs there holds Python's lock (the GIL)", ranks)
    movers = [r for r in ranks if r.phase != _WAIT] or list(ranks)
    if movers and all(_stands_still(r, pace, base, told) for r in movers):
        return _hang(movers, _standstill(movers, pace, base), ranks)
    return None


def _is_silent(rank: Seen, pace: Pace, base: float, told: bool) -> bool:
    idle = _idle(rank) >= base
    # A slow store doesn't silence a rank that waits for it: no reason to wait longer.
    reason = 1.0 if idle and rank.phase == _CHECKPOINT and not rank.first else _factor(rank, told)
    many = max(reason, 1.0 if idle else _SILENT)
    return rank.silent_s >= base * many and (rank.outside or rank.gap_s >= _ordinary(pace))


def _stands_still(rank: Seen, pace: Pace, base: float, told: bool) -> bool:
    """Whether a rank that lives makes no step, and has no reason not to."""
    if rank.silent_s > _HEARTBEATS:
        return False  # that is another matter, and soon clear
    if rank.phase == _CHECKPOINT or (rank.outside and not told):
        return False  # stores can be slow, and code outside a loop may wait for anything
    if _idle(rank) >= base * _factor(rank, told):
        return rank.outside or rank.gap_s >= _ordinary(pace)
    long = max(base * _COMPUTING, _COMPUTING_USUAL * pace.usual, _ordinary(pace))
    return rank.gap_s >= long and not (rank.first or rank.outside)


def _idle(rank: Seen) -> float:
    """For how long it has been idle without a step: steps of a GPU may take no CPU either."""
    return rank.idle_s if rank.outside else min(rank.idle_s, rank.gap_s)


def _factor(rank: Seen, told: bool) -> float:
    """Return how many times as long a rank is given; who is told how long needn't learn it."""
    if rank.outside or (rank.first and not told):
        return _FIRST
    return _DATA if rank.phase in (_LOADING, _CHECKPOINT) else 1.0


def _ordinary(pace: Pace) -> float:
    """Return the longest gap between two steps that is nothing special."""
    return max(_USUAL * pace.usual, _LONGEST * pace.longest)


def _standstill(movers: Sequence[Seen], pace: Pace, base: float) -> str:
    usual = f" (one takes {pace.usual:.2g} s)" if pace.usual else ""
    gap = f"no step for {_least(movers, 'gap_s')}{usual}"
    if all(r.phase == _WAIT for r in movers):
        return f"waiting for one another, with {gap}: no rank in particular is to blame"
    if any(_idle(r) < base for r in movers):
        return f"computing, with {gap}"
    if all(r.phase == _LOADING for r in movers):
        return f"waiting for data that nothing loads, with {gap}"
    return f"waiting for something that doesn't come: no CPU is used, with {gap}"


def _hang(to_blame: Sequence[Seen], what: str, ranks: Sequence[Seen]) -> Hang:
    numbers = tuple(r.rank for r in to_blame)
    victims = [r.rank for r in ranks if r.rank not in numbers and r.phase == _WAIT]
    step = max(r.step for r in ranks)  # what a rank has said of its own can be a little old
    text = f"{_names(numbers)} {'is' if len(numbers) == 1 else 'are'} {what}, after step {step}."
    if victims:
        text += f" {_names(victims)} only {'waits' if len(victims) == 1 else 'wait'} for that."
    return Hang(numbers, text)


def _names(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"Rank {numbers[0]}"
    few = [str(n) for n in numbers] if len(numbers) <= 4 else [*map(str, numbers[:3]), "others"]
    return f"Ranks {', '.join(few[:-1])} and {few[-1]}"


def _least(ranks: Sequence[Seen], what: str) -> str:
    return f"{math.floor(min(getattr(r, what) for r in ranks))} s"
