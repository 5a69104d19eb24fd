"""What the control plane answers to notebooks and shells: each request goes to what does it.

Here are also the verbs that act on a job or a run that there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from resilient_nb.control.admission import is_admin
from resilient_nb.control.engine import Engine
from resilient_nb.control.guards import check_head, check_idle, check_owner
from resilient_nb.control.injecting import inject
from resilient_nb.control.overrides import Overrides
from resilient_nb.control.storing import Storing
from resilient_nb.control.submitting import Submitting, fork_origin
from resilient_nb.control.views import Views
from resilient_nb.core import events as ev
from resilient_nb.core import lookup, proposals
from resilient_nb.core.model import Checkpoint, Job, JobState, Run, StopReason
from resilient_nb.core.names import check_name, parse_reference
from resilient_nb.core.places import Places
from resilient_nb.core.recap import dead_letters
from resilient_nb.core.views import JobView, RetentionReport, RunView
from resilient_nb.errors import CheckpointError, Conflict, InvalidRequest, NotAllowed
from resilient_nb.wire import requests as rq


class Commands:
    """Answers one request at a time, without awaiting.

    Attributes:
        views: what is shown of runs, jobs and the cluster, for those who ask by themselves.
    """

    def __init__(
        self,
        engine: Engine,
        address: str,
        storing: Storing | None = None,
        replicated: Callable[[Places, str], str] = lambda places, identity: "",
        metrics: Callable[[], str] = lambda: "",
    ) -> None:
        self._engine = engine
        self._storing = storing or Storing(engine.settings)
        self.views = Views(engine, address, self._storing, replicated, metrics)

    def __call__(self, request: Any, user: str) -> Any:
        """Return the answer that the request's class documents.

        Args:
            request: one of `wire.requests`.
            user: who asks, as the server knows it; what the request itself says is not believed.

        Raises:
            ResilientError: for everything a user can mend.
        """
        match request:
            case rq.GetCluster():
                return self.views.cluster()
            case rq.PutBlob():
                return self._put_blob(request)
            case rq.Submit():
                return self._submitting(user).submit(request)
            case rq.Cancel():
                return self._cancel(self._job(request.job), user)
            case rq.Restart():
                return self._restart(self._job(request.job), request.epoch, user)
            case rq.GetQueue():
                return self._engine.queue.report()
            case rq.Why():
                return self._engine.queue.why(self._job(request.job))
            case rq.Resume():
                return self._submitting(user).resume(request)
            case rq.Rollback():
                return self._rollback(request, user)
            case rq.Tag():
                return self._tag(request, user)
            case rq.Fork():
                return self._fork(request, user)
            case rq.Retry():
                return self._retry(request, user)
            case rq.ListDead():
                return dead_letters(self._engine.world)
            case rq.Recap():
                return self.views.recap(request, user)
            case rq.BeginImport():
                return self._begin_import(check_name(request.run))
            case rq.Import():
                return self._import(request.checkpoint, user)
            case rq.Retain():
                return self._retain(request, user)
            case rq.Resolve():
                return self.views.checkpoint(self._resolve(request.ref))
            case rq.ListJobs():
                return self.views.jobs(request)
            case rq.ListRuns():
                return self.views.runs(request)
            case rq.ReadLog():
                job = self._job(request.job)
                return self._engine.logs.read(
                    job.id, request.rank, request.epoch, request.offset, request.limit
                )
            case rq.ReadOut():
                return self.views.out_reader(request)()
            case rq.FindJobs() | rq.ReadFacts():
                return self.views.reader(request)()
            case rq.VacateAll():
                return self._vacate_all(user)
            case rq.Inject():
                return inject(self._engine, self._job(request.job), request, user)
        raise InvalidRequest(f"The control plane doesn't know {type(request).__name__}.")

    def _job(self, text: str) -> Job:
        return lookup.job(self._engine.world, text)

    def _run(self, name: str) -> Run:
        return lookup.run(self._engine.world, name)

    def _resolve(self, ref: str) -> Checkpoint:
        return lookup.checkpoint(self._engine.world, ref)

    def _submitting(self, user: str) -> Submitting:
        return Submitting(self._engine, self._storing, user)

    def _check_store(self) -> None:
        self._storing.check(self._engine.world.cluster_id)

    def _put_blob(self, request: rq.PutBlob) -> int:
        self._check_store()
        complete = self._storing.blobs.append_upload(
            request.digest, request.offset, request.data, request.total
        )
        if not complete:
            return request.offset + len(request.data)
        self._storing.captured(request.digest, ())  # which has it sent on, if the store is far
        return request.total

    # --- jobs ---------------------------------------------------------------------------

    def _retry(self, request: rq.Retry, user: str) -> rq.Submitted:
        submitting = self._submitting(user)
        if (known := submitting.repeated(request.request_id)) is not None:
            return known
        check = partial(check_owner, self._engine, user=user)
        overrides = Overrides(self._engine, submitting.submit, check)
        return overrides.retry(self._job(request.job), request, user)

    def _restart(self, job: Job, epoch: int, user: str) -> JobView:
        """End the attempt's ranks at once; the job goes on from its head."""
        check_owner(self._engine, self._run(job.run), user)
        if job.epoch != epoch:
            return self._engine.view(job)  # a repeated request: that attempt is over
        if not job.state.holds_gang and not job.restarted:
            raise InvalidRequest(
                f"Job {job.id} {job.state.said}, so there is nothing to restart"
                + (f": %resilient resume {job.run}." if job.state.final else ".")
            )
        if job.state.holds_gang and job.stop not in (StopReason.CANCEL, StopReason.RESTART):
            text = f"Restarted by {user}."
            self._engine.stop(
                ev.StopRequested(self._engine.now(), job.id, StopReason.RESTART, text)
            )
        return self._engine.view(self._engine.world.jobs[job.id])

    def _cancel(self, job: Job, user: str) -> JobView:
        check_owner(self._engine, self._run(job.run), user)
        if not job.state.final:
            if job.state is JobState.QUEUED:
                job = replace(job, message="Cancelled while waiting.")
                self._engine.record(*proposals.ending(self._engine.world, job, self._engine.now()))
            elif job.stop is not StopReason.CANCEL:
                text = f"Cancelled by {user}."
                self._engine.stop(
                    ev.StopRequested(self._engine.now(), job.id, StopReason.CANCEL, text)
                )
        return self._engine.view(self._engine.world.jobs[job.id])

    def _vacate_all(self, user: str) -> list[str]:
        if not is_admin(self._engine.world.policy, self._engine.settings, user):
            raise NotAllowed(f"{user} is no administrator of this cluster, so can't take it down.")
        # A lease, renewed by each call: a `down` that was interrupted must not stop the queue.
        self._engine.closing_until = self._engine.now() + 15.0
        for job in self._engine.world.open.values():
            if job.state.holds_gang and job.stop in (None, StopReason.MOVE):
                text = "The cluster is going down."
                self._engine.stop(
                    ev.StopRequested(self._engine.now(), job.id, StopReason.VACATE, text)
                )
        return [j.id for j in self._engine.world.open.values() if j.state.holds_gang]

    # --- runs and their checkpoints -----------------------------------------------------

    def _rollback(self, request: rq.Rollback, user: str) -> RunView:
        ref = parse_reference(request.ref)
        run = self._run(ref.run)
        check_owner(self._engine, run, user)
        check_idle(self._engine.world, run)
        if ref.step is None and ref.tag is None:
            raise InvalidRequest(f"Say where to: %resilient rollback {run.name}@STEP (or @TAG).")
        target = self._resolve(request.ref)
        if request.head is not None and run.head == target.id:
            return self.views.run(run.name)  # a repeated request
        check_head(self._engine.world, run, request.head)
        self._engine.record(ev.HeadMoved(self._engine.now(), run.name, target.id, user))
        return self.views.run(run.name)

    def _tag(self, request: rq.Tag, user: str) -> RunView:
        target = self._resolve(request.ref)
        tag = check_name(request.tag, "tag")
        if tag.isdigit():
            raise InvalidRequest(f"Tag {tag} would read as a step: give it a letter.")
        run = parse_reference(request.ref).run
        check_owner(self._engine, self._run(run), user)
        self._engine.record(ev.CheckpointTagged(self._engine.now(), run, target.id, tag))
        return self.views.run(run)

    def _fork(self, request: rq.Fork, user: str) -> RunView:
        origin = fork_origin(self._engine.world, request.ref, request.name)
        self._engine.record(ev.RunCreated(self._engine.now(), request.name, origin.id, user))
        return self.views.run(request.name)

    def _begin_import(self, name: str) -> rq.ImportPlace:
        self._check_store()
        if name in self._engine.world.runs:
            raise Conflict(f"Run {name} exists already: import under another name.")
        return rq.ImportPlace(self._engine.settings.store, self._engine.world.cluster_id)

    def _import(self, new: Checkpoint, user: str) -> RunView:
        """Begin a run with a checkpoint that was written to the store by who asks."""
        name, now = check_name(new.run), self._engine.now()
        self._check_store()
        if name in self._engine.world.runs:
            known = self._run(name).checkpoints.get(new.id)
            if known is None or known.digest != new.digest or known.job:
                raise Conflict(f"Run {name} exists already: import under another name.")
            return self.views.run(name)  # a repeated request
        place = self._engine.settings.store
        if not self._storing.has((place,), f"runs/{new.id}/zarr.json"):
            raise CheckpointError(
                f"Checkpoint {new.id} is not in the cluster's store ({place}): import it where "
                "that store can be written."
            )
        events = ev.RunCreated(now, name, user=user), ev.CheckpointImported(now, new)
        self._engine.record(*events)
        return self.views.run(name)

    def _retain(self, request: rq.Retain, user: str) -> RetentionReport:
        run = self._run(request.run)
        if not request.dry_run:
            check_owner(self._engine, run, user)
        return self._engine.keeping.retain(run.name, request.keep, request.dry_run)
