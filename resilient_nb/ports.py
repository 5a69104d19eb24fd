"""What the shells around the core implement, as Protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from resilient_nb.core.events import Event
from resilient_nb.core.facts import Facts


class Clock(Protocol):
    """Seconds since the Unix epoch."""

    def __call__(self) -> float: ...


class Records(Protocol):
    """What was measured of jobs, thinned so that it is bounded. No truth depends on it."""

    crowded: set[str]  # jobs that have too many metrics: the last ones aren't kept

    def write(
        self,
        points: Iterable[tuple[str, str, int, float]] = (),
        facts: Iterable[tuple[str, int, Facts]] = (),
    ) -> None:
        """Keep metric points (job, metric, step, value) and what ranks (job, rank) did, or none.

        A point supersedes those of its step and later ones. Facts of the same time add up.
        """

    def series(self, job: str, limit: int) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """Return each metric of a job as at most `limit` (step, value) pairs, in order."""

    def newest(self, jobs: Iterable[str]) -> Mapping[str, Mapping[str, float]]:
        """Return the newest value of each metric of jobs."""

    def facts(self, job: str, rank: int | None = None) -> Mapping[int, Sequence[Facts]]:
        """Return the rows of a job's ranks, or of one, in order."""

    def totals(self, jobs: Iterable[str]) -> Mapping[str, Facts]:
        """Return what the gangs of jobs did in all, if anything was measured."""


class Journal(Protocol):
    """The append-only event log that is the truth about jobs, and measurements beside it."""

    @property
    def records(self) -> Records: ...

    def append(self, events: Sequence[Event]) -> None:
        """Make all `events` durable, or none.

        Raises:
            JournalFailed: its disk is full, say; a later one may succeed.
        """

    def probe(self) -> None:
        """Raise JournalFailed if events couldn't be written now."""

    def events(self) -> Iterable[Event]:
        """Return every event in the order of appending."""

    def close(self) -> None: ...


class Launcher(Protocol):
    """Carries an order to the supervisor of a host. False if no agent there can take it."""

    def __call__(self, host: str, order: object) -> bool: ...
