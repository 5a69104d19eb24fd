"""The figures of one run, all of them computed from what the engine recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resilient_nb.simulator.engine import Engine
from resilient_nb.simulator.fairness import plain, weighed

#: Added to a job's duration in its stretch, so that a short job's isn't huge for nothing.
STRETCH_BASE = 6 * 3600.0


@dataclass(frozen=True)
class Summary:
    """One policy on one trace. Times in seconds; `jct` is completion time (end - submission).

    Attributes:
        wait: completion time less the time for which the job held slots, whatever it did there.
        utilisation: slots held over slots there were, until the last submission (afterwards
            the cluster runs empty whatever the policy).
        jain_*: fairness towards entitlement, from 0 to 1; see `fairness`.
        lost: slot-seconds of saving and restoring over slot-seconds of work.
        stretch: the largest (completion time - duration) / (duration + 6 hours).
        makespan: when the last job ended.
        plans: decisions taken; `plan_ms`: milliseconds of one by the wall clock, on average.
    """

    trace: str
    policy: str
    jobs: int
    workers: int
    jct: float
    jct_p95: float
    wait: float
    wait_p95: float
    utilisation: float
    jain_groups: float
    jain_users: float
    jain_groups_plain: float
    jain_users_plain: float
    preemptions: int
    resizes: int
    lost: float
    stretch: float
    makespan: float
    plans: int
    plan_ms: float


def summarise(engine: Engine) -> Summary:
    """Return the figures of a run that has ended."""
    state, counts, meter = engine.state, engine.counts, engine.meter
    jct = state.ended - state.submit
    wait = np.maximum(0.0, jct - state.held_for)
    users, groups = meter.users(), meter.groups()
    makespan = float(state.ended.max())
    return Summary(
        trace=state.trace.name,
        policy=engine.scheduler.name,
        jobs=len(jct),
        workers=engine.settings.workers,
        jct=float(jct.mean()),
        jct_p95=float(np.percentile(jct, 95)),
        wait=float(wait.mean()),
        wait_p95=float(np.percentile(wait, 95)),
        utilisation=_utilisation(engine, makespan),
        jain_groups=weighed(groups),
        jain_users=weighed(users),
        jain_groups_plain=plain(groups),
        jain_users_plain=plain(users),
        preemptions=counts.preemptions,
        resizes=counts.resizes,
        lost=float(state.used_then.sum()) / counts.useful - 1,
        stretch=float(((jct - state.duration) / (state.duration + STRETCH_BASE)).max()),
        makespan=makespan,
        plans=counts.plans,
        plan_ms=1e3 * counts.plan_seconds / max(1, counts.plans),
    )


def _utilisation(engine: Engine, makespan: float) -> float:
    span, meter = engine.state.trace.span, engine.meter
    busy, seconds = (meter.busy_then, span) if span > 0 else (meter.busy, makespan)
    return busy / (engine.settings.workers * seconds)
