"""What a notebook or shell asks the control plane, and what it answers.

Every request is one RPC. Requests that change something carry what makes a repeat harmless,
since a reply can be lost: a `request_id`, an offset, or a target state.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient_nb.core.alert_model import AlertsReport, ChannelTest
from resilient_nb.core.chaos import ChaosReport
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.model import Checkpoint, Injection, JobSpec, Keep, OnNan
from resilient_nb.core.querying import FactsReport, JobRow, Query
from resilient_nb.core.recap import DeadReport, RecapReport
from resilient_nb.core.recorded import CheckpointReport
from resilient_nb.core.scrubbing import VerifyReport
from resilient_nb.core.transfers import TransferReport
from resilient_nb.core.views import (
    CheckpointView,
    ClusterView,
    JobView,
    QueueReport,
    RetentionReport,
    RunView,
    WhyReport,
)
from resilient_nb.wire.codec import Registry
from resilient_nb.wire.feed import Follow


@dataclass(frozen=True)
class Welcome:
    """The answer to a connection's hello: who its requests come from, and how that is known.

    `wants_token`: say hello again with the user's JupyterHub API token; there is no user yet.
    `cluster_id` is the cluster's, the same after a restart.
    """

    user: str = ""
    source: str = ""
    wants_token: bool = False
    cluster_id: str = ""


@dataclass(frozen=True)
class GetCluster:
    """Answered by a `ClusterView`."""


@dataclass(frozen=True)
class PutBlob:
    """A piece of a captured payload. Answered by the number of bytes the store now has."""

    digest: str
    offset: int
    total: int
    data: bytes


@dataclass(frozen=True)
class Submit:
    """Answered by a `Submitted`. `resume` is auto, never or a checkpoint reference."""

    run: str | None
    spec: JobSpec
    request_id: str
    resume: str = "auto"
    fork: str | None = None


@dataclass(frozen=True)
class Submitted:
    """The job that was made, and from which step it goes on (None: from the beginning)."""

    job: str
    run: str
    resumes_from: int | None
    message: str


@dataclass(frozen=True)
class Cancel:
    """Cancel a job or a run's unfinished job. Answered by a `JobView`."""

    job: str


@dataclass(frozen=True)
class Resume:
    """Submit the run's last cell again, from the head or `at`. Answered by a `Submitted`.

    `head` is the id of the run's head as who asks has seen it ("": it has none): if it is another
    one by now, nothing is done. None: whatever it is.
    """

    run: str
    request_id: str
    at: str | None = None
    head: str | None = None


@dataclass(frozen=True)
class Rollback:
    """Move the head to a checkpoint; deletes nothing. Answered by a `RunView`.

    `head` is as that of `Resume`.
    """

    ref: str
    user: str = ""
    head: str | None = None


@dataclass(frozen=True)
class Tag:
    """Name a checkpoint. Answered by a `RunView`."""

    ref: str
    tag: str


@dataclass(frozen=True)
class Fork:
    """Begin a new run at a checkpoint. Answered by its `RunView`."""

    ref: str
    name: str


@dataclass(frozen=True)
class Resolve:
    """Find a checkpoint. Answered by a `CheckpointView`."""

    ref: str


@dataclass(frozen=True)
class ListJobs:
    """Answered by a list of `JobView`, newest first."""

    run: str | None = None
    limit: int = 100


@dataclass(frozen=True)
class ListRuns:
    """Answered by a list of `RunView`, newest first; one if `run` is given."""

    run: str | None = None


@dataclass(frozen=True)
class Watch:
    """Wait until the job differs from `seen`, or `timeout` seconds. Answered by a `Watched`."""

    job: str
    seen: int = -1
    timeout: float = 10.0


@dataclass(frozen=True)
class Watched:
    """A job and the version to give as `seen` next time."""

    version: int
    job: JobView


@dataclass(frozen=True)
class ReadLog:
    """A piece of a rank's output; `epoch` None is the latest. Answered by a `LogPiece`."""

    job: str
    rank: int
    epoch: int | None = None
    offset: int = 0
    limit: int = 1 << 20


@dataclass(frozen=True)
class LogPiece:
    """Bytes of a log from `offset` on; `size` is how much there is; `epochs` which exist."""

    data: bytes
    offset: int
    size: int
    epoch: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class ReadOut:
    """A piece of the pickle of a job's returned values. Answered by an `OutPiece`."""

    job: str
    offset: int = 0
    limit: int = 4 << 20


