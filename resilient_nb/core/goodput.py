"""How much of its time a job spends on steps that stay, and what failures cost it.

A fold over the journal's events, so that it is the same after a restart of the scheduler. How long
a step usually takes, and when the first step of an attempt was made, is known from samples only:
without them repairs end when the ranks run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median

from resilient_nb.core import events as ev
from resilient_nb.core.model import Outcome, StopReason
from resilient_nb.core.names import split_checkpoint

_BROKEN = frozenset({Outcome.FAILED, Outcome.EXITED, Outcome.LOST})
#: Step times kept of one job; beyond, every second one is dropped.
_KEPT = 512


@dataclass(frozen=True)
class Goodput:
    """A job's time so far.

    Attributes:
        wall_s: seconds since it first had its gang, without the times it waited for others' sake.
        steps: that were made and stay; those made again count once.
        step_s: what a step usually takes; None if nothing is known.
        useful_s: what these steps take without any trouble.
        goodput: useful_s of wall_s, from 0 to 1.
        failures: attempts that ended badly.
        mttr_s: mean seconds from a failure to the first step after it (time to repair).
        lost_steps: steps that had to be made again.
    """

    wall_s: float
    steps: int
    step_s: float | None = None
    useful_s: float | None = None
    goodput: float | None = None
    failures: int = 0
    mttr_s: float | None = None
    lost_steps: int = 0


@dataclass(frozen=True)
class Tally:
    """What is summed up of one job.

    Attributes:
        base: the step that its first attempt went on from.
        reached: the furthest step of the current attempt.
        furthest: the furthest step of all.
        since: from when on time counts that isn't in `wall_s` yet; None while none does.
        down: since when it is broken.
        first_after: from which step on the next one ends a repair.
    """

    base: int | None = None
    reached: int = 0
    furthest: int = 0
    wall_s: float = 0.0
    since: float | None = None
    failures: int = 0
    lost_steps: int = 0
    repairs: int = 0
    repair_s: float = 0.0
    down: float | None = None
    repaired_at: float | None = None  # so far: its ranks run, and haven't made a step

    def at_step(self, step: int) -> Tally:
        """It has come so far."""
        if step <= self.reached:
            return self
        return replace(self, reached=step, furthest=max(self.furthest, step))

    def broken(self, at: float) -> Tally:
        """A rank is gone."""
        return self if self.down is not None else replace(self, down=at, repaired_at=None)

    def held(self, at: float) -> Tally:
        """Stop the clock."""
        if self.since is None:
            return self
        wall = self.wall_s + max(0.0, at - self.since)
        return replace(self, wall_s=wall, since=None, down=None, repaired_at=None)


@dataclass
class _Pace:
    """Seconds that a step took, a bounded choice of all."""

    times: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, seconds: float) -> None:
        self.seen += 1
        if self.seen % self.stride == 0:
            self.times.append(seconds)
        if len(self.times) > _KEPT:
            self.times, self.stride = self.times[::2], 2 * self.stride


class Tallies:
    """The tally of every job, by its name."""

    def __init__(self) -> None:
        self._jobs: dict[str, Tally] = {}
        self._paces: dict[str, _Pace] = {}
        self._heads: dict[str, int] = {}

    def watch(self, history: Iterable[ev.Event]) -> Iterator[ev.Event]:
        """Note each event of a history, and pass it on."""
        for event in history:
            self.note(event)
            yield event

    def heard(self, events: Iterable[ev.Event]) -> None:
        """Something has happened."""
        for event in events:
            self.note(event)

    def note(self, event: ev.Event) -> None:
        """Something has happened."""
        match event:
            case ev.RunCreated():
                self._head(event.run, event.forked_from)
            case ev.HeadMoved():
                self._head(event.run, event.head)
            case ev.CheckpointImported():
                self._heads[event.checkpoint.run] = event.checkpoint.step
            case ev.CheckpointCommitted():
                new = event.checkpoint
                self._heads[new.run] = new.step
                self._jobs[new.job] = self.of(new.job).at_step(new.step)
            case _:
                job = getattr(event, "job", "")
                if job:
                    before = self.of(job)
                    after = _noted(before, event, self._heads.get(job.partition("#")[0], 0))
                    if after is not before:
                        self._jobs[job] = after

    def stepped(self, job: str, at: float, step: int, pace: float | None = None) -> None:
        """A rank says that it has made this step, and what each of the last ones took."""
        before = self.of(job)
        if before.base is None or step <= before.reached:
            return
        after = before.at_step(step)
        if after.repaired_at is not None:
            more = max(0.0, at - after.repaired_at)
            after = replace(after, repair_s=after.repair_s + more, repaired_at=None)
        self._jobs[job] = after
        if pace is not None and pace > 0:
            self._paces.setdefault(job, _Pace()).add(pace)

    def of(self, job: str) -> Tally:
        """Return what is summed up of a job."""
        return self._jobs.get(job, Tally())

    def goodput(self, job: str, now: float) -> Goodput | None:
        """Return a job's goodput up to now; None if it never had a gang."""
        pace = self._paces.get(job)
        return goodput(self.of(job), pace.times if pace else (), now)

    def _head(self, run: str, checkpoint: str | None) -> None:
        parts = split_checkpoint(checkpoint) if checkpoint is not None else None
        self._heads[run] = parts[1] if parts is not None else 0


