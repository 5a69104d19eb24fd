"""Laws of `rank.sharing`: whatever ranks hold, each gets back what it held, and nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.rank.sharing import Share, View, divide
from resilient_nb.storage.writing import shards_digest

NAMES = ("m/a", "m/b", "m/c", "o/d", "o/e")
KINDS = ("float32[4]", "int64[2, 2]")
SIZES = {"m/a": 400, "m/b": 400, "m/c": 70, "o/d": 8, "o/e": 1}

marks = st.builds("{} {}".format, st.sampled_from("xyz"), st.sampled_from(KINDS))


@dataclass(frozen=True)
class Held:
    """What one rank holds: by name a mark, or the name of the tensor that it is."""

    plain: Mapping[str, str]
    tied: Mapping[str, str]
    own: Mapping[str, str]

    def view(self, base: Mapping[str, str]) -> View:
        sizes = {name: SIZES[name] for name in self.plain}
        return View(self.plain, sizes, tied=self.tied, own=self.own, base=base)

    def mark(self, name: str) -> str:
        return self.plain[self.tied.get(name, name)]


@st.composite
def helds(draw: st.DrawFn) -> list[Held]:
    """Ranks that hold much the same: some tensors differ, are missing, or are tied otherwise."""
    world = draw(st.integers(1, 4))
    common = draw(st.dictionaries(st.sampled_from(NAMES), marks, min_size=1))
    ties = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NAMES), max_size=2))
    found = []
    for rank in range(world):
        plain = dict(common)
        if draw(st.booleans()):
            plain |= draw(st.dictionaries(st.sampled_from(NAMES), marks, max_size=2))
        for name in draw(st.sets(st.sampled_from(NAMES), max_size=1)):
            plain.pop(name, None)
        tied = {}
        if draw(st.integers(0, 3)):
            # A tensor is tied to one that comes before it, as snapshots have it.
            tied = {n: f for n, f in ties.items() if f < n and f in plain and f not in ties}
        plain = {n: plain[n] for n in sorted(plain) if n not in tied}
        own = {f"rank-{rank}/random": draw(marks)}
        found.append(Held(plain, {n: f for n, f in tied.items() if f in plain}, own))
    return found


Stored = dict[str, str]


def saved(ranks: Sequence[Held], base: Stored) -> tuple[list[Share], Stored]:
    """Do what savers do with their shares; return those, and what each stored name then has."""
    views = [held.view(base if rank == 0 else {}) for rank, held in enumerate(ranks)]
    shares = [divide(views, rank) for rank in range(len(ranks))]
    stored: Stored = {}
    for held, share in zip(ranks, shares, strict=True):
        for name, local in share.write.items():
            mark = held.plain.get(local) or held.own[local]
            assert mark.partition(" ")[0] == share.digests[name]
            assert name not in stored, "written twice"
            stored[name] = mark
    for share in shares:
        for name in share.reuse:
            assert name not in stored, "written, or answered for by another"
            stored[name] = base[name]
    for share in shares:
        for name, first in share.tied.items():
            assert name not in stored
            stored[name] = stored[first]
    return shares, stored


def check(ranks: Sequence[Held], shares: Sequence[Share], stored: Stored) -> None:
    """Each rank reads what it held, where a restore looks for it."""
    for rank, (held, share) in enumerate(zip(ranks, shares, strict=True)):
        apart = set(share.apart)
        for name in (*held.plain, *held.tied):
            place = f"rank-{rank}/{name}" if name in apart else name
            assert stored[place] == held.mark(name), (rank, name)
        for name, mark in held.own.items():
            assert stored[name] == mark
    assert not shares[0].apart


@given(helds(), helds())
@settings(max_examples=400, deadline=None)
def test_each_rank_gets_back_what_it_held(first: list[Held], second: list[Held]) -> None:
    """Also of the next checkpoint, which writes only what has changed."""
    shares, stored = saved(first, {})
    check(first, shares, stored)
    again, same = saved(first, stored)
    assert not any(share.write for share in again), "nothing has changed"
    check(first, again, same)
    shares, after = saved(second, stored)
    check(second, shares, after)
    unchanged = {name for name, mark in after.items() if stored.get(name) == mark}
    written = Counter(name for share in shares for name in share.write)
    assert not unchanged & written.keys()
    assert set(written.values()) <= {1}


@given(st.integers(1, 6), st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 10**6)))
@settings(deadline=None)
def test_bytes_are_divided_evenly(world: int, sizes: dict[str, int]) -> None:
    """Within the size of one tensor, which isn't cut."""
    tensors = {name: f"{name} {KINDS[0]}" for name in sizes}
    shares = [divide([View(tensors, sizes)] * world, rank) for rank in range(world)]
    assert sorted(name for share in shares for name in share.write) == sorted(sizes)
    loads = [sum(sizes[name] for name in share.write) for share in shares]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


@given(st.integers(1, 5), st.data())
@settings(deadline=None)
def test_parts_come_together(world: int, data: st.DataObject) -> None:
    """Sharded tensors: each part is written by one that has it, and the whole has one digest."""
    holders = data.draw(st.lists(st.integers(0, 2), min_size=world, max_size=world))
    kind = KINDS[0]
    views = [View({"m/w": f"p{part} {kind}"}, {"m/w": 8}, {"m/w": (part,)}) for part in holders]
    shares = [divide(views, rank) for rank in range(world)]
    writers = [holders[rank] for rank, share in enumerate(shares) if "m/w" in share.write]
    assert sorted(writers) == sorted(set(holders))
    total = shards_digest({(part,): f"p{part}" for part in holders})
    assert {share.digests["m/w"] for share in shares if share.write} == {total}
    unchanged = [replace(view, base={"m/w": f"{total} {kind}"}) for view in views]
    shares = [divide(unchanged, rank) for rank in range(world)]
    assert [share.write for share in shares] == [{}] * world
    assert [share.reuse for share in shares] == [("m/w",), *[()] * (world - 1)]


@given(helds())
@settings(deadline=None)
def test_all_ranks_come_to_the_same_division(ranks: list[Held]) -> None:
    """Pure: the order of names in a view, which processes may not share, doesn't matter."""
    views = [held.view({}) for held in ranks]
    turned = [replace(v, tensors=dict(reversed(v.tensors.items()))) for v in views]
    for rank in range(len(ranks)):
        one, two = divide(views, rank), divide(turned, rank)
        assert dict(one.write) == dict(two.write)
        assert set(one.apart) == set(two.apart)
        assert set(one.reuse) == set(two.reuse)
