"""The Dask side of the control plane: a SchedulerPlugin that feeds the engine.

Requests and reports are RPCs on the scheduler's own comms (so TLS and addresses are Dask's);
orders go out on its streams to workers. Everything runs in the scheduler's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from resilient_nb.config import Settings, load_settings
from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine, Shell
from resilient_nb.core.events import ClusterCreated
from resilient_nb.errors import ResilientError, VersionMismatch
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import ORDER, PROTOCOL, REPORT, REQUEST, build, plain
from resilient_nb.wire.orders import ORDERS, Report

logger = logging.getLogger(__name__)


class Feed:
    """Versions of jobs' views, and waiting for the next one."""

    def __init__(self) -> None:
        # Beginning at the clock, so that no version of an earlier scheduler comes again.
        start = int(time.time() * 1000)
        self._versions: dict[str, int] = defaultdict(lambda: start)
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def changed(self, job: str) -> None:
        """A job's view is new: wake those who wait for it."""
        self._versions[job] += 1
        if job in self._news:
            self._news.pop(job).set()

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


class ControlPlugin(SchedulerPlugin):
    """Makes a Dask scheduler the control plane. Idempotent: one for a scheduler."""

    name = "resilient_nb"
    idempotent = True

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    async def start(self, scheduler: Scheduler) -> None:
        """Replay the journal, add the handlers and begin to tick."""
        settings = self._settings or load_settings()
        self._scheduler = scheduler
        self._feed = Feed()
        self._journal = SqliteJournal(settings.journal)
        shell = Shell(self._journal, self._launch, time.time, self._feed.changed)
        self._engine = Engine(settings, shell)
        if not self._engine.world.cluster_id:
            self._engine.record(ClusterCreated(time.time(), uuid.uuid4().hex[:12]))
        self._commands = Commands(self._engine, scheduler.address)
        scheduler.handlers[REQUEST] = self._request
        scheduler.handlers[REPORT] = self._report
        self._ticking = asyncio.create_task(self._tick(), name="resilient_nb tick")

    async def close(self) -> None:
        """Stop ticking and close the journal."""
        self._ticking.cancel()
        self._journal.close()

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """A worker left: its host may need another agent to speak for it."""
        self._engine.agent_gone(worker)

    # --- in and out ---------------------------------------------------------------------

    def _launch(self, host: str, order: object) -> bool:
        agent = self._engine.hosts.agent_for(host)
        if agent is None or agent not in self._scheduler.stream_comms:
            return False
        self._scheduler.stream_comms[agent].send({"op": ORDER, "order": ORDERS.pack(order)})
        return True

    async def _request(self, protocol: int, request: dict[str, Any]) -> dict[str, Any]:
        try:
            if protocol != PROTOCOL:
                raise VersionMismatch(
                    f"This notebook speaks protocol {protocol}, the cluster {PROTOCOL}: install "
                    "the same version of resilient_nb on both."
                )
            message = rq.REQUESTS.unpack(request)
            if isinstance(message, rq.Watch):
                return {"ok": plain(await self._watch(message))}
            return {"ok": plain(self._commands(message))}
        except ResilientError as error:
            return {"error": error.to_wire()}

    async def _watch(self, request: rq.Watch) -> rq.Watched:
        job = self._commands.job(request.job)
        await self._feed.wait(job.id, request.seen, min(request.timeout, 60.0))
        return rq.Watched(
            self._feed.version(job.id), self._engine.view(self._engine.world.jobs[job.id])
        )

    async def _report(self, protocol: int, report: dict[str, Any]) -> dict[str, Any]:
        if protocol != PROTOCOL:
            raise VersionMismatch(f"Agent protocol {protocol}, control plane {PROTOCOL}.")
        reply: dict[str, Any] = plain(self._engine.report(build(Report, report)))
        return {**reply, "cluster_id": self._engine.world.cluster_id}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                self._engine.tick()
            except Exception:
                # One bad second must not end all later ones; the cause is in the log.
                logger.exception("resilient_nb: a tick failed")
