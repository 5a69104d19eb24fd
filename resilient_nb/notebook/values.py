"""The values that options and arguments take: each converter turns text into a value or refuses it.

A converter gets the label that the message names (`--workers`, `REF`) and the text that was typed.
It raises `InvalidRequest` with a whole sentence, so that nobody above has to add to it.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from resilient_nb.config import read_place
from resilient_nb.core.case import BUDGETS
from resilient_nb.core.hangs import NEVER
from resilient_nb.core.model import (
    Injection,
    Interval,
    JobState,
    Keep,
    OnNan,
    Priority,
    Scaling,
    StopPolicy,
)
from resilient_nb.core.names import (
    Reference,
    check_name,
    did_you_mean,
    parse_reference,
    split_job,
)
from resilient_nb.core.querying import Condition, parse_conditions, parse_states, parse_when
from resilient_nb.core.retention import parse_keep
from resilient_nb.errors import InvalidRequest

Convert = Callable[[str, str], object]
T = TypeVar("T")
Resume = Literal["auto", "never"] | Reference

PRIORITIES = tuple(level.value for level in Priority)
CHAOS = (*(kind.value for kind in Injection), "random", "report")
SCALINGS = tuple(rule.value for rule in Scaling if rule is not Scaling.NONE)
ON_NAN = tuple(policy.value for policy in OnNan)
STOP_POLICIES = tuple(policy.value for policy in StopPolicy)

#: The widest gang, the longest expected run time in seconds, and the most memory in bytes.
MOST_WORKERS, LONGEST, MOST_MEMORY = 1024, 366 * 86400.0, 1 << 50

#: What every message and table can hold.
_MOST_WHOLE = 10**15

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(
    "".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in ("d", "h", "m", "s")) + r"\Z"
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]i?)?(B)?\Z", re.IGNORECASE)
_DECIMAL = re.compile(r"\d+(?:\.\d+)?\Z", re.ASCII)

AUTO = Interval(auto=True)


@dataclass(frozen=True)
class Workers:
    """The size of a gang: `least` workers, or any number from there to `most` (0: just least)."""

    least: int = 1
    most: int = 0

    def __str__(self) -> str:
        return f"{self.least}:{self.most}" if self.most else str(self.least)


ONE = Workers()


def is_number(value: str) -> bool:
    """Say if it is written in the digits 0 to 9 only (str.isdigit takes other scripts too)."""
    return value.isascii() and value.isdecimal()


def text(label: str, value: str) -> str:
    """Take anything that isn't empty."""
    if not value.strip():
        raise InvalidRequest(f"{label} is empty.")
    return value


def whole(least: int, most: int | None = None) -> Convert:
    """Make a converter for whole numbers from `least` to `most`, both included."""
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"

    def convert(label: str, value: str) -> int:
        number = int(value) if is_number(value) and len(value) < 30 else None
        if number is None or not least <= number <= (_MOST_WHOLE if most is None else most):
            raise InvalidRequest(f"{label} takes a whole number {bounds}, not {value!r}.")
        return number

    return convert


def workers(label: str, value: str) -> Workers:
    """Take `4`, or `2:8` for a gang that may grow and shrink between these."""
    least, colon, most = value.partition(":")
    if not colon:
        return Workers(_workers(label, value, value))
    if not least or not most:
        raise InvalidRequest(
            f"{label} {value}: an end is missing. Write the least and the most, "
            f"such as {label} 2:8."
        )
    low, high = _workers(label, least, value), _workers(label, most, value)
    if low > high:
        raise InvalidRequest(
            f"{label} {value}: the least, {low}, is more than the most, {high}. "
            f"Write {label} {high}:{low}."
        )
    return Workers(low, high if high > low else 0)


def _workers(label: str, number: str, value: str) -> int:
    if is_number(number) and len(number) < 10 and 1 <= int(number) <= MOST_WORKERS:
        return int(number)
    raise InvalidRequest(
        f"{label} takes a whole number from 1 to {MOST_WORKERS}, or two as MIN:MAX, not {value!r}."
    )


def memory(label: str, value: str) -> int:
    """Take a size with its unit, `2GiB` or `500MB`, as bytes."""
    found = _SIZE.match(value) if value.isascii() else None
    if found is None:
        raise InvalidRequest(f"{label} takes a size such as 2GiB or 500MB, not {value!r}.")
    number, scale, byte = found[1], (found[2] or "").upper(), found[3]
    if not scale:
        raise InvalidRequest(f"{label} {value}: of what? Write {number}MiB or {number}GiB.")
    if not byte:
        raise InvalidRequest(
            f"{label} {value}: write {number}{scale[0]}iB (powers of 1024) or "
            f"{number}{scale[0]}B (powers of 1000)."
        )
    power = "KMGT".index(scale[0]) + 1
    size = float(number) * (1024 if len(scale) == 2 else 1000) ** power
    if not 1 <= size <= MOST_MEMORY:
        raise InvalidRequest(f"{label} {value} is no size of a memory; leave it out for any.")
    return int(size)


