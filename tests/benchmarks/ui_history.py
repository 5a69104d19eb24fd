"""A job's week, written as the control plane would have: journal, measurements and output."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import replace

from resilient_nb.config import Settings
from resilient_nb.core import events as ev
from resilient_nb.core.facts import Facts
from resilient_nb.core.model import Outcome, StopReason
from resilient_nb.core.retention import parse_keep
from resilient_nb.storage.claim import new_id
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.testing.builders import Story, a_checkpoint, a_failure, an_end, killed

RUN, JOB = "week", "week#1"
RANKS, STEPS, CHECKPOINTS, FAILURES = 8, 600_000, 500, 12
SECONDS = 7 * 86400
LOG_BYTES = 100_000_000
#: Between rows of facts of a rank, in seconds, and steps written at once.
_ROW, _BATCH = 60, 10_000


class _Week(Story):
    """A story that is told by the clock."""

    def __init__(self, began: float) -> None:
        super().__init__()
        self._clock = began

    @property
    def now(self) -> float:
        return self._clock

    def at(self, step: int, began: float) -> None:
        self._clock = began + SECONDS * step / STEPS


def write_week(settings: Settings, user: str) -> str:
    """Write a finished job of 600,000 steps into a home where no cluster is up; return its id."""
    began = time.time() - SECONDS - 3600
    with closing(SqliteJournal(settings.journal)) as journal:
        journal.append(_events(began, user))
        for first in range(0, STEPS, _BATCH):
            points = [
                (JOB, name, step, value)
                for step in range(first + 1, first + _BATCH + 1)
                for name, value in _metrics(step).items()
            ]
            journal.records.write(points)
        for rank in range(RANKS):
            journal.records.write((), ((JOB, rank, row) for row in _facts(began)))
    _write_logs(settings)
    return JOB


def _events(began: float, user: str) -> list[ev.Event]:
    week = _Week(began)
    week.then(ev.ClusterCreated(began, new_id()), ev.RunCreated(began, RUN, user=user))
    week.submit(RUN, RANKS, user=user, keep=parse_keep("all")).start(RUN)
    every, broken = STEPS // CHECKPOINTS, CHECKPOINTS // FAILURES
    for number in range(1, CHECKPOINTS + 1):
        step = number * every
        week.at(step, began)
        _checkpoint(week, step)
        if number % broken == 0 and number < CHECKPOINTS:
            _lose_a_rank(week, step)
    week.end(*(an_end(rank, step=STEPS, at=week.now) for rank in range(RANKS)), run=RUN)
    week.then(ev.JobSucceeded(week.now, JOB, week.job(RUN).epoch))
    return week.events


def _checkpoint(week: _Week, step: int) -> None:
    job, head = week.job(RUN), week.world.runs[RUN].head
    new = a_checkpoint(JOB, step, job.epoch, head, at=week.now, nbytes=1_500_000_000,
                       metrics=_metrics(step), written=1_500_000_000)  # fmt: skip
    tag = "best" if step == STEPS * 4 // 5 else None
    week.then(ev.CheckpointCommitted(week.now, new, tag))


def _lose_a_rank(week: _Week, step: int) -> None:
    """Rank 3 is killed, and the job starts again from its head."""
    week.stop(StopReason.FAILURE, RUN)
    others = (an_end(rank, Outcome.LEFT, step=step, ordered=True) for rank in range(RANKS))
    ends = [replace(end, at=week.now) for end in others]
    ends[3] = killed(3, step=step, at=week.now)
    week.end(*ends, run=RUN)
    failure = a_failure("killed from outside", step, epoch=week.job(RUN).epoch, at=week.now, rank=3,
                        message="Rank 3 was killed from outside (SIGKILL).",
                        resumes_from=step)  # fmt: skip
    week.requeue(RUN, replace(failure, reason="It goes on at once.")).start(RUN)


def _metrics(step: int) -> dict[str, float]:
    loss = 3.0 / math.sqrt(1 + step / 1000) + 0.02 * math.sin(step)
    return {"loss": loss, "accuracy": 1 - loss / 3, "lr": 1e-3 * (1 - step / STEPS)}


def _facts(began: float) -> list[Facts]:
    pace = STEPS / SECONDS
    return [
        Facts(
            1, int(began) + second, seconds=_ROW, step=int(second * pace), steps=int(_ROW * pace),
            compute_s=50.0, wait_s=5.0, data_s=4.0, longest_s=2.0, rss=2 << 30, cpu_s=58.0,
        )
        for second in range(0, SECONDS, _ROW)
    ]  # fmt: skip


def _write_logs(settings: Settings) -> None:
    """Write what the last attempt printed, in files as `control.logs` has them."""
    folder = settings.logs / RUN / "1" / str(1 + (CHECKPOINTS - 1) // (CHECKPOINTS // FAILURES))
    folder.mkdir(parents=True, mode=0o700)
    for rank in range(RANKS):
        with (folder / f"rank-{rank}.log").open("w") as file:
            written, step = 0, 0
            while written < LOG_BYTES // RANKS:
                step += 1
                loss = _metrics(step)["loss"]
                written += file.write(f"rank {rank} step {step} loss {loss:.6f}\n")
