"""What becomes of a job whose attempt has ended: the facts to a decision, and that to events.

Causes and decisions are pure (`core.causes`, `core.recovery`); here they get what they depend on,
and the journal gets the outcome. The random number of a back-off is drawn here: what came of it is
in the event, so that a replay needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resilient_nb.core import causes, chaos, proposals, recovery
from resilient_nb.core import events as ev
from resilient_nb.core.case import Case, Verdict, in_a_row, kept_until
from resilient_nb.core.damage import known_damaged, newest_finite, newest_whole
from resilient_nb.core.diagnosis import Diagnosis, diagnose, joined_stacks
from resilient_nb.core.divergence import first_bad
from resilient_nb.core.inputs import remake
from resilient_nb.core.model import Checkpoint, Failure, Job, Outcome, RankEnd, Run, StopReason
from resilient_nb.core.queue import Host
from resilient_nb.core.room import most_memory

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine


class Endings:
    """Concludes attempts; one for an engine.

    Args:
        engine: whose jobs they are.
        draw: returns a random number from [0, 1).
    """

    def __init__(self, engine: Engine, draw: Callable[[], float]) -> None:
        self._engine = engine
        self._draw = draw

    def conclude(self, job: Job) -> None:
        """Every rank has ended: decide what becomes of the job."""
        engine = self._engine
        now, outcomes = engine.now(), {end.outcome for end in job.ends.values()}
        engine.keeping.attempt_ended(job, outcomes <= {Outcome.FINISHED, Outcome.LEFT})
        if outcomes == {Outcome.FINISHED}:
            engine.record(ev.JobSucceeded(now, job.id, job.epoch, job.spec.out))
        elif job.stop in (StopReason.CANCEL, StopReason.ENOUGH):
            engine.record(*proposals.ending(engine.world, job, now))
        elif job.stop is StopReason.FAILURE:
            self._failed(job, now)
        else:
            # Left because it was asked to, or unasked, say by a signal.
            asked = [] if job.stop else [ev.StopRequested(now, job.id, StopReason.VACATE)]
            engine.record(*asked, ev.JobRequeued(now, job.id, job.epoch, message=self._left(job)))
            self._note_leaving(job)

    def _left(self, job: Job) -> str:
        """Return what the user reads while a job that had to leave waits."""
        engine = self._engine
        head = engine.world.runs[job.run].head
        step = engine.world.checkpoint(head).step if head else 0
        if job.stop is StopReason.PREEMPT:
            return f"Preempted by {job.stop_by}; goes on from step {step}."
        return job.message

    def _note_leaving(self, job: Job) -> None:
        """Tell how long a job took that was asked to leave."""
        since = job.stopping_since
        if since is not None and job.stop is not StopReason.RESTART:
            seconds = self._engine.now() - since
            ended = any(end.outcome in (Outcome.EXITED, Outcome.LOST) for end in job.ends.values())
            how = "Was killed: it had not left" if ended else "Left at a checkpoint"
            self._engine.live.note(job.id, f"{how} within {seconds:.1f} s.")

    # --- failures -----------------------------------------------------------------------

    def _failed(self, job: Job, now: float) -> None:
        run = self._engine.world.runs[job.run]
        diagnosis = diagnose(list(job.ends.values()), run.head)
        start = self._start(job, run, diagnosis)
        case = self._case(job, diagnosis, start)
        verdict = recovery.decide(diagnosis, case)
        first: Sequence[ev.Event] = ()
        if verdict.rerun:
            made = remake(self._engine.world, job, verdict.rerun, now)
            verdict, first = (
                replace(verdict, retry=bool(made.rerun), reason=made.reason),
                made.events,
            )
        failure = self._failure(job, diagnosis, verdict, start, now)
        moved = self._moved(run, diagnosis, verdict, start, now)
        if verdict.retry:
            not_before = now + verdict.delay
            end: ev.Event = ev.JobRequeued(
                now, job.id, job.epoch, failure, not_before, f"It failed ({failure.cause}).",
                verdict.remedy,
            )  # fmt: skip
        else:
            end = ev.JobFailed(now, job.id, job.epoch, failure)
        self._engine.record(*moved, end, *first)
        if diagnosis.cause == causes.DISK_FULL and verdict.retry:
            self._engine.keeping.lacks_room(job)

    def _start(self, job: Job, run: Run, diagnosis: Diagnosis) -> Checkpoint | None:
        """Return the checkpoint that another attempt goes on from; None: from the beginning."""
        world = self._engine.world
        if diagnosis.cause == causes.DAMAGED:
            return newest_whole(world, run, known_damaged(world) | {run.head or ""})
        if diagnosis.cause == causes.DIVERGED:
            return newest_finite(world, run, first_bad(diagnosis.step + 1, job.remedy.skip))
        return world.checkpoint(run.head) if run.head else None

    def _moved(
        self,
        run: Run,
        diagnosis: Diagnosis,
        verdict: Verdict,
        start: Checkpoint | None,
        now: float,
    ) -> list[ev.Event]:
        """Return the move of the head to where a run that was damaged or diverged goes on."""
        head = start.id if start is not None else None
        back = diagnosis.cause in (causes.DAMAGED, causes.DIVERGED)
        if not back or not verdict.retry or head == run.head:
            return []
        return [ev.HeadMoved(now, run.name, head, "recovery")]

    def _case(self, job: Job, diagnosis: Diagnosis, start: Checkpoint | None) -> Case:
        resumes_from = start.step if start is not None else None
        spec = job.spec
        return Case(
            run=job.run,
            past=job.failures,
            retries=spec.retries,
            fruitless=1 + in_a_row(job.failures, resumes_from),
            jitter=self._draw(),
            remedy=job.remedy,
            on_nan=spec.on_nan,
            memory=job.needs.memory,
            ranks=-(-spec.ranks(spec.workers) // max(1, spec.workers)),
            room=most_memory(self._hosts(), job.needs, spec.workers),
            back_to=start,
            budgets=spec.budgets,
        )

    def _hosts(self) -> tuple[Host, ...]:
        return self._engine.hosts.for_plan(self._engine.world, self._engine.now())

    def _failure(
        self,
        job: Job,
        diagnosis: Diagnosis,
        verdict: Verdict,
        start: Checkpoint | None,
        now: float,
    ) -> Failure:
        """Return what the user reads of a failure, with what it cost."""
        ends: list[RankEnd] = list(job.ends.values())
        again = start.step if start is not None else 0
        reached = max([diagnosis.step, *(end.step for end in ends)])
        return Failure(
            cause=diagnosis.cause,
            message=diagnosis.message,
            decision="retry" if verdict.retry else "stop",
            reason=verdict.reason,
            at=now,
            epoch=job.epoch,
            rank=diagnosis.rank,
            step=diagnosis.step,
            resumes_from=start.step if start is not None else None,
            error=diagnosis.error,
            host=diagnosis.host,
            evidence=(
                *diagnosis.evidence,
                *self._missing(job),
                *chaos.evidence(job.chaos, job.epoch, now),
            ),
            stacks=joined_stacks(ends, diagnosis.rank),
            lost_steps=max(0, reached - again),
            lost_s=max(0.0, now - kept_until(job, start, now)),
            spent=verdict.spent,
            remedy=verdict.remedy,
        )

    def _missing(self, job: Job) -> list[str]:
        """Return which declared inputs ranks couldn't read any more."""
        rows = self._engine.live.rows(job.id)
        names = sorted({name for row in rows for name in row.missing})
        return [
            f"Input {name} ({job.reads[name].place}) could not be read."
            for name in names
            if name in job.reads
        ]
