"""The working out of one plan: what was found so far, and each step of `scheduling`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from math import inf
from operator import attrgetter

from resilient_nb.core import forecast, preemption
from resilient_nb.core.placement import Room, ranks_of
from resilient_nb.core.promises import fits_without, set_aside
from resilient_nb.core.queue import (
    Gang,
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
    rules_out,
    widest,
)
from resilient_nb.core.standing import Ahead, Standing

#: So many gangs are asked to leave by one plan (unless the admin lane needs more): all of them
#: write checkpoints at the same time, to the same store.
AT_ONCE = 64
#: Growing an elastic gang must save so many times what its restart costs.
GROWTH_PAYS = 3.0


class Desk:
    """One plan in the making: see `scheduling` for the steps."""

    def __init__(self, view: QueueView, now: float) -> None:
        self.view, self.now, self.policy = view, now, view.policy
        self.sizes = Sizes(view.hosts)
        self.room = Room(view.hosts)
        self.closing = any(host.closing for host in view.hosts)
        self.candidates: list[Gang] = []  # run, or may start
        self.leaving: list[Gang] = []
        self.promised: list[Gang] = []
        self.kept: list[tuple[Gang, int]] = []  # wait for slots that are being vacated
        self.excluded: list[tuple[Gang, str]] = []
        self.starts: dict[str, Start] = {}
        self.preempts: list[Preempt] = []
        self.resizes: list[Resize] = []
        self.reservations: list[Reservation] = []
        self.waiting: list[Waiting] = []
        self.queue: list[Entry] = []  # of those, who only lack slots
        self.coming: list[Entry] = []  # start now, or when slots have been vacated for them
        self.offers: preemption.Offers | None = None
        self.reserve = 0
        self.wanted = 0
        # The reservation in force: when it starts, and what others may keep beyond that time.
        self.head = ""
        self.shadow, self.extra = inf, 0

    # --- 1. who is who, and what is promised ---------------------------------------------

    def sort_out(self) -> Generator[None, None, None]:
        """Part the gangs into those that run, may start, leave, and can't start."""
        now, sizes, policy, candidates = self.now, self.sizes, self.policy, self.candidates
        admin_slots = wanted = most = 0
        needs, per = None, 1
        for n, gang in enumerate(self.view.gangs):
            if not n % CHUNK:
                yield
            if gang.held:
                wanted += gang.slots
                admin_slots += gang.slots if gang.admin else 0
                (self.leaving if gang.leaving else candidates).append(gang)
                continue
            workers = gang.workers
            if gang.needs is not needs:  # most share one
                needs = gang.needs
                per, most = sizes(needs)
                most = widest(per, most, sizes, policy)
            # Nearly all pass: the rules are asked only about those that may not.
            if gang.hold or gang.not_before > now or workers > most:
                rule = rules_out(gang, sizes, policy, now)
                if rule:
                    wanted += workers * per if rule == "too wide" else 0
                    self.excluded.append((gang, rule))
                    continue
            wanted += workers * per
            (self.promised if gang.promised or gang.claim else candidates).append(gang)
        yield
        self.wanted = wanted
        for_whom = {gang.leaving_for for gang in self.leaving} - {""}
        if for_whom:
            self.promised += [g for g in candidates if g.job in for_whom and not g.held]
            self.candidates = [g for g in candidates if g.job not in for_whom or g.held]
        self.candidates.sort(key=_by_name)  # so that the order of the input doesn't matter
        if sizes.capacity > policy.admin_reserve:
            self.reserve = max(0, policy.admin_reserve - admin_slots)

    def keep_promises(self) -> None:
        """Start what slots were vacated for, or set the slots aside; and those that resize."""
        for gang in sorted(self.promised, key=_age):
            count = gang.claim or gang.workers
            leaving = [g for g in self.leaving if g.leaving_for == gang.job]
            if self._start(gang, count, "the slots were vacated for it"):
                continue
            if set_aside(self.room, leaving, [(gang, count)]):
                self.waiting.append(Waiting(gang.job, "vacating"))
                self.kept.append((gang, count))
                continue
            if gang.claim > gang.workers and self._start(gang, gang.workers, "resized"):
                continue
            self.candidates.append(gang)
        for gang in sorted(self.leaving, key=_age):
            if gang.claim and not gang.leaving_for:
                set_aside(self.room, [gang], [(gang, gang.claim)])

    # --- 3. and 4. who starts, and who leaves for it --------------------------------------

    def go_through(self, order: list[Entry]) -> Generator[None, None, None]:
        """Start, preempt or reserve, in the order of the queue."""
        runners: list[Entry] = []
        waiting: list[Entry] = []
        for at in range(0, len(order), CHUNK):
            yield
            for entry in order[at : at + CHUNK]:
                if entry.held:
                    entry.gives = self._gives(entry)
                    runners.append(entry)
                else:
                    waiting.append(entry)
        yield from self._who_should_run(order, self.room.total + sum(e.gives for e in runners))
        # Who may have to give something up: who should not run, or has more than the least.
        givers = [e for e in runners if e.gives and (e.spare or e.held > e.gang.workers)]
        for at in range(0, len(waiting), CHUNK):
            yield
            some = waiting[at : at + CHUNK]
            if self._full and not any(entry.should for entry in some):
                self.queue += some
                self.waiting += [Waiting(entry.job, "no slots") for entry in some]
                continue
            for entry in some:
                if self._full and not (entry.should and self._asks(entry)):
                    self.queue.append(entry)
                    self.waiting.append(Waiting(entry.job, "no slots"))
                elif self._consider(entry, givers, runners):
                    yield

    @property
    def _full(self) -> bool:
        """Whether nobody starts any more unless others are asked to leave."""
        return bool(self.head) and self.room.total <= 0

    def _who_should_run(self, order: list[Entry], left: int) -> Generator[None, None, None]:
        """Give each its smallest size while these slots last: who should run, and who is spare."""
        reserve = self.reserve
        for at in range(0, len(order), CHUNK):
            yield
            for entry in order[at : at + CHUNK]:
                if entry.gives:
                    least = min(entry.gives, entry.gang.workers * entry.per)
                    entry.spare = least > left
                    left -= 0 if entry.spare else least
                elif left and not entry.held:
                    slots = entry.slots
                    entry.should = slots <= left - (0 if entry.level == ADMIN else reserve)
                    left -= slots if entry.should else 0

    def _gives(self, entry: Entry) -> int:
        """Return the slots that come free if a running gang gives up what it may have to."""
        gang = entry.gang
        slots = self._open(entry)
        if gang.held > gang.workers:
            entry.surplus = max(0, slots - gang.workers * entry.per)
        entry.whole = self.policy.preemption and gang.preemptible
        return slots if entry.whole else entry.surplus

    def _consider(self, entry: Entry, givers: list[Entry], runners: list[Entry]) -> bool:
        """Decide about one that waits; return whether that was much work."""
        gang = entry.gang
        if self._may_start(entry) and self._start(gang, gang.workers, ""):
            self.coming.append(entry)
            if self.head and self.now + self._seconds(entry) > self.shadow:
                self.extra -= entry.slots
            return entry.slots > CHUNK // 10
        if self._make_room(entry, givers):
            self.waiting.append(Waiting(gang.job, "vacating"))
            return True
        self.queue.append(entry)
        self.waiting.append(self._why(entry))
        if not self.head:
            self._reserve(entry, runners)
            return True
        return entry.should

    def _why(self, entry: Entry) -> Waiting:
        free = self.room.total
        if entry.slots > free:
            return Waiting(entry.job, "no slots")
        if entry.level != ADMIN and entry.slots > free - self.reserve:
            return Waiting(entry.job, "reserve")
        return Waiting(entry.job, "behind" if self.head else "no slots", self.head)

    def _seconds(self, entry: Entry) -> float:
        return forecast.seconds_left(entry.gang, entry.per, entry.gang.workers)

    def _may_start(self, entry: Entry) -> bool:
        """Whether the gang may have free slots: not the reserve, nor what a reservation needs."""
        free = self.room.total - (0 if entry.level == ADMIN else self.reserve)
        if entry.slots > free:
            return False
        if not self.head or entry.slots <= self.extra:
            return True
        return preemption.in_time(entry, self.shadow, self.now, self.policy)

    def _start(self, gang: Gang, count: int, why: str) -> bool:
        if not gang.admin and self.reserve:
            per, _ = self.sizes(gang.needs)
            if count * per > self.room.total - self.reserve:
                return False
        placement = self.room.place(gang.needs, count, ranks_of(gang, count), gang.avoid)
        if placement is None:
            return False
        self.room.take(placement)
        self.starts[gang.job] = Start(gang.job, count, placement, why)
        if gang.admin:
            self.reserve = max(0, self.reserve - sum(share.leased for share in placement))
        return True

    def _asks(self, entry: Entry) -> bool:
        """Whether others may be asked to leave for this one, if that pays."""
        if not entry.should or entry.level == ADMIN:
            return entry.should
        if len(self.preempts) + len(self.resizes) >= AT_ONCE:
            return False
        waited = self.now - entry.gang.queued_at
        return waited >= self.policy.patience or entry.tier == STARVED

    def _make_room(self, entry: Entry, givers: list[Entry]) -> bool:
        """Ask others to leave so that this gang starts, and set aside what it will need."""
        gang, now = entry.gang, self.now
        if not givers or not self._asks(entry):
            return False
        if self.offers is None:
            self.offers = preemption.Offers(givers, now)
        keep = 0 if entry.level == ADMIN else self.reserve

        def fits(given: list[preemption.Loss]) -> bool:
            return fits_without(self.room, entry, given, keep)

        lacks = entry.slots + keep - self.room.total
        chosen = self.offers.victims(entry, lacks, fits)
        if not chosen:
            return False
        leaving = []
        for loss in chosen:
            victim = loss.entry.gang
            if loss.keeps:
                self.resizes.append(Resize(victim.job, loss.keeps, gang.job))
            else:
                self.preempts.append(Preempt(victim.job, gang.job, loss.cost / loss.entry.slots))
            leaving.append(replace(victim, claim=loss.keeps))
        set_aside(self.room, leaving, [(gang, gang.workers)])
        self.coming.append(entry)
        return True

    # --- 5. reservations -------------------------------------------------------------------

    def _reserve(self, entry: Entry, runners: list[Entry]) -> None:
        """Reserve for the first that waits: when enough slots are free, as far as is known."""
        asked = {p.job for p in self.preempts}
        ends = [(self.now + g.overhead, g.job, g.slots, False) for g in self.leaving if not g.claim]
        for gang, count in self.kept:
            per = self.sizes(gang.needs)[0]
            left = forecast.seconds_left(gang, per, count)
            ends.append((self.now + left, gang.job, count * per, not forecast.known(gang)))
        for e in [*runners, *self.coming]:
            if e.job not in asked:
                end, guessed = self._end(entry, e)
                ends.append((end, e.job, e.slots, guessed))
        ends.sort()
        free, need, at, guess = self.room.total, entry.slots, self.now, ""
        for end, job, slots, guessed in ends:
            if free >= need:
                break
            free, at = free + slots, end
            guess = job if guessed else guess
        self.head, self.shadow, self.extra = entry.job, inf, 0
        if free >= need:
            self.shadow, self.extra = at, free - need
            self.reservations.append(Reservation(entry.job, at, need, guess))

    def _end(self, starter: Entry, runner: Entry) -> tuple[float, bool]:
        """Return when a running gang is expected to end, or may be made to leave.

        The second value says whether that is only a guess.
        """
        gang = runner.gang
        workers = gang.held or gang.workers
        end = self.now + max(0.0, forecast.seconds_left(gang, runner.per, workers))
        if starter.tier == STARVED and runner.whole:
            leaves = max(self.now, gang.since + forecast.quantum(gang, self.policy))
            if leaves <= end:
                return leaves, False
        return end, not forecast.known(gang)

    # --- 6. elastic gangs ------------------------------------------------------------------

    def grow(self, order: list[Entry]) -> None:
        """Give what is left to elastic gangs: those that start, then those that run."""
        for entry in order:
            if self._left_over() < entry.per:
                return
            start = self.starts.get(entry.job)
            if start is not None and entry.gang.most > start.workers:
                self._start_larger(entry, start)
        asked = {p.job for p in self.preempts} | {r.job for r in self.resizes}
        for entry in order:
            gang, free = entry.gang, self._left_over()
            if free < entry.per or not gang.held or gang.held >= gang.most or gang.job in asked:
                continue
            if not (gang.exact or gang.saved_at > gang.since):
                continue  # it was never seen to make a step: it might have to begin again
            larger = min(gang.most, (self._open(entry) + free) // entry.per)
            if larger <= gang.held:
                continue
            left = forecast.seconds_left(gang, entry.per, gang.held)
            saved = left * (1 - 1 / forecast.speed_up(gang.held, larger))
            if saved > GROWTH_PAYS * gang.overhead and set_aside(
                self.room, [gang], [(gang, larger)]
            ):
                self.resizes.append(Resize(gang.job, larger))

    def _open(self, entry: Entry) -> int:
        """Return the slots that the gang holds on hosts that stay."""
        if not self.closing:
            return entry.slots
        return sum(share.leased for share in entry.gang.placement if share.host in self.room)

    def _left_over(self) -> int:
        free = self.room.total - self.reserve
        return min(free, self.extra) if self.head else free

    def _start_larger(self, entry: Entry, start: Start) -> None:
        gang = entry.gang
        self.room.give(start.placement)
        count = min(gang.most, start.workers + self._left_over() // entry.per)
        placement = None
        while placement is None:
            placement = self.room.place(gang.needs, count, ranks_of(gang, count), gang.avoid)
            count -= 1
        self.room.take(placement)
        self.starts[gang.job] = Start(gang.job, count + 1, placement, start.why)

    # --- the answer ------------------------------------------------------------------------

    def result(self) -> Plan:
        """Return the plan."""
        self.excluded.sort(key=lambda pair: _age(pair[0]))
        waiting = self.waiting + [Waiting(gang.job, rule) for gang, rule in self.excluded]
        return Plan(
            tuple(self.starts.values()),
            tuple(self.preempts),
            tuple(self.resizes),
            tuple(self.reservations),
            tuple(waiting),
            self.wanted,
        )

    def standing(self) -> Standing:
        """Return what is left for the next events; the queue has still to be lined up."""
        ahead = Ahead(self.head, self.shadow, max(0, self.extra))
        return Standing(self.room, self.sizes, self.policy, self.reserve, ahead)


_by_name = attrgetter("job")


def _age(gang: Gang) -> tuple[bool, float, str]:
    return (not gang.promised, gang.submitted_at, gang.job)
