"""`core.eta`: when waiting gangs are expected to start, and whether that is a guess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient_nb.core.eta import ExpectedStart, expected_starts
from resilient_nb.core.forecast import PRESUMED
from resilient_nb.core.model import Share
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Gang, Host, QueueView
from resilient_nb.core.scheduling import plan

NOW = 10_000.0
SLOTS = 4


def waiting(job: str, workers: int, **changes: object) -> Gang:
    base = Gang(job, "ada", "g", workers, NOW - 1000, queued_at=NOW - 1000)
    return replace(base, **changes)  # type: ignore[arg-type]


def running(job: str, workers: int, **changes: object) -> Gang:
    """A gang that has just begun: nothing is known of how long it takes."""
    held = (Share("a", 0, workers, workers),)
    base = waiting(job, workers, held=workers, slots=workers, placement=held, since=NOW)
    return replace(base, saved_at=NOW, **changes)  # type: ignore[arg-type]


def starts(*gangs: Gang) -> dict[str, ExpectedStart]:
    used = sum(gang.slots for gang in gangs)
    view = QueueView(gangs, (Host("a", SLOTS, used),), policy=Policy(preemption=False))
    return dict(expected_starts(view, plan(view, NOW), NOW))


def test_a_live_rate_or_a_declaration_is_no_guess() -> None:
    live, told = running("r", 2, remaining=300.0, exact=True), running("s", 2, remaining=900.0)
    assert starts(live, told, waiting("w", 4)) == {"w": ExpectedStart(NOW + 900.0)}


def test_an_end_that_nobody_knows_makes_a_start_a_guess_and_is_named() -> None:
    assert starts(running("r", 4), waiting("w", 4)) == {"w": ExpectedStart(NOW + PRESUMED, "r")}


def test_as_long_again_as_it_has_lasted_is_a_guess_too() -> None:
    old = running("r", 4, since=NOW - 5000.0, attained=4 * 5000.0)
    assert starts(old, waiting("w", 4)) == {"w": ExpectedStart(NOW + 5000.0, "r")}


def test_a_declaration_that_was_overrun_is_no_knowledge() -> None:
    over = running("r", 4, remaining=0.0)
    assert starts(over, waiting("w", 4)) == {"w": ExpectedStart(NOW + PRESUMED, "r")}


@pytest.mark.parametrize("known", [300.0, 5000.0])
def test_one_guess_among_ends_that_are_known_makes_it_a_guess(known: float) -> None:
    gangs = running("r", 2), running("s", 2, remaining=known, exact=True), waiting("w", 4)
    assert starts(*gangs) == {"w": ExpectedStart(NOW + max(known, PRESUMED), "r")}


def test_an_end_that_need_not_be_waited_for_makes_nothing_a_guess() -> None:
    gangs = running("r", 2), running("s", 2, remaining=300.0, exact=True), waiting("w", 2)
    assert starts(*gangs) == {"w": ExpectedStart(NOW + 300.0)}


def test_what_comes_after_a_guess_has_no_expected_start() -> None:
    first, second = waiting("v", 4, submitted_at=NOW - 2000), waiting("w", 4)
    assert list(starts(running("r", 4), first, second)) == ["v"]
