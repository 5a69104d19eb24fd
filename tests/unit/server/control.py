"""As much of a control plane as the server extension talks to, over real comms."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from distributed.core import Server

from resilient_nb.core.model import JobState
from resilient_nb.core.views import JobView
from resilient_nb.errors import ResilientError
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import HELLO, REQUEST, plain, to_json
from resilient_nb.wire.feed import Board, Follow, Followed, JobDelta


def a_job(state: JobState = JobState.STOPPING) -> JobView:
    """Return the view of `digits#1`."""
    return JobView(
        id="digits#1", run="digits", state=state, reason="", priority="normal", workers=1,
        user="ada", submitted_at=0.0, started_at=1.0, ended_at=None, attempts=1, epoch=1, step=20,
        total_steps=100, rate=1.0, eta_s=None, out=(), returned=(), ranks=(), metrics={},
        series={}, checkpoints=(), failures=(), notes=(), label="In [1]",
    )  # fmt: skip


class FakeControl:
    """Answers what it is told to, and follows as the real one does.

    Attributes:
        asked: all requests but `Follow`s.
        follows: those.
        answers: what to answer by the request's class, or the error to refuse it with.
        user: who it takes everybody for.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.follows: list[Follow] = []
        self.answers: dict[type[Any], Any] = {}
        self.user = "ada"
        self.cluster_id = "c1"
        self._count = 100
        self._board = (self._count, b"")
        self._jobs: dict[str, tuple[int, bytes, bytes]] = {}
        self._news = asyncio.Event()
        self._server: Any = None
        self._port = 0

    @property
    def address(self) -> str:
        """Where it listens, also while it doesn't."""
        return f"tcp://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Begin to listen, where it did before."""
        self._server = Server({HELLO: self._hello, REQUEST: self._request})
        await self._server.listen(self.address)
        await self._server
        self._port = self._server.port

    async def stop(self) -> None:
        """Die: connections break."""
        if self._server is not None:
            await self._server.close()
            self._server = None

    def board(self, *gone: str) -> None:
        """Something on the board changes; `gone` makes it recognisable."""
        self._count += 1
        self._board = (self._count, to_json(Board(gone=gone)))
        self._wake()

    def job(self, name: str, *notes: str) -> None:
        """A job changes, to these notes."""
        self._count += 1
        full, delta = (to_json(JobDelta(name, full=f, notes=notes)) for f in (True, False))
        self._jobs[name] = (self._count, full, delta)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _hello(self, comm: Any, protocol: int, claim: str = "") -> dict[str, Any]:
        return {"ok": plain(rq.Welcome(self.user, "owner", cluster_id=self.cluster_id))}

    async def _request(self, comm: Any, protocol: int, request: dict[str, Any]) -> dict[str, Any]:
        message = rq.REQUESTS.unpack(request)
        if isinstance(message, Follow):
            self.follows.append(message)
            return {"ok": plain(await self._follow(message))}
        self.asked.append(message)
        answer = self.answers[type(message)]
        if callable(answer):
            answer = answer(message)
        if isinstance(answer, ResilientError):
            return {"error": answer.to_wire()}
        return {"ok": plain(answer)}

    async def _follow(self, message: Follow) -> Followed:
        until = asyncio.get_running_loop().time() + message.wait
        while True:
            answer, news = self._answer(message), self._news
            left = until - asyncio.get_running_loop().time()
            if answer.board or answer.jobs or left <= 0:
                return answer
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)

    def _answer(self, message: Follow) -> Followed:
        full = message.cursor == 0
        at, board = self._board
        known = [self._jobs[job] for job in message.jobs if job in self._jobs]
        jobs = tuple(job[1 if full else 2] for job in known if job[0] > message.cursor)
        unknown = tuple(job for job in message.jobs if job not in self._jobs)
        changed = message.board and at > message.cursor
        shown = (to_json(Board(full=True)) if full and not board else board) if changed else b""
        return Followed(self._count, 1.5, self.cluster_id, shown, jobs, unknown)
