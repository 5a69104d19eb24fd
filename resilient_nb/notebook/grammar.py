"""What verbs, arguments and options are: described once for magics, shell, help and completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from resilient_nb.notebook import values
from resilient_nb.notebook.values import Convert

#: Values by the names of arguments and options: while they are checked, and as a verb gets them.
Parsed = dict[str, Any]
Arguments = Mapping[str, Any]


class Expects(Enum):
    """What completion may offer for a value."""

    NOTHING = auto()
    RUN = auto()
    JOB = auto()
    JOBS = auto()
    REFERENCE = auto()
    POINT = auto()
    VARIABLES = auto()
    CHAOS = auto()


@dataclass(frozen=True)
class Argument:
    """A value that is told by its place."""

    name: str
    metavar: str
    help: str
    convert: Convert = values.text
    required: bool = True
    expects: Expects = Expects.NOTHING


@dataclass(frozen=True)
class Option:
    """A value that is told by its flag; without a metavar it is a switch, False unless given."""

    flag: str
    help: str
    metavar: str | None = None
    convert: Convert = values.text
    default: object = None
    choices: tuple[str, ...] = ()
    expects: Expects = Expects.NOTHING
    key: str = ""  # where the flag is no name: `--in`

    @property
    def name(self) -> str:
        """The key under which the parsed value is found."""
        return self.key or self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class Verb:
    """One verb. `check` sees all parsed values together; it may refuse or complete them."""

    name: str
    summary: str
    example: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    exclusive: tuple[tuple[str, str], ...] = ()
    check: Callable[[Parsed], None] | None = None

    def option(self, flag: str) -> Option | None:
        """Return the option with this flag."""
        return next((option for option in self.options if option.flag == flag), None)
