"""What monitoring systems read: counts of jobs, queue, failures, and what runs now. Pure.

Names and units are by Prometheus' conventions; `control.metrics` brings them to its endpoint.
Labels that grow with use (jobs, ranks) are bounded: only what runs has any, and only so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from resilient_nb.core.accounting import group_of
from resilient_nb.core.alert_facts import checkpoint_age, labels_of
from resilient_nb.core.events import Event, GangReserved
from resilient_nb.core.model import Failure, Job, JobState
from resilient_nb.core.views import HostView, LiveRank
from resilient_nb.core.world import World

#: Jobs and ranks with measures of their own; the rest is only in the sums.
MOST_JOBS, MOST_RANKS = 200, 1000
#: Upper bounds of the classes of waiting times, in seconds.
WAITS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)

Row = tuple[tuple[str, ...], float]


class Type(StrEnum):
    """What a measure does over time."""

    GAUGE = "gauge"  # goes up and down
    COUNTER = "counter"  # only grows; its name gets `_total`


@dataclass(frozen=True)
class Measure:
    """One metric: rows of label values and a value."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    type: Type = Type.GAUGE


@dataclass
class Waits:
    """How long jobs waited before they first started: a histogram since the process began."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(WAITS) + 1))
    total: float = 0.0

    def heard(self, events: Sequence[Event], before: World, after: World) -> None:
        """Count the jobs that these events gave their first gang."""
        for event in events:
            job = after.jobs.get(event.job) if isinstance(event, GangReserved) else None
            if job is not None and job.attempts == 1:
                waited = max(0.0, event.at - job.submitted_at)
                self.total += waited
                self.counts[sum(waited > bound for bound in WAITS)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many waited no longer), as Prometheus wants them."""
        found, sum_ = [], 0
        for bound, count in zip((*(f"{b:g}" for b in WAITS), "+Inf"), self.counts, strict=True):
            sum_ += count
            found.append((bound, float(sum_)))
        return found


def measures(
    world: World,
    rows: Callable[[str], Sequence[LiveRank]],
    hosts: Sequence[HostView],
    now: float,
    goodput: Callable[[str], float | None] = lambda job: None,
) -> Iterator[Measure]:
    """Yield all measures.

    Args:
        world: what is true.
        rows: returns a job's live ranks.
        hosts: as shown.
        now: the clock.
        goodput: returns the part of a job's time that wasn't lost, as far as it is known.
    """
    yield from _of_jobs(world, now)
    yield from _of_hosts(world, hosts, now)
    yield from _of_failures(world)
    yield from _of_runs(world)
    yield from _of_what_runs(world, rows, now)
    known = [(job, goodput(job.id)) for job in _running(world)[-MOST_JOBS:]]
    yield Measure(
        "resilient_job_goodput_ratio",
        "The part of its time that a job spent on steps that stay.",
        _JOB,
        tuple((_own(world, job), part) for job, part in known if part is not None),
    )


def _of_jobs(world: World, now: float) -> Iterator[Measure]:
    states = Counter(job.state for job in world.jobs.values())
    yield Measure(
        "resilient_jobs", "Jobs by state.", ("state",),
        tuple(((state.value,), float(states[state])) for state in JobState),
    )  # fmt: skip
    waiting = [job for job in world.open.values() if job.state is JobState.QUEUED]
    queue = Counter((group_of(world, job), job.priority.value) for job in waiting)
    yield Measure(
        "resilient_queue_length", "Jobs that wait.", ("group", "priority"),
        tuple((key, float(count)) for key, count in sorted(queue.items())),
    )  # fmt: skip
    oldest: dict[tuple[str, ...], float] = {}
    for job in waiting:
        key = (job.priority.value,)
        oldest[key] = max(oldest.get(key, 0.0), now - job.queued_at)
    yield Measure(
        "resilient_queue_oldest_seconds", "How long the job has waited that waits longest.",
        ("priority",), tuple(sorted(oldest.items())),
    )  # fmt: skip
    preempted = sum(job.preempted for job in world.jobs.values())
    yield Measure(
        "resilient_preemptions", "How often jobs have left for others.",
        rows=(((), float(preempted)),), type=Type.COUNTER,
    )  # fmt: skip


def _of_hosts(world: World, hosts: Sequence[HostView], now: float) -> Iterator[Measure]:
    avoided = {host for host, health in world.health.items() if health.words(now)}
    yield Measure(
        "resilient_slots", "Slots of a host.", ("host",),
        tuple(((host.id,), float(host.slots)) for host in hosts),
    )  # fmt: skip
    yield Measure(
        "resilient_slots_used", "Slots of a host that are in use.", ("host",),
        tuple(((host.id,), float(host.used)) for host in hosts),
    )  # fmt: skip
    yield Measure(
        "resilient_host_avoided", "1 if a host gets no new jobs since too much failed there.",
        ("host",),
        tuple(((host.id,), float(host.id in avoided)) for host in hosts),
    )  # fmt: skip
    yield Measure(
        "resilient_host_disk_free_bytes",
        "Free bytes of a host's own disk.",
        ("host",),
        tuple(((h.id,), float(h.disk_free)) for h in hosts if h.disk_free is not None),
    )
    yield Measure(
        "resilient_host_round_trip_seconds",
        "How long the scheduler takes to answer a host.",
        ("host",),
        tuple(((h.id,), h.round_trip) for h in hosts if h.round_trip),
    )
    free = [host.store_free for host in hosts if host.store_free is not None]
    yield Measure(
        "resilient_store_free_bytes", "Free bytes of the store.",
        rows=tuple(((), float(count)) for count in [min(free)]) if free else (),
    )  # fmt: skip


