"""Following one cluster for all browsers that look at it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from resilient_nb._version import __version__
from resilient_nb.comms import AsyncClient
from resilient_nb.connection import Chosen
from resilient_nb.errors import NoCluster, ResilientError
from resilient_nb.server.frames import Pieces
from resilient_nb.server.listener import Listener
from resilient_nb.wire.codec import PROTOCOL
from resilient_nb.wire.feed import FRAME_EVERY, Down, Follow, Followed, Hello

logger = logging.getLogger(__name__)

#: In seconds: how long an answer may be waited for at the cluster, and how much longer here;
#: between looks at which cluster is chosen; between tries; how long to stay when nobody listens.
WAIT, LATE, LOOK_EVERY, RETRY, LINGER = 5.0, 5.0, 1.0, 0.5, 5.0


def hello(user: str) -> Hello:
    """Return the first message for a browser of this user."""
    return Hello("hello", PROTOCOL, __version__, user)


@dataclass
class Cursor:
    """How much the listeners have been told.

    Who gets everything is ahead of the others. They catch up first: asking for all at once from
    where the others are would bring everything again.
    """

    cursor: int = 0  # 0: nothing
    ahead: int = 0  # of those who got everything since; 0: there are none
    behind: frozenset[str] = frozenset()  # the jobs of the others

    def gave_all(self, cursor: int, before: frozenset[str]) -> None:
        """Somebody got everything; `before` are the jobs that were followed until then."""
        if not self.cursor:
            self.cursor = cursor
        elif not self.ahead:
            self.ahead, self.behind = cursor, before

    def follow(self, known: frozenset[str]) -> Follow:
        """Return what to ask for next; `known` are all jobs that are followed now."""
        jobs, wait = (self.behind & known, 0.0) if self.ahead else (known, WAIT)
        return Follow(self.cursor, tuple(sorted(jobs)), wait=wait)

    def gave(self, cursor: int) -> None:
        """All were told what was asked for."""
        self.cursor, self.ahead = self.ahead or cursor, 0


class Follower:
    """Asks one cluster what is new and tells it to the listeners.

    One request at a time: so what a listener gets is never older than what it has. Somebody who
    needs everything interrupts the long request, gets it, and the long one is made again.

    Args:
        choose: returns where the cluster is now.
        user: who the user is as long as no cluster has said it.
    """

    def __init__(self, choose: Callable[[], Chosen], user: str) -> None:
        self._choose = choose
        self._hello = hello(user)
        self._listeners: list[Listener] = []
        self._down: Down | None = None
        self._at = Cursor()
        self._given_at = self._look_at = 0.0
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is followed."""
        return self._task is None or self._task.done()

    def add(self, listener: Listener) -> None:
        """Tell a listener what is new from now on, beginning with everything."""
        if self.idle:
            self._down = None  # that was so when somebody listened last
        self._listeners.append(listener)
        listener.greet(self._hello)
        if len(self._listeners) == 1:
            self._wake.set()
        if self.idle:
            self._task = asyncio.create_task(self._run())

    def remove(self, listener: Listener) -> None:
        """Tell it nothing more."""
        if listener not in self._listeners:
            return  # the server ends, and the socket after it
        self._listeners.remove(listener)
        listener.close()
        if not self._listeners:
            self._wake.set()

    def changed(self) -> None:
        """Look what the listeners need, and wake up when the first is to get it."""
        if self._down is not None:
            for listener in self._listeners:
                listener.tell_down(self._down)
        if self._alarm is not None:
            self._alarm.cancel()
        due = [at for at in (listener.due for listener in self._listeners) if at is not None]
        self._alarm = None
        if due:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(max(min(due), loop.time()), self._wake.set)

    async def close(self) -> None:
        """Stop."""
        for listener in tuple(self._listeners):
            self.remove(listener)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- the task -----------------------------------------------------------------------

    async def _run(self) -> None:
        """Follow whichever cluster is chosen, until nobody has listened for a while."""
        while await self._wanted():
            try:
                await self._follow(self._choose())
            except ResilientError as error:
                none = isinstance(error, NoCluster)
                await self._stay_down(Down("down", str(error), no_cluster=none))
            except Exception:
                # Browsers must not be left without a word, and the next try may go well.
                why = "The cluster can't be followed: the log of the Jupyter server says why."
                if self._down != Down("down", why):
                    logger.exception("resilient_nb: the cluster can't be followed")
                await self._stay_down(Down("down", why))

    async def _wanted(self) -> bool:
        if not self._listeners:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), LINGER)
            except TimeoutError:
                return bool(self._listeners)
        return True

    async def _stay_down(self, down: Down) -> None:
        self._down = down
        self.changed()
        await asyncio.sleep(RETRY)

    async def _follow(self, chosen: Chosen) -> None:
        """Follow a cluster until it breaks off, another is chosen or nobody listens."""
        client = AsyncClient(chosen.address, 0.0, chosen.tls, within=WAIT + LATE)
        self._at = Cursor()
        for listener in self._listeners:
            listener.forget()
        try:
            while self._listeners and self._still(chosen):
                self._wake.clear()
                await self._refresh(client)
                self.changed()
                pieces = await self._poll(client, chosen)
                if pieces is not None:
                    self._give(pieces)
        finally:
            await client.close()

    async def _refresh(self, client: AsyncClient) -> None:
        """Give everything to those who need it now."""
        loop = asyncio.get_running_loop()
        due = [(each, each.due) for each in self._listeners]
        needs = {each: each.missing for each, at in due if at is not None and at <= loop.time()}
        if not needs:
            return
        board = any(each.fresh for each in needs)
        jobs = frozenset[str]().union(*needs.values())
        before = self._known()
        pieces = await self._ask(client, Follow(0, tuple(sorted(jobs)), board, wait=0.0))
        self._down = None
        self._hello = hello(client.welcome.user)
        self._given_at = loop.time()
        self._at.gave_all(pieces.answer.cursor, before)
        for listener, missing in needs.items():
            if listener in self._listeners:
                listener.give_full(pieces, missing, self._hello, self._given_at)

    async def _poll(self, client: AsyncClient, chosen: Chosen) -> Pieces | None:
        """Return what is new; None if somebody needs something, or another cluster is chosen.

        Those who are behind catch up first, which is soon done: else they could wait for ever for
        others who need something again and again.
        """
        asked = asyncio.create_task(self._next(client))
        woken = asyncio.create_task(self._wake.wait())
        awaited = {asked} if self._at.ahead else {asked, woken}
        try:
            while True:
                done, _ = await asyncio.wait(
                    awaited, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
                if asked in done:
                    return asked.result()
                if woken in done or not self._still(chosen):
                    return None
        finally:
            asked.cancel()
            woken.cancel()
            await asyncio.gather(asked, woken, return_exceptions=True)

    async def _next(self, client: AsyncClient) -> Pieces:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._given_at + FRAME_EVERY - loop.time())
        if not self._at.cursor:
            await asyncio.Event().wait()  # nobody has got anything yet
        return await self._ask(client, self._at.follow(self._known()))

    def _give(self, pieces: Pieces) -> None:
        """Tell all what is new."""
        self._at.gave(pieces.answer.cursor)
        now = asyncio.get_running_loop().time()
        for listener in self._listeners:
            if listener.give(pieces, now):
                self._given_at = now

    def _known(self) -> frozenset[str]:
        return frozenset[str]().union(*(each.known for each in self._listeners))

    async def _ask(self, client: AsyncClient, follow: Follow) -> Pieces:
        return Pieces.of(await client.request(follow, Followed))

    def _still(self, chosen: Chosen) -> bool:
        """Whether it is still the chosen cluster, as far as was looked."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return True
        try:
            same = self._choose() == chosen
        except ResilientError:
            same = False
        if same:
            self._look_at = now + LOOK_EVERY
        return same
