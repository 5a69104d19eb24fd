"""`chaos`: break something of a running job, for its own user and nobody else."""

from __future__ import annotations

from resilient_nb.control.engine import Engine
from resilient_nb.control.hosts import ranks_of
from resilient_nb.core import events as ev
from resilient_nb.core.chaos import LASTS, LONGEST
from resilient_nb.core.model import Injected, Injection, Job, JobState
from resilient_nb.core.places import is_url, sub_folder
from resilient_nb.errors import InvalidRequest, NotAllowed
from resilient_nb.wire.orders import Chaos
from resilient_nb.wire.requests import Inject


def inject(engine: Engine, job: Job, request: Inject, user: str) -> Injected:
    """Note what is to be broken in the journal, and have it broken where the rank is.

    Raises:
        NotAllowed: it is another user's job; administrators may not either.
        InvalidRequest: it doesn't run, or has nothing of the kind that could be broken.
    """
    _check_owner(engine, job, user)
    for known in job.chaos:
        if known.id == request.id:
            return known  # a repeated request: it was done
    host = _host(job, request)
    seconds = LASTS[request.what] if request.seconds is None else request.seconds
    if not 0 <= seconds <= LONGEST:
        raise InvalidRequest(f"Chaos lasts at most an hour, not {seconds:g} s.")
    checkpoint = _damageable(engine, job) if request.what is Injection.CORRUPT_CHUNK else ""
    if request.what is Injection.FILL_DISK and is_url(engine.settings.store):
        raise InvalidRequest(f"The store is a bucket ({engine.settings.store}): it can't be full.")
    if engine.hosts.agent_for(host) is None:
        raise InvalidRequest(f"{host} has no Dask worker at the moment; try again soon.")
    now = engine.now()
    injected = Injected(
        request.id, request.what, job.epoch, request.rank, host, now, seconds, user, checkpoint
    )
    engine.record(ev.ChaosInjected(now, job.id, job.epoch, injected))
    path = str(sub_folder(engine.settings.runs, checkpoint)) if checkpoint else ""
    engine.send(
        host,
        Chaos(job.id, job.epoch, request.id, request.what, request.rank, seconds, path),
    )
    return injected


def _check_owner(engine: Engine, job: Job, user: str) -> None:
    owner = engine.world.runs[job.run].user or job.spec.user
    if owner not in ("", user):
        raise NotAllowed(
            f"Job {job.id} is {owner}'s, and you are {user}: chaos is for your own jobs only."
        )


def _host(job: Job, request: Inject) -> str:
    """Return where the rank is."""
    if job.state is not JobState.RUNNING:
        raise InvalidRequest(f"Job {job.id} {job.state.said}: chaos is for jobs that run.")
    hosts = {rank: host for host, rank in ranks_of(job.placement)}
    if request.rank not in hosts:
        raise InvalidRequest(
            f"--rank {request.rank}: job {job.id} has the ranks 0 to {len(hosts) - 1}."
        )
    if request.what is Injection.DROP_NETWORK and len(hosts) == 1:
        raise InvalidRequest(f"Job {job.id} has one rank: it has no connections that could be cut.")
    return hosts[request.rank]


def _damageable(engine: Engine, job: Job) -> str:
    """Return the head, if there is a checkpoint before it to go on from."""
    run = engine.world.runs[job.run]
    head = run.checkpoints.get(run.head or "")
    if head is None or head.parent is None:
        raise InvalidRequest(
            f"Run {run.name} has no two checkpoints yet: the only one isn't damaged on purpose."
        )
    if is_url(engine.settings.store):
        raise InvalidRequest(
            f"The store is a bucket ({engine.settings.store}): chunks can only be damaged in a "
            "folder."
        )
    return head.id
