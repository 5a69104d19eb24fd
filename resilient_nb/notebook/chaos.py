"""Breaking a job on purpose, once or at random for a while, and reporting what came of it.

Nothing depends on this process: what was broken mends itself, whether it is still here or not.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from resilient_nb.client import Client
from resilient_nb.core.chaos import ChaosReport, Planned, said, schedule, unchanged
from resilient_nb.core.model import Injected, Injection, JobState
from resilient_nb.core.views import JobView
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.grammar import Arguments
from resilient_nb.wire.requests import Inject

#: How long the job may take to go on before the report is given; and for how long at least it is
#: watched, since what was done may show only at the next step.
_PATIENCE, _ECHO = 60.0, 1.0

Say = Callable[[str], None]


@dataclass
class Chaos:
    """One round of it.

    Attributes:
        client: of the cluster.
        job: whose job it must be, the server knows.
        say: shows each failure as it is made.
        refused: what couldn't be done, and why.
    """

    client: Client
    job: str
    say: Say
    refused: list[str] = field(default_factory=list)

    def inject(self, kind: Injection, rank: int, seconds: float | None) -> Injected:
        """Break one thing.

        Raises:
            NotAllowed: it is another user's job.
            InvalidRequest: it doesn't run, or has no such thing.
        """
        done = self.client.inject(Inject(self.job, kind, uuid.uuid4().hex, rank, seconds))
        self.say(f"{self.job}: {said(done)}")
        return done

    def follow(self, planned: Sequence[Planned], span: float) -> None:
        """Break what a schedule says, when it says so, until the job ends or time is over."""
        began = time.monotonic()
        for each in planned:
            if self._wait(began + each.at).state.final:
                return
            rank = each.rank(max(1, len(self._view().ranks)))
            try:
                self.inject(each.kind, rank, None)
            except InvalidRequest as error:
                self.refused.append(f"{each.kind}: {error}")
        self._wait(began + span)

    def settle(self, lasting: float = 0.0) -> None:
        """Wait until the job has made a step after all of this, or has ended."""
        view = self._wait(time.monotonic() + lasting + _ECHO)
        give_up, first = time.monotonic() + _PATIENCE, view.step
        seen, epoch = -1, view.epoch
        while not view.state.final and time.monotonic() < give_up:
            watched = self.client.watch(self.job, seen, 2.0)
            seen, view = watched.version, watched.job
            if view.epoch != epoch:
                epoch, first = view.epoch, view.step
            if view.state is JobState.RUNNING and view.step > first:
                return

    def report(self, compare: str | None) -> ChaosReport:
        """Return what was done and what it cost, and whether the numbers are those of a run."""
        view = self._view()
        checked, same = 0, None
        if compare is not None:
            checked, same = unchanged(*(self._digests(run) for run in (view.run, compare)))
        return ChaosReport(
            job=view.id,
            state=view.state,
            injected=view.chaos,
            refused=tuple(self.refused),
            failures=tuple(failure.cause for failure in view.failures),
            goodput=view.goodput,
            compared=compare or "",
            checked=checked,
            unchanged=same,
        )

    def _digests(self, run: str) -> dict[int, str]:
        [view] = self.client.runs(run)
        return {checkpoint.step: checkpoint.digest for checkpoint in view.checkpoints}

    def _view(self) -> JobView:
        return self.client.watch(self.job, timeout=0.0).job

    def _wait(self, until: float) -> JobView:
        """Return the job when it is time, or when it has ended."""
        seen, view = -1, self._view()
        while not view.state.final and (left := until - time.monotonic()) > 0:
            watched = self.client.watch(self.job, seen, min(left, 5.0))
            seen, view = watched.version, watched.job
        return view


def make_chaos(client: Client, arguments: Arguments, say: Say) -> ChaosReport:
    """Do what was typed, wait until the job has got over it, and report.

    Raises:
        NotAllowed: it is another user's job.
        InvalidRequest: it doesn't run, or has no such thing.
    """
    view = client.watch(str(arguments["job"]), timeout=0.0).job
    chaos, lasts = Chaos(client, view.id, say), arguments["for"]
    if arguments["compare"] is not None:
        client.runs(arguments["compare"])  # nothing is broken for a run that there isn't
    if arguments["what"] == "random":
        span = 300.0 if lasts is None else lasts
        chaos.follow(schedule(arguments["seed"] or 0, arguments["every"] or 30.0, span), span)
        chaos.settle()
    elif arguments["what"] != "report":
        done = chaos.inject(Injection(arguments["what"]), arguments["rank"] or 0, lasts)
        chaos.settle(done.seconds)
    return chaos.report(arguments["compare"])
