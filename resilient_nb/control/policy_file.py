"""The administrator's policy: a TOML file, read again when it changes, without a restart.

    half_life = "7d"        # after this long, past use counts half
    preemption = true       # may running jobs be asked to leave for others?
    grace = "15s"           # from "checkpoint and leave" to the kill
    patience = "2m"         # how long a gang waits before others are asked to leave for it
    quantum = 20            # a gang that started may run so many times what save + restore cost
    admins = ["root"]       # may use the admin lane and act on anyone's jobs
    admin_reserve = 1       # slots that only admin jobs may use
    high_budget = 0.25      # share of one's fair service that counts at high or urgent
    trust_claims = false    # believe the user name that a client sends if nothing vouches for it

    [limits.high]           # of each user who has no own ones; for high and urgent only
    running = 8             # slots held at once
    waiting = 20            # jobs in the queue at once
    per_day = 50            # jobs submitted in the last 24 hours

    [groups.vision]
    weight = 2              # among groups; 1 if it isn't said
    users = ["ada", "bob"]
    [groups.vision.limits.urgent]
    running = 2             # all of them together

    [users.ada]
    weight = 3              # inside the group
    [users.ada.limits.urgent]
    per_day = 5

Its alerts, `[[alerts]]`, `[channels.NAME]` and `[[routes]]`, are described in `policy_alerts`.

Everything may be left out. The file decides who may do what: it must belong to root or to the
cluster's own user, and nobody else may write it. One that can't be read changes nothing: the
policy before it stays in force and an alert says why.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient_nb.control import policy_alerts
from resilient_nb.control.identity import check_user
from resilient_nb.control.policy_values import (
    Wrong,
    amount,
    checked,
    flag,
    fraction,
    listed,
    named,
    pause,
    shown,
    span,
    table,
    weight,
    whole,
)
from resilient_nb.core.model import Priority
from resilient_nb.core.names import check_name
from resilient_nb.core.policy import GroupRule, Limits, LimitTable, Policy, UserRule
from resilient_nb.errors import InvalidRequest

_LIMITABLE = (Priority.HIGH, Priority.URGENT)
#: More than any policy needs; what is larger is not one.
_LARGEST = 1 << 20


class PolicyFile:
    """The file at a path. `alert` says what is wrong with it now ("" if nothing is)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.alert = ""
        self._seen: tuple[int, ...] | None = None  # what was taken, or found bad
        self._coming: tuple[int, ...] | None = None
        self._begun = False

    def poll(self) -> Policy | None:
        """Return the policy if there is a new one, else None.

        The first call always returns one unless the file is bad: without a file, the default.
        Later a change is taken when two calls have seen it, so that a file that is just being
        written isn't read by half.
        """
        first, self._begun = not self._begun, True
        try:
            found = self._signature()
            if found is None:
                return self._gone(first)
            if found == self._seen:
                self._coming = None
                return None
            if not first and found != self._coming:
                self._coming = found
                return None
            self._seen, self._coming = found, None
            policy = parse_policy(self._read(), str(self.path))
        except InvalidRequest as error:
            self.alert = f"{error} The policy before it stays in force."
            return None
        self.alert = ""
        return policy

    def _gone(self, first: bool) -> Policy | None:
        if first:
            return Policy()
        if self._seen is not None:
            self._seen = None
            self.alert = (
                f"Policy {self.path} is gone. What it said stays in force until the file is back "
                "(an empty one means the defaults)."
            )
        return None

    def _signature(self) -> tuple[int, ...] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from error
        facts = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        return (*facts, found.st_mode, found.st_uid)

    def _read(self) -> str:
        try:
            # Looked at and read through one descriptor, so that it is the same file; a pipe in
            # its place must not hold up the scheduler.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                self._check_owner(os.fstat(fd))
                data = file.read(_LARGEST + 1)
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) > _LARGEST:
            raise InvalidRequest(f"Policy {self.path} is longer than {_LARGEST >> 10} KiB.")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"Policy {self.path} is not UTF-8 text: {error}.") from error

    def _check_owner(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest(f"Policy {self.path} is no regular file.")
        if found.st_uid not in (0, os.getuid()):
            raise InvalidRequest(
                f"Policy {self.path} belongs to user number {found.st_uid}: it is refused, since "
                f"it decides who may do what. Let it belong to root or to user {os.getuid()}, "
                "who runs the scheduler."
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InvalidRequest(
                f"Policy {self.path} can be written by others than its owner: it is refused, "
                f"since it decides who may do what. chmod go-w {self.path} mends that."
            )

    def _unreadable(self, error: OSError) -> InvalidRequest:
        return InvalidRequest(f"Policy {self.path} can't be read: {error.strerror}.")


def parse_policy(text: str, source: str) -> Policy:
    """Return the policy that a TOML text describes.

    Args:
        text: the file's content.
        source: the file's name, for messages.

    Raises:
        InvalidRequest: naming file, key, what is wrong and what is allowed.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"Policy {source} is no valid TOML: {error}.") from error
    try:
        policy = table(
            Policy,
            "",
            data,
            half_life=span,
            preemption=flag,
            grace=span,
            patience=pause,
            quantum=amount,
            admins=_users,
            admin_reserve=whole,
            limits=_limits,
            high_budget=fraction,
            trust_claims=flag,
            groups=named(_group, lambda name: check_name(name, "group")),
            users=named(_user, check_user),
            alerts=listed(policy_alerts.rule, "[[alerts]]"),
            channels=named(policy_alerts.channel, lambda name: check_name(name, "channel")),
            routes=listed(policy_alerts.route, "[[routes]]"),
        )
        policy_alerts.check_names(policy)
    except Wrong as error:
        raise InvalidRequest(f"Policy {source}: {error}") from error
    return policy


def _group(data: Any) -> GroupRule:
    return table(GroupRule, "", data, weight=weight, users=_users, limits=_limits)


def _user(data: Any) -> UserRule:
    return table(UserRule, "", data, weight=weight, limits=_limits)


def _limits(data: Any) -> LimitTable:
    if not isinstance(data, Mapping):
        raise Wrong("", f"is {shown(data)}; it is a table with high and urgent.")
    found = {}
    for name, value in data.items():
        if name not in _LIMITABLE:
            raise Wrong(name, "can't be limited; only high and urgent can.")
        found[Priority(name)] = checked(name, value, _limit)
    return found


def _limit(data: Any) -> Limits:
    return table(Limits, "", data, running=whole, waiting=whole, per_day=whole)


def _users(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Wrong("", f'is {shown(value)}; it is a list of user names: ["ada", "bob"].')
    twice = sorted({name for name in value if value.count(name) > 1})
    if twice:
        raise Wrong("", f"names {', '.join(twice)} more than once.")
    return tuple(check_user(name) for name in value)
