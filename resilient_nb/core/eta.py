"""When waiting jobs will start, as far as the ends of others are known."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import NamedTuple

from resilient_nb.core import forecast
from resilient_nb.core.queue import Plan, QueueView


class ExpectedStart(NamedTuple):
    """When a waiting gang is expected to start.

    `guess` is a job that must end first and whose end nobody knows ("": nothing was guessed).
    """

    at: float
    guess: str = ""


def expected_starts(view: QueueView, plan: Plan, now: float) -> Mapping[str, ExpectedStart]:
    """Return the expected start of each waiting gang for which enough is known.

    The queue is walked in the plan's order with slots becoming free as running gangs end by
    their live step rate, or as declared. A gang whose end is unknown keeps its slots: what can
    only start after it has no expected start, but for the first in line, which has a reservation.
    Nothing is preempted in this forecast, so a start can come sooner; it can come later if
    predictions err or more urgent jobs come in.
    """
    gangs = {gang.job: gang for gang in view.gangs}
    free = sum(host.free for host in view.hosts)
    ends: list[tuple[float, int]] = []
    for gang in view.gangs:
        if gang.held and (left := forecast.predicted(gang)) is not None:
            ends.append((now + left, gang.slots))
    heapq.heapify(ends)
    promised = {row.job: row for row in plan.reservations}
    found: dict[str, ExpectedStart] = {}
    at = now
    for row in plan.waiting:
        gang = gangs[row.job]
        if gang.hold or row.rule == "too wide":
            continue
        start = max(at, gang.not_before)
        while free < gang.workers and ends:
            end, slots = heapq.heappop(ends)
            start, free = max(start, end), free + slots
        if free < gang.workers:
            if row.job in promised:
                found[row.job] = ExpectedStart(promised[row.job].at, promised[row.job].guess)
            break
        free, at = free - gang.workers, start
        found[row.job] = ExpectedStart(start)
        if (left := forecast.predicted(gang)) is not None:
            heapq.heappush(ends, (start + left, gang.workers))
    return {job: start._replace(at=max(now, start.at)) for job, start in found.items()}
