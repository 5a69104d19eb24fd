"""What is known of jobs beyond the journal: live ranks, metric series, notes.

None of it changes what is true of a job, and all of it may be lost with the scheduler process:
step rates and warm-up times only make the queue's guesses better. Metric points are also kept in
the journal's file, from which a series is read back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from resilient_nb.core.model import Cadence, Job
from resilient_nb.core.thinning import MOST_METRICS, opens, spaced, stride_for
from resilient_nb.core.views import Live, LiveRank, Reach, rank_view, reach
from resilient_nb.wire.feed import RankRow
from resilient_nb.wire.orders import Sample

#: Points shown of one metric; beyond twice as many, every second one is dropped.
SHOWN_POINTS = 300
_MAX_NOTES = 50
#: After so many seconds without another one a step counts half in what is shown of steps.
_FADES = 5.0


class Thinned:
    """A series of (step, value) of bounded length that covers all steps evenly."""

    def __init__(self, points: tuple[tuple[int, float], ...] = ()) -> None:
        self._points = list(points)
        self._stride = 1
        self._last = points[-1] if points else None

    def add(self, step: int, value: float) -> None:
        """Add a point; a step that was seen before supersedes itself and all after it."""
        if self._last is not None and step <= self._last[0]:
            self._points = [p for p in self._points if p[0] < step]
        self._last = (step, value)
        if opens(step, self._points[-1][0] if self._points else None, self._stride):
            self._points.append((step, value))
        if len(self._points) > 2 * SHOWN_POINTS:
            steps = [step for step, _ in self._points]
            self._stride = stride_for(steps, self._stride, SHOWN_POINTS)
            kept = set(spaced(steps, self._stride))
            self._points = [p for p in self._points if p[0] in kept]

    def points(self) -> tuple[tuple[int, float], ...]:
        """Return the points in order; the newest is always the last."""
        if self._last is None or (self._points and self._points[-1] == self._last):
            return tuple(self._points)
        return (*self._points, self._last)

    @property
    def last(self) -> tuple[int, float] | None:
        """The newest point."""
        return self._last


#: What of a rank is told to who follows its job.
_TOLD = RankRow._fields[:-1]
_told = attrgetter(*_TOLD)
#: Of a rank that has said nothing.
_SILENT = Sample("", 0, 0, phase="")


class _Rank:
    """What a rank has said last. A row to look at is made when somebody looks.

    What its steps take, by phase, is an average in which the past fades.
    """

    __slots__ = (
        "_checkpoint", "_compute", "_data", "_longest", "_sample", "_seen_at", "_stepped_at",
        "_steps", "_view", "_wait", "host", "pid", "rank", "state", "step", "total_steps",
    )  # fmt: skip

    def __init__(self, rank: int, host: str = "", now: float = 0.0) -> None:
        self.rank, self.host, self.pid = rank, host, 0
        self.state, self.step = "starting", 0
        self.total_steps: int | None = None
        self._sample = _SILENT
        self._view: LiveRank | None = None
        self._seen_at = now
        self._steps = self._data = self._compute = self._wait = self._checkpoint = 0.0
        self._longest = self._stepped_at = 0.0

    def started(self, pid: int) -> None:
        """Its process exists."""
        self.pid, self.state, self._view = pid, "running", None

    def take(self, sample: Sample, host: str, now: float) -> None:
        """Take the newest sample."""
        self._sample, self.host, self._seen_at, self._view = sample, host, now, None
        self.state, self.pid = sample.state, sample.pid
        self.step, self.total_steps = sample.step, sample.total_steps
        if sample.steps:
            keep = 0.5 ** (max(0.0, now - self._stepped_at) / _FADES)
            self._steps = keep * self._steps + sample.steps
            self._data = keep * self._data + sample.data_s
            self._compute = keep * self._compute + sample.compute_s
            self._wait = keep * self._wait + sample.wait_s
            self._checkpoint = keep * self._checkpoint + sample.checkpoint_s
            self._stepped_at = now
            if sample.longest_s > self._longest:
                self._longest = sample.longest_s

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self._sample.rate

    @property
    def rss(self) -> int:
        """Bytes of memory."""
        return self._sample.rss

    @property
    def limit(self) -> int:
        """The most that it may be, 0 if there is none."""
        return self._sample.limit

    @property
    def data_share(self) -> float:
        """The part of its steps in which it waits for data."""
        whole = self._data + self._compute + self._wait + self._checkpoint
        return self._data / whole if whole > 0 else 0.0

    def view(self) -> LiveRank:
        """Return the rank as a row."""
        if self._view is None:
            self._view = self._row()
        return self._view

    def _row(self) -> LiveRank:
        told = dict(zip(_TOLD, self.cells(), strict=True))
        return LiveRank(**told, seen_at=self._seen_at, missing=self._sample.missing)

    def cells(self) -> tuple[Any, ...]:
        """Return the cells of a `RankRow`, but for the last: thousands are told each second."""
        said = self._sample
        steps = self._steps or 1.0
        return (
            self.rank, self.state, self.host, self.pid, self.step, self.total_steps, said.rate,
            said.rss, said.cpu, said.phase, said.phase_s, self._data / steps,
            self._compute / steps, self._wait / steps, self._checkpoint / steps, self._longest,
            said.peak_rss, said.limit, said.read, said.written, said.gpu, said.gpu_memory,
        )  # fmt: skip


@dataclass
class _JobLive:
    ranks: dict[int, _Rank] = field(default_factory=dict)
    began: float = 0.0
    warm_up: float | None = None  # seconds from the last start to its first step
    series: dict[str, Thinned] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cadence: Cadence | None = None
    heard: dict[str, float] = field(default_factory=dict)  # when metrics last had a new point
    fresh: set[int] = field(default_factory=set)  # ranks that are new to who follows the job
    grown: set[str] = field(default_factory=set)  # and metrics


class LiveTable:
    """The live part of every job's view."""

    def __init__(self) -> None:
        self._jobs: dict[str, _JobLive] = {}

    def begin(self, job: str, hosts: Mapping[int, str], now: float) -> None:
        """Forget the last attempt's ranks and expect new ones on `hosts`."""
        known = self._of(job)
        known.began, known.cadence = now, None
        # The place in the loop is kept until the rank says its own: a bar never jumps to zero.
        old, known.ranks = known.ranks, {}
        for rank, host in hosts.items():
            row = known.ranks[rank] = _Rank(rank, host, now)
            if rank in old:
                row.step, row.total_steps = old[rank].step, old[rank].total_steps
        known.fresh = set(known.ranks)

    def started(self, job: str, rank: int, pid: int) -> None:
        """A rank's process exists."""
        known = self._of(job)
        known.ranks.setdefault(rank, _Rank(rank)).started(pid)
        known.fresh.add(rank)

    def all_started(self, job: str) -> bool:
        """Whether the processes of all expected ranks exist."""
        return all(row.pid for row in self._of(job).ranks.values())

    def exists(self, job: str, rank: int) -> bool:
        """Whether a rank's process was heard of."""
        row = self._of(job).ranks.get(rank)
        return row is not None and bool(row.pid)

    def sample(self, sample: Sample, host: str, now: float) -> None:
        """Take a rank's newest sample; metrics are those of rank 0."""
        known, rank = self._of(sample.job), sample.rank
        row = known.ranks.get(rank)
        if row is None:
            row = known.ranks[rank] = _Rank(rank)
        elif known.began and sample.step > row.step:
            known.warm_up, known.began = now - known.began, 0.0
        row.take(sample, host, now)
        known.fresh.add(rank)
        if rank == 0:
            known.cadence = sample.cadence
            for step, values in sample.points:
                for name, value in values.items():
                    if name in known.series or len(known.series) < MOST_METRICS:
                        known.series.setdefault(name, Thinned()).add(step, value)
                        known.heard[name] = now
                        known.grown.add(name)

    def heard(self, job: str) -> Collection[_Rank]:
        """Return a job's ranks as they were heard of: nothing is made of them."""
        return self._of(job).ranks.values()

    def rows(self, job: str) -> tuple[LiveRank, ...]:
        """Return a job's ranks, without the rest of its view."""
        return tuple(row.view() for row in self._of(job).ranks.values())

    def reach(self, job: str) -> Reach:
        """Return how far a job's ranks say that they are."""
        return reach(self._of(job).ranks.values())

    def steps(self, job: str) -> dict[int, int]:
        """Return the last step of each of a job's ranks."""
        return {rank: row.step for rank, row in self._of(job).ranks.items()}

    def metrics(self, job: str) -> dict[str, tuple[float, float]]:
        """Return the newest value of each of a job's metrics, and when that came."""
        known = self._of(job)
        last = {name: known.series[name].last for name in known.heard}
        return {
            name: (point[1], known.heard[name]) for name, point in last.items() if point is not None
        }

    def remaining(self, job: str) -> float | None:
        """Return the seconds left by the live step rate; None before it can be trusted."""
        known = reach(row for row in self._of(job).ranks.values() if row.state == "running")
        if known.total_steps is None or not known.rate:
            return None
        return max(0, known.total_steps - known.step) / known.rate

    def warm_up(self, job: str, default: float) -> float:
        """Return the seconds that the job's last start took up to its first step."""
        known = self._of(job).warm_up
        return default if known is None else known

    def load_series(self, job: str, series: Mapping[str, tuple[tuple[int, float], ...]]) -> None:
        """Take a job's series from the journal; call it before the first sample."""
        known = self._of(job)
        for name, points in series.items():
            known.series.setdefault(name, Thinned(points))
            known.grown.add(name)

    def note(self, job: str, text: str) -> None:
        """Keep a line for the user; the oldest of many are dropped, repeats too."""
        notes = self._of(job).notes
        if text not in notes:
            notes.append(text)
            del notes[:-_MAX_NOTES]

    def of(self, job: str) -> Live:
        """Return the live part of a job's view."""
        known = self._of(job)
        return Live(
            ranks=tuple(known.ranks[rank].view() for rank in sorted(known.ranks)),
            series={name: series.points() for name, series in known.series.items()},
            notes=tuple(known.notes),
            cadence=known.cadence,
        )

    def brief(self, job: str) -> Live:
        """Return the same without rows; of each series only the last point."""
        known = self._of(job)
        last = {name: series.last for name, series in known.series.items()}
        return Live(
            series={name: (point,) for name, point in last.items() if point is not None},
            notes=tuple(known.notes),
            cadence=known.cadence,
            reach=reach(known.ranks.values()),
        )

    # --- for who follows a job ----------------------------------------------------------

    def world(self, job: str) -> int:
        """Return how many ranks a job has."""
        return max(self._of(job).ranks, default=-1) + 1

    def fresh(self, job: Job) -> Iterator[tuple[Any, ...]]:
        """Yield the cells of the ranks of which something is new since this was asked last.

        They are those of a `RankRow`, but for the last.
        """
        known = self._of(job.id)
        fresh, known.fresh = known.fresh, set()
        for rank in sorted(fresh & known.ranks.keys()):
            row = known.ranks[rank]
            yield _told(rank_view(job, row.view())) if rank in job.ends else row.cells()

    def grown(self, job: str) -> dict[str, tuple[tuple[int, float], ...]]:
        """Return the series of which something is new since this was asked last."""
        known = self._of(job)
        grown, known.grown = known.grown, set()
        return {name: known.series[name].points() for name in sorted(grown)}

    def told(self, job: str) -> tuple[str, ...]:
        """Return a job's notes."""
        return tuple(self._of(job).notes)

    def touch(self, job: str, ranks: Collection[int]) -> None:
        """Have some ranks of a job count as new."""
        if ranks:
            self._of(job).fresh.update(ranks)

    def renew(self, job: str) -> None:
        """Have everything of a job count as new."""
        known = self._of(job)
        known.fresh, known.grown = set(known.ranks), set(known.series)

    def _of(self, job: str) -> _JobLive:
        known = self._jobs.get(job)
        if known is None:
            known = self._jobs[job] = _JobLive()
        return known
