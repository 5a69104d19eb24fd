"""Spans of jobs: submit, job, attempt and rank, from what the journal says. Pure.

Their ids follow from the names of what they are of, so that a control plane that was restarted
gives a span that began before it the place that its children were told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from resilient_nb.core.model import Job, JobState, Outcome, RankEnd

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
#: Ranks of an attempt that get spans of their own.
_MOST_RANKS = 256


@dataclass(frozen=True)
class Parent:
    """Where a span belongs, as W3C's `traceparent` says it: ids in hexadecimal digits."""

    trace: str
    span: str
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-{'01' if self.sampled else '00'}"

    def child(self, *names: object) -> Parent:
        """Return the place of a span of this trace with these names."""
        return Parent(self.trace, _digits(self.trace, *names)[:16], self.sampled)


@dataclass(frozen=True)
class Span:
    """Something that took from `start` to `end`. `error` says what went wrong, "" if nothing."""

    name: str
    place: Parent
    parent: str  # the span that it is a part of, "" if of none
    start: float
    end: float
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    error: str = ""


def parse(text: str) -> Parent | None:
    """Return what a `traceparent` says, None if it says nothing."""
    match = _TRACEPARENT.match(text)
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    return Parent(match[1], match[2], bool(int(match[3], 16) & 1))


def submitted(cluster: str, job: Job) -> tuple[Parent, str]:
    """Return a job's place, and the span that it was submitted in ("": none is known)."""
    known = parse(job.spec.trace)
    if known is not None:
        return known.child("job", job.id), known.span
    alone = Parent(_digits(cluster, job.id, job.submitted_at)[:32], "0" * 16)
    return alone.child("job", job.id), ""


def attempt(cluster: str, job: Job) -> Parent:
    """Return the place of the job's current attempt."""
    return submitted(cluster, job)[0].child("attempt", job.id, job.epoch)


def rank(parent: Parent, number: int) -> Parent:
    """Return the place of a rank of an attempt."""
    return parent.child("rank", parent.span, number)


def ended(cluster: str, before: Job, after: Job, at: float) -> Iterator[Span]:
    """Yield the spans of what has ended: an attempt with its ranks, and perhaps the job.

    Args:
        cluster: its id.
        before: the job before its attempt ended, or before it was cancelled in the queue.
        after: the job now.
        at: when that was.
    """
    place, parent = submitted(cluster, before)
    if before.state.holds_gang:
        yield from _attempt(cluster, before, after, at)
    if after.state.final:
        failed = after.state is JobState.FAILED and after.failures
        facts = {
            "resilient_nb.run": after.run,
            "resilient_nb.job": after.id,
            "resilient_nb.user": after.spec.user,
            "resilient_nb.state": after.state.value,
            "resilient_nb.attempts": after.attempts,
            "resilient_nb.workers": after.spec.workers,
            "resilient_nb.priority": after.spec.priority.value,
        }
        error = after.failures[-1].message if failed else ""
        yield Span(f"job {after.id}", place, parent, after.submitted_at, at, facts, error)


def _attempt(cluster: str, before: Job, after: Job, at: float) -> Iterator[Span]:
    place = attempt(cluster, before)
    start = before.started_at if before.started_at is not None else at
    facts: dict[str, str | int | float] = {
        "resilient_nb.job": before.id,
        "resilient_nb.epoch": before.epoch,
        "resilient_nb.attempt": before.attempts,
        "resilient_nb.ranks": before.ranks,
        "resilient_nb.hosts": ",".join(dict.fromkeys(s.host for s in before.placement)),
        "resilient_nb.stopped_for": before.stop.value if before.stop else "",
    }
    error = ""
    if len(after.failures) > len(before.failures):
        failure = after.failures[-1]
        facts |= {"resilient_nb.cause": failure.cause, "resilient_nb.decision": failure.decision}
        facts |= {"resilient_nb.lost_steps": failure.lost_steps}
        error = failure.message
    for end in list(before.ends.values())[:_MOST_RANKS]:
        yield _rank(place, end, start, at)
    name = f"attempt {before.attempts} of {before.id}"
    yield Span(name, place, submitted(cluster, before)[0].span, start, at, facts, error)


def _rank(parent: Parent, end: RankEnd, start: float, at: float) -> Span:
    facts: dict[str, str | int | float] = {
        "resilient_nb.rank": end.rank,
        "host.name": end.host,
        "resilient_nb.step": end.step,
        "resilient_nb.outcome": end.outcome.value,
        "resilient_nb.peak_rss": end.peak_rss,
    }
    if end.signal is not None:
        facts["resilient_nb.signal"] = end.signal
    bad = end.outcome in (Outcome.FAILED, Outcome.EXITED, Outcome.LOST) and not end.ordered
    error = (end.error.type if end.error else end.outcome.value) if bad else ""
    # Clocks of hosts differ a little: a rank is in its attempt.
    until = min(max(start, end.at), at)
    return Span(f"rank {end.rank}", rank(parent, end.rank), parent.span, start, until, facts, error)


def _digits(*names: object) -> str:
    return sha256("\0".join(map(str, names)).encode()).hexdigest()
