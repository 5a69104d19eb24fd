"""A Dask preload of the embedded cluster's processes: they bring back a watchdog that died.

The watchdog restarts scheduler and workers; these restart the watchdog. Its lock lets only one
of several new ones stay.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from resilient_nb.cluster.record import Lock, read, start_watchdog
from resilient_nb.config import load_settings
from resilient_nb.errors import ClusterUnreachable

logger = logging.getLogger(__name__)

_EVERY = 1.0
_tasks: set[asyncio.Task[None]] = set()


def dask_setup(server: Any) -> None:
    """Begin to guard (Dask calls this in the server's event loop)."""
    task = asyncio.get_running_loop().create_task(_guard(), name="resilient_nb guard")
    _tasks.add(task)  # the loop itself holds tasks only weakly


async def _guard() -> None:
    settings = load_settings()
    lock = Lock(settings.cluster_file)
    while True:
        await asyncio.sleep(_EVERY)
        try:
            record = read(settings.cluster_file)
        except ClusterUnreachable:
            continue  # it may be put right
        if record is not None and lock.take():
            lock.release()
            logger.warning("The watchdog is gone; starting another.")
            start_watchdog(settings, record.workers)
