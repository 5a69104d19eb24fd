"""A cell is submitted or resumed: which run its job belongs to, and what that run goes on from."""

from __future__ import annotations

from dataclasses import replace

from resilient_nb.control.admission import Admission
from resilient_nb.control.engine import Engine
from resilient_nb.control.guards import check_head, check_idle, check_owner
from resilient_nb.control.storing import Storing
from resilient_nb.core import events as ev
from resilient_nb.core import lookup
from resilient_nb.core.lineage import imported
from resilient_nb.core.model import Checkpoint, Job, JobState, Remedy, Run
from resilient_nb.core.names import check_name, job_id, split_checkpoint
from resilient_nb.core.world import World
from resilient_nb.errors import Conflict, InvalidRequest, UnknownName
from resilient_nb.wire import requests as rq


def fork_origin(world: World, ref: str, name: str) -> Checkpoint:
    """Return the checkpoint that a new run of this name begins with."""
    check_name(name)
    if name in world.runs:
        raise Conflict(f"Run {name} exists already: fork under another name.")
    return lookup.checkpoint(world, ref)


class Submitting:
    """One user's submissions.

    Args:
        engine: whose queue the jobs join.
        storing: where the captured values have arrived.
        user: who asks, as the server knows it.
    """

    def __init__(self, engine: Engine, storing: Storing, user: str) -> None:
        self._engine = engine
        self._storing = storing
        self._user = user

    def repeated(self, request_id: str) -> rq.Submitted | None:
        """Return the answer again, if its first delivery was lost."""
        for job in self._engine.world.jobs.values():
            if job.request_id == request_id:
                return self._submitted(job, "")
        return None

    def submit(self, request: rq.Submit, remedy: Remedy | None = None) -> rq.Submitted:
        """Have a job wait for its turn; with a remedy its attempts do something differently."""
        if (known := self.repeated(request.request_id)) is not None:
            return known
        world = self._engine.world
        name = check_name(request.run) if request.run is not None else _free_name(world)
        now = self._engine.now()
        hosts = self._engine.hosts.for_plan(world, now)
        admission = Admission(world, self._engine.settings, self._user, hosts)
        spec, asked, told = admission.admit(name, request.spec, now)
        self._storing.check(world.cluster_id)
        if spec.captured and not self._storing.blobs.has(spec.captured):
            raise InvalidRequest("The captured values did not arrive: submit the cell again.")
        prelude, message = self._start_point(name, request)
        number = len(world.runs[name].jobs) + 1 if name in world.runs else 1
        self._engine.record(
            *prelude,
            ev.JobSubmitted(
                now, job_id(name, number), name, number, request.request_id,
                spec, asked, told, remedy,
            ),
        )  # fmt: skip
        self._engine.settle()
        message = " ".join(text for text in (message, told) if text)
        return self._submitted(self._engine.world.jobs[job_id(name, number)], message)

    def resume(self, request: rq.Resume) -> rq.Submitted:
        """Submit the run's cell again, to go on from its head or from another checkpoint."""
        if (known := self.repeated(request.request_id)) is not None:
            return known
        world = self._engine.world
        run = lookup.run(world, request.run)
        origin = run
        while not origin.jobs and origin.forked_from is not None:
            # A fresh fork has no cell of its own: it goes on with its parent's.
            origin = lookup.run(world, origin.forked_from.partition("/")[0])
        if not origin.jobs:
            raise UnknownName(
                f"Run {run.name} has no cell yet: %%resilient {run.name} gives it one."
            )
        if request.head is not None:
            check_idle(world, run)
            check_head(world, run, request.head)
        spec = world.jobs[origin.jobs[-1]].spec
        if spec.group not in world.policy.groups_of(self._user):
            spec = replace(spec, group="")  # another's, or of before the policy changed
        if request.at is None and run.head and not world.active_job(run.name):
            head = world.checkpoint(run.head)
            if head.run == run.name and _is_end(world, head):
                raise InvalidRequest(
                    f"{head.job} finished at step {head.step}: nothing is left to resume. Roll "
                    f"back first (%resilient rollback {run.name}@STEP), or run the cell again."
                )
        return self.submit(rq.Submit(run.name, spec, request.request_id, request.at or "auto"))

    def _submitted(self, job: Job, message: str) -> rq.Submitted:
        head = self._engine.world.runs[job.run].head
        step = self._engine.world.checkpoint(head).step if head else None
        return rq.Submitted(job.id, job.run, step, message)

    def _start_point(self, name: str, request: rq.Submit) -> tuple[list[ev.Event], str]:
        """Return the events that make the run and set its head, and what to tell the user."""
        world, now = self._engine.world, self._engine.now()
        if request.fork is not None and name in world.runs:
            return self._fork_again(lookup.run(world, name), request.fork)
        if request.fork is not None:
            origin = fork_origin(world, request.fork, name)
            created = ev.RunCreated(now, name, origin.id, self._user)
            return [created], f"Forked from {request.fork}."
        if name not in world.runs:
            if request.resume not in ("auto", "never"):
                raise UnknownName(f"There is no run {name} yet, so nothing to resume from.")
            return [ev.RunCreated(now, name, user=self._user)], ""
        run = lookup.run(world, name)
        check_owner(self._engine, run, self._user)
        check_idle(world, run)
        first = imported(run)
        over = "starts over" if first is None else "starts over from the import"
        if request.resume == "never":
            text = f"{over.capitalize()}; earlier checkpoints are kept."
            return [ev.HeadMoved(now, name, first)], text
        if request.resume != "auto":
            target = _in_run(world, run, request.resume)
            return [ev.HeadMoved(now, name, target.id)], f"Goes on from step {target.step}."
        if run.head is None:
            return [], _beginning(run)
        head = world.checkpoint(run.head)
        if head.run == name and _is_end(world, head):
            text = f"{head.job} had finished: {over}; earlier checkpoints are kept."
            return [ev.HeadMoved(now, name, first)], text
        return [], f"Goes on from step {head.step} (--resume never starts over)."

    def _fork_again(self, run: Run, ref: str) -> tuple[list[ev.Event], str]:
        """The cell of a fork is run again: it starts over where the fork began."""
        world = self._engine.world
        origin = lookup.checkpoint(world, ref)
        if run.forked_from != origin.id:
            raise Conflict(f"Run {run.name} exists already: fork under another name.")
        check_owner(self._engine, run, self._user)
        check_idle(world, run)
        events: list[ev.Event] = [ev.HeadMoved(self._engine.now(), run.name, origin.id)]
        return events, f"Starts over from {ref}; earlier checkpoints are kept."


