"""Spans of jobs, attempts and ranks, sent as they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resilient_nb.core import events as ev
from resilient_nb.core import traces
from resilient_nb.core.world import World
from resilient_nb.tracing import Tracer

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: What ends an attempt, a job, or both.
_ENDS = (ev.JobRequeued, ev.JobSucceeded, ev.JobFailed, ev.JobCancelled)


class Spans:
    """Listens to an engine, if somebody takes spans."""

    def __init__(self, engine: Engine) -> None:
        self._tracer = Tracer("resilient_nb")
        if self._tracer.on:
            engine.listeners.append(self.heard)

    def heard(self, events: Sequence[ev.Event], before: World, after: World) -> None:
        """Send the spans of what these events have ended."""
        for event in events:
            if isinstance(event, _ENDS):
                was, now = before.jobs[event.job], after.jobs[event.job]
                for span in traces.ended(after.cluster_id, was, now, event.at):
                    self._tracer.send(span)

    def close(self) -> None:
        """Send what is left."""
        self._tracer.close()
