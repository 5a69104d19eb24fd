"""Made-up traces, all of them from a seed: where no real ones are, and cases with an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from resilient_nb.core.model import Priority
from resilient_nb.simulator.trace import Job, Trace, make

HOUR = 3600.0


def bursty(seed: int, count: int = 1500, span: float = 7 * 24 * HOUR) -> Trace:
    """Return a week of a research cluster: users in groups who submit several jobs at once.

    Durations are log-normal with a median of 20 minutes and a heavy tail (of days at most),
    widths are powers of two up to 16, most of them 1: what published traces of GPU clusters
    have in common (Jeon et al., ATC 2019; Hu et al., SC 2021).
    """
    random = np.random.default_rng(seed)
    users = [(f"g{n % 4}", f"u{n}") for n in range(16)]
    appetite = random.dirichlet(np.full(len(users), 0.7))
    jobs: list[Job] = []
    while len(jobs) < count:
        group, user = users[int(random.choice(len(users), p=appetite))]
        at = float(random.uniform(0, span))
        workers = int(2 ** min(4, random.geometric(0.55) - 1))
        typical = float(np.exp(random.normal(np.log(1200), 1.6)))
        for _ in range(min(int(random.geometric(0.3)), count - len(jobs))):
            duration = float(np.clip(typical * np.exp(random.normal(0, 0.5)), 10, 3 * 24 * HOUR))
            jobs.append(Job(round(at), user, group, workers, round(duration)))
            at += float(random.exponential(60))
    return make(f"synthetic/{seed}", jobs)


@dataclass(frozen=True)
class Crowd:
    """Users who all want more than there is, all the time.

    Attributes:
        members: how many users each group has.
        hours: how long they submit.
        supply: work that each user submits, as a part of what the cluster could do.
        floods: the first user of the first group submits jobs of one worker and 1 to 5 minutes;
            all others of 1 to 4 workers and 20 minutes to 4 hours.
        joins: the last user of the last group begins after so many hours.
    """

    members: tuple[int, ...]
    workers: int
    hours: float
    supply: float = 0.3
    floods: bool = False
    joins: float = 0.0

    def trace(self, seed: int = 0) -> Trace:
        """Return their submissions; each begins with an hour of the whole cluster's work."""
        random = np.random.default_rng(seed)
        jobs: list[Job] = []
        for group, count in enumerate(self.members):
            for user in range(count):
                last = (group, user) == (len(self.members) - 1, count - 1)
                begin = self.joins * HOUR if last else 0.0
                floods = self.floods and (group, user) == (0, 0)
                jobs += self._jobs(random, (f"g{group}", f"u{group}.{user}"), begin, floods)
        return make("crowd", jobs)

    def _jobs(
        self, random: np.random.Generator, owner: tuple[str, str], at: float, floods: bool
    ) -> Iterator[Job]:
        group, user = owner
        stock = self.workers * HOUR
        low, high, most = (60.0, 300.0, 1) if floods else (1200.0, 4 * HOUR, 4)
        while at < self.hours * HOUR:
            size, duration = int(random.integers(1, most + 1)), round(random.uniform(low, high))
            yield Job(round(at), user, group, size, duration)
            stock -= size * duration
            if stock < 0:
                at += size * duration / (self.supply * self.workers)


def greedy(trace: Trace, user: tuple[str, str]) -> Trace:
    """Return the trace with every job of one (group, user) marked high."""
    jobs = (
        replace(job, priority=Priority.HIGH) if (job.group, job.user) == user else job
        for job in trace.jobs
    )
    return Trace(f"{trace.name}, {user[1]} marks all high", tuple(jobs))
