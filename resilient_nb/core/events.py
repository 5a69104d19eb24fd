"""What happened, as frozen facts. The journal is a sequence of these and nothing else.

Event names are past tense. An event carries all that `lifecycle.evolve` needs, so that a
replay needs no clock and no other source.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient_nb.core.model import (
    Checkpoint,
    Failure,
    JobSpec,
    Placement,
    Priority,
    RankEnd,
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
    """`asked` is the priority that was asked for, if the policy's limits lowered it."""

    job: str
    run: str
    number: int
    request_id: str
    spec: JobSpec
    asked: Priority | None = None
    message: str = ""


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
    """`by` is the job that gets the slots; `workers` the size to go on with after a resize."""

    job: str
    reason: StopReason
    message: str = ""
    by: str = ""
    workers: int = 0


@dataclass(frozen=True)
class RankEnded(Event):
    job: str
    epoch: int
    end: RankEnd


@dataclass(frozen=True)
class JobRequeued(Event):
    """The attempt ended and another will follow. `failure` is None after a vacate."""

    job: str
    epoch: int
    failure: Failure | None = None
    not_before: float = 0.0
    message: str = ""


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
class PolicyChanged(Event):
    policy: Policy


@dataclass(frozen=True)
class CapacityChanged(Event):
    """The slots of all hosts together: shares are shares of it."""

    slots: int


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
        RankEnded,
        JobRequeued,
        JobSucceeded,
        JobFailed,
        JobCancelled,
        CheckpointCommitted,
        CheckpointImported,
        HeadMoved,
        CheckpointTagged,
        CheckpointsDropped,
        PolicyChanged,
        CapacityChanged,
    )
}
