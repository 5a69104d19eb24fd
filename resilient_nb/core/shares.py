"""Who is entitled to how much, and who had how much: hierarchical weighted fair shares.

A `Ledger` is folded from the journal. It keeps, for each user of each group, the slots wanted
and held now and exponentially decayed integrals of service, so that old use is forgiven by
halves (the decayed usage of multi-user batch schedulers, e.g. Slurm's multifactor plugin).
Entitlement is weighted water-filling (max-min fairness) over groups, then over the users of
each group: nobody is entitled to more than is wanted, and what one leaves goes to the others.

Accounts are brought forward only when they are touched, and the fair rates at which they earn
are worked out at most once in `SETTLE` seconds, so that one event costs the same however many
users there are. Both depend on the times of events only: a replay gives the same ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from resilient_nb.core.policy import Policy

#: Seconds after a change of demand at which the rates of earning follow. Far below the half-life
#: of days, and long enough that a burst of events is one calculation.
SETTLE = 5.0
#: An account that holds and wants nothing is forgotten when less than this many slot-seconds of
#: its past are left.
FORGET = 1.0

#: (group, user)
Key = tuple[str, str]
#: What shares are given to.
Name = TypeVar("Name", str, Key)


class Account(NamedTuple):
    """One user of one group, as of `at`. Slots, and decayed slot-seconds.

    `wanted` are slots of all unfinished jobs that may run, running ones included; `rate` is the
    slots that the user has been earning since `at`.
    """

    at: float = 0.0
    wanted: int = 0
    held: int = 0
    high: int = 0
    rate: float = 0.0
    service: float = 0.0
    high_service: float = 0.0
    fair_service: float = 0.0

    @property
    def balance(self) -> float:
        """Decayed integral of (fair − held), slot-seconds: above 0 the user is owed."""
        return self.fair_service - self.service

    @property
    def idle(self) -> bool:
        """Whether nothing is held, wanted or remembered."""
        if self.wanted or self.held or self.high:
            return False
        return max(self.service, self.fair_service) < FORGET


_EMPTY = Account()
_LN2 = math.log(2)


@dataclass(frozen=True)
class Ledger:
    """All accounts. `at` is the time of the last word; `due` when the rates are next worked out.

    Attributes:
        capacity: slots of the cluster in all.
    """

    at: float = 0.0
    capacity: int = 0
    accounts: Mapping[Key, Account] = field(default_factory=dict)
    due: float = math.inf

    def account(self, user: str, group: str, at: float, policy: Policy) -> Account:
        """Return one user's account brought forward to `at`."""
        return _forward(self.accounts.get((group, user), _EMPTY), at, policy.half_life)


def advance(ledger: Ledger, at: float, policy: Policy) -> Ledger:
    """Return the ledger with every account brought forward to `at` (O(users))."""
    ledger = _settled(ledger, at, policy)
    at = max(at, ledger.at)
    accounts = {k: _forward(a, at, policy.half_life) for k, a in ledger.accounts.items()}
    return replace(ledger, at=at, accounts=accounts)


def change(
    ledger: Ledger,
    at: float,
    policy: Policy,
    user: str,
    group: str,
    wanted: int = 0,
    held: int = 0,
    high: int = 0,
) -> Ledger:
    """Return the ledger after a user's slots changed by these differences at `at`."""
    ledger = _settled(ledger, at, policy)
    at = max(at, ledger.at)
    old = ledger.account(user, group, at, policy)
    new = Account(
        at,
        max(0, old.wanted + wanted),
        max(0, old.held + held),
        max(0, old.high + high),
        *old[4:],
    )
    accounts = {**ledger.accounts, (group, user): new}
    due = min(ledger.due, at + SETTLE) if wanted else ledger.due
    return Ledger(at, ledger.capacity, accounts, due)


def resize(ledger: Ledger, at: float, policy: Policy, capacity: int) -> Ledger:
    """Return the ledger after the cluster changed its size, or the policy its weights."""
    ledger = _settled(ledger, at, policy)
    at = max(at, ledger.at)
    return replace(ledger, at=at, capacity=capacity, due=min(ledger.due, at + SETTLE))


def entitlements(ledger: Ledger, policy: Policy) -> dict[Key, float]:
    """Return the slots that each (group, user) is entitled to now: they add up to all slots,
    or to all that is wanted, if that is less."""
    members: dict[str, list[tuple[Key, float, float]]] = {}
    rules = policy.users
    for key, account in ledger.accounts.items():
        if (wanted := account.wanted) > 0:
            group, user = key
            row = (key, policy.user_weight(user) if user in rules else 1.0, wanted)
            if group in members:
                members[group].append(row)
            else:
                members[group] = [row]
    groups = [
        (group, policy.group_weight(group), sum([want for _, _, want in rows]))
        for group, rows in members.items()
    ]
    found: dict[Key, float] = {}
    for group, share in water_fill(groups, ledger.capacity).items():
        found.update(water_fill(members[group], share))
    return found


def water_fill(claims: Sequence[tuple[Name, float, float]], supply: float) -> dict[Name, float]:
    """Share `supply` over (name, weight, demand) by weight, nobody getting more than the demand.

    Those whose demand is small against their weight are served first and in full; the rest
    share what is left by weight. Exact, in O(n log n).
    """
    shares: dict[Name, float] = {}
    # With the key in front rows are sorted without a call for each; names are different.
    rows = sorted([(d / w if w > 0 else math.inf, name, w, d) for name, w, d in claims])
    weight = sum([w for _, w, _ in claims if w > 0])
    for _, name, w, demand in rows:
        if w <= 0 or supply <= 0 or weight <= 0:
            shares[name] = 0.0
            continue
        share = supply * (w / weight) if w < weight else float(supply)
        if demand <= share:
            share = float(demand)
        shares[name] = share
        supply -= share
        weight -= w
    return shares


def totals(accounts: Iterable[Account]) -> Account:
    """Return the sum of accounts that were brought forward to the same time (a group's)."""
    rows = list(accounts)
    return Account(
        max((a.at for a in rows), default=0.0),
        *(sum(a[n] for a in rows) for n in range(1, len(Account._fields))),  # type: ignore[arg-type]
    )


def _settled(ledger: Ledger, at: float, policy: Policy) -> Ledger:
    """Return the ledger with the rates of earning that are in force at `at`."""
    due = ledger.due
    if due > at:
        return ledger
    fair, accounts = entitlements(ledger, policy), {}
    for key, old in ledger.accounts.items():
        new = _forward(old, due, policy.half_life, fair.get(key, 0.0))
        if new.wanted or not new.idle:
            accounts[key] = new
    return Ledger(ledger.at, ledger.capacity, accounts)


def _forward(account: Account, at: float, half_life: float, rate: float | None = None) -> Account:
    """Let the account's past decay and its present add up until `at`, exactly.

    Args:
        rate: what is earned from then on (None: what was).
    """
    last, wanted, held, high, earned, service, high_service, fair_service = account
    if rate is None:
        rate = earned
    passed = at - last
    if passed > 0:
        decay = _LN2 / half_life
        keep = math.exp(-decay * passed)
        weight = -math.expm1(-decay * passed) / decay
        service = service * keep + held * weight
        high_service = high_service * keep + high * weight
        fair_service = fair_service * keep + earned * weight
        last = at
    elif rate == earned:
        return account
    row = (last, wanted, held, high, rate, service, high_service, fair_service)
    return tuple.__new__(Account, row)  # in half the time of Account(...)
