"""What a gang will hold when others have left for it, and what is set aside for it until then."""

from __future__ import annotations

from resilient_nb.core.model import Placement
from resilient_nb.core.placement import Room
from resilient_nb.core.preemption import Loss
from resilient_nb.core.queue import Gang
from resilient_nb.core.ranking import Entry


def set_aside(room: Room, leaving: list[Gang], wanting: list[tuple[Gang, int]]) -> bool:
    """Take out of the room what these lack when those have left; False if it isn't enough.

    Args:
        leaving: running gangs; one that leaves to be resized comes back with its claim.
        wanting: gangs, each with its number of workers.
    """
    back = [(g, g.claim) for g in leaving if g.claim and (g, g.claim) not in wanting]
    held = [share for g in leaving for share in g.placement if share.host in room]
    touched = {share.host: room.free[share.host] for share in held}
    for gang in leaving:
        room.give(gang.placement)
    taken: list[Placement] = []
    for gang, count in [*back, *wanting]:
        found = room.place(gang.needs, count, count, gang.avoid)
        if found is None:
            break
        for share in found:
            touched.setdefault(share.host, room.free[share.host])
        room.take(found)
        taken.append(found)
    complete = len(taken) == len(back) + len(wanting)
    if not complete:
        for found in taken:
            room.give(found)
    for host, before in touched.items():
        # What comes free beyond that isn't there yet.
        target = min(before, room.free[host]) if complete else before
        room.add(host, target - room.free[host])
    return complete


def fits_without(room: Room, entry: Entry, given: list[Loss], keep: int) -> bool:
    """Whether the gang fits when these have been given up, and `keep` slots stay free."""
    gang, needs = entry.gang, entry.gang.needs
    if room.total + sum(loss.slots for loss in given) - keep < entry.slots:
        return False
    if not (needs.cpus or needs.memory or needs.gpus):
        return True
    room = room.copy()
    for loss in given:
        room.give(loss.entry.gang.placement)
    for loss in given:
        if loss.keeps:
            back = room.place(loss.entry.gang.needs, loss.keeps, loss.keeps)
            if back is None:
                return False
            room.take(back)
    return room.place(needs, gang.workers, gang.workers) is not None