def _of_failures(world: World) -> Iterator[Measure]:
    failures = [failure for job in world.jobs.values() for failure in job.failures]
    count = Counter((f.cause, f.decision) for f in failures)
    yield _counter(
        "resilient_failures", "Attempts that failed.", ("cause", "decision"),
        {key: float(number) for key, number in count.items()},
    )  # fmt: skip
    yield _by_cause("lost_seconds", "Seconds of work made again.", failures, lambda f: f.lost_s)
    yield _by_cause("lost_steps", "Steps made again.", failures, lambda f: float(f.lost_steps))
    yield _by_cause(
        "down_seconds", "Seconds from failures until jobs ran again.", failures, lambda f: f.down_s
    )


def _by_cause(
    name: str, help: str, failures: Sequence[Failure], value: Callable[[Failure], float]
) -> Measure:
    sums: dict[tuple[str, ...], float] = {}
    for failure in failures:
        sums[failure.cause,] = sums.get((failure.cause,), 0.0) + value(failure)
    return _counter(f"resilient_{name}", help, ("cause",), sums)


def _counter(
    name: str, help: str, labels: tuple[str, ...], rows: Mapping[tuple[str, ...], float]
) -> Measure:
    return Measure(name, help, labels, tuple(sorted(rows.items())), Type.COUNTER)


def _of_runs(world: World) -> Iterator[Measure]:
    stored = [c for run in world.runs.values() for c in run.checkpoints.values()]
    yield Measure(
        "resilient_checkpoints", "Checkpoints that are kept.", rows=(((), float(len(stored))),)
    )
    written = sum(checkpoint.written for checkpoint in stored)
    yield Measure(
        "resilient_checkpoints_bytes", "What kept checkpoints have added to the store.",
        rows=(((), float(written)),),
    )  # fmt: skip


# --- what runs --------------------------------------------------------------------------------

_JOB = ("user", "group", "run", "job")


def _running(world: World) -> list[Job]:
    return [job for job in world.open.values() if job.state is JobState.RUNNING]


def _own(world: World, job: Job) -> tuple[str, ...]:
    labels = labels_of(world, job)
    return tuple(labels[name] for name in _JOB)


def _of_what_runs(
    world: World, rows: Callable[[str], Sequence[LiveRank]], now: float
) -> Iterator[Measure]:
    running = _running(world)
    shown = running[-MOST_JOBS:]
    own = {job.id: _own(world, job) for job in shown}
    live = {job.id: tuple(rows(job.id)) for job in shown}
    yield Measure(
        "resilient_job_checkpoint_age_seconds",
        "Seconds of work that a failure would cost: since the last checkpoint, or the start.",
        _JOB, tuple((own[job.id], checkpoint_age(world, job, now)) for job in shown),
    )  # fmt: skip
    yield from _of_steps(shown, own, live)
    ranks = [
        ((*own[job.id], str(row.rank), row.host), row) for job in shown for row in live[job.id]
    ]
    yield from _of_ranks(ranks[:MOST_RANKS])
    left_out = len(running) - len(shown) + max(0, len(ranks) - MOST_RANKS)
    yield Measure(
        "resilient_left_out", "Jobs and ranks that have no measures of their own: too many.",
        rows=(((), float(left_out)),),
    )  # fmt: skip


def _of_steps(
    shown: Sequence[Job],
    own: Mapping[str, tuple[str, ...]],
    live: Mapping[str, tuple[LiveRank, ...]],
) -> Iterator[Measure]:
    steps, rates, phases = [], [], []
    for job in shown:
        known = [row for row in live[job.id] if row.rate > 0]
        if not known:
            continue
        slowest = min(known, key=lambda row: (row.rate, row.rank))
        rates.append((own[job.id], slowest.rate))
        steps.append((own[job.id], float(max(row.step for row in known))))
        for phase in ("data", "compute", "wait", "checkpoint"):
            seconds: float = getattr(slowest, f"{phase}_s")
            phases.append(((*own[job.id], phase), seconds))
    yield Measure("resilient_job_step", "The step that a job has reached.", _JOB, tuple(steps))
    yield Measure("resilient_job_steps_per_second", "Steps per second.", _JOB, tuple(rates))
    yield Measure(
        "resilient_job_phase_seconds", "Seconds of a step of the slowest rank, by phase.",
        (*_JOB, "phase"), tuple(phases),
    )  # fmt: skip


def _of_ranks(ranks: Sequence[tuple[tuple[str, ...], LiveRank]]) -> Iterator[Measure]:
    labels = (*_JOB, "rank", "host")
    yield Measure(
        "resilient_rank_memory_bytes", "Memory of a rank and its children.", labels,
        tuple((own, float(row.rss)) for own, row in ranks if row.rss),
    )  # fmt: skip
    yield Measure(
        "resilient_rank_memory_limit_bytes", "The memory that a rank may have.", labels,
        tuple((own, float(row.limit)) for own, row in ranks if row.limit),
    )  # fmt: skip
    yield Measure(
        "resilient_rank_cpu_cores", "CPU cores that a rank uses.", labels,
        tuple((own, row.cpu) for own, row in ranks if row.cpu),
    )  # fmt: skip
    yield Measure(
        "resilient_rank_gpu_busy_ratio", "The part of the time in which its GPU computes.", labels,
        tuple((own, row.gpu) for own, row in ranks if row.gpu is not None),
    )  # fmt: skip
    yield Measure(
        "resilient_rank_gpu_memory_bytes", "Memory of its GPU that a rank has reserved.", labels,
        tuple((own, float(row.gpu_memory)) for own, row in ranks if row.gpu_memory),
    )  # fmt: skip
