"""Which of a host's slots a gang's ranks sit on, so that gangs side by side use other GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from resilient_nb.supervisor.reached import Reached


@dataclass(frozen=True)
class Seat:
    """A rank's place on its host.

    Attributes:
        local_rank: its number among the gang's ranks here, from 0.
        ranks: how many of them are here.
        slots: how many slots they share.
        first_slot: the number of the first of these on the host, from 0.
        shelf: where the host keeps checkpoints in memory, "" if it doesn't.
        scratch: where its multiprocessing keeps its sockets, "" for where it usually does.
        reached: how far it is.
    """

    local_rank: int
    ranks: int
    slots: int
    first_slot: int = 0
    shelf: str = ""
    scratch: str = ""
    reached: Reached = field(default_factory=Reached, compare=False)


def first_fit(taken: Iterable[Seat], slots: int) -> int:
    """Return the lowest slot from which on so many are free of other gangs' seats."""
    first = 0
    for begin, end in sorted({(s.first_slot, s.first_slot + s.slots) for s in taken}):
        if first + slots <= begin:
            break
        first = end
    return first
