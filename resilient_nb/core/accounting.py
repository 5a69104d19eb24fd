"""Who is charged for what: the ledger's part of the fold over the journal.

A user is charged for the slots that a gang holds, from its reservation to its end, and is
entitled to a share while a job of theirs could use slots: one that waits for another job can't.
What runs at an inherited high priority is charged as high: else one urgent job that waits for all
of a user's others would make them urgent for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from resilient_nb.core import events as ev
from resilient_nb.core import shares
from resilient_nb.core.dependencies import dependents, unmet
from resilient_nb.core.model import Job, Priority
from resilient_nb.core.shares import Ledger
from resilient_nb.core.world import World

_HIGH = (Priority.HIGH, Priority.URGENT)


@dataclass(frozen=True)
class Use:
    """What one job wants and holds, in slots."""

    wanted: int = 0
    held: int = 0
    high: int = 0


def use(world: World, job: Job) -> Use:
    """Return what a job counts for now."""
    if job.state.final:
        return Use()
    held = job.slots
    high = held if job.priority in _HIGH else 0
    if not held and unmet(world, job):
        return Use()
    return Use(max(job.spec.workers, job.spec.max_workers, held), held, high)


def group_of(world: World, job: Job) -> str:
    """Return the group that is charged for a job."""
    return job.spec.group or world.policy.group_of(job.spec.user)


def charge(before: World, after: World, event: ev.Event) -> World:
    """Return `after` with the ledger brought up to the event's time and changed by it."""
    ledger = after.ledger
    if isinstance(event, ev.CapacityChanged):
        ledger = shares.resize(ledger, event.at, before.policy, event.slots)
    elif isinstance(event, ev.PolicyChanged):
        ledger = shares.resize(ledger, event.at, before.policy, ledger.capacity)
        ledger = _regrouped(ledger, before, after, event.at)
    else:
        for job in _touched(after, event):
            old = before.jobs.get(job.id)
            was, now = use(before, old) if old else Use(), use(after, job)
            if was != now:
                ledger = shares.change(
                    ledger,
                    event.at,
                    after.policy,
                    job.spec.user,
                    group_of(after, job),
                    wanted=now.wanted - was.wanted,
                    held=now.held - was.held,
                    high=now.high - was.high,
                )
    return after if ledger is after.ledger else replace(after, ledger=ledger)


def _regrouped(ledger: Ledger, before: World, after: World, at: float) -> Ledger:
    """Move what jobs that named no group use, if their user is in another one now."""
    for job in after.open.values():
        old, new = group_of(before, job), group_of(after, job)
        if old != new:
            now, user = use(after, job), job.spec.user
            for group, sign in ((old, -1), (new, 1)):
                ledger = shares.change(
                    ledger,
                    at,
                    after.policy,
                    user,
                    group,
                    wanted=sign * now.wanted,
                    held=sign * now.held,
                    high=sign * now.high,
                )
    return ledger


def _touched(world: World, event: ev.Event) -> tuple[Job, ...]:
    name = getattr(event, "job", None)
    if name is None:
        return ()
    job = world.jobs[name]
    # A success lets those run that waited for it.
    freed = dependents(world, job.run) if isinstance(event, ev.JobSucceeded) else ()
    return (job, *freed)
