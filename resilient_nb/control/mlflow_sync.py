"""Jobs as runs of an MLflow server, if `RESILIENT_NB_MLFLOW` names one: each job is a run there.

A thread tells the server what is new; the scheduler never waits for it, and if it can't be
reached only an alert says so. What the server knows already is found there by tags, not in a file
of ours, so that telling it again, after a restart say, changes nothing.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resilient_nb.core.events import Event, job_of
from resilient_nb.core.tracked import Tracked, metric_name, tracked
from resilient_nb.core.world import World

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: Seconds between two looks at a job that runs; and until the server is tried again, at first
#: and at most.
EVERY, FIRST, LONGEST = 5.0, 2.0, 60.0
#: MLflow takes so many metrics at once.
_BATCH = 1000
_EXPERIMENT = "resilient_nb"
_CLUSTER, _JOB = "resilient_nb.cluster", "resilient_nb.job"
#: Metrics up to this step are there.
_STEP = "resilient_nb.synced_step"
#: A control plane waits for nobody, and tells nobody else of its users.
_QUIET = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowSync:
    """Tells an MLflow server of an engine's jobs. `look` once a second; `close` at the end."""

    def __init__(self, engine: Engine, every: float = EVERY) -> None:
        self._engine = engine
        self._every = every
        self._next = 0.0
        self._uri = engine.settings.mlflow
        self._changed: dict[str, None] = {}
        self._worker: Worker | None = None
        if self._uri:
            # Those that have ended, too: the server may have missed the end.
            self._changed = dict.fromkeys(engine.world.jobs)
            self._worker = Worker(self._uri, engine.world.cluster_id)
            engine.listeners.append(self.heard)

    def heard(self, events: Sequence[Event], before: World, after: World) -> None:
        """Note the jobs that these events are about."""
        for event in events:
            if (name := job_of(event)) in after.jobs:
                self._changed[name] = None
            elif (run := after.runs.get(getattr(event, "run", ""))) is not None and run.jobs:
                self._changed[run.jobs[-1]] = None  # a tag, say

    def look(self) -> None:
        """Have the server told what is new."""
        worker, engine = self._worker, self._engine
        if worker is None:
            return
        engine.set_alert("mlflow", worker.trouble or None)
        now = engine.now()
        if now < self._next:
            return
        self._next = now + self._every
        worker.start()
        if not worker.connected:
            return
        for job in engine.world.open.values():
            if job.state.holds_gang:
                self._changed[job.id] = None
        # A few at a time: after a start these are all that there have ever been.
        for name in list(self._changed)[: max(0, 20 - worker.behind)]:
            del self._changed[name]
            job = engine.world.jobs[name]
            bare = tracked(engine.world, job, {}, engine.settings.runs)
            if not worker.has(bare):
                worker.tell(replace(bare, series=engine.series(name)))

    def close(self) -> None:
        """End soon. What the server wasn't told, the next control plane will tell it."""
        if self._worker is not None:
            self._worker.close()


