"""The agent's connection to its host's supervisor, which it starts if there is none."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from resilient_nb.supervisor.place import Place, short_path
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import ORDERS

logger = logging.getLogger(__name__)

#: Between tries to connect, and between starts of a supervisor, in seconds.
_RETRY, _RESTART = 0.05, 5.0


class SupervisorLink:
    """Keeps a connection; orders given while there is none are sent when there is."""

    def __init__(
        self, place: Place, start: Callable[[], None], heard: Callable[[dict[str, Any]], None]
    ) -> None:
        self._place = place
        self._start = start
        self._heard = heard
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: list[bytes] = []

    def send(self, order: object) -> None:
        """Send an order; it never blocks."""
        data = frame(ORDERS.pack(order))
        if self._writer is None:
            self._waiting.append(data)
        else:
            self._writer.write(data)

    async def run(self) -> None:
        """Connect, listen, and connect again, until cancelled."""
        while True:
            reader, self._writer = await self._connect()
            for data in self._waiting:
                self._writer.write(data)
            self._waiting.clear()
            try:
                await self._listen(reader)
            except Exception:
                logger.exception("resilient_nb: what the supervisor says was not understood")
                await asyncio.sleep(_RESTART)
            finally:
                self._writer.close()
                self._writer = None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(1 << 20):
                for message in frames.feed(data):
                    self._heard(message)
        except ConnectionError:
            return

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        start_at = 0.0
        while True:
            if self._place.folder.exists():
                name, fd = short_path(self._place.socket)
                try:
                    return await asyncio.open_unix_connection(name)
                except OSError:
                    pass  # nobody listens yet
                finally:
                    if fd is not None:
                        os.close(fd)
            if loop.time() >= start_at:
                start_at = loop.time() + _RESTART
                try:
                    self._start()
                except OSError as error:  # its disk is full, say: that may pass
                    logger.warning("resilient_nb: no supervisor can be started: %s", error)
            await asyncio.sleep(_RETRY)