def cores(label: str, value: str) -> float:
    """Take a number of CPU cores, also a part of one: `4`, `0.5`."""
    number = float(value) if _DECIMAL.match(value) else 0.0
    if not 0 < number <= 4096:
        raise InvalidRequest(
            f"{label} takes a number of cores such as 4 or 0.5, not {value!r}. "
            "Leave it out for any."
        )
    return number


def span(label: str, value: str) -> float:
    """Take how long something lasts, `90m`, `2h`, `1h30m` or `3d`, as seconds."""
    found = _SPAN.match(value) if value.isascii() else None
    parts = found.groupdict() if found else {}
    seconds = sum(float(n) * _SECONDS[unit] for unit, n in parts.items() if n)
    if seconds > LONGEST:
        raise InvalidRequest(f"{label} {value} is more than a year; leave it out if unknown.")
    if seconds > 0:
        return seconds
    hint = f" {value} of what? Write {value}m or {value}h." if is_number(value) else ""
    raise InvalidRequest(f"{label} takes a time such as 90m, 2h, 1h30m or 3d, not {value!r}.{hint}")


def patience(label: str, value: str) -> float:
    """Take `auto` (as 0), `never`, or a time of at least a second such as `30s`, as seconds."""
    if value in ("auto", "never"):
        return NEVER if value == "never" else 0.0
    try:
        seconds = span(label, value)
    except InvalidRequest as error:
        known = f"{label} takes auto, never or"
        raise InvalidRequest(str(error).replace(f"{label} takes", known, 1)) from None
    if seconds < 1:
        raise InvalidRequest(f"{label} {value} is too short: no rank is heard of more often.")
    return seconds


def factor(label: str, value: str) -> float:
    """Take how many times as large something is, more than 1: `10`, `2.5`."""
    number = float(value) if _DECIMAL.match(value) else 0.0
    if not 1 < number <= 1e6:
        raise InvalidRequest(
            f"{label} takes a number above 1, such as 10 for ten times the usual, not {value!r}. "
            "Leave it out to look for none."
        )
    return number


def one_of(*choices: str) -> Convert:
    """Make a converter for a closed set of words."""

    def convert(label: str, value: str) -> str:
        if value not in choices:
            raise InvalidRequest(
                f"{label} takes {', '.join(choices[:-1])} or {choices[-1]}, "
                f"not {value!r}{did_you_mean(value, choices)}"
            )
        return value

    return convert


def interval(label: str, value: str) -> Interval:
    """Take `auto`, `20` (steps), `20s`, `2m`, `1h`, `500ms` or `never`."""
    if value in ("auto", "never"):
        return AUTO if value == "auto" else Interval()
    if is_number(value) and int(value) > 0:
        return Interval(steps=int(value))
    found = _DURATION.match(value) if value.isascii() else None
    if found and (seconds := float(found[1]) * _SECONDS[found[2]]) > 0:
        return Interval(seconds=seconds)
    raise InvalidRequest(
        f"{label} takes auto, steps (20), a duration (500ms, 20s, 2m, 1h) or never, not {value!r}."
    )


def overhead(label: str, value: str) -> float:
    """Take a small part of the time, `1%` or `0.01`, as a fraction."""
    number, percent, rest = value.partition("%")
    number = number.rstrip() if percent else number
    part = float(number) / (100 if percent else 1) if _DECIMAL.match(number) and not rest else 0.0
    if 0 < part < 0.5:
        return part
    hint = f" Did you mean {value}%?" if is_number(value) and 0 < float(value) < 50 else ""
    raise InvalidRequest(
        f"{label} takes a part of the time, more than 0 and less than 50 %, such as 1% or 0.01, "
        f"not {value!r}.{hint}"
    )


