"""`core.interval`: laws of the best interval and of the failure rate that it rests on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.causes import HOST_LOST, KILLED, USER_ERROR
from resilient_nb.core.interval import (
    LONGEST,
    PRESUMED,
    SHORTEST,
    best_interval,
    daly,
    mean_time_between_failures,
)
from resilient_nb.core.model import Failure, Job, JobState
from resilient_nb.core.world import World
from resilient_nb.testing.builders import START, a_failure, a_spec, on_hosts

DAY = 86400.0
costs = st.floats(0, 1e5)
means = st.floats(1e-3, 1e12) | st.just(math.inf)
bounds = st.floats(1e-4, 0.499)


def lost(interval: float, cost: float, mtbf: float) -> float:
    """Time that a job takes, as a multiple of its compute time (Daly's equation 20, no restart)."""
    return math.expm1(interval / mtbf) * mtbf / (interval - cost)


# --- the interval ---


@pytest.mark.parametrize(("mtbf", "minutes"), [(1440, 117), (360, 57), (15, 9.1)])
def test_what_the_paper_computed(mtbf: float, minutes: float) -> None:
    """Figures 3 to 5 of Daly 2006: a dump of 5 minutes."""
    assert daly(5 * 60, mtbf * 60) / 60 == pytest.approx(minutes, rel=0.006)


@given(st.floats(0.01, 10), st.floats(1000, 1e6), st.floats(0.02, 50))
def test_no_other_interval_is_much_better(cost: float, mtbf: float, factor: float) -> None:
    """Where no bound is in the way: the model's exact optimum is within a thousandth."""
    best = daly(cost, mtbf) + cost
    other = max(best * factor, 1.001 * cost)
    if other / mtbf < 50:
        assert lost(best, cost, mtbf) <= 1.001 * lost(other, cost, mtbf)


@given(costs, means, bounds)
def test_the_overhead_is_bounded_whatever_failures_cost(
    cost: float, mtbf: float, overhead: float
) -> None:
    interval = best_interval(cost, mtbf, overhead)
    assert cost <= overhead * interval * (1 + 1e-9)
    assert SHORTEST <= interval <= max(LONGEST, cost / overhead)


@given(costs, costs, means, bounds)
def test_what_costs_more_is_done_less_often(
    one: float, other: float, mtbf: float, overhead: float
) -> None:
    low, high = sorted([one, other])
    found = best_interval(high, mtbf, overhead)
    assert best_interval(low, mtbf, overhead) <= found * (1 + 1e-9)


@given(costs, means, means, bounds)
def test_what_fails_less_is_saved_less_often(
    cost: float, one: float, other: float, overhead: float
) -> None:
    low, high = sorted([one, other])
    assert best_interval(cost, low, overhead) <= best_interval(cost, high, overhead) * (1 + 1e-9)


@given(costs, means, bounds, bounds)
def test_a_larger_bound_never_means_less_often(
    cost: float, mtbf: float, one: float, other: float
) -> None:
    low, high = sorted([one, other])
    assert best_interval(cost, mtbf, high) <= best_interval(cost, mtbf, low)


@given(means, bounds)
def test_what_is_free_is_done_as_often_as_is_sensible(mtbf: float, overhead: float) -> None:
    assert best_interval(0.0, mtbf, overhead) == SHORTEST


@given(st.floats(1e-3, 10), st.floats(0.01, 0.499))
def test_without_failures_as_rarely_as_is_sensible(cost: float, overhead: float) -> None:
    assert best_interval(cost, math.inf, overhead) == LONGEST
    assert best_interval(LONGEST, math.inf, overhead) == LONGEST / overhead


@pytest.mark.parametrize(
    "values",
    [
        (math.nan, DAY, 0.01), (1.0, math.nan, 0.01), (1.0, DAY, math.nan), (-1.0, DAY, 0.01),
        (math.inf, DAY, 0.01), (1.0, 0.0, 0.01), (1.0, -DAY, 0.01), (1.0, DAY, 0.0),
        (1.0, DAY, 0.5), (1.0, DAY, -0.01),
    ],
)  # fmt: skip
def test_nonsense_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="can't"):
        best_interval(*values)


# --- the failure rate ---


def a_job(
    run: str = "digits", ranks: tuple[int, ...] = (), attained: float = 0.0, **changes: object
) -> Job:
    """A job that holds so many slots on each host, or has ended."""
    job = Job(
        f"{run}#1", run, 1, a_spec(max(1, sum(ranks))), JobState.RUNNING, START, "r",
        attempts=1, placement=on_hosts(*ranks), started_at=START, attained=attained,
    )  # fmt: skip
    return replace(job, **changes)  # type: ignore[arg-type]


