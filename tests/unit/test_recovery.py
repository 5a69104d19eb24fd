"""`core.recovery`: whom to blame, and whether another try can help."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core import causes as cs
from resilient_nb.core import recovery as rc
from resilient_nb.core.case import Case, Verdict
from resilient_nb.core.causes import CAUSES, DAMAGED
from resilient_nb.core.diagnosis import Diagnosis, diagnose
from resilient_nb.core.explain import error_text, failure_text
from resilient_nb.core.model import Failure, Frame, OnNan, Outcome, RankEnd, Remedy
from resilient_nb.core.recovery import decide
from resilient_nb.testing.builders import (
    a_checkpoint,
    a_failure,
    an_end,
    an_error,
    failed,
    killed,
)

GIB = 1 << 30


def exited(rank: int = 0, code: int = 0, **changes: object) -> RankEnd:
    return an_end(rank, Outcome.EXITED, exit_code=code, **changes)


def victim(rank: int, at: float = 0.0) -> RankEnd:
    message = "[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234"
    return failed(rank, an_error(message=message, in_collective=True), at=at, step=9)


# --- causes ---

ENDS = [
    ([killed(0, 9, step=7)], cs.KILLED, "rank 0 was killed by SIGKILL at step 7."),
    ([killed(0, 15)], cs.KILLED, "rank 0 was killed by SIGTERM at step 0."),
    ([killed(3, 11, step=2, host="b")], cs.CRASH, "rank 3 on b crashed with SIGSEGV at step 2."),
    ([killed(0, 6)], cs.CRASH, "rank 0 crashed with SIGABRT at step 0."),
    ([killed(0, 7)], cs.CRASH, "rank 0 crashed with SIGBUS at step 0."),
    ([killed(0, 40)], cs.KILLED, "rank 0 was killed by signal 40 at step 0."),
    (
        [exited(1, 0, step=4)],
        cs.SILENT_EXIT,
        "rank 1 exited with code 0 at step 4 without finishing the cell.",
    ),
    ([failed(0, step=4)], cs.USER_ERROR, "RuntimeError: boom (rank 0, step 4)"),
    ([failed(0, an_error("KeyError", ""))], cs.USER_ERROR, "KeyError (rank 0, step 0)"),
    ([an_end(2, Outcome.LOST, host="b")], cs.HOST_LOST, "The host of rank 2 on b is gone."),
    ([victim(0), victim(1)], cs.NETWORK, None),
    ([an_end(0), an_end(1, Outcome.LEFT)], cs.SILENT_EXIT, None),
    ([], cs.SILENT_EXIT, "The attempt ended without a failing rank."),
]


@pytest.mark.parametrize(("ends", "cause", "message"), ENDS)
def test_a_cause_is_found_and_named(ends: list[RankEnd], cause: str, message: str | None) -> None:
    found = diagnose(ends)
    assert found.cause == cause
    assert message is None or found.message == message


def test_the_earliest_real_failure_is_to_blame_never_its_victims() -> None:
    ends = [victim(0, at=1.0), killed(1, at=3.0), failed(2, at=2.0), an_end(3, at=0.5)]
    for order in (ends, ends[::-1]):
        assert diagnose(order).rank == 2


def test_a_rank_that_we_ended_is_never_blamed() -> None:
    ends = [killed(0, at=1.0, ordered=True), exited(1, 3, at=2.0)]
    assert diagnose(ends).rank == 1
    assert diagnose(ends[:1]).rank is None


def test_equal_times_blame_the_lowest_rank() -> None:
    assert diagnose([killed(2, at=1.0), killed(1, at=1.0)]).rank == 1


def test_only_a_collective_makes_a_victim() -> None:
    """A cell whose own download fails with these words is no victim of a rank."""
    mine = failed(0, an_error("OSError", "connection reset by host", in_collective=False), step=3)
    other = failed(1, an_error("ValueError", "in collective", in_collective=True), step=3)
    assert not cs.is_victim(mine)
    assert not cs.is_victim(other)
    assert not cs.is_victim(killed(0))
    assert diagnose([mine]).cause == cs.USER_ERROR


# --- decisions ---


def verdict(
    end: RankEnd, *past: tuple[RankEnd, int], retries: int = 3, fruitless: int = 1, **case: object
) -> Verdict:
    """Decide on `end` after failures `past`, each as (end, step)."""
    failures = []
    for before, step in past:
        found = diagnose([before])
        failures.append(a_failure(found.cause, step=step, error=found.error))
    case_ = Case(tuple(failures), retries=retries, fruitless=fruitless)
    return decide(diagnose([end]), replace(case_, **case))  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [killed(0, 9, step=5), an_end(0, Outcome.LOST)])
def test_what_came_from_outside_is_retried_without_the_users_budget(end: RankEnd) -> None:
    past = [(end, 5)] * 10
    found = verdict(end, *past, retries=0)
    assert found == Verdict(True, "Not the job's fault: it goes on at once.")


@pytest.mark.parametrize("kind", sorted(rc.PERMANENT_ERRORS))
def test_errors_that_would_come_again_are_not_retried(kind: str) -> None:
    found = verdict(failed(0, an_error(kind), step=50))
    assert found == Verdict(False, f"{kind} would happen again: not retried.")


@pytest.mark.parametrize("kind", ["RuntimeError", "OSError", "MemoryError", "Odd"])
def test_other_errors_are_retried_after_a_step_but_not_before(kind: str) -> None:
    assert verdict(failed(0, an_error(kind), step=1)).retry
    found = verdict(failed(0, an_error(kind), step=0))
    assert found == Verdict(False, "It failed before the first step: not retried.")


def test_the_same_exception_at_the_same_step_is_permanent() -> None:
    now = failed(0, an_error("OSError"), step=50)
    assert not verdict(now, (now, 50)).retry
    assert verdict(now, (now, 49)).retry
    assert verdict(now, (failed(0, an_error("RuntimeError")), 50)).retry
    # Not only the one just before it.
    assert not verdict(now, (now, 50), (killed(0), 60)).retry


@pytest.mark.parametrize("end", [killed(0, 11, step=5), exited(0, 0, step=5), exited(0, 3, step=5)])
def test_a_crash_or_silent_exit_has_one_more_try_at_a_step(end: RankEnd) -> None:
    assert verdict(end).retry
    assert verdict(end, (end, 4)).retry
    found = verdict(end, (end, 5))
    assert found == Verdict(False, "The same failure at step 5 again: not retried.")


def test_a_crash_is_tried_on_another_host() -> None:
    found = verdict(killed(0, 11, step=5, host="h1"), remedy=Remedy(avoid=("h1", "h2")))
    assert found.retry
    assert found.remedy == Remedy(avoid=("h2", "h1"))
    assert "Not on h1, if possible." in found.reason


def test_the_users_budget_counts_only_the_jobs_own_failures() -> None:
    now = failed(0, an_error("OSError"), step=50)
    own = [(now, step) for step in (10, 20)]
    outside = [(killed(0), step) for step in (11, 12, 13, 14)]
    found = verdict(now, *own, *outside, retries=3)
    assert found == Verdict(True, "It may pass: retry 3 of 3.")
    spent = Verdict(False, "All 2 retries are used up.", spent="retries")
    assert verdict(now, *own, retries=2) == spent
    assert not verdict(now, retries=0).retry


# --- memory ---

OOM = killed(0, over_limit=True, limit=GIB, peak_rss=GIB, step=5)


def test_memory_is_raised_twice_at_most() -> None:
    found = verdict(OOM, memory=GIB)
    assert found.retry
    assert found.remedy == Remedy(memory=3 * GIB // 2)
    assert found.reason == "It gets 1.5 GiB for each worker instead of 1.0 GiB: try 1 of 2."
    assert verdict(OOM, (OOM, 5), memory=3 * GIB // 2).remedy == Remedy(memory=9 * GIB // 4)
    found = verdict(OOM, (OOM, 5), (OOM, 5), memory=9 * GIB // 4)
    assert (found.retry, found.spent) == (False, "memory")


def test_memory_keeps_what_else_was_changed_and_never_uses_the_users_budget() -> None:
    found = verdict(OOM, memory=GIB, remedy=Remedy(skip=(4,)), retries=0)
    assert found.remedy == Remedy(memory=3 * GIB // 2, skip=(4,))
    now = failed(0, an_error("OSError"), step=50)
    assert verdict(now, (OOM, 5), (OOM, 6), retries=1).retry


def test_memory_is_no_more_than_a_worker_can_have() -> None:
    found = verdict(OOM, memory=GIB, room=5 * GIB // 4)
    assert found.remedy == Remedy(memory=5 * GIB // 4)
    found = verdict(OOM, memory=GIB, room=GIB)
    assert (found.retry, found.spent) == (False, "memory")
    assert "no worker here has that" in found.reason


def test_without_a_limit_it_is_the_peak_that_is_raised() -> None:
    end = killed(0, oom_kills=1, peak_rss=GIB, step=5)
    found = verdict(end, ranks=2)
    assert found.remedy == Remedy(memory=3 * GIB)
    assert verdict(end, room=0).remedy is None
    assert verdict(OOM, memory=GIB, room=0).retry
    assert verdict(killed(0, oom_kills=1)).retry
    # It ran with more than the workers say to have: who filled the host may have been another.
    found = verdict(end, room=GIB // 2)
    assert (found.retry, found.remedy) == (True, None)
    assert verdict(end, (end, 5), (end, 5), room=GIB // 2).spent == "memory"


def test_an_allocation_that_failed_gets_more_only_near_the_limit() -> None:
    error = an_error("MemoryError", "")
    near = failed(0, error, step=0, limit=GIB, peak_rss=int(0.97 * GIB))
    assert verdict(near, memory=GIB).remedy == Remedy(memory=3 * GIB // 2)
    far = failed(0, error, step=5, limit=GIB, peak_rss=GIB // 2)
    assert verdict(far, memory=GIB) == Verdict(True, "It may pass: retry 1 of 3.")
    assert not verdict(far, (far, 5), memory=GIB).retry


# --- what time mends ---

PASSING = [
    failed(0, an_error("ConnectionResetError"), step=0),
    failed(0, an_error("OSError", errno=5), step=3, host="h1"),
    failed(0, an_error("OSError", "the rank could not be started: no"), host="h1"),
]


@pytest.mark.parametrize("end", PASSING)
def test_six_tries_in_a_row_with_pauses_that_double(end: RankEnd) -> None:
    found = [verdict(end, *[(end, 3)] * n, fruitless=n + 1, jitter=0.5) for n in range(7)]
    assert [v.delay for v in found[:6]] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert all(v.retry for v in found[:6])
    assert not found[6].retry
    assert found[6].spent in ("network", "io", "starts")
    # A checkpoint since: it begins anew.
    assert verdict(end, *[(end, 3)] * 6, fruitless=1).retry
    # Others' failures in between don't count.
    assert verdict(end, *[(killed(0), 3)] * 6, fruitless=7).retry


def test_trouble_with_a_disk_or_a_process_is_tried_elsewhere() -> None:
    assert verdict(PASSING[0]).remedy is None
    assert verdict(PASSING[1]).remedy == Remedy(avoid=("h1",))
    assert verdict(PASSING[2]).remedy == Remedy(avoid=("h1",))


def test_a_full_disk_costs_no_budget_of_the_users() -> None:
    full = failed(0, an_error("OSError", errno=28), step=5)
    found = verdict(full, *[(full, 5)] * 10, retries=0, fruitless=11)
    assert found.retry
    assert found.remedy is None
    assert 0 < found.delay <= rc.LONGEST_DISK_PAUSE
    assert verdict(full, fruitless=rc.FRUITLESS_LIMIT).spent == "disk"


def test_a_hang_is_restarted_unless_it_hung_there_before() -> None:
    hung = killed(0, hang="It is stopped.", step=7)
    found = verdict(hung, (hung, 6), retries=0)
    assert found == Verdict(True, "A hang may pass: it starts again at once.")
    assert verdict(hung, (hung, 7)) == Verdict(False, "It hung at step 7 before: not retried.")


# --- numbers that diverge ---

NAN = failed(0, an_error("Diverged", "loss is nan", metric="loss"), step=41)
BACK = a_checkpoint(step=40)


def test_the_step_that_diverged_is_left_out() -> None:
    found = verdict(NAN, back_to=BACK, remedy=Remedy(skip=(50,)))
    assert found.remedy == Remedy(skip=(42, 50))
    assert found.reason == "It goes on from step 40, without step 42: rollback 1 of 3."


def test_the_learning_rate_is_lowered() -> None:
    found = verdict(NAN, on_nan=OnNan.LOWER_LR, remedy=Remedy(lr_scale=0.5))
    assert found.remedy == Remedy(lr_scale=0.25)
    assert found.reason == (
        "It goes on from the beginning, with 25 % of its learning rate: rollback 1 of 3."
    )


def test_it_goes_back_three_times_at_most_or_never() -> None:
    assert verdict(NAN, (NAN, 1), (NAN, 2)).retry
    found = verdict(NAN, (NAN, 1), (NAN, 2), (NAN, 3))
    assert (found.retry, found.spent) == (False, "rollbacks")
    found = verdict(NAN, on_nan=OnNan.STOP)
    assert (found.retry, found.spent) == (False, "")


# --- lost inputs ---


def test_who_made_an_input_is_run_again_once() -> None:
    lost = failed(0, an_error("InputLost", "gone", lost_input="prep#1"))
    found = verdict(lost)
    assert (found.retry, found.rerun) == (True, "prep#1")
    found = verdict(lost, (lost, 0))
    assert (found.retry, found.rerun, found.spent) == (False, "", "")


@pytest.mark.parametrize("what", ["/data/train.csv", "s3://bucket/x#1/y", ""])
def test_nobody_here_makes_a_file_again(what: str) -> None:
    facts = Diagnosis(cs.INPUT_LOST, "Gone.", 0, 5, an_error(lost_input=what))
    assert decide(facts, Case()) == Verdict(
        False, f"Nothing here can bring {what or 'it'} back: not retried."
    )


# --- patience ---


def test_attempts_that_get_nowhere_wait_longer_and_end() -> None:
    delays = [verdict(killed(), fruitless=n).delay for n in range(1, rc.FRUITLESS_LIMIT)]
    assert delays[:5] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert delays == sorted(delays)
    assert delays[-1] == 30.0
    given_up = verdict(killed(), fruitless=rc.FRUITLESS_LIMIT)
    assert given_up == Verdict(
        False, "20 attempts in a row made no checkpoint: given up.", spent="attempts"
    )


def test_a_retry_that_has_to_wait_doesnt_say_at_once() -> None:
    found = verdict(killed(), fruitless=8)
    assert found.delay > 0
    assert "at once" not in found.reason


# --- whatever happens ---

diagnoses = st.builds(
    Diagnosis,
    st.sampled_from([*CAUSES, "a cause of an older journal"]),
    st.just("It broke."),
    rank=st.none() | st.integers(0, 3),
    step=st.integers(0, 3),
    error=st.none()
    | st.builds(
        an_error,
        st.sampled_from(["RuntimeError", "KeyError", "OSError"]),
        lost_input=st.sampled_from(["", "prep#1", "/x"]),
    ),
    host=st.sampled_from(["", "h0"]),
    peak=st.integers(0, 2 * GIB),
    limit=st.sampled_from([0, GIB]),
)
cases = st.builds(
    Case,
    retries=st.integers(0, 5),
    jitter=st.floats(0, 1, exclude_max=True),
    on_nan=st.sampled_from(OnNan),
    memory=st.sampled_from([0, GIB]),
    ranks=st.integers(1, 4),
    room=st.none() | st.integers(0, 8 * GIB),
    back_to=st.none() | st.just(BACK),
)


@settings(deadline=None, max_examples=300)
@given(diagnoses, cases, st.integers(1, 30))
def test_there_is_always_one_decision_and_it_can_be_replayed(
    diagnosis: Diagnosis, case: Case, fruitless: int
) -> None:
    case = replace(case, fruitless=fruitless)
    found = decide(diagnosis, case)
    assert decide(diagnosis, case) == found
    assert found.reason
    assert 0.0 <= found.delay <= rc.LONGEST_DISK_PAUSE
    if found.retry:
        assert not found.spent
    else:
        assert (found.delay, found.remedy, found.rerun) == (0.0, None, "")


@settings(deadline=None, max_examples=200)
@given(diagnoses, cases)
def test_no_job_is_retried_for_ever_without_a_checkpoint(diagnosis: Diagnosis, case: Case) -> None:
    """Each cause's budget is bounded, whatever the circumstances."""
    past: tuple[Failure, ...] = ()
    for tries in range(rc.FRUITLESS_LIMIT + 1):
        now = replace(case, past=past, fruitless=tries + 1)
        facts = replace(diagnosis, step=diagnosis.step + 7 * tries)
        found = decide(facts, now)
        if not found.retry:
            return
        failure = a_failure(facts.cause, step=facts.step, error=facts.error, remedy=found.remedy)
        past = (*past, failure)
        case = replace(case, remedy=found.remedy or case.remedy)
    assert facts.cause == DAMAGED  # each time, one checkpoint less is left
    assert case.back_to is not None


