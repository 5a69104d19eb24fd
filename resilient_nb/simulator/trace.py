"""A trace: jobs with their times of submission, read from a CSV file.

The columns are `submit_s,user,group,workers,duration_s,priority`, in any order; `req_s` (the
duration that its user declared) and others may follow. Without a user, a job belongs to one
user per group; without a group, to `DEFAULT_GROUP`; without a priority, to normal. A file with
a column `workload` holds several independent traces. `est_duration_s` does for `duration_s`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resilient_nb.core.model import Priority
from resilient_nb.core.policy import DEFAULT_GROUP
from resilient_nb.errors import InvalidRequest

#: Slots that jobs would use if none had to wait, over slots; see `fitting_workers`. At 1 jobs
#: bring on average what the cluster can do, so that queues form and how they are served matters.
LOAD = 1.0


@dataclass(frozen=True)
class Job:
    """One job of a trace. Times in seconds; `duration` is with exactly `workers` workers."""

    submit: float
    user: str
    group: str
    workers: int
    duration: float
    priority: Priority = Priority.NORMAL
    declared: float | None = None


@dataclass(frozen=True)
class Trace:
    """Jobs in the order of submission; the first one's submission is at 0."""

    name: str
    jobs: tuple[Job, ...]

    @property
    def span(self) -> float:
        """Seconds from the first submission to the last."""
        return self.jobs[-1].submit if self.jobs else 0.0

    @property
    def work(self) -> float:
        """Slot-seconds of all jobs."""
        return math.fsum(job.workers * job.duration for job in self.jobs)

    @property
    def widest(self) -> int:
        """Workers of the widest job."""
        return max((job.workers for job in self.jobs), default=0)


def make(name: str, jobs: Iterable[Job]) -> Trace:
    """Return a trace: jobs sorted by submission (the order of the input for equal times)."""
    ordered = sorted(jobs, key=lambda job: job.submit)
    zero = ordered[0].submit if ordered else 0.0
    return Trace(name, tuple(replace(job, submit=job.submit - zero) for job in ordered))


def usage(trace: Trace, squeeze: float = 1.0) -> float:
    """Return the slots that a cluster without limit would have in use, on average while jobs are
    submitted; with all times of submission multiplied by `squeeze`."""
    span = trace.span * squeeze
    if span <= 0:
        return float(trace.widest)
    runs = np.minimum(_column(trace, "duration"), span - squeeze * _column(trace, "submit"))
    return float((runs * _column(trace, "workers")).sum() / span)


def fitting_workers(trace: Trace, load: float = LOAD) -> int:
    """Return a size for the cluster that depends on the trace only.

    What a cluster without limit would use (`usage`) is the fraction `load` of it; and the widest
    job fits.
    """
    return max(trace.widest, math.ceil(usage(trace) / load), 1)


def squeezed(trace: Trace, workers: int, load: float = LOAD) -> Trace:
    """Return the trace with its submissions closer together, if that takes to reach the load.

    Without it, a trace whose widest job alone asks for a large cluster has nothing to decide.
    """
    low, high = 0.001, 1.0
    if usage(trace) >= load * workers or usage(trace, low) < load * workers:
        return trace
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if usage(trace, middle) > load * workers else (low, middle)
    return scaled(trace, high)


def _column(trace: Trace, name: str) -> npt.NDArray[np.float64]:
    return np.array([getattr(job, name) for job in trace.jobs], dtype=np.float64)


def window(trace: Trace, limit: int, first: int = 0) -> Trace:
    """Return `limit` consecutive jobs, beginning with the job number `first`."""
    return make(trace.name, trace.jobs[first : first + limit])


def scaled(trace: Trace, factor: float) -> Trace:
    """Return the trace with all times of submission multiplied (0.5: twice the load)."""
    return Trace(trace.name, tuple(replace(job, submit=job.submit * factor) for job in trace.jobs))


def read(path: Path) -> tuple[Trace, ...]:
    """Read a file; the traces of its workloads in their order, or the only one.

    Raises:
        InvalidRequest: there is no such file, or a line is wrong; it names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"Can't read the trace {path}: {error}.") from error
    rows = csv.DictReader(text.splitlines())
    _check_header(path, rows.fieldnames or ())
    found: dict[str, list[Job]] = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if None in row:
            raise InvalidRequest(f"{where}: more values than the header has columns.")
        given = {name: (value or "").strip() for name, value in row.items()}
        found.setdefault(given.get("workload", ""), []).append(_job(where, given))
    if not found:
        raise InvalidRequest(f"{path} has no jobs: only a header.")
    return tuple(
        make(f"{path.stem}/{workload}" if workload else path.stem, jobs)
        for workload, jobs in found.items()
    )


def _check_header(path: Path, names: Iterable[str]) -> None:
    have = set(names)
    missing = [name for name in ("submit_s", "workers") if name not in have]
    if not have & {"duration_s", "est_duration_s"}:
        missing.append("duration_s")
    if missing:
        raise InvalidRequest(
            f"{path}, line 1: no column {' nor '.join(missing)}. A trace begins with the line "
            "submit_s,user,group,workers,duration_s,priority."
        )


def _job(where: str, given: Mapping[str, str]) -> Job:
    duration = "duration_s" if "duration_s" in given else "est_duration_s"
    group = given.get("group", "") or DEFAULT_GROUP
    declared = given.get("req_s", "")
    workers = _number(where, given, "workers", least=1)
    if workers != int(workers):
        raise InvalidRequest(f"{where}: workers is {workers:g}, which isn't a whole number.")
    return Job(
        submit=_number(where, given, "submit_s", least=0),
        user=given.get("user", "") or f"user of {group}",
        group=group,
        workers=int(workers),
        duration=_positive(where, given, duration),
        priority=_priority(where, given.get("priority", "")),
        declared=_positive(where, given, "req_s") if declared else None,
    )


def _number(where: str, given: Mapping[str, str], column: str, least: float) -> float:
    try:
        value = float(given.get(column, ""))
    except ValueError:
        word = repr(given.get(column, "")) if given.get(column) else "missing"
        raise InvalidRequest(f"{where}: {column} is {word}; it must be a number.") from None
    if not math.isfinite(value) or value < least:
        raise InvalidRequest(f"{where}: {column} is {value:g}; it must be at least {least:g}.")
    return value


def _positive(where: str, given: Mapping[str, str], column: str) -> float:
    value = _number(where, given, column, least=0)
    if value == 0:
        raise InvalidRequest(f"{where}: {column} is 0; it must be more.")
    return value


def _priority(where: str, word: str) -> Priority:
    try:
        return Priority(word.lower() or "normal")
    except ValueError:
        raise InvalidRequest(
            f"{where}: priority is {word!r}; it must be {', '.join(Priority)} or empty."
        ) from None
