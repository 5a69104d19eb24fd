"""Handles of a job and of a run: the same for Python code, the magics and the shell."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Generator
from typing import Any

from resilient_nb import logs
from resilient_nb.client import Client
from resilient_nb.core.explain import failure_text
from resilient_nb.core.model import Injected, Injection, JobState, OnNan
from resilient_nb.core.names import parse_reference
from resilient_nb.core.retention import parse_keep
from resilient_nb.core.views import CheckpointView, JobView, RetentionReport, RunView, WhyReport
from resilient_nb.detached import detaching
from resilient_nb.errors import (
    CheckpointError,
    ClusterUnreachable,
    InvalidRequest,
    JobCancelled,
    JobFailed,
)
from resilient_nb.results import loads
from resilient_nb.tables import as_table
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import plain

#: How much of a rank's output a panel shows, in bytes.
_TAIL = 2000

#: For how many seconds a repr may wait for the cluster.
_GLANCE = 1.0

_AGAIN = "`job.result()` waits for it again."


class Job:
    """A submitted cell. `await job` and `job.result()` give what `--out` named.

    Attributes:
        on_result: also gets what the job returned: the notebook that waits for names of it.
    """

    __resilient_nocapture__ = True

    def __init__(self, client: Client, identity: str, view: JobView | None = None) -> None:
        self.id = identity
        self._client = client
        self._view = view
        self.on_result: Callable[[dict[str, Any]], None] | None = None

    def __repr__(self) -> str:
        try:
            if self._view is None or not self._view.state.final:
                self._view = self._client.glance(self.id, _GLANCE)
        except ClusterUnreachable as error:
            last = self._view
            seen = "" if last is None else f": {last.state} at step {last.step} when last seen"
            return f"<job {self.id}{seen}. {error}>"
        return f"<job {self.id}: {self._view.state}, step {self._view.step}>"

    @property
    def view(self) -> JobView:
        """The job as it is now."""
        if self._view is None or not self._view.state.final:
            self._view = self._client.watch(self.id, timeout=0.0).job
        return self._view

    @property
    def cluster_id(self) -> str:
        """The cluster that the job belongs to; "" before it first answered."""
        return self._client.cluster_id

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self.view.state

    @property
    def run(self) -> Run:
        """The run that the job belongs to."""
        return Run(self._client, self.id.partition("#")[0])

    def watch(self, seen: int, timeout: float) -> rq.Watched:
        """Return the job as soon as it differs from version `seen`."""
        return self._client.watch(self.id, seen, timeout)

    def wait(
        self, timeout: float | None = None, each: Callable[[JobView], None] | None = None
    ) -> JobView:
        """Return the job when it has ended; `each` is called with every new view.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds. The job goes on.
            Detached: the wait was interrupted. The job goes on.
        """
        with detaching(self.id, _AGAIN):
            return self._wait(timeout, each)

    def _wait(
        self, timeout: float | None, each: Callable[[JobView], None] | None = None
    ) -> JobView:
        give_up = None if timeout is None else time.monotonic() + timeout
        seen = -1
        while True:
            left = 5.0 if give_up is None else min(5.0, max(0.0, give_up - time.monotonic()))
            watched = self._client.watch(self.id, seen, left)
            seen, self._view = watched.version, watched.job
            if each is not None:
                each(watched.job)
            if watched.job.state.final:
                return watched.job
            if give_up is not None and time.monotonic() >= give_up:
                raise TimeoutError(f"Job {self.id} is {watched.job.state} after {timeout} s.")

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the job and return the values of the names in `--out`.

        Raises:
            JobFailed: with the cause, and the cell's own line for an error in the cell.
            JobCancelled: somebody cancelled it, or it was stopped by its policy.
            TimeoutError: after `timeout` seconds; the job goes on.
            Detached: the wait was interrupted; the job goes on.
        """
        with detaching(self.id, _AGAIN):
            values = self._returned(self._wait(timeout))
        if self.on_result is not None:
            self.on_result(values)
        return values

    def _returned(self, view: JobView) -> dict[str, Any]:
        if view.state is JobState.FAILED:
            raise JobFailed(f"Job {self.id} failed.\n{failure_text(view.failures[-1], view.label)}")
        if view.state is JobState.CANCELLED:
            why = view.reason or "It was cancelled."
            raise JobCancelled(f"Job {self.id} ended at step {view.step}: {why}")
        if not view.returned:
            return {}
        from resilient_nb.storage.encryption import decrypt_file
        from resilient_nb.storage.stores import out_key

        run, _, number = self.id.partition("#")
        payload, key = self._client.out(self.id), out_key(run, int(number))
        values: dict[str, Any] = loads(decrypt_file(payload, key, f"What {self.id} returned"))
        return values

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return self._awaited().__await__()

    async def _awaited(self) -> dict[str, Any]:
        with detaching(self.id, "`job.result()` or `await job` waits for it again."):
            while True:
                try:
                    # Not for long: a thread can't be cancelled, and the process's end awaits it.
                    return await asyncio.to_thread(self.result, 2.0)
                except TimeoutError:
                    continue

    def logs(
        self, rank: int = 0, epoch: int | None = None, tail: int | None = None, follow: bool = False
    ) -> str:
        """Return what a rank has printed in its latest attempt (or that of `epoch`).

        Args:
            rank: which one.
            epoch: the attempt's number, as the panel shows it.
            tail: only so many lines from the end.
            follow: print what comes until the job has ended, and return nothing.
        """
        if follow:
            with detaching(self.id, f"`%resilient logs {self.id} --follow` shows the rest."):
                logs.follow(self._client, self.id, rank, epoch)
            return ""
        text = self.log_bytes(rank, epoch, 0 if tail is None else -(64 << 10)).decode(
            errors="replace"
        )
        return text if tail is None else "".join(text.splitlines(True)[-tail:])

    def log_bytes(self, rank: int = 0, epoch: int | None = None, offset: int = 0) -> bytes:
        """Return a rank's output from a byte offset on; a negative one counts from the end."""
        return logs.read(self._client, self.id, rank, epoch, offset)

    def tail(self) -> str:
        """Return the end of rank 0's output, as panels show it."""
        return self.log_bytes(offset=-_TAIL).decode(errors="replace")

    def cancel(self) -> JobView:
        """Ask the job to checkpoint and end; it can be resumed."""
        self._view = self._client.cancel(self.id)
        return self._view

    def chaos(self, what: str, rank: int = 0, seconds: float | None = None) -> Injected:
        """Break something of your own running job on purpose; it mends itself after `seconds`.

        Args:
            what: kill-rank, kill-worker, stop, hang, slow, drop-network, fill-disk or
                corrupt-chunk.
            rank: whose.
            seconds: how long it lasts; None: as usual for its kind.

        Raises:
            NotAllowed: it is another user's job.
            InvalidRequest: it doesn't run, or has nothing of the kind.
        """
        try:
            kind = Injection(what)
        except ValueError:
            known = ", ".join(Injection)
            raise InvalidRequest(f"{what!r} can't be broken: it is one of {known}.") from None
        return self._client.inject(rq.Inject(self.id, kind, uuid.uuid4().hex, rank, seconds))

    def restart(self) -> JobView:
        """End the ranks of a stuck job at once; it starts again from its last checkpoint.

        Raises:
            InvalidRequest: it doesn't run.
            NotAllowed: it is somebody else's, and you are no administrator.
        """
        self._view = self._client.restart(self.id, self.view.epoch)
        return self._view

    def retry(self, *, anyway: bool = False, memory: int = 0, on_nan: str | None = None) -> Job:
        """Run a failed job again from its run's head, whatever was decided; its budgets are new.

        A job that waits out a pause after a failure starts at once. Returns the job that runs.

        Args:
            anyway: also if it would fail again by all that is known.
            memory: what each worker gets, in bytes (0: as before).
            on_nan: how it goes on if its numbers diverge: skip, lower-lr, stop or ignore.

        Raises:
            InvalidRequest: there is nothing to retry, or it needs `anyway`.
            NotAllowed: it is somebody else's, and you are no administrator.
        """
        policy = None if on_nan is None else OnNan(on_nan)
        epoch, name = self.view.epoch, uuid.uuid4().hex
        request = rq.Retry(self.id, name, epoch, anyway, memory, policy)
        return Job(self._client, self._client.retry(request).job)

    def facts(self, rank: int | None = None, *, frame: bool | None = None) -> Any:
        """Return what was recorded of the ranks, or of one: a row for each stretch of time.

        Args:
            rank: which one.
            frame: a DataFrame (True) or a list of dicts (False); None: as `query`.
        """
        report = self._client.facts(self.id, rank)
        rows = ({"rank": r.rank, **plain(row)} for r in report.ranks for row in r.rows)
        return as_table(rows, frame)

    def why(self) -> WhyReport:
        """Return what holds the job, when it is expected to start, and what would help."""
        return self._client.why(self.id)

    # What the panel's buttons call.

    def resume(self) -> Job:
        """Submit the same cell again, from the run's head."""
        return self.run.resume()

    def rollback(self, ref: str) -> RunView:
        """Move the run's head."""
        return self.run.rollback(ref)