permanent = st.one_of(
    st.sampled_from(sorted(rc.PERMANENT_ERRORS)).map(
        lambda kind: failed(0, an_error(kind), step=9)
    ),
    st.just(failed(0, an_error("OSError"), step=0)),
    st.just(failed(0, an_error("InputLost", lost_input="/gone"), step=3)),
)


@settings(deadline=None, max_examples=100)
@given(permanent, cases)
def test_what_is_permanent_is_never_retried(end: RankEnd, case: Case) -> None:
    found = decide(diagnose([end]), replace(case, retries=100))
    assert (found.retry, found.spent) == (False, "")


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([cs.CRASH, cs.HANG, cs.SILENT_EXIT, cs.USER_ERROR]), cases)
def test_the_same_step_twice_is_permanent(cause: str, case: Case) -> None:
    past = (a_failure(cause, step=5), a_failure(cs.KILLED, step=8))
    found = decide(Diagnosis(cause, "It broke.", 0, 5), replace(case, past=past, retries=100))
    assert (found.retry, found.spent) == (False, "")


# --- in words ---


def test_a_failure_in_words_shows_the_cells_lines() -> None:
    error = an_error(frames=(Frame("<cell>", 3, "<module>", "train()"), Frame("h.py", 1, "f", "")))
    text = error_text(error, {"<cell>": "a\nb\ntrain()\nd\ne"}, label="In [5]")
    assert text.splitlines() == [
        "In [5], line 3, in <module>",
        "         1 a",
        "         2 b",
        "---->    3 train()",
        "         4 d",
        "h.py, line 1, in f",
        "RuntimeError: boom",
    ]


