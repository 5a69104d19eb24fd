"""`rank.sharing`: each thing is stored once, by one rank, and nothing of another is reused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.errors import CannotStore
from resilient_nb.rank.sharing import Share, View, divide

KIND = "float32[4, 4]"


def shares(*views: View) -> list[Share]:
    return [divide(views, rank) for rank in range(len(views))]


def a_view(
    tensors: dict[str, str], parts: dict[str, tuple[int, ...]] | None = None, size: int = 8
) -> View:
    marks = {name: f"{digest} {KIND}" for name, digest in tensors.items()}
    return View(marks, dict.fromkeys(tensors, size), parts or {})


def part(digest: str, index: int, size: int = 8) -> View:
    return a_view({"m/w": digest}, {"m/w": (index, 0)}, size)


@given(st.integers(1, 5), st.data())
def test_each_tensor_is_stored_once(world: int, data: st.DataObject) -> None:
    names = [f"m/{n}" for n in range(6)]
    equal = data.draw(st.sets(st.sampled_from(names)))
    views = [
        replace(a_view({n: n if n in equal else f"{n}-{rank}" for n in names}),
                own={f"rank-{rank}/random": f"r{rank} {KIND}"})
        for rank in range(world)
    ]  # fmt: skip
    found = shares(*views)
    written = [name for share in found for name in share.write]
    assert len(written) == len(set(written))
    own = [f"rank-{r}/{n}" for r in range(1, world) for n in names if n not in equal]
    assert set(written) == {*names, *own, *(f"rank-{r}/random" for r in range(world))}
    for rank, share in enumerate(found):
        assert set(share.apart) == (set(names) - equal if rank else set())
        assert all(" " not in digest for digest in share.digests.values())


def test_bytes_are_divided_evenly() -> None:
    sizes = {"m/a": 50, "m/b": 30, "m/c": 20, "m/d": 10, "m/e": 10}
    views = [View({n: f"{n} {KIND}" for n in sizes}, sizes) for _ in range(2)]
    assert [sum(sizes[n] for n in share.write) for share in shares(*views)] == [60, 60]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_each_part_is_stored_once_and_copies_take_turns(
    parts: int, copies: int, tensors: int
) -> None:
    """As HSDP has it: so many parts, each on so many ranks."""
    names = [f"m/{n}" for n in range(tensors)]
    views = [
        a_view({n: f"{n}.{index}" for n in names}, dict.fromkeys(names, (index,)))
        for _ in range(copies)
        for index in range(parts)
    ]
    found = shares(*views)
    for name in names:
        writers = [rank for rank, share in enumerate(found) if name in share.write]
        assert [rank % parts for rank in sorted(writers, key=lambda r: r % parts)] == [
            *range(parts)
        ]
    loads = [len(share.write) for share in found]
    assert max(loads) - min(loads) <= 1
    assert len({share.digests[n] for share in found for n in share.write}) == tensors


def test_empty_parts_are_nobodys_work() -> None:
    views = [part("a", 0), part("b", 1), part("", 2, size=0)]
    assert [list(share.write) for share in shares(*views)] == [["m/w"], ["m/w"], []]
    assert [share.apart for share in shares(*views)] == [(), (), ()]


def test_a_tensor_of_nothing_is_stored_by_one() -> None:
    views = [part("", 0, size=0), part("", 1, size=0)]
    assert [list(share.write) for share in shares(*views)] == [["m/w"], []]


def test_an_empty_part_of_a_tied_tensor_isnt_stored_apart() -> None:
    """Where there is no memory, nobody sees that it is shared."""
    whole = replace(part("a", 0), tied={"m/tied": "m/w"})
    empty = a_view({"m/w": "", "m/tied": ""}, {"m/w": (1, 0), "m/tied": (1, 0)}, 0)
    first, second = shares(whole, empty)
    assert first.tied == {"m/tied": "m/w"}
    assert (second.write, second.apart, second.tied) == ({}, (), {})


def test_parts_that_rank_0_hasnt_are_stored_all_the_same() -> None:
    """Pipeline stages: each has tensors of its own, sharded over a few ranks."""
    views = [a_view({}), part("a", 0), part("b", 1)]
    assert [list(share.write) for share in shares(*views)] == [[], ["m/w"], ["m/w"]]


def test_copies_of_a_part_that_differ_are_refused() -> None:
    with pytest.raises(CannotStore, match=r"Ranks 0, 2 hold the same part of the sharded .* m/w"):
        shares(part("a", 0), part("b", 1), part("c", 0), part("b", 1))


def test_parts_of_different_tensors_are_refused() -> None:
    other = View({"m/w": "b float32[9]"}, {"m/w": 8}, {"m/w": (1,)})
    with pytest.raises(CannotStore, match=r"parts of different tensors under the name m/w"):
        shares(part("a", 0), other)


def test_sharded_on_some_ranks_only_is_refused() -> None:
    with pytest.raises(CannotStore, match="m/w is sharded on some ranks, but not on rank 1"):
        shares(part("a", 0), a_view({"m/w": "a"}))


# --- what is as it was ---


def test_unchanged_tensors_and_parts_are_reused() -> None:
    views = [part("a", 0), part("b", 1)]
    [first, second] = shares(*views)
    mark = f"{first.digests['m/w']} {KIND}"
    again = [replace(view, base={"m/w": mark}) for view in views]
    assert [(s.write, s.reuse) for s in shares(*again)] == [({}, ("m/w",)), ({}, ())]
    changed = [again[0], replace(part("c", 1), base=again[1].base)]
    assert [list(s.write) for s in shares(*changed)] == [["m/w"], ["m/w"]]
    assert second.digests == first.digests


def test_zeros_of_another_shape_are_written() -> None:
    """Their bytes are those of before."""
    before = {"m/w": "0 float32[16]"}
    [share] = shares(replace(a_view({"m/w": "0"}), base=before))
    assert (list(share.write), share.reuse) == (["m/w"], ())
    mine, other = a_view({"m/w": "0"}), View(before, {"m/w": 8})
    assert [list(s.write) for s in shares(mine, other)] == [["m/w"], ["rank-1/m/w"]]


def test_what_is_tied_on_one_rank_only() -> None:
    tied = replace(a_view({"m/a": "a"}), tied={"m/b": "m/a"})
    free = a_view({"m/a": "a", "m/b": "b"})
    first, second = shares(free, tied)
    assert (dict(first.write), first.tied) == ({"m/a": "m/a", "m/b": "m/b"}, {})
    assert (second.write, second.tied, second.apart) == ({}, {"rank-1/m/b": "m/a"}, ("m/b",))
    first, second = shares(tied, free)
    assert (list(first.write), first.tied) == (["m/a"], {"m/b": "m/a"})
    assert (list(second.write), second.tied) == (["rank-1/m/b"], {})
