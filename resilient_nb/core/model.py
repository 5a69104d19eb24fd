"""Frozen values that jobs, runs and checkpoints are made of.

Everything here is plain data: it is built by `lifecycle.evolve` from events, read by the
policies (`scheduling`, `recovery`) and shown by `views`. Times are seconds since the Unix
epoch, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Priority(StrEnum):
    """How urgent its user says a job is; the queue orders classes by this."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"

    @property
    def rank(self) -> int:
        """Larger is more urgent."""
        return list(Priority).index(self)


class JobState(StrEnum):
    """Where a job is between submission and its end."""

    QUEUED = "queued"  # holds nothing
    STARTING = "starting"  # holds its whole gang, ranks are being launched
    RUNNING = "running"  # every rank has joined
    STOPPING = "stopping"  # the gang is being taken down; why is in `stop`
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

    @property
    def said(self) -> str:
        """What is said of a job: it is running, has failed, was cancelled."""
        if self is JobState.CANCELLED:
            return "was cancelled"
        return f"has {self}" if self.final else f"is {self}"

    @property
    def holds_gang(self) -> bool:
        return self in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)


class StopReason(StrEnum):
    """Why a gang is taken down."""

    FAILURE = "failure"  # a rank failed; recovery decides when all have ended
    CANCEL = "cancel"  # a person asked for it
    VACATE = "vacate"  # the slots are wanted back; the job returns to the queue
    PREEMPT = "preempt"  # another job gets the slots; the job returns to the queue
    RESIZE = "resize"  # goes on with another number of workers
    RESTART = "restart"  # a person found it stuck: ended at once, goes on from the head
    MOVE = "move"  # one of its ranks is too slow where it is: goes on elsewhere
    ENOUGH = "enough"  # it no longer improves, or can't make it: it ends at a checkpoint

    @property
    def at_once(self) -> bool:
        """Whether ranks are killed, not asked to leave at a checkpoint."""
        return self in (StopReason.FAILURE, StopReason.RESTART)


class Outcome(StrEnum):
    """How one rank of one attempt ended, as its supervisor saw it."""

    FINISHED = "finished"  # ran the whole cell and said so
    LEFT = "left"  # left at a checkpoint because it was asked to
    FAILED = "failed"  # the cell raised
    EXITED = "exited"  # the process ended without a word
    LOST = "lost"  # its host is gone


@dataclass(frozen=True)
class Interval:
    """When to checkpoint: every `steps` steps, every `seconds`, or `auto`; none means never.

    With `auto` it is set from what a checkpoint costs and how often the gang fails (see
    `interval`); checkpoints take at most `overhead` of the time, 0.01 being 1 %.
    """

    steps: int | None = None
    seconds: float | None = None
    auto: bool = False
    overhead: float = 0.01

    @property
    def never(self) -> bool:
        """Whether no checkpoint is due at any time."""
        return self.steps is None and self.seconds is None and not self.auto

    def __str__(self) -> str:
        if self.auto:
            return f"auto (at most {100 * self.overhead:g} %)"
        if self.steps is not None:
            return "1 step" if self.steps == 1 else f"{self.steps} steps"
        return "never" if self.seconds is None else f"{self.seconds:g}s"


@dataclass(frozen=True)
class Cadence:
    """What an interval of `auto` has come to, all in seconds but for `overhead`.

    Checkpoints every `every`, since one costs `cost` of training and a failure is expected after
    `mtbf`; they take at most `overhead` of the time.
    """

    every: float
    cost: float
    mtbf: float
    overhead: float


class Thinning(StrEnum):
    """When checkpoints that a rule doesn't keep are dropped."""

    NEVER = "never"
    FULL = "full"  # when the store has no room for the next one
    ALWAYS = "always"  # with each new one


@dataclass(frozen=True)
class Best:
    """So many checkpoints with the least value of a metric, or the greatest."""

    count: int
    metric: str
    greatest: bool = False

    def __str__(self) -> str:
        return f"{self.count}:{self.metric}" + (":max" if self.greatest else "")


@dataclass(frozen=True)
class Keep:
    """Which checkpoints of a run are kept, besides those that somebody needs (see `retention`).

    `last` are the newest; of `every` steps the first checkpoint is kept (0: of none).
    """

    last: int = 0
    every: int = 0
    best: tuple[Best, ...] = ()
    thinning: Thinning = Thinning.ALWAYS

    def __str__(self) -> str:
        if self in (KEEP_ALL, KEEP_AUTO):
            return "all" if self == KEEP_ALL else "auto"
        parts = [f"last={self.last}"] if self.last else []
        parts += [f"every={self.every}"] if self.every else []
        return ",".join([*parts, *(f"best={best}" for best in self.best)]) or "last=0"


