"""What people see of jobs: one fold for panel, sidebar, command line and `--json`.

A view is plain data with stable field names. It joins the journaled world with what is
live (`LiveRank`, `Series`), which may be missing: after a restart of the control plane a
view is complete but for the ranks' last second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from resilient_nb.core.eta import ExpectedStart
from resilient_nb.core.goodput import Goodput
from resilient_nb.core.model import (
    Cadence,
    Checkpoint,
    Failure,
    Injected,
    Job,
    JobState,
    Proposal,
    Run,
)
from resilient_nb.core.world import World


@dataclass(frozen=True)
class LiveRank:
    """One rank now. `rate` in steps/s, `cpu` in cores, `gpu` as a part, `rss` in bytes."""

    rank: int
    state: str = "starting"  # starting, running, checkpointing, finished, ended
    host: str = ""
    pid: int = 0
    step: int = 0
    total_steps: int | None = None
    rate: float = 0.0
    rss: int = 0
    cpu: float = 0.0
    seen_at: float = 0.0
    phase: str = ""  # starting, data, compute, wait (for other ranks), checkpoint or ended
    phase_s: float = 0.0
    data_s: float = 0.0  # seconds of a step by phase, of the last ones on average
    compute_s: float = 0.0
    wait_s: float = 0.0
    checkpoint_s: float = 0.0
    longest_s: float = 0.0  # the longest step of this attempt
    peak_rss: int = 0
    limit: int = 0  # of memory, in bytes; 0: none
    read: int = 0  # bytes, in this attempt
    written: int = 0
    missing: tuple[str, ...] = ()  # declared inputs that it can't read now
    gpu: float | None = None  # the part of the time in which it computes
    gpu_memory: int = 0  # that PyTorch has reserved there, in bytes


@dataclass(frozen=True)
class CheckpointView:
    """One checkpoint as shown. `ref` is what a user types to name it.

    Of its `nbytes` of tensors, `changed` were not in the store before; they take `written` bytes
    there. `copies` are the places where it may be, too; `replicated` says whether it is at all of
    them that it should be: yes, lagging or failing ("": there need be none).
    """

    ref: str
    run: str
    step: int
    at: float
    nbytes: int
    digest: str
    parent: str | None
    id: str
    path: str
    tags: tuple[str, ...] = ()
    is_head: bool = False
    job: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    changed: int = 0
    written: int = 0
    copies: tuple[str, ...] = ()
    replicated: str = ""


@dataclass(frozen=True)
class JobView:
    """A job as shown. `series` maps a metric to (step, value) pairs, at most some hundreds."""

    id: str
    run: str
    state: JobState
    reason: str
    priority: str
    workers: int
    user: str
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    attempts: int
    epoch: int
    step: int
    total_steps: int | None
    rate: float
    eta_s: float | None
    out: tuple[str, ...]
    returned: tuple[str, ...]
    ranks: tuple[LiveRank, ...]
    metrics: Mapping[str, float]
    series: Mapping[str, tuple[tuple[int, float], ...]]
    checkpoints: tuple[CheckpointView, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    label: str
    max_workers: int = 0  # 0: a gang of fixed size
    held: int = 0  # workers held now
    group: str = ""
    admin: bool = False
    after: tuple[str, ...] = ()
    position: int | None = None  # among those that wait, from 1
    starts_at: float | None = None  # when a waiting job is expected to start, if that is known
    starts_guess: str = ""  # the job whose unknown end makes that a guess
    cadence: Cadence | None = None  # of checkpoints, if that is left to us and known
    proposals: tuple[Proposal, ...] = ()  # to stop it
    deadline_at: float | None = None
    alerts: tuple[str, ...] = ()  # what people were told of it, and isn't over
    goodput: Goodput | None = None  # None: it never had a gang
    chaos: tuple[Injected, ...] = ()  # what was broken on purpose
    inputs: tuple[str, ...] = ()  # names that it gets from jobs in `after`
    reads: Mapping[str, str] = field(default_factory=dict)  # declared data: names and places
    notebook: str = ""  # the path of the notebook that it was submitted from, "" if unknown
    cell_id: str = ""  # and the cell's


@dataclass(frozen=True)
class RunView:
    """A run as shown: its lineage and its jobs, oldest first.

    `forks` maps the names of runs that were forked from it to the checkpoints they began at.
    """

    name: str
    created_at: float
    head: str | None
    forked_from: str | None
    tags: Mapping[str, str]
    checkpoints: tuple[CheckpointView, ...]
    jobs: tuple[str, ...]
    active_job: str | None
    forks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueRow:
    """An unfinished job in the queue's order; `position` counts those that wait, from 1.

    `starts_at` is when it is expected to start (None if nothing is known, or it runs), and
    `starts_guess` the job whose unknown end makes that a guess ("": it is none).
    """

    job: str
    state: JobState
    user: str
    group: str
    priority: str
    admin: bool
    workers: int
    max_workers: int
    held: int
    position: int | None
    submitted_at: float
    reason: str
    rule: str = ""
    starts_at: float | None = None
    starts_guess: str = ""


@dataclass(frozen=True)
class ShareRow:
    """A group's (`user` is "") or a user's share: slots entitled to now, held and waited for.

    `used` is the decayed service so far as a share of everybody's, from 0 to 1; `due` the
    share that was its by entitlement.
    """

    group: str
    user: str
    weight: float
    entitled: float
    held: int
    waiting: int
    used: float
    due: float


@dataclass(frozen=True)
class QueueReport:
    """What `%resilient queue` shows."""

    slots: int
    used: int
    jobs: tuple[QueueRow, ...]
    shares: tuple[ShareRow, ...]
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True)
class WhyReport:
    """Why a job is where it is: the rule, in words, and what would start it now.

    `starts_at` and `starts_guess`: as of `QueueRow`.
    """

    job: str
    state: JobState
    rule: str
    reason: str
    starts_at: float | None = None
    remedies: tuple[str, ...] = ()
    starts_guess: str = ""


@dataclass(frozen=True)
class RetentionRow:
    """A checkpoint that is kept for these reasons, or dropped if there are none."""

    ref: str
    id: str
    step: int
    at: float
    nbytes: int
    kept: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class RetentionReport:
    """What a rule made of a run's checkpoints (or would make of them, if it was a dry run).

    `freed` is how many bytes of tensors the store loses: less than those of the dropped checkpoints
    where others share them. It is None if that couldn't be found out; `note` says why. `hint` says
    why the rule itself drops nothing now, and how to drop some anyway.
    """

    run: str
    rule: str
    dry_run: bool
    checkpoints: tuple[RetentionRow, ...]
    freed: int | None = None
    note: str = ""
    hint: str = ""


@dataclass(frozen=True)
class HostView:
    """A machine of the cluster: slots in all and in use, and its Dask workers.

    `unwell` says why it gets no new jobs, or only one to try ("": it gets all).
    `store_free` and `disk_free` are bytes of the store and of its own disk, as far as they are
    known; `round_trip` is how many seconds the scheduler takes to answer it.
    """

    id: str
    slots: int
    used: int
    workers: tuple[str, ...]
    warm: bool
    unwell: str = ""
    store_free: int | None = None
    disk_free: int | None = None
    round_trip: float = 0.0


@dataclass(frozen=True)
class ClusterView:
    """The cluster as shown."""

    address: str
    cluster_id: str
    version: str
    store: str
    slots: int
    used: int
    max_workers: int | None
    hosts: tuple[HostView, ...]
    running: tuple[str, ...]
    queued: tuple[str, ...]
    metrics: str = ""  # where a monitoring system reads them
    alerts: tuple[str, ...] = ()  # what an administrator should mend


@dataclass(frozen=True)
class Reach:
    """How far a gang is by what its ranks say, and the rate of the slowest that makes steps."""

    step: int = 0
    total_steps: int | None = None
    rate: float = 0.0


@dataclass(frozen=True)
class Live:
    """What is known of a job beyond the journal. `reach` is None: ask the ranks."""

    ranks: tuple[LiveRank, ...] = ()
    series: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    waiting: str = ""
    position: int | None = None
    starts_at: ExpectedStart | None = None
    cadence: Cadence | None = None
    alerts: tuple[str, ...] = ()
    goodput: Goodput | None = None
    reach: Reach | None = None


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    step: int
    total_steps: int | None
    rate: float
    eta_s: float | None


def checkpoint_view(run: Run, checkpoint: Checkpoint, root: str) -> CheckpointView:
    """Return a checkpoint as shown. `root` is the store's folder of runs."""
    return CheckpointView(
        ref=f"{checkpoint.run}@{checkpoint.step}",
        run=checkpoint.run,
        step=checkpoint.step,
        at=checkpoint.at,
        nbytes=checkpoint.nbytes,
        digest=checkpoint.digest,
        parent=checkpoint.parent,
        id=checkpoint.id,
        path=f"{root}/{checkpoint.id}",
        tags=tuple(sorted(tag for tag, target in run.tags.items() if target == checkpoint.id)),
        is_head=run.head == checkpoint.id,
        job=checkpoint.job,
        metrics=checkpoint.metrics,
        changed=checkpoint.changed,
        written=checkpoint.written,
    )


