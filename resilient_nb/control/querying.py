"""Answers to queries: jobs in numbers, and what was recorded of one. They take their time.

So each is a function that is called in a thread: it has the world as it was when it was asked
for, and reads the journal's file by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from resilient_nb.core.facts import in_all, thinned, together
from resilient_nb.core.model import Job
from resilient_nb.core.querying import (
    FactsReport,
    JobRow,
    Query,
    RankFacts,
    candidates,
    fits,
    row_of,
)
from resilient_nb.core.world import World
from resilient_nb.ports import Records


def find_jobs(world: World, records: Records, query: Query) -> Callable[[], list[JobRow]]:
    """Return what finds the jobs that are asked for, the newest first."""

    def find() -> list[JobRow]:
        jobs = list(candidates(world, query))
        if not query.metrics:
            jobs = jobs[: query.limit]
        metrics = records.newest(job.id for job in jobs)
        found = list(islice((j for j in jobs if fits(metrics[j.id], query)), query.limit))
        totals = records.totals(job.id for job in found)
        return [row_of(world, job, metrics[job.id], totals.get(job.id)) for job in found]

    return find


def read_facts(
    job: Job, records: Records, rank: int | None, most: int
) -> Callable[[], FactsReport]:
    """Return what reads the facts of a job's ranks, or of one, as at most `most` rows each."""

    def read() -> FactsReport:
        ranks = []
        for number, rows in records.facts(job.id, rank).items():
            kept = thinned(rows, most) if len(rows) > most else rows
            ranks.append(RankFacts(number, in_all(rows), tuple(kept)))
        whole = together([found.total for found in ranks]) if ranks else None
        return FactsReport(job.id, whole, tuple(ranks))

    return read