def keep(label: str, value: str) -> Keep:
    """Take `5`, `last=5,every=1000,best=3:loss`, `best=3:accuracy:max`, `all` or `auto`."""
    try:
        return parse_keep(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{label}: {error}") from None


def compression(label: str, value: str) -> str:
    """Take `zstd`, or `zstd:1` (fast) to `zstd:9`."""
    name, colon, level = value.partition(":")
    if name == "zstd" and (not colon or level in tuple("123456789")):
        return value
    raise InvalidRequest(
        f"{label} takes zstd, or zstd:1 (fast, the default) to zstd:9, not {value!r}."
    )


def variables(label: str, value: str) -> tuple[str, ...]:
    """Take names of variables, separated by commas."""
    names = tuple(part.strip() for part in value.split(","))
    for index, name in enumerate(names):
        if not name:
            raise InvalidRequest(
                f"{label} {value}: a name is missing. Write names with commas and "
                f"no spaces, for example {label} model,history."
            )
        if not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidRequest(f"{label}: {name!r} can't be the name of a variable.")
        if name == "run":
            raise InvalidRequest(f"{label}: `run` belongs to the runtime; choose another name.")
        if name in names[:index]:
            raise InvalidRequest(f"{label} names {name} twice.")
    return names


def reference(label: str, value: str) -> Reference:
    """Take `run`, `run@step` or `run@tag`."""
    return parse_reference(value)


def checkpoint(label: str, value: str) -> Reference:
    """Take `run@step` or `run@tag`: a reference that says which checkpoint."""
    found = parse_reference(value)
    if found.step is None and found.tag is None:
        raise InvalidRequest(
            f"{label} {value} doesn't say which checkpoint. Write {value}@STEP or {value}@TAG; "
            f"`checkpoints {value}` lists them."
        )
    return found


def resume(label: str, value: str) -> Resume:
    """Take `auto`, `never` or a reference; the words win over runs that are called so."""
    if value == "auto":
        return "auto"
    if value == "never":
        return "never"
    return parse_reference(value)


def run_name(label: str, value: str) -> str:
    """Take the name of a run."""
    return check_name(value)


def job_or_run(label: str, value: str) -> str:
    """Take `digits#2`, or `digits` for the run's latest job."""
    split_job(value)
    return value


def jobs_or_runs(label: str, value: str) -> tuple[str, ...]:
    """Take jobs, or runs for their latest jobs, separated by commas: `prep,digits#2`."""
    names = tuple(part.strip() for part in value.split(","))
    for index, name in enumerate(names):
        if not name:
            raise InvalidRequest(
                f"{label} {value}: a job is missing. Write jobs with commas and no spaces, "
                f"for example {label} prep,digits#2."
            )
        split_job(name)
        if name in names[:index]:
            raise InvalidRequest(f"{label} names {name} twice.")
    return names


def place(label: str, value: str) -> str:
    """Take a folder, or the URL of a bucket."""
    try:
        return read_place(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{label}: {error}") from None


def places(label: str, value: str) -> tuple[str, ...]:
    """Take folders or URLs, separated by commas."""
    names = tuple(place(label, part) for part in value.split(",") if part.strip())
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequest(f"{label} names {name} twice.")
    return names


def group(label: str, value: str) -> str:
    """Take a group's name, as the cluster's policy file has it."""
    return check_name(value, "group")


def tag_name(label: str, value: str) -> str:
    """Take a tag. One of digits only would be read as a step in `run@120`."""
    if is_number(value):
        raise InvalidRequest(f"{value!r} can't be a tag: @{value} means a step. Add a letter.")
    return check_name(value, "tag")


def point(label: str, value: str) -> Reference:
    """Take `120`, `best` or `run@120`; the run is empty where it wasn't said."""
    if "@" in value:
        return checkpoint(label, value)
    if is_number(value):
        return Reference("", step=int(value))
    return Reference("", tag=check_name(value, "tag"))


def conditions(label: str, value: str) -> tuple[Condition, ...]:
    """Take what metrics must be: `loss<0.3,accuracy>=0.9`."""
    return _labelled(label, value, parse_conditions)


def states(label: str, value: str) -> tuple[JobState, ...]:
    """Take states of jobs, separated by commas."""
    return _labelled(label, value, parse_states)


def when(label: str, value: str) -> str:
    """Take a time in the past: `2d` (ago), or a date."""
    _labelled(label, value, lambda text: parse_when(text, 0.0))
    return value


def _labelled(label: str, value: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{label}: {error}") from None


def budgets(label: str, value: str) -> tuple[tuple[str, int], ...]:
    """Take how often classes of failures are tried again: `network=10,memory=1`."""
    found: dict[str, int] = {}
    for part in value.split(","):
        name, equals, number = (word.strip() for word in part.partition("="))
        if name not in BUDGETS:
            raise InvalidRequest(
                f"{label}: {name!r} is no class of failures; there are {', '.join(BUDGETS)}"
                f"{did_you_mean(name, BUDGETS)}"
            )
        if not equals or not is_number(number) or int(number) > 1000:
            raise InvalidRequest(f"{label} {value}: how often? Write {name}={BUDGETS[name]}.")
        if name in found:
            raise InvalidRequest(f"{label} names {name} twice.")
        found[name] = int(number)
    return tuple(found.items())