class Worker:
    """The thread, and what it knows of the server.

    Args:
        uri: the server's.
        cluster: our id, by which our runs are told from those of others.
        connect: returns MLflow's client.
    """

    def __init__(self, uri: str, cluster: str, connect: Callable[[str], Any] | None = None) -> None:
        self.trouble = ""
        self._uri, self._cluster = uri, cluster
        self._make_client = connect or _client
        self._news: dict[str, Tracked] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._experiment = ""
        self._known: dict[str, _There] = {}
        self._busy = False

    @property
    def behind(self) -> int:
        """How many jobs the server is still to be told of."""
        with self._lock:
            return len(self._news) + self._busy

    @property
    def connected(self) -> bool:
        """Whether it is known what the server has."""
        return self._client is not None

    def has(self, job: Tracked) -> bool:
        """Whether the server was told that a job has ended, and all of its tags are there."""
        known = self._known.get(job.job)
        if known is None or job.ended is None or known.status != job.status:
            return False
        return all(known.tags.get(name) == text for name, text in job.tags.items())

    def start(self) -> None:
        """Begin, if it has not yet begun."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="resilient_nb mlflow", daemon=True
            )
            self._thread.start()

    def tell(self, job: Tracked) -> None:
        """Have the server told of a job as it is now."""
        with self._lock:
            self._news[job.job] = job
        self._woken.set()

    def close(self) -> None:
        """End soon."""
        self._closed.set()
        self._woken.set()

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        pause, connected = FIRST, False
        while not self._closed.is_set():
            job = self._next() if connected else None
            try:
                if not connected:
                    self.connect()
                    connected = True
                elif job is not None:
                    self.bring_up(job)
                else:
                    self._woken.wait()
                    self._woken.clear()
                    continue
            except Exception as error:
                # The library raises all kinds of errors, and none may end the thread.
                self._failed(job, error)
                self._closed.wait(pause)
                pause = min(LONGEST, 2 * pause)
            else:
                self.trouble, pause = "", FIRST

    def _next(self) -> Tracked | None:
        with self._lock:
            job = self._news.pop(next(iter(self._news), ""), None)
            self._busy = job is not None
            return job

    def _failed(self, job: Tracked | None, error: Exception) -> None:
        said = " ".join(str(error).split())[:200]
        place = self._uri.rpartition("@")[2]  # no password is shown
        self.trouble = f"The MLflow server at {place} isn't told of jobs: {said}"
        if isinstance(error, ImportError):
            self.trouble += " (pip install 'resilient_nb[mlflow]')"
        if job is not None:
            with self._lock:
                self._news.setdefault(job.job, job)  # unless there is something newer

    def bring_up(self, job: Tracked) -> None:
        """Tell the server what it lacks of a job."""
        known = self._known.get(job.job)
        if known is None:
            known = self._known[job.job] = self._create(job)
        points = _points(job, known.step)
        step = max((s for _, s, _ in points), default=known.step)
        tags = {n: t for n, t in job.tags.items() if known.tags.get(n) != t}
        if points:
            tags[_STEP] = str(step)
        params = {n: t for n, t in job.params.items() if n not in known.params}
        if points or tags or params:
            self._log(known.run, points, tags, params)
        known.tags.update(tags)
        known.params.update(params)
        known.step = step
        if job.status != known.status:
            if job.ended is not None:
                self._client.set_terminated(known.run, job.status, int(1000 * job.ended))
            else:
                self._client.update_run(known.run, job.status)
            known.status = job.status

    def _log(
        self,
        run: str,
        points: list[tuple[str, int, float]],
        tags: dict[str, str],
        params: dict[str, str],
    ) -> None:
        """Send metrics in pieces; the note of how far they go comes with the last one."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, step, value in points]
        *first, last = [metrics[n : n + _BATCH] for n in range(0, len(metrics), _BATCH)] or [[]]
        for piece in first:
            self._client.log_batch(run, metrics=piece)
        self._client.log_batch(
            run,
            metrics=last,
            params=[Param(name, text) for name, text in params.items()],
            tags=[RunTag(name, text) for name, text in tags.items()],
        )

    def connect(self) -> None:
        """Find out what the server has already."""
        client = self._make_client(self._uri)
        found = client.get_experiment_by_name(_EXPERIMENT)
        self._experiment = (
            found.experiment_id if found is not None else client.create_experiment(_EXPERIMENT)
        )
        token: str | None = None
        while True:
            page = client.search_runs(
                [self._experiment], f"tags.`{_CLUSTER}` = '{self._cluster}'", page_token=token
            )
            for run in page:
                self._known[run.data.tags.get(_JOB, "")] = _There(run)
            token = page.token
            if not token:
                break
        self._client = client

    def _create(self, job: Tracked) -> _There:
        # With the tags by which it is found if the answer is lost.
        tags = {_CLUSTER: self._cluster, _JOB: job.job}
        run = self._client.create_run(
            self._experiment, int(1000 * job.began), tags, run_name=job.job
        )
        return _There(run)


def _client(uri: str) -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(uri)


class _There:
    """What the server has of a job."""

    def __init__(self, run: Any) -> None:
        self.run: str = run.info.run_id
        self.status: str = run.info.status
        self.tags: dict[str, str] = dict(run.data.tags)
        self.params: dict[str, str] = dict(run.data.params)
        self.step = int(self.tags.get(_STEP, -1))


def _points(job: Tracked, after: int) -> list[tuple[str, int, float]]:
    """Return the (metric, step, value) that came after a step; MLflow knows no infinity."""
    return [
        (metric_name(name), step, value)
        for name, series in job.series.items()
        for step, value in series
        if step > after and math.isfinite(value)
    ]
