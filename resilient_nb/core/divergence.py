"""Which steps are left out, and how far back a run goes, when it has diverged at a step. Pure."""

from __future__ import annotations

from collections.abc import Collection

from resilient_nb.core.model import Checkpoint, Failure, Job

#: What becomes of the learning rate each time that a run diverges, if that is its policy.
LOWER = 0.5


def first_bad(bad: int, skipped: Collection[int]) -> int:
    """Return the first step of which the parameters can't be trusted any more.

    That is the one that diverged; or, if those just before it were left out, the first of them:
    what they would have been made with is what it was made with.
    """
    while bad - 1 in skipped:
        bad -= 1
    return bad


def to_skip(bad: int, skipped: Collection[int]) -> tuple[int, ...]:
    """Return all steps to leave out, now that the run has diverged at step `bad`.

    If it did so at or just after steps that were left out, it wasn't their batches: the harm was
    done by the step before them. Its own loss was finite, but its gradients weren't.
    """
    first = first_bad(bad, skipped)
    blamed = first < bad or bad in skipped
    before = {first - 1} if blamed and first > 1 else set()
    return tuple(sorted({*skipped, bad, *before}))


def lowered_since(job: Job, head: Checkpoint | None) -> float:
    """Return the part of a job's `lr_scale` that its run's head doesn't have yet.

    Checkpoints know by how much the rate was lowered when they were written; another job that
    goes on from one needs the rest.
    """
    if head is None or head.job != job.id:
        return job.remedy.lr_scale
    later = [f for f in job.failures if f.epoch >= head.epoch and _was_lowered(f)]
    return float(LOWER ** len(later))


def _was_lowered(failure: Failure) -> bool:
    """Whether the learning rate was lowered for it: then its step wasn't left out."""
    remedy = failure.remedy
    return (
        failure.error is not None
        and bool(failure.error.metric)
        and remedy is not None
        and failure.step + 1 not in remedy.skip
    )
