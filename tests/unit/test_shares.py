"""`core.shares`: what everyone is entitled to, and what is remembered of who had how much."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.policy import DAY, GroupRule, Policy, UserRule
from resilient_nb.core.shares import (
    SETTLE,
    Ledger,
    advance,
    change,
    entitlements,
    resize,
    totals,
    water_fill,
)

POLICY = Policy()


def ledger(wanted: dict[tuple[str, str], int], capacity: int, policy: Policy = POLICY) -> Ledger:
    """`wanted` by (group, user)."""
    found = resize(Ledger(), 0.0, policy, capacity)
    for (group, user), slots in wanted.items():
        found = change(found, 0.0, policy, user, group, wanted=slots)
    return found


def test_four_users_have_a_quarter_each_and_a_fifth_is_given_a_fifth() -> None:
    four = {("g", f"u{n}"): 1000 for n in range(4)}
    assert entitlements(ledger(four, 100), POLICY) == dict.fromkeys(four, 25.0)
    five = {**four, ("g", "u5"): 1000}
    assert entitlements(ledger(five, 100), POLICY) == dict.fromkeys(five, 20.0)


def test_groups_of_three_two_and_four_users() -> None:
    wanted = {
        (group, f"{group}{n}"): 100
        for group, users in (("a", 3), ("b", 2), ("c", 4))
        for n in range(users)
    }
    fair = entitlements(ledger(wanted, 100), POLICY)
    for (group, _), slots in fair.items():
        assert slots == pytest.approx({"a": 100 / 9, "b": 100 / 6, "c": 100 / 12}[group])


def test_weights_and_what_one_leaves_goes_to_the_others() -> None:
    policy = Policy(groups={"a": GroupRule(weight=3.0)}, users={"eve": UserRule(weight=2.0)})
    wanted = {("a", "ada"): 100, ("a", "eve"): 100, ("b", "bob"): 100}
    fair = entitlements(ledger(wanted, 80, policy), policy)
    assert fair == pytest.approx({("a", "ada"): 20.0, ("a", "eve"): 40.0, ("b", "bob"): 20.0})
    fair = entitlements(ledger({**wanted, ("a", "eve"): 10}, 80, policy), policy)
    assert fair == pytest.approx({("a", "ada"): 50.0, ("a", "eve"): 10.0, ("b", "bob"): 20.0})


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.integers(0, 50)), max_size=7),
    st.integers(0, 100),
)
def test_water_filling_is_max_min_fair(claims: list[tuple[float, int]], supply: int) -> None:
    named = [(f"u{n}", weight, float(demand)) for n, (weight, demand) in enumerate(claims)]
    shares = water_fill(named, supply)
    assert sum(shares.values()) == pytest.approx(min(supply, sum(d for _, d in claims)))
    for name, weight, demand in named:
        assert -1e-9 <= shares[name] <= demand + 1e-9
        if shares[name] < demand - 1e-6:  # who lacks something has as much as anybody
            level = shares[name] / weight
            assert all(shares[other] / w <= level + 1e-6 for other, w, _ in named)


def test_service_and_fair_service_are_decayed_integrals() -> None:
    half = POLICY.half_life
    one = change(ledger({("g", "ada"): 4}, 8), 0.0, POLICY, "ada", "g", held=4, high=2)
    then = one.account("ada", "g", half, POLICY)
    # The integral of 4 slots that count half after a half-life: 4 half / (2 ln 2).
    assert then.service == pytest.approx(4 * half / (2 * math.log(2)))
    assert then.high_service == pytest.approx(then.service / 2)
    later = advance(one, half, POLICY)
    assert later.accounts["g", "ada"].balance == pytest.approx(0.0, abs=4 * SETTLE)
    done = change(later, half, POLICY, "ada", "g", wanted=-4, held=-4, high=-2)
    after = advance(done, 2 * half, POLICY).accounts["g", "ada"]
    assert after.service == pytest.approx(then.service / 2)


def test_who_is_kept_waiting_is_owed() -> None:
    both = ledger({("g", "ada"): 8, ("g", "bob"): 8}, 8)
    both = change(both, 0.0, POLICY, "bob", "g", held=8)
    rows = advance(both, 1000.0, POLICY).accounts
    assert rows["g", "ada"].balance == pytest.approx(4 * 1000, rel=0.01)
    assert rows["g", "bob"].balance == pytest.approx(-4 * 1000, rel=0.01)
    assert totals(rows.values()).balance == pytest.approx(0.0, abs=10 * SETTLE)
    assert totals(rows.values()).held == 8


def test_who_is_gone_and_forgotten_has_no_account() -> None:
    past = change(ledger({("g", "ada"): 1}, 4), 60.0, POLICY, "ada", "g", wanted=-1)
    past = change(past, 60 * DAY * 30, POLICY, "bob", "g", wanted=1)
    past = advance(past, 60 * DAY * 60, POLICY)
    assert set(past.accounts) == {("g", "bob")}


changes = st.lists(
    st.tuples(
        st.floats(0, 2000),
        st.sampled_from(["ada", "bob", "eve"]),
        st.sampled_from(["g", "h"]),
        st.integers(-3, 5),
        st.integers(-3, 5),
    ),
    max_size=12,
)


def close(one: Ledger, other: Ledger) -> None:
    assert set(one.accounts) == set(other.accounts)
    for key, account in one.accounts.items():
        assert account == pytest.approx(other.accounts[key], rel=1e-6, abs=1e-3)


@settings(deadline=None, max_examples=150)
@given(changes, st.lists(st.floats(0, 3000), max_size=5))
def test_looking_at_a_ledger_changes_nothing(
    history: list[tuple[float, str, str, int, int]], looks: list[float]
) -> None:
    plain = looked = resize(Ledger(), 0.0, POLICY, 6)
    marks = [(at, None) for at in looks] + [(row[0], row) for row in history]
    for at, row in sorted(marks, key=lambda mark: mark[0]):
        looked = advance(looked, at, POLICY)
        if row is not None:
            _, user, group, wanted, held = row
            plain = change(plain, at, POLICY, user, group, wanted=wanted, held=held)
            looked = change(looked, at, POLICY, user, group, wanted=wanted, held=held)
    close(advance(plain, 4000.0, POLICY), advance(looked, 4000.0, POLICY))


def test_a_clock_that_goes_back_is_overruled() -> None:
    one = change(ledger({("g", "ada"): 4}, 8), 100.0, POLICY, "ada", "g", held=4)
    assert change(one, 50.0, POLICY, "ada", "g", held=-4).at == 100.0
