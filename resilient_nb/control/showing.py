"""What is shown of a job beyond the journal: samples, alerts, goodput, and why it waits.

What was measured before this process began is read from the records when somebody first asks:
most jobs are over, and nobody looks at them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from resilient_nb.control.live import SHOWN_POINTS
from resilient_nb.core.model import Job, JobState
from resilient_nb.core.views import Live

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine


class Showing:
    """Joins what is known of jobs; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loaded: set[str] = set()

    def of(self, job: Job) -> Live:
        """Return all of it."""
        self.load_series(job.id)
        return self._with_more(job, self._engine.live.of(job.id))

    def brief(self, job: Job) -> Live:
        """Return it without what may be long."""
        self.load_series(job.id)
        return self._with_more(job, self._engine.live.brief(job.id))

    def load_series(self, job: str) -> None:
        """Read what was measured before this process began, once."""
        if job not in self._loaded:
            self._loaded.add(job)
            series = self._engine.recording.series(job, SHOWN_POINTS)
            self._engine.live.load_series(job, series)

    def _with_more(self, job: Job, live: Live) -> Live:
        """Add what isn't in the table of live jobs."""
        engine = self._engine
        trouble = () if job.state.final or not engine.trouble else (engine.trouble,)
        alerts = (*engine.job_alerts.get(job.id, ()), *trouble)
        goodput = engine.tallies.goodput(job.id, engine.now())
        live = replace(live, alerts=alerts, goodput=goodput)
        if job.state is JobState.QUEUED:
            live = replace(
                live,
                waiting=engine.queue.reason(job),
                position=engine.queue.position(job),
                starts_at=engine.queue.starts_at(job),
            )
        return live
