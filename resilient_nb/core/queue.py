"""What the scheduler sees and what it says: frozen values of `scheduling.plan`.

A *worker* here is a lease on one slot or more of one host. A gang of fixed size has as many
ranks as workers; an elastic one keeps `max_workers` ranks whatever it holds and shares fewer
workers among them, so that its numbers don't change. Times are seconds since the Unix epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from resilient_nb.core.model import Placement, Priority, Resources
from resilient_nb.core.policy import Policy
from resilient_nb.core.shares import Ledger

#: No particular needs, nothing in particular to offer.
ANYTHING = Resources()


@dataclass(frozen=True)
class Host:
    """A machine: its slots, those in use, and what each slot has."""

    id: str
    slots: int
    used: int = 0
    slot: Resources = ANYTHING
    closing: bool = False  # is being retired: takes nothing new

    @property
    def free(self) -> int:
        """Slots that a new gang may have."""
        return 0 if self.closing else max(0, self.slots - self.used)


@dataclass(frozen=True)
class Gang:
    """A job as the scheduler sees it, waiting or running.

    Attributes:
        workers: what it asks for; the minimum, if `max_workers` is larger.
        max_workers: the most it can use (equal to `workers` for a fixed size).
        needs: what each worker needs, with all ranks that share it on the fewest workers.
        priority: as asked for, or as inherited from a job that waits for this one.
        admin: whether it is in the admin lane.
        hold: why it may not start whatever is free ("" if it may): a job it waits for, say.
        not_before: back-off after a failure.
        queued_at: since when it waits (submission, or its last requeue).
        attained: slot-seconds of service so far, over all attempts.
        remaining: seconds that are left at `workers` workers, declared or predicted from the
            live step rate; None if nothing is known.
        exact: whether `remaining` comes from a live step rate (not from a declaration).
        held: workers held now (0 while it waits); `slots` the slots that these are.
        since: when this attempt began.
        saved_at: when what it has was last checkpointed (its start, if never).
        overhead: seconds that a save and a restore cost together.
        leaving: it was asked to leave and hasn't yet; `leaving_for` is for whom.
        claim: workers that it must get back before others start (it left to be resized, or is
            leaving to be); 0: none.
        virtual: whether it keeps `max_workers` ranks whatever it holds (else as many as workers).
        promised: running gangs were asked to leave for it; until it starts, nobody else gets
            what they free.
        avoid: hosts that it isn't put on if there is room elsewhere.
    """

    job: str
    user: str
    group: str
    workers: int
    submitted_at: float
    max_workers: int = 0
    needs: Resources = ANYTHING
    priority: Priority = Priority.NORMAL
    admin: bool = False
    hold: str = ""
    not_before: float = 0.0
    queued_at: float = 0.0
    attained: float = 0.0
    remaining: float | None = None
    exact: bool = False
    held: int = 0
    slots: int = 0
    placement: Placement = ()
    since: float = 0.0
    saved_at: float = 0.0
    overhead: float = 40.0
    preemptible: bool = True
    leaving: bool = False
    leaving_for: str = ""
    claim: int = 0
    virtual: bool = True
    promised: bool = False
    avoid: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        """The most workers that it can use."""
        return max(self.workers, self.max_workers)


@dataclass(frozen=True)
class QueueView:
    """What `plan` may look at: every unfinished job, every host, shares and rules."""

    gangs: tuple[Gang, ...]
    hosts: tuple[Host, ...]
    ledger: Ledger = field(default_factory=Ledger)
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Start:
    """Grant the whole gang these workers."""

    job: str
    workers: int
    placement: Placement
    why: str = ""


@dataclass(frozen=True)
class Preempt:
    """Ask a running gang to checkpoint and leave, so that `by` starts. `cost` in seconds."""

    job: str
    by: str
    cost: float = 0.0


@dataclass(frozen=True)
class Resize:
    """Ask an elastic gang to go on with another number of workers, from its next checkpoint.

    `by` is the job that gets the slots (when it shrinks), "" when it grows.
    """

    job: str
    workers: int
    by: str = ""


@dataclass(frozen=True)
class Reservation:
    """The gang starts at this time at the latest, if predictions hold: nobody may delay it.

    `guess` is a job that must end first and whose end nobody knows ("": the ends are predicted).
    """

    job: str
    at: float
    slots: int
    guess: str = ""


class Waiting(NamedTuple):
    """A gang that gets nothing now, and the code of the rule that holds it.

    Rules (`why` turns them into words): "hold" (a dependency), "backoff", "too wide",
    "no slots", "behind" (`behind` is the job it must not delay), "vacating" (slots are being
    freed for it), "reserve" (only the admin reserve is free).
    """

    job: str
    rule: str
    behind: str = ""


@dataclass(frozen=True)
class Plan:
    """All decisions of one moment. `waiting` is in the order of the queue."""

    starts: tuple[Start, ...] = ()
    preempts: tuple[Preempt, ...] = ()
    resizes: tuple[Resize, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    wanted: int = 0  # slots that would let all that wait start (for autoscaling)
