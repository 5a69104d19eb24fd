"""What the administrator decides: groups, weights, limits and the scheduler's settings.

Plain data, read from the policy file by `control.policy_file` and kept in the journal, so that
a replay decides by the rules that were in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from resilient_nb.core.alert_model import Rule
from resilient_nb.core.alert_rules import Channel, Route
from resilient_nb.core.model import Priority

HOUR, DAY = 3600.0, 86400.0

#: The group of users that no group names.
DEFAULT_GROUP = "everyone"


@dataclass(frozen=True)
class Limits:
    """How much of one priority a user (or a group) may have; None is no limit.

    Attributes:
        running: slots held at once by jobs of this priority.
        waiting: jobs of this priority in the queue at once.
        per_day: jobs submitted at this priority in the last 24 hours.
    """

    running: int | None = None
    waiting: int | None = None
    per_day: int | None = None


#: Limits by priority; only high and urgent can be limited.
LimitTable = Mapping[Priority, Limits]


@dataclass(frozen=True)
class UserRule:
    """One user's weight inside the group, and own limits (else the policy's)."""

    weight: float = 1.0
    limits: LimitTable = field(default_factory=dict)


@dataclass(frozen=True)
class GroupRule:
    """A group's weight among groups, its users, and limits on all of them together."""

    weight: float = 1.0
    users: tuple[str, ...] = ()
    limits: LimitTable = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """All rules in force. Times in seconds, service in slot-seconds.

    Attributes:
        half_life: after this long, past use counts half.
        preemption: whether running jobs may be asked to leave for others.
        grace: from "checkpoint and leave" to SIGKILL.
        patience: how long a gang waits before others are asked to leave for it: slots often come
            free by themselves, and a burst of arrivals is served by one change, not by many.
        quantum: a gang that has started isn't asked to leave for others of its class for so many
            times what a save and a restore cost it: 20 bounds what is lost by 1/20 of all service
            (and by some 1 % in fact).
        admins: users who may use the admin lane and act on anyone's jobs.
        admin_reserve: slots that only admin jobs may use (kept free while there are more).
        limits: for each user who has no own ones.
        high_budget: share of a user's fair service that may be used at high or urgent before
            such jobs are treated as normal.
        trust_claims: believe the user name that a client sends where nothing vouches for it.
        alerts: the administrator's rules, beside the built-in ones.
        channels: ways to tell people, by name.
        routes: which alerts go to which channels.
    """

    half_life: float = 7 * DAY
    preemption: bool = True
    grace: float = 15.0
    patience: float = 120.0
    quantum: float = 20.0
    admins: tuple[str, ...] = ()
    admin_reserve: int = 0
    limits: LimitTable = field(default_factory=dict)
    high_budget: float = 0.25
    trust_claims: bool = False
    groups: Mapping[str, GroupRule] = field(default_factory=dict)
    users: Mapping[str, UserRule] = field(default_factory=dict)
    alerts: tuple[Rule, ...] = ()
    channels: Mapping[str, Channel] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()

    def group_of(self, user: str) -> str:
        """Return the first group that names the user, else `DEFAULT_GROUP`."""
        return next((g for g, rule in self.groups.items() if user in rule.users), DEFAULT_GROUP)

    def groups_of(self, user: str) -> tuple[str, ...]:
        """Return every group that the user may submit under, the usual one first."""
        named = tuple(g for g, rule in self.groups.items() if user in rule.users)
        return named or (DEFAULT_GROUP,)

    def group_weight(self, group: str) -> float:
        """Return a group's weight among groups."""
        rule = self.groups.get(group)
        return rule.weight if rule else 1.0

    def user_weight(self, user: str) -> float:
        """Return a user's weight inside the group."""
        rule = self.users.get(user)
        return rule.weight if rule else 1.0
