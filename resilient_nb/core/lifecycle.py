"""The one transition table of jobs, and `evolve`, the fold that makes the world from events.

Every way a job can go is a row of `TRANSITIONS`; an event that has no row for the state it
meets raises `InvalidTransition` and changes nothing. (The idea of holding a protocol in one
table and no I/O is h11's.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from resilient_nb.core import events as ev
from resilient_nb.core import inputs
from resilient_nb.core.accounting import charge
from resilient_nb.core.health import observe
from resilient_nb.core.lineage import pointed, pointing, targets, without
from resilient_nb.core.model import Job, JobState, Read, Remedy, Run, StopReason
from resilient_nb.core.names import checkpoint_id, split_checkpoint
from resilient_nb.core.proposals import proposed
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidTransition, StaleEpoch

#: Of what was broken on purpose, so much of the newest is kept.
MOST_CHAOS = 200

_K = TypeVar("_K")
_V = TypeVar("_V")

#: More attempts than a run can have had that a damaged journal has forgotten: later ones have
#: epochs that are new for certain.
FORGOTTEN = 1000

_S = JobState
TRANSITIONS: dict[tuple[JobState, type[ev.Event]], JobState] = {
    (_S.QUEUED, ev.GangReserved): _S.STARTING,
    (_S.QUEUED, ev.JobCancelled): _S.CANCELLED,
    (_S.QUEUED, ev.RetryRequested): _S.QUEUED,
    (_S.STARTING, ev.GangStarted): _S.RUNNING,
    (_S.STARTING, ev.RankEnded): _S.STARTING,
    (_S.STARTING, ev.StopRequested): _S.STOPPING,
    # A short cell can end before the control plane has heard that all its ranks began.
    (_S.STARTING, ev.JobSucceeded): _S.SUCCEEDED,
    (_S.RUNNING, ev.RankEnded): _S.RUNNING,
    (_S.RUNNING, ev.StopRequested): _S.STOPPING,
    (_S.RUNNING, ev.JobSucceeded): _S.SUCCEEDED,
    (_S.RUNNING, ev.ChaosInjected): _S.RUNNING,
    (_S.STOPPING, ev.StopRequested): _S.STOPPING,
    (_S.STOPPING, ev.RankEnded): _S.STOPPING,
    (_S.STOPPING, ev.JobRequeued): _S.QUEUED,
    (_S.STOPPING, ev.JobFailed): _S.FAILED,
    (_S.STOPPING, ev.JobCancelled): _S.CANCELLED,
    # Asked to stop, but every rank had already finished: the work is done.
    (_S.STOPPING, ev.JobSucceeded): _S.SUCCEEDED,
}


def next_state(job: Job, event: ev.Event) -> JobState:
    """Return the state that `event` takes `job` to.

    Raises:
        InvalidTransition: if the table has no such row.
    """
    try:
        return TRANSITIONS[job.state, type(event)]
    except KeyError:
        raise InvalidTransition(
            f"{type(event).__name__} can't happen to job {job.id}, which is {job.state}."
        ) from None


def evolve(world: World, event: ev.Event) -> World:
    """Return the world after `event`, with the ledger and the health of hosts.

    Pure; raises before any change.

    Raises:
        InvalidTransition: the event doesn't fit the state it meets.
        StaleEpoch: the event speaks of an attempt that is not the current one.
    """
    return observe(world, charge(world, _evolve(world, event), event), event)


def _evolve(world: World, event: ev.Event) -> World:
    match event:
        case ev.ClusterCreated():
            return replace(world, cluster_id=event.cluster_id)
        case ev.PolicyChanged():
            return replace(world, policy=event.policy)
        case ev.CapacityChanged():
            return world
        case ev.RunCreated():
            return _run_created(world, event)
        case ev.JobSubmitted():
            return _job_submitted(world, event)
        case ev.CheckpointCommitted():
            return _checkpoint_committed(world, event)
        case ev.CheckpointImported():
            return _checkpoint_imported(world, event)
        case ev.PriorityInherited():
            job = world.open.get(event.job)
            if job is None:
                raise InvalidTransition(f"There is no unfinished job {event.job}.")
            return _with_job(world, replace(job, inherited=event.priority))
        case ev.StopProposed() | ev.ProposalWithdrawn():
            job = world.open.get(event.job)
            if job is None:
                raise InvalidTransition(f"There is no unfinished job {event.job}.")
            return _with_job(world, proposed(job, event))
        case ev.InputLost() | ev.InputDeclared():
            job = world.open.get(event.job)
            if job is None:
                raise InvalidTransition(f"There is no unfinished job {event.job}.")
            return _with_job(world, _input_event(world, job, event))
        case ev.JournalSalvaged():
            runs = {n: replace(r, epoch=r.epoch + FORGOTTEN) for n, r in world.runs.items()}
            return replace(world, runs=runs, salvaged=event)
        case ev.CheckpointsFound():
            return _checkpoints_found(world, event)
        case ev.HeadMoved():
            run = _run(world, event.run)
            if event.head is not None:
                _known_checkpoint(world, event.head)
            world = _with_run(world, replace(run, head=event.head))
            return pointed(world, run.name, event.head)
        case ev.CheckpointTagged():
            run = _run(world, event.run)
            _known_checkpoint(world, event.checkpoint)
            tags = _put(run.tags, event.tag, event.checkpoint)
            return pointed(_with_run(world, replace(run, tags=tags)), run.name, event.checkpoint)
        case ev.CheckpointsDropped():
            return _checkpoints_dropped(world, event)
        case _:
            return _job_event(world, event)


def replay(history: Iterable[ev.Event]) -> World:
    """Fold a journal into the world it describes."""
    world = World()
    for event in history:
        world = evolve(world, event)
    return world


def _put(mapping: object, key: _K, value: _V) -> dict[_K, _V]:
    return {**mapping, key: value}  # type: ignore[dict-item]


def _with_run(world: World, run: Run) -> World:
    return replace(world, runs={**world.runs, run.name: run})


def _with_job(world: World, job: Job) -> World:
    still_open = {**world.open, job.id: job}
    if job.state.final:
        del still_open[job.id]
    return replace(world, jobs={**world.jobs, job.id: job}, open=still_open)


def _run(world: World, name: str) -> Run:
    if name not in world.runs:
        raise InvalidTransition(f"There is no run {name}.")
    return world.runs[name]


def _known_checkpoint(world: World, identity: str) -> None:
    run = world.runs.get(identity.partition("/")[0])
    if run is None or identity not in run.checkpoints:
        raise InvalidTransition(f"There is no checkpoint {identity}.")


def _run_created(world: World, event: ev.RunCreated) -> World:
    if event.run in world.runs:
        raise InvalidTransition(f"Run {event.run} exists already.")
    if event.forked_from is not None:
        _known_checkpoint(world, event.forked_from)
    run = Run(
        name=event.run,
        created_at=event.at,
        head=event.forked_from,
        forked_from=event.forked_from,
        user=event.user,
        epoch=0 if world.salvaged is None else FORGOTTEN,
    )
    return pointed(_with_run(world, run), run.name, event.forked_from)


def _job_submitted(world: World, event: ev.JobSubmitted) -> World:
    run = _run(world, event.run)
    if event.job in world.jobs:
        raise InvalidTransition(f"Job {event.job} exists already.")
    if world.active_job(event.run) is not None:
        raise InvalidTransition(f"Run {event.run} has an unfinished job.")
    job = Job(
        id=event.job,
        run=event.run,
        number=event.number,
        spec=event.spec,
        state=JobState.QUEUED,
        submitted_at=event.at,
        queued_at=event.at,
        request_id=event.request_id,
        asked=event.asked,
        message=event.message,
        remedy=event.remedy or Remedy(),
    )
    return _with_run(_with_job(world, job), replace(run, jobs=(*run.jobs, event.job)))


def _checkpoint_committed(world: World, event: ev.CheckpointCommitted) -> World:
    """Add the checkpoint and move the head to it: a compare-and-swap on epoch and parent."""
    new = event.checkpoint
    run, job = _run(world, new.run), world.jobs.get(new.job)
    if job is None or job.epoch != new.epoch or not job.state.holds_gang:
        raise StaleEpoch(
            f"Checkpoint {new.id} was written by attempt {new.epoch} of {new.job}, "
            "which is no longer the current one."
        )
    if job.run != new.run or new.id != checkpoint_id(new.run, new.step, new.epoch):
        raise InvalidTransition(f"{new.id} is no checkpoint of {new.job} at step {new.step}.")
    if new.id in run.checkpoints:
        raise InvalidTransition(f"Checkpoint {new.id} is committed already.")
    if new.parent != run.head:
        raise StaleEpoch(f"Checkpoint {new.id} follows {new.parent}, but the head is {run.head}.")
    tags = _put(run.tags, event.tag, new.id) if event.tag else run.tags
    checkpoints = _put(run.checkpoints, new.id, new)
    return _with_run(world, replace(run, checkpoints=checkpoints, head=new.id, tags=tags))


def _checkpoint_imported(world: World, event: ev.CheckpointImported) -> World:
    """Begin a run with the checkpoint; attempts of its jobs have later epochs."""
    new, run = event.checkpoint, _run(world, event.checkpoint.run)
    if run.jobs or run.checkpoints or run.head is not None:
        raise InvalidTransition(f"Run {run.name} has begun already: it can't begin with {new.id}.")
    if new.job or new.parent is not None or new.epoch <= run.epoch:
        raise InvalidTransition(f"{new.id} is a job's checkpoint, or has a parent.")
    if split_checkpoint(new.id) != (new.run, new.step, new.epoch):
        raise InvalidTransition(f"{new.id} is no checkpoint of {new.run} at step {new.step}.")
    return _with_run(world, replace(run, epoch=new.epoch, checkpoints={new.id: new}, head=new.id))


def _checkpoints_found(world: World, event: ev.CheckpointsFound) -> World:
    run = _run(world, event.run)
    known = dict(run.checkpoints)
    for new in event.checkpoints:
        if new.id in known or split_checkpoint(new.id) != (run.name, new.step, new.epoch):
            raise InvalidTransition(f"{new.id} can't have been found in run {run.name}.")
        known[new.id] = new
    epoch = max([run.epoch, *(new.epoch for new in event.checkpoints)])
    world = _with_run(world, replace(run, checkpoints=known, epoch=epoch, head=event.head))
    for identity in (event.head, *(new.parent for new in event.checkpoints)):
        if identity is not None:
            _known_checkpoint(world, identity)
            world = pointed(world, run.name, identity)
    return world


def _input_event(world: World, job: Job, event: ev.InputLost | ev.InputDeclared) -> Job:
    if isinstance(event, ev.InputLost):
        if job.state is not JobState.QUEUED:
            raise InvalidTransition(f"{job.id} is {job.state}: it can't wait for {event.rerun}.")
        producer, rerun = (world.jobs.get(name) for name in (event.producer, event.rerun))
        if producer is None or rerun is None or producer.run != rerun.run:
            raise InvalidTransition(f"{event.rerun} can't make again what {event.producer} made.")
        return inputs.lose(job, producer, event)
    return replace(job, reads=_put(job.reads, event.name, Read(event.place, event.host)))


def _checkpoints_dropped(world: World, event: ev.CheckpointsDropped) -> World:
    run, gone = _run(world, event.run), set(event.checkpoints)
    if unknown := sorted(gone - run.checkpoints.keys()):
        raise InvalidTransition(f"There is no checkpoint {unknown[0]} of run {run.name}.")
    for other in pointing(world, run):
        for identity, roles in targets(other).items():
            if identity in gone:
                raise InvalidTransition(f"Run {other.name} needs {identity} as its {roles[0]}.")
    return without(world, run, gone)


def _job_event(world: World, event: ev.Event) -> World:
    job = world.jobs.get(getattr(event, "job", ""))
    if job is None:
        raise InvalidTransition(f"{type(event).__name__} names no known job.")
    state = next_state(job, event)
    epoch = getattr(event, "epoch", job.epoch)
    if isinstance(event, ev.GangReserved):
        return _gang_reserved(world, job, event)
    if epoch != job.epoch:
        raise StaleEpoch(f"Attempt {epoch} of {job.id} is not the current one ({job.epoch}).")
    if isinstance(event, ev.RankEnded):
        _check_end(job, event.end.rank)
    world = _with_job(world, replace(_apply(job, event), state=state))
    if isinstance(event, ev.StopRequested) and event.by in world.open:
        world = _with_job(world, replace(world.open[event.by], promised=True))
    return world


def _check_end(job: Job, rank: int) -> None:
    """Each rank of the gang ends once: the first account stands."""
    if not 0 <= rank < job.ranks or rank in job.ends:
        raise InvalidTransition(f"Rank {rank} of {job.id} can't end (again).")


def _gang_reserved(world: World, job: Job, event: ev.GangReserved) -> World:
    run = world.runs[job.run]
    if event.epoch <= run.epoch:
        raise StaleEpoch(f"Epoch {event.epoch} of run {run.name} is not after {run.epoch}.")
    spec, workers = job.spec, event.workers or job.spec.workers
    if not spec.workers <= workers <= max(spec.workers, spec.max_workers):
        raise InvalidTransition(f"{job.id} can't have {workers} workers.")
    ranks = [r for s in event.placement for r in range(s.first, s.first + s.count)]
    if sorted(ranks) != list(range(spec.ranks(workers))):
        raise InvalidTransition(f"{job.id} has {spec.ranks(workers)} ranks, not {len(ranks)}.")
    job = replace(
        job,
        state=JobState.STARTING,
        epoch=event.epoch,
        attempts=job.attempts + 1,
        placement=event.placement,
        granted=workers,
        claim=0,
        promised=False,
        restarted=False,
        started_at=event.at,
        ends={},
        stop=None,
        stop_by="",
        stopping_since=None,
        hung=(),
        message="",
    )
    return _with_run(_with_job(world, job), replace(run, epoch=event.epoch))


def _apply(job: Job, event: ev.Event) -> Job:
    """Return the job's other fields after an event whose transition is allowed."""
    match event:
        case ev.GangStarted():
            return _runs_again(job, event.at)
        case ev.RankEnded():
            return replace(job, ends=_put(job.ends, event.end.rank, event.end))
        case ev.StopRequested():
            return _stop_requested(job, event)
        case ev.JobRequeued():
            return _requeued(job, event)
        case ev.RetryRequested():
            return _retried(job, event)
        case ev.JobSucceeded():
            return replace(_released(job, event.at), returned=event.returned, ended_at=event.at)
        case ev.JobFailed():
            return replace(
                _released(job, event.at),
                failures=(*job.failures, event.failure),
                ended_at=event.at,
                message=event.failure.message,
            )
        case ev.JobCancelled():
            return replace(_released(job, event.at), ended_at=event.at, message=event.message)
        case ev.ChaosInjected():
            return replace(job, chaos=(*job.chaos, event.injected)[-MOST_CHAOS:])
    return job


