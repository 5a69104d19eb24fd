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

`desk` works them out. What a full plan costs is spread over pieces (`planning`); between two of
them `standing` serves single events.
"""

from __future__ import annotations

from collections.abc import Generator

from resilient_nb.core.desk import Desk
from resilient_nb.core.queue import Host, Plan, QueueView
from resilient_nb.core.ranking import CHUNK, ranked
from resilient_nb.core.standing import Standing

__all__ = ["Host", "QueueView", "deciding", "plan", "planning"]


def plan(view: QueueView, now: float) -> Plan:
    """Return all decisions of this moment.

    No gang waits for ever. With preemption, one that fits the cluster, may start and is of normal
    or low priority holds its slots at the latest `STARVING * STRETCH_BASE` (54 h; longer by
    `STARVING` times its length, as far as that is known) after its submission, plus one turn for
    each gang that starves when it does: a quantum (of whoever is running) and the time that
    leaving takes. It doesn't count what runs unpreemptibly, nor the admin lane and high
    priorities, which their budgets bound. Without preemption its reservation holds instead, and
    the bound is when those that run have ended.
    """
    steps = planning(view, now)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Plan = end.value
            return result


def planning(view: QueueView, now: float) -> Generator[None, None, Plan]:
    """Make a plan in steps of a millisecond or so: yields between them, returns the plan."""
    desk = yield from _made(view, now)
    return desk.result()


def deciding(view: QueueView, now: float) -> Generator[None, None, tuple[Plan, Standing]]:
    """Like `planning`; returns what the plan leaves too, for the events until the next one."""
    desk = yield from _made(view, now)
    left = desk.standing()
    for at in range(0, len(desk.queue), CHUNK):
        yield
        left.line_up(desk.queue[at : at + CHUNK])
    yield
    return desk.result(), left


def _made(view: QueueView, now: float) -> Generator[None, None, Desk]:
    desk = Desk(view, now)
    yield
    yield from desk.sort_out()
    yield
    desk.keep_promises()
    order = yield from ranked(view, desk.candidates, desk.sizes, now)
    yield from desk.go_through(order)
    yield
    desk.grow(order)
    yield
    return desk
