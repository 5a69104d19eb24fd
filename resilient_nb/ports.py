"""What the shells around the core implement, as Protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from resilient_nb.core.events import Event


class Clock(Protocol):
    """Seconds since the Unix epoch."""

    def __call__(self) -> float: ...


class Journal(Protocol):
    """The append-only event log that is the truth about jobs, and the samples beside it."""

    def append(self, events: Sequence[Event]) -> None:
        """Make all `events` durable, or none."""

    def events(self) -> Iterable[Event]:
        """Return every event in the order of appending."""

    def record(self, rows: Iterable[tuple[str, str, int, float]]) -> None:
        """Keep metric points (job, metric, step, value); the last for a step wins."""

    def series(self, job: str, limit: int) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """Return each metric of a job as at most `limit` (step, value) pairs, in order."""

    def close(self) -> None: ...


class Launcher(Protocol):
    """Carries an order to the supervisor of a host. False if no agent there can take it."""

    def __call__(self, host: str, order: object) -> bool: ...