def _stop_requested(job: Job, event: ev.StopRequested) -> Job:
    """A person's cancel outranks what was under way; nothing outranks a cancel.

    Whoever it was to leave for still gets what it frees.
    """
    if job.stop is StopReason.CANCEL:
        return replace(job, message=event.message)
    return replace(
        job,
        stop=event.reason,
        stop_by=event.by or job.stop_by,
        claim=event.workers,
        message=event.message,
        hung=event.hung or job.hung,
        remedy=_avoiding(job, event.avoid),
        stopping_since=event.at if job.stopping_since is None else job.stopping_since,
    )


def _avoiding(job: Job, host: str) -> Remedy:
    avoid = dict.fromkeys((*job.remedy.avoid, host)) if host else job.remedy.avoid
    return replace(job.remedy, avoid=tuple(avoid))


def _requeued(job: Job, event: ev.JobRequeued) -> Job:
    """Back to the queue. Who left for a person or a failure comes back before others start."""
    at_once = job.stop in (StopReason.FAILURE, StopReason.RESTART)
    keeps = at_once and event.not_before <= event.at and not job.stop_by
    stays = job.stop in (StopReason.RESIZE, StopReason.MOVE)
    return replace(
        _released(job, event.at),
        failures=(*job.failures, event.failure) if event.failure else job.failures,
        not_before=event.not_before,
        queued_at=event.at,
        ended_at=None,
        message=event.message,
        claim=job.granted if keeps else job.claim if stays else 0,
        preempted=job.preempted + (job.stop is StopReason.PREEMPT),
        restarted=job.stop is StopReason.RESTART,
        remedy=job.remedy if event.remedy is None else event.remedy,
    )


def _runs_again(job: Job, at: float) -> Job:
    """Note how long the last failure kept a job from running."""
    if not job.failures or job.failures[-1].down_s:
        return job
    last = job.failures[-1]
    last = replace(last, down_s=max(0.0, at - last.at))
    return replace(job, failures=(*job.failures[:-1], last))


def _retried(job: Job, event: ev.RetryRequested) -> Job:
    """No pause any more; what a person asks for replaces what was decided."""
    spec, remedy = job.spec, job.remedy
    if event.memory:
        spec = replace(spec, needs=replace(spec.needs, memory=event.memory))
        remedy = replace(remedy, memory=0)
    if event.on_nan is not None:
        spec = replace(spec, on_nan=event.on_nan)
    message = f"{event.by} has it start now." if event.by else job.message
    return replace(job, spec=spec, remedy=remedy, not_before=0.0, message=message)


def _released(job: Job, at: float) -> Job:
    """The gang's slots are free; what it held is added up."""
    began = job.started_at if job.started_at is not None else at
    held = job.slots * max(0.0, at - began)
    return replace(
        job, placement=(), granted=0, stop=None, stop_by="", attained=job.attained + held
    )
