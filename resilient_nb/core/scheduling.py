"""Who starts now: `plan(view, now)`, a pure function of a snapshot of queue and hosts.

Order: priority class first, then submission time (FIFO). A gang gets all its slots in one
decision or none. Inside that order nothing overtakes: a gang that fits the cluster but not
the free slots keeps later jobs waiting, so a wide job can't starve. Only a gang wider than
the whole cluster is passed over, since waiting for it could last for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient_nb.core.model import Placement, Priority, Share


@dataclass(frozen=True)
class QueuedGang:
    """A job that wants `workers` slots at once."""

    job: str
    workers: int
    priority: Priority
    submitted_at: float
    not_before: float = 0.0


@dataclass(frozen=True)
class Host:
    """A machine with a supervisor: slots in all and slots in use."""

    id: str
    slots: int
    used: int

    @property
    def free(self) -> int:
        return max(0, self.slots - self.used)


@dataclass(frozen=True)
class QueueView:
    """What `plan` may look at."""

    queued: tuple[QueuedGang, ...]
    hosts: tuple[Host, ...]


@dataclass(frozen=True)
class Start:
    """Grant the whole gang."""

    job: str
    placement: Placement


@dataclass(frozen=True)
class Wait:
    """Grant nothing, for this reason; `until` is set when only time has to pass."""

    job: str
    reason: str
    until: float | None = None


Decision = Start | Wait


def order(gang: QueuedGang) -> tuple[int, float, str]:
    """Return the sort key of the queue: priority class, then age, then identity."""
    return (-gang.priority.rank, gang.submitted_at, gang.job)


def place(workers: int, hosts: tuple[Host, ...]) -> Placement | None:
    """Return where a gang goes, on as few hosts as possible, or None if it doesn't fit now.

    One host that holds it all is best, and of those the fullest (best fit); otherwise the
    emptiest hosts are filled in turn. Ties go by host id, so the answer is reproducible.
    """
    if sum(host.free for host in hosts) < workers:
        return None
    whole = [host for host in hosts if host.free >= workers]
    if whole:
        best = min(whole, key=lambda host: (host.free, host.id))
        return (Share(best.id, 0, workers),)
    shares: list[Share] = []
    first = 0
    for host in sorted(hosts, key=lambda host: (-host.free, host.id)):
        count = min(host.free, workers - first)
        if count > 0:
            shares.append(Share(host.id, first, count))
            first += count
    return tuple(shares)


def plan(view: QueueView, now: float) -> tuple[Decision, ...]:
    """Return one decision for each queued gang, in queue order."""
    hosts = list(view.hosts)
    total = sum(host.slots for host in hosts)
    decisions: list[Decision] = []
    blocked_by: str | None = None
    for gang in sorted(view.queued, key=order):
        free = sum(host.free for host in hosts)
        if gang.not_before > now:
            pause = gang.not_before - now
            decisions.append(
                Wait(gang.job, f"Retries in {pause:.1f} s (back-off).", gang.not_before)
            )
        elif gang.workers > total:
            decisions.append(Wait(gang.job, _too_wide(gang, total)))
        elif blocked_by is not None:
            decisions.append(Wait(gang.job, f"Waits behind {blocked_by}, which is first in line."))
        elif (placement := place(gang.workers, tuple(hosts))) is None:
            blocked_by = gang.job
            decisions.append(
                Wait(
                    gang.job,
                    f"Needs {_workers(gang.workers)} at once; {free} of {total} are free.",
                )
            )
        else:
            decisions.append(Start(gang.job, placement))
            taken = {share.host: share.count for share in placement}
            hosts = [Host(h.id, h.slots, h.used + taken.get(h.id, 0)) for h in hosts]
    return tuple(decisions)


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _too_wide(gang: QueuedGang, total: int) -> str:
    if total == 0:
        return "No worker has joined the cluster yet."
    return (
        f"Needs {_workers(gang.workers)}; the cluster has {total}. "
        "It starts when workers are added; or cancel it and lower --workers."
    )
