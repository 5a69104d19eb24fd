"""Who starts now, who leaves or is resized for whom, and why the others wait: `plan`.

A pure function of a snapshot: the same gangs, hosts, shares and rules give the same decisions,
in whatever order they come. A plan is made in numbered steps:

1. Slots that are being vacated for a gang, and enough free ones, are set aside for it.
2. All gangs, running ones too, are put in the order of `ranking`.
3. Going through it, each gets its smallest size while the cluster lasts: that says who should
   run. Who should and doesn't yet starts if its whole gang fits what is free.
4. If it doesn't, others may be asked to leave or to shrink (`preemption`), but only if then it
   starts; what is free meanwhile is set aside for it.
5. The first that still waits reserves: later ones may not delay the time at which it starts.
6. What is left goes to elastic gangs, those that start now first.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from math import inf

from resilient_nb.core import forecast, preemption
from resilient_nb.core.model import Placement
from resilient_nb.core.placement import Room, ranks_of
from resilient_nb.core.queue import (
    Gang,
    Host,
    Plan,
    Preempt,
    QueueView,
    Reservation,
    Resize,
    Start,
    Waiting,
)
from resilient_nb.core.ranking import (
    ADMIN,
    CHUNK,
    STARVED,
    Entry,
    Sizes,
    ranked,
    rules_out,
)

__all__ = ["Host", "QueueView", "plan", "planning"]

#: Growing an elastic gang must save so many times what its restart costs.
GROWTH_PAYS = 3.0


def plan(view: QueueView, now: float) -> Plan:
    """Return all decisions of this moment."""
    steps = planning(view, now)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Plan = end.value
            return result


def planning(view: QueueView, now: float) -> Generator[None, None, Plan]:
    """Make a plan in steps of a millisecond or so: yields between them, returns the plan."""
    desk = _Desk(view, now)
    yield
    yield from desk.sort_out()
    yield
    desk.keep_promises()
    order = yield from ranked(view, desk.candidates, desk.sizes, now)
    yield from desk.go_through(order)
    yield
    desk.grow(order)
    return desk.result(order)


class _Desk:
    """One plan in the making."""

    def __init__(self, view: QueueView, now: float) -> None:
        self.view, self.now, self.policy = view, now, view.policy
        self.sizes = Sizes(view.hosts)
        self.room = Room(view.hosts)
        self.closing = any(host.closing for host in view.hosts)
        self.candidates: list[Gang] = []  # run, or may start
        self.leaving: list[Gang] = []
        self.promised: list[Gang] = []
        self.excluded: list[tuple[Gang, str]] = []
        self.starts: dict[str, Start] = {}
        self.preempts: list[Preempt] = []
        self.resizes: list[Resize] = []
        self.reservations: list[Reservation] = []
        self.rules: dict[str, Waiting] = {}
        self.started: list[Entry] = []
        self.reserve = 0
        # The reservation in force: when it starts, and what others may keep beyond that time.
        self.head = ""
        self.shadow, self.extra = inf, 0

    # --- 1. who is who, and what is promised ---------------------------------------------

    def sort_out(self) -> Generator[None, None, None]:
        """Part the gangs into those that run, may start, leave, and can't start."""
        admin_slots = 0
        wanted = {g.leaving_for for g in self.view.gangs if g.leaving} - {""}
        for n, gang in enumerate(self.view.gangs):
            if not n % CHUNK:
                yield
            if gang.held:
                admin_slots += gang.slots if gang.admin else 0
                (self.leaving if gang.leaving else self.candidates).append(gang)
                continue
            rule = rules_out(gang, self.sizes, self.policy, self.now)
            if rule:
                self.excluded.append((gang, rule))
            elif gang.promised or gang.claim or gang.job in wanted:
                self.promised.append(gang)
            else:
                self.candidates.append(gang)
        if self.sizes.capacity > self.policy.admin_reserve:
            self.reserve = max(0, self.policy.admin_reserve - admin_slots)

    def keep_promises(self) -> None:
        """Start what slots were vacated for, or set the slots aside; and those that resize."""
        for gang in sorted(self.promised, key=_age):
            count = gang.claim or gang.workers
            leaving = [g for g in self.leaving if g.leaving_for == gang.job]
            if self._start(gang, count, "the slots were vacated for it"):
                continue
            if self._set_aside(leaving, [(gang, count)]):
                self.rules[gang.job] = Waiting(gang.job, "vacating")
                continue
            if gang.claim > gang.workers and self._start(gang, gang.workers, "resized"):
                continue
            self.candidates.append(gang)
        for gang in sorted(self.leaving, key=_age):
            if gang.claim and not gang.leaving_for:
                self._set_aside([gang], [(gang, gang.claim)])

    def _set_aside(self, leaving: list[Gang], wanting: list[tuple[Gang, int]]) -> bool:
        """Take out of the room what these lack when those have left; False if it isn't enough.

        Those that leave to be smaller come back with their claim.
        """
        room = self.room
        back = [(g, g.claim) for g in leaving if g.claim and (g, g.claim) not in wanting]
        held = [share for g in leaving for share in g.placement if share.host in room]
        touched = {share.host: room.free[share.host] for share in held}
        for gang in leaving:
            room.give(gang.placement)
        taken: list[Placement] = []
        for gang, count in [*back, *wanting]:
            found = room.place(gang.needs, count, count)
            if found is None:
                break
            for share in found:
                touched.setdefault(share.host, room.free[share.host])
            room.take(found)
            taken.append(found)
        complete = len(taken) == len(back) + len(wanting)
        for host, before in touched.items():
            target = min(before, room.free[host]) if complete else before
            room.add(host, target - room.free[host])
        return complete

    # --- 3. and 4. who starts, and who leaves for it --------------------------------------

    def go_through(self, order: list[Entry]) -> Generator[None, None, None]:
        """Start, preempt or reserve, in the order of the queue."""
        runners = [e for e in order if e.running]
        for entry in runners:
            entry.gives = self._gives(entry)
        left = self.room.total + sum(e.gives for e in runners)
        waiting: list[Entry] = []
        for n, entry in enumerate(order):
            if not n % CHUNK:
                yield
            if not entry.running:
                keep = 0 if entry.level == ADMIN else self.reserve
                entry.should = entry.slots <= left - keep
                left -= entry.slots if entry.should else 0
                waiting.append(entry)
            elif entry.gives:
                least = min(entry.gives, entry.gang.workers * entry.per)
                entry.spare = least > left
                left -= 0 if entry.spare else least
        # Who may have to give something up: who should not run, or has more than the least.
        givers = [e for e in runners if e.gives and (e.spare or e.gang.held > e.gang.workers)]
        for n, entry in enumerate(waiting):
            if not n % CHUNK:
                yield
            self._consider(entry, givers, runners)

    def _gives(self, entry: Entry) -> int:
        """Return the slots that come free if a running gang gives up what it may have to."""
        gang = entry.gang
        slots = entry.slots
        if self.closing:
            slots = sum(share.leased for share in gang.placement if share.host in self.room)
        if self.policy.preemption and gang.preemptible:
            entry.whole = True
            return slots
        return slots * (gang.held - gang.workers) // gang.held if gang.held > gang.workers else 0

    def _consider(self, entry: Entry, givers: list[Entry], runners: list[Entry]) -> None:
        gang = entry.gang
        if self._may_start(entry) and self._start(gang, gang.workers, ""):
            self.started.append(entry)
            if self.head and self.now + self._seconds(entry) > self.shadow:
                self.extra -= entry.slots
        elif entry.should and self._make_room(entry, givers):
            self.rules[gang.job] = Waiting(gang.job, "vacating")
        else:
            self.rules[gang.job] = Waiting(gang.job, self._rule(entry), self._behind(entry))
            if not self.head:
                self._reserve(entry, runners)

    def _rule(self, entry: Entry) -> str:
        free = self.room.total
        if entry.slots <= free:
            if entry.level != ADMIN and entry.slots > free - self.reserve:
                return "reserve"
            return "behind" if self.head else "no slots"
        return "no slots"

    def _behind(self, entry: Entry) -> str:
        return self.head if self._rule(entry) == "behind" else ""

    def _seconds(self, entry: Entry) -> float:
        return forecast.seconds_left(entry.gang, entry.per, entry.gang.workers)

    def _may_start(self, entry: Entry) -> bool:
        """Whether the gang may have free slots: not the reserve, nor what a reservation needs."""
        free = self.room.total - (0 if entry.level == ADMIN else self.reserve)
        if entry.slots > free:
            return False
        if not self.head or entry.slots <= self.extra:
            return True
        if self.now + self._seconds(entry) <= self.shadow and forecast.known(entry.gang):
            return True
        # It can be asked to leave when the time has come, if it had its quantum by then.
        return (
            self.policy.preemption
            and entry.gang.preemptible
            and self.now + forecast.quantum(entry.gang, self.policy) <= self.shadow
        )

    def _start(self, gang: Gang, count: int, why: str) -> bool:
        if not gang.admin and self.reserve:
            per, _ = self.sizes(gang.needs)
            if count * per > self.room.total - self.reserve:
                return False
        placement = self.room.place(gang.needs, count, ranks_of(gang, count))
        if placement is None:
            return False
        self.room.take(placement)
        self.starts[gang.job] = Start(gang.job, count, placement, why)
        if gang.admin:
            self.reserve = max(0, self.reserve - sum(share.leased for share in placement))
        return True

    def _make_room(self, entry: Entry, givers: list[Entry]) -> bool:
        """Ask others to leave so that this gang starts, and set aside what it will need."""
        gang, now = entry.gang, self.now
        at_once = entry.level == ADMIN or entry.tier == STARVED
        if not at_once and now - gang.queued_at < self.policy.patience:
            return False
        asked = {p.job for p in self.preempts} | {r.job for r in self.resizes}
        givers = [e for e in givers if e.gang.job not in asked]
        offers = preemption.losses(entry, givers, now)
        keep = 0 if entry.level == ADMIN else self.reserve

        def fits(given: list[preemption.Loss]) -> bool:
            return self._fits(entry, given, keep)

        lacks = entry.slots + keep - self.room.total
        chosen = preemption.victims(entry, offers, lacks, fits)
        if not chosen:
            return False
        leaving = []
        for loss in chosen:
            victim = loss.entry.gang
            if loss.keeps:
                self.resizes.append(Resize(victim.job, loss.keeps, gang.job))
            else:
                self.preempts.append(Preempt(victim.job, gang.job, loss.cost / loss.entry.slots))
            leaving.append((victim, loss.keeps))
        self._set_aside_for(leaving, gang)
        return True

    def _set_aside_for(self, leaving: list[tuple[Gang, int]], gang: Gang) -> None:
        gone = [replace(g, claim=keeps) for g, keeps in leaving]
        self._set_aside(gone, [(gang, gang.workers)])

    def _fits(self, entry: Entry, given: list[preemption.Loss], keep: int) -> bool:
        gang, needs = entry.gang, entry.gang.needs
        freed = sum(loss.slots for loss in given)
        if self.room.total + freed - keep < entry.slots:
            return False
        if not (needs.cpus or needs.memory or needs.gpus):
            return True
        room = self.room.copy()
        for loss in given:
            room.give(loss.entry.gang.placement)
        for loss in given:
            if loss.keeps:
                back = room.place(loss.entry.gang.needs, loss.keeps, loss.keeps)
                if back is None:
                    return False
                room.take(back)
        return room.place(needs, gang.workers, gang.workers) is not None

    # --- 5. reservations -------------------------------------------------------------------

    def _reserve(self, entry: Entry, runners: list[Entry]) -> None:
        """Reserve for the first that waits: when enough slots are free, as far as is known."""
        asked = {p.job for p in self.preempts}
        ends = [(self.now + g.overhead, g.job, g.slots) for g in self.leaving if not g.claim]
        ends += [
            (self._end(entry, e), e.gang.job, e.slots)
            for e in [*runners, *self.started]
            if e.gang.job not in asked
        ]
        ends.sort()
        free, need = self.room.total, entry.slots
        at = self.now
        for end, _, slots in ends:
            if free >= need:
                break
            free += slots
            at = end
        if free < need:
            return
        self.head, self.shadow, self.extra = entry.gang.job, at, free - need
        self.reservations.append(Reservation(entry.gang.job, at, need))

    def _end(self, starter: Entry, runner: Entry) -> float:
        """Return when a running gang is expected to end, or may be made to leave."""
        gang = runner.gang
        workers = gang.held or gang.workers
        end = self.now + max(0.0, forecast.seconds_left(gang, runner.per, workers))
        if starter.tier == STARVED and runner.whole:
            return min(end, max(self.now, gang.since + forecast.quantum(gang, self.policy)))
        return end

    # --- 6. elastic gangs ------------------------------------------------------------------

    def grow(self, order: list[Entry]) -> None:
        """Give what is left to elastic gangs: those that start, then those that run."""
        for entry in order:
            if self._left_over() < entry.per:
                return
            start = self.starts.get(entry.gang.job)
            if start is not None and entry.gang.most > start.workers:
                self._start_larger(entry, start)
        asked = {p.job for p in self.preempts} | {r.job for r in self.resizes}
        for entry in order:
            free = self._left_over() // entry.per
            gang = entry.gang
            if free < 1 or not entry.running or gang.held >= gang.most or gang.job in asked:
                continue
            larger = min(gang.most, gang.held + free)
            left = forecast.seconds_left(gang, entry.per, gang.held)
            saved = left * (1 - 1 / forecast.speed_up(gang.held, larger))
            if saved > GROWTH_PAYS * gang.overhead:
                more = self.room.place(gang.needs, larger - gang.held, larger - gang.held)
                if more is not None:
                    self.room.take(more)
                    self.resizes.append(Resize(gang.job, larger))

    def _left_over(self) -> int:
        free = self.room.total - self.reserve
        return min(free, self.extra) if self.head else free

    def _start_larger(self, entry: Entry, start: Start) -> None:
        gang = entry.gang
        self.room.give(start.placement)
        count = min(gang.most, start.workers + self._left_over() // entry.per)
        placement = None
        while placement is None:
            placement = self.room.place(gang.needs, count, ranks_of(gang, count))
            count -= 1
        self.room.take(placement)
        self.starts[gang.job] = Start(gang.job, count + 1, placement, start.why)

    # --- the answer ------------------------------------------------------------------------

    def result(self, order: list[Entry]) -> Plan:
        """Return the plan."""
        rules = self.rules
        waiting = [rules[g.job] for g in sorted(self.promised, key=_age) if g.job in rules]
        seen = {w.job for w in waiting}
        waiting += [
            rules[e.gang.job] for e in order if e.gang.job in rules and e.gang.job not in seen
        ]
        excluded = sorted(self.excluded, key=lambda pair: _age(pair[0]))
        waiting += [Waiting(gang.job, rule) for gang, rule in excluded]
        wanted = sum(g.slots for g in self.view.gangs if g.held)
        wanted += sum(
            g.workers * self.sizes(g.needs)[0]
            for g in self.view.gangs
            if not (g.held or g.hold or g.not_before > self.now)
        )
        return Plan(
            tuple(self.starts.values()),
            tuple(self.preempts),
            tuple(self.resizes),
            tuple(self.reservations),
            tuple(waiting),
            wanted,
        )


def _age(gang: Gang) -> tuple[bool, float, str]:
    return (not gang.promised, gang.submitted_at, gang.job)
