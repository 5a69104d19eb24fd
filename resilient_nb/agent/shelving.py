"""A host's memory copies: completed, copied from peers, put back to the store, and removed.

What is done is done in one thread behind everything else; the loop only notes what is wanted. The
host's ranks put their parts on the shelf themselves. What makes them a copy of a checkpoint, its
manifest, comes from here, when the journal has the checkpoint and all it needs is there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from resilient_nb.agent.peers import PeerStore, answer
from resilient_nb.config import Settings
from resilient_nb.errors import ResilientError
from resilient_nb.storage.copying import Copier, Stopped
from resilient_nb.storage.fallback import FallbackStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.shelf import superfluous
from resilient_nb.storage.stores import open_store
from resilient_nb.supervisor import shelf
from resilient_nb.supervisor.place import Place
from resilient_nb.wire.orders import Kept, PutBack, Shelve

logger = logging.getLogger(__name__)

#: Behind everything else when cores are scarce.
_NICE = 10

#: Asks the agent at an address: what, a key, an offset.
AskPeer = Callable[[str, str, str, int], Awaitable[dict[str, Any]]]


class Shelving:
    """One for an agent. All methods are the loop's.

    Args:
        settings: of this host.
        place: of its supervisor.
        ask: reads another host's shelf.
    """

    def __init__(self, settings: Settings, place: Place, ask: AskPeer) -> None:
        self._settings = settings
        self._place = place
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._store = shelf.at(settings.shelf, place)
        self._wanted: dict[str, Shelve | PutBack] = {}  # by run; the newest order counts
        self._rules: Mapping[str, Kept] = {}
        self._swept: object = None
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(1, "resilient_nb shelf", initializer=_step_back)
        self.trouble: dict[str, str] = {}  # by run: what the user should know
        if not shelf.possible(settings.shelf):
            self._do(partial(shelf.drop_stale, settings.shelf, place))
        for left in self._store.announced("*").parent.glob("coming-*"):
            left.unlink(missing_ok=True)  # by an agent before this one

    def close(self) -> None:
        """Stop soon. What is there stays as long as the supervisor lives."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self) -> None:
        """Have a shelf: ranks that are about to start use it."""
        try:
            self._store = shelf.make(self._settings.shelf, self._place)
        except OSError as error:
            logger.warning("resilient_nb: no memory copies on this host: %s", error)

    @property
    def there(self) -> tuple[str, ...] | None:
        """The checkpoints that this host has whole, None if it can't have any."""
        if shelf.possible(self._settings.shelf):
            return None
        return self._store.whole()

    def obey(self, order: Shelve | PutBack) -> None:
        """Copy a checkpoint, unless that is on its way."""
        run = order.checkpoint.partition("/")[0]
        if self._wanted.get(run) != order:
            self._wanted[run] = order
            if isinstance(order, Shelve) and order.awaited:
                self.prepare()
                self._store.announce(run)
            self._do(partial(self._carry_out, run, order))

    def keep(self, rules: Mapping[str, Kept]) -> None:
        """Remove what isn't to stay, by the rules of all runs that may have copies here."""
        self._rules = rules
        for run in self.trouble.keys() - rules.keys():
            self.trouble.pop(run, None)
        state = (dict(rules), self._store.whole())
        if state != self._swept:
            self._swept = state
            self._do(self._sweep)

    async def read(self, what: str, key: str, offset: int) -> dict[str, Any]:
        """Answer a peer."""
        return await asyncio.to_thread(answer, self._store, what, key, offset)

    def _do(self, work: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # closed
            self._pool.submit(self._guarded, work)

    # --- in the thread ------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            return
        except Exception:
            # One failure must not be the end of all later copies; the cause is in the log.
            logger.exception("resilient_nb: memory copies failed")

    def _carry_out(self, run: str, order: Shelve | PutBack) -> None:
        if self._wanted.get(run) != order:
            return  # there is a newer one
        try:
            if isinstance(order, Shelve):
                self._shelve(order)
            else:
                target = open_store(self._settings.runs)
                Copier(self._store, target, self._closed.is_set).copy(order.checkpoint)
        except (OSError, ResilientError) as error:
            self.trouble[run] = self._failed(run, order, error)
        else:
            self.trouble.pop(run, None)
        finally:
            if self._wanted.get(run) == order:
                del self._wanted[run]
                self._store.announced(run).unlink(missing_ok=True)

    def _failed(self, run: str, order: Shelve | PutBack, error: Exception) -> str:
        """Return in words what failed."""
        host, why = self._settings.host, getattr(error, "strerror", None) or str(error)
        if isinstance(order, PutBack):
            return f"{host} can't write {order.checkpoint} to the store again: {why}"
        text = f"{host} has no copy of the newest checkpoint in memory: {why.rstrip('.')}."
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            self._sweep_run(run, whole=False)  # or there would never be room for a newer one
            text += (
                " Give its containers more of /dev/shm, or set RESILIENT_NB_SHELF to a larger "
                "folder in memory."
            )
        return text

    def _shelve(self, order: Shelve) -> None:
        self._store = shelf.make(self._settings.shelf, self._place)
        if order.checkpoint in self._store.whole():
            return
        peers = [
            PeerStore(address, self._loop, partial(self._ask, address)) for address in order.sources
        ]
        # The store comes last: what no peer has, say since a fork has never written it.
        first, *others = [*peers, open_store(self._settings.runs)]
        source = FallbackStore(first, others)
        Copier(source, self._store, self._closed.is_set, atomic=True).copy(order.checkpoint)

    def _sweep(self) -> None:
        for run in self._store.folders():
            rule = self._rules.get(run)
            if rule is None:
                self._store.delete([entry.key for entry in self._store.list(run)])
            else:
                self._sweep_run(run, rule.whole)

    def _sweep_run(self, run: str, whole: bool) -> None:
        """Remove what is older than the head, but for the newest copy that is whole."""
        rule = self._rules.get(run)
        if rule is None:
            return
        mine = sorted(i for i in self._store.whole() if i.partition("/")[0] == run)
        needed: list[Manifest] = []
        newest = rule.head if rule.head in mine else mine[-1] if mine and whole else None
        for store, identity in (
            (self._store, newest),
            (open_store(self._settings.runs), rule.head),
        ):
            if identity is not None:
                with suppress(ResilientError, OSError):
                    needed.append(open_at(store, identity, private=False).manifest)
        keys = superfluous(self._store, run, rule.head, rule.epoch, needed)
        self._store.delete(keys)


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
