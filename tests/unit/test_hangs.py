"""`core.hangs`: who hangs is found, who works is left alone, and the right one is blamed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.hangs import NEVER, PATIENCE, Pace, Seen, find

MINUTE = 60.0
QUICK = Pace(usual=0.05, longest=0.2)

seconds = st.floats(0, 1e5)
paces = st.builds(Pace, usual=st.floats(0, 100), longest=st.floats(0, 1000))
working = st.builds(
    Seen,
    rank=st.integers(0, 7),
    step=st.integers(0, 100),
    first=st.booleans(),
    outside=st.booleans(),
    phase=st.sampled_from(["starting", "data", "compute", "wait", "checkpoint", "ended"]),
    gap_s=st.floats(0, 8 * MINUTE),  # but it says that it lives, and uses CPU
    silent_s=st.floats(0, 1.5),
)
anybody = st.builds(
    Seen,
    rank=st.integers(0, 7),
    step=st.integers(0, 100),
    first=st.booleans(),
    outside=st.booleans(),
    phase=st.sampled_from(["starting", "data", "compute", "wait", "checkpoint", "ended"]),
    gap_s=seconds,
    silent_s=seconds,
    idle_s=seconds,
    stopped=st.booleans(),
)
gangs = st.lists(anybody, max_size=6, unique_by=lambda r: r.rank)


def dead(rank: int = 0, seconds: float = 9.0, **changes: object) -> Seen:
    """A rank that lives, but has done nothing for so long."""
    seen = Seen(rank, step=41, gap_s=seconds, silent_s=0.5, idle_s=seconds)
    return replace(seen, **changes)  # type: ignore[arg-type]


# --- laws ---


@given(st.lists(working, max_size=6, unique_by=lambda r: r.rank), paces)
def test_a_gang_that_works_is_left_alone(ranks: list[Seen], pace: Pace) -> None:
    assert find(ranks, pace) is None


@given(gangs, paces)
def test_whoever_is_told_that_nothing_hangs_gets_his_way(ranks: list[Seen], pace: Pace) -> None:
    assert find(ranks, pace, NEVER) is None


@given(gangs, paces, st.floats(1, 100), st.floats(1, 100))
def test_more_patience_never_finds_more(
    ranks: list[Seen], pace: Pace, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert find(ranks, pace, less) is not None or find(ranks, pace, more) is None


@given(gangs, paces)
def test_those_to_blame_are_of_the_gang_and_named(ranks: list[Seen], pace: Pace) -> None:
    hang = find(ranks, pace)
    if hang is None:
        return
    assert hang.ranks
    assert set(hang.ranks) <= {r.rank for r in ranks}
    assert hang.why.startswith("Rank")
    assert hang.why.endswith(".")
    assert str(hang.ranks[0]) in hang.why


@given(gangs, paces)
def test_a_victim_is_never_blamed_beside_one_that_doesnt_wait(
    ranks: list[Seen], pace: Pace
) -> None:
    said = [replace(r, silent_s=0.0, stopped=False) for r in ranks]
    hang = find(said, pace)
    if hang is not None and any(r.phase != "wait" for r in said):
        assert not {r.rank for r in said if r.phase == "wait"} & set(hang.ranks)


@given(paces, st.floats(0, 1e4))
def test_no_gap_that_is_nothing_special_is_a_hang(pace: Pace, idle: float) -> None:
    """Also of one that neither says anything nor uses CPU."""
    gap = max(3 * pace.usual, 1.5 * pace.longest) - 0.01
    if gap > 0:
        assert find([dead(seconds=idle, gap_s=gap, silent_s=idle)], pace) is None


@given(gangs, paces)
def test_who_has_just_made_a_step_is_left_alone(ranks: list[Seen], pace: Pace) -> None:
    """Also one that was idle and silent all the time before, as steps on a GPU may be."""
    fresh = [
        replace(
            r, gap_s=min(r.gap_s, 7.0), outside=False, stopped=False, silent_s=min(r.silent_s, 7)
        )
        for r in ranks
    ]
    assert find(fresh, pace) is None


# --- what is found, and when ---


@pytest.mark.parametrize(
    ("seen", "after"),
    [
        (dead(), PATIENCE),
        (dead(silent_s=9.0), PATIENCE),
        (dead(silent_s=9.0, phase="checkpoint"), PATIENCE),
        (Seen(0, stopped=True, first=True, outside=True), PATIENCE),
        (dead(phase="data"), MINUTE),
        (dead(first=True), 2 * MINUTE),
        (Seen(0), MINUTE),  # silent, but it uses CPU: something computes with the GIL
        (Seen(0, outside=True), 2 * MINUTE),  # an import, say
    ],
)
def test_what_hangs_is_found_in_time(seen: Seen, after: float) -> None:
    silent = seen.silent_s != 0.5
    for seconds, found in ((after - 0.5, False), (after + 0.5, True)):
        now = replace(
            seen,
            gap_s=seconds,
            silent_s=seconds if silent else 0.5,
            idle_s=seconds if seen.idle_s else 0.0,
        )
        assert (find([now], QUICK) is not None) is found, seconds


def test_who_was_suspected_before_gets_more_time() -> None:
    assert find([dead(seconds=29.0)], QUICK, suspected=True) is None
    assert find([dead(seconds=31.0)], QUICK, suspected=True) is not None
    assert find([dead(seconds=9.0)], QUICK, hang_after=5.0, suspected=True) is not None


def test_long_steps_get_three_of_them() -> None:
    slow = Pace(usual=20.0, longest=22.0)
    assert find([dead(seconds=59.0)], slow) is None
    assert find([dead(seconds=61.0)], slow) is not None


def test_a_gap_that_was_once_well_survived_makes_patient() -> None:
    assert find([dead(seconds=100.0)], Pace(0.05, longest=80.0)) is None
    assert find([dead(seconds=121.0)], Pace(0.05, longest=80.0)) is not None


def test_who_computes_between_two_steps_gets_ten_minutes() -> None:
    validating = Seen(0, step=41, gap_s=9 * MINUTE, silent_s=0.5)
    assert find([validating], QUICK) is None
    hang = find([replace(validating, gap_s=11 * MINUTE)], QUICK)
    assert hang is not None
    assert "computing, with no step for 660 s (one takes 0.05 s)" in hang.why


def test_outside_a_loop_idleness_is_nobodys_business_unless_a_limit_is_set() -> None:
    waits = dead(seconds=10 * MINUTE, outside=True)
    assert find([waits], QUICK) is None
    assert find([waits], QUICK, hang_after=30.0) is not None


def test_a_checkpoint_may_take_its_time() -> None:
    assert find([dead(seconds=50 * MINUTE, phase="checkpoint")], QUICK) is None


def test_who_says_how_long_is_believed_from_the_first_step_on() -> None:
    assert find([dead(seconds=6.0, first=True)], QUICK, hang_after=5.0) is not None
    assert find([dead(seconds=6.0, silent_s=6.0, first=True)], QUICK, hang_after=5.0) is not None
    assert find([dead(seconds=6.0, first=True)], QUICK) is None


def test_a_shorter_patience_scales_all_others() -> None:
    assert find([dead(seconds=1.5)], QUICK, hang_after=1.0) is not None
    assert find([dead(seconds=1.5, phase="data")], QUICK, hang_after=1.0) is None
    assert find([Seen(0, gap_s=30.0)], QUICK, hang_after=1.0) is None  # it computes


# --- whom to blame ---


def test_the_one_that_is_stopped_is_blamed_and_not_who_waits_for_it() -> None:
    stopped = Seen(1, step=41, gap_s=9.0, silent_s=9.0, idle_s=9.0, stopped=True)
    hang = find([dead(0, phase="wait"), stopped], QUICK)
    assert hang is not None
    assert hang.ranks == (1,)
    assert hang.why == (
        "Rank 1 is stopped (SIGSTOP), for 9 s, after step 41. Rank 0 only waits for that."
    )


def test_one_that_cant_even_say_that_it_lives_holds_the_gil() -> None:
    hang = find([dead(0, silent_s=9.5), dead(1, phase="wait"), dead(2, phase="wait")], QUICK)
    assert hang is not None
    assert hang.ranks == (0,)
    assert hang.why == (
        "Rank 0 is unable to say anything, for 9 s: what runs there holds Python's lock (the GIL), "
        "after step 41. Ranks 1 and 2 only wait for that."
    )


def test_what_keeps_a_rank_silent_is_waited_for() -> None:
    """It was idle before: that it can't say anything shows a moment later."""
    assert find([dead(seconds=9.0, silent_s=7.0)], QUICK) is None
    assert find([dead(seconds=9.0, silent_s=7.0, stopped=True)], QUICK) is None
    hang = find([dead(seconds=9.0, silent_s=7.6, stopped=True)], QUICK)
    assert hang is not None
    assert "stopped" in hang.why


def test_a_deadlock_is_its_ranks() -> None:
    hang = find([dead(0), dead(1, phase="wait")], QUICK)
    assert hang is not None
    assert hang.ranks == (0,)
    assert "waiting for something that doesn't come: no CPU is used, with no step for" in hang.why


def test_nobody_is_blamed_while_another_works() -> None:
    """It may well wait for that one, by means that nobody sees."""
    works = Seen(1, step=41, gap_s=5 * MINUTE, silent_s=0.5)
    assert find([dead(0, seconds=5 * MINUTE), works], QUICK) is None


def test_where_all_wait_for_one_another_nobody_in_particular_is_to_blame() -> None:
    hang = find([dead(n, phase="wait") for n in range(6)], QUICK)
    assert hang is not None
    assert hang.ranks == (0, 1, 2, 3, 4, 5)
    assert hang.why.startswith("Ranks 0, 1, 2 and others are waiting for one another")
    assert "no rank in particular is to blame" in hang.why


def test_one_that_waits_on_the_gpu_for_others_may_use_cpu() -> None:
    spins = Seen(1, phase="wait", step=41, gap_s=9.0, silent_s=0.5)
    hang = find([dead(0), spins], QUICK)
    assert hang is not None
    assert hang.ranks == (0,)
