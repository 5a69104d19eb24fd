"""Looks for ranks that hang, fall behind, or fill their memory, in what samples say of them.

Only what samples don't say is kept here: since when a rank has made no step, and how long steps
take. After a restart it is gathered anew, and a gang that hung meanwhile is found a little later.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from resilient_nb.control.hosts import ranks_of
from resilient_nb.control.moving import Moving
from resilient_nb.core import events as ev
from resilient_nb.core import hangs
from resilient_nb.core.causes import HANG, amount
from resilient_nb.core.model import Job, StopReason
from resilient_nb.core.stragglers import Race
from resilient_nb.core.trends import Rise, rise_to
from resilient_nb.wire.orders import Sample

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: A sample that is older, in seconds, says nothing of how things are.
_FRESH = 3.0
#: After so long without a look we were away ourselves (a laptop that slept), not the ranks.
_AWAY = 5.0
#: Looks at a gang between two ticks are this far apart, in seconds.
_SOON = 0.5
#: So many steps say nothing yet of how long the next ones take.
_FIRST_STEPS = 3
#: Memory is noted so often, in seconds, and so many notes are kept; its trend is looked at, and
#: said, so often; and said if it reaches the limit within the last number of seconds.
_NOTE_EVERY, _NOTES = 4.0, 45
_TREND_EVERY, _SAY_EVERY, _SOON_FULL = 15.0, 300.0, 900.0

#: As ranks that are through say of themselves.
_THROUGH = frozenset({"finished", "left", "failed"})


@dataclass
class _Rank:
    """One rank's last sample, and since when it has made no step."""

    last: Sample
    heard_at: float
    stepped_at: float
    base: int  # the step that its loop began with, or that it was first seen at
    steps: int = 0  # made in this attempt, as far as it has said
    memory: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_NOTES))
    trend_at: float = 0.0
    said_at: float = -math.inf

    def seen(self, now: float) -> hangs.Seen:
        last = self.last
        return hangs.Seen(
            rank=last.rank,
            step=last.step,
            first=max(self.steps, last.step - self.base) < _FIRST_STEPS,
            outside=not last.looping,
            phase="checkpoint" if last.state == "checkpointing" else last.phase,
            gap_s=now - self.stepped_at,
            silent_s=last.silent_s,
            idle_s=last.idle_s,
            stopped=last.stopped,
        )


@dataclass
class _Gang:
    epoch: int
    race: Race | None
    ranks: dict[int, _Rank] = field(default_factory=dict)
    takes: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    longest: float = 0.0
    looked_at: float = -math.inf

    def pace(self) -> hangs.Pace:
        return hangs.Pace(median(self.takes) if self.takes else 0.0, self.longest)


