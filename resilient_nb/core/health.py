"""The hosts' health as a fold of the journal: which events say what of which host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from resilient_nb.core import events as ev
from resilient_nb.core.breakers import OF_HOSTS, PROVEN, Breaker, Health, Trouble
from resilient_nb.core.chaos import is_chaos
from resilient_nb.core.model import Failure, Job
from resilient_nb.core.queue import Gang, Host
from resilient_nb.core.ranking import Sizes
from resilient_nb.core.world import World


def observe(before: World, after: World, event: ev.Event) -> World:
    """Return `after` with what an event says of hosts."""
    match event:
        case ev.JobRequeued() | ev.JobFailed():
            if event.failure is not None and _of_host(event.failure):
                return _failed(before, after, event, event.failure)
            return _left(before, after, event.job, event.at)
        case ev.JobSucceeded() | ev.JobCancelled():
            return _left(before, after, event.job, event.at)
        case ev.CheckpointCommitted():
            job = after.jobs[event.checkpoint.job]
            return _served(after, job, event.at)
        case ev.GangReserved():
            job = after.jobs[event.job]
            return _each(after, _hosts(job), lambda health: health.took(job.id, event.at))
    return after


def shunned(world: World, now: float) -> frozenset[str]:
    """Return the hosts that new jobs are kept off."""
    # "" is no job's name: it is what none of them is.
    return frozenset(name for name, health in world.health.items() if health.shuns("", now))


def kept_off(hosts: Sequence[Host], gangs: Iterable[Gang], shunned: frozenset[str]) -> bool:
    """Whether all that wait could be held by the other hosts, were those free.

    Only then hosts are left out: no job waits for ever since only such a host could hold it, and
    where there are no others, elastic gangs grow as ever.
    """
    others = tuple(host for host in hosts if host.id not in shunned)
    if not others or len(others) == len(hosts):
        return False
    sizes = Sizes(others)
    return all(gang.held or sizes(gang.needs)[1] >= gang.workers for gang in gangs)


def alerts(world: World, now: float) -> tuple[str, ...]:
    """Return in words which hosts new jobs are kept off, and why."""
    return tuple(
        f"Host {name}: {words}."
        for name, health in sorted(world.health.items())
        if health.breaker(now) is not Breaker.CLOSED and (words := health.words(now))
    )


def _of_host(failure: Failure) -> bool:
    """Whether a failure may be its host's; one that was made on purpose is not."""
    return bool(failure.host) and failure.cause in OF_HOSTS and not is_chaos(failure)


def _failed(
    before: World, after: World, event: ev.JobRequeued | ev.JobFailed, failure: Failure
) -> World:
    trouble = Trouble(event.at, failure.cause, event.job, failure.step)
    health = after.health.get(failure.host, Health()).failed(trouble)
    # Hosts come and go: of those that are gone nothing is kept.
    known = {name: old for name, old in after.health.items() if not old.is_past(event.at)}
    after = replace(after, health={**known, failure.host: health})
    return _left(before, after, event.job, event.at, but=failure.host)


def _left(before: World, after: World, name: str, at: float, but: str = "") -> World:
    """A job's attempt has ended; whichever of its hosts it ran on for long is well."""
    job = before.jobs[name]
    ran = at - job.started_at if job.started_at is not None else 0.0
    hosts = [host for host in _hosts(job) if host != but]
    if ran >= PROVEN:
        after = _each(after, hosts, lambda health: health.served(at))
    return _each(after, hosts, lambda health: health.left(name, at))


def _served(world: World, job: Job, at: float) -> World:
    return _each(world, _hosts(job), lambda health: health.served(at))


def _hosts(job: Job) -> list[str]:
    return [share.host for share in job.placement]


def _each(world: World, hosts: Iterable[str], change: Callable[[Health], Health]) -> World:
    """Return the world after a change of some hosts; of most there is nothing known."""
    news = {}
    for host in hosts:
        old = world.health.get(host)
        if old is not None and (new := change(old)) is not old:
            news[host] = new
    if not news:
        return world
    health = {name: h for name, h in {**world.health, **news}.items() if h != Health()}
    return replace(world, health=health)
