"""REST: what browsers do. A click that comes again is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from resilient_nb.core.views import RunView
from resilient_nb.errors import Conflict, InvalidRequest
from resilient_nb.server import actions
from resilient_nb.server.api import Api, check_cluster
from resilient_nb.wire import requests as rq
from resilient_nb.wire.feed import Action, Done

#: How many clicks are remembered.
_MOST = 1000


class Clicks:
    """What came of the last clicks, by what they asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Action], asyncio.Task[Done]] = {}

    async def once(
        self, cluster: str, action: Action, do: Callable[[], Coroutine[Any, Any, Done]]
    ) -> Done:
        """Return what comes of a click; one that went wrong may be tried again."""
        key = (cluster, action)
        task = self._known.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._known[key] = asyncio.create_task(do())
            for old in list(self._known)[:-_MOST]:
                del self._known[old]
        return await asyncio.shield(task)


class Actions(Api):
    """Steering: `Action` in, `Done` out."""

    def initialize(self, clicks: Clicks) -> None:
        """Take what is known of earlier clicks."""
        self._clicks = clicks

    @authenticated
    @authorized
    async def post(self) -> None:
        """Do what a click asks for."""
        await check_cluster(self)
        await self.answer(self._done())

    async def _done(self) -> Done:
        try:
            action = msgspec.json.decode(self.request.body, type=Action)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The action can't be read: {error}.") from error
        asked, client = actions.request(action), self.client

        async def do() -> Done:
            try:
                found = await client.request(asked.message, asked.kind)
            except Conflict:
                if action.verb != "fork":
                    raise
                # Its first answer may have been lost: then the run is there as it was asked for.
                (found,) = await client.request(rq.ListRuns(action.name), list[RunView])
                if found.forked_from != action.ref or found.jobs:
                    raise
            return actions.done(action, found)

        return await self._clicks.once(self.address, action, do)
