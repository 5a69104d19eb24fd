"""Where a gang goes: as few hosts as possible, then evenly over them.

`Room` holds the free slots of all hosts by how many each has, so that a choice looks at the
few different numbers of free slots there are and not at ten thousand hosts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from math import ceil

from resilient_nb.core.model import Placement, Resources, Share
from resilient_nb.core.queue import Gang, Host

#: (workers per host, free slots, hosts, slots per worker): hosts that have room alike.
_Caps = list[tuple[int, int, list[str], int]]


def per_slot(needs: Resources, slot: Resources) -> int | None:
    """Return how many slots like this one rank takes, None if they lack something it needs."""
    most = 1
    for need, has in (
        (needs.cpus, slot.cpus),
        (needs.memory, slot.memory),
        (needs.gpus, slot.gpus),
    ):
        if need > 0:
            if has <= 0:
                return None
            most = max(most, ceil(need / has))
    return most


def per_rank(needs: Resources, host: Host) -> int | None:
    """Return how many slots of the host one rank takes, None if it can't run there at all."""
    count = per_slot(needs, host.slot)
    return None if count is None or count > host.slots else count


def ranks_of(gang: Gang, workers: int) -> int:
    """Return how many ranks the gang has when it holds this many workers."""
    return gang.max_workers if gang.virtual and gang.max_workers > gang.workers else workers


def place(gang: Gang, workers: int, ranks: int, hosts: Iterable[Host]) -> Placement | None:
    """Return where `workers` workers with `ranks` ranks go, None if they don't fit now.

    One host that holds all is best, and of those the fullest; else the emptiest hosts, as few
    as will do, with the workers evenly over them. Ranks are shared out evenly over workers and
    numbered contiguously. Ties go by host id, so that the answer is reproducible.
    Hosts that the gang avoids are left out, unless it doesn't fit without them.
    """
    return Room(hosts).place(gang.needs, workers, ranks, gang.avoid)


class _Kind:
    """Hosts whose slots are alike, by the number of free slots."""

    __slots__ = ("by_free", "slot")

    def __init__(self, slot: Resources) -> None:
        self.slot = slot
        self.by_free: dict[int, list[str]] = {}  # ids in order

    def move(self, host: str, old: int, new: int) -> None:
        if old > 0:
            ids = self.by_free[old]
            if len(ids) == 1:
                del self.by_free[old]
            else:
                del ids[bisect_left(ids, host)]
        if new > 0:
            insort(self.by_free.setdefault(new, []), host)

    def copy(self) -> _Kind:
        new = _Kind(self.slot)
        new.by_free = {free: list(ids) for free, ids in self.by_free.items()}
        return new


