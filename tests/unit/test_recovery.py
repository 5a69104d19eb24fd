"""`core.recovery`: whom to blame, and whether another try can help."""

from __future__ import annotations

import pytest

from resilient_nb.core import recovery as rc
from resilient_nb.core.explain import error_text, failure_text
from resilient_nb.core.model import Frame, Outcome, RankEnd
from resilient_nb.core.recovery import Diagnosis, Verdict, decide, diagnose
from resilient_nb.testing.builders import a_failure, an_end, an_error, failed, killed


def exited(rank: int = 0, code: int = 0, **changes: object) -> RankEnd:
    return an_end(rank, Outcome.EXITED, exit_code=code, **changes)


def victim(rank: int, at: float = 0.0) -> RankEnd:
    message = "[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234"
    return failed(rank, an_error(message=message, in_collective=True), at=at, step=9)


# --- causes ---

CAUSES = [
    ([killed(0, 9, step=7)], rc.KILLED, "rank 0 was killed by SIGKILL at step 7."),
    ([killed(0, 15)], rc.KILLED, "rank 0 was killed by SIGTERM at step 0."),
    ([killed(3, 11, step=2, host="b")], rc.CRASH, "rank 3 on b crashed with SIGSEGV at step 2."),
    ([killed(0, 6)], rc.CRASH, "rank 0 crashed with SIGABRT at step 0."),
    ([killed(0, 7)], rc.CRASH, "rank 0 crashed with SIGBUS at step 0."),
    ([killed(0, 40)], rc.KILLED, "rank 0 was killed by signal 40 at step 0."),
    (
        [exited(1, 0, step=4)],
        rc.SILENT_EXIT,
        "rank 1 exited with code 0 at step 4 without finishing the cell.",
    ),
    ([failed(0, step=4)], rc.USER_ERROR, "RuntimeError: boom (rank 0, step 4)"),
    ([failed(0, an_error("KeyError", ""))], rc.USER_ERROR, "KeyError (rank 0, step 0)"),
    ([an_end(2, Outcome.LOST, host="b")], rc.HOST_LOST, "The host of rank 2 on b is gone."),
    ([victim(0), victim(1)], rc.NETWORK, None),
    ([an_end(0), an_end(1, Outcome.LEFT)], rc.SILENT_EXIT, None),
    ([], rc.SILENT_EXIT, "The attempt ended without a failing rank."),
]


@pytest.mark.parametrize(("ends", "cause", "message"), CAUSES)
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
    assert not rc.is_victim(mine)
    assert not rc.is_victim(other)
    assert not rc.is_victim(killed(0))
    assert diagnose([mine]).cause == rc.USER_ERROR


# --- decisions ---


def verdict(
    end: RankEnd, *past: tuple[RankEnd, int], retries: int = 3, fruitless: int = 1
) -> Verdict:
    """Decide on `end` after failures `past`, each as (end, step)."""
    failures = []
    for before, step in past:
        found = diagnose([before])
        failures.append(a_failure(found.cause, step=step, error=found.error))
    return decide(diagnose([end]), failures, retries, fruitless)


@pytest.mark.parametrize("end", [killed(0, 9, step=5), an_end(0, Outcome.LOST), victim(0)])
def test_what_came_from_outside_is_retried_without_the_users_budget(end: RankEnd) -> None:
    past = [(end, 5)] * 10
    found = verdict(end, *past, retries=0)
    assert found.retry
    assert found.delay == 0.0


@pytest.mark.parametrize("kind", sorted(rc.PERMANENT_ERRORS))
def test_errors_that_would_come_again_are_not_retried(kind: str) -> None:
    found = verdict(failed(0, an_error(kind), step=50))
    assert not found.retry
    assert found.reason == f"{kind} would happen again: not retried."


@pytest.mark.parametrize("kind", ["RuntimeError", "OSError", "TimeoutError", "MemoryError", "Odd"])
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


def test_the_users_budget_counts_only_the_jobs_own_failures() -> None:
    now = failed(0, an_error("OSError"), step=50)
    own = [(now, step) for step in (10, 20)]
    outside = [(killed(0), step) for step in (11, 12, 13, 14)]
    found = verdict(now, *own, *outside, retries=3)
    assert found == Verdict(True, "It may pass: retry 3 of 3.")
    assert verdict(now, *own, retries=2) == Verdict(False, "All 2 retries are used up.")
    assert not verdict(now, retries=0).retry


# --- patience ---


def test_attempts_that_get_nowhere_wait_longer_and_end() -> None:
    delays = [verdict(killed(), fruitless=n).delay for n in range(1, rc.FRUITLESS_LIMIT)]
    assert delays[:5] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert delays == sorted(delays)
    assert delays[-1] == 30.0
    given_up = verdict(killed(), fruitless=rc.FRUITLESS_LIMIT)
    assert given_up == Verdict(False, "20 attempts in a row made no checkpoint: given up.")


def test_a_retry_that_has_to_wait_doesnt_say_at_once() -> None:
    found = verdict(killed(), fruitless=8)
    assert found.delay > 0
    assert "at once" not in found.reason


def test_decide_is_pure_on_its_diagnosis() -> None:
    facts = Diagnosis(rc.CRASH, "It crashed.", 0, 5)
    assert decide(facts, [a_failure(step=4)], 3, 1) == decide(facts, [a_failure(step=4)], 3, 1)


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
