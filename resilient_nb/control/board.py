"""What the sidebar shows, as it is followed: the list of jobs, and the cluster."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from msgspec import Raw

from resilient_nb.control.engine import Engine
from resilient_nb.control.pieces import NOTHING, Piece, Sources
from resilient_nb.core.accounting import group_of
from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.core.model import Job, JobState
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Plan
from resilient_nb.core.shares import Ledger
from resilient_nb.core.views import ClusterView, HostView, ShareRow, progress
from resilient_nb.core.why import share_rows
from resilient_nb.core.world import World
from resilient_nb.wire.codec import to_json
from resilient_nb.wire.feed import BoardRow, HostLease

#: Finished jobs that are listed, and jobs of which it is remembered that they no longer are.
LISTED, _GONE = 200, 1000
#: Rows that are made at a time: of a long queue the rest comes with the next answers.
_AT_ONCE = 256
#: Seconds between two looks at what changes all the time; and at the cluster, if jobs change.
_AGAIN, _CLUSTER_AGAIN, _SHARES_AGAIN = 1.0, 0.2, 5.0
#: A start that is expected so much earlier or later, in seconds, is worth a row.
_MOVED = 5.0
#: Free space and times are told no more exactly than that, in bytes and seconds: else there
#: would be news all the time.
_SPACE, _MINUTE = 1 << 26, 60


@dataclass(frozen=True)
class _Row:
    at: int
    json: bytes
    position: int | None
    starts_at: float | None
    starts_guess: str


class Board:
    """The list and the cluster. `refresh` looks at them; `since` says what is new.

    Args:
        at: the count from which on they are followed.

    Attributes:
        waiting: those who wait for something new.
        used_at: when somebody last asked.
    """

    def __init__(self, sources: Sources, at: int) -> None:
        self.waiting: set[asyncio.Event] = set()
        self.used_at = 0.0
        self._sources, self._engine = sources, sources.engine
        self._since = self._at = at
        self._first = True
        self._rows: dict[str, _Row] = {}
        self._finished: dict[str, None] = {}  # those that are listed
        self._gone: dict[str, int] = {}  # with the count
        self._due: dict[str, None] = {}  # jobs whose rows are to be made now,
        self._later: dict[str, None] = {}  # and with the next second
        self._second = self._cluster_at = self._shares_at = float("-inf")
        self._cluster, self._leases, self._shares = Piece(), Piece(), Piece()
        self._alerts, self._groups = Piece(), Piece()
        # As they were when they were last looked at.
        self._plan: Plan | None = None
        self._policy: Policy | None = None
        self._ledger: Ledger | None = None
        self._open: Mapping[str, Job] | None = None

    @property
    def more(self) -> bool:
        """Whether there are rows that are yet to be made."""
        return bool(self._due)

    def happened(self, job: str) -> None:
        """Something has happened to a job that is to be seen at once."""
        self._due[job] = None

    def touched(self, job: str) -> None:
        """A job is another one: it makes steps, say."""
        self._later[job] = None

    def refresh(self, at: int) -> bool:
        """Look at what may have changed; return whether anything has."""
        now, changed = self._engine.now(), [self._first]
        if self._first:
            self._first = False
            self._list_all(self._engine.world)
        if abs(now - self._second) >= _AGAIN:
            self._second = now
            self._note_rows()
            changed += [self._look_at_all(at, now)]
        elif (
            self._engine.world.open is not self._open
            and abs(now - self._cluster_at) >= _CLUSTER_AGAIN
        ):
            changed += [self._look_at_cluster(at, now)]
        changed += [self._make_rows(at)]
        if any(changed):
            self._at = at
        return any(changed)

    def since(self, cursor: int) -> bytes:
        """Return the JSON of a `Board`, empty if nothing has changed since the cursor."""
        if cursor >= self._at:
            return b""
        full = cursor < self._since
        cursor = NOTHING if full else cursor
        return to_json(
            {
                "full": full,
                "rows": [Raw(row.json) for row in self._rows.values() if row.at > cursor],
                "gone": [] if full else [job for job, at in self._gone.items() if at > cursor],
                "cluster": self._cluster.since(cursor),
                "leases": self._leases.since(cursor),
                "shares": self._shares.since(cursor),
                "alerts": self._alerts.since(cursor),
                "groups": self._groups.since(cursor),
            }
        )

    # --- the list -----------------------------------------------------------------------

    def _list_all(self, world: World) -> None:
        ended = (job for job in world.jobs.values() if job.state.final)
        newest = heapq.nlargest(LISTED, ended, key=lambda job: job.ended_at or 0.0)
        self._due = dict.fromkeys((*world.open, *(job.id for job in reversed(newest))))

    def _note_rows(self) -> None:
        """Note whose rows are to be made since a second has passed."""
        queue, world = self._engine.queue, self._engine.world
        self._due |= self._later
        self._later = {}
        if self._plan is not queue.plan:
            self._plan = queue.plan
            waiting = (job for job in world.open.values() if job.state is JobState.QUEUED)
            self._due |= dict.fromkeys(job.id for job in waiting if self._moved(job))

    def _moved(self, job: Job) -> bool:
        """Whether a waiting job has another place in the queue than its row says."""
        row, queue = self._rows.get(job.id), self._engine.queue
        if row is None or row.position != queue.position(job):
            return True
        start = queue.starts_at(job)
        if row.starts_at is None or start is None:
            return (row.starts_at is None) != (start is None)
        return row.starts_guess != start.guess or abs(row.starts_at - start.at) > _MOVED

    def _make_rows(self, at: int) -> bool:
        changed = False
        for name in list(self._due)[:_AT_ONCE]:
            del self._due[name]
            job = self._engine.world.jobs.get(name)
            if job is None or self._is_old(job):
                continue
            known, shown = self._rows.get(name), board_row(self._engine, job)
            row = _Row(at, to_json(shown), shown.position, shown.starts_at, shown.starts_guess)
            if known is None or known.json != row.json:
                self._rows[name] = row
                self._gone.pop(name, None)
                changed = True
            if job.state.final:
                self._finished.setdefault(name)
                if len(self._finished) > LISTED:
                    self._leave_out(min(self._finished, key=self._ended_at), at)
            else:
                self._finished.pop(name, None)
        return changed

    def _is_old(self, job: Job) -> bool:
        """Whether a job has ended before all that are listed, and isn't."""
        if not job.state.final or job.id in self._rows or len(self._finished) < LISTED:
            return False
        return self._ended_at(job.id) < min(map(self._ended_at, self._finished))

    def _ended_at(self, name: str) -> float:
        return self._engine.world.jobs[name].ended_at or 0.0

    def _leave_out(self, name: str, at: int) -> None:
        del self._finished[name], self._rows[name]
        self._gone[name] = at
        if len(self._gone) > _GONE:
            oldest = next(iter(self._gone))
            # Who was told nothing since then is told everything.
            self._since = max(self._since, self._gone.pop(oldest))

    # --- the cluster --------------------------------------------------------------------

    def _look_at_all(self, at: int, now: float) -> bool:
        changed = self._look_at_cluster(at, now)
        changed |= self._alerts.set(_calm_alerts(self._sources.alerts()), at)
        return self._look_at_shares(at, now) or changed

    def _look_at_cluster(self, at: int, now: float) -> bool:
        world = self._engine.world
        self._cluster_at, self._open = now, world.open
        cluster = self._cluster.set(_calm(self._sources.cluster()), at)
        return self._leases.set(tuple(_leases(world)), at) or cluster

    def _look_at_shares(self, at: int, now: float) -> bool:
        """Look at shares and groups, if they may have changed."""
        world = self._engine.world
        held = any(account.held for account in world.ledger.accounts.values())
        due = held and abs(now - self._shares_at) >= _SHARES_AGAIN
        if self._policy is world.policy and self._ledger is world.ledger and not due:
            return False
        self._shares_at, self._policy, self._ledger = now, world.policy, world.ledger
        shares = tuple(_rounded(row) for row in share_rows(world, now))
        changed = self._shares.set(shares, at)
        return self._groups.set(_groups(world, self._engine.settings.user), at) or changed