@dataclass(frozen=True)
class OutPiece:
    data: bytes
    size: int


@dataclass(frozen=True)
class VacateAll:
    """Have every gang checkpoint and leave, back to the queue; start nothing more.

    Answered by the ids of jobs that hold a gang now: call until it is empty.
    """


@dataclass(frozen=True)
class GetQueue:
    """Answered by a `QueueReport`."""


@dataclass(frozen=True)
class Why:
    """Why a job waits, or ended. Answered by a `WhyReport`."""

    job: str


@dataclass(frozen=True)
class Restart:
    """End a job's ranks at once and start it again from its head. Answered by a `JobView`.

    For a job that is stuck: it doesn't get the time to checkpoint. `epoch` is the attempt that
    is meant, so that a repeated request harms no later one.
    """

    job: str
    epoch: int


@dataclass(frozen=True)
class Retry:
    """Run a failed job again from its head, or end the pause of one that waits.

    Answered by a `Submitted`. A failure that would come again needs `anyway`. `memory` (bytes for
    each worker, 0: as it was) and `on_nan` replace what was asked for. `epoch` is the attempt that
    is meant.
    """

    job: str
    request_id: str
    epoch: int = 0
    anyway: bool = False
    memory: int = 0
    on_nan: OnNan | None = None


@dataclass(frozen=True)
class ListDead:
    """Ask which jobs were given up for a spent budget. Answered by a `DeadReport`."""


@dataclass(frozen=True)
class Recap:
    """Ask what happened in the last `seconds`. Answered by a `RecapReport`.

    `user` None is who asks, "" everybody.
    """

    seconds: float = 12 * 3600.0
    user: str | None = None


@dataclass(frozen=True)
class BeginImport:
    """Ask whether a run of this name can begin with an import. Answered by an `ImportPlace`."""

    run: str


@dataclass(frozen=True)
class ImportPlace:
    """The store that the checkpoint is to be written to, and the cluster that it belongs to."""

    store: str
    cluster_id: str


@dataclass(frozen=True)
class Import:
    """Begin a new run with a checkpoint that is in the store already. Answered by its `RunView`.

    No job has written it: its `job` is "".
    """

    checkpoint: Checkpoint


@dataclass(frozen=True)
class Retain:
    """Drop the checkpoints of a run that a rule doesn't keep. Answered by a `RetentionReport`.

    Without a rule it is that of the run's newest job; one that waits for a full store drops nothing
    while there is room. `dry_run` drops nothing.
    """

    run: str
    keep: Keep | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class GetAlerts:
    """Answered by an `AlertsReport`."""


@dataclass(frozen=True)
class TestAlerts:
    """Send a test by each channel, for administrators. Answered by a list of `ChannelTest`."""


@dataclass(frozen=True)
class FindJobs:
    """Answered by a list of `JobRow`, the newest first."""

    query: Query


@dataclass(frozen=True)
class ReadFacts:
    """What was recorded of a job's ranks, or of one. Answered by a `FactsReport`.

    Of each rank there are at most `most` rows: neighbours are merged.
    """

    job: str
    rank: int | None = None
    most: int = 500


@dataclass(frozen=True)
class Inject:
    """Break something of a running job of one's own, on purpose. Answered by an `Injected`.

    `seconds` is how long it lasts; None: as usual for its kind. `id` makes a repeat harmless.
    """

    job: str
    what: Injection
    id: str
    rank: int = 0
    seconds: float | None = None


REQUESTS = Registry(
    Inject,
    GetCluster, PutBlob, Submit, Cancel, Resume, Rollback, Tag, Fork, Resolve, ListJobs,
    ListRuns, Watch, ReadLog, ReadOut, VacateAll, GetQueue, Why, Restart, Retain, BeginImport,
    Import, FindJobs, ReadFacts, Retry, ListDead, Recap, GetAlerts, TestAlerts, Follow,
)  # fmt: skip

#: What `--json` prints; `resilient schema` shows their JSON Schema.
REPORTS = (ClusterView, JobView, RunView, CheckpointView, Submitted, QueueReport, WhyReport,
           RetentionReport, TransferReport, ChaosReport, DiffReport, CheckpointReport, VerifyReport,
           DeadReport, RecapReport, JobRow, FactsReport, AlertsReport, ChannelTest)  # fmt: skip
