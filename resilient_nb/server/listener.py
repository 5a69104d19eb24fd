"""One browser's socket, as the follower of a cluster sees it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from resilient_nb.server.frames import Pieces, news
from resilient_nb.wire.codec import to_json
from resilient_nb.wire.feed import FRAME_EVERY, Down, Hello

#: A browser that can't keep up gets everything anew, at most this often, in seconds.
SLOW_EVERY = 1.0


class Listener:
    """What one browser wants, what it has, and when it may get more.

    Only one lot of messages is on its way at a time. News that would have to wait behind it are
    left out, and the browser gets everything anew when it has caught up: nothing piles up.

    Args:
        write: sends a message, and is done when the network has taken it.
        changed: called when there may be something to do for this listener.

    Attributes:
        wished: the jobs of which it wants every detail.
        known: those of which it has all that there was to say.
        fresh: it has nothing yet, or has missed something.
    """

    def __init__(
        self, write: Callable[[bytes], Awaitable[None]], changed: Callable[[], None]
    ) -> None:
        self.wished: frozenset[str] = frozenset()
        self.known: frozenset[str] = frozenset()
        self.fresh = True
        self._write = write
        self._changed = changed
        self._writing: asyncio.Task[None] | None = None
        self._news_at = -math.inf
        self._slow = False
        self._hello: Hello | None = None  # what it was told last
        self._down: Down | None = None
        self._unknown: frozenset[str] = frozenset()

    @property
    def busy(self) -> bool:
        """Whether a message is still on its way."""
        return self._writing is not None

    @property
    def missing(self) -> frozenset[str]:
        """The jobs that it is to get in full."""
        return self.wished if self.fresh else self.wished - self.known

    @property
    def due(self) -> float | None:
        """When it is to get something in full, by the loop's clock; None: it needs nothing."""
        if self.busy or not (self.fresh or self.missing):
            return None
        return self._news_at + (SLOW_EVERY if self._slow else FRAME_EVERY)

    def wish(self, jobs: frozenset[str]) -> None:
        """Take what the browser wants now instead of what it wanted before."""
        self.wished = jobs
        self.known &= jobs
        self._unknown &= jobs
        self._changed()

    def forget(self) -> None:
        """What it has is of another cluster, or of before a break."""
        self.fresh = True
        self.known = self._unknown = frozenset()

    def greet(self, hello: Hello) -> None:
        """Say who the user is: the first message of all."""
        self._hello = hello
        self._send(to_json(hello))

    def tell_down(self, down: Down) -> None:
        """Say that the cluster doesn't answer, unless it was told that. Call again if busy."""
        if not self.busy and down != self._down:
            self._down = down
            self._send(to_json(down))

    def give_full(self, pieces: Pieces, jobs: frozenset[str], hello: Hello, now: float) -> None:
        """Send the jobs that were missing, and the board if it has none.

        Args:
            pieces: the answer to a request for everything.
            jobs: those that were missing when it was asked for.
            hello: who the user is for this cluster.
            now: by the loop's clock.
        """
        if self.busy:
            return
        first = () if hello == self._hello else (to_json(hello),)
        unknown = jobs.intersection(pieces.answer.unknown)
        frame = news(pieces, self.fresh, sorted(jobs), sorted(unknown))
        self._hello = hello
        self.known = (self.known | jobs) & self.wished
        self._unknown |= unknown
        self.fresh = self._slow = False
        self._give(frame, now, *first)

    def give(self, pieces: Pieces, now: float) -> bool:
        """Send what has changed of what it knows; return whether that was anything."""
        if self.fresh:
            return False  # it gets everything soon
        unknown = self.known.intersection(pieces.answer.unknown) - self._unknown
        frame = news(pieces, True, sorted(self.known), sorted(unknown))
        if frame is None:
            return False
        if self.busy:
            self.fresh = self._slow = True
            return False
        self._unknown |= unknown
        self._give(frame, now)
        return True

    def close(self) -> None:
        """Send nothing more."""
        if self._writing is not None:
            self._writing.cancel()

    def _give(self, frame: bytes | None, now: float, *first: bytes) -> None:
        if frame is not None:
            self._down = None
            self._news_at = now
            self._send(*first, frame)

    def _send(self, *messages: bytes) -> None:
        self._writing = asyncio.create_task(self._write_all(messages))

    async def _write_all(self, messages: tuple[bytes, ...]) -> None:
        try:
            for message in messages:
                await self._write(message)
        finally:
            self._writing = None
            self._changed()
