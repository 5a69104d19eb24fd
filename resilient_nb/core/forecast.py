"""How long a gang still runs, as far as can be known.

A live step rate knows best, then what the user declared. Where nothing is known, a gang is
expected to last as long again as it has lasted (Lindy's law; Harchol-Balter and Downey 1997
measured it for process lifetimes), so the least served goes first (Tiresias, Gu et al. 2019).
"""

from __future__ import annotations

from math import frexp

from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Gang

#: Work that is presumed of a gang that nothing is known about, in seconds of all its workers.
#: Only orders unknown gangs among known ones: long enough for a try to be worth its restart.
PRESUMED = 600.0
#: Speed goes with the number of workers to this power: what data-parallel training measures.
SPEED_POWER = 0.8


def quantum(gang: Gang, policy: Policy) -> float:
    """Return the seconds for which the gang isn't asked to leave after a start."""
    return policy.quantum * gang.overhead


def predicted(gang: Gang) -> float | None:
    """Return the seconds that it still runs, None if nothing but the past tells of them.

    A declaration that has been overrun says nothing any more.
    """
    left = gang.remaining
    return left if left is not None and (gang.exact or left > 0) else None


def known(gang: Gang) -> bool:
    """Whether the rest is predicted by more than the past."""
    return predicted(gang) is not None


def service_left(gang: Gang, per_worker: int) -> float:
    """Return the slot-seconds that it is expected to need still, at its smallest size."""
    if (left := predicted(gang)) is not None:
        return left * gang.workers * per_worker
    attained, presumed = gang.attained, PRESUMED * gang.workers * per_worker
    return attained if attained > presumed else presumed


def seconds_left(gang: Gang, per_worker: int, workers: int) -> float:
    """Return the seconds that it is expected to run still on so many workers."""
    left = service_left(gang, per_worker) / (gang.workers * per_worker)
    return left if workers == gang.workers else left / speed_up(gang.workers, workers)


def speed_up(before: int, after: int) -> float:
    """Return how much faster `after` workers are than `before`."""
    return float((after / before) ** SPEED_POWER)


def bucket(service: float) -> int:
    """Return the doubling that this many slot-seconds lie in: finer differences aren't news."""
    return frexp(service)[1] if service >= 1.0 else 0
