"""The Dask side of the control plane: a SchedulerPlugin that feeds the engine.

Requests and reports are RPCs on the scheduler's own comms (so TLS and addresses are Dask's);
orders go out on its streams to workers. Everything runs in the scheduler's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from resilient_nb.config import Settings, load_settings
from resilient_nb.control.alerting import Alerting
from resilient_nb.control.autoscale import Autoscale
from resilient_nb.control.commands import Commands
from resilient_nb.control.cordon import Cordon
from resilient_nb.control.engine import Engine
from resilient_nb.control.feed import Feed
from resilient_nb.control.identity import Identities, Identity
from resilient_nb.control.metrics import Metrics, metrics_url
from resilient_nb.control.mlflow_sync import MlflowSync
from resilient_nb.control.opening import (
    AGAIN,
    COMPARE,
    Unopened,
    catch_up,
    open_journal,
    problem,
)
from resilient_nb.control.pieces import Sources
from resilient_nb.control.policy_file import PolicyFile
from resilient_nb.control.preflight import missing
from resilient_nb.control.replication import Replication
from resilient_nb.control.retirement import Retirement
from resilient_nb.control.shell import Shell
from resilient_nb.control.spans import Spans
from resilient_nb.control.storing import Storing
from resilient_nb.control.sweeping import Sweeping
from resilient_nb.core import lookup
from resilient_nb.core.model import Job
from resilient_nb.core.policy import Policy
from resilient_nb.errors import JournalFailed, ResilientError, VersionMismatch
from resilient_nb.processes import os_user
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import HELLO, ORDER, PROTOCOL, REPORT, REQUEST, build, plain
from resilient_nb.wire.feed import Follow
from resilient_nb.wire.orders import ORDERS, Report, ReportReply

logger = logging.getLogger(__name__)

#: Between looks at a long queue, and at what is to be swept from the store, in seconds.
_PLAN_EVERY, _SWEEP_EVERY = 0.05, 0.5
_STARTING = Unopened(ResilientError("The cluster is starting."), "")


class ControlPlugin(SchedulerPlugin):
    """Makes a Dask scheduler the control plane. Idempotent: one for a scheduler."""

    name = "resilient_nb"
    idempotent = True

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._closed = False
        self._unopened: Unopened | None = None  # there is no engine yet, and why

    async def start(self, scheduler: Scheduler) -> None:
        """Replay the journal, add the handlers and begin to tick."""
        self._started = asyncio.Event()
        while isinstance(
            other := getattr(scheduler.handlers.get(REQUEST), "__self__", None), ControlPlugin
        ):
            if other._closed:
                break
            # Two were registered at once. Dask keeps the one that is through first.
            await other._started.wait()
            if not other._closed:
                return
        try:
            await self._start(scheduler)
        except BaseException:
            # The next to be registered may have more luck, and must not take us for alive.
            self._closed = True
            for name in (HELLO, REQUEST, REPORT):
                scheduler.handlers.pop(name, None)
            raise
        finally:
            self._started.set()

    async def _start(self, scheduler: Scheduler) -> None:
        settings = self._settings or load_settings()
        # What the environment says of the user is for notebooks; here it is the process's own.
        settings = replace(settings, user=settings.owner or os_user())
        self._scheduler = scheduler
        self._identities = Identities(settings)
        self._unopened = _STARTING
        self._tasks = []
        scheduler.handlers[HELLO] = self._hello
        scheduler.handlers[REQUEST] = self._request
        scheduler.handlers[REPORT] = self._report
        found = await asyncio.to_thread(open_journal, settings)
        if self._closed:
            return
        if isinstance(found, Unopened):
            self._unopened = found
            logger.error("resilient_nb: %s", found.why)
            self._tasks = [asyncio.create_task(self._wait(settings), name="resilient_nb journal")]
        else:
            self._begin(settings, found)

    async def _wait(self, settings: Settings) -> None:
        """Try again until the journal can be opened."""
        try:
            while isinstance(found := await asyncio.to_thread(open_journal, settings), Unopened):
                self._unopened = found
                await asyncio.sleep(AGAIN)
            self._begin(settings, found)
        except ResilientError as error:
            logger.exception("resilient_nb: the journal can't be replayed")
            self._unopened = Unopened(error, self._unopened.cluster_id if self._unopened else "")

    def _begin(self, settings: Settings, journal: SqliteJournal) -> None:
        """There is a journal: be the control plane."""
        scheduler = self._scheduler
        self._feed = Feed()
        self._journal = journal
        self._cordon = Cordon(scheduler)
        self._loop = asyncio.get_running_loop()
        self._storing = Storing(settings, self._store_answered)
        self._replication = Replication(settings)
        shell = Shell(
            self._journal,
            self._launch,
            time.time,
            self._feed.changed,
            self._cordon.lease,
            partial(missing, settings, self._storing, self._put_back, remake=self._remake),
        )
        self._engine = Engine(settings, shell)
        self._commands = Commands(
            self._engine,
            scheduler.address,
            self._storing,
            self._replication.state,
            partial(metrics_url, scheduler),
        )
        self._storing.waits_for(self._engine.world.cluster_id)  # begin to look
        self._alerting = Alerting(self._engine)
        views, alerts = self._commands.views, self._alerting.report
        self._feed.begin(Sources(self._engine, views.cluster, views.run, alerts))
        self._metrics = Metrics(self._engine, self._alerting)
        self._spans = Spans(self._engine)
        self._mlflow = MlflowSync(self._engine)
        self._policy: Policy | None = None  # what is in force next
        self._policy_file = PolicyFile(settings.policy_file)
        self._look_at_policy()
        Retirement(scheduler, self._cordon, self._engine, settings.leave_grace)
        self._sweeping = Sweeping(self._engine)
        self._autoscale = Autoscale(scheduler, self._cordon, self._supply, settings.slots)
        self._unopened = None
        self._engine.strays.compare(COMPARE)
        self._tasks = [
            asyncio.create_task(self._check(settings), name="resilient_nb check"),
            asyncio.create_task(self._tick(), name="resilient_nb tick"),
            asyncio.create_task(self._plan(), name="resilient_nb plan"),
            asyncio.create_task(self._sweep(), name="resilient_nb sweep"),
        ]

    async def close(self) -> None:
        """Stop ticking, take nothing more and close the journal."""
        self._closed = True
        if self._unopened is not None:
            for task in self._tasks:
                task.cancel()
            return
        self._sweeping.close()
        self._storing.close()
        self._replication.close()
        self._alerting.close()
        self._metrics.close()
        self._spans.close()
        self._mlflow.close()
        for task in self._tasks:
            task.cancel()
        self._engine.recording.write()
        self._journal.close()

    # --- Dask's hooks -------------------------------------------------------------------

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker joined; which host it is on, its agent will say."""
        if self._unopened is None:
            self._cordon.worker_came(worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """A worker left: its host may need another agent to speak for it."""
        if self._unopened is not None:
            return
        host = self._cordon.host_of(worker)
        self._cordon.worker_left(worker)
        self._engine.agent_gone(worker)
        if host is not None:
            # What it kept busy is gone with it: else those that come would seem to be taken.
            self._engine.hosts.set_busy(host, self._cordon.busy(host))

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """An ordinary task changed its state: a worker with one has no slot for a gang."""
        if self._unopened is not None or finish != "processing":
            return
        if (host := self._cordon.task_began(key)) is not None:
            # Dask is in the middle of its own work: only note it, decide nothing.
            self._engine.hosts.set_busy(host, self._cordon.busy(host))

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[Any]) -> list[Any]:
        """Of workers that could be scaled away, return those whose going breaks no lease."""
        return self._autoscale.may_go(workers) if self._unopened is None else []

    # --- in and out ---------------------------------------------------------------------

    def _launch(self, host: str, order: object) -> bool:
        agent = self._engine.hosts.agent_for(host)
        if agent is None or agent not in self._scheduler.stream_comms:
            return False
        self._scheduler.stream_comms[agent].send({"op": ORDER, "order": ORDERS.pack(order)})
        return True

    def _put_back(self, identity: str) -> str:
        return self._engine.memory.put_back(identity)

    def _remake(self, job: Job, lost: str) -> str:
        return self._engine.remake(job, lost)

    async def _hello(
        self, comm: Any, protocol: int, claim: str = "", token: str = ""
    ) -> dict[str, Any]:
        if self._absent:
            comm.abort()
            return {}
        try:
            _check_protocol(protocol)
            self._check_open()
            if await self._identities.hello(comm, claim, token):
                return {"ok": plain(rq.Welcome(wants_token=True))}
            known = self._identity(comm)
            mine = self._engine.world.cluster_id
            return {"ok": plain(rq.Welcome(known.user, known.source, cluster_id=mine))}
        except ResilientError as error:
            return {"error": error.to_wire()}

    async def _request(self, comm: Any, protocol: int, request: dict[str, Any]) -> dict[str, Any]:
        if self._absent:
            comm.abort()  # the client tries again, for as long as it has patience
            return {}
        try:
            _check_protocol(protocol)
            self._check_open()
            message = rq.REQUESTS.unpack(request)
            user = self._identity(comm).user
            if isinstance(message, rq.Watch):
                return {"ok": plain(await self._watch(message))}
            if isinstance(message, Follow):
                return {"ok": plain(await self._feed.follow(message))}
            if isinstance(message, (rq.FindJobs, rq.ReadFacts)):
                read = self._commands.views.reader(message)
                return {"ok": await asyncio.to_thread(lambda: plain(read()))}
            if isinstance(message, rq.ReadOut):
                read_out = self._commands.views.out_reader(message)
                return {"ok": plain(await asyncio.to_thread(read_out))}
            if isinstance(message, rq.GetAlerts):
                return {"ok": plain(self._alerting.report())}
            if isinstance(message, rq.TestAlerts):
                return {"ok": plain(await asyncio.to_thread(self._alerting.tester(user)))}
            if isinstance(message, rq.Retain):
                answer = partial(self._commands, message, user)
                return {"ok": plain(await self._sweeping.retain(answer))}
            return {"ok": plain(self._commands(message, user))}
        except ResilientError as error:
            return {"error": error.to_wire()}

    def _identity(self, comm: Any) -> Identity:
        return self._identities.of(comm, self._engine.world.policy.trust_claims)

    async def _watch(self, request: rq.Watch) -> rq.Watched:
        job = lookup.job(self._engine.world, request.job)
        await self._feed.wait(job.id, request.seen, min(request.timeout, 60.0))
        return rq.Watched(
            self._feed.version(job.id), self._engine.view(self._engine.world.jobs[job.id])
        )

    async def _report(self, protocol: int, report: dict[str, Any]) -> dict[str, Any] | None:
        if self._absent:
            return None  # as if we weren't here: the agent keeps its facts
        if protocol != PROTOCOL:
            raise VersionMismatch(f"Agent protocol {protocol}, control plane {PROTOCOL}.")
        if self._unopened is not None:
            mine = self._unopened.cluster_id  # by which an agent finds its supervisor
            return {**plain(ReportReply()), "cluster_id": mine, "idle": True} if mine else None
        message = build(Report, report)
        self._cordon.agent_said(message.agent, message.host, message.slots)
        reply: dict[str, Any] = plain(self._engine.report(message))
        if message.agent not in self._scheduler.workers:
            # Its last words: it left while they were on their way, and has no slots any more.
            self._engine.agent_gone(message.agent)
        return {**reply, "cluster_id": self._engine.world.cluster_id}

    @property
    def _absent(self) -> bool:
        return self._closed or self._unopened is _STARTING

    def _check_open(self) -> None:
        if self._unopened is not None:
            raise self._unopened.why

    # --- every second -------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                self._look_at_policy()
                self._look_at_tasks()
                self._look_at_replicas()
                self._engine.tick()
            except Exception:
                # One bad second must not end all later ones; the cause is in the log.
                logger.exception("resilient_nb: a tick failed")
            self._observe()

    def _observe(self) -> None:
        """Look whom to tell what: also when the tick failed."""
        try:
            self._feed.look()
            self._mlflow.look()
            self._alerting.look()
        except Exception:
            logger.exception("resilient_nb: nobody was told anything")

    def _look_at_policy(self) -> None:
        self._policy = self._policy_file.poll() or self._policy
        if self._policy is not None:
            with suppress(JournalFailed):  # said by then: it is tried again in a second
                self._engine.set_policy(self._policy)
        self._engine.set_alert("policy", self._policy_file.alert or None)

    def _store_answered(self) -> None:
        """A thread knows more of the store; a loop that has ended needn't."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._look_again)

    def _look_again(self) -> None:
        if not self._closed:
            self._engine.look_again()

    def _look_at_replicas(self) -> None:
        self._replication.look(self._engine.world)
        for place, text in self._replication.alerts().items():
            self._engine.set_alert(f"replica {place}", text)

    def _look_at_tasks(self) -> None:
        """Tell the engine which slots ordinary tasks have, and Dask that jobs are no idleness."""
        for host, slots in self._cordon.tick(self._engine.queue.wanted_slots).items():
            self._engine.hosts.set_busy(host, slots)
        if self._engine.world.open:
            self._scheduler.idle_since = None  # else `idle-timeout` would close it

    def _supply(self) -> tuple[int, int]:
        """Return the slots offered to gangs, and those wanted beyond the free ones."""
        hosts = self._engine.hosts.for_plan(self._engine.world, self._engine.now())
        offered = sum(host.slots for host in hosts if not host.closing)
        return offered, self._engine.queue.wanted_slots()

    async def _plan(self) -> None:
        """Plan a long queue in small pieces, so that Dask's own work goes on."""
        while True:
            await asyncio.sleep(_PLAN_EVERY)
            if not self._engine.queue.long:
                continue
            try:
                for _ in self._engine.queue.work():
                    await asyncio.sleep(0)
                self._engine.settle()
            except JournalFailed:
                continue  # said by then
            except Exception:
                logger.exception("resilient_nb: a plan failed")

    async def _compare(self, settings: Settings) -> None:
        while True:
            news = await asyncio.to_thread(catch_up, settings, self._engine.world)
            try:
                self._engine.strays.compared(news)
                return
            except JournalFailed:
                await asyncio.sleep(AGAIN)

    async def _check(self, settings: Settings) -> None:
        """Look once at the journal's file and at what the store has, beside everything else."""
        try:
            await self._compare(settings)
            found = await asyncio.to_thread(problem, settings)
            self._engine.set_alert("journal file", found or None)
        except Exception:
            logger.exception("resilient_nb: the journal's file could not be checked")

    async def _sweep(self) -> None:
        """Free the space of dropped checkpoints."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            try:
                await self._sweeping.work()
            except Exception:
                logger.exception("resilient_nb: a sweep of the store failed")


def _check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL:
        raise VersionMismatch(
            f"This notebook speaks protocol {protocol}, the cluster {PROTOCOL}: install "
            "the same version of resilient_nb on both."
        )
