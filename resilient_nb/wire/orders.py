"""Control to ranks and back: orders go down, facts and samples come up.

Orders pass control → agent → supervisor (→ rank). Facts are reliable: the supervisor keeps
each until control has it in the journal, so a fact may arrive twice and is made idempotent by
its identity. Samples are lossy: only the newest matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from resilient_nb.core.interval import PRESUMED
from resilient_nb.core.model import (
    Cadence,
    Cell,
    Checkpoint,
    Interval,
    RankEnd,
    Resources,
    Scaling,
)
from resilient_nb.wire.codec import Registry

# --- down -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """Bind the rendezvous socket for an attempt; answered by the fact `Prepared`."""

    job: str
    epoch: int


@dataclass(frozen=True)
class Attempt:
    """All that the ranks of one attempt share.

    `start` is the path of the checkpoint to go on from, `start_id` its identity (the parent of
    the first checkpoint written). `store` is the store's root.
    """

    job: str
    run: str
    number: int
    epoch: int
    world_size: int
    cell: Cell
    interval: Interval
    seed: int
    out: tuple[str, ...]
    captured: str | None
    store: str
    start: str | None
    start_id: str | None
    start_step: int
    rendezvous: str = ""  # host:port of rank 0's store
    one_host: bool = True
    workers: int = 0  # granted; 0 in older messages: as many as there are ranks
    scaling: Scaling = Scaling.NONE
    base_workers: int = 0  # the fewest that the job runs on
    elastic: bool = False  # the number of workers may be another in the next attempt
    compress: str = ""  # how checkpoints are compressed: "" or zstd, zstd:LEVEL
    mtbf: float = PRESUMED  # mean time between failures of the gang, in seconds
    replicas: tuple[str, ...] = ()  # where what the store has lost may be read
    memory_copies: int = 0  # hosts that have the newest checkpoint in memory, beside the gang's

    @property
    def granted(self) -> int:
        """Workers that the gang holds."""
        return self.workers or self.world_size

    @property
    def virtual(self) -> bool:
        """Whether ranks share workers if there are few, so that the numbers stay the same."""
        return self.elastic and self.scaling is Scaling.NONE


@dataclass(frozen=True)
class Launch:
    """Fork ranks `first` .. `first + count - 1` of an attempt on this host.

    They share `slots` of its slots (0 in older messages: one each).
    """

    attempt: Attempt
    first: int
    count: int
    slots: int = 0


@dataclass(frozen=True)
class Leave:
    """Checkpoint at the next step that all ranks agree on, then leave; killed after `grace` s."""

    job: str
    epoch: int
    grace: float


@dataclass(frozen=True)
class Kill:
    """End the attempt's ranks on this host at once."""

    job: str
    epoch: int


@dataclass(frozen=True)
class Committed:
    """The journal has the checkpoint (or refused it: then `accepted` is False)."""

    job: str
    epoch: int
    step: int
    accepted: bool = True


@dataclass(frozen=True)
class Acknowledge:
    """These facts are in the journal: the supervisor may forget them."""

    facts: tuple[str, ...]


@dataclass(frozen=True)
class Shelve:
    """Have a committed checkpoint in this host's memory. The agent does it, no supervisor.

    `sources` are the addresses of other hosts' agents that may have it, or parts of it. `awaited`:
    ranks that are about to start here go on from it, and wait for it a little.
    """

    checkpoint: str
    sources: tuple[str, ...] = ()
    awaited: bool = False


@dataclass(frozen=True)
class PutBack:
    """The store has lost a checkpoint that this host has in memory: write it there again."""

    checkpoint: str


@dataclass(frozen=True)
class Shutdown:
    """End all ranks and the supervisor."""


ORDERS = Registry(Prepare, Launch, Leave, Kill, Committed, Acknowledge, Shelve, PutBack, Shutdown)

# --- up ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    job: str
    epoch: int
    port: int


@dataclass(frozen=True)
class RankStarted:
    job: str
    epoch: int
    rank: int
    pid: int


@dataclass(frozen=True)
class CheckpointWritten:
    """All parts and the manifest are durable; the journal's commit makes it a checkpoint."""

    checkpoint: Checkpoint
    tag: str | None = None


@dataclass(frozen=True)
class CheckpointFailed:
    """A rank gave up writing a checkpoint: none of this step will follow in this attempt.

    What was written of it may be removed at once. `errno` is 0 if it was no error of the system.
    """

    job: str
    epoch: int
    step: int
    errno: int
    text: str


@dataclass(frozen=True)
class RankDone:
    """How a rank ended. When rank 0 has finished, the values for `--out` are in the store."""

    job: str
    epoch: int
    end: RankEnd


@dataclass(frozen=True)
class Note:
    """A line for the user: what was found to track, a checkpoint that failed, a warning."""

    job: str
    epoch: int
    rank: int
    text: str


FACTS = Registry(Prepared, RankStarted, CheckpointWritten, CheckpointFailed, RankDone, Note)


@dataclass(frozen=True)
class Sample:
    """A rank's last quarter of a second. `points` are (step, {metric: value}).

    `cadence` is rank 0's, once an interval of `auto` is known.
    """

    job: str
    epoch: int
    rank: int
    state: str = "running"
    step: int = 0
    total_steps: int | None = None
    rate: float = 0.0
    rss: int = 0
    cpu: float = 0.0
    pid: int = 0
    points: tuple[tuple[int, Mapping[str, float]], ...] = ()
    cadence: Cadence | None = None


@dataclass(frozen=True)
class RankRow:
    """A live rank in a supervisor's table."""

    job: str
    epoch: int
    rank: int
    pid: int


@dataclass(frozen=True)
class LogChunk:
    """Output of a rank from byte `offset` on."""

    job: str
    epoch: int
    rank: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Report:
    """What an agent tells control: at once for facts, else every quarter of a second.

    `ranks` is the host's whole table and only sent by the agent that speaks for the host
    (`speaks`); the others report only their slots.
    """

    agent: str
    host: str
    slots: int
    speaks: bool
    warm: bool = False
    ranks: tuple[RankRow, ...] = ()
    facts: tuple[tuple[str, Mapping[str, object]], ...] = ()  # (id, packed fact)
    samples: tuple[Sample, ...] = ()
    logs: tuple[LogChunk, ...] = ()
    slot: Resources = field(default_factory=Resources)  # what each slot has
    store_free: int | None = None  # free bytes of the store's file system
    shelf: tuple[str, ...] | None = None  # checkpoints in memory; None: there can't be any
    shelf_trouble: Mapping[str, str] = field(default_factory=dict)  # by run


@dataclass(frozen=True)
class Kept:
    """What of a run stays in a host's memory: its head, and what attempt `epoch` is writing.

    `whole`: until the head is there with all it needs, the newest one before that is.
    """

    head: str | None
    epoch: int
    whole: bool


@dataclass(frozen=True)
class ReportReply:
    """`log_sizes` says from where to go on with each log ("job/epoch/rank" to bytes).

    Of runs that `shelf` doesn't name nothing stays in the host's memory.
    """

    acknowledged: tuple[str, ...] = ()
    log_sizes: Mapping[str, int] = field(default_factory=dict)
    shelf: Mapping[str, Kept] = field(default_factory=dict)
