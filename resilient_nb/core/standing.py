"""What the last plan left: enough to serve one event at once, until the next plan is made.

A plan looks at everything; most events need little of it. A gang that arrives starts if it fits
what is free and delays nobody; slots that come free go to the first that may have them; a lost
host takes its slots away. Each of these looks at one line of waiting gangs for each different
size and not at all gangs. What was set aside (for whom others leave, for the admin lane) and the
reservation hold as the plan left them; only a plan asks anybody to leave.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from operator import attrgetter

from resilient_nb.core import forecast
from resilient_nb.core.placement import Room, ranks_of
from resilient_nb.core.policy import Policy
from resilient_nb.core.preemption import in_time
from resilient_nb.core.queue import Gang, Start
from resilient_nb.core.ranking import Entry, Sizes, rules_out


@dataclass
class Ahead:
    """The gang that reserved its start for `at`; others may keep `extra` slots beyond that."""

    job: str = ""
    at: float = inf
    extra: int = 0


class Standing:
    """The free slots and the queue after a plan. Mutable; each method is one event.

    Args:
        room: what is free and not set aside for anybody.
        reserve: free slots of it that only the admin lane may have.
        ahead: the reservation in force.
    """

    def __init__(
        self, room: Room, sizes: Sizes, policy: Policy, reserve: int, ahead: Ahead
    ) -> None:
        self._room, self._sizes, self._policy = room, sizes, policy
        self._reserve, self._ahead = reserve, ahead
        # By slots, in the queue's order; and up to which place those of a gang are void.
        self._lines: defaultdict[int, deque[Entry]] = defaultdict(deque)
        self._void: dict[str, int] = {}
        self._count = 0

    def line_up(self, queue: list[Entry]) -> None:
        """Append gangs that wait for slots only, in the order of the plan."""
        lines = self._lines
        for count, entry in enumerate(queue, self._count + 1):
            entry.place = count
            lines[entry.slots].append(entry)
        self._count += len(queue)

    @property
    def free(self) -> int:
        """Slots that nobody holds or was promised."""
        return self._room.total

    def arrived(self, gang: Gang, now: float) -> Start | None:
        """A gang was submitted or queued again: start it if it fits and delays nobody."""
        if rules_out(gang, self._sizes, self._policy, now):
            return None
        per, _ = self._sizes(gang.needs)
        entry = Entry(gang, per, gang.workers * per, forecast.service_left(gang, per), 0)
        # Without a reservation nobody may overtake the first in line.
        free = self._may(entry, now) and (self._ahead.job or not any(self._heads()))
        start = self._start(entry, now) if free else None
        if start is None:
            self._leave_line(gang.job)
            self.line_up([entry])
        return start

    def withdrawn(self, job: str) -> None:
        """A waiting gang was cancelled."""
        self._leave_line(job)
        if job == self._ahead.job:
            self._ahead = Ahead()

    def ended(self, gang: Gang, now: float) -> list[Start]:
        """A gang has ended that wasn't leaving for another: start who may have its slots."""
        if gang.admin:
            self._reserve = min(self._policy.admin_reserve, self._reserve + gang.slots)
        self._room.give(gang.placement)
        return self.serve(now)

    def lost(self, host: str) -> None:
        """A host is gone; its gangs, if they are queued again, arrive."""
        self._room.drop(host)

    def serve(self, now: float) -> list[Start]:
        """Start who may have what is free: the first of each line, in the order of the queue."""
        starts = []
        tried: set[str] = set()
        while self._room.total > 0:
            found = self._first(tried)
            if found is None:
                break
            tried.add(found.job)
            start = self._start(found, now) if self._may(found, now) else None
            if start is not None:
                starts.append(start)
            elif not self._ahead.job:
                break  # the next in line must not be overtaken: it has no reservation yet
        return starts

    def _first(self, tried: set[str]) -> Entry | None:
        """Return the first in the queue among the first of the lines that are left."""
        fits = inf if not self._ahead.job else self._room.total
        firsts = [head for head in self._heads() if head.slots <= fits and head.job not in tried]
        return min(firsts, key=_place, default=None)

    def _heads(self) -> Iterator[Entry]:
        """Yield the first of each line."""
        void = self._void
        for line in self._lines.values():
            while line and line[0].place <= void.get(line[0].job, 0):
                line.popleft()
            if line:
                yield line[0]

    def _leave_line(self, job: str) -> None:
        self._void[job] = self._count

    def _may(self, entry: Entry, now: float) -> bool:
        gang, ahead = entry.gang, self._ahead
        if entry.slots > self._room.total - (0 if gang.admin else self._reserve):
            return False
        if not ahead.job or gang.job == ahead.job or entry.slots <= ahead.extra:
            return True
        return in_time(entry, ahead.at, now, self._policy)

    def _start(self, entry: Entry, now: float) -> Start | None:
        gang, ahead = entry.gang, self._ahead
        placement = self._room.place(
            gang.needs, gang.workers, ranks_of(gang, gang.workers), gang.avoid
        )
        if placement is None:
            return None
        self._room.take(placement)
        self._leave_line(gang.job)
        if gang.job == ahead.job:
            self._ahead = Ahead()
        elif ahead.job and now + entry.left / entry.slots > ahead.at:
            ahead.extra -= entry.slots
        if gang.admin:
            self._reserve = max(0, self._reserve - entry.slots)
        return Start(gang.job, gang.workers, placement)


_place = attrgetter("place")
