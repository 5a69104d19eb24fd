"""What the sidebar and the panels are fed with: news at most every 250 ms.

    control plane ──Follow──▶ Jupyter server ──WebSocket──▶ browsers

The control plane encodes each piece once, as JSON, and only what has changed since the caller's
cursor; the Jupyter server passes the bytes on unread. So its work doesn't grow with the number of
ranks. Every piece says how things are, not what was added: one that comes twice does no harm. The
browser's types are generated from these classes (`wire.typescript`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.model import Failure, Injected, JobState
from resilient_nb.core.views import ClusterView, JobView, RunView, ShareRow, WhyReport

#: Between two answers, in seconds, at least.
FRAME_EVERY = 0.25


@dataclass(frozen=True)
class Follow:
    """Ask for what has changed. Answered by a `Followed`, after `wait` seconds at most.

    A cursor says what is known of whatever was asked for with the last ones. Of a job (or the
    board) that wasn't, everything is only told with cursor 0: ask for it alone, once.

    Attributes:
        cursor: of the last answer; 0 for everything.
        jobs: ids of the jobs of which every detail is wanted.
        board: whether the list of jobs and the cluster are wanted.
        wait: seconds to wait for a change.
    """

    cursor: int = 0
    jobs: tuple[str, ...] = ()
    board: bool = True
    wait: float = 10.0


@dataclass(frozen=True)
class Followed:
    """What has changed since the cursor; `cursor` is to be given next time.

    Attributes:
        at: the scheduler's clock, in seconds since 1970: what times in views are compared with.
        board: JSON of a `Board`, empty if nothing of it has changed.
        jobs: JSON of a `JobDelta` for each job of which something has changed.
        unknown: the jobs asked for that don't exist.
    """

    cursor: int
    at: float
    cluster_id: str = ""
    board: bytes = b""
    jobs: tuple[bytes, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoardRow:
    """A job in the sidebar's list. `position` is its place among those that wait, from 1.

    `failures` is how many there were, `cause` the last one's; `alerts` how many fire now.
    `starts_guess` is the job whose unknown end makes `starts_at` a guess ("": it is none).
    """

    id: str
    run: str
    state: JobState
    user: str
    group: str
    priority: str
    label: str
    workers: int
    max_workers: int
    held: int
    step: int
    total_steps: int | None
    rate: float
    eta_s: float | None
    position: int | None
    starts_at: float | None
    reason: str
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    attempts: int
    failures: int = 0
    cause: str = ""
    alerts: int = 0
    notebook: str = ""
    cell_id: str = ""
    starts_guess: str = ""


@dataclass(frozen=True)
class HostLease:
    """Slots of a host that a job holds."""

    host: str
    job: str
    slots: int


@dataclass(frozen=True)
class Board:
    """What the sidebar shows. A piece that is None is as it was.

    Attributes:
        full: forget what you have.
        rows: jobs that are new or have changed: all unfinished ones, and the newest of the others.
        gone: ids of jobs that are no longer listed.
        groups: by user, the groups that they are in.
    """

    full: bool = False
    rows: tuple[BoardRow, ...] = ()
    gone: tuple[str, ...] = ()
    cluster: ClusterView | None = None
    leases: tuple[HostLease, ...] | None = None
    shares: tuple[ShareRow, ...] | None = None
    alerts: AlertsReport | None = None
    groups: Mapping[str, tuple[str, ...]] | None = None


class RankRow(NamedTuple):
    """One rank now: a `LiveRank` as a JSON array, in this order; `straggler` holds others up."""

    rank: int
    state: str
    host: str
    pid: int
    step: int
    total_steps: int | None
    rate: float
    rss: int
    cpu: float
    phase: str
    phase_s: float
    data_s: float
    compute_s: float
    wait_s: float
    checkpoint_s: float
    longest_s: float
    peak_rss: int
    limit: int
    read: int
    written: int
    gpu: float | None
    gpu_memory: int
    straggler: bool = False


#: (step, value); a value that is no finite number is null.
Point = tuple[int, float | None]


@dataclass(frozen=True)
class JobDelta:
    """What is new of one job. A piece that is None is as it was.

    Attributes:
        full: forget what you have of this job.
        head: the job without ranks, series, checkpoints, failures, notes and chaos (empty there).
        run: its lineage: the checkpoints of all the run's jobs, tags, head and forks.
        ranks: those that have changed. Ranks from `world` on are no more.
        world: how many ranks there are.
        points: of each metric the new points in order of their steps. They replace all known
            points from the first new step on.
    """

    job: str
    full: bool = False
    head: JobView | None = None
    failures: tuple[Failure, ...] | None = None
    chaos: tuple[Injected, ...] | None = None
    notes: tuple[str, ...] | None = None
    run: RunView | None = None
    ranks: tuple[RankRow, ...] = ()
    world: int | None = None
    points: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)


# --- between the Jupyter server and a browser, over the WebSocket, as JSON ---------------------


@dataclass(frozen=True)
class Hello:
    """The first message: who the user is. `protocol` must be the browser's own.

    It comes again if the cluster knows the user by another name.
    """

    type: Literal["hello"]
    protocol: int
    version: str
    user: str


@dataclass(frozen=True)
class News:
    """What has changed. If `cluster_id` is another one than before, forget everything."""

    type: Literal["news"]
    at: float
    cluster_id: str
    board: Board | None = None
    jobs: tuple[JobDelta, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Down:
    """The cluster doesn't answer, and why. What is known stays; news end it."""

    type: Literal["down"]
    why: str
    no_cluster: bool = False  # there is none at all: start one