#: All of them, whatever happens; and all of them, until there is no room for the next one.
KEEP_ALL = Keep(thinning=Thinning.NEVER)
KEEP_AUTO = Keep(last=3, best=(Best(1, "loss"),), thinning=Thinning.FULL)


@dataclass(frozen=True)
class Cell:
    """The source of a cell and what its tracebacks need.

    `filename` is what the notebook calls the cell in tracebacks, `sources` maps file names of
    captured helpers to their text, `label` is what a person calls the cell (`In [5]`). Where it is:
    `notebook` is a path below the Jupyter server's root, `cell_id` the cell's in it; "" if unknown.
    """

    source: str
    filename: str = "<cell>"
    label: str = "cell"
    sources: Mapping[str, str] = field(default_factory=dict)
    notebook: str = ""
    cell_id: str = ""


@dataclass(frozen=True)
class Resources:
    """What a worker needs, with all ranks that share it, or what a slot has. 0: any.

    CPU cores, bytes of memory, GPUs.
    """

    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0


class Scaling(StrEnum):
    """What an elastic job keeps when its number of workers changes."""

    NONE = "none"  # the global batch and the data order: the same numbers
    LINEAR = "linear"  # the batch grows with the workers, and the learning rate with it
    SQRT = "sqrt"  # the same, the learning rate with the square root


class OnNan(StrEnum):
    """How a run goes on that diverged, from the last checkpoint before it did."""

    SKIP = "skip"  # without the batch that did it
    LOWER_LR = "lower-lr"  # with half the learning rate
    STOP = "stop"  # not at all
    IGNORE = "ignore"  # nobody looks


class Futile(StrEnum):
    """Why there is little sense in going on with a job."""

    CONVERGED = "converged"  # its metrics no longer improve
    LATE = "late"  # it misses its deadline
    DOMINATED = "dominated"  # its siblings are better by far


class StopPolicy(StrEnum):
    """What becomes of a job that no longer improves, or can't make it."""

    PROPOSE = "propose"  # its user is told
    STOP = "stop"  # it is stopped at a checkpoint


@dataclass(frozen=True)
class Proposal:
    """To stop a job at a checkpoint, since little is to be gained.

    `evidence` has the facts that it follows from, a line each.
    """

    kind: Futile
    evidence: tuple[str, ...]
    at: float


class Injection(StrEnum):
    """What can be broken on purpose, to see whether a job survives it."""

    KILL_RANK = "kill-rank"  # SIGKILL
    KILL_WORKER = "kill-worker"  # SIGKILL of the Dask worker that speaks for its host
    STOP = "stop"  # SIGSTOP, until it is over
    HANG = "hang"  # a thread holds the GIL
    SLOW = "slow"  # it gets a tenth of its time
    DROP_NETWORK = "drop-network"  # its connections are cut
    FILL_DISK = "fill-disk"  # for what it writes, the disk is full
    CORRUPT_CHUNK = "corrupt-chunk"  # a bit of the head is flipped, until it is over


@dataclass(frozen=True)
class Injected:
    """Something that was broken on purpose: `user` wanted it, for so many `seconds`.

    `id` is that of the request. `checkpoint` is the one that was damaged, "" if none was.
    """

    id: str
    kind: Injection
    epoch: int
    rank: int
    host: str
    at: float
    seconds: float = 0.0
    user: str = ""
    checkpoint: str = ""


@dataclass(frozen=True)
class Remedy:
    """What a job's later attempts do differently since earlier ones failed.

    Attributes:
        memory: bytes for each worker, if it needs more than was asked for (0: as asked for).
        avoid: hosts that it isn't put on if there are others.
        skip: steps that are counted, but not made: their batches did harm.
        lr_scale: what learning rates are multiplied by.
    """

    memory: int = 0
    avoid: tuple[str, ...] = ()
    skip: tuple[int, ...] = ()
    lr_scale: float = 1.0


