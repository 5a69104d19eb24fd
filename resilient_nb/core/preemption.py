"""Who must leave so that a gang starts: whole victims, the cheapest, and only if it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resilient_nb.core.queue import Gang
from resilient_nb.core.ranking import BY_TURN, STARVED, Entry

#: Inside a class nobody leaves for a gang that isn't before it by so many times what leaving
#: and coming back costs: debts of fairness move all the time, and nobody should move with them.
MARGIN = 20.0


@dataclass(frozen=True)
class Loss:
    """A running gang that may give up slots: all of them (`keeps` 0), or those above `keeps`."""

    entry: Entry
    keeps: int
    slots: int
    cost: float

    @property
    def key(self) -> tuple[float, float, str]:
        """Cheapest first for each slot it gives; then who has most before it."""
        return (self.cost / self.slots, -self.entry.left, self.entry.gang.job)


def lost(gang: Gang, now: float) -> float:
    """Return the seconds that leaving now sets the gang back: since its last checkpoint, and
    a save and a restore."""
    return max(0.0, now - gang.saved_at) + gang.overhead


def losses(starter: Entry, givers: list[Entry], now: float) -> list[Loss]:
    """Return what running gangs may give up for this one, the cheapest first."""
    found = []
    for entry in givers:
        gang = entry.gang
        if entry.level < starter.level:
            continue
        if entry.level == starter.level and entry.tier != BY_TURN:
            continue  # still in its quantum
        if gang.held > gang.workers:
            slots = entry.slots * (gang.held - gang.workers) // gang.held
            cost = gang.overhead * entry.slots
            found.append(Loss(entry, gang.workers, min(slots, entry.gives), cost))
        if entry.spare and entry.whole and _behind(starter, entry):
            found.append(Loss(entry, 0, entry.gives, lost(gang, now) * entry.slots))
    found.sort(key=lambda loss: loss.key)
    return found


def _behind(starter: Entry, entry: Entry) -> bool:
    """Whether the running gang is far enough behind the one that wants to start."""
    if entry.level > starter.level or starter.tier == STARVED:
        return True
    return entry.key >= starter.key + MARGIN * entry.gang.overhead


def victims(
    starter: Entry, offers: list[Loss], lacks: int, fits: Callable[[list[Loss]], bool]
) -> list[Loss]:
    """Return who gives up what so that the whole gang starts; nobody if it isn't worth it.

    Args:
        offers: what may be given up, the cheapest first.
        lacks: slots that must come free at least.
        fits: whether the starter fits when these have been given up.
    """
    chosen: dict[str, Loss] = {}
    freed = 0
    for loss in offers:
        job = loss.entry.gang.job
        # Giving up all replaces giving up a part.
        freed += loss.slots - (chosen[job].slots if job in chosen else 0)
        chosen[job] = loss
        if freed >= lacks and fits(list(chosen.values())):
            break
    else:
        return []
    for loss in sorted(chosen.values(), key=lambda each: each.key, reverse=True):
        if freed - loss.slots >= lacks and fits([x for x in chosen.values() if x is not loss]):
            del chosen[loss.entry.gang.job]
            freed -= loss.slots
    found = list(chosen.values())
    return found if worthwhile(starter, found) else []


def worthwhile(starter: Entry, chosen: list[Loss]) -> bool:
    """Whether what is lost by leaving and coming back is less than the work it makes way for.

    A gang that starves, and one of a higher class, is worth it whatever it is.
    """
    if starter.tier == STARVED or all(loss.entry.level > starter.level for loss in chosen):
        return True
    again = sum(loss.entry.gang.overhead * loss.entry.slots for loss in chosen)
    return again < starter.left
