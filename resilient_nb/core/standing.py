"""What the last plan left: enough to serve one event at once, until the next plan is made.

A plan looks at everything; most events need little of it. A gang that arrives starts if it fits
what is free and delays nobody; slots that come free go to the first that may have them; a lost
host takes its slots away. Each of these looks at one line of waiting gangs for each different
size and not at all gangs. What was set aside (for whom others leave, for the admin lane) and the
reservation hold as the plan left them; only a plan asks anybody to leave.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf

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
        queue: who waits for slots, in the order of the plan.
    """

    def __init__(
        self, room: Room, sizes: Sizes, policy: Policy, reserve: int, ahead: Ahead,
        queue: list[Entry],
    ) -> None:  # fmt: skip
        self._room, self._sizes, self._policy = room, sizes, policy
        self._reserve, self._ahead = reserve, ahead
        self._lines: dict[int, deque[tuple[int, Entry]]] = {}  # by slots, in the queue's order
        self._waits: dict[str, int] = {}
        self._count = 0
        for entry in queue:
            self._line_up(entry)

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
        free = self._ahead.job or not self._waits
        start = self._start(entry, now) if free and self._may(entry, now) else None
        if start is None:
            self._line_up(entry)
        return start

    def withdrawn(self, job: str) -> None:
        """A waiting gang was cancelled."""
        self._waits.pop(job, None)
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
            tried.add(found.gang.job)
            start = self._start(found, now) if self._may(found, now) else None
            if start is not None:
                starts.append(start)
            elif not self._ahead.job:
                break  # the next in line must not be overtaken: it has no reservation yet
        return starts

    def _first(self, tried: set[str]) -> Entry | None:
        """Return the first in the queue among the first of the lines that are left."""
        best: tuple[int, Entry] | None = None
        fits = inf if not self._ahead.job else self._room.total
        for slots, line in self._lines.items():
            while line and self._waits.get(line[0][1].gang.job) != line[0][0]:
                line.popleft()
            if line and slots <= fits and line[0][1].gang.job not in tried:
                best = min(best or line[0], line[0], key=_rank)
        return best[1] if best else None

    def _line_up(self, entry: Entry) -> None:
        self._count += 1
        self._waits[entry.gang.job] = self._count  # an older row of the same gang is void now
        self._lines.setdefault(entry.slots, deque()).append((self._count, entry))

    def _may(self, entry: Entry, now: float) -> bool:
        gang, ahead = entry.gang, self._ahead
        if entry.slots > self._room.total - (0 if gang.admin else self._reserve):
            return False
        if not ahead.job or gang.job == ahead.job or entry.slots <= ahead.extra:
            return True
        return in_time(entry, ahead.at, now, self._policy)

    def _start(self, entry: Entry, now: float) -> Start | None:
        gang, ahead = entry.gang, self._ahead
        placement = self._room.place(gang.needs, gang.workers, ranks_of(gang, gang.workers))
        if placement is None:
            return None
        self._room.take(placement)
        self._waits.pop(gang.job, None)
        if gang.job == ahead.job:
            self._ahead = Ahead()
        elif ahead.job and now + entry.left / entry.slots > ahead.at:
            ahead.extra -= entry.slots
        if gang.admin:
            self._reserve = max(0, self._reserve - entry.slots)
        return Start(gang.job, gang.workers, placement)


def _rank(row: tuple[int, Entry]) -> int:
    return row[0]