def goodput(tally: Tally, step_times: Iterable[float], now: float) -> Goodput | None:
    """Return a job's goodput from its tally and what its steps took."""
    if tally.base is None:
        return None
    wall = tally.wall_s + (max(0.0, now - tally.since) if tally.since is not None else 0.0)
    steps = max(0, tally.furthest - tally.base)
    times = list(step_times)
    step_s = median(times) if times else None
    useful = steps * step_s if step_s is not None else None
    return Goodput(
        wall_s=wall,
        steps=steps,
        step_s=step_s,
        useful_s=useful,
        goodput=min(1.0, useful / wall) if useful is not None and wall > 0 else None,
        failures=tally.failures,
        mttr_s=tally.repair_s / tally.repairs if tally.repairs else None,
        lost_steps=tally.lost_steps,
    )


def _noted(tally: Tally, event: ev.Event, head: int) -> Tally:
    match event:
        case ev.GangReserved():
            base = head if tally.base is None else tally.base
            since = event.at if tally.since is None else tally.since
            furthest = max(head, tally.furthest)
            return replace(tally, base=base, since=since, reached=head, furthest=furthest)
        case ev.GangStarted() if tally.down is not None:
            return replace(
                tally,
                repairs=tally.repairs + 1,
                repair_s=tally.repair_s + max(0.0, event.at - tally.down),
                down=None,
                repaired_at=event.at,
            )
        case ev.RankEnded():
            tally = tally.at_step(event.end.step)
            broken = event.end.outcome in _BROKEN and not event.end.ordered
            return tally.broken(event.at) if broken else tally
        case ev.StopRequested() if event.reason is StopReason.FAILURE:
            return tally.broken(event.at)
        case ev.JobRequeued():
            return _requeued(tally, event)
        case ev.JobFailed():
            # What wasn't kept has come to nothing.
            kept = event.failure.resumes_from or 0
            tally = replace(_lost(tally, kept), furthest=min(tally.furthest, kept))
            return tally.held(event.at)
        case ev.JobSucceeded() | ev.JobCancelled():
            return tally.held(event.at)
    return tally


def _requeued(tally: Tally, event: ev.JobRequeued) -> Tally:
    if event.failure is None:
        return tally.held(event.at)  # it waits for others now, or because somebody wants it to
    return _lost(tally, event.failure.resumes_from or 0)


def _lost(tally: Tally, kept: int) -> Tally:
    lost = max(0, tally.reached - kept)
    return replace(tally, failures=tally.failures + 1, lost_steps=tally.lost_steps + lost)