def board_row(engine: Engine, job: Job) -> BoardRow:
    """Return a job as it is listed."""
    spec, queued = job.spec, job.state is JobState.QUEUED
    found = progress(engine.world, job, engine.live.reach(job.id))
    start = engine.queue.starts_at(job) if queued else None
    return BoardRow(
        id=job.id,
        run=job.run,
        state=job.state,
        user=spec.user,
        group=group_of(engine.world, job),
        priority=spec.priority.value,
        label=spec.cell.label,
        workers=spec.workers,
        max_workers=spec.max_workers,
        held=job.granted,
        step=found.step,
        total_steps=found.total_steps,
        rate=found.rate,
        eta_s=found.eta_s,
        position=engine.queue.position(job) if queued else None,
        starts_at=start.at if start else None,
        reason=engine.queue.reason(job) if queued else job.message,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        attempts=job.attempts,
        failures=len(job.failures),
        cause=job.failures[-1].cause if job.failures else "",
        alerts=len(engine.job_alerts.get(job.id, ())),
        notebook=spec.cell.notebook,
        cell_id=spec.cell.cell_id,
        starts_guess=start.guess if start else "",
    )


def _leases(world: World) -> Iterator[HostLease]:
    for job in world.open.values():
        for share in job.placement:
            ranks = range(share.first, share.first + share.count)
            if any(rank not in job.ends for rank in ranks):
                yield HostLease(share.host, job.id, share.leased)


def _groups(world: World, owner: str) -> dict[str, tuple[str, ...]]:
    users = {user for _, user in world.ledger.accounts} | {owner}
    users.update(user for rule in world.policy.groups.values() for user in rule.users)
    return {user: world.policy.groups_of(user) for user in sorted(users)}


def _calm(cluster: ClusterView) -> ClusterView:
    return replace(cluster, hosts=tuple(map(_calm_host, cluster.hosts)))


def _calm_host(host: HostView) -> HostView:
    return replace(
        host,
        store_free=_roughly(host.store_free),
        disk_free=_roughly(host.disk_free),
        round_trip=round(host.round_trip, 2),
    )


def _roughly(free: int | None) -> int | None:
    return None if free is None else free // _SPACE * _SPACE


def _calm_alerts(report: AlertsReport) -> AlertsReport:
    """Return alerts whose last sight is told to the minute: what fires is seen each second."""
    firing = (replace(a, last_at=a.last_at // _MINUTE * _MINUTE) for a in report.firing)
    return replace(report, firing=tuple(firing))


def _rounded(row: ShareRow) -> ShareRow:
    return replace(
        row,
        entitled=round(row.entitled, 3),
        used=round(row.used, 4),
        due=round(row.due, 4),
    )
