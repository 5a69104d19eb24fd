"""How much may be high or urgent: the administrator's limits, applied when a job comes in.

A job over a limit is not refused: it goes one priority lower, with a message that names the
limit. Claims of urgency that cost nothing would soon mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient_nb.core.accounting import group_of
from resilient_nb.core.model import Job, JobSpec, JobState, Priority
from resilient_nb.core.policy import DAY, Limits, Policy
from resilient_nb.core.world import World

_LOWER = {Priority.URGENT: Priority.HIGH, Priority.HIGH: Priority.NORMAL}


@dataclass(frozen=True)
class Granted:
    """The priority that a job gets, and what to tell its user if it is not the one asked for."""

    priority: Priority
    message: str = ""


def grant(world: World, spec: JobSpec, now: float) -> Granted:
    """Return the highest priority, at most the one asked for, that no limit forbids.

    `spec.user` and `spec.group` are already those that the server knows.
    """
    priority, messages = spec.priority, []
    while priority in _LOWER and (broken := _broken(world, spec, priority, now)):
        lower = _LOWER[priority]
        messages.append(f"{broken[0].upper()}{broken[1:]}: submitted as {lower}.")
        priority = lower
    return Granted(priority, " ".join(messages))


def _broken(world: World, spec: JobSpec, priority: Priority, now: float) -> str:
    """Return the first limit that one more job of this priority would break, "" if none."""
    policy, jobs = world.policy, world.jobs.values()
    mine = [job for job in jobs if job.spec.user == spec.user]
    ours = [job for job in jobs if group_of(world, job) == spec.group]
    return _over(
        "yours", _of_user(policy, spec.user, priority), mine, spec, priority, now
    ) or _over(
        f"group {spec.group}", _of_group(policy, spec.group, priority), ours, spec, priority, now
    )


def _over(
    who: str, limits: Limits, jobs: list[Job], spec: JobSpec, priority: Priority, now: float
) -> str:
    same = [job for job in jobs if job.spec.priority is priority]
    unfinished = [job for job in same if not job.state.final]
    slots = sum(max(job.slots, job.spec.workers) for job in unfinished)
    waiting = sum(job.state is JobState.QUEUED for job in unfinished)
    today = sum(now - job.submitted_at < DAY for job in same)
    if limits.running is not None and slots + spec.workers > limits.running:
        return f"{slots} of {limits.running} {priority} slots of {who} are in use or waited for"
    if limits.waiting is not None and waiting + 1 > limits.waiting:
        return f"{waiting} of at most {limits.waiting} {priority} jobs of {who} wait already"
    if limits.per_day is not None and today + 1 > limits.per_day:
        return f"{today} of {limits.per_day} {priority} jobs of {who} in 24 hours are used up"
    return ""


def _of_user(policy: Policy, user: str, priority: Priority) -> Limits:
    rule = policy.users.get(user)
    own = rule.limits.get(priority) if rule else None
    return own or policy.limits.get(priority, Limits())


def _of_group(policy: Policy, group: str, priority: Priority) -> Limits:
    rule = policy.groups.get(group)
    return rule.limits.get(priority, Limits()) if rule else Limits()
