"""The order of the queue: who comes before whom, running gangs included.

Classes first (admin, urgent, high, normal, low). Inside a class, running gangs in their quantum
stay, then comes the gang whose turn it is because it starves, then all others by *virtual
finish time*: when the gang would be done if its user had just the fair share, and used it for
the shortest work first. The order of the finish times of a fair system is both fair and short
(fair sojourn protocol, Friedman and Henderson 2003), with what a user is owed, or has had too
much, as the memory of the fair system's clock. Waiting long for what one is makes it earlier.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import copysign
from operator import attrgetter

from resilient_nb.core import forecast
from resilient_nb.core.model import Priority, Resources
from resilient_nb.core.placement import per_slot
from resilient_nb.core.policy import HOUR, Policy
from resilient_nb.core.queue import Gang, Host, QueueView
from resilient_nb.core.shares import Key, advance, entitlements

#: Virtual finish times far beyond this hardly differ: then the debts of fairness decide.
HORIZON = 48 * HOUR
#: Users may differ from their fair service by this part of it before it counts: a day of long
#: work by one and a day of short work by the other is cheaper in turns than side by side.
TOLERANCE = 0.12
#: At most so many seconds of fair share are owed at a time.
MOST_OWED = 8 * HOUR
#: A running gang is ranked as if only this part of its work were left, less a restart: so that
#: it isn't asked to leave for one that is hardly shorter.
STICK = 0.8
#: A gang comes the earlier the longer it waits for what it is (`stretch`), and before all those
#: that don't when it has waited this long; from STARVING on it is given a turn, whatever for.
AGED, STARVING = 8.0, 9.0
STRETCH_BASE = 6 * HOUR
#: Seconds of virtual time for each unit of stretch beyond AGED: more than any other difference.
AGED_WEIGHT = 60 * HOUR
#: Younger than this, a gang's stretch is too small to matter: saves working it out.
YOUNG = 1 * HOUR
#: Of equals the older goes first: seconds of virtual time for each second of age.
TIE = 1e-6
#: Seconds of its entitlement that each user may always have at high or urgent priority.
HIGH_BURST = 0.5 * HOUR
#: Items of work between two chances for the event loop (about half a millisecond).
CHUNK = 200

IN_QUANTUM, STARVED, BY_TURN = range(3)
ADMIN, URGENT, HIGH, NORMAL, LOW = range(5)
_CLASS = {
    Priority.URGENT: URGENT,
    Priority.HIGH: HIGH,
    Priority.NORMAL: NORMAL,
    Priority.LOW: LOW,
}


class Entry:
    """A gang with what the ranking found out about it.

    `per` are the slots of one worker, `slots` what it holds, or would at its smallest size,
    `held` the workers it holds, `left` the expected slot-seconds, `age` and `stretch` how long
    and how badly it has waited; `level` its class in force, `tier` and `key` its place in it.
    `should`: it waits, and would run if everything went by this order; `spare`: it runs, and
    wouldn't; `gives`: the slots that come free if it gives up what it may have to, which is all
    if `whole`, and `surplus` what it holds beyond its smallest size. `place` is its number in
    the lines of `standing`.

    There are as many as jobs, looked at in the order of the queue: slots, so that each is one
    piece of memory.
    """

    __slots__ = (
        "age", "gang", "gives", "held", "job", "key", "left", "level", "per", "place", "should",
        "slots", "spare", "stretch", "surplus", "tier", "whole",
    )  # fmt: skip

    def __init__(self, gang: Gang, per: int, slots: int, left: float, level: int) -> None:
        self.gang = gang
        self.job = gang.job
        self.per = per
        self.slots = slots
        self.left = left
        self.level = level
        self.held = gang.held
        self.tier = BY_TURN
        self.key = self.age = self.stretch = 0.0
        self.should = self.spare = self.whole = False
        self.gives = self.surplus = self.place = 0


@dataclass
class Claim:
    """A user's `share` in slots, and the seconds of it that are owed (overdrawn, if below 0)."""

    share: float = 1.0
    owed: float = 0.0
    high_spent: bool = False


#: A user's gangs by class and priority: (class in force, those of that class so far).
_Rows = dict[Priority, tuple[int, list[Entry]]]

_by_key = attrgetter("key")