def mtbf(job: Job, *others: Job, now: float = START) -> float:
    world = World(jobs={each.id: each for each in (*others, job)})
    return mean_time_between_failures(world, job, now)


def failures(count: int, cause: str = KILLED, **changes: object) -> tuple[Failure, ...]:
    return tuple(a_failure(cause, 5 + n, **changes) for n in range(count))


@pytest.mark.parametrize(
    ("ranks", "days"), [((1,), 1), ((8,), 1), ((1, 1), 1 / 2), ((2,) * 4, 1 / 4)]
)
def test_a_host_is_presumed_to_fail_once_a_day(ranks: tuple[int, ...], days: float) -> None:
    assert mtbf(a_job(ranks=ranks)) == pytest.approx(days * PRESUMED)


def test_after_enough_time_only_what_happened_counts() -> None:
    year = 365 * DAY
    happened = a_job(ranks=(1,), attained=year, failures=failures(365 * 24))
    assert mtbf(happened) == pytest.approx(3600, rel=0.01)
    other = a_job("moons", attained=year, failures=failures(365 * 24))
    assert mtbf(a_job(ranks=(1,)), other) == pytest.approx(3600, rel=0.01)


def test_a_few_failures_outweigh_the_presumption_and_so_does_a_calm_day() -> None:
    flaky = a_job(ranks=(1,), attained=600.0, failures=failures(5))
    assert mtbf(flaky) < 0.15 * DAY
    assert mtbf(a_job(ranks=(1,), attained=DAY)) == pytest.approx(3 * DAY)


def test_what_a_gang_holds_now_counts_as_time() -> None:
    job, other = a_job(ranks=(1,)), a_job("moons", ranks=(2,))
    assert mtbf(job, now=START + DAY) == pytest.approx(3 * DAY)
    assert mtbf(job, other, now=START + DAY) > 3 * DAY
    assert mtbf(job, now=START - DAY) == pytest.approx(DAY)  # a clock that was set back


def test_errors_in_other_cells_and_what_lost_no_step_are_no_failures() -> None:
    job = a_job(ranks=(1,))
    assert mtbf(job, a_job("moons", failures=failures(9, USER_ERROR))) == mtbf(job)
    assert mtbf(job, a_job("moons", failures=failures(9, HOST_LOST))) < mtbf(job)
    own = replace(job, failures=failures(9, USER_ERROR))
    assert mtbf(own) < mtbf(job)
    in_vain = replace(job, failures=tuple(a_failure(USER_ERROR, 0) for _ in range(9)))
    again = replace(job, failures=tuple(a_failure(KILLED, 20, resumes_from=20) for _ in range(9)))
    assert mtbf(in_vain) == mtbf(again) == mtbf(job)


def test_a_runs_own_failures_say_more_than_those_of_others() -> None:
    job, calm = a_job(ranks=(1,), attained=3600.0), a_job("moons", attained=100 * DAY)
    others = mtbf(job, replace(calm, failures=failures(3)))
    assert others < mtbf(job, calm)
    assert mtbf(replace(job, failures=failures(3)), calm) < DAY / 4 < others


histories = st.tuples(st.floats(0, 1e8), st.integers(0, 50))


@given(histories, histories, st.integers(1, 64), st.integers(1, 64), st.integers(1, 4))
def test_larger_gangs_fail_more_often(
    own: tuple[float, int], others: tuple[float, int], one: int, other: int, hosts: int
) -> None:
    def expected(slots: int) -> float:
        mine = a_job(ranks=(slots,) * hosts, attained=own[0], failures=failures(own[1]))
        rest = a_job("moons", attained=others[0], failures=failures(others[1]))
        found = mtbf(mine, rest)
        assert 0 < found < math.inf
        return found

    small, large = sorted([one, other])
    assert expected(large) <= expected(small) * (1 + 1e-9)


@given(histories, histories, st.integers(0, 9))
def test_each_failure_makes_the_next_one_likelier(
    own: tuple[float, int], others: tuple[float, int], more: int
) -> None:
    def expected(mine: int, rest: int) -> float:
        job = a_job(ranks=(2,), attained=own[0], failures=failures(mine))
        return mtbf(job, a_job("moons", attained=others[0], failures=failures(rest)))

    now = expected(own[1], others[1]) * (1 + 1e-9)
    assert expected(own[1] + more, others[1]) <= now
    assert expected(own[1], others[1] + more) <= now