class Run:
    """A named lineage of checkpoints with a movable head."""

    __resilient_nocapture__ = True

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    def __repr__(self) -> str:
        view = self.view
        return f"<run {self.name}: head {view.head}, {len(view.checkpoints)} checkpoints>"

    @property
    def view(self) -> RunView:
        """The run as it is now."""
        return self._client.runs(self.name)[0]

    @property
    def jobs(self) -> list[Job]:
        """The run's jobs, newest first."""
        return [Job(self._client, view.id, view) for view in self._client.jobs(self.name)]

    @property
    def checkpoints(self) -> tuple[CheckpointView, ...]:
        """All checkpoints of the run, in the order they were committed."""
        return self.view.checkpoints

    def resume(self, at: str | int | None = None) -> Job:
        """Submit the run's last cell again, from the head or from a step or tag."""
        point = None if at is None else str(at)
        submitted = self._client.resume(rq.Resume(self.name, uuid.uuid4().hex, point))
        return Job(self._client, submitted.job)

    def rollback(self, to: str | int) -> RunView:
        """Move the head to a step, a tag or a reference; later checkpoints are kept."""
        return self._client.rollback(self._ref(to))

    def tag(self, at: str | int, tag: str) -> RunView:
        """Name a checkpoint."""
        return self._client.tag(self._ref(at), tag)

    def retain(self, keep: str | None = None, *, dry_run: bool = False) -> RetentionReport:
        """Drop the checkpoints that a rule doesn't keep; return what became of each, and why.

        The head, tags, origins of forks and whatever a job needs are always kept.

        Args:
            keep: "5" (the last), "last=5,every=1000,best=3:loss", "all" or "auto"; None for the
                rule that the run's newest job was submitted with; if that is "auto", nothing is
                dropped while the store has room.
            dry_run: drop nothing, only say what would be dropped.
        """
        rule = None if keep is None else parse_keep(keep)
        return self._client.retain(rq.Retain(self.name, rule, dry_run))

    def fork(self, name: str, at: str | int | None = None) -> Run:
        """Begin a new run here, or at a step or tag."""
        self._client.fork(self.name if at is None else self._ref(at), name)
        return Run(self._client, name)

    def load(self, at: str | int | None = None, into: Any = None, only: str | None = None) -> Any:
        """Read the head, or the checkpoint at a step or tag; see `resilient_nb.load`."""
        from resilient_nb.loading import load_path

        ref = self.name if at is None else self._ref(at)
        found = self._client.resolve(ref)
        return load_path(found.path, into, only, found.copies)

    def _ref(self, text: str | int) -> str:
        text = str(text)
        if "@" in text:
            if parse_reference(text).run != self.name:
                raise CheckpointError(f"{text} is no checkpoint of run {self.name}.")
            return text
        return f"{self.name}@{text}"
