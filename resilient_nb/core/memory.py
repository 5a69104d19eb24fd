"""Which hosts are to have a run's newest checkpoint in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def peers(gang: Sequence[str], hosts: Collection[str], copies: int) -> tuple[str, ...]:
    """Return the hosts outside a gang that hold copies, as many as there are.

    They are the next ones after the gang's first host, in the order of their names: so different
    gangs have different ones.
    """
    outside = sorted(set(hosts) - set(gang))
    after = [host for host in outside if not gang or host > gang[0]]
    return tuple([*after, *(host for host in outside if host not in after)][:copies])


def holders(gang: Sequence[str], hosts: Collection[str], copies: int) -> tuple[str, ...]:
    """Return the hosts that are to hold the whole checkpoint, so that `copies` may be lost.

    A gang on one host has all of it there. One on several hosts has a part on each, so hosts
    of its own stand in for the peers that there aren't, and one more, as any of them may be the
    one that is lost.

    Args:
        gang: its hosts, the one of rank 0 first.
        hosts: all hosts that can hold copies.
        copies: how many there are to be beside what the gang itself has.
    """
    own = [host for host in dict.fromkeys(gang) if host in hosts]
    found = peers(gang, hosts, copies)
    if len(set(gang)) == 1:
        return (*own, *found)
    lacking = copies - len(found)
    return (*own[: lacking + 1], *found) if lacking > 0 else found
