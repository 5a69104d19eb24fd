"""What Python code does with runs and jobs; the magics and the shell use the same."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from resilient_nb import connection
from resilient_nb.client import Client, Tls
from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.explain import failure_text
from resilient_nb.core.model import Injected, Injection, JobState, OnNan
from resilient_nb.core.names import parse_reference
from resilient_nb.core.querying import Query, parse_conditions, parse_states, parse_when
from resilient_nb.core.recorded import CheckpointReport
from resilient_nb.core.retention import parse_keep
from resilient_nb.core.views import (
    CheckpointView,
    JobView,
    QueueReport,
    RetentionReport,
    RunView,
    WhyReport,
)
from resilient_nb.errors import (
    CheckpointError,
    ClusterUnreachable,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    ResilientError,
)
from resilient_nb.results import loads
from resilient_nb.tables import as_table
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import plain

#: How much of a rank's output a panel shows, in bytes.
_TAIL = 2000


def connect(
    address: str | None = None, *, ca_file: str = "", cert: str = "", key: str = ""
) -> Client:
    """Return the client of the cluster in use; with an address, connect to that one first.

    Args:
        address: the scheduler's, `tcp://host:8786` or `tls://host:8786`.
        ca_file: PEM file for `tls://`; what is left out comes from Dask's configuration.
        cert: PEM file of your certificate.
        key: PEM file of its key, if the certificate's has none.
    """
    if address is not None:
        connection.connect(address, Tls(ca_file, cert, key))
    return connection.current()


def jobs(run: str | None = None) -> list[Job]:
    """Return jobs, newest first, of one run or of all."""
    client = connection.current()
    return [Job(client, view.id, view) for view in client.jobs(run)]


def queue() -> QueueReport:
    """Return who runs, who waits and for what, and everybody's share of the cluster."""
    return connection.current().queue()


def alerts() -> AlertsReport:
    """Return the alerts that fire now, and those that are over."""
    return connection.current().alerts()


def query(
    *,
    run: str = "",
    user: str = "",
    state: str = "",
    metric: str = "",
    tag: str = "",
    cause: str = "",
    data: str = "",
    since: str | float | None = None,
    until: str | float | None = None,
    limit: int = 100,
    frame: bool | None = None,
) -> Any:
    """Return jobs in numbers, the newest first: `query(state="failed", since="2d")`.

    Args:
        run: only this run's.
        user: only this user's.
        state: one of these: "failed,cancelled".
        metric: what the newest values must be: "loss<0.3,accuracy>=0.9".
        tag: one of the job's checkpoints has it.
        cause: an attempt failed for a cause with these words: "memory".
        data: its checkpoints record data with this in its name or fingerprint.
        since: it waited or ran after this: "2d" (ago), "2026-11-25", or seconds since 1970.
        until: it waited or ran before this.
        limit: no more than so many jobs.
        frame: a pandas DataFrame (True) or a list of dicts (False); None: a DataFrame if there
            is pandas.

    Raises:
        InvalidRequest: a filter can't be read.
    """
    now = time.time()
    wanted = Query(
        run=run,
        user=user,
        states=parse_states(state) if state else (),
        metrics=parse_conditions(metric) if metric else (),
        tag=tag,
        cause=cause,
        data=data,
        since=parse_when(since, now) if isinstance(since, str) else since,
        until=parse_when(until, now) if isinstance(until, str) else until,
        limit=limit,
    )
    return as_table(map(plain, connection.current().find(wanted)), frame)


def runs() -> list[Run]:
    """Return all runs, newest first."""
    client = connection.current()
    return [Run(client, view.name) for view in client.runs()]


def run(name: str) -> Run:
    """Return a run by name.

    Raises:
        UnknownName: there is none.
    """
    client = connection.current()
    return Run(client, client.runs(name)[0].name)


def load(ref: str, into: Any = None, only: str | None = None) -> Any:
    """Read a checkpoint: `load("digits@best")`.

    Args:
        ref: `run` (its head), `run@step` or `run@tag`.
        into: a module to fill, or a dict of tracked name to object.
        only: just this tracked object's state.

    Returns:
        A mapping of tracked names to states, read when asked for; or `into`, filled; or the
        state of `only`.

    Raises:
        UnknownName: there is no such checkpoint.
        CorruptCheckpoint: bytes don't match their digest.
    """
    from resilient_nb.loading import load_path

    found = connection.current().resolve(ref)
    return load_path(found.path, into, only, found.copies)


def describe(ref: str) -> CheckpointReport:
    """Return what a checkpoint records: tensors, cell, config, data, versions.

    Raises:
        UnknownName: there is no such checkpoint.
        CheckpointError: this process can't see it in the store.
    """
    from resilient_nb.storage import describing
    from resilient_nb.storage.mirrored import open_path

    view = connection.current().resolve(ref)
    return describing.describe(view, open_path(view.path, view.copies).manifest)


def diff(a: str, b: str, only: str | None = None) -> DiffReport:
    """Compare two checkpoints; tensors are read here, as far as they differ.

    Raises:
        UnknownName: there is no such checkpoint, or neither has `only`.
        CheckpointError: this process can't see one in the store.
        CorruptCheckpoint: a tensor that had to be read is damaged.
    """
    client = connection.current()
    return compare(client.resolve(a), client.resolve(b), only)


