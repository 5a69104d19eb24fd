"""Which checkpoints of a run are kept, and why. Pure.

Two kinds are: what somebody needs, whatever the rule says (a head, a fork's origin, a tag, what a
job goes on from, the end of a job that succeeded), and what the rule (`model.Keep`) wants. All
others are superfluous. Thinning is stable: what is kept now is not superfluous later, unless newer
checkpoints take its place among the last or the best, or are the first to have a metric that tells
which are the best.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite

from resilient_nb.core.lineage import pointing, targets
from resilient_nb.core.model import (
    KEEP_ALL,
    KEEP_AUTO,
    Best,
    Checkpoint,
    Job,
    JobState,
    Keep,
    Run,
    Thinning,
)
from resilient_nb.core.names import did_you_mean, listed
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest

#: A checkpoint and a reason to keep it.
_Reason = tuple[str, str]

_COUNT = re.compile(r"[1-9][0-9]{0,8}\Z")
_FORMS = "5, last=5,every=1000,best=3:loss (or best=3:accuracy:max), all or auto"


@dataclass(frozen=True)
class Fate:
    """A checkpoint and why it is kept; without a reason it is superfluous."""

    checkpoint: Checkpoint
    reasons: tuple[str, ...] = ()


def fates(world: World, name: str, keep: Keep) -> tuple[Fate, ...]:
    """Return what the rule makes of each checkpoint of a run, in the order of their commits."""
    run = world.runs[name]
    reasons: dict[str, list[str]] = {identity: [] for identity in run.checkpoints}
    for identity, reason in [*_needed(world, run), *_wanted(world, run, keep)]:
        if identity in reasons:
            reasons[identity].append(reason)
    return tuple(Fate(c, tuple(reasons[c.id])) for c in run.checkpoints.values())


def superfluous(world: World, name: str, keep: Keep) -> tuple[str, ...]:
    """Return the checkpoints of a run that neither anybody needs nor the rule wants."""
    return tuple(fate.checkpoint.id for fate in fates(world, name, keep) if not fate.reasons)


def undecided(world: World, name: str, keep: Keep) -> str:
    """Say why a rule can't tell a run's best: no checkpoint has the metric, misspelt, say.

    Until one has it, the rule drops nothing while there is room (`for_room`). Return "" if it can
    tell. That `auto` goes by `loss`, nobody has asked for: it goes by the last alone then.
    """
    known = _metrics(world, name)
    lacking = [best.metric for best in keep.best if best.metric not in known]
    if keep.thinning is not Thinning.ALWAYS or not world.runs[name].checkpoints or not lacking:
        return ""
    hint = did_you_mean(lacking[0], known)
    return (
        f"No checkpoint of {name} has the metric {lacking[0]} yet, so the rule {keep} drops "
        f"nothing while there is room: it can't tell which are the best. Metrics there are: "
        f"{listed(known)}{hint}"
    )


def for_room(world: World, name: str, keep: Keep) -> Keep:
    """Return the rule by which a full store is thinned: of what it can't tell, the newest stay."""
    if not undecided(world, name, keep):
        return keep
    known = _metrics(world, name)
    told = tuple(best for best in keep.best if best.metric in known)
    newest = max(best.count for best in keep.best if best.metric not in known)
    return replace(keep, last=max(keep.last, newest), best=told)


def _metrics(world: World, name: str) -> set[str]:
    return {metric for c in world.runs[name].checkpoints.values() for metric in c.metrics}


def rule_of(world: World, name: str) -> Keep:
    """Return the rule of a run: that of its newest job."""
    jobs = world.runs[name].jobs
    return world.jobs[jobs[-1]].spec.keep if jobs else KEEP_AUTO


def start_of(world: World, job: Job) -> str | None:
    """Return the checkpoint that an unfinished job goes on from, in this attempt or the next."""
    at = world.runs[job.run].head
    while at is not None and job.state.holds_gang:
        checkpoint = world.checkpoint(at)
        if (checkpoint.run, checkpoint.epoch) != (job.run, job.epoch):
            break
        at = checkpoint.parent
    return at


