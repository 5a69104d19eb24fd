"""Why a job waits, in words, and what would start it now.

What would help is not guessed: the plan is made again with the job changed, and only what then
starts is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from resilient_nb.core import forecast, proposals
from resilient_nb.core.accounting import group_of
from resilient_nb.core.dependencies import unmet, upstream
from resilient_nb.core.eta import ExpectedStart, expected_starts
from resilient_nb.core.explain import failure_text, headless, way_on
from resilient_nb.core.model import Job, JobState, Priority, Resources
from resilient_nb.core.queue import Gang, Host, Plan, QueueView, Waiting
from resilient_nb.core.room import lacks, largest
from resilient_nb.core.scheduling import plan
from resilient_nb.core.shares import advance, entitlements
from resilient_nb.core.views import QueueReport, QueueRow, ShareRow, WhyReport
from resilient_nb.core.world import World


class Capacity(NamedTuple):
    """All slots, those that are free, and the most of each that one worker could have."""

    total: int
    free: int
    most: Resources


def capacity(hosts: Sequence[Host]) -> Capacity:
    """Return what a cluster has, as far as reasons speak of it."""
    return Capacity(sum(h.slots for h in hosts), sum(h.free for h in hosts), largest(hosts))


def words(row: Waiting, gang: Gang, has: Capacity, made: Plan, now: float) -> str:
    """Return the rule that holds a waiting gang as a sentence."""
    total, free = has.total, has.free
    match row.rule:
        case "hold":
            return gang.hold
        case "backoff":
            return f"Retries in {max(0.0, gang.not_before - now):.1f} s (back-off)."
        case "too wide":
            return _too_wide(gang, has)
        case "behind":
            promised = next((r for r in made.reservations if r.job == row.behind), None)
            if promised is not None:
                when = _in(promised.at - now) + (" (a guess)" if promised.guess else "")
                return f"Would delay {row.behind}, which is to start {when}."
            return f"Waits behind {row.behind}, which comes first."
        case "vacating":
            return "Starts as soon as others have left at a checkpoint to make room."
        case "reserve":
            return f"The {free} free slots are kept for administrators' jobs."
    return f"Needs {_workers(gang.workers)} at once; {free} of {total} slots are free."


def why_report(world: World, job: Job, view: QueueView, now: float) -> WhyReport:
    """Return why a job is where it is."""
    if job.state is not JobState.QUEUED:
        text, remedies = _not_waiting(world, job), proposals.remedies(job)
        if job.state is JobState.FAILED:
            remedies = tuple(_ways_on(world, job))
        return WhyReport(job.id, job.state, job.state.value, text, remedies=remedies)
    made = plan(view, now)
    row = next((r for r in made.waiting if r.job == job.id), None)
    gang = next(g for g in view.gangs if g.job == job.id)
    if row is None:
        return WhyReport(job.id, job.state, "starting", "It starts now.", now)
    text = words(row, gang, capacity(view.hosts), made, now)
    text = " ".join(part for part in (job.message, text) if part)
    start = expected_starts(view, made, now).get(job.id)
    remedies = tuple(_remedies(world, job, gang, view, row, now))
    return WhyReport(
        job.id,
        job.state,
        row.rule,
        text,
        start.at if start else None,
        remedies,
        start.guess if start else "",
    )


def _ways_on(world: World, job: Job) -> Iterator[str]:
    """Yield how a job that has failed goes on, and from where."""
    run, way = world.runs[job.run], way_on(job.run, job.failures)
    at = "It starts at the beginning."
    if run.head is not None:
        at = f"It goes on from step {world.checkpoint(run.head).step}."
    yield f"{way[0].upper()}{way[1:]}. {at}"
    if run.head is None and run.checkpoints:
        newest = list(run.checkpoints.values())[-1]
        yield headless(run.name, run.jobs[-1], world.active_job(run.name) is not None, newest.step)


def _remedies(
    world: World, job: Job, gang: Gang, view: QueueView, row: Waiting, now: float
) -> Iterator[str]:
    """Yield what would start the job now, each one tried on the plan."""
    if row.rule == "hold":
        for name in unmet(world, job):
            blocker = upstream(world, name)
            if blocker.state in (JobState.FAILED, JobState.CANCELLED):
                yield f"`%resilient resume {blocker.run}` runs {blocker.run} again."
            else:
                yield f"{blocker.id} succeeds; it is {blocker.state}."
        return
    if row.rule == "backoff":
        yield f"`%resilient retry {job.run}` has it start without the pause."
    total, free, _ = capacity(view.hosts)
    if workers := _largest(view, gang, min(free, gang.workers - 1), now):
        yield (
            f"A smaller gang: `%resilient cancel {job.run}`, then run the cell with "
            f"`--workers {workers}`, or with `--workers {workers}:{gang.workers}`."
        )
    for priority in list(Priority)[gang.priority.rank + 1 :]:
        if _would_start(view, replace(gang, priority=priority), now):
            yield (
                f"A higher priority: `%resilient cancel {job.run}`, then run the cell with "
                f"`--priority {priority}`."
            )
            break
    if gang.workers > total:
        yield f"{_workers(gang.workers - total)} more in the cluster."
    if row.rule == "too wide":  # no end of another would help
        return
    first = _first_to_end(view)
    if first is not None and first.remaining is not None:
        how = "by its rate so far" if first.exact else "as declared"
        yield f"{first.job} ends, {_in(first.remaining)} {how}."
    if row.behind:
        yield f"{row.behind} starts, or is cancelled."


def _first_to_end(view: QueueView) -> Gang | None:
    """Return the running gang that is expected to end first."""
    running = [gang for gang in view.gangs if gang.held and forecast.known(gang)]
    return min(running, key=lambda gang: (gang.remaining, gang.job), default=None)


def _largest(view: QueueView, gang: Gang, most: int, now: float) -> int:
    """Return the largest smaller size that would start, 0 if none.

    Found by halving: a plan of a long queue takes too long to try every size.
    """
    found, least = 0, 1
    while least <= most:
        size = most if not found and least == 1 else (least + most + 1) // 2
        if _would_start(view, replace(gang, workers=size, max_workers=size), now):
            found, least = size, size + 1
        else:
            most = size - 1
    return found


def _would_start(view: QueueView, changed: Gang, now: float) -> bool:
    gangs = tuple(changed if gang.job == changed.job else gang for gang in view.gangs)
    made = plan(replace(view, gangs=gangs), now)
    helped = {s.job for s in made.starts}
    helped.update(p.by for p in made.preempts)
    helped.update(r.by for r in made.resizes)
    return changed.job in helped


def _not_waiting(world: World, job: Job) -> str:
    if job.state is JobState.FAILED and job.failures:
        return failure_text(job.failures[-1], job.spec.cell.label)
    if job.state.holds_gang:
        size = _workers(job.granted)
        return f"It holds {size}. {job.message}".strip()
    return job.message or f"It {job.state.said}."


# --- the queue as a whole -----------------------------------------------------------------


def queue_report(world: World, view: QueueView, now: float) -> QueueReport:
    """Return all unfinished jobs, those that hold a gang first, and everybody's shares."""
    made, has = plan(view, now), capacity(view.hosts)
    gangs = {gang.job: gang for gang in view.gangs}
    starts = expected_starts(view, made, now)
    rows = [_row(world, gang, None, None) for gang in view.gangs if gang.held]
    rows.sort(key=lambda row: (-row.held, row.job))
    waiting = [*(Waiting(s.job, "starting") for s in made.starts), *made.waiting]
    for position, held in enumerate(waiting, 1):
        gang = gangs[held.job]
        row = _row(world, gang, position, starts.get(held.job))
        text = words(held, gang, has, made, now)
        reason = "It starts now." if held.rule == "starting" else text
        rows.append(replace(row, reason=reason, rule=held.rule))
    return QueueReport(
        slots=sum(host.slots for host in view.hosts),
        used=sum(min(host.slots, host.used) for host in view.hosts),
        jobs=tuple(rows),
        shares=tuple(share_rows(world, now)),
    )