def compare(a: CheckpointView, b: CheckpointView, only: str | None = None) -> DiffReport:
    """Compare two checkpoints that were found; see `diff`."""
    from resilient_nb.storage import comparing
    from resilient_nb.storage.mirrored import open_path

    one, other = (comparing.Side(view, open_path(view.path, view.copies)) for view in (a, b))
    return comparing.compare(one, other, only)


def export(
    ref: str, path: str | os.PathLike[str], only: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write a checkpoint to a file for other programs; return the file's path.

    Args:
        ref: `run` (its head), `run@step` or `run@tag`.
        path: ends in .safetensors (any framework) or .pt (a state dict for `torch.load`).
        only: just this tracked object: the file then has its own names.
        overwrite: replace the file if there is one.

    Raises:
        InvalidRequest: the file can't be written.
        UnknownName: there is no such checkpoint, or it has no `only`.
        CheckpointError: the format can't hold something of it.
    """
    from resilient_nb.interchange import exporting
    from resilient_nb.storage.mirrored import open_path

    place = Path(path).expanduser().absolute()
    exporting.check_path(place, overwrite)
    view = connection.current().resolve(ref)
    exporting.export_checkpoint(open_path(view.path, view.copies), place, only)
    return place


def import_checkpoint(
    path: str | os.PathLike[str],
    run: str,
    *,
    name: str | None = None,
    only: str | None = None,
    step: int = 0,
    allow_pickle: bool = False,
) -> Run:
    """Begin a new run with what another program saved.

    Args:
        path: a .safetensors file, a .pt file, or a folder of torch.distributed.checkpoint.
        run: the new run's name.
        name: the tracked name that it gets; by default those that the file has, if it holds
            several objects, else `model`.
        only: just this entry of the file.
        step: how many steps of training it counts as.
        allow_pickle: read a .pt file or DCP folder, which are pickles; it is done with torch's
            weights-only unpickler.

    Raises:
        InvalidRequest: the file may not be read, or a name can't be.
        Conflict: there is a run of this name.
        CheckpointError: it is damaged, or holds what checkpoints can't.
    """
    from resilient_nb.interchange import importing
    from resilient_nb.interchange.files import Wanted

    if not 0 <= step < 10**18:
        raise InvalidRequest(f"{step} can't be a step: it is a whole number, 0 or more.")
    client = connection.current()
    place = client.begin_import(run)
    target = importing.Target(run, step, importing.open_runs(place.store, place.cluster_id))
    wanted = Wanted(name, only, allow_pickle)
    new = importing.write_import(Path(path).expanduser(), target, wanted)
    try:
        client.import_checkpoint(new)
    except ClusterUnreachable:
        raise  # the journal may have it
    except ResilientError:
        importing.discard(target.runs, new.id)
        raise
    return Run(client, run)


def fork(ref: str, name: str) -> Run:
    """Begin a new run at a checkpoint; nothing is copied."""
    client = connection.current()
    client.fork(ref, name)
    return Run(client, name)


class Job:
    """A submitted cell. `await job` and `job.result()` give what `--out` named."""

    __resilient_nocapture__ = True

    def __init__(self, client: Client, identity: str, view: JobView | None = None) -> None:
        self.id = identity
        self._client = client
        self._view = view

    def __repr__(self) -> str:
        view = self.view
        return f"<job {self.id}: {view.state}, step {view.step}>"

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
        """
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
        """
        view = self.wait(timeout)
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
        return asyncio.get_running_loop().run_in_executor(None, self.result).__await__()

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
            self._follow(rank, epoch)
            return ""
        text = self.log_bytes(rank, epoch, 0 if tail is None else -(64 << 10)).decode(
            errors="replace"
        )
        return text if tail is None else "".join(text.splitlines(True)[-tail:])

    def log_bytes(self, rank: int = 0, epoch: int | None = None, offset: int = 0) -> bytes:
        """Return a rank's output from a byte offset on; a negative one counts from the end."""
        piece = self._client.log(rq.ReadLog(self.id, rank, epoch, offset))
        parts, end = [piece.data], piece.offset + len(piece.data)
        while end < piece.size and piece.data:
            piece = self._client.log(rq.ReadLog(self.id, rank, piece.epoch, end))
            parts.append(piece.data)
            end += len(piece.data)
        return b"".join(parts)

    def tail(self) -> str:
        """Return the end of rank 0's output, as panels show it."""
        return self.log_bytes(offset=-_TAIL).decode(errors="replace")

    def _follow(self, rank: int, epoch: int | None) -> None:
        seen, offset, at = -1, 0, epoch
        while True:
            watched = self._client.watch(self.id, seen, 2.0)
            seen = watched.version
            piece = self._client.log(rq.ReadLog(self.id, rank, at, offset))
            if epoch is None and piece.epoch != at:
                at, offset = piece.epoch, 0  # a new attempt has a new log
                continue
            sys.stdout.write(piece.data.decode(errors="replace"))
            sys.stdout.flush()
            offset += len(piece.data)
            if watched.job.state.final and offset >= piece.size:
                return

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
                rule that the run's newest job was submitted with.
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
