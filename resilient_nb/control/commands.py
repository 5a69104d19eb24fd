"""What the control plane answers to notebooks and shells: requests to events and views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resilient_nb._version import __version__
from resilient_nb.control.admission import Admission, is_admin
from resilient_nb.control.engine import Engine
from resilient_nb.control.injecting import inject
from resilient_nb.control.overrides import Overrides
from resilient_nb.control.querying import find_jobs, read_facts
from resilient_nb.control.storing import Storing
from resilient_nb.core import events as ev
from resilient_nb.core import lookup, proposals
from resilient_nb.core.lineage import imported
from resilient_nb.core.model import Checkpoint, Job, JobState, Remedy, Run, StopReason
from resilient_nb.core.names import check_name, job_id, parse_reference, split_checkpoint
from resilient_nb.core.places import Places, sub_folder
from resilient_nb.core.recap import RecapReport, dead_letters, recap
from resilient_nb.core.replicas import replicas_of, wanted_in
from resilient_nb.core.views import (
    CheckpointView,
    ClusterView,
    HostView,
    JobView,
    RetentionReport,
    RunView,
    checkpoint_view,
    run_view,
)
from resilient_nb.errors import (
    AlreadyRunning,
    CheckpointError,
    Conflict,
    InvalidRequest,
    NotAllowed,
    UnknownName,
)
from resilient_nb.storage.stores import out_key
from resilient_nb.wire import requests as rq


class Commands:
    """Answers one request at a time, without awaiting."""

    def __init__(
        self,
        engine: Engine,
        address: str,
        storing: Storing | None = None,
        replicated: Callable[[Places, str], str] = lambda places, identity: "",
        metrics: Callable[[], str] = lambda: "",
    ) -> None:
        self._engine = engine
        self._address = address
        self._storing = storing or Storing(engine.settings)
        self._replicated = replicated
        self._metrics = metrics
        self._user = engine.settings.user  # who asks now
        self._overrides = Overrides(engine, self._submit, self._check_owner)

    def __call__(self, request: Any, user: str) -> Any:
        """Return the answer that the request's class documents.

        Args:
            request: one of `wire.requests`.
            user: who asks, as the server knows it; what the request itself says is not believed.

        Raises:
            ResilientError: for everything a user can mend.
        """
        self._user = user
        match request:
            case rq.GetCluster():
                return self.cluster()
            case rq.PutBlob():
                return self._put_blob(request)
            case rq.Submit():
                return self._submit(request)
            case rq.Cancel():
                return self._cancel(self.job(request.job))
            case rq.Restart():
                return self._restart(self.job(request.job), request.epoch)
            case rq.GetQueue():
                return self._engine.queue.report()
            case rq.Why():
                return self._engine.queue.why(self.job(request.job))
            case rq.Resume():
                return self._resume(request)
            case rq.Rollback():
                return self._rollback(request)
            case rq.Tag():
                return self._tag(request)
            case rq.Fork():
                return self._fork(request)
            case rq.Retry():
                known = self._repeated(request.request_id)
                return known or self._overrides.retry(self.job(request.job), request, user)
            case rq.ListDead():
                return dead_letters(self._engine.world)
            case rq.Recap():
                return self._recap(request)
            case rq.BeginImport():
                return self._begin_import(check_name(request.run))
            case rq.Import():
                return self._import(request.checkpoint)
            case rq.Retain():
                return self._retain(request)
            case rq.Resolve():
                return self._checkpoint_view(self.resolve(request.ref))
            case rq.ListJobs():
                return self._jobs(request)
            case rq.ListRuns():
                return self._runs(request)
            case rq.ReadLog():
                job = self.job(request.job)
                return self._engine.logs.read(
                    job.id, request.rank, request.epoch, request.offset, request.limit
                )
            case rq.ReadOut():
                return self.out_reader(request)()
            case rq.FindJobs() | rq.ReadFacts():
                return self.reader(request)()
            case rq.VacateAll():
                return self._vacate_all()
            case rq.Inject():
                return inject(self._engine, self.job(request.job), request, self._user)
        raise InvalidRequest(f"The control plane doesn't know {type(request).__name__}.")

    # --- finding ------------------------------------------------------------------------

    def job(self, text: str) -> Job:
        """Return the job `run#n`, or the newest of a bare run name."""
        return lookup.job(self._engine.world, text)

    def resolve(self, text: str) -> Checkpoint:
        """Return the checkpoint that a reference names."""
        return lookup.checkpoint(self._engine.world, text)

    def _run(self, name: str) -> Run:
        return lookup.run(self._engine.world, name)

    def _root(self) -> str:
        return self._engine.settings.runs

    def _checkpoint_view(self, checkpoint: Checkpoint) -> CheckpointView:
        run = self._engine.world.runs[checkpoint.run]
        return self._with_copies(run, (checkpoint_view(run, checkpoint, self._root()),))[0]

    def run_view(self, name: str) -> RunView:
        """Return a run as shown."""
        run = self._run(name)
        view = run_view(self._engine.world, run, self._root())
        return replace(view, checkpoints=self._with_copies(run, view.checkpoints))

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

    def _put_blob(self, request: rq.PutBlob) -> int:
        self._check_store()
        complete = self._storing.blobs.append_upload(
            request.digest, request.offset, request.data, request.total
        )
        if not complete:
            return request.offset + len(request.data)
        self._storing.captured(request.digest, ())  # which has it sent on, if the store is far
        return request.total

    # --- submitting ---------------------------------------------------------------------

    def _repeated(self, request_id: str) -> rq.Submitted | None:
        """Return the answer again, if its first delivery was lost."""
        for job in self._engine.world.jobs.values():
            if job.request_id == request_id:
                return self._submitted(job, "")
        return None

    def _submit(self, request: rq.Submit, remedy: Remedy | None = None) -> rq.Submitted:
        if (known := self._repeated(request.request_id)) is not None:
            return known
        name = check_name(request.run) if request.run is not None else self._free_name()
        admission = Admission(self._engine.world, self._engine.settings, self._user)
        spec, asked, told = admission.admit(name, request.spec, self._engine.now())
        self._check_store()
        if spec.captured and not self._storing.blobs.has(spec.captured):
            raise InvalidRequest("The captured values did not arrive: submit the cell again.")
        prelude, message = self._start_point(name, request)
        number = len(self._engine.world.runs[name].jobs) + 1 if name in self._known() else 1
        self._engine.record(
            *prelude,
            ev.JobSubmitted(
                self._engine.now(), job_id(name, number), name, number, request.request_id,
                spec, asked, told, remedy,
            ),
        )  # fmt: skip
        self._engine.settle()
        message = " ".join(text for text in (message, told) if text)
        return self._submitted(self._engine.world.jobs[job_id(name, number)], message)

    def _submitted(self, job: Job, message: str) -> rq.Submitted:
        head = self._engine.world.runs[job.run].head
        step = self._engine.world.checkpoint(head).step if head else None
        return rq.Submitted(job.id, job.run, step, message)

    def _start_point(self, name: str, request: rq.Submit) -> tuple[list[ev.Event], str]:
        """Return the events that make the run and set its head, and what to tell the user."""
        now = self._engine.now()
        if request.fork is not None and name in self._known():
            return self._fork_again(self._run(name), request.fork)
        if request.fork is not None:
            origin = self._new_fork(request.fork, name)
            created = ev.RunCreated(now, name, origin.id, self._user)
            return [created], f"Forked from {request.fork}."
        if name not in self._known():
            if request.resume not in ("auto", "never"):
                raise UnknownName(f"There is no run {name} yet, so nothing to resume from.")
            return [ev.RunCreated(now, name, user=self._user)], ""
        run = self._run(name)
        self._check_owner(run)
        self._check_idle(run)
        first = imported(run)
        over = "starts over" if first is None else "starts over from the import"
        if request.resume == "never":
            text = f"{over.capitalize()}; earlier checkpoints are kept."
            return [ev.HeadMoved(now, name, first)], text
        if request.resume != "auto":
            target = self._in_run(run, request.resume)
            return [ev.HeadMoved(now, name, target.id)], f"Goes on from step {target.step}."
        if run.head is None:
            return [], ""
        head = self._engine.world.checkpoint(run.head)
        if head.run == name and self._is_end(head):
            text = f"{head.job} had finished: {over}; earlier checkpoints are kept."
            return [ev.HeadMoved(now, name, first)], text
        return [], f"Goes on from step {head.step} (--resume never starts over)."

    def _fork_again(self, run: Run, ref: str) -> tuple[list[ev.Event], str]:
        """The cell of a fork is run again: it starts over where the fork began."""
        origin = self.resolve(ref)
        if run.forked_from != origin.id:
            raise Conflict(f"Run {run.name} exists already: fork under another name.")
        self._check_owner(run)
        self._check_idle(run)
        events: list[ev.Event] = [ev.HeadMoved(self._engine.now(), run.name, origin.id)]
        return events, f"Starts over from {ref}; earlier checkpoints are kept."

    def _is_end(self, head: Checkpoint) -> bool:
        """Whether a checkpoint is the last of a job that succeeded: nothing is left to do."""
        if not head.job:
            return False  # imported
        job = self._engine.world.jobs.get(head.job)
        if job is None:
            return False  # the journal has forgotten it
        own = [c for c in self._run(head.run).checkpoints.values() if c.job == head.job]
        return job.state is JobState.SUCCEEDED and own[-1].id == head.id

    def _in_run(self, run: Run, text: str) -> Checkpoint:
        """Resolve `digits@60`, or just `60` or `best`, to a checkpoint of this run.

        An identity must be of the run, or of what its head goes back to.
        """
        if split_checkpoint(text) is None:
            whole = text.partition("@")[0] == run.name
            return self.resolve(text if whole else f"{run.name}@{text}")
        found = self.resolve(text)
        if found.run != run.name and found not in lookup.lineage(self._engine.world, run):
            raise UnknownName(f"{text} is no checkpoint of run {run.name}.")
        return found

    def _new_fork(self, ref: str, name: str) -> Checkpoint:
        check_name(name)
        if name in self._known():
            raise Conflict(f"Run {name} exists already: fork under another name.")
        return self.resolve(ref)

    def _known(self) -> Any:
        return self._engine.world.runs

    def _free_name(self) -> str:
        number = 1
        while f"cell-{number}" in self._known():
            number += 1
        return f"cell-{number}"

    def _check_idle(self, run: Run) -> None:
        active = self._engine.world.active_job(run.name)
        if active is not None:
            raise AlreadyRunning(
                f"Run {run.name} is {active.state} already, as job {active.id}. Wait for it, "
                f"cancel it (%resilient cancel {run.name}), or choose another name."
            )

    def _check_head(self, run: Run, seen: str | None) -> None:
        """Refuse what was decided when the run's head was another one (None: whichever)."""
        if seen is None or seen == (run.head or ""):
            return
        now = "gone" if run.head is None else self._ref(run.head)
        raise Conflict(
            f"The head of {run.name} is {now} by now: look again, then decide. Nothing was done."
        )

    def _ref(self, identity: str) -> str:
        checkpoint = self._engine.world.checkpoint(identity)
        return f"{checkpoint.run}@{checkpoint.step}"

    def _check_store(self) -> None:
        self._storing.check(self._engine.world.cluster_id)

    # --- the other verbs ----------------------------------------------------------------

    def _check_owner(self, run: Run) -> None:
        """Only its owner and administrators change a run."""
        first = self._engine.world.jobs[run.jobs[0]].spec.user if run.jobs else ""
        owner = run.user or first
        if owner not in ("", self._user) and not is_admin(
            self._engine.world.policy, self._engine.settings, self._user
        ):
            raise NotAllowed(
                f"Run {run.name} is {owner}'s, and you are {self._user}: ask {owner} or an "
                f"administrator, or fork it (%resilient fork {run.name} NEW)."
            )

    def _restart(self, job: Job, epoch: int) -> JobView:
        """End the attempt's ranks at once; the job goes on from its head."""
        self._check_owner(self._run(job.run))
        if job.epoch != epoch:
            return self._engine.view(job)  # a repeated request: that attempt is over
        if not job.state.holds_gang and not job.restarted:
            raise InvalidRequest(
                f"Job {job.id} is {job.state}, so there is nothing to restart"
                + (f": %resilient resume {job.run}." if job.state.final else ".")
            )
        if job.state.holds_gang and job.stop not in (StopReason.CANCEL, StopReason.RESTART):
            text = f"Restarted by {self._user}."
            self._engine.stop(
                ev.StopRequested(self._engine.now(), job.id, StopReason.RESTART, text)
            )
        return self._engine.view(self._engine.world.jobs[job.id])

    def _cancel(self, job: Job) -> JobView:
        self._check_owner(self._run(job.run))
        if not job.state.final:
            if job.state is JobState.QUEUED:
                job = replace(job, message="Cancelled while waiting.")
                self._engine.record(*proposals.ending(self._engine.world, job, self._engine.now()))
            elif job.stop is not StopReason.CANCEL:
                text = f"Cancelled by {self._user}."
                self._engine.stop(
                    ev.StopRequested(self._engine.now(), job.id, StopReason.CANCEL, text)
                )
        return self._engine.view(self._engine.world.jobs[job.id])

    def _resume(self, request: rq.Resume) -> rq.Submitted:
        if (known := self._repeated(request.request_id)) is not None:
            return known
        run = self._run(request.run)
        origin = run
        while not origin.jobs and origin.forked_from is not None:
            # A fresh fork has no cell of its own: it goes on with its parent's.
            origin = self._run(origin.forked_from.partition("/")[0])
        if not origin.jobs:
            raise UnknownName(
                f"Run {run.name} has no cell yet: %%resilient {run.name} gives it one."
            )
        if request.head is not None:
            self._check_idle(run)
            self._check_head(run, request.head)
        spec = self._engine.world.jobs[origin.jobs[-1]].spec
        if spec.group not in self._engine.world.policy.groups_of(self._user):
            spec = replace(spec, group="")  # another's, or of before the policy changed
        if request.at is None and run.head and not self._engine.world.active_job(run.name):
            head = self._engine.world.checkpoint(run.head)
            if head.run == run.name and self._is_end(head):
                raise InvalidRequest(
                    f"{head.job} finished at step {head.step}: nothing is left to resume. Roll "
                    f"back first (%resilient rollback {run.name}@STEP), or run the cell again."
                )
        submit = rq.Submit(run.name, spec, request.request_id, request.at or "auto")
        return self._submit(submit)

    def _rollback(self, request: rq.Rollback) -> RunView:
        ref = parse_reference(request.ref)
        run = self._run(ref.run)
        self._check_owner(run)
        self._check_idle(run)
        if ref.step is None and ref.tag is None:
            raise InvalidRequest(f"Say where to: %resilient rollback {run.name}@STEP (or @TAG).")
        target = self.resolve(request.ref)
        if request.head is not None and run.head == target.id:
            return self.run_view(run.name)  # a repeated request
        self._check_head(run, request.head)
        self._engine.record(ev.HeadMoved(self._engine.now(), run.name, target.id, self._user))
        return self.run_view(run.name)

    def _tag(self, request: rq.Tag) -> RunView:
        target = self.resolve(request.ref)
        tag = check_name(request.tag, "tag")
        if tag.isdigit():
            raise InvalidRequest(f"Tag {tag} would read as a step: give it a letter.")
        run = parse_reference(request.ref).run
        self._check_owner(self._run(run))
        self._engine.record(ev.CheckpointTagged(self._engine.now(), run, target.id, tag))
        return self.run_view(run)

    def _fork(self, request: rq.Fork) -> RunView:
        origin = self._new_fork(request.ref, request.name)
        self._engine.record(ev.RunCreated(self._engine.now(), request.name, origin.id, self._user))
        return self.run_view(request.name)

    def _begin_import(self, name: str) -> rq.ImportPlace:
        self._check_store()
        if name in self._known():
            raise Conflict(f"Run {name} exists already: import under another name.")
        return rq.ImportPlace(self._engine.settings.store, self._engine.world.cluster_id)

    def _import(self, new: Checkpoint) -> RunView:
        """Begin a run with a checkpoint that was written to the store by who asks."""
        name, now = check_name(new.run), self._engine.now()
        self._check_store()
        if name in self._known():
            known = self._run(name).checkpoints.get(new.id)
            if known is None or known.digest != new.digest or known.job:
                raise Conflict(f"Run {name} exists already: import under another name.")
            return self.run_view(name)  # a repeated request
        place = self._engine.settings.store
        if not self._storing.has((place,), f"runs/{new.id}/zarr.json"):
            raise CheckpointError(
                f"Checkpoint {new.id} is not in the cluster's store ({place}): import it where "
                "that store can be written."
            )
        events = ev.RunCreated(now, name, user=self._user), ev.CheckpointImported(now, new)
        self._engine.record(*events)
        return self.run_view(name)

    def _retain(self, request: rq.Retain) -> RetentionReport:
        run = self._run(request.run)
        if not request.dry_run:
            self._check_owner(run)
        return self._engine.keeping.retain(run.name, request.keep, request.dry_run)

    def _jobs(self, request: rq.ListJobs) -> list[JobView]:
        jobs = [
            job
            for job in reversed(list(self._engine.world.jobs.values()))
            if request.run is None or job.run == self._run(request.run).name
        ]
        return [self._engine.view(job) for job in jobs[: request.limit]]

    def _recap(self, request: rq.Recap) -> RecapReport:
        engine, now = self._engine, self._engine.now()
        steps = {
            job.id: engine.live.reach(job.id).step
            for job in engine.world.open.values()
            if job.state.holds_gang
        }
        user = self._user if request.user is None else request.user
        return recap(engine.world, now - max(0.0, request.seconds), now, user, steps)

    def _runs(self, request: rq.ListRuns) -> list[RunView]:
        names = [request.run] if request.run else list(reversed(self._known()))
        return [self.run_view(name) for name in names]

    def reader(self, request: rq.FindJobs | rq.ReadFacts) -> Callable[[], Any]:
        """Return what answers the request; it takes a while, and needs nothing here."""
        records = self._engine.recording.readable()
        if isinstance(request, rq.ReadFacts):
            job = self.job(request.job)
            return read_facts(job, records, request.rank, max(1, request.most))
        return find_jobs(self._engine.world, records, request.query)

    def out_reader(self, request: rq.ReadOut) -> Callable[[], rq.OutPiece]:
        """Return what answers the request; it may wait for a network, and needs nothing here."""
        job = self.job(request.job)
        if not job.returned:
            raise UnknownName(f"Job {job.id} is {job.state} and has returned nothing.")
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

    def _vacate_all(self) -> list[str]:
        if not is_admin(self._engine.world.policy, self._engine.settings, self._user):
            raise NotAllowed(
                f"{self._user} is no administrator of this cluster, so can't take it down."
            )
        # A lease, renewed by each call: a `down` that was interrupted must not stop the queue.
        self._engine.closing_until = self._engine.now() + 15.0
        for job in self._engine.world.open.values():
            if job.state.holds_gang and job.stop in (None, StopReason.MOVE):
                text = "The cluster is going down."
                self._engine.stop(
                    ev.StopRequested(self._engine.now(), job.id, StopReason.VACATE, text)
                )
        return [j.id for j in self._engine.world.open.values() if j.state.holds_gang]

    def _with_health(self, host: HostView) -> HostView:
        known = self._engine.world.health.get(host.id)
        return host if known is None else replace(host, unwell=known.words(self._engine.now()))

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
