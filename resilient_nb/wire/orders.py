"""Control to ranks and back: orders go down, facts and samples come up.

Orders pass control → agent → supervisor (→ rank). Facts are reliable: the supervisor keeps
each until control has it in the journal, so a fact may arrive twice and is made idempotent by
its identity. Samples are lossy: only the newest matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from resilient_nb.core.interval import PRESUMED
from resilient_nb.core.model import (
    Cadence,
    Cell,
    Checkpoint,
    Injection,
    Interval,
    OnNan,
    RankEnd,
    Resources,
    Scaling,
)
from resilient_nb.wire.codec import Registry

#: Metric points of a rank that wait for somebody to take them; of more, the oldest are dropped.
MOST_POINTS = 10_000

# --- down -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """Bind the rendezvous socket for an attempt; answered by the fact `Prepared`."""

    job: str
    epoch: int


@dataclass(frozen=True)
class Input:
    """Names that a cell gets from what another job returned."""

    run: str
    number: int
    names: tuple[str, ...]


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
    memory_limit: int = 0  # bytes that each rank may have; 0: no limit
    on_nan: OnNan = OnNan.IGNORE
    spike: float = 0.0
    skip: tuple[int, ...] = ()  # steps that are counted, but not made
    lr_scale: float = 1.0
    inputs: tuple[Input, ...] = ()
    trace: str = ""  # traceparent of the attempt's span, if spans are sent

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
    """End the attempt's ranks on this host at once.

    If some of the gang hang, it is first noted where all ranks' threads are. `why` says what
    shows that `hung` do.
    """

    job: str
    epoch: int
    hung: tuple[int, ...] = ()
    why: str = ""


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
class Chaos:
    """Break something of a rank on this host for so many seconds; its owner asked for it.

    It ends by itself: nobody needs to be there. `path` is the folder of the checkpoint to damage.
    """

    job: str
    epoch: int
    id: str
    what: Injection
    rank: int
    seconds: float = 0.0
    path: str = ""


@dataclass(frozen=True)
class Shutdown:
    """End all ranks and the supervisor."""


ORDERS = Registry(
    Prepare, Launch, Leave, Kill, Committed, Acknowledge, Shelve, PutBack, Chaos, Shutdown
)

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

    What was written of it may be removed at once, unless it is tried `again`. `errno` is 0 if it
    was no error of the system.
    """

    job: str
    epoch: int
    step: int
    errno: int
    text: str
    again: bool = False


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


@dataclass(frozen=True)
class Reads:
    """The cell declares that it reads this: a path or URL that rank 0 has seen."""

    job: str
    epoch: int
    name: str
    place: str


FACTS = Registry(Prepared, RankStarted, CheckpointWritten, CheckpointFailed, RankDone, Note, Reads)


class Sample(NamedTuple):
    """A rank's last quarter of a second. `points` are (step, {metric: value}).

    A tuple, since a large gang sends thousands a second: without names they are half as long, and
    read in a fifth of the time.

    Attributes:
        cadence: rank 0's, once an interval of `auto` is known.
        looping: it is in a loop of `run`, between whose steps it isn't idle for long.
        phase: what the loop does now: starting, data, compute, wait (for other ranks),
            checkpoint or ended.
        phase_s: for how many seconds it has.
        silent_s: seconds since the rank itself last said anything.
        stopped: its process is stopped (SIGSTOP), and does nothing at all.
        idle_s: for how many seconds its processes have used no CPU, though they could.
        steps: steps made since the sample before, of which the next are the sums.
        items: samples of data, of all ranks, as far as they are counted.
        data_s, compute_s, wait_s, checkpoint_s: seconds of these steps, by phase.
        longest_s: the longest of them.
        peak_rss, limit: of memory, in bytes.
        read, written: bytes that the process has read and written so far.
        missing: names of data that the cell declared and that can't be read now.
        gpu: the part of the time in which its GPU computes, if it has one that tells.
        gpu_memory: bytes that it has reserved there.
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
    looping: bool = False
    phase: str = "starting"
    phase_s: float = 0.0
    silent_s: float = 0.0
    stopped: bool = False
    idle_s: float = 0.0
    steps: int = 0
    items: int = 0
    data_s: float = 0.0
    compute_s: float = 0.0
    wait_s: float = 0.0
    checkpoint_s: float = 0.0
    longest_s: float = 0.0
    peak_rss: int = 0
    limit: int = 0
    read: int = 0
    written: int = 0
    missing: tuple[str, ...] = ()
    gpu: float | None = None
    gpu_memory: int = 0

    def after(self, earlier: Sample | None) -> Sample:
        """Return this with what is new in an earlier one that was not passed on."""
        if earlier is None:
            return self
        return self._replace(
            points=(*earlier.points, *self.points)[-MOST_POINTS:],
            steps=earlier.steps + self.steps,
            items=earlier.items + self.items,
            data_s=earlier.data_s + self.data_s,
            compute_s=earlier.compute_s + self.compute_s,
            wait_s=earlier.wait_s + self.wait_s,
            checkpoint_s=earlier.checkpoint_s + self.checkpoint_s,
            longest_s=max(earlier.longest_s, self.longest_s),
        )

    def passed_on(self) -> Sample:
        """Return how things stand, without what is new: that was passed on."""
        return self._replace(
            points=(),
            steps=0,
            items=0,
            data_s=0.0,
            compute_s=0.0,
            wait_s=0.0,
            checkpoint_s=0.0,
            longest_s=0.0,
        )


class RankRow(NamedTuple):
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
    disk_free: int | None = None  # and of that with the host's own files
    round_trip: float = 0.0  # seconds that the last report took to be answered
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
