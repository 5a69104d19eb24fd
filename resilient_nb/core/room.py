"""What the workers of a gang could have here, whoever holds it now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from resilient_nb.core.causes import amount
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


def largest(hosts: Iterable[Host]) -> Resources:
    """Return the most of each that one worker could have; it takes up to all slots of a host."""
    cpus, memory, gpus = 0.0, 0, 0
    for host in hosts:
        slot, slots = host.slot, host.slots
        cpus, memory = max(cpus, slot.cpus * slots), max(memory, slot.memory * slots)
        gpus = max(gpus, slot.gpus * slots)
    return Resources(cpus=cpus, memory=memory, gpus=gpus)


def lacks(needs: Resources, most: Resources) -> str:
    """Return as a clause what no worker has of what each of a gang needs, "" if there is nothing.

    Args:
        needs: what each worker of the gang needs.
        most: as of `largest`.
    """
    facts = []
    if needs.gpus > most.gpus:
        has = f"{most.gpus} GPU" + ("s" if most.gpus > 1 else "")
        facts.append(f"the largest worker has {has}" if most.gpus else "no worker has a GPU")
    if needs.memory > most.memory:
        has = f"the largest worker has {amount(most.memory)} of memory"
        facts.append(has if most.memory else "no worker says what memory it has")
    if needs.cpus > most.cpus:
        has = f"the largest worker has {most.cpus:g} CPU core" + ("s" if most.cpus > 1 else "")
        facts.append(has if most.cpus else "no worker says what CPU cores it has")
    return ", ".join(facts[:-1]) + " and " * (len(facts) > 1) + facts[-1] if facts else ""
