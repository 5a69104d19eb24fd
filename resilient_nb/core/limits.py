"""How much may be high or urgent: the administrator's limits, applied when a job comes in.

A job over a limit is not refused: it goes one priority lower, with a message that names the
limit. Claims of urgency that cost nothing would soon mean nothing: an elastic job counts with the
most that it may hold, and an urgent job brings those that it waits for, which inherit its priority.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilient_nb.core import dependencies
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
    policy = world.policy
    mine, ours = _of_user(policy, spec.user, priority), _of_group(policy, spec.group, priority)
    if mine == ours == Limits():
        return ""
    jobs = [job for job in world.jobs.values() if job.spec.priority is priority]
    of_user = [job for job in jobs if job.spec.user == spec.user]
    of_group = [job for job in jobs if group_of(world, job) == spec.group]
    return _over(world, Asked("yours", mine, spec, priority), of_user, now) or _over(
        world, Asked(f"group {spec.group}", ours, spec, priority), of_group, now
    )


@dataclass(frozen=True)
class Asked:
    """A job that asks for a priority, and whose limits are looked at."""

    who: str
    limits: Limits
    spec: JobSpec
    priority: Priority


def _over(world: World, asked: Asked, same: list[Job], now: float) -> str:
    limits, spec, priority, who = asked.limits, asked.spec, asked.priority, asked.who
    unfinished = {job.id: job for job in same if not job.state.final}
    after = [name for job in unfinished.values() for name in job.spec.after]
    have = {**unfinished, **_raised(world, after, priority)}
    more = [job for name, job in _raised(world, spec.after, priority).items() if name not in have]
    slots = sum(max(job.slots, _most(job.spec)) for job in have.values())
    adds = _most(spec) + sum(max(job.slots, _most(job.spec)) for job in more)
    waiting = sum(job.state is JobState.QUEUED for job in have.values())
    today = sum(now - job.submitted_at < DAY for job in same)
    by = f" (it brings {len(more)} that it waits for)" if more else ""
    if limits.running is not None and slots + adds > limits.running:
        return f"{slots} of {limits.running} {priority} slots of {who} are in use or waited for{by}"
    if limits.waiting is not None and waiting + 1 + len(more) > limits.waiting:
        return f"{waiting} of at most {limits.waiting} {priority} jobs of {who} wait already{by}"
    if limits.per_day is not None and today + 1 + len(more) > limits.per_day:
        return f"{today} of {limits.per_day} {priority} jobs of {who} in 24 hours are used up{by}"
    return ""


def _raised(world: World, after: Iterable[str], priority: Priority) -> dict[str, Job]:
    """Return the jobs that inherit a priority from jobs that wait for these."""
    found = dependencies.blockers(world, after)
    return {job.id: job for job in found if job.spec.priority.rank < priority.rank}


def _most(spec: JobSpec) -> int:
    return max(spec.workers, spec.max_workers)


def _of_user(policy: Policy, user: str, priority: Priority) -> Limits:
    rule = policy.users.get(user)
    own = rule.limits.get(priority) if rule else None
    return own or policy.limits.get(priority, Limits())


def _of_group(policy: Policy, group: str, priority: Priority) -> Limits:
    rule = policy.groups.get(group)
    return rule.limits.get(priority, Limits()) if rule else Limits()
