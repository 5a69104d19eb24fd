"""What happened, as frozen facts. The journal is a sequence of these and nothing else.

Event names are past tense. An event carries all that `lifecycle.evolve` needs, so that a
replay needs no clock and no other source.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient_nb.core.model import (
    Checkpoint,
    Failure,
    Futile,
    Injected,
    JobSpec,
    OnNan,
    Placement,
    Priority,
    RankEnd,
    Remedy,
    StopReason,
)
from resilient_nb.core.policy import Policy


@dataclass(frozen=True)
class Event:
    """Base class. `at` is the control plane's clock when it decided."""

    at: float


@dataclass(frozen=True)
class ClusterCreated(Event):
    cluster_id: str


@dataclass(frozen=True)
class RunCreated(Event):
    """`user` is "" in journals of before there were users: then the first job's is meant."""

    run: str
    forked_from: str | None = None
    user: str = ""


@dataclass(frozen=True)
class JobSubmitted(Event):
    """`asked` is the priority that was asked for, if the policy's limits lowered it.

    With a `remedy` its attempts do something differently, since an earlier job failed.
    """

    job: str
    run: str
    number: int
    request_id: str
    spec: JobSpec
    asked: Priority | None = None
    message: str = ""
    remedy: Remedy | None = None


@dataclass(frozen=True)
class PriorityInherited(Event):
    """More urgent jobs wait for this one (None: no longer): it is charged at their priority."""

    job: str
    priority: Priority | None = None


@dataclass(frozen=True)
class GangReserved(Event):
    """`workers` is 0 in journals of before there were elastic gangs: then it is the spec's."""

    job: str
    epoch: int
    placement: Placement
    workers: int = 0


@dataclass(frozen=True)
class GangStarted(Event):
    job: str
    epoch: int


@dataclass(frozen=True)
class StopRequested(Event):
    """`by` is the job that gets the slots; `workers` the size to go on with after a resize.

    `hung` are ranks that hang, and `avoid` is a host that the job had better not be on again.
    """

    job: str
    reason: StopReason
    message: str = ""
    by: str = ""
    workers: int = 0
    hung: tuple[int, ...] = ()
    avoid: str = ""


@dataclass(frozen=True)
class StopProposed(Event):
    """There is little sense in going on with a job."""

    job: str
    why: Futile
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProposalWithdrawn(Event):
    """It doesn't hold any more."""

    job: str
    why: Futile


@dataclass(frozen=True)
class RankEnded(Event):
    job: str
    epoch: int
    end: RankEnd


@dataclass(frozen=True)
class JobRequeued(Event):
    """The attempt ended and another will follow. `failure` is None after a vacate.

    With a `remedy` the next attempts do something differently.
    """

    job: str
    epoch: int
    failure: Failure | None = None
    not_before: float = 0.0
    message: str = ""
    remedy: Remedy | None = None


@dataclass(frozen=True)
class RetryRequested(Event):
    """A person has a job that failed start at once, not after its pause.

    With `memory` (bytes for each worker) or `on_nan` it does so differently.
    """

    job: str
    by: str = ""
    memory: int = 0
    on_nan: OnNan | None = None


@dataclass(frozen=True)
class InputDeclared(Event):
    """The cell says that it reads this: a path or URL, seen by rank 0 on a host."""

    job: str
    name: str
    place: str
    host: str = ""


@dataclass(frozen=True)
class InputLost(Event):
    """What `producer` returned is gone, and `job` needs it: it waits for `rerun` first."""

    job: str
    producer: str
    rerun: str


@dataclass(frozen=True)
class JobSucceeded(Event):
    job: str
    epoch: int
    returned: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobFailed(Event):
    job: str
    epoch: int
    failure: Failure


@dataclass(frozen=True)
class JobCancelled(Event):
    job: str
    message: str = ""


@dataclass(frozen=True)
class CheckpointCommitted(Event):
    checkpoint: Checkpoint
    tag: str | None = None


@dataclass(frozen=True)
class CheckpointImported(Event):
    """A run that is new begins with a checkpoint that no job has written: its `job` is ""."""

    checkpoint: Checkpoint


@dataclass(frozen=True)
class HeadMoved(Event):
    run: str
    head: str | None
    by: str = ""


@dataclass(frozen=True)
class CheckpointTagged(Event):
    run: str
    checkpoint: str
    tag: str


@dataclass(frozen=True)
class CheckpointsDropped(Event):
    """These checkpoints of a run are no more; what only they held is swept from the store."""

    run: str
    checkpoints: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class JournalSalvaged(Event):
    """The journal was damaged: what came after the events before this one is lost.

    `text` says so to people.
    """

    text: str


@dataclass(frozen=True)
class CheckpointsFound(Event):
    """Checkpoints that the journal had forgotten, and the run's head since then.

    Attempts of the run have later epochs than any of them.
    """

    run: str
    checkpoints: tuple[Checkpoint, ...]
    head: str | None = None


@dataclass(frozen=True)
class PolicyChanged(Event):
    policy: Policy


@dataclass(frozen=True)
class CapacityChanged(Event):
    """The slots of all hosts together: shares are shares of it."""

    slots: int


@dataclass(frozen=True)
class ChaosInjected(Event):
    """A running job's owner breaks something of it on purpose."""

    job: str
    epoch: int
    injected: Injected


def job_of(event: Event) -> str:
    """Return the job that an event is about, "" if none."""
    if isinstance(event, CheckpointCommitted):
        return event.checkpoint.job
    return getattr(event, "job", "")


EVENTS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        ClusterCreated,
        RunCreated,
        JobSubmitted,
        PriorityInherited,
        GangReserved,
        GangStarted,
        StopRequested,
        StopProposed,
        ProposalWithdrawn,
        RankEnded,
        JobRequeued,
        RetryRequested,
        InputDeclared,
        InputLost,
        JobSucceeded,
        JobFailed,
        JobCancelled,
        CheckpointCommitted,
        CheckpointImported,
        HeadMoved,
        CheckpointTagged,
        CheckpointsDropped,
        JournalSalvaged,
        CheckpointsFound,
        PolicyChanged,
        CapacityChanged,
        ChaosInjected,
    )
}
