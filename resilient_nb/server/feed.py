"""The WebSocket that feeds a browser."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from resilient_nb.server.api import CLUSTERS, RESOURCE, check_cluster
from resilient_nb.server.clusters import Clusters
from resilient_nb.server.follower import Follower
from resilient_nb.server.listener import Listener
from resilient_nb.wire.feed import Wish

#: What a browser may send at once, in bytes, and of how many jobs it may want every detail.
_MOST_BYTES, _MOST_JOBS = 1 << 18, 1000
_BAD_DATA, _MOST_REASON = 1007, 123  # WebSocket's own code, and the bytes that a reason may have


class FeedSocket(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """Sends `Hello`, then `News` and `Down`; takes `Wish`."""

    auth_resource = RESOURCE
    _follower: Follower | None = None
    _listener: Listener | None = None

    @property
    def max_message_size(self) -> int:
        """A wish is short."""
        return _MOST_BYTES

    def set_default_headers(self) -> None:
        """Jupyter's headers are for pages."""

    def get_compression_options(self) -> dict[str, Any] | None:
        """Compress only if the server's configuration says so: it costs more than it saves."""
        found: dict[str, Any] | None = self.settings.get("websocket_compression_options")
        return found

    @ws_authenticated
    @authorized
    async def get(self) -> None:
        """Become a WebSocket, for those who may."""
        await check_cluster(self)
        await super().get()

    def open(self) -> None:
        """Begin to listen."""
        super().open()
        clusters: Clusters = self.settings[CLUSTERS]
        self._follower = clusters.follower(self.get_query_argument("cluster", ""))
        self._listener = Listener(self._write, self._follower.changed)
        self._follower.add(self._listener)

    def on_message(self, message: str | bytes) -> None:
        """Take a wish."""
        assert self._listener is not None
        try:
            wish = msgspec.json.decode(message, type=Wish)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refuse(f"This is no wish: {error}")
            return
        if len(wish.jobs) > _MOST_JOBS:
            self._refuse(f"A wish has {_MOST_JOBS} jobs at most.")
            return
        self._listener.wish(frozenset(wish.jobs))

    def on_close(self) -> None:
        """Listen no more."""
        if self._follower is not None and self._listener is not None:
            self._follower.remove(self._listener)

    def _refuse(self, why: str) -> None:
        self.close(_BAD_DATA, why.encode()[:_MOST_REASON].decode(errors="ignore"))

    async def _write(self, message: bytes) -> None:
        with suppress(WebSocketClosedError):  # `on_close` comes
            await self.write_message(message)
