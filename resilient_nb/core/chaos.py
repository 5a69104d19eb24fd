"""Failures on purpose: what there is, when, what is said of them, and what came of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from resilient_nb.core.goodput import Goodput
from resilient_nb.core.model import Failure, Injected, Injection, Job, JobState

#: How long each lasts if nothing is said, in seconds; 0: it is over at once.
LASTS: Mapping[Injection, float] = {
    Injection.KILL_RANK: 0.0,
    Injection.KILL_WORKER: 0.0,
    Injection.STOP: 10.0,
    Injection.HANG: 10.0,
    Injection.SLOW: 10.0,
    Injection.DROP_NETWORK: 0.0,
    Injection.FILL_DISK: 10.0,
    Injection.CORRUPT_CHUNK: 60.0,
}
#: Nothing lasts longer.
LONGEST = 3600.0
#: A failure so many seconds after one was over may still be its work.
_ECHO = 60.0

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Planned:
    """One failure of a random schedule.

    Attributes:
        at: seconds from its beginning.
        kind: what is done.
        where: which rank, as a part of all, from 0 to 1.
    """

    at: float
    kind: Injection
    where: float

    def rank(self, ranks: int) -> int:
        """Return which of so many ranks is meant."""
        return min(ranks - 1, int(self.where * ranks))


@dataclass(frozen=True)
class ChaosReport:
    """What was done to a job on purpose, and what it made of it.

    Attributes:
        job: the job.
        state: where it is now.
        injected: what was done, oldest first.
        refused: what couldn't be done, and why.
        failures: the causes of attempts that ended badly, in order.
        goodput: its time so far.
        compared: the run that its checkpoints were compared with, "" if with none.
        checked: how many checkpoints both have at equal steps.
        unchanged: whether these are equal, bit for bit; None if there are none.
    """

    job: str
    state: JobState
    injected: tuple[Injected, ...]
    refused: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    goodput: Goodput | None = None
    compared: str = ""
    checked: int = 0
    unchanged: bool | None = None


def gaps(seed: int, mean: float, span: float) -> Iterator[tuple[float, Iterator[float]]]:
    """Yield moments before `span` with exponential gaps, each with more random numbers.

    The same seed gives the same on every machine and version of Python.
    """
    dice = _random(seed)
    at = -mean * math.log(1.0 - next(dice))
    while at < span:
        yield at, dice
        at += -mean * math.log(1.0 - next(dice))


def schedule(
    seed: int, every: float, span: float, kinds: Sequence[Injection] = tuple(Injection)
) -> tuple[Planned, ...]:
    """Return failures at random, one every so many seconds on average, in order of time."""
    planned = []
    for at, dice in gaps(seed, every, span):
        kind = kinds[int(next(dice) * len(kinds))]
        planned.append(Planned(at, kind, next(dice)))
    return tuple(planned)


def evidence(injected: Sequence[Injected], epoch: int, at: float) -> tuple[str, ...]:
    """Return what is to be said with a failure of an attempt, so that nobody is misled."""
    mine = [i for i in injected if i.epoch == epoch and i.at <= at <= i.at + i.seconds + _ECHO]
    return tuple(f"chaos: {said(i)}, {max(0.0, at - i.at):.1f} s before" for i in mine)


def is_chaos(failure: Failure) -> bool:
    """Whether a failure was made on purpose: it says nothing about its host."""
    return any(line.startswith("chaos: ") for line in failure.evidence)


def is_drill(job: Job, kind: Injection, now: float) -> bool:
    """Whether something of this kind was broken on purpose, and is not long over."""
    return any(i.kind is kind and now <= i.at + i.seconds + _ECHO for i in job.chaos)


def said(injected: Injected) -> str:
    """Return what was done, in words."""
    where = "" if injected.kind is Injection.CORRUPT_CHUNK else f" of rank {injected.rank}"
    if injected.kind is Injection.KILL_WORKER:
        where = f" of {injected.host}"
    lasts = f" for {injected.seconds:g} s" if injected.seconds else ""
    by = f" by {injected.user}" if injected.user else ""
    return f"{injected.kind}{where}{lasts}{by}"


def unchanged(ours: Mapping[int, str], theirs: Mapping[int, str]) -> tuple[int, bool | None]:
    """Compare two runs' checkpoints, digests by step: how many both have, and whether all agree."""
    common = ours.keys() & theirs.keys()
    return len(common), all(ours[s] == theirs[s] for s in common) if common else None


def _random(seed: int) -> Iterator[float]:
    """Yield numbers from 0 to 1 (SplitMix64: Steele, Lea and Flood, 2014)."""
    state = seed & _MASK
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
        yield ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)
