"""A person overrides what was decided about a job's failures: `retry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from resilient_nb.control.engine import Engine
from resilient_nb.core import causes
from resilient_nb.core import events as ev
from resilient_nb.core.causes import amount
from resilient_nb.core.divergence import lowered_since
from resilient_nb.core.model import (
    Checkpoint,
    Failure,
    Job,
    JobSpec,
    JobState,
    OnNan,
    Remedy,
    Run,
)
from resilient_nb.core.room import most_memory
from resilient_nb.errors import InvalidRequest
from resilient_nb.wire import requests as rq


class Submit(Protocol):
    """Submits a job for who asks now; with a remedy its attempts do something differently."""

    def __call__(self, request: rq.Submit, remedy: Remedy | None = None) -> rq.Submitted:
        """Return the job that was made."""


class Overrides:
    """Runs failed jobs again, whatever was decided.

    Args:
        engine: whose jobs they are.
        submit: as `Submitting` does it.
        check_owner: raises if who asks may not act on a run.
    """

    def __init__(self, engine: Engine, submit: Submit, check_owner: Callable[[Run], None]) -> None:
        self._engine = engine
        self._submit = submit
        self._check_owner = check_owner

    def retry(self, job: Job, request: rq.Retry, user: str) -> rq.Submitted:
        """Run a failed job's cell again from its head, or end the pause of one that waits.

        Raises:
            InvalidRequest: there is nothing to retry, it would fail again by all that is known
                and that it is to be tried anyway wasn't said, or it could never start.
            NotAllowed: it is somebody else's.
        """
        world = self._engine.world
        run = world.runs[job.run]
        self._check_owner(run)
        if job.state is JobState.QUEUED:
            return self._at_once(job, request, user)
        if not job.state.final:
            if job.epoch != request.epoch:
                return self._answer(job, "")  # a repeated request: it has started since
            raise InvalidRequest(
                f"Job {job.id} is {job.state}: there is nothing to retry. %resilient restart "
                f"{job.run} begins it again from its last checkpoint."
            )
        self._check_retry(job, run, request)
        told = self._check_memory(job, request.memory)
        head = world.checkpoint(run.head) if run.head else None
        spec, remedy = _spec(job, request), _remedy(job, head, request)
        if spec.group not in world.policy.groups_of(user):
            spec = replace(spec, group="")  # another's, or of before the policy changed
        made = self._submit(rq.Submit(run.name, spec, request.request_id, "auto"), remedy)
        return replace(made, message=f"{made.message} {told}".strip())

    def _at_once(self, job: Job, request: rq.Retry, user: str) -> rq.Submitted:
        now, told = self._engine.now(), self._check_memory(job, request.memory)
        if job.not_before > now or request.memory or request.on_nan:
            event = ev.RetryRequested(now, job.id, user, request.memory, request.on_nan)
            self._engine.record(event)
            self._engine.settle()
        return self._answer(self._engine.world.jobs[job.id], told)

    def _answer(self, job: Job, message: str) -> rq.Submitted:
        head = self._engine.world.runs[job.run].head
        step = self._engine.world.checkpoint(head).step if head else None
        return rq.Submitted(job.id, job.run, step, message)

    def _check_retry(self, job: Job, run: Run, request: rq.Retry) -> None:
        if job.state is not JobState.FAILED:
            raise InvalidRequest(
                f"Job {job.id} {job.state.said}: there is nothing to retry. %resilient resume "
                f"{job.run} goes on from its head."
            )
        if job.id != run.jobs[-1]:
            raise InvalidRequest(
                f"{run.jobs[-1]} came after {job.id}: %resilient retry {run.jobs[-1]}."
            )
        failure = job.failures[-1] if job.failures else None
        if failure is None or request.anyway or failure.spent or _helps(failure, request):
            return
        raise InvalidRequest(
            f"{job.id} would fail again by all that is known: {failure.message} {failure.reason} "
            "Correct the cell and run it again. If you know better: %resilient retry "
            f"{job.run} --anyway."
        )

    def _check_memory(self, job: Job, memory: int) -> str:
        """Return what is to be known of workers that aren't there yet, "" if some have so much.

        Raises:
            InvalidRequest: none will ever have so much, or it is no size.
        """
        engine, size = self._engine, amount(memory)
        if memory < 0:
            raise InvalidRequest(f"{job.id} can't have {memory} bytes of memory; give 1 or more.")
        hosts = engine.hosts.for_plan(engine.world, engine.now())
        most = most_memory(hosts, job.spec.needs, job.spec.workers)
        if not memory or most is None or memory <= most:
            return ""
        limit, there = engine.settings.max_workers, sum(h.slots for h in hosts if not h.closing)
        if limit is not None and there >= limit:
            has = f"{amount(most)} is the most here" if most else "no worker here says what it has"
            raise InvalidRequest(
                f"{job.id} can't have {size} of memory for each worker: {has}, and this cluster "
                "can't grow. Give it less."
            )
        return f"Too few workers here have {size} of memory: it waits until more such are added."


def _helps(failure: Failure, request: rq.Retry) -> bool:
    """Whether it is retried with something changed that the failure was about."""
    if failure.cause == causes.DIVERGED:
        return request.on_nan not in (None, OnNan.STOP)
    return bool(request.memory) and failure.cause in (causes.OUT_OF_MEMORY, causes.ALLOCATION)


def _spec(job: Job, request: rq.Retry) -> JobSpec:
    memory = request.memory or job.spec.needs.memory
    spec = replace(job.spec, needs=replace(job.spec.needs, memory=memory))
    return replace(spec, on_nan=request.on_nan) if request.on_nan is not None else spec


def _remedy(job: Job, head: Checkpoint | None, request: rq.Retry) -> Remedy:
    """Return what was learnt and still holds. Which hosts to avoid, their breakers know."""
    memory = 0 if request.memory else job.remedy.memory
    return replace(job.remedy, memory=memory, avoid=(), lr_scale=lowered_since(job, head))
