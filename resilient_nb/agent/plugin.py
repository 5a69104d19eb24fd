"""The Dask side of the agent: a WorkerPlugin that reports to control and passes on orders."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import time
from typing import Any

from distributed import Status, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from resilient_nb.agent.link import SupervisorLink
from resilient_nb.agent.means import slot_of, store_free
from resilient_nb.agent.shelving import Shelving
from resilient_nb.agent.tails import Tails
from resilient_nb.config import Settings, load_settings
from resilient_nb.core.model import Injection
from resilient_nb.supervisor.place import Place
from resilient_nb.wire.codec import ORDER, PROTOCOL, REPORT, SHELF, build, plain
from resilient_nb.wire.orders import (
    ORDERS,
    Acknowledge,
    Chaos,
    Launch,
    PutBack,
    RankRow,
    Report,
    ReportReply,
    Sample,
    Shelve,
)

logger = logging.getLogger(__name__)

#: What the supervisor preloads and ranks run.
RANK_ENTRY = "resilient_nb.rank.process:main"
_BUSY, _IDLE = 0.25, 1.0
#: Between looks at the free space of the store, in seconds.
_DISK = 5.0


class AgentPlugin(WorkerPlugin):
    """Makes a Dask worker offer slots. One for a worker."""

    name = "resilient_nb"

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    def setup(self, worker: Worker) -> None:
        """Begin to report as soon as the worker runs."""
        self._worker = worker
        self._config = self._settings or load_settings()
        self._link: SupervisorLink | None = None
        self._shelving: Shelving | None = None
        self._ranks: tuple[RankRow, ...] = ()
        self._facts: dict[str, dict[str, Any]] = {}
        self._samples: dict[tuple[str, int, int], Sample] = {}
        self._speaks = self._warm = False
        self._slot = slot_of(worker, self._config)
        self._store_free: int | None = None
        self._disk_free: int | None = None
        self._round_trip = 0.0
        self._news = asyncio.Event()
        worker.stream_handlers[ORDER] = self._order
        worker.handlers[SHELF] = self._read_shelf
        self._tasks = [asyncio.create_task(self._serve(), name="resilient_nb agent")]

    def teardown(self, worker: Worker) -> None:
        """Stop reporting. The supervisor and its ranks go on."""
        for task in self._tasks:
            task.cancel()
        if self._shelving is not None:
            self._shelving.close()

    # --- orders down --------------------------------------------------------------------

    def _order(self, order: dict[str, Any]) -> None:
        # An exception in a stream handler would close the worker for good.
        try:
            message = ORDERS.unpack(order)
            if self._link is None or self._shelving is None:
                return  # it comes again
            if isinstance(message, (Shelve, PutBack)):
                self._shelving.obey(message)
                return
            if self._is_to_die(message):
                os.kill(os.getpid(), signal.SIGKILL)
            if isinstance(message, Launch) and message.attempt.memory_copies:
                self._shelving.prepare()
            self._link.send(message)
        except Exception:
            logger.exception("resilient_nb: an order was not understood")

    def _is_to_die(self, message: object) -> bool:
        """Whether chaos wants this worker killed, and its nanny starts another."""
        kills = isinstance(message, Chaos) and message.what is Injection.KILL_WORKER
        return kills and self._worker.nanny is not None

    # --- news up ------------------------------------------------------------------------

    def _heard(self, news: dict[str, Any]) -> None:
        """Take what the supervisor says."""
        self._speaks = news["speaks"]
        if not self._speaks:
            self._facts.clear()
            self._ranks = ()
            return
        self._warm = news["warm"]
        self._ranks = tuple(build(RankRow, row) for row in news["ranks"])
        for data in news["samples"]:
            new = build(Sample, data)
            key = (new.job, new.epoch, new.rank)
            self._samples[key] = new.after(self._samples.get(key))
        for name, fact in news["facts"]:
            self._facts[name] = fact
        if news["facts"]:
            self._news.set()

    async def _serve(self) -> None:
        while self._worker.status != Status.running:
            await asyncio.sleep(0.02)
        reply = await self._first_report()
        place = Place.of(self._config.home, reply["cluster_id"], self._config.host)
        self._tails = Tails(place)
        self._link = SupervisorLink(
            place, lambda: place.start(RANK_ENTRY, self._config.orphan_grace), self._heard
        )
        self._shelving = Shelving(self._config, place, self._ask_peer)
        self._tasks.append(asyncio.create_task(self._link.run(), name="resilient_nb link"))
        self._tasks.append(asyncio.create_task(self._look(), name="resilient_nb disk"))
        while True:
            self._news.clear()
            try:
                again = await self._report(self._link)
            except Exception as error:
                # The scheduler is away, or failed on it: facts stay until it takes them.
                if not isinstance(error, OSError):
                    logger.exception("resilient_nb: a report failed; it is sent again")
                again = False
                await asyncio.sleep(_BUSY)
            if not again:
                await self._pause()

    async def _look(self) -> None:
        """Look at the store's disk now and then, in a thread: a network's may hang."""
        while True:
            self._store_free = await asyncio.to_thread(store_free, self._config.store)
            self._disk_free = await asyncio.to_thread(store_free, str(self._config.home))
            await asyncio.sleep(_DISK)

    async def _first_report(self) -> dict[str, Any]:
        """Say hello until a scheduler with our plugin answers."""
        while True:
            try:
                reply = await self._call(self._make_report({}, []))
                if reply is not None:
                    return reply
            except Exception:
                logger.exception("resilient_nb: the scheduler doesn't take reports yet")
            await asyncio.sleep(_IDLE)

    async def _call(self, report: Report) -> dict[str, Any] | None:
        reply: dict[str, Any] | None = await getattr(self._worker.scheduler, REPORT)(
            protocol=PROTOCOL, report=plain(report)
        )
        return reply

    async def _pause(self) -> None:
        """Wait for facts, or a quarter of a second while ranks live, or a second."""
        try:
            await asyncio.wait_for(self._news.wait(), _BUSY if self._ranks else _IDLE)
        except TimeoutError:
            return

    async def _report(self, link: SupervisorLink) -> bool:
        """Send one report; True if there is more to send at once."""
        chunks = {
            (row.job, row.epoch, row.rank): self._tails.chunk(row.job, row.epoch, row.rank)
            for row in self._ranks
        }
        ready: dict[str, dict[str, Any]] = {}
        for name, fact in self._facts.items():
            if fact["kind"] == "RankDone":
                # A rank's output goes before its end, so that a failure shows all of it.
                key = (fact["job"], fact["epoch"], fact["end"]["rank"])
                chunks[key] = chunk = self._tails.chunk(*key)
                if not self._tails.covered(*key, chunk):
                    break  # facts stay in order
            ready[name] = fact
        report = self._make_report(ready, [c for c in chunks.values() if c is not None])
        sent, self._samples = self._samples, {}
        began = time.monotonic()
        reply = None
        try:
            reply = await self._call(report)
        finally:
            if reply is None:
                self._keep(sent)
        self._round_trip = time.monotonic() - began
        if reply is None:
            return False  # a scheduler without our plugin: nothing was taken
        reply.pop("cluster_id")
        idle = reply.pop("idle", False)  # it has no journal yet, so it doesn't know what is wanted
        known = build(ReportReply, reply)
        self._tails.confirm(known.log_sizes)
        if self._speaks and self._shelving is not None and not idle:
            self._shelving.keep(known.shelf)
        for name in known.acknowledged:
            self._facts.pop(name, None)
        if known.acknowledged:
            link.send(Acknowledge(known.acknowledged))
        # Nothing moved? Then the journal's disk is full, say, and it is no use to hurry.
        moved = known.acknowledged or (len(ready) < len(self._facts) and known.log_sizes)
        return bool(self._facts and moved)

    def _keep(self, sent: dict[tuple[str, int, int], Sample]) -> None:
        """Nobody has taken these samples: what they say is sent with the next ones."""
        for key, old in sent.items():
            new = self._samples.get(key)
            self._samples[key] = new.after(old) if new is not None else old

    def _withheld(self, ready: dict[str, dict[str, Any]]) -> list[RankRow]:
        """Ranks whose end control can't know yet: for it they live, or it would miss them."""
        return [
            RankRow(fact["job"], fact["epoch"], fact["end"]["rank"], 0)
            for name, fact in self._facts.items()
            if fact["kind"] == "RankDone" and name not in ready
        ]

    def _make_report(self, facts: dict[str, dict[str, Any]], logs: list[Any]) -> Report:
        shelving = self._shelving
        return Report(
            agent=self._worker.address,
            host=self._config.host,
            slots=self._config.slots,
            speaks=self._speaks,
            warm=self._warm,
            ranks=(*self._ranks, *self._withheld(facts)),
            facts=tuple(facts.items()),
            samples=tuple(self._samples.values()),
            logs=tuple(logs),
            slot=self._slot,
            store_free=self._store_free,
            disk_free=self._disk_free,
            round_trip=self._round_trip,
            shelf=shelving.there if shelving is not None and self._speaks else None,
            shelf_trouble=dict(shelving.trouble) if shelving is not None else {},
        )

    # --- memory copies ------------------------------------------------------------------

    async def _read_shelf(self, what: str, key: str, offset: int) -> dict[str, Any]:
        """Answer another host's agent."""
        if self._shelving is None:
            return {"error": errno.ENOENT}
        return await self._shelving.read(what, key, offset)

    async def _ask_peer(self, agent: str, what: str, key: str, offset: int) -> dict[str, Any]:
        peer = self._worker.rpc(agent)
        reply: dict[str, Any] = await getattr(peer, SHELF)(what=what, key=key, offset=offset)
        return reply
