"""What is known of jobs beyond the journal: live ranks, metric series, notes.

None of it changes what is true of a job, and all of it may be lost with the scheduler process:
step rates and warm-up times only make the queue's guesses better. Metric points are also kept in
the journal's file, from which a series is read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from resilient_nb.core.model import Cadence
from resilient_nb.core.thinning import MOST_METRICS, opens, spaced, stride_for
from resilient_nb.core.views import Live, LiveRank
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

    def newest(self) -> float:
        """Return the last value, NaN if there is none."""
        return self._last[1] if self._last is not None else float("nan")


class _Pace:
    """What a rank's steps take, by phase: an average in which the past fades."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._at = 0.0
        self._sums = (0.0,) * 5

    def add(self, sample: Sample, now: float) -> None:
        """Take the steps that a sample tells of."""
        if not sample.steps:
            return
        new = (
            sample.steps, sample.data_s, sample.compute_s, sample.wait_s, sample.checkpoint_s,
        )  # fmt: skip
        keep = 0.5 ** (max(0.0, now - self._at) / _FADES)
        self._sums = tuple(keep * old + more for old, more in zip(self._sums, new, strict=True))
        self._at = now
        self.longest = max(self.longest, sample.longest_s)

    def parts(self) -> tuple[float, float, float, float]:
        """Return the seconds of a step: data, compute, wait, checkpoint."""
        steps, data, compute, wait, checkpoint = self._sums
        if not steps:
            return (0.0, 0.0, 0.0, 0.0)
        return data / steps, compute / steps, wait / steps, checkpoint / steps


@dataclass
class _JobLive:
    ranks: dict[int, LiveRank] = field(default_factory=dict)
    paces: dict[int, _Pace] = field(default_factory=dict)
    began: float = 0.0
    warm_up: float | None = None  # seconds from the last start to its first step
    series: dict[str, Thinned] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cadence: Cadence | None = None
    heard: dict[str, float] = field(default_factory=dict)  # when metrics last had a new point


class LiveTable:
    """The live part of every job's view."""

    def __init__(self) -> None:
        self._jobs: dict[str, _JobLive] = {}

    def begin(self, job: str, hosts: Mapping[int, str], now: float) -> None:
        """Forget the last attempt's ranks and expect new ones on `hosts`."""
        known = self._of(job)
        known.began, known.cadence = now, None
        known.paces = {}
        # The place in the loop is kept until the rank says its own: a bar never jumps to zero.
        old = known.ranks
        known.ranks = {
            rank: LiveRank(
                rank=rank,
                host=host,
                step=old[rank].step if rank in old else 0,
                total_steps=old[rank].total_steps if rank in old else None,
                seen_at=now,
            )
            for rank, host in hosts.items()
        }

    def started(self, job: str, rank: int, pid: int) -> None:
        """A rank's process exists."""
        known = self._of(job)
        row = known.ranks.get(rank, LiveRank(rank))
        known.ranks[rank] = replace(row, pid=pid, state="running")

    def sample(self, sample: Sample, host: str, now: float) -> None:
        """Take a rank's newest sample; metrics are those of rank 0."""
        known = self._of(sample.job)
        before = known.ranks.get(sample.rank)
        if known.began and before is not None and sample.step > before.step:
            known.warm_up, known.began = now - known.began, 0.0
        pace = known.paces.setdefault(sample.rank, _Pace())
        pace.add(sample, now)
        data_s, compute_s, wait_s, checkpoint_s = pace.parts()
        known.ranks[sample.rank] = LiveRank(
            rank=sample.rank,
            state=sample.state,
            host=host,
            pid=sample.pid,
            step=sample.step,
            total_steps=sample.total_steps,
            rate=sample.rate,
            rss=sample.rss,
            cpu=sample.cpu,
            seen_at=now,
            phase=sample.phase,
            phase_s=sample.phase_s,
            data_s=data_s,
            compute_s=compute_s,
            wait_s=wait_s,
            checkpoint_s=checkpoint_s,
            longest_s=pace.longest,
            peak_rss=sample.peak_rss,
            limit=sample.limit,
            read=sample.read,
            written=sample.written,
            missing=sample.missing,
        )
        if sample.rank == 0:
            known.cadence = sample.cadence
            for step, values in sample.points:
                for name, value in values.items():
                    if name in known.series or len(known.series) < MOST_METRICS:
                        known.series.setdefault(name, Thinned()).add(step, value)
                        known.heard[name] = now

    def rows(self, job: str) -> tuple[LiveRank, ...]:
        """Return a job's ranks, without the rest of its view."""
        return tuple(self._of(job).ranks.values())

    def metrics(self, job: str) -> dict[str, tuple[float, float]]:
        """Return the newest value of each of a job's metrics, and when that came."""
        known = self._of(job)
        return {
            name: (known.series[name].newest(), at)
            for name, at in known.heard.items()
            if name in known.series
        }

    def remaining(self, job: str) -> float | None:
        """Return the seconds left by the live step rate; None before it can be trusted."""
        rows = [row for row in self._of(job).ranks.values() if row.state == "running"]
        total = next((row.total_steps for row in rows if row.total_steps is not None), None)
        rates = [row.rate for row in rows if row.rate > 0]
        if total is None or not rates:
            return None
        return max(0, total - max(row.step for row in rows)) / min(rates)

    def warm_up(self, job: str, default: float) -> float:
        """Return the seconds that the job's last start took up to its first step."""
        known = self._of(job).warm_up
        return default if known is None else known

    def load_series(self, job: str, series: Mapping[str, tuple[tuple[int, float], ...]]) -> None:
        """Take a job's series from the journal; call it before the first sample."""
        known = self._of(job)
        for name, points in series.items():
            known.series.setdefault(name, Thinned(points))

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
            ranks=tuple(known.ranks[rank] for rank in sorted(known.ranks)),
            series={name: series.points() for name, series in known.series.items()},
            notes=tuple(known.notes),
            cadence=known.cadence,
        )

    def _of(self, job: str) -> _JobLive:
        return self._jobs.setdefault(job, _JobLive())