def _row(world: World, gang: Gang, position: int | None, start: ExpectedStart | None) -> QueueRow:
    job = world.jobs[gang.job]
    return QueueRow(
        job=gang.job,
        state=job.state,
        user=gang.user,
        group=gang.group,
        priority=gang.priority.value,
        admin=gang.admin,
        workers=gang.workers,
        max_workers=gang.max_workers,
        held=gang.held,
        position=position,
        submitted_at=gang.submitted_at,
        reason=job.message,
        starts_at=start.at if start else None,
        starts_guess=start.guess if start else "",
    )


def share_rows(world: World, now: float) -> Iterator[ShareRow]:
    """Yield a row for each group with its users below it."""
    policy = world.policy
    ledger = advance(world.ledger, now, policy)
    entitled = entitlements(ledger, policy)
    service = sum(a.service for a in ledger.accounts.values()) or 1.0
    fair = sum(a.fair_service for a in ledger.accounts.values()) or 1.0
    waiting: dict[tuple[str, str], int] = {}
    for job in world.open.values():
        if job.state is JobState.QUEUED:
            key = (group_of(world, job), job.spec.user)
            waiting[key] = waiting.get(key, 0) + job.spec.workers
    for group in sorted({key[0] for key in ledger.accounts}):
        users = [
            ShareRow(
                group=group,
                user=key[1],
                weight=policy.user_weight(key[1]),
                entitled=entitled.get(key, 0.0),
                held=account.held,
                waiting=waiting.get(key, 0),
                used=account.service / service,
                due=account.fair_service / fair,
            )
            for key, account in sorted(ledger.accounts.items())
            if key[0] == group
        ]
        yield _sum(group, policy.group_weight(group), users)
        yield from users


def _sum(group: str, weight: float, users: list[ShareRow]) -> ShareRow:
    return ShareRow(
        group=group,
        user="",
        weight=weight,
        entitled=sum(row.entitled for row in users),
        held=sum(row.held for row in users),
        waiting=sum(row.waiting for row in users),
        used=sum(row.used for row in users),
        due=sum(row.due for row in users),
    )


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _too_wide(gang: Gang, has: Capacity) -> str:
    total = has.total
    if total == 0:
        return "No worker has joined the cluster yet."
    if lacking := lacks(gang.needs, has.most):
        return (
            f"{lacking[0].upper()}{lacking[1:]}. It starts when workers that have what it needs "
            "are added; or cancel it and ask for less."
        )
    if gang.workers <= total:
        return (
            f"Needs {_workers(gang.workers)}, and fewer of the cluster's {total} slots are for "
            "such: for what each needs, or since some are kept for administrators' jobs. It starts "
            "when workers are added; or cancel it and lower --workers, --memory, --cpus or --gpus."
        )
    return (
        f"Needs {_workers(gang.workers)}; the cluster has {total}. "
        "It starts when workers are added; or cancel it and lower --workers."
    )


def _in(seconds: float) -> str:
    if seconds < 90:
        return f"in about {max(0, round(seconds))} s"
    return (
        f"in about {seconds / 60:.0f} min" if seconds < 5400 else f"in about {seconds / 3600:.1f} h"
    )
