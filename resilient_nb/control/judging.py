"""Which jobs are worth going on with: looked at now and then, proposed, and stopped if told to.

What is found is journaled when it is new and when it doesn't hold any more, so that nobody is told
twice, also after a restart. What measuring it takes (speeds) is not: it is soon measured again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from resilient_nb.core import events as ev
from resilient_nb.core import proposals
from resilient_nb.core.hopeless import Pace, dominated, late
from resilient_nb.core.model import Futile, Job, JobState, Proposal, StopPolicy, StopReason
from resilient_nb.core.progress import UNSURE, Finding, Points, converged, judged
from resilient_nb.core.world import World

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: Seconds between two looks at a job, and between two comparisons with its siblings.
LOOK_EVERY, COMPARE_EVERY = 10.0, 60.0
#: What is over sooner than in so many seconds isn't worth stopping; of jobs of which nobody knows
#: how long they run, those that have run for less.
WORTH = 20.0
#: A job is stopped for a proposal that has stood for so many seconds, and for this part of the
#: time that it has run: noise comes and goes. A deadline that has passed has passed.
CONFIRM, CONFIRM_PART = 30.0, 0.05
#: What was withdrawn isn't proposed again for so many seconds.
AGAIN = 600.0
#: Measurements of a job's speed that are kept, over times that grow with its age; and siblings
#: that it is compared with, the newest.
_MARKS, _SIBLINGS = 64, 10


class Judging:
    """Judges the jobs of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next: dict[str, float] = {}
        self._compare: dict[str, float] = {}
        self._speeds: dict[str, _Speeds] = {}
        self._withdrawn: dict[tuple[str, str], float] = {}
        self._families = _Families()

    def look(self) -> None:
        """Look at every job whose turn it is."""
        now = self._engine.now()
        for name in tuple(self._engine.world.open):
            if now < self._next.get(name, 0.0):
                continue
            job = self._engine.world.open.get(name)  # one that is stopped may end others
            if job is not None:
                self._next[name] = _next_look(job, now)
                self._judge(job, now)
        if len(self._next) > 2 * len(self._engine.world.open) + 100:
            self._forget(self._engine.world.open)

    def _forget(self, jobs: Mapping[str, Job]) -> None:
        self._next = {job: at for job, at in self._next.items() if job in jobs}
        self._compare = {job: at for job, at in self._compare.items() if job in jobs}
        self._speeds = {job: known for job, known in self._speeds.items() if job in jobs}
        self._withdrawn = {key: at for key, at in self._withdrawn.items() if key[0] in jobs}

    def _judge(self, job: Job, now: float) -> None:
        for kind, finding in self._findings(job, now):
            stands = any(p.kind == kind for p in job.proposals)
            if finding.holds and not stands:
                if now - self._withdrawn.get((job.id, kind), -AGAIN) >= AGAIN:
                    self._engine.record(ev.StopProposed(now, job.id, kind, finding.evidence))
            elif finding.holds is False and stands:
                self._withdrawn[job.id, kind] = now
                self._engine.record(ev.ProposalWithdrawn(now, job.id, kind))
        self._enforce(self._engine.world.jobs[job.id], now)

    # --- finding ------------------------------------------------------------------------

    def _findings(self, job: Job, now: float) -> Iterator[tuple[Futile, Finding]]:
        if job.state is JobState.RUNNING:
            live = self._engine.live.of(job.id)
            step = max((row.step for row in live.ranks), default=0)
            total = next((r.total_steps for r in live.ranks if r.total_steps is not None), None)
            self._speeds.setdefault(job.id, _Speeds()).add(now, step, total, job.epoch)
            if self._is_worth_it(job, now):
                series = self._engine.series(job.id)
                yield Futile.CONVERGED, converged(series, job.spec.keep, total)
                if now >= self._compare.get(job.id, 0.0):
                    self._compare[job.id] = now + COMPARE_EVERY
                    yield Futile.DOMINATED, self._dominated(job, series)
        if job.spec.deadline is not None and not job.state.final:
            pace = self._speeds.get(job.id, _Speeds()).pace()
            most = max(job.spec.workers, job.spec.max_workers)
            pace = replace(pace, growth=most / (job.granted or job.spec.workers))
            yield Futile.LATE, late(pace, job.submitted_at + job.spec.deadline, now)

    def _is_worth_it(self, job: Job, now: float) -> bool:
        left = self._engine.live.remaining(job.id)
        return (now - (job.started_at or now) if left is None else left) >= WORTH

    def _dominated(self, job: Job, series: Mapping[str, Points]) -> Finding:
        names = self._families.siblings(self._engine.world, job)[-_SIBLINGS:]
        if not names:
            return UNSURE
        siblings = {name: self._engine.series(name) for name in names}
        findings = [
            dominated(
                metric,
                series[metric],
                {name: known[metric] for name, known in siblings.items() if metric in known},
                greatest,
            )
            for metric, greatest in judged(series, job.spec.keep).items()
        ]
        # Whoever is as good as the others by one of its metrics is not dominated.
        if not findings or any(found.holds is None for found in findings):
            return UNSURE
        if not all(found.holds for found in findings):
            return Finding(False)
        return Finding(True, tuple(line for found in findings for line in found.evidence))

    # --- stopping -----------------------------------------------------------------------

    def _enforce(self, job: Job, now: float) -> None:
        """Stop a job that is to be stopped, at a checkpoint."""
        if job.spec.stop_policy is not StopPolicy.STOP or job.stop is not None:
            return
        firm = next((p for p in job.proposals if self._is_firm(job, p, now)), None)
        if firm is None:
            return
        reason = " ".join(firm.evidence)
        text = f"Stopped, since {proposals.why(firm.kind)} (--stop-policy stop). {reason}"
        if job.state is JobState.QUEUED:
            self._engine.record(
                *proposals.ending(self._engine.world, replace(job, message=text), now)
            )
        elif job.state is JobState.RUNNING:
            self._engine.stop(ev.StopRequested(now, job.id, StopReason.ENOUGH, text))

    def _is_firm(self, job: Job, proposal: Proposal, now: float) -> bool:
        deadline = job.spec.deadline
        passed = deadline is not None and now >= job.submitted_at + deadline
        if proposal.kind is Futile.LATE and passed:
            return True
        ran = now - (job.started_at or now)
        stood = now - proposal.at >= max(CONFIRM, CONFIRM_PART * ran)
        return stood and self._is_worth_it(job, now)