class Reaching(Protocol):
    """A rank, as far as `reach` looks at it."""

    @property
    def step(self) -> int: ...

    @property
    def total_steps(self) -> int | None: ...

    @property
    def rate(self) -> float: ...


def reach(ranks: Iterable[Reaching]) -> Reach:
    """Return how far the ranks of a gang say that they are."""
    rows = tuple(ranks)
    return Reach(
        max((row.step for row in rows), default=0),
        next((row.total_steps for row in rows if row.total_steps is not None), None),
        min((row.rate for row in rows if row.rate > 0), default=0.0),
    )


def progress(world: World, job: Job, known: Reach) -> Progress:
    """Return how far a job is, by its ranks and by what is in the journal."""
    run = world.runs[job.run]
    # A rank's last word can be older than the newest checkpoint, and the other way round.
    reached = [known.step, *(end.step for end in job.ends.values())]
    newest_first = reversed(tuple(run.checkpoints.values()))
    last = next((c for c in newest_first if c.job == job.id), None)
    reached += [] if last is None else [last.step]
    reached += [] if job.state.final else [_head_step(world, run)]
    step, total = max(reached), known.total_steps
    rate = known.rate if job.state is JobState.RUNNING else 0.0
    eta = max(0, total - step) / rate if total is not None and rate > 0 else None
    return Progress(step, total, rate, eta)


