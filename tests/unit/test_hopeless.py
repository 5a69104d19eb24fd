"""`core.hopeless`: too late for the deadline, or far behind the siblings."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core.hopeless import LEAST_SPEEDS, Pace, dominated, late

NOW = 1000.0
speeds = st.lists(st.floats(0, 100), min_size=LEAST_SPEEDS, max_size=70).map(tuple)


@given(speeds, st.integers(0, 10**6), st.integers(0, 10**6), st.floats(1, 1e6))
def test_what_its_usual_speed_makes_is_never_late(
    found: tuple[float, ...], done: int, left: int, time: float
) -> None:
    pace = Pace(found, done, done + left)
    usual = sum(found) / len(found)
    finding = late(pace, NOW + time, NOW)
    if finding.holds:
        assert left > usual * time
        assert left > 0
    if usual > 0 and left <= usual * time:
        assert finding.holds is False


@given(speeds, st.integers(1, 10**6), st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_time_or_more_workers_never_make_it_late(
    found: tuple[float, ...], left: int, time: float, more: float
) -> None:
    if not late(Pace(found, 10, 10 + left), NOW + time, NOW).holds:
        assert not late(Pace(found, 10, 10 + left), NOW + time + more, NOW).holds
        assert not late(Pace(found, 10, 10 + left, growth=1 + more), NOW + time, NOW).holds


def test_a_deadline_that_has_passed_has_passed() -> None:
    found = late(Pace(), NOW - 300, NOW)
    assert (found.holds, found.evidence) == (True, ("Its deadline passed 5 min ago.",))


def test_slow_progress_is_said_with_its_facts() -> None:
    pace = Pace((0.5,) * 30, 1000, 100_000, made=900, ran=1800)
    found = late(pace, NOW + 7200, NOW)
    assert found.holds
    assert found.evidence == (
        "1 % is done: 1,000 of 100,000 steps, the last 900 in 30 min.",
        "The rest takes 2.29 d even at its best speed (0.5 steps/s), and the deadline is in 2 h.",
    )


def test_of_few_measurements_or_of_an_unknown_end_nothing_is_said() -> None:
    assert late(Pace((0.5,) * (LEAST_SPEEDS - 1), 1, 10**6), NOW + 60, NOW).holds is None
    assert late(Pace((0.5,) * 30, 1, None), NOW + 60, NOW).holds is None
    assert late(Pace((0.0,) * 30, 1, 10), NOW + 60, NOW).holds is None


def test_a_job_that_was_faster_at_times_gets_the_benefit_of_the_doubt() -> None:
    bursts = Pace((1.0,) * 8 + (10.0,) * 2, 0, 3600)
    assert late(bursts, NOW + 600, NOW).holds is None


# --- siblings ---


def curve(level: float, seed: int, count: int = 120) -> list[tuple[int, float]]:
    """From 2 down to `level`, with noise."""
    draw = random.Random(seed)
    return [
        (n, level + (2 - level) * math.exp(-n / 15) + draw.gauss(0, 0.01))
        for n in range(1, count + 1)
    ]


GOOD = {f"s{n}#1": curve(0.3 + 0.02 * n, n) for n in range(3)}


def test_a_job_far_behind_most_of_its_siblings_is_dominated() -> None:
    found = dominated("loss", curve(1.0, 9, 100), {**GOOD, "bad#1": curve(1.1, 7)})
    assert found.holds
    [line] = found.evidence
    assert "3 of its 4 siblings are better by far" in line
    assert "s0#1 0.3" in line


def test_one_like_the_others_isnt() -> None:
    assert dominated("loss", curve(0.33, 9, 100), GOOD).holds is False
    best = {"s0#1": GOOD["s0#1"], **{f"b{n}#1": curve(1.0, n + 20) for n in range(3)}}
    assert dominated("loss", curve(1.0, 9, 100), best).holds is False


def test_too_few_siblings_or_points_or_a_gap_that_closes_say_nothing() -> None:
    two = dict(list(GOOD.items())[:2])
    assert dominated("loss", curve(1.0, 9, 100), two).holds is None
    assert dominated("loss", curve(1.0, 9, 40), GOOD).holds is None
    behind = {name: points[:50] for name, points in GOOD.items()}
    assert dominated("loss", curve(1.0, 9, 100), behind).holds is None
    closing = [(n, 2 - n / 90) for n in range(1, 101)]
    assert dominated("loss", closing, GOOD).holds is not True


@given(st.floats(0.01, 100), st.floats(-10, 10), st.booleans())
def test_neither_scale_nor_direction_matter(scale: float, shift: float, turn: bool) -> None:
    sign = -1 if turn else 1

    def moved(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
        return [(step, sign * (scale * value + shift)) for step, value in points]

    siblings = {name: moved(points) for name, points in GOOD.items()}
    assert dominated("m", moved(curve(1.0, 9, 100)), siblings, turn).holds
    assert dominated("m", moved(curve(0.33, 9, 100)), siblings, turn).holds is False


@given(
    st.lists(st.floats(), max_size=80),
    st.lists(st.lists(st.floats(), max_size=90), max_size=4),
    st.booleans(),
)
def test_nothing_breaks_it(own: list[float], others: list[list[float]], greatest: bool) -> None:
    siblings = {f"s{n}#1": list(enumerate(o)) for n, o in enumerate(others)}
    found = dominated("loss", list(enumerate(own)), siblings, greatest)
    assert found.holds in (True, False, None)
