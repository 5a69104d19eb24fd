"""What people ask to see of runs, jobs and the cluster. Nothing is changed by looking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resilient_nb._version import __version__
from resilient_nb.control.engine import Engine
from resilient_nb.control.querying import find_jobs, read_facts
from resilient_nb.control.storing import Storing
from resilient_nb.core import lookup
from resilient_nb.core.model import Checkpoint, JobState, Run
from resilient_nb.core.places import Places, sub_folder
from resilient_nb.core.recap import RecapReport, recap
from resilient_nb.core.replicas import replicas_of, wanted_in
from resilient_nb.core.views import (
    CheckpointView,
    ClusterView,
    HostView,
    JobView,
    RunView,
    checkpoint_view,
    run_view,
)
from resilient_nb.errors import UnknownName
from resilient_nb.storage.stores import out_key
from resilient_nb.wire import requests as rq


class Views:
    """Joins what the engine knows with what is known of the stores.

    Args:
        engine: whose runs and jobs are shown.
        address: the scheduler's.
        storing: reads what jobs returned.
        replicated: how a checkpoint's copies in some places are.
        metrics: where the metrics are served, "" if nowhere.
    """

    def __init__(
        self,
        engine: Engine,
        address: str,
        storing: Storing,
        replicated: Callable[[Places, str], str],
        metrics: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._address = address
        self._storing = storing
        self._replicated = replicated
        self._metrics = metrics

    # --- runs and their checkpoints -----------------------------------------------------

    def run(self, name: str) -> RunView:
        """Return a run as shown."""
        world = self._engine.world
        run = lookup.run(world, name)
        view = run_view(world, run, self._engine.settings.runs)
        return replace(view, checkpoints=self._with_copies(run, view.checkpoints))

    def runs(self, request: rq.ListRuns) -> list[RunView]:
        """Return one run, or all, the newest first."""
        names = [request.run] if request.run else list(self._engine.world.runs)[::-1]
        return [self.run(name) for name in names]

    def checkpoint(self, checkpoint: Checkpoint) -> CheckpointView:
        """Return a checkpoint as shown."""
        run = self._engine.world.runs[checkpoint.run]
        view = checkpoint_view(run, checkpoint, self._engine.settings.runs)
        return self._with_copies(run, (view,))[0]

    def _with_copies(
        self, run: Run, views: tuple[CheckpointView, ...]
    ) -> tuple[CheckpointView, ...]:
        """Return checkpoints with what is known of their second copies."""
        world, always = self._engine.world, self._engine.settings.replicas
        places, wanted = replicas_of(world, run.name, always), wanted_in(world, run.name, always)
        if not places:
            return views
        return tuple(
            replace(
                view,
                copies=tuple(sub_folder(place, "runs", view.id) for place in places),
                replicated=self._replicated(wanted, view.id),
            )
            for view in views
        )

    # --- jobs ---------------------------------------------------------------------------

    def jobs(self, request: rq.ListJobs) -> list[JobView]:
        """Return the newest jobs, of one run or of all."""
        world = self._engine.world
        jobs = [
            job
            for job in reversed(list(world.jobs.values()))
            if request.run is None or job.run == lookup.run(world, request.run).name
        ]
        return [self._engine.view(job) for job in jobs[: request.limit]]

    def recap(self, request: rq.Recap, user: str) -> RecapReport:
        """Return what happened lately to the jobs of a user: who asks, if nobody is named."""
        engine, now = self._engine, self._engine.now()
        steps = {
            job.id: engine.live.reach(job.id).step
            for job in engine.world.open.values()
            if job.state.holds_gang
        }
        whose = user if request.user is None else request.user
        return recap(engine.world, now - max(0.0, request.seconds), now, whose, steps)

    def reader(self, request: rq.FindJobs | rq.ReadFacts) -> Callable[[], Any]:
        """Return what answers the request; it takes a while, and needs nothing here."""
        records = self._engine.recording.readable()
        if isinstance(request, rq.ReadFacts):
            job = lookup.job(self._engine.world, request.job)
            return read_facts(job, records, request.rank, max(1, request.most))
        return find_jobs(self._engine.world, records, request.query)

    def out_reader(self, request: rq.ReadOut) -> Callable[[], rq.OutPiece]:
        """Return what answers the request; it may wait for a network, and needs nothing here."""
        job = lookup.job(self._engine.world, request.job)
        if not job.returned:
            raise UnknownName(f"Job {job.id} {job.state.said} and has returned nothing.")
        storing, place = self._storing, self._engine.settings.store

        def read() -> rq.OutPiece:
            piece = storing.read_out(job.run, job.number, request.offset, request.limit)
            if piece is None:
                raise UnknownName(
                    f"What {job.id} returned is no longer in the store "
                    f"({sub_folder(place, out_key(job.run, job.number))}): run the cell again."
                )
            return piece

        return read

    # --- the cluster --------------------------------------------------------------------

    def cluster(self) -> ClusterView:
        """Return the cluster as shown."""
        world, engine = self._engine.world, self._engine
        hosts = tuple(self._with_health(host) for host in engine.hosts.views(world))
        jobs = world.open.values()
        return ClusterView(
            address=self._address,
            cluster_id=world.cluster_id,
            version=__version__,
            store=engine.settings.store,
            slots=sum(host.slots for host in hosts),
            used=sum(host.used for host in hosts),
            max_workers=engine.settings.max_workers,
            hosts=hosts,
            running=tuple(j.id for j in jobs if j.state.holds_gang),
            queued=tuple(j.id for j in jobs if j.state is JobState.QUEUED),
            alerts=tuple(engine.alerts.values()),
            metrics=self._metrics(),
        )

    def _with_health(self, host: HostView) -> HostView:
        known = self._engine.world.health.get(host.id)
        return host if known is None else replace(host, unwell=known.words(self._engine.now()))