class Room:
    """The free slots of all hosts. Mutable: `take` and `give` change it."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self.free: dict[str, int] = {}
        self.total = 0
        self._kind: dict[str, _Kind] = {}
        kinds: dict[Resources, _Kind] = {}
        seen: dict[int, _Kind] = {}  # by identity: hashing resources is slow, and most are shared
        for host in hosts:
            if host.closing:
                continue
            kind = seen.get(id(host.slot))
            if kind is None:
                kind = seen[id(host.slot)] = kinds.setdefault(host.slot, _Kind(host.slot))
            free = host.slots - host.used
            self.free[host.id] = free
            self._kind[host.id] = kind
            if free > 0:
                self.total += free
                kind.by_free.setdefault(free, []).append(host.id)
        self.kinds = [kinds[slot] for slot in sorted(kinds, key=_slot_order)]
        for kind in self.kinds:
            for ids in kind.by_free.values():
                ids.sort()

    def copy(self) -> Room:
        """Return an independent copy, for trying things out."""
        new = Room(())
        new.free, new.total = dict(self.free), self.total
        copies = {id(kind): kind.copy() for kind in self.kinds}
        new.kinds = list(copies.values())
        new._kind = {host: copies[id(kind)] for host, kind in self._kind.items()}
        return new

    def __contains__(self, host: str) -> bool:
        return host in self.free

    def add(self, host: str, slots: int) -> None:
        """Change a host's free slots by so many (fewer, if negative); unknown hosts are passed."""
        old = self.free.get(host)
        if old is None:
            return
        new = old + slots
        self.free[host] = new
        self.total += max(0, new) - max(0, old)
        self._kind[host].move(host, old, new)

    def drop(self, host: str) -> None:
        """Forget a host that is gone."""
        if host in self.free:
            self.add(host, -max(0, self.free[host]))
            del self.free[host], self._kind[host]

    def take(self, placement: Placement) -> None:
        """Lease the placement's slots."""
        for share in placement:
            self.add(share.host, -share.leased)

    def give(self, placement: Placement) -> None:
        """Free the placement's slots; those on hosts that are closing or gone stay away."""
        for share in placement:
            self.add(share.host, share.leased)

    def workers(self, needs: Resources) -> int:
        """Return how many workers with such ranks fit now."""
        if not (needs.cpus or needs.memory or needs.gpus):
            return self.total
        return _held(self._caps(needs))

    def _caps(self, needs: Resources) -> _Caps:
        """Return (workers per host, free slots, hosts, slots per worker) where one fits."""
        caps = []
        for kind in self.kinds:
            per = per_slot(needs, kind.slot)
            if per is not None:
                caps += [
                    (free // per, free, ids, per)
                    for free, ids in kind.by_free.items()
                    if free >= per
                ]
        return caps

    def place(
        self, needs: Resources, workers: int, ranks: int, avoid: Collection[str] = ()
    ) -> Placement | None:
        """Return a placement (without taking it), None if it doesn't fit. See `place`."""
        caps = self._caps(needs)
        if workers < 1 or _held(caps) < workers:
            return None
        if avoid and _held(others := _without(caps, avoid)) >= workers:
            caps = others
        chosen = _hosts(caps, workers)
        counts = _balance(chosen, workers)
        shares, first = [], 0
        for host, count, per in sorted(counts, key=lambda c: (-c[1], c[0])):
            start, end = first * ranks // workers, (first + count) * ranks // workers
            shares.append(Share(host, start, end - start, count * per))
            first += count
        return tuple(shares)


def _held(caps: _Caps) -> int:
    """Return how many workers fit."""
    return sum(cap * len(ids) for cap, _, ids, _ in caps)


def _without(caps: _Caps, avoid: Collection[str]) -> _Caps:
    """Return the same without some hosts."""
    left = [
        (cap, free, [host for host in ids if host not in avoid], per)
        for cap, free, ids, per in caps
    ]
    return [row for row in left if row[2]]


def _slot_order(slot: Resources) -> tuple[float, int, int]:
    return (slot.cpus, slot.memory, slot.gpus)


def _hosts(caps: _Caps, workers: int) -> list[tuple[str, int, int]]:
    """Return (host, most workers, slots per worker) of the fewest hosts that hold them all."""
    chosen: list[tuple[str, int, int]] = []
    left = workers
    for cap, _, ids, per in sorted(caps, key=lambda c: (-c[0], c[1], c[2][0])):
        if cap < left:
            whole = min(len(ids), left // cap)
            chosen += [(host, cap, per) for host in ids[:whole]]
            left -= whole * cap
            if not left:
                break
            if whole == len(ids):
                continue
        # One more host holds the rest: the fullest of those that can.
        used = {host for host, _, _ in chosen}
        rest = [
            (free, host, c, p)
            for c, free, hosts, p in caps
            if c >= left
            for host in _first(hosts, used)
        ]
        _, host, c, p = min(rest)
        chosen.append((host, c, p))
        break
    return chosen


def _first(hosts: list[str], used: set[str]) -> list[str]:
    """Return the first host that isn't used yet, if there is one."""
    return next(([host] for host in hosts if host not in used), [])


def _balance(chosen: list[tuple[str, int, int]], workers: int) -> list[tuple[str, int, int]]:
    """Return (host, workers, slots per worker): as even as the hosts' room allows."""
    counts, left = [], workers
    # The smallest first, so that what they can't hold goes evenly over the others; among equals
    # the last by name first, which gets fewer.
    order = sorted(sorted(chosen, reverse=True), key=lambda c: c[1])
    for n, (host, cap, per) in enumerate(order):
        count = min(cap, left // (len(order) - n))
        counts.append((host, count, per))
        left -= count
    return counts
