"""What the cases of the suite of faults share: faults inside a cell, and what is looked at."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

from resilient_nb.core.model import JobState
from resilient_nb.core.views import JobView
from tests.fault_world import Seen, Watched

NONE = "none"
#: Decisions, as the table has them.
RETRY, STOP, GOES_ON, REQUEUED = "retry", "stop", "goes on", "requeued"
PROPOSED, STOPPED, NOTED, MOVED = "proposed", "stopped at a checkpoint", "noted", "moved"
REMADE = "made again first"


def once(step: int, fault: str, rank: int = 1) -> str:
    """Return code that makes a fault on one rank at one step of the first attempt."""
    return f"if first and run.rank == {rank} and run.step == {step}:\n    strike()\n    {fault}"


def always(step: int, fault: str, rank: int = 1) -> str:
    """Return code that makes a fault in every attempt, and notes the first."""
    guard = f"if run.rank == {rank} and run.step == {step}:"
    return f"{guard}\n    strike() if first else None\n    {fault}"


def kill(view: JobView, rank: int) -> float:
    """Kill a rank; return when."""
    struck = time.time()
    os.kill(view.ranks[rank].pid, signal.SIGKILL)
    return struck


def goes_on(job: Watched, seen: Seen) -> Seen:
    """Check that the job succeeds in the end."""
    view = job.end(patience=90.0)
    return but(seen, unfinished(view))


def unfinished(view: JobView) -> str:
    return "" if view.state is JobState.SUCCEEDED else f"it is {view.state}: {view.reason}"


def but(seen: Seen, wrong: str) -> Seen:
    text = seen.wrong or wrong
    return replace(seen, wrong=text)


def with_stacks(job: Watched, seen: Seen) -> Seen:
    failure = job.failure()
    seen = blames(job, seen, 1)
    return goes_on(job, but(seen, "" if failure.stacks else "no stacks"))


def blames(job: Watched, seen: Seen, rank: int) -> Seen:
    blamed = job.failure().rank
    return but(seen, "" if blamed == rank else f"rank {blamed} is blamed")


def undisturbed(job: Watched) -> Seen:
    view = job.end(patience=90.0)
    wrong = "" if view.attempts == 1 else f"{view.attempts} attempts: {view.failures}"
    return Seen(NONE, GOES_ON, None, None, wrong or unfinished(view))
