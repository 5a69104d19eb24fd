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

Everything may be left out. The file decides who may do what: it must belong to root or to the
cluster's own user, and nobody else may write it. One that can't be read changes nothing: the
policy before it stays in force and an alert says why.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from resilient_nb.control.identity import check_user
from resilient_nb.core.model import Priority
from resilient_nb.core.names import check_name
from resilient_nb.core.policy import GroupRule, Limits, LimitTable, Policy, UserRule
from resilient_nb.errors import InvalidRequest

T = TypeVar("T")
Check = Callable[[Any], Any]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIMES = 'such as "30s", "12h", "7d"'
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])\Z")
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
        return _table(
            Policy,
            "",
            data,
            half_life=_span,
            preemption=_flag,
            grace=_span,
            patience=_pause,
            quantum=_amount,
            admins=_users,
            admin_reserve=_whole,
            limits=_limits,
            high_budget=_fraction,
            trust_claims=_flag,
            groups=_named(_group, lambda name: check_name(name, "group")),
            users=_named(_user, check_user),
        )
    except _Wrong as error:
        raise InvalidRequest(f"Policy {source}: {error}") from error


class _Wrong(Exception):
    """A value that can't be: its key, and what is allowed."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key} {what}")
        self.key, self.what = key, what

    def inside(self, table: str) -> _Wrong:
        """Return the error with the table's name before the key's."""
        return _Wrong(f"{table}.{self.key}" if self.key else table, self.what)


def _table(kind: type[T], key: str, data: Any, **checks: Check) -> T:
    """Return a table as a `kind`; each key's value goes through its check."""
    if not isinstance(data, Mapping):
        raise _Wrong(key, f"is {_shown(data)}; it is a table with {', '.join(checks)}.")
    values = {}
    for name, value in data.items():
        if name not in checks:
            raise _Wrong(name, f"is unknown here; there are: {', '.join(checks)}.")
        values[name] = _checked(name, value, checks[name])
    return kind(**values)


def _checked(key: str, value: Any, check: Check) -> Any:
    try:
        return check(value)
    except _Wrong as error:
        raise error.inside(key) from None
    except InvalidRequest as error:
        raise _Wrong(key, f"is wrong: {error}") from None


def _named(check: Check, check_key: Callable[[str], str]) -> Check:
    def read(data: Any) -> Mapping[str, Any]:
        if not isinstance(data, Mapping):
            raise _Wrong("", f"is {_shown(data)}; it is a table of tables by name.")
        return {_checked(n, n, check_key): _checked(n, v, check) for n, v in data.items()}

    return read


def _group(data: Any) -> GroupRule:
    return _table(GroupRule, "", data, weight=_weight, users=_users, limits=_limits)


def _user(data: Any) -> UserRule:
    return _table(UserRule, "", data, weight=_weight, limits=_limits)


def _limits(data: Any) -> LimitTable:
    if not isinstance(data, Mapping):
        raise _Wrong("", f"is {_shown(data)}; it is a table with high and urgent.")
    found = {}
    for name, value in data.items():
        if name not in _LIMITABLE:
            raise _Wrong(name, "can't be limited; only high and urgent can.")
        found[Priority(name)] = _checked(name, value, _limit)
    return found


def _limit(data: Any) -> Limits:
    return _table(Limits, "", data, running=_whole, waiting=_whole, per_day=_whole)


def _users(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _Wrong("", f'is {_shown(value)}; it is a list of user names: ["ada", "bob"].')
    twice = sorted({name for name in value if value.count(name) > 1})
    if twice:
        raise _Wrong("", f"names {', '.join(twice)} more than once.")
    return tuple(check_user(name) for name in value)


def _span(value: Any) -> float:
    seconds = _pause(value)
    if seconds <= 0:
        raise _Wrong("", f"is {_shown(value)}; it is a time above 0, {_TIMES}.")
    return seconds


def _pause(value: Any) -> float:
    match = _SPAN.match(value) if isinstance(value, str) else None
    if match is None:
        raise _Wrong("", f"is {_shown(value)}; it is a time, {_TIMES}.")
    return float(match[1]) * _UNITS[match[2]]


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("", f"is {_shown(value)}; it is true or false.")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _Wrong("", f"is {_shown(value)}; it is a whole number, 0 or more.")
    return value


def _weight(value: Any) -> float:
    if not _is_number(value) or not 0 < value < math.inf:
        raise _Wrong("", f"is {_shown(value)}; it is a number above 0.")
    return float(value)


def _amount(value: Any) -> float:
    if not _is_number(value) or not 0 <= value < math.inf:
        raise _Wrong("", f"is {_shown(value)}; it is a number, 0 or more.")
    return float(value)


def _fraction(value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise _Wrong("", f"is {_shown(value)}; it is a number from 0 to 1.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
