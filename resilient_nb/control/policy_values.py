"""Reading TOML strictly: each value has a check, and what is wrong is named by its key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from resilient_nb.errors import InvalidRequest

T = TypeVar("T")
Check = Callable[[Any], Any]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIMES = 'such as "30s", "12h", "7d"'
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])\Z")


class Wrong(Exception):
    """A value that can't be: its key, and what is allowed."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key} {what}")
        self.key, self.what = key, what

    def inside(self, table: str) -> Wrong:
        """Return the error with the table's name before the key's."""
        return Wrong(f"{table}.{self.key}" if self.key else table, self.what)


def table(kind: Callable[..., T], key: str, data: Any, **checks: Check) -> T:
    """Return a table as a `kind`; each key's value goes through its check."""
    if not isinstance(data, Mapping):
        raise Wrong(key, f"is {shown(data)}; it is a table with {', '.join(checks)}.")
    values = {}
    for name, value in data.items():
        if name not in checks:
            raise Wrong(name, f"is unknown here; there are: {', '.join(checks)}.")
        values[name] = checked(name, value, checks[name])
    return kind(**values)


def checked(key: str, value: Any, check: Check) -> Any:
    """Return a key's value as its check returns it."""
    try:
        return check(value)
    except Wrong as error:
        raise error.inside(key) from None
    except InvalidRequest as error:
        raise Wrong(key, f"is wrong: {error}") from None


def named(check: Check, check_key: Callable[[str], str]) -> Check:
    """Return the check of a table of tables by name."""

    def read(data: Any) -> Mapping[str, Any]:
        if not isinstance(data, Mapping):
            raise Wrong("", f"is {shown(data)}; it is a table of tables by name.")
        return {checked(n, n, check_key): checked(n, v, check) for n, v in data.items()}

    return read


def listed(check: Check, example: str) -> Check:
    """Return the check of a list of tables; the first has number 1."""

    def read(data: Any) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise Wrong("", f"is {shown(data)}; it is a list of tables: {example}.")
        return tuple(checked(str(n), row, check) for n, row in enumerate(data, 1))

    return read


def text(value: Any) -> str:
    """Check a text of one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise Wrong("", f"is {shown(value)}; it is a text of one line.")
    return value.strip()


def texts(value: Any) -> tuple[str, ...]:
    """Check a list of texts, or one."""
    rows = value if isinstance(value, list) else [value]
    if not rows:
        raise Wrong("", "is empty; it is a list of texts.")
    return tuple(text(row) for row in rows)


def labels(value: Any) -> Mapping[str, str]:
    """Check a table of texts."""
    if not isinstance(value, Mapping):
        raise Wrong("", f'is {shown(value)}; it is a table of texts: {{ team = "vision" }}.')
    return {name: checked(name, found, text) for name, found in value.items()}


def choices(value: Any) -> Mapping[str, tuple[str, ...]]:
    """Check a table of texts, or of lists of them."""
    if not isinstance(value, Mapping):
        raise Wrong("", f'is {shown(value)}; it is a table: {{ group = ["vision", "nlp"] }}.')
    return {name: checked(name, found, texts) for name, found in value.items()}


def one_of(kind: Callable[[str], T], *words: str) -> Check:
    """Return the check of one of some words."""

    def read(value: Any) -> T:
        if value not in words:
            raise Wrong("", f"is {shown(value)}; it is {', '.join(words[:-1])} or {words[-1]}.")
        return kind(value)

    return read


def span(value: Any) -> float:
    """Check a time above 0."""
    seconds = pause(value)
    if seconds <= 0:
        raise Wrong("", f"is {shown(value)}; it is a time above 0, {_TIMES}.")
    return seconds


def pause(value: Any) -> float:
    """Check a time."""
    match = _SPAN.match(value) if isinstance(value, str) else None
    if match is None:
        raise Wrong("", f"is {shown(value)}; it is a time, {_TIMES}.")
    return float(match[1]) * _UNITS[match[2]]


def flag(value: Any) -> bool:
    """Check true or false."""
    if not isinstance(value, bool):
        raise Wrong("", f"is {shown(value)}; it is true or false.")
    return value


def whole(value: Any) -> int:
    """Check a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Wrong("", f"is {shown(value)}; it is a whole number, 0 or more.")
    return value


def weight(value: Any) -> float:
    """Check a number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise Wrong("", f"is {shown(value)}; it is a number above 0.")
    return float(value)


def amount(value: Any) -> float:
    """Check a number that isn't below 0."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise Wrong("", f"is {shown(value)}; it is a number, 0 or more.")
    return float(value)


def number(value: Any) -> float:
    """Check any finite number."""
    if not is_number(value) or not math.isfinite(value):
        raise Wrong("", f"is {shown(value)}; it is a number.")
    return float(value)


def fraction(value: Any) -> float:
    """Check a number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise Wrong("", f"is {shown(value)}; it is a number from 0 to 1.")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """Return a value as an error says it."""
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:37]}..."
