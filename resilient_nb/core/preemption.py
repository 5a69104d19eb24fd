"""Who must leave so that a gang starts: whole victims, the cheapest, and only if it pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from resilient_nb.core import forecast
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Gang
from resilient_nb.core.ranking import BY_TURN, STARVED, Entry

#: Inside a class nobody leaves for a gang that isn't before it by so many times what leaving
#: and coming back costs: debts of fairness move all the time, and nobody should move with them.
MARGIN = 50.0


class Loss(NamedTuple):
    """A running gang that may give up slots: all of them (`keeps` 0), or those above `keeps`."""

    entry: Entry
    keeps: int
    slots: int
    cost: float

    @property
    def key(self) -> tuple[float, float, str]:
        """Cheapest first for each slot it gives; then who has most before it."""
        return (self.cost / self.slots, -self.entry.left, self.entry.job)


def lost(gang: Gang, now: float) -> float:
    """Return the seconds that leaving now sets the gang back: since its last checkpoint, and
    a save and a restore."""
    return max(0.0, now - gang.saved_at) + gang.overhead


class Offers:
    """All that running gangs may give up, the cheapest first; what was taken is gone."""

    def __init__(self, givers: list[Entry], now: float) -> None:
        self._losses: list[Loss] = []
        self._taken: set[str] = set()
        # By class: what couldn't be had for a gang, and so can't for those after it.
        self._too_much: dict[int, int] = {}
        for entry in givers:
            gang = entry.gang
            if entry.surplus:
                cost = gang.overhead * entry.slots
                self._losses.append(Loss(entry, gang.workers, entry.surplus, cost))
            if entry.spare and entry.whole and entry.gives:
                self._losses.append(Loss(entry, 0, entry.gives, lost(gang, now) * entry.slots))
        self._losses.sort(key=lambda loss: loss.key)

    def victims(self, starter: Entry, lacks: int, fits: Callable[[list[Loss]], bool]) -> list[Loss]:
        """Return who gives up what so that the whole gang starts; nobody if it isn't worth it.

        Args:
            lacks: slots that must come free at least.
            fits: whether the starter fits when these have been given up.
        """
        level = starter.level
        if starter.tier == BY_TURN and lacks >= self._too_much.get(level, lacks + 1):
            return []
        chosen: dict[str, Loss] = {}
        freed = 0
        for loss in self._losses:
            job = loss.entry.job
            if job in self._taken or not _may_lose(starter, loss):
                continue
            # Giving up all replaces giving up a part.
            freed += loss.slots - (chosen[job].slots if job in chosen else 0)
            chosen[job] = loss
            if freed >= lacks and fits(list(chosen.values())):
                break
        else:
            if freed < lacks and starter.tier == BY_TURN:
                self._too_much[level] = min(lacks, self._too_much.get(level, lacks))
            return []
        for loss in sorted(chosen.values(), key=lambda each: each.key, reverse=True):
            if freed - loss.slots >= lacks and fits([x for x in chosen.values() if x is not loss]):
                del chosen[loss.entry.job]
                freed -= loss.slots
        for job, loss in chosen.items():
            if loss.keeps and freed > lacks:
                chosen[job] = least = _least(loss, chosen, freed - lacks, fits)
                freed -= loss.slots - least.slots
        if not worthwhile(starter, list(chosen.values())):
            return []
        self._taken.update(chosen)
        return list(chosen.values())


def _least(
    loss: Loss, chosen: dict[str, Loss], spare: int, fits: Callable[[list[Loss]], bool]
) -> Loss:
    """Return a shrinking by no more than is needed, when `spare` slots are not."""
    per, others = loss.entry.per, [x for job, x in chosen.items() if job != loss.entry.job]
    for back in range(min(spare, loss.slots - 1) // per, 0, -1):
        smaller = loss._replace(keeps=loss.keeps + back, slots=loss.slots - back * per)
        if fits([*others, smaller]):
            return smaller
    return loss


def _may_lose(starter: Entry, loss: Loss) -> bool:
    """Whether this may be given up for the starter: those of a higher class, those still in
    their quantum and those that are hardly behind it stay as they are."""
    entry = loss.entry
    if entry.level != starter.level:
        return entry.level > starter.level
    if entry.tier != BY_TURN:
        return False
    if loss.keeps or starter.tier == STARVED:
        return True
    return entry.key >= starter.key + MARGIN * entry.gang.overhead


def worthwhile(starter: Entry, chosen: list[Loss]) -> bool:
    """Whether what is lost by leaving and coming back is less than the work it makes way for.

    A gang that starves, and one of a higher class, is worth it whatever it is.
    """
    if starter.tier == STARVED or all(loss.entry.level > starter.level for loss in chosen):
        return True
    again = sum(loss.entry.gang.overhead * loss.entry.slots for loss in chosen)
    return again < starter.left


def in_time(entry: Entry, at: float, now: float, policy: Policy) -> bool:
    """Whether the gang, started now, is out of the way at that time: it ends by then, or had
    its quantum and can be asked to leave."""
    gang = entry.gang
    if forecast.known(gang) and now + entry.left / entry.slots <= at:
        return True
    return policy.preemption and gang.preemptible and now + forecast.quantum(gang, policy) <= at