class Watching:
    """Watches all gangs of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._gangs: dict[str, _Gang] = {}
        self._suspects: set[str] = set()
        self._looked_at = -math.inf
        self._moving = Moving(engine)

    def sample(self, job: Job, sample: Sample, now: float) -> None:
        """Take a sample of a job's current attempt."""
        gang = self._gangs.get(job.id)
        if gang is None or gang.epoch != job.epoch:
            race = Race(job.ranks) if self._moving.comparable(job) else None
            gang = self._gangs[job.id] = _Gang(job.epoch, race)
        known = gang.ranks.get(sample.rank)
        if known is None:
            if not 0 <= sample.rank < job.ranks:
                return
            known = gang.ranks[sample.rank] = _Rank(sample, now, now, sample.step)
        known.last, known.heard_at = sample, now
        if not sample.looping:
            known.base = sample.step
        if sample.steps:
            self._stepped(job, gang, known, now)
        patience = job.spec.hang_after or hangs.PATIENCE
        if sample.stopped or sample.silent_s >= patience or sample.idle_s >= patience:
            self._suspects.add(job.id)
        if sample.limit:
            self._note_memory(job, known, now)

    def stragglers(self, job: Job) -> frozenset[int]:
        """Return the ranks of a job's current attempt that keep the others waiting."""
        gang = self._gangs.get(job.id)
        race = gang.race if gang is not None and gang.epoch == job.epoch else None
        return race.stragglers if race is not None and job.state.holds_gang else frozenset()

    def reported(self) -> None:
        """A report was taken: look at those of which it said something odd."""
        now, suspects = self._engine.now(), self._suspects
        self._suspects = set()
        for name in sorted(suspects):
            gang = self._gangs.get(name)  # none: its end came before a report that was taken
            if gang is not None and now - gang.looked_at >= _SOON:
                self._look_at(name, gang, now)

    def look(self) -> None:
        """A second has passed: look at all gangs."""
        now = self._engine.now()
        away = now - self._looked_at
        self._looked_at = now
        for name, gang in list(self._gangs.items()):
            if _AWAY < away < math.inf:
                for rank in gang.ranks.values():
                    rank.stepped_at += away
            job = self._engine.world.open.get(name)
            if job is None or not job.state.holds_gang or job.epoch != gang.epoch:
                del self._gangs[name]
            else:
                self._look_at(name, gang, now)

    # --- hangs --------------------------------------------------------------------------

    def _look_at(self, name: str, gang: _Gang, now: float) -> None:
        gang.looked_at = now
        job = self._engine.world.open.get(name)
        if job is None or job.stop is not None or not job.state.holds_gang:
            return
        alive = [rank for _, rank in ranks_of(job.placement) if rank not in job.ends]
        known = [gang.ranks[rank] for rank in alive if rank in gang.ranks]
        if len(known) < len(alive) or any(now - r.heard_at > _FRESH for r in known):
            return  # of those that aren't heard of, nothing can be said, nor of who waits for them
        seen = [r.seen(now) for r in known if r.last.state not in _THROUGH]
        hang = hangs.find(seen, gang.pace(), job.spec.hang_after, _suspected(job, known))
        if hang is not None:
            reason = StopReason.FAILURE
            self._engine.stop(ev.StopRequested(now, job.id, reason, hang.why, hung=hang.ranks))

    def _stepped(self, job: Job, gang: _Gang, rank: _Rank, now: float) -> None:
        sample, gap = rank.last, now - rank.stepped_at
        if rank.steps:
            gang.longest = max(gang.longest, gap, sample.longest_s)
            gang.takes.append(gap / sample.steps)
        rank.steps += sample.steps
        rank.stepped_at = now
        if gang.race is not None:
            found = gang.race.add(sample.rank, sample.steps, sample.compute_s)
            if found is not None:
                self._moving.straggles(job, found, now)

    # --- memory -------------------------------------------------------------------------

    def _note_memory(self, job: Job, rank: _Rank, now: float) -> None:
        memory, sample = rank.memory, rank.last
        if not memory or now - memory[-1][0] >= _NOTE_EVERY:
            memory.append((now, float(sample.rss)))
        if now - rank.trend_at < _TREND_EVERY:
            return
        rank.trend_at = now
        found = rise_to(tuple(memory), sample.limit)
        if found is None or found.left > _SOON_FULL or now - rank.said_at < _SAY_EVERY:
            return
        rank.said_at = now
        self._engine.live.note(job.id, _warning(sample, found))
        self._engine.changed(job.id)


def _suspected(job: Job, ranks: list[_Rank]) -> bool:
    """Whether a job was taken to hang before where it is now, give or take a step."""
    step = max((rank.last.step for rank in ranks), default=0)
    return any(f.cause == HANG and abs(f.step - step) <= 1 for f in job.failures)


def _warning(sample: Sample, rise: Rise) -> str:
    minutes = rise.left / 60
    soon = f"about {minutes:.0f} min" if minutes >= 1.5 else f"about {rise.left:.0f} s"
    return (
        f"Memory of rank {sample.rank} grows by {amount(round(rise.slope * 60))} a minute: it "
        f"reaches its limit of {amount(sample.limit)} in {soon}."
    )
