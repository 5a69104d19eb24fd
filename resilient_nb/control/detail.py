"""All details of one job, as they are followed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from resilient_nb.control.pieces import NOTHING, Piece, Points, Sources
from resilient_nb.core.model import Job, RankEnd
from resilient_nb.core.views import RunView
from resilient_nb.wire.codec import to_json

#: A job is looked at again after so many seconds though nothing was heard of it: why it waits
#: changes with time. So is how far second copies of its run's checkpoints are.
_AGAIN, _COPIES_AGAIN = 1.0, 2.0

#: So many ranks that just go on are told of twice a second: nobody reads such a table faster, and
#: it is most of what is told.
_MANY, _MANY_AGAIN = 100, 0.45


class Detail:
    """A job that somebody follows. `refresh` looks at it; `since` says what is new.

    Args:
        job: its id; it exists.
        at: the count from which on it is followed.

    Attributes:
        stale: it isn't any more as it was when it was last looked at.
        waiting: those who wait for that.
        used_at: when somebody last asked.
    """

    def __init__(self, job: str, run: str, at: int) -> None:
        self.job, self.run, self.stale, self.used_at = job, run, True, 0.0
        self.waiting: set[asyncio.Event] = set()
        self._since = self._at = at
        self._looked_at = float("-inf")
        self._head, self._failures, self._chaos = Piece(), Piece(), Piece()
        self._notes, self._lineage, self._world = Piece(), Piece(), Piece()
        self._ranks: dict[int, tuple[int, tuple[object, ...]]] = {}  # with the count
        self._ranks_seen: tuple[Job | None, float] = (None, float("-inf"))  # and when
        self._ends: Mapping[int, RankEnd] | None = None
        self._ended: frozenset[int] = frozenset()
        self._stragglers: frozenset[int] = frozenset()
        self._series: dict[str, Points] = {}
        self._run_seen: tuple[object, str] = (None, "")
        self._copies = False  # the run's checkpoints have some
        self._copies_at = 0.0

    def due(self, job: Job, now: float) -> bool:
        """Whether there may be something new."""
        passed = abs(now - self._looked_at) >= _AGAIN and not job.state.final
        return self.stale or passed or self._copies_due(now)

    def _copies_due(self, now: float) -> bool:
        return self._copies and abs(now - self._copies_at) >= _COPIES_AGAIN

    def refresh(self, sources: Sources, job: Job, at: int) -> bool:
        """Look at the job; return whether it is another one than before."""
        engine, first = sources.engine, self._looked_at < 0
        self.stale, self._looked_at = False, engine.now()
        changed = [
            first,
            self._head.set(engine.head(job), at),
            self._failures.set(job.failures, at),
            self._chaos.set(job.chaos, at),
            self._notes.set(engine.live.told(job.id), at),
        ]
        if first:
            engine.live.renew(job.id)
        changed += [
            self._look_at_run(sources, job, at),
            self._look_at_ranks(sources, job, at),
            self._look_at_series(sources, job, at),
        ]
        if any(changed):
            self._at = at
        return any(changed)

    def since(self, cursor: int) -> bytes:
        """Return the JSON of a `JobDelta`, empty if nothing has changed since the cursor."""
        if cursor >= self._at:
            return b""
        full = cursor < self._since
        cursor = NOTHING if full else cursor
        new = ((name, points.since(cursor)) for name, points in self._series.items())
        return to_json(
            {
                "job": self.job,
                "full": full,
                "head": self._head.since(cursor),
                "failures": self._failures.since(cursor),
                "chaos": self._chaos.since(cursor),
                "notes": self._notes.since(cursor),
                "run": self._lineage.since(cursor),
                "ranks": [row for at, row in self._ranks.values() if at > cursor],
                "world": self._world.since(cursor),
                "points": {name: points for name, points in new if points},
            }
        )

    # --- looking ------------------------------------------------------------------------

    def _look_at_run(self, sources: Sources, job: Job, at: int) -> bool:
        world, now = sources.engine.world, sources.engine.now()
        run, active = world.runs[job.run], world.active_job(job.run)
        name = active.id if active else ""
        same = self._run_seen[0] is run and self._run_seen[1] == name
        if same and not self._copies_due(now):
            return False
        self._run_seen, self._copies_at = (run, name), now
        view: RunView = sources.run(run.name)
        self._copies = any(checkpoint.copies for checkpoint in view.checkpoints)
        return self._lineage.set(view, at)

    def _look_at_ranks(self, sources: Sources, job: Job, at: int) -> bool:
        live, stragglers = sources.engine.live, sources.engine.watching.stragglers(job)
        other: frozenset[int] = stragglers ^ self._stragglers
        if job.ends is not self._ends:
            ended = frozenset(job.ends)
            other |= ended ^ self._ended
            self._ends, self._ended = job.ends, ended
        self._stragglers = stragglers
        live.touch(job.id, other)
        changed, world, now = False, live.world(job.id), sources.engine.now()
        seen_of, seen_at = self._ranks_seen
        goes_on = seen_of is job and not other and world == len(self._ranks)
        if goes_on and world >= _MANY and abs(now - seen_at) < _MANY_AGAIN:
            return False  # what is fresh stays so until then
        self._ranks_seen = (job, now)
        for cells in live.fresh(job):
            rank = cells[0]
            row, known = (*cells, rank in stragglers), self._ranks.get(rank)
            if known is None or known[1] != row:
                self._ranks[rank] = (at, row)
                changed = True
        if self._world.set(world, at):
            self._ranks = {rank: row for rank, row in self._ranks.items() if rank < world}
            changed = True
        return changed

    def _look_at_series(self, sources: Sources, job: Job, at: int) -> bool:
        changed = False
        for name, points in sources.engine.live.grown(job.id).items():
            changed |= self._series.setdefault(name, Points()).set(points, at)
        return changed
