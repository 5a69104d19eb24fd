"""What a decision about a failure depends on, and what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resilient_nb.core.model import Checkpoint, Failure, Job, OnNan, Remedy

#: How often each class of failures that isn't of the cell's own making is tried again: more memory;
#: a network, an I/O error or a process that can't be started, without a checkpoint in between;
#: going back after a divergence; and attempts in a row without a checkpoint, whatever ended them.
BUDGETS = {"memory": 2, "network": 6, "io": 6, "starts": 6, "rollbacks": 3, "attempts": 20}


@dataclass(frozen=True)
class Case:
    """What a decision depends on beside the diagnosis.

    Attributes:
        past: the job's earlier failures, oldest first.
        retries: the user's budget for failures of the job's own making.
        fruitless: attempts in a row, this one included, without a new checkpoint.
        jitter: a random number from [0, 1), for pauses.
        remedy: what the job's attempts do differently by now.
        on_nan: how it goes on if it diverged.
        memory: what each of its workers needs, in bytes; 0: that wasn't said.
        ranks: how many ranks share a worker.
        room: the most memory that each of its workers could have here, in bytes; None: there is
            nobody who could tell; 0: no worker says.
        back_to: the checkpoint that a job which diverged goes on from; None: from the beginning.
        budgets: what its user has set the other classes' budgets to, by `BUDGETS`.
        run: the job's, by which people name it.
    """

    past: Sequence[Failure] = ()
    retries: int = 3
    fruitless: int = 1
    jitter: float = 1.0
    remedy: Remedy = field(default_factory=Remedy)
    on_nan: OnNan = OnNan.SKIP
    memory: int = 0
    ranks: int = 1
    room: int | None = None
    back_to: Checkpoint | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)
    run: str = "RUN"

    def budget(self, name: str) -> int:
        """Return how often one class of failures is tried again."""
        return self.budgets.get(name, BUDGETS[name])


def in_a_row(failures: Sequence[Failure], resumes_from: int | None) -> int:
    """Return how many of a job's last failures left it at this step."""
    steps = [failure.resumes_from for failure in failures[::-1]]
    return next((n for n, step in enumerate(steps) if step != resumes_from), len(steps))


def kept_until(job: Job, checkpoint: Checkpoint | None, now: float) -> float:
    """Return until when an attempt's work isn't lost if it goes on from a checkpoint."""
    began = job.started_at if job.started_at is not None else now
    if checkpoint is None or (checkpoint.run, checkpoint.epoch) != (job.run, job.epoch):
        return began
    return max(began, checkpoint.at)


@dataclass(frozen=True)
class Verdict:
    """What to do about a failure.

    Attributes:
        retry: whether there is another attempt.
        reason: why, in words.
        delay: seconds until it may start.
        remedy: what later attempts do differently; None: nothing new.
        spent: the budget that is used up, "" if it isn't tried again for good.
        rerun: the job whose results are to be made again first.
    """

    retry: bool
    reason: str
    delay: float = 0.0
    remedy: Remedy | None = None
    spent: str = ""
    rerun: str = ""
