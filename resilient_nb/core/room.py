"""How much memory the workers of a gang could have here, whoever holds it now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from resilient_nb.core.model import Resources
from resilient_nb.core.queue import Host
from resilient_nb.core.ranking import Sizes


def most_memory(hosts: Iterable[Host], needs: Resources, workers: int) -> int | None:
    """Return the most memory of each worker with which the gang fits the empty cluster, in bytes.

    None if there is no host that could tell, 0 if none says what memory it has.
    """
    known = tuple(hosts)
    if not known:
        return None
    sizes = Sizes(known)
    per_worker = {
        host.slot.memory * count
        for host in {(h.slots, h.slot): h for h in known}.values()
        for count in range(1, host.slots + 1)
    }
    for memory in sorted(per_worker, reverse=True):
        if memory and sizes(replace(needs, memory=memory))[1] >= workers:
            return memory
    return 0
