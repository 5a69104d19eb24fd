"""What gangs need of Dask's adaptive scaling: workers to come, and workers that must stay.

Dask asks its scheduler how many workers there should be and which may go; deployments of every
kind (LocalCluster, jobqueue, Kubernetes) use these two answers. It knows nothing of gangs: both
are corrected here.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from resilient_nb.control.cordon import Cordon

#: Workers that one job of a deployment starts together, `name-0`, `name-1`: closing one of them
#: can end them all.
_TOGETHER = re.compile(r"(.+)-\d+\Z")


@dataclass(frozen=True)
class Demand:
    """What gangs need now.

    Attributes:
        covering: workers whose slots are leased.
        offered: slots of all hosts that gangs may use.
        wanted: slots that waiting gangs want beyond the free ones.
        per_worker: slots of one worker, on average.
        shut_out: ordinary tasks wait, and every worker is leased.
    """

    covering: int = 0
    offered: int = 0
    wanted: int = 0
    per_worker: Fraction = Fraction(1)
    shut_out: bool = False

    @property
    def workers(self) -> int:
        """The workers that must be there for gangs, and one for tasks that are shut out."""
        if self.wanted <= 0:
            return self.covering + self.shut_out
        # Counted from what is there and ready, so that workers that are on their way aren't
        # asked for twice.
        return math.ceil((self.offered + self.wanted) / self.per_worker)


def removable(
    workers: Iterable[tuple[str, str]], kept: frozenset[str], hosts: Mapping[str, str]
) -> frozenset[str]:
    """Return the addresses of workers that may go.

    Args:
        workers: address and name of each that Dask would let go.
        kept: addresses of those whose slots are leased.
        hosts: host by address.
    """
    bundles: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for address, name in workers:
        found = _TOGETHER.match(name)
        bundles[hosts.get(address), found[1] if found else address].add(address)
    return frozenset(a for bundle in bundles.values() if not bundle & kept for a in bundle)


class Autoscale:
    """Corrects a scheduler's answers.

    Args:
        scheduler: Dask's.
        cordon: which workers are leased.
        supply: returns slots offered to gangs, and those wanted beyond the free ones.
        slots: of a worker, where none has reported yet.
    """

    def __init__(
        self, scheduler: Any, cordon: Cordon, supply: Callable[[], tuple[int, int]], slots: int
    ) -> None:
        self._scheduler = scheduler
        self._cordon = cordon
        self._supply = supply
        self._slots = slots
        self._own_target = scheduler.adaptive_target
        scheduler.adaptive_target = self.target
        scheduler.handlers["adaptive_target"] = self.target

    def target(self, target_duration: Any = None) -> int:
        """Return how many workers there should be (Dask's `adaptive_target`)."""
        return max(int(self._own_target(target_duration=target_duration)), self.demand().workers)

    def demand(self) -> Demand:
        """Return what gangs need now."""
        scheduler, seats = self._scheduler, self._cordon.seats
        offered, wanted = self._supply()
        slots = [count for _, count in seats.values()] or [self._slots]
        covering = self._cordon.covering()
        tasks_wait = bool(scheduler.queued or scheduler.unrunnable)
        return Demand(
            covering=len(covering),
            offered=offered,
            wanted=wanted,
            per_worker=Fraction(sum(slots), len(slots)),
            shut_out=tasks_wait and bool(covering) and covering >= scheduler.workers.keys(),
        )

    def may_go(self, workers: Iterable[Any]) -> list[Any]:
        """Return those of Dask's candidates whose going breaks no lease."""
        candidates = list(workers)
        hosts = {address: host for address, (host, _) in self._cordon.seats.items()}
        names = [(ws.address, str(ws.name)) for ws in candidates]
        free = removable(names, self._cordon.covering(), hosts)
        return [ws for ws in candidates if ws.address in free]