@dataclass(frozen=True)
class Wish:
    """From the browser: the jobs of which every detail is wanted, all of them each time."""

    type: Literal["wish"]
    jobs: tuple[str, ...] = ()


# --- REST, as JSON -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Action:
    """POST `resilient-nb/actions`: one click.

    Attributes:
        verb: cancel, restart, resume, rollback, fork, tag, retry.
        job: what it is about, by id; or
        run: by name.
        ref: the checkpoint's id, for resume (optional), rollback, fork and tag.
        name: of the fork, or the tag.
        epoch: of the attempt that is meant (restart, retry).
        head: id of the run's head as shown where the button is ("": it has none). If it isn't that
            any more, nothing is done (resume, rollback). None: whatever it is.
        anyway, memory: as of `Retry`.
        request_id: made by the browser for each click, so that a repeat does no harm.
    """

    verb: Literal["cancel", "restart", "resume", "rollback", "fork", "tag", "retry"]
    request_id: str
    job: str = ""
    run: str = ""
    ref: str = ""
    name: str = ""
    epoch: int = 0
    head: str | None = None
    anyway: bool = False
    memory: int = 0


@dataclass(frozen=True)
class Done:
    """What came of an action, in a sentence. `job` is the one that it made, or is about."""

    said: str
    job: str = ""
    run: str = ""


@dataclass(frozen=True)
class Refused:
    """The body of every answer that isn't a success: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class LogText:
    """GET `resilient-nb/log?job&rank&epoch&offset&limit`: output from byte `offset` on.

    `next` is the offset behind it, `size` how many bytes there are. `offset` is where the text
    begins: where it was asked for, so that it joins what ended there, but never in the midst of a
    character. A negative offset counts from the end: then it is at a whole line, if there is one.
    """

    text: str
    offset: int
    next: int
    size: int
    epoch: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class LogMatch:
    """A line that has the text. `offset` is its first byte."""

    offset: int
    line: str


@dataclass(frozen=True)
class LogMatches:
    """GET `resilient-nb/search?job&rank&epoch&text`: the last matches, in the log's order.

    `more`: there are earlier ones. Upper and lower case are alike.
    """

    matches: tuple[LogMatch, ...]
    more: bool
    epoch: int


@dataclass(frozen=True)
class Status:
    """GET `resilient-nb/status`: which cluster is looked at, and as whom.

    `error` says why there is no answer from there; it is "" if there is one.
    """

    user: str
    version: str
    protocol: int
    address: str
    cluster_id: str
    error: str


#: What the browser's types are generated from. `resilient-nb/diff` answers with a `DiffReport`,
#: `resilient-nb/why` with a `WhyReport`.
SHOWN = (Hello, News, Down, Wish, Action, Done, Refused, LogText, LogMatches, DiffReport,
         WhyReport, Status)  # fmt: skip
