"""Tells those who watch or follow jobs what is new, as soon as it is.

`Watch` is a job's whole view whenever that is another one. `Follow` is for many: what has changed
since a cursor. Only what somebody follows is looked at, and forgotten when nobody has for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from resilient_nb.control.board import Board
from resilient_nb.control.detail import Detail
from resilient_nb.control.pieces import NOTHING, Sources
from resilient_nb.core import events as ev
from resilient_nb.core.world import World
from resilient_nb.wire.feed import Follow, Followed

#: What nobody has followed for so many seconds is forgotten.
FORGET = 60.0
#: After something new, in seconds: what comes with it is told with it.
GATHER = 0.02
_MOST_WAIT = 60.0


class Feed:
    """Versions of jobs' views, what is followed, and waiting for news. One for a scheduler.

    Before `begin` nobody can follow anything.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        # Beginning at the clock, so that no version of an earlier scheduler comes again.
        self._start = self._count = int(clock() * 1000)
        self._versions: dict[str, int] = defaultdict(lambda: self._start)
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._board: Board | None = None
        self._details: dict[str, Detail] = {}
        self._waiting: set[asyncio.Event] = set()

    def begin(self, sources: Sources) -> None:
        """Tell of an engine's jobs from now on."""
        self._sources, self._engine = sources, sources.engine
        self._engine.listeners.append(self.heard)

    # --- what happens -------------------------------------------------------------------

    def changed(self, job: str) -> None:
        """A job's view is new: wake those who wait for it. Called for each sample."""
        self._versions[job] += 1
        if job in self._news:
            self._news.pop(job).set()
        if self._board is not None:
            self._board.touched(job)
        if job in self._details:
            self._spoil(self._details[job])

    def heard(self, events: Sequence[ev.Event], before: World, after: World) -> None:
        """Something has happened: that is told at once."""
        jobs = set(filter(None, map(ev.job_of, events)))
        runs = {after.jobs[job].run for job in jobs}
        for detail in self._details.values():
            run = detail.run
            if run in runs or before.runs.get(run) is not after.runs[run]:
                self._spoil(detail)
        if self._board is not None:
            for job in sorted(jobs):
                self._board.happened(job)
            _wake(self._board.waiting)

    def look(self) -> None:
        """A second has passed: some things change with time."""
        now = self._engine.now()
        _wake(self._waiting)
        if self._board is not None and now - self._board.used_at > FORGET:
            self._board = None
        for name, detail in list(self._details.items()):
            if now - detail.used_at > FORGET:
                del self._details[name]

    def _spoil(self, detail: Detail) -> None:
        detail.stale = True
        _wake(detail.waiting)

    # --- watching -----------------------------------------------------------------------

    def version(self, job: str) -> int:
        """Return the number of the job's newest view."""
        return self._versions[job]

    async def wait(self, job: str, seen: int, timeout: float) -> None:
        """Return when the version is no longer `seen`, or after `timeout` seconds."""
        if self._versions[job] == seen:
            news = self._news[job]
            try:
                await asyncio.wait_for(news.wait(), timeout)
            except TimeoutError:
                return

    # --- following ----------------------------------------------------------------------

    async def follow(self, request: Follow) -> Followed:
        """Return what has changed since the request's cursor, as soon as something has."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(request.wait, _MOST_WAIT)
        while True:
            answer, new = self.answer(request)
            left = until - loop.time()
            if new or left <= 0:
                return answer
            await self._wait(request, left)

    def answer(self, request: Follow) -> tuple[Followed, bool]:
        """Return what has changed since the request's cursor, and whether anything has."""
        engine, world = self._engine, self._engine.world
        known = self._start <= request.cursor <= self._count
        cursor = request.cursor if known else NOTHING
        at, changed, board, details, unknown = self._count + 1, False, b"", [], []
        for name in dict.fromkeys(request.jobs):
            job = world.jobs.get(name)
            if job is None:
                unknown.append(name)
                continue
            detail = self._details.get(name)
            if detail is None:
                detail = self._details[name] = Detail(name, job.run, at)
            detail.used_at = engine.now()
            if detail.due(job, engine.now()):
                changed |= detail.refresh(self._sources, job, at)
            details.append(detail.since(cursor))
        if request.board:
            if self._board is None:
                self._board = Board(self._sources, at)
            self._board.used_at = engine.now()
            changed |= self._board.refresh(at)
            board = self._board.since(cursor)
        if changed:
            self._count = at
        jobs = tuple(filter(None, details))
        answer = Followed(self._count, engine.now(), world.cluster_id, board, jobs, tuple(unknown))
        return answer, bool(board or jobs or (unknown and not known))

    async def _wait(self, request: Follow, seconds: float) -> None:
        """Return a moment after something new of what is followed, or after so many seconds."""
        news, places = asyncio.Event(), list(self._places(request))
        for place in places:
            place.add(news)
        try:
            if not (request.board and self._board is not None and self._board.more):
                await asyncio.wait_for(news.wait(), seconds)
        except TimeoutError:
            return
        finally:
            for place in places:
                place.discard(news)
        await asyncio.sleep(GATHER)

    def _places(self, request: Follow) -> Iterable[set[asyncio.Event]]:
        """Yield where to wait for what is followed."""
        yield self._waiting
        if request.board and self._board is not None:
            yield self._board.waiting
        for job in request.jobs:
            if job in self._details:
                yield self._details[job].waiting


def _wake(waiting: set[asyncio.Event]) -> None:
    while waiting:
        waiting.pop().set()
