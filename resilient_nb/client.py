"""Typed calls to the control plane, over Dask's comms.

Requests are plain MessagePack both ways: nothing is unpickled, so a notebook of another
Python version gets an error and not a crash. A thread with an event loop of its own carries
them, so that the kernel stays free and can be interrupted. A call that loses its connection
is repeated while the cluster may be restarting; requests are made so that a repeat is harmless.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from distributed.core import rpc
from distributed.security import Security

from resilient_nb.core.views import CheckpointView, ClusterView, JobView, RunView
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, from_wire
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import PROTOCOL, REQUEST, build

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
        address: the Dask scheduler's, such as `tcp://127.0.0.1:8786`. TLS certificates come
            from Dask's own configuration.
        patience: for how many seconds a cluster that doesn't answer may be restarting.
    """

    def __init__(self, address: str, patience: float = 20.0) -> None:
        self.address = address
        self._patience = patience
        self._rpc: Any = None
        atexit.register(self.close)

    # --- transport ----------------------------------------------------------------------

    def request(self, message: Any, kind: type[T]) -> T:
        """Send a request and return its answer.

        Raises:
            ResilientError: what the control plane refused, as it was raised there.
            ClusterUnreachable: nothing answers at the address.
        """
        answer = _LoopThread.run(self._patiently(rq.REQUESTS.pack(message)))
        return build(kind, answer)

    async def _patiently(self, request: dict[str, Any]) -> Any:
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return await self._once(request)
            except OSError as error:
                await self._drop()
                if time.monotonic() >= give_up:
                    raise ClusterUnreachable(
                        f"The cluster at {self.address} doesn't answer ({error}). Jobs in its "
                        "journal are not lost: start it again (%resilient up), or connect to "
                        "another (%resilient connect ADDRESS)."
                    ) from error
                await asyncio.sleep(0.2)

    async def _once(self, request: dict[str, Any]) -> Any:
        if self._rpc is None:
            options = Security().get_connection_args("client")
            try:
                self._rpc = rpc(self.address, connection_args=options, timeout=3)
            except ValueError as error:
                raise InvalidRequest(
                    f"{self.address!r} is no Dask address ({error}). It looks like "
                    "tcp://host:8786 or tls://host:8786."
                ) from error
        reply = await getattr(self._rpc, REQUEST)(protocol=PROTOCOL, request=request)
        if reply is None:
            raise ClusterUnreachable(
                f"The Dask cluster at {self.address} runs without resilient_nb. Start scheduler "
                "and workers with --preload resilient_nb, or use %resilient connect, which adds "
                "it to a running one."
            )
        if "error" in reply:
            raise from_wire(reply["error"])
        return reply["ok"]

    async def _drop(self) -> None:
        old, self._rpc = self._rpc, None
        if old is not None:
            await old.close_rpc()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._rpc is not None:
            _LoopThread.run(self._drop())

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

    def watch(self, job: str, seen: int = -1, timeout: float = 10.0) -> rq.Watched:
        """Return the job as soon as it differs from version `seen`, or after `timeout` s."""
        return self.request(rq.Watch(job, seen, timeout), rq.Watched)

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
