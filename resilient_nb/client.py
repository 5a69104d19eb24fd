"""Typed calls to the control plane, for code that has no event loop of its own.

A thread with an event loop carries them, so that the kernel stays free and can be interrupted.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from resilient_nb.comms import NO_TLS, AsyncClient, Tls, keeps_secrets, security
from resilient_nb.core.alert_model import AlertsReport, ChannelTest
from resilient_nb.core.model import Checkpoint, Injected
from resilient_nb.core.querying import FactsReport, JobRow, Query
from resilient_nb.core.recap import DeadReport, RecapReport
from resilient_nb.core.views import (
    CheckpointView,
    ClusterView,
    JobView,
    QueueReport,
    RetentionReport,
    RunView,
    WhyReport,
)
from resilient_nb.wire import requests as rq
from resilient_nb.wire.feed import Follow, Followed

__all__ = ["NO_TLS", "Client", "Tls", "keeps_secrets", "security"]

T = TypeVar("T")

#: Payload bytes of one message: small enough not to hold up the scheduler's loop.
PIECE = 1 << 20


class _LoopThread:
    """One event loop in a daemon thread, shared by all clients of the process."""

    _lock = threading.Lock()
    _loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def run(cls, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and return its result; a KeyboardInterrupt ends the wait."""
        with cls._lock:
            if cls._loop is None:
                cls._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=cls._loop.run_forever, name="resilient_nb client", daemon=True
                ).start()
        future = asyncio.run_coroutine_threadsafe(coroutine, cls._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


class Client:
    """A connection to one cluster's control plane. Threads may share it.

    Args:
        address: the Dask scheduler's, such as `tcp://127.0.0.1:8786`.
        patience: for how many seconds a cluster that doesn't answer may be restarting.
        tls: certificates for `tls://`, where Dask's own configuration has none or others.
        find: says where the cluster is now; see `AsyncClient`.
    """

    def __init__(
        self,
        address: str,
        patience: float = 20.0,
        tls: Tls = NO_TLS,
        find: Callable[[], str] | None = None,
    ) -> None:
        self._calls = AsyncClient(address, patience, tls, find=find)
        atexit.register(self.close)

    @property
    def address(self) -> str:
        """Where the cluster was found last."""
        return self._calls.address

    @property
    def cluster_id(self) -> str:
        """The cluster's, as it said with the newest connection; "" before the first."""
        return self._calls.welcome.cluster_id

    def request(self, message: Any, kind: type[T]) -> T:
        """Send a request and return its answer.

        Raises:
            ResilientError: what the control plane refused, as it was raised there.
            ClusterUnreachable: nothing answers at the address.
        """
        return _LoopThread.run(self._calls.request(message, kind))

    def identity(self) -> rq.Welcome:
        """Return who the cluster takes this process's user for, and on what grounds."""
        return _LoopThread.run(self._calls.identity())

    def close(self) -> None:
        """Close the connections; the next call opens a new one."""
        if self._calls.connected:
            _LoopThread.run(self._calls.close())

    # --- calls --------------------------------------------------------------------------

    def cluster(self) -> ClusterView:
        """Return the cluster as it is now."""
        return self.request(rq.GetCluster(), ClusterView)

    def put(self, payload: bytes, progress: Callable[[int], None] | None = None) -> str:
        """Store captured values, once for each content; return their digest."""
        digest = hashlib.sha256(payload).hexdigest()
        offset = 0
        while True:
            piece = payload[offset : offset + PIECE]
            message = rq.PutBlob(digest, offset, len(payload), piece)
            offset = self.request(message, int)
            if progress is not None:
                progress(offset)
            if offset >= len(payload):
                return digest

    def submit(self, message: rq.Submit) -> rq.Submitted:
        """Submit a job."""
        return self.request(message, rq.Submitted)

    def resume(self, message: rq.Resume) -> rq.Submitted:
        """Submit a run's last cell again."""
        return self.request(message, rq.Submitted)

    def cancel(self, job: str) -> JobView:
        """Ask a job to checkpoint and end."""
        return self.request(rq.Cancel(job), JobView)

    def restart(self, job: str, epoch: int) -> JobView:
        """End a stuck attempt's ranks at once; the job starts again from its head."""
        return self.request(rq.Restart(job, epoch), JobView)

    def retry(self, message: rq.Retry) -> rq.Submitted:
        """Run a failed job again, or end the pause of one that waits."""
        return self.request(message, rq.Submitted)

    def dead(self) -> DeadReport:
        """Return the jobs that were given up for a spent budget."""
        return self.request(rq.ListDead(), DeadReport)

    def recap(self, seconds: float, user: str | None = None) -> RecapReport:
        """Return what happened in the last seconds to one's own jobs, or those of `user`."""
        return self.request(rq.Recap(seconds, user), RecapReport)

    def inject(self, message: rq.Inject) -> Injected:
        """Break something of a running job of one's own, on purpose."""
        return self.request(message, Injected)

    def queue(self) -> QueueReport:
        """Return who runs, who waits and everybody's share."""
        return self.request(rq.GetQueue(), QueueReport)

    def find(self, query: Query) -> list[JobRow]:
        """Return the jobs that are asked for in numbers, the newest first."""
        return self.request(rq.FindJobs(query), list[JobRow])

    def facts(self, job: str, rank: int | None = None, most: int = 500) -> FactsReport:
        """Return what was recorded of a job's ranks, or of one, in at most `most` rows each."""
        return self.request(rq.ReadFacts(job, rank, most), FactsReport)

    def alerts(self) -> AlertsReport:
        """Return what fires now and what is over."""
        return self.request(rq.GetAlerts(), AlertsReport)

    def test_alerts(self) -> list[ChannelTest]:
        """Send a test by each of the administrator's channels."""
        return self.request(rq.TestAlerts(), list[ChannelTest])

    def why(self, job: str) -> WhyReport:
        """Return what holds a job, and what would start it."""
        return self.request(rq.Why(job), WhyReport)

    def watch(self, job: str, seen: int = -1, timeout: float = 10.0) -> rq.Watched:
        """Return the job as soon as it differs from version `seen`, or after `timeout` s."""
        return self.request(rq.Watch(job, seen, timeout), rq.Watched)

    def glance(self, job: str, within: float) -> JobView:
        """Return the job as it is now; don't wait longer than `within` s for the cluster."""
        message = rq.Watch(job, -1, 0.0)
        return _LoopThread.run(self._calls.request(message, rq.Watched, within)).job

    def follow(self, message: Follow) -> Followed:
        """Return what has changed since an earlier answer, as soon as something has."""
        return self.request(message, Followed)

    def jobs(self, run: str | None = None, limit: int = 100) -> list[JobView]:
        """Return jobs, newest first."""
        return self.request(rq.ListJobs(run, limit), list[JobView])

    def runs(self, run: str | None = None) -> list[RunView]:
        """Return runs, newest first."""
        return self.request(rq.ListRuns(run), list[RunView])

    def resolve(self, ref: str) -> CheckpointView:
        """Return the checkpoint that a reference names."""
        return self.request(rq.Resolve(ref), CheckpointView)

    def rollback(self, ref: str, user: str = "") -> RunView:
        """Move a run's head; deletes nothing."""
        return self.request(rq.Rollback(ref, user), RunView)

    def tag(self, ref: str, tag: str) -> RunView:
        """Name a checkpoint."""
        return self.request(rq.Tag(ref, tag), RunView)

    def fork(self, ref: str, name: str) -> RunView:
        """Begin a new run at a checkpoint."""
        return self.request(rq.Fork(ref, name), RunView)

    def begin_import(self, run: str) -> rq.ImportPlace:
        """Return where the first checkpoint of a new run is to be written."""
        return self.request(rq.BeginImport(run), rq.ImportPlace)

    def import_checkpoint(self, checkpoint: Checkpoint) -> RunView:
        """Begin a run with a checkpoint that was written to the cluster's store."""
        return self.request(rq.Import(checkpoint), RunView)

    def retain(self, message: rq.Retain) -> RetentionReport:
        """Drop the checkpoints of a run that a rule doesn't keep."""
        return self.request(message, RetentionReport)

    def log(self, message: rq.ReadLog) -> rq.LogPiece:
        """Return a piece of a rank's output."""
        return self.request(message, rq.LogPiece)

    def out(self, job: str) -> bytes:
        """Return the pickle of a job's returned values."""
        parts: list[bytes] = []
        got = 0
        while True:
            piece = self.request(rq.ReadOut(job, got), rq.OutPiece)
            parts.append(piece.data)
            got += len(piece.data)
            if got >= piece.size or not piece.data:
                return b"".join(parts)

    def vacate_all(self) -> list[str]:
        """Have every gang checkpoint and leave; return the jobs that still hold one."""
        return self.request(rq.VacateAll(), list[str])
