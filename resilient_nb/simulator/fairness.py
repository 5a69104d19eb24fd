"""How fairly a run shared its slots: held against entitled, for every user and group.

At each moment the slots are apportioned by weighted water-filling among the groups that have
unfinished jobs there, none getting more than these jobs ask for, and a group's slots likewise
among its users. A user's *entitlement* is the integral of that over time; what the user *held*
is the integral of slots held (while saving and restoring too: it keeps others off them). A
user who is kept waiting goes on being entitled, so that held / entitled falls below 1; one who
is preferred holds what others were entitled to.

x = held / entitled is taken over the whole run. Jain's index (Jain, Chiu and Hawe 1984) over
them weighs each by its entitlement, J = (sum e x)^2 / (sum e * sum e x^2): a slot-second counts
the same whoever is due it, and a user of one short job, whose x is an accident, counts little.
`jain_plain` doesn't weigh, and leaves out those entitled to less than 0.1 % of everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilient_nb.core.policy import Policy
from resilient_nb.core.shares import water_fill
from resilient_nb.simulator.state import State


def jain(parts: Iterable[tuple[float, float]]) -> float:
    """Return Jain's index of pairs (x, weight): 1 if all x are equal, 1/n if one has it all."""
    pairs = [(x, weight) for x, weight in parts if weight > 0]
    first = sum(weight * x for x, weight in pairs)
    second = sum(weight * x * x for x, weight in pairs)
    if second == 0:
        return 1.0
    return min(1.0, first * first / (sum(weight for _, weight in pairs) * second))


@dataclass
class Account:
    """A user in a group: slots wanted by unfinished jobs and held now, and the integrals."""

    user: str
    group: str
    wanted: int = 0
    holding: int = 0
    due: float = 0.0
    held: float = 0.0
    entitled: float = 0.0


class Meter:
    """Integrates what each user is entitled to and holds; `advance` before each change."""

    def __init__(self, state: State, policy: Policy) -> None:
        self.capacity = float(state.settings.workers)
        self.busy = 0.0
        self.busy_then = 0.0  # at the last submission
        self._policy = policy
        keys = [(job.group, job.user) for job in state.trace.jobs]
        self.accounts = {key: Account(key[1], key[0]) for key in dict.fromkeys(keys)}
        self._of = [self.accounts[key] for key in keys]
        self._groups: dict[str, dict[str, Account]] = {}
        self._now, self._stale = 0.0, False

    def advance(self, now: float) -> None:
        """Integrate until `now` what has been so since the last call."""
        passed, self._now = now - self._now, now
        if passed <= 0:
            return
        if self._stale:
            self._apportion()
        for users in self._groups.values():
            for account in users.values():
                held = passed * account.holding
                self.busy += held
                account.held += held
                account.entitled += passed * account.due

    def change(self, job: int, wanted: int, held: int) -> None:
        """A job's slots wanted (while it is unfinished) and held change by these differences."""
        account = self._of[job]
        account.holding += held
        if not wanted:
            return
        account.wanted += wanted
        if wanted > 0:
            self.busy_then = self.busy
        users = self._groups.setdefault(account.group, {})
        if account.wanted:
            users[account.user] = account
        else:
            account.due = 0.0
            del users[account.user]
            if not users:
                del self._groups[account.group]
        self._stale = True

    def _apportion(self) -> None:
        policy = self._policy
        demands = [
            (group, policy.group_weight(group), float(sum(a.wanted for a in users.values())))
            for group, users in self._groups.items()
        ]
        for group, part in water_fill(demands, self.capacity).items():
            users = self._groups[group]
            claims = [(u, policy.user_weight(u), float(a.wanted)) for u, a in users.items()]
            for user, due in water_fill(claims, part).items():
                users[user].due = due
        self._stale = False

    def users(self) -> list[tuple[float, float]]:
        """Return (held, entitled) slot-seconds of each user."""
        return [(a.held, a.entitled) for a in self.accounts.values()]

    def groups(self) -> list[tuple[float, float]]:
        """Return (held, entitled) slot-seconds of each group."""
        sums: dict[str, tuple[float, float]] = {}
        for a in self.accounts.values():
            held, entitled = sums.get(a.group, (0.0, 0.0))
            sums[a.group] = held + a.held, entitled + a.entitled
        return list(sums.values())


def weighed(parts: list[tuple[float, float]]) -> float:
    """Return Jain's index of held / entitled, each weighed by its entitlement."""
    return jain((held / entitled, entitled) for held, entitled in parts if entitled > 0)


def plain(parts: list[tuple[float, float]], trivial: float = 0.001) -> float:
    """Return Jain's index of held / entitled of those entitled to more than a trivial part."""
    least = trivial * sum(entitled for _, entitled in parts)
    return jain((held / entitled, 1.0) for held, entitled in parts if entitled > least)