def was_dropped(world: World, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint of an attempt must have been committed and dropped already.

    An attempt commits its checkpoints in the order of their steps.
    """
    run = world.runs.get(checkpoint.run)
    if run is None or run.head is None or checkpoint.id in run.checkpoints:
        return False
    head = world.checkpoint(run.head)
    same = (head.run, head.job, head.epoch) == (run.name, checkpoint.job, checkpoint.epoch)
    return same and checkpoint.step < head.step


def _needed(world: World, run: Run) -> Iterator[_Reason]:
    for other in pointing(world, run):
        for identity, roles in targets(other).items():
            for role in roles:
                if role == "origin":
                    yield identity, f"{other.name} begins here"
                else:
                    yield identity, role if other is run else f"{role} of {other.name}"
        job = world.active_job(other.name)
        start = start_of(world, job) if job is not None else None
        if job is not None and start is not None:
            yield start, f"{job.id} goes on from here"
    last = {checkpoint.job: identity for identity, checkpoint in run.checkpoints.items()}
    for name, identity in last.items():
        job = world.jobs.get(name)  # none: it was imported, or a damaged journal has lost the job
        if job is not None and job.state is JobState.SUCCEEDED:
            yield identity, f"end of {name}"


def _wanted(world: World, run: Run, keep: Keep) -> Iterator[_Reason]:
    own = list(run.checkpoints.values())
    if keep.thinning is Thinning.NEVER:
        yield from ((c.id, "the rule keeps all") for c in own)
        return
    if keep.last > 0:
        which = "the last" if keep.last == 1 else f"one of the last {keep.last}"
        yield from ((c.id, which) for c in own[-keep.last :])
    if keep.every > 0:
        for c in own:
            mark = c.step // keep.every * keep.every
            if mark > (world.checkpoint(c.parent).step if c.parent is not None else 0):
                yield c.id, f"the first from step {mark} on"
    for best in keep.best:
        yield from _best(own, best)
    if undecided(world, run.name, keep):
        yield from ((c.id, "the rule can't tell the best") for c in own)


def _best(own: list[Checkpoint], best: Best) -> Iterator[_Reason]:
    """Of equal values the earlier is the better, so that a plateau changes nothing."""
    values = [(c.metrics[best.metric], c) for c in own if best.metric in c.metrics]
    sign = -1 if best.greatest else 1
    order = sorted((pair for pair in values if isfinite(pair[0])), key=lambda p: sign * p[0])
    for place, (_, c) in enumerate(order[: max(0, best.count)], 1):
        yield c.id, f"best by {best.metric}" if place == 1 else f"number {place} by {best.metric}"


def parse_keep(text: str) -> Keep:
    """Return the rule that a user writes.

    Raises:
        InvalidRequest: it is none, with what would be right.
    """
    if text in ("all", "auto"):
        return KEEP_ALL if text == "all" else KEEP_AUTO
    if "=" not in text and _COUNT.match(text):
        return Keep(last=int(text))
    keep = Keep()
    for part in text.split(","):
        word, mark, value = part.strip().partition("=")
        if not mark or word not in ("last", "every", "best"):
            raise InvalidRequest(f"{text!r} is no rule of what to keep. Write {_FORMS}.")
        if (word == "last" and keep.last) or (word == "every" and keep.every):
            raise InvalidRequest(f"{word} is given twice in {text!r}: keep one.")
        if word == "last":
            keep = replace(keep, last=_count(word, value))
        elif word == "every":
            keep = replace(keep, every=_count(word, value))
        else:
            keep = replace(keep, best=(*keep.best, _parse_best(value, keep)))
    return keep


def _parse_best(value: str, keep: Keep) -> Best:
    count, _, metric = value.partition(":")
    greatest = metric.endswith(":max")
    if metric.endswith((":min", ":max")):
        metric = metric[:-4]
    if not metric:
        raise InvalidRequest(
            f"best={value}: the best by what? Write best=3:loss for the least loss, or "
            "best=3:accuracy:max for the greatest accuracy; it must be logged with run.log."
        )
    if any(best.metric == metric for best in keep.best):
        raise InvalidRequest(f"best names {metric} twice: keep one.")
    return Best(_count("best", count), metric, greatest)


def _count(word: str, value: str) -> int:
    if not _COUNT.match(value):
        what = {"last": "last=5", "every": "every=1000 (steps)", "best": "best=3:loss"}[word]
        raise InvalidRequest(f"{word} takes a whole number of 1 or more, not {value!r}: {what}.")
    return int(value)
