"""How often to checkpoint: what a checkpoint costs against the work that a failure would lose.

The first-order answer is Young's, the square root of 2 × cost × mean time between failures
(J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9),
1974); J. T. Daly's ("A higher order estimate of the optimum checkpoint interval for restart
dumps", Future Generation Computer Systems 22(3), 2006) holds where checkpoints are dear or
failures frequent, too. The cost is the training time that a checkpoint takes, not the time until
it is durable: writing beside training makes what a failure loses longer by the same amount for
any interval, so it doesn't move the optimum.
"""

from __future__ import annotations

import math

from resilient_nb.core.causes import USER_ERROR
from resilient_nb.core.model import Failure, Job
from resilient_nb.core.world import World

#: Bounds of the interval in seconds. More often, checkpoints save less than a restart takes and
#: fill the run's lineage; less often, too much hangs on the guess of how often failures come.
SHORTEST, LONGEST = 5.0, 3600.0

#: What is presumed of a host that nothing is known about: one failure a day. Large clusters do
#: better by far (Llama 3's had one in about 260 host-days; Grattafiori et al. 2024), but a
#: notebook's hosts are shared, short of memory, switched off and preempted. Erring on this side
#: is cheap: a guess four times too low halves the interval, which makes checkpoints and lost work
#: together a quarter dearer, and the bound on overhead holds anyway.
PRESUMED = 86400.0
#: What was expected before weighs as much as half a failure (as Jeffreys' prior for a rate does),
#: and no more than half a day: a few failures outweigh it, however calm it was until then, and so
#: does a day without one.
WEIGHT = 0.5


def daly(cost_s: float, mtbf_s: float) -> float:
    """Return Daly's estimate (his equation 37) of the best time to compute between two dumps.

    Args:
        cost_s: seconds that a checkpoint takes.
        mtbf_s: mean time between failures in seconds.
    """
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    if math.isinf(mtbf_s):
        return math.inf if cost_s else 0.0
    part = cost_s / (2 * mtbf_s)
    return math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - cost_s


def best_interval(cost_s: float, mtbf_s: float, overhead: float) -> float:
    """Return the best time from the begin of one checkpoint to that of the next, in seconds.

    Args:
        cost_s: seconds of training that a checkpoint takes.
        mtbf_s: mean time between failures of the whole gang in seconds; may be infinite.
        overhead: the most that checkpoints may take, as a part of all time (0.01 is 1 %). This
            bound holds whatever failures cost.

    Raises:
        ValueError: one of them is out of range, or not a number.
    """
    if not 0 <= cost_s < math.inf:
        raise ValueError(f"A checkpoint can't cost {cost_s} s.")
    if not mtbf_s > 0:
        raise ValueError(f"The mean time between failures can't be {mtbf_s} s.")
    if not 0 < overhead < 0.5:
        raise ValueError(f"Checkpoints can't take up to {overhead} of the time.")
    best = daly(cost_s, mtbf_s) + cost_s
    return max(cost_s / overhead, min(max(best, SHORTEST), LONGEST))


def mean_time_between_failures(world: World, job: Job, now: float) -> float:
    """Return after how many seconds a gang is expected to fail, from the journal's failures.

    Twice the same estimate, the mean of a gamma distribution: from the presumption and what
    happened to others to this cluster's rate, and from there, with what happened to this run,
    to the run's. Time counts by slots, so a gang of twice the slots fails twice as often. What
    failed before it had made a step lost nothing, and errors in the cells of others say nothing
    about this one.

    Args:
        world: all jobs.
        job: one that holds a gang.
        now: the clock.
    """
    hosts, slots = len({share.host for share in job.placement}), job.slots
    seen, failures = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for other in world.jobs.values():
        if other.attempts:
            own = other.run == job.run
            seen[own] += other.attained + _held(other, now)
            failures[own] += sum(_counts(failure, own) for failure in other.failures)
    usual = PRESUMED / max(1, hosts)
    for own in (False, True):
        weight = WEIGHT * min(usual, PRESUMED)
        usual = (weight + seen[own] / max(1, slots)) / (weight / usual + failures[own])
    return usual


def _counts(failure: Failure, own: bool) -> bool:
    lost_steps = failure.step > (failure.resumes_from or 0)
    return lost_steps and (own or failure.cause != USER_ERROR)


def _held(job: Job, now: float) -> float:
    """Return the slot-seconds that the current attempt has held."""
    return job.slots * max(0.0, now - (job.started_at if job.started_at is not None else now))