def job_view(world: World, job: Job, live: Live, root: str) -> JobView:
    """Return a job as shown."""
    run = world.runs[job.run]
    return replace(
        job_head(world, job, live),
        ranks=tuple(rank_view(job, row) for row in live.ranks),
        series=live.series,
        checkpoints=tuple(
            checkpoint_view(run, c, root) for c in run.checkpoints.values() if c.job == job.id
        ),
        failures=job.failures,
        notes=live.notes,
        chaos=job.chaos,
    )


def job_head(world: World, job: Job, live: Live) -> JobView:
    """Return a job without what may be long: ranks, series, checkpoints and its history."""
    found = progress(world, job, reach(live.ranks) if live.reach is None else live.reach)
    return JobView(
        id=job.id,
        run=job.run,
        state=job.state,
        reason=_reason(job, live),
        priority=job.spec.priority.value,
        workers=job.spec.workers,
        user=job.spec.user,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        attempts=job.attempts,
        epoch=job.epoch,
        step=found.step,
        total_steps=found.total_steps,
        rate=found.rate,
        eta_s=found.eta_s,
        out=job.spec.out,
        returned=job.returned,
        ranks=(),
        metrics={name: points[-1][1] for name, points in live.series.items() if points},
        series={},
        checkpoints=(),
        failures=(),
        notes=(),
        label=job.spec.cell.label,
        max_workers=job.spec.max_workers,
        held=job.granted,
        group=job.spec.group,
        admin=job.spec.admin,
        after=job.spec.after,
        position=live.position,
        starts_at=live.starts_at.at if live.starts_at else None,
        starts_guess=live.starts_at.guess if live.starts_at else "",
        cadence=live.cadence if job.state.holds_gang else None,
        proposals=job.proposals,
        deadline_at=None if job.spec.deadline is None else job.submitted_at + job.spec.deadline,
        alerts=live.alerts,
        goodput=live.goodput,
        inputs=job.spec.inputs,
        reads={name: read.place for name, read in job.reads.items()},
        notebook=job.spec.cell.notebook,
        cell_id=job.spec.cell.cell_id,
    )


def run_view(world: World, run: Run, root: str) -> RunView:
    """Return a run as shown."""
    active = world.active_job(run.name)
    return RunView(
        name=run.name,
        created_at=run.created_at,
        head=run.head,
        forked_from=run.forked_from,
        tags=dict(run.tags),
        checkpoints=tuple(checkpoint_view(run, c, root) for c in run.checkpoints.values()),
        jobs=run.jobs,
        active_job=active.id if active else None,
        forks=_forks(world, run),
    )


def _forks(world: World, run: Run) -> dict[str, str]:
    origins = {name: world.runs[name].forked_from for name in sorted(run.offshoots)}
    return {name: at for name, at in origins.items() if at is not None and at in run.checkpoints}


def _head_step(world: World, run: Run) -> int:
    return world.checkpoint(run.head).step if run.head else 0


def _reason(job: Job, live: Live) -> str:
    if job.state is JobState.QUEUED:
        return live.waiting
    return job.message


def rank_view(job: Job, row: LiveRank) -> LiveRank:
    """Return a rank as shown: one that has ended says how instead of its last state."""
    end = job.ends.get(row.rank)
    if end is None:
        return row
    state = "stopped" if end.ordered else end.outcome.value
    return replace(row, state=state, step=end.step, rate=0.0, cpu=0.0)