def _beginning(run: Run) -> str:
    """Return what to tell of a run whose head is none although it has checkpoints."""
    if not run.checkpoints:
        return ""
    newest = list(run.checkpoints.values())[-1]
    before = f", as {run.jobs[-1]} did, which made no checkpoint" if run.jobs else ""
    return (
        f"Starts at the beginning{before}; `--resume {run.name}@{newest.step}` goes on from there."
    )


def _free_name(world: World) -> str:
    number = 1
    while f"cell-{number}" in world.runs:
        number += 1
    return f"cell-{number}"


def _is_end(world: World, head: Checkpoint) -> bool:
    """Whether a checkpoint is the last of a job that succeeded: nothing is left to do."""
    if not head.job:
        return False  # imported
    job = world.jobs.get(head.job)
    if job is None:
        return False  # the journal has forgotten it
    own = [c for c in lookup.run(world, head.run).checkpoints.values() if c.job == head.job]
    return job.state is JobState.SUCCEEDED and own[-1].id == head.id


def _in_run(world: World, run: Run, text: str) -> Checkpoint:
    """Resolve `digits@60`, or just `60` or `best`, to a checkpoint of this run.

    An identity must be of the run, or of what its head goes back to.
    """
    if split_checkpoint(text) is None:
        whole = text.partition("@")[0] == run.name
        return lookup.checkpoint(world, text if whole else f"{run.name}@{text}")
    found = lookup.checkpoint(world, text)
    if found.run != run.name and found not in lookup.lineage(world, run):
        raise UnknownName(f"{text} is no checkpoint of run {run.name}.")
    return found
