"""`core.causes`, `core.diagnosis`: every row of the table of causes, and whom to blame."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core import causes as cs
from resilient_nb.core.causes import cause_of
from resilient_nb.core.diagnosis import MOST_STACKS, diagnose, joined_stacks
from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.testing.builders import an_end, an_error, failed, killed

GIB = 1 << 30
HEAD = "digits/00000040-e1"
LOADER = "DataLoader worker (pid"


def exited(rank: int = 0, code: int = 0, **changes: object) -> RankEnd:
    return an_end(rank, Outcome.EXITED, exit_code=code, **changes)


def victim(rank: int, at: float = 0.0, text: str = "Connection closed by peer") -> RankEnd:
    message = f"[../gloo/transport/tcp/pair.cc:553] {text} [127.0.0.1]:1234"
    return failed(rank, an_error(message=message, in_collective=True), at=at, step=9)


def raised(kind: str = "OSError", message: str = "boom", **changes: object) -> RankEnd:
    return failed(0, an_error(kind, message, **changes), step=7)


# --- the table ---

ROWS = [
    (killed(0, over_limit=True), cs.OUT_OF_MEMORY),
    (killed(0, oom_kills=1), cs.OUT_OF_MEMORY),
    (killed(0, limit=GIB, peak_rss=int(0.96 * GIB)), cs.OUT_OF_MEMORY),
    (killed(0, limit=GIB, peak_rss=int(0.5 * GIB)), cs.KILLED),
    (killed(0, 15, oom_kills=1), cs.KILLED),
    (killed(0, peak_rss=GIB), cs.KILLED),
    (exited(0, 1, over_limit=True), cs.OUT_OF_MEMORY),
    (killed(0, 9), cs.KILLED),
    (killed(0, 11), cs.CRASH),
    (killed(0, 6), cs.CRASH),
    (killed(0, 9, hang="It used no CPU for 12 s"), cs.HANG),
    (an_end(0, Outcome.LOST), cs.HOST_LOST),
    (exited(0, 0), cs.SILENT_EXIT),
    (raised("MemoryError", ""), cs.ALLOCATION),
    (raised("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB"), cs.ALLOCATION),
    (
        raised("RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried ..."),
        cs.ALLOCATION,
    ),
    (raised(errno=errno.ENOMEM), cs.ALLOCATION),
    (raised("RuntimeError", "boom"), cs.USER_ERROR),
    (raised(errno=errno.ENOSPC), cs.DISK_FULL),
    (raised(errno=errno.EDQUOT), cs.DISK_FULL),
    (raised(errno=errno.EIO), cs.IO_ERROR),
    (raised(errno=errno.ENOENT), cs.USER_ERROR),
    (raised("ConnectionResetError", "reset", errno=errno.ECONNRESET), cs.NETWORK),
    (raised(errno=errno.ENETUNREACH), cs.NETWORK),
    (raised("TimeoutError", "timed out"), cs.NETWORK),
    (raised("gaierror", "Name or service not known", errno=-2), cs.NETWORK),
    (victim(0), cs.NETWORK),
    (raised("Diverged", "loss is nan", metric="loss"), cs.DIVERGED),
    (raised("InputLost", "prep#1 is gone", lost_input="prep#1"), cs.INPUT_LOST),
    (raised("RuntimeError", f"{LOADER}(s) 9) exited unexpectedly"), cs.KILLED),
    (raised("RuntimeError", f"{LOADER} 9) is killed by signal: Killed. "), cs.KILLED),
    (raised("RuntimeError", f"{LOADER} 9) is killed by signal: Segmentation fault. "), cs.CRASH),
    (raised("OSError", f"{cs.COULD_NOT_START}: [Errno 11] Resource"), cs.NOT_STARTED),
    (raised("CorruptCheckpoint", "It is damaged", damaged=HEAD), cs.DAMAGED),
    (raised("CorruptCheckpoint", "It is damaged", damaged="other/00000001-e1"), cs.USER_ERROR),
]


@pytest.mark.parametrize(("end", "cause"), ROWS)
def test_each_row_of_the_table(end: RankEnd, cause: str) -> None:
    assert cause_of(end, HEAD) == cause
    found = diagnose([end], HEAD)
    assert (found.cause, found.rank, found.step) == (cause, end.rank, end.step)
    assert found.message
    assert cause in cs.CAUSES


def test_every_cause_is_in_the_table() -> None:
    assert {cause for _, cause in ROWS} == set(cs.CAUSES)


# --- evidence ---


def test_the_evidence_has_numbers_with_units() -> None:
    end = killed(0, limit=GIB, peak_rss=1100 << 20, over_limit=True, host="h1", step=12)
    found = diagnose([end])
    assert found.message == "rank 0 on h1 ran out of memory at step 12."
    assert found.evidence == (
        "It had 1.1 GiB of the 1.0 GiB that it may have.",
        "It was ended for passing its limit of memory.",
    )
    assert (found.host, found.peak, found.limit) == ("h1", 1100 << 20, GIB)
    found = diagnose([killed(0, oom_kills=2, peak_rss=600 << 20)])
    assert found.evidence == (
        "It had 600 MiB, with no limit.",
        "The kernel killed for lack of memory 2 times on its host meanwhile.",
    )


def test_the_evidence_of_an_error_is_its_line_and_what_the_system_said() -> None:
    found = diagnose([raised(message="No space left on device", errno=errno.ENOSPC)])
    assert found.evidence == ("Raised from line 2: train()", "The system said ENOSPC (28).")


def test_victims_are_named_and_not_blamed() -> None:
    ends = [victim(0, at=1.0), killed(1, at=3.0), victim(2, at=2.0), an_end(3, at=0.5)]
    found = diagnose(ends)
    assert (found.rank, found.cause) == (1, cs.KILLED)
    assert found.evidence[-1] == "Ranks 0, 2 only lost their peer."
    assert diagnose(ends[:2]).evidence[-1] == "Rank 0 only lost its peer."


def test_a_rank_that_waited_in_vain_is_a_victim() -> None:
    """The other may be on a host whose clock is late, and have failed before."""
    ends = [victim(0, at=1.0, text="Timed out waiting 30000ms for recv"), killed(1, at=3.0)]
    assert diagnose(ends).rank == 1


@pytest.mark.parametrize(
    "sure",
    [
        killed(2, at=9.0, over_limit=True),
        killed(2, at=9.0, hang="It is stopped."),
        failed(2, an_error("Diverged", "nan", metric="loss"), at=9.0),
        failed(2, an_error("InputLost", "gone", lost_input="prep#1"), at=9.0),
    ],
)
def test_what_nobody_else_can_have_brought_about_goes_before_clocks(sure: RankEnd) -> None:
    ends = [failed(0, an_error("RuntimeError", "odd"), at=1.0), killed(1, at=2.0), sure]
    assert diagnose(ends).rank == 2


def test_who_failed_alone_is_to_blame_before_who_was_waiting_for_others() -> None:
    """It may be an error of a lost peer in words that nobody knows."""
    odd = failed(0, an_error("RuntimeError", "Invalid argument", in_collective=True), at=1.0)
    assert diagnose([odd, killed(1, at=3.0)]).rank == 1
    assert diagnose([odd, killed(1, at=3.0, ordered=True)]).rank == 0


def test_a_divergence_inside_a_collective_is_no_victims() -> None:
    mine = failed(0, an_error("Diverged", "nan: failed to send", metric="loss", in_collective=True))
    assert not cs.is_victim(mine)


# --- whatever the facts are ---

errors = st.builds(
    an_error,
    st.sampled_from(["RuntimeError", "KeyError", "TimeoutError", "MemoryError", "Diverged"]),
    st.sampled_from(["boom", "", "Connection closed by peer", "can't allocate memory"]),
    in_collective=st.booleans(),
    errno=st.sampled_from([0, 0, 5, 28, 104]),
    metric=st.sampled_from(["", "", "loss"]),
    lost_input=st.sampled_from(["", "", "prep#1"]),
    damaged=st.sampled_from(["", "", HEAD]),
)
ends = st.builds(
    RankEnd,
    rank=st.integers(0, 7),
    outcome=st.sampled_from(Outcome),
    at=st.floats(0, 100),
    step=st.integers(0, 50),
    exit_code=st.sampled_from([None, 0, 1, 3]),
    signal=st.sampled_from([None, None, 6, 9, 11, 15, 40]),
    ordered=st.booleans(),
    peak_rss=st.integers(0, 3 * GIB),
    limit=st.sampled_from([0, GIB]),
    over_limit=st.booleans(),
    oom_kills=st.integers(0, 2),
    hang=st.sampled_from(["", "", "It says nothing."]),
    stacks=st.sampled_from(["", "Thread 1\n" * 3000]),
    host=st.sampled_from(["", "h0", "h1"]),
    error=st.none() | errors,
)
gangs = st.lists(ends, max_size=6, unique_by=lambda end: end.rank)


@settings(deadline=None, max_examples=200)
@given(gangs, st.none() | st.just(HEAD), st.randoms(use_true_random=False))
def test_there_is_always_one_cause_whatever_the_order(
    gang: list[RankEnd], head: str | None, rng: object
) -> None:
    found = diagnose(gang, head)
    assert found.cause in cs.CAUSES
    shuffled = list(gang)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert diagnose(shuffled, head) == found


@settings(deadline=None, max_examples=200)
@given(gangs)
def test_who_is_to_blame_failed_on_its_own_account(gang: list[RankEnd]) -> None:
    found = diagnose(gang)
    by_rank = {end.rank: end for end in gang}
    if found.rank is None:
        assert all(e.ordered or e.outcome in (Outcome.FINISHED, Outcome.LEFT) for e in gang)
        return
    blamed = by_rank[found.rank]
    assert not blamed.ordered
    assert blamed.outcome not in (Outcome.FINISHED, Outcome.LEFT)
    own = [e for e in gang if not e.ordered and e.outcome not in (Outcome.FINISHED, Outcome.LEFT)]
    assert not cs.is_victim(blamed) or all(cs.is_victim(e) for e in own)


@settings(deadline=None, max_examples=50)
@given(gangs)
def test_stacks_are_bounded_and_the_blamed_ranks_come_first(gang: list[RankEnd]) -> None:
    found = diagnose(gang)
    text = joined_stacks(gang, found.rank)
    assert len(text) <= MOST_STACKS
    told = [end.rank for end in gang if end.stacks]
    assert bool(text) == bool(told)
    if found.rank in told:
        assert text.startswith(f"--- rank {found.rank}")