class Sizes:
    """How many slots a worker takes, and how many such workers the whole cluster holds."""

    def __init__(self, hosts: tuple[Host, ...]) -> None:
        self._kinds: dict[Resources, dict[int, int]] = {}
        self.capacity = 0
        by_id: dict[int, dict[int, int]] = {}
        for host in hosts:
            if not host.closing:
                kind = by_id.get(id(host.slot))
                if kind is None:
                    kind = by_id[id(host.slot)] = self._kinds.setdefault(host.slot, {})
                kind[host.slots] = kind.get(host.slots, 0) + 1
                self.capacity += host.slots
        self._found: dict[int, tuple[int, int, Resources]] = {}

    def __call__(self, needs: Resources) -> tuple[int, int]:
        """Return (slots of one worker, workers that fit if all were free); (1, 0) if none can."""
        found = self._found.get(id(needs))
        if found is None:
            found = self._found[id(needs)] = (*self._measure(needs), needs)
        return found[0], found[1]

    def _measure(self, needs: Resources) -> tuple[int, int]:
        least, most = 0, 0
        for slot, sizes in self._kinds.items():
            per = per_slot(needs, slot)
            if per is None:
                continue
            fit = sum(slots // per * count for slots, count in sizes.items())
            most += fit
            if fit:
                least = min(least or per, per)
        return least or 1, most


def claims(view: QueueView, capacity: int, now: float) -> dict[Key, Claim]:
    """Return what each user is due."""
    policy = view.policy
    ledger = advance(view.ledger, now, policy)
    fair = entitlements(ledger, policy)
    active = [key for key, account in ledger.accounts.items() if account.wanted]
    groups: dict[str, float] = {}
    for group, user in active:
        groups[group] = groups.get(group, 0.0) + policy.user_weight(user)
    whole = sum(policy.group_weight(group) for group in groups)
    found: dict[Key, Claim] = {}
    for key, account in ledger.accounts.items():
        group, user = key
        entitled = fair.get(key, 0.0)
        allowed = policy.high_budget * account.fair_service + HIGH_BURST * entitled
        share = entitled
        if group in groups and whole and groups[group]:
            part = policy.group_weight(group) / whole * policy.user_weight(user) / groups[group]
            share = max(share, part * capacity)
        share = max(share, 1e-3)
        balance, tolerated = account.balance, TOLERANCE * account.fair_service
        beyond = max(0.0, abs(balance) - tolerated) / share
        owed = copysign(min(MOST_OWED, beyond), balance)
        found[key] = Claim(share, owed, account.high_service > allowed)
    return found


def effective_class(gang: Gang, claim: Claim) -> int:
    """Return the class in force: high and urgent count only within the user's budget."""
    if gang.admin:
        return ADMIN
    return _in_force(_CLASS[gang.priority], claim)


def _in_force(level: int, claim: Claim) -> int:
    return NORMAL if level < NORMAL and claim.high_spent else level


def ranked(
    view: QueueView, gangs: list[Gang], sizes: Sizes, now: float
) -> Generator[None, None, list[Entry]]:
    """Return entries of these gangs, which are sorted by name, in the order of the queue."""
    users = claims(view, sizes.capacity, now)
    rows: dict[tuple[str, str, int], list[Entry]] = {}
    lines: dict[Key, _Rows] = {}
    quantum, service_left = view.policy.quantum, forecast.service_left
    needs, per = None, 1
    for n, gang in enumerate(gangs):
        if not n % CHUNK:
            yield
        who = (gang.group, gang.user)
        line = lines.get(who)
        if line is None:
            line = lines[who] = _line(rows, who, users.setdefault(who, Claim()))
        if gang.admin:
            level, mine = ADMIN, rows.setdefault((*who, ADMIN), [])
        else:
            level, mine = line[gang.priority]
        if gang.needs is not needs:  # most share one
            needs = gang.needs
            per = sizes(needs)[0]
        left, size, age = service_left(gang, per), gang.workers * per, now - gang.submitted_at
        # For now the key is the length, by which a user's gangs are sorted; of equals the older.
        if gang.held:
            slots, overhead = gang.slots, gang.overhead
            entry = Entry(gang, per, slots, left, level)
            if now - gang.since < quantum * overhead:
                entry.tier = IN_QUANTUM
            entry.key = max(0.0, STICK * left - overhead * slots) - TIE * age
        else:
            entry = Entry(gang, per, size, left, level)
            entry.key = left - TIE * age
        entry.age = age
        if age > YOUNG:
            entry.stretch = stretch(gang, size, left, age)
        mine.append(entry)
    return (yield from _in_turn(rows, users))


def _line(rows: dict[tuple[str, str, int], list[Entry]], who: Key, claim: Claim) -> _Rows:
    """Return where this user's gangs of each priority belong."""
    levels = {priority: _in_force(_CLASS[priority], claim) for priority in Priority}
    return {p: (level, rows.setdefault((*who, level), [])) for p, level in levels.items()}


def _in_turn(
    rows: dict[tuple[str, str, int], list[Entry]], users: dict[Key, Claim]
) -> Generator[None, None, list[Entry]]:
    """Give each user's gangs, shortest first, their keys; return all in the order of them."""
    places: dict[tuple[int, int], list[Entry]] = {}
    starving: list[tuple[int, float, str, Entry]] = []
    before: dict[Key, float] = {}
    count = 0
    for who in sorted(rows):
        group, user, level = who
        mine, claim, work = rows[who], users[group, user], before.get((group, user), 0.0)
        mine.sort(key=_by_key)
        share, owed = claim.share, claim.owed
        by_turn = places.setdefault((level, BY_TURN), [])
        for entry in mine:
            count += 1
            if not count % CHUNK:
                yield
            finish = (work + entry.key) / share
            work += entry.left
            key = HORIZON * finish / (HORIZON + finish) if finish > 0 else finish
            amount = entry.stretch
            if amount:
                key *= 1.0 - amount / AGED if amount < AGED else 0.0
                if amount > AGED:
                    key -= AGED_WEIGHT * (amount - AGED)
                    gang = entry.gang
                    if amount >= STARVING and not entry.held:
                        starving.append((level, gang.queued_at, gang.job, entry))
            entry.key = key - owed - TIE * entry.age
            if entry.tier == BY_TURN:
                by_turn.append(entry)
            else:
                places.setdefault((level, entry.tier), []).append(entry)
        before[group, user] = work
    for entry in _turns(starving):
        places[entry.level, entry.tier].remove(entry)
        # Those of low priority among those of normal: else they might wait for ever.
        entry.level, entry.tier = min(entry.level, NORMAL), STARVED
        places.setdefault((entry.level, entry.tier), []).append(entry)
    order: list[Entry] = []
    for place in sorted(places):
        yield
        places[place].sort(key=_by_key)
        order += places[place]
    return order


def _turns(starving: list[tuple[int, float, str, Entry]]) -> list[Entry]:
    """Return the starving gang of each class that was queued first.

    Who was queued first and not who starves most: so they take turns, a quantum each.
    """
    first: dict[int, Entry] = {}
    for level, _, _, entry in sorted(starving, key=lambda row: row[:3]):
        first.setdefault(level, entry)
    return list(first.values())


def stretch(gang: Gang, size: int, left: float, age: float) -> float:
    """Return how much longer it takes than it runs: (waited) / (runs + 6 h).

    What isn't known of its length counts as nothing, so that it is too early rather than late.

    Args:
        size: slots at its smallest size.
        left: slot-seconds that it is expected to need still.
        age: seconds since it was submitted.
    """
    ran = whole = gang.attained / size
    waited = age - ran
    if waited <= 0:
        return 0.0
    remaining = gang.remaining
    if remaining is not None and (gang.exact or remaining > 0):
        whole = ran + left / size
    return waited / (whole + STRETCH_BASE)


def rules_out(gang: Gang, sizes: Sizes, policy: Policy, now: float) -> str:
    """Return the rule that keeps a waiting gang from starting whatever is free ("" if none)."""
    if gang.hold:
        return "hold"
    if gang.not_before > now:
        return "backoff"
    per, most = sizes(gang.needs)
    if not gang.admin:
        most = widest(per, most, sizes, policy)
    return "too wide" if gang.workers > most else ""


def widest(per: int, most: int, sizes: Sizes, policy: Policy) -> int:
    """Return how many of `most` workers of `per` slots a gang may have: not the reserve."""
    if sizes.capacity > policy.admin_reserve > 0:
        return min(most, (sizes.capacity - policy.admin_reserve) // per)
    return most