def _next_look(job: Job, now: float) -> float:
    """Return when to look again: a deadline that passes is seen at once."""
    deadline = job.submitted_at + (job.spec.deadline or 0.0)
    return min(now + LOOK_EVERY, deadline) if deadline > now else now + LOOK_EVERY


@dataclass
class _Speeds:
    """How fast a job has made its steps: (time, step, epoch) of each look, thinned."""

    marks: list[tuple[float, int, int]] = field(default_factory=list)
    total: int | None = None

    def add(self, now: float, step: int, total: int | None, epoch: int) -> None:
        if step <= 0 or (self.marks and now <= self.marks[-1][0]):
            return
        self.total = total
        self.marks.append((now, step, epoch))
        if len(self.marks) > _MARKS:
            self.marks = [*self.marks[:-1:2], self.marks[-1]]

    def pace(self) -> Pace:
        if not self.marks:
            return Pace()
        pairs = [
            (later[0] - one[0], later[1] - one[1])
            for one, later in pairwise(self.marks)
            if one[2] == later[2] and later[1] >= one[1]
        ]
        return Pace(
            speeds=tuple(steps / seconds for seconds, steps in pairs),
            done=self.marks[-1][1],
            total=self.total,
            made=sum(steps for _, steps in pairs),
            ran=sum(seconds for seconds, _ in pairs),
        )


class _Families:
    """Which jobs are siblings: of the same user, and with the same cell or in one tree of forks.

    Jobs are only ever added, so what is known of them is never looked up again.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._members: dict[tuple[str, str, str], list[str]] = {}

    def siblings(self, world: World, job: Job) -> list[str]:
        """Return a job's siblings, the oldest first."""
        for other in islice(world.jobs.values(), self._seen, None):
            for key in _keys(world, other):
                self._members.setdefault(key, []).append(other.id)
        self._seen = len(world.jobs)
        found = {name for key in _keys(world, job) for name in self._members.get(key, ())}
        found.discard(job.id)
        return sorted(found, key=lambda name: (world.jobs[name].submitted_at, name))


def _keys(world: World, job: Job) -> tuple[tuple[str, str, str], ...]:
    root = world.runs[job.run]
    while root.forked_from is not None:
        root = world.runs[root.forked_from.partition("/")[0]]
    return (job.spec.user, "run", root.name), (job.spec.user, "cell", job.spec.cell.source)
