"""REST: what browsers ask for, beside what they are fed with."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from resilient_nb._version import __version__
from resilient_nb.checkpoints import compare
from resilient_nb.config import load_settings
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.views import CheckpointView, WhyReport
from resilient_nb.errors import InvalidRequest, ResilientError
from resilient_nb.server import logs
from resilient_nb.server.api import Api, check_cluster
from resilient_nb.server.clusters import choose
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import PROTOCOL
from resilient_nb.wire.feed import LogMatches, LogText, Status


class Question(Api):
    """A GET request; subclasses find the answer."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """Answer."""
        await check_cluster(self)
        await self.answer(self.found())

    async def found(self) -> Any:
        """Return the answer."""
        raise NotImplementedError

    def log_of(self, offset: int = 0, limit: int = logs.PIECE) -> rq.ReadLog:
        """Return which log is meant.

        Raises:
            InvalidRequest: a number can't be right.
        """
        job, rank, latest = self.get_query_argument("job"), self.number("rank", 0), -1
        epoch = self.number("epoch", latest)
        if rank < 0 or limit < 1 or epoch < latest:
            raise InvalidRequest("rank and epoch are 0 or more, and limit is 1 or more.")
        return rq.ReadLog(job, rank, None if epoch == latest else epoch, offset, limit)


class Log(Question):
    """A piece of what a rank has printed."""

    async def found(self) -> LogText:
        """Read it."""
        offset, limit = self.number("offset", 0), self.number("limit", logs.PIECE)
        return await logs.read(self.client, self.log_of(offset, limit))


class Search(Question):
    """The lines of a log that have a text."""

    async def found(self) -> LogMatches:
        """Search, from the end."""
        text = self.get_query_argument("text", strip=False)
        return await logs.search(self.client, self.log_of(), text)


class Diff(Question):
    """What differs between two checkpoints."""

    _one_at_a_time = asyncio.Lock()  # tensors are read, and may be large

    async def found(self) -> DiffReport:
        """Compare them in a thread."""
        client = self.client
        refs = [self.get_query_argument(name) for name in "ab"]
        a, b = [await client.request(rq.Resolve(ref), CheckpointView) for ref in refs]
        async with self._one_at_a_time:
            return await asyncio.to_thread(compare, a, b)


class Why(Question):
    """What holds a job, and what would start it."""

    async def found(self) -> WhyReport:
        """Ask for it."""
        return await self.client.request(rq.Why(self.get_query_argument("job")), WhyReport)


class StatusQuestion(Question):
    """Which cluster is looked at, and as whom."""

    async def found(self) -> Status:
        """Ask it who the user is."""
        user = address = cluster = error = ""
        try:
            user = load_settings().user
            address = choose(self.address).address
            welcome = await self.client.identity()
            user, cluster = welcome.user, welcome.cluster_id
        except ResilientError as why:
            error = str(why)
        return Status(user, __version__, PROTOCOL, address, cluster, error)