def test_a_failure_says_what_failed_why_and_what_was_decided() -> None:
    text = failure_text(a_failure("native crash", error=an_error("KeyError", "")))
    assert text.startswith("native crash: It broke.\nIt may pass.\n\n")
    assert text.endswith("\nKeyError")
    assert "    train()" in text


def test_a_failure_says_by_what_facts_and_what_it_cost() -> None:
    facts = ("It had 1.1 GiB.", "Rank 1 only lost its peer.")
    failure = a_failure(evidence=facts, lost_steps=1, lost_s=4.0, down_s=0.31)
    assert failure_text(failure).splitlines() == [
        "native crash: It broke.",
        *facts,
        "It may pass.",
        "Cost: 1 step to make again, 4.0 s of work, 0.3 s until it ran again.",
    ]


# --- budgets that a user has set ---


def test_each_class_has_a_budget_that_can_be_set() -> None:
    budgets = {"memory": 1, "network": 1, "io": 0, "rollbacks": 5, "attempts": 4}
    assert verdict(OOM, (OOM, 5), memory=GIB, budgets=budgets).spent == "memory"
    net = PASSING[0]
    assert verdict(net, (net, 0), fruitless=2, budgets=budgets).spent == "network"
    assert verdict(PASSING[1], budgets=budgets).spent == "io"
    assert verdict(NAN, *[(NAN, n) for n in range(4)], budgets=budgets).retry
    assert verdict(killed(), fruitless=4, budgets=budgets).spent == "attempts"
