"""Workers that are to go are vacated first: gangs checkpoint and go on elsewhere.

Dask retires workers by one method, whoever asks: `client.retire_workers`, adaptive scaling, a
cluster that is scaled down or closed, a worker that closes gracefully at the end of its lifetime.
It has no hook for plugins, so the method is wrapped, and the handler that remote callers reach.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from resilient_nb.control.cordon import Cordon

logger = logging.getLogger(__name__)

_POLL = 0.05
#: Beyond the grace time, for the news of the last rank's end to come.
_MARGIN = 5.0
#: Workers that somebody closes without Dask's retiring them are gone by then.
_CLOSED_WITHIN = 10.0


class Tenants(Protocol):
    """The gangs on the hosts, as the engine knows them."""

    def leased(self, host: str) -> int:
        """Return how many slots of a host gangs hold."""

    def vacate(self, host: str, reason: str) -> None:
        """Have a host's gangs leave at a checkpoint."""

    def set_busy(self, host: str, slots: int) -> None:
        """Offer so many slots of a host less."""


class Retirement:
    """Stands before a scheduler's `retire_workers`. Gangs get `grace` seconds to leave."""

    def __init__(self, scheduler: Any, cordon: Cordon, tenants: Tenants, grace: float) -> None:
        self._scheduler = scheduler
        self._cordon = cordon
        self._tenants = tenants
        self._patience = grace + _MARGIN
        self._retire = scheduler.retire_workers
        scheduler.retire_workers = self.retire_workers
        scheduler.handlers["retire_workers"] = self.retire_workers

    async def retire_workers(
        self,
        workers: Collection[str] | None = None,
        *,
        names: Collection[Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Retire workers as Dask does, once no lease needs them.

        Workers that Dask itself is to choose (neither `workers` nor `names` given) are never
        leased ones, by the plugin's hook.
        """
        found = self._scheduler.workers
        known = {a for a in workers or () if a in found} | self._named(names or ())
        # `SpecCluster` gives names as addresses: Dask then does nothing, and they are closed next.
        closed_next = self._named(workers or ()) - known
        leaving = known | closed_next
        self._cordon.retire(leaving)
        self._withdraw(leaving)
        try:
            await self._clear(leaving)
            done: dict[str, Any] = await self._retire(workers=workers, names=names, **options)
        finally:
            self._cordon.stay(known)
            asyncio.get_running_loop().call_later(_CLOSED_WITHIN, self._cordon.stay, closed_next)
        self._reopen(known - done.keys())
        return done

    def _named(self, names: Collection[Any]) -> set[str]:
        """Return the addresses of the workers that have one of these names."""
        meant = {str(name) for name in names}
        return {a for a, ws in self._scheduler.workers.items() if str(ws.name) in meant}

    def _withdraw(self, leaving: Collection[str]) -> None:
        """Offer their slots to no gang from now on: the next second may be too late."""
        for host in sorted({h for a in leaving if (h := self._cordon.host_of(a)) is not None}):
            self._tenants.set_busy(host, self._cordon.busy(host))

    async def _clear(self, leaving: Collection[str]) -> None:
        """Wait until the workers that stay cover their hosts' leases, or the grace is over."""
        hosts = {host for a in leaving if (host := self._cordon.host_of(a)) is not None}
        waiting = {host for host in hosts if self._is_needed(host)}
        for host in sorted(waiting):
            self._tenants.vacate(host, f"A Dask worker of {host} is being retired.")
        give_up = time.monotonic() + self._patience
        while waiting := {host for host in waiting if self._is_needed(host)}:
            if time.monotonic() >= give_up:
                logger.warning("resilient_nb: %s is not vacated in time", ", ".join(waiting))
                return
            await asyncio.sleep(_POLL)

    def _is_needed(self, host: str) -> bool:
        return self._tenants.leased(host) > self._cordon.staying(host)

    def _reopen(self, addresses: Iterable[str]) -> None:
        """Workers that couldn't be retired were told to pause, as they were for Dask: undo it."""
        for address in addresses:
            if address in self._scheduler.stream_comms:
                self._scheduler.stream_comms[address].send(
                    {
                        "op": "worker-status-change",
                        "status": "running",
                        "stimulus_id": f"resilient-nb-stays-{time.time()}",
                    }
                )
