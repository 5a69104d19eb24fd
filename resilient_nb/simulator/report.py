"""What a person reads: the settings of a run, and a table with a row for each policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import exp, fsum, log
from typing import Any

from resilient_nb.simulator.metrics import Summary
from resilient_nb.simulator.settings import Settings
from resilient_nb.simulator.trace import Trace, usage

_COLUMNS = (
    "policy", "JCT", "p95", "wait", "p95", "util", "Jain grp", "user", "preempt", "resize",
    "lost", "stretch", "plans", "ms",
)  # fmt: skip

LEGEND = """\
JCT: completion - submission, average and 95 %; wait: JCT less the time of holding slots; util:
slots held until the last submission; Jain: of held / entitled slot-seconds, weighed by the
entitlement; lost: slot-seconds of saves and restores / of work; stretch: the largest
(JCT - duration) / (duration + 6 h); ms: of one decision."""


def duration(seconds: float) -> str:
    """Return a time that is easy to compare: 45s, 12.3m, 4.56h or 12.3d."""
    if seconds < 120:
        return f"{seconds:.0f}s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f}m"
    if seconds < 3 * 86400:
        return f"{seconds / 3600:.2f}h"
    return f"{seconds / 86400:.1f}d"


def heading(trace: Trace, settings: Settings) -> str:
    """Return the settings of a run: everything that its figures depend on."""
    s, load = settings, usage(trace) / settings.workers
    lines = [
        f"{trace.name}: {len(trace.jobs)} jobs submitted in {duration(trace.span)}, "
        f"work {trace.work / 3600:.0f} slot-hours, widest {trace.widest}",
        f"  {s.workers} identical slots on hosts of {s.host_slots} "
        f"(load {load:.2f}: slots that would be busy if no job waited, over slots)",
        f"  save + restore {s.save_restore:g} s, checkpoints every {s.interval:g} s, decisions "
        f"at most every {s.replan_every:g} s, tick {s.tick:g} s",
        f"  predictions after {s.predict_after:g} s of work"
        + (", before that as declared" if s.use_declared else "")
        + (f", with log-normal errors of sigma {s.noise:g} (seed {s.seed})" if s.noise else ""),
        f"  elastic: {s.elastic.min_factor:g} to {s.elastic.max_factor:g} times the workers, "
        f"speed (n/w)^{s.elastic.exponent:g}",
    ]
    if any(job.declared for job in trace.jobs):
        lines.append("  easy plans with the declared durations")
    else:
        lines.append("  easy plans with the true durations (none are declared)")
    return "\n".join(lines)


def table(rows: Iterable[Summary]) -> str:
    """Return the figures of several policies on one trace."""
    cells = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(_COLUMNS))]
    lines = (
        "  ".join(
            text.ljust(width) if n == 0 else text.rjust(width)
            for n, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: Summary) -> tuple[str, ...]:
    return (
        row.policy, duration(row.jct), duration(row.jct_p95), duration(row.wait),
        duration(row.wait_p95), f"{row.utilisation:.3f}", f"{row.jain_groups:.3f}",
        f"{row.jain_users:.3f}", str(row.preemptions), str(row.resizes),
        f"{100 * row.lost:.2f}%", f"{row.stretch:.2f}", str(row.plans), f"{row.plan_ms:.2f}",
    )  # fmt: skip


def as_json(trace: Trace, settings: Settings, rows: Sequence[Summary]) -> dict[str, Any]:
    """Return the settings and figures of one trace as plain data, times in seconds."""
    return {
        "trace": trace.name,
        "jobs": len(trace.jobs),
        "span": trace.span,
        "work": trace.work,
        "settings": asdict(settings),
        "results": [asdict(row) for row in rows],
    }


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean of numbers above 0."""
    return exp(fsum(log(ratio) for ratio in ratios) / len(ratios))