@dataclass(frozen=True)
class JobSpec:
    """Everything that decides what a job computes and what it may use.

    `workers` is the size of the gang, or the least of an elastic one, which uses up to
    `max_workers` (0: a fixed size). `duration` is how long the user says it runs, in seconds.
    """

    cell: Cell
    workers: int = 1
    priority: Priority = Priority.NORMAL
    interval: Interval = Interval(auto=True)
    retries: int = 3
    budgets: Mapping[str, int] = field(default_factory=dict)  # of other failures, as in `case`
    seed: int = 0
    out: tuple[str, ...] = ()
    captured: str | None = None  # digest of the blob that holds the captured names
    captured_names: tuple[str, ...] = ()
    user: str = ""
    max_workers: int = 0
    scaling: Scaling = Scaling.NONE
    needs: Resources = Resources()
    group: str = ""
    admin: bool = False
    after: tuple[str, ...] = ()
    duration: float | None = None
    keep: Keep = KEEP_AUTO
    compress: str = ""
    replicas: tuple[str, ...] = ()  # where second copies of its checkpoints are kept
    memory_copies: int = 0  # hosts that have the newest checkpoint in memory, beside its own
    on_nan: OnNan = OnNan.SKIP
    spike: float = 0.0  # a loss so many times the usual one is a divergence, too; 0: none is
    stop_policy: StopPolicy = StopPolicy.PROPOSE
    deadline: float | None = None  # seconds from its submission
    hang_after: float = 0.0  # seconds of doing nothing that are a hang; 0: the usual ones
    inputs: tuple[str, ...] = ()  # names that it gets from what the jobs in `after` returned
    trace: str = ""  # W3C traceparent of the span that it was submitted in, if there is one

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change."""
        return self.max_workers > self.workers

    def ranks(self, workers: int) -> int:
        """Return how many ranks the gang has when it holds this many workers."""
        if not self.elastic or self.scaling is not Scaling.NONE:
            return workers
        return self.max_workers


@dataclass(frozen=True)
class Frame:
    """One line of a remote traceback, packed where the exception was."""

    filename: str
    lineno: int
    name: str
    line: str


@dataclass(frozen=True)
class RemoteError:
    """An exception of a rank as plain text. `frames` begin at the cell's own line.

    Attributes:
        damaged: the checkpoint that the exception says is damaged, "" if it says nothing of any.
        errno: of an error of the system, else 0.
        lost_input: what the cell was to read and isn't there any more: a job, path or URL.
        metric: what was no longer finite, or far off, if the run diverged.
    """

    type: str
    message: str
    frames: tuple[Frame, ...] = ()
    in_collective: bool = False
    damaged: str = ""
    errno: int = 0
    lost_input: str = ""
    metric: str = ""


@dataclass(frozen=True)
class RankEnd:
    """What is known about the end of one rank. `at` is the supervisor's clock.

    Attributes:
        ordered: we ended it ourselves, and not for what it did.
        vacated_s: how long it took to leave, in seconds from the order on (0: nobody asked).
        peak_rss: the most memory that it and its children had, in bytes.
        limit: the memory that it may have, in bytes; 0: no limit.
        over_limit: it was ended for having more, by the kernel or by us.
        oom_kills: how often the kernel killed for lack of memory on its host meanwhile.
        hang: why it was taken to hang, and ended; "" if it wasn't.
        stacks: where its threads were, if it hung or crashed.
    """

    rank: int
    outcome: Outcome
    at: float
    step: int = 0
    exit_code: int | None = None
    signal: int | None = None
    ordered: bool = False  # we ended it ourselves
    peak_rss: int = 0
    host: str = ""
    error: RemoteError | None = None
    vacated_s: float = 0.0
    limit: int = 0
    over_limit: bool = False
    oom_kills: int = 0
    hang: str = ""
    stacks: str = ""


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended badly and what was decided, in words a user reads.

    Attributes:
        decision: retry, or stop.
        host: where the rank to blame was.
        evidence: the facts that the cause follows from, a line each.
        stacks: where the threads of all ranks were, if that was looked at.
        lost_steps: steps that are made again.
        lost_s: seconds of work that are lost with them.
        down_s: seconds from then until it ran again; 0 if it hasn't yet.
        spent: the budget that is used up, if it was stopped for that and not for good: a person
            may well give it another one (`resilient dead`).
        remedy: what the next attempt does differently.
    """

    cause: str
    message: str
    decision: str
    reason: str
    at: float
    epoch: int
    rank: int | None = None
    step: int = 0
    resumes_from: int | None = None
    error: RemoteError | None = None
    host: str = ""
    evidence: tuple[str, ...] = ()
    stacks: str = ""
    lost_steps: int = 0
    lost_s: float = 0.0
    down_s: float = 0.0
    spent: str = ""
    remedy: Remedy | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A committed, immutable snapshot. `id` is its path below the store's `runs`.

    Of its `nbytes` of tensors, `changed` were not in the checkpoint before; they took `written`
    bytes in the store (both 0 in journals of before these were known). `data` has name and
    fingerprint of what the attempt has gone through.
    """

    id: str
    run: str
    job: str
    epoch: int
    step: int
    parent: str | None
    digest: str
    nbytes: int
    at: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    changed: int = 0
    written: int = 0
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share:
    """`count` ranks on one host, beginning with rank `first`, on `slots` of its slots.

    `slots` is 0 in journals of before there were elastic gangs: then it is `count`.
    """

    host: str
    first: int
    count: int
    slots: int = 0

    @property
    def leased(self) -> int:
        """Slots that the share holds."""
        return self.slots or self.count


Placement = tuple[Share, ...]


@dataclass(frozen=True)
class Read:
    """Data that a cell reads: a path or URL, as seen on a host."""

    place: str
    host: str = ""


@dataclass(frozen=True)
class Job:
    """One submitted cell and how far it is. `ends` are those of the current attempt.

    Attributes:
        granted: workers held by the current attempt (0 while it waits).
        claim: workers that it gets back before other jobs start: it was resized or failed
            through no fault of its own.
        restarted: its last attempt was ended by a person's restart.
        promised: others were asked to leave so that this job starts.
        stop_by: the job that it was asked to leave for.
        stopping_since: when it was first asked to leave.
        queued_at: since when it waits.
        attained: slot-seconds held by earlier attempts.
        preempted: how often it left for others.
        asked: the priority that was asked for, if limits lowered it.
        inherited: the priority of more urgent jobs that wait for it.
        remedy: what its next attempts do differently.
        hung: ranks that hang, for which its attempt is ended.
        proposals: to stop it.
        chaos: what was broken on purpose.
    """

    id: str
    run: str
    number: int
    spec: JobSpec
    state: JobState
    submitted_at: float
    request_id: str
    epoch: int = 0
    attempts: int = 0
    placement: Placement = ()
    stop: StopReason | None = None
    ends: Mapping[int, RankEnd] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    not_before: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    message: str = ""
    returned: tuple[str, ...] = ()
    granted: int = 0
    claim: int = 0
    promised: bool = False
    restarted: bool = False
    stop_by: str = ""
    stopping_since: float | None = None
    queued_at: float = 0.0
    attained: float = 0.0
    preempted: int = 0
    asked: Priority | None = None
    inherited: Priority | None = None
    remedy: Remedy = Remedy()
    lost: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, Read] = field(default_factory=dict)
    hung: tuple[int, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    chaos: tuple[Injected, ...] = ()

    @property
    def needs(self) -> Resources:
        """What each worker needs, by now."""
        needs = self.spec.needs
        if self.remedy.memory <= needs.memory:
            return needs  # the very same, by which the queue knows those that are alike
        return replace(needs, memory=self.remedy.memory)

    @property
    def rank_memory(self) -> int:
        """The memory that each rank may have, in bytes; 0: no limit.

        Ranks of an elastic gang share a worker's on the fewest workers. A job that never asked
        for memory has no limit, also if it needs more of it by now: how much isn't known.
        """
        if not self.spec.needs.memory:
            return 0
        per_worker = -(-self.spec.ranks(self.spec.workers) // max(1, self.spec.workers))
        return self.needs.memory // per_worker

    @property
    def priority(self) -> Priority:
        """The priority in force: its own, or an inherited one."""
        return self.inherited or self.spec.priority

    @property
    def ranks(self) -> int:
        """How many ranks the current attempt has."""
        return self.spec.ranks(self.granted)

    @property
    def slots(self) -> int:
        """Slots that its gang holds now."""
        return sum(share.leased for share in self.placement)

    @property
    def gang_ended(self) -> bool:
        """Whether every rank of the current attempt has ended."""
        return len(self.ends) == self.ranks


@dataclass(frozen=True)
class Run:
    """A named lineage of checkpoints with a movable head."""

    name: str
    created_at: float
    epoch: int = 0
    head: str | None = None
    jobs: tuple[str, ...] = ()
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    forked_from: str | None = None
    user: str = ""
    offshoots: frozenset[str] = frozenset()  # runs that have pointed at checkpoints of this one
