"""What the user typed after `%%resilient`, `%resilient` or `resilient`, as frozen values.

Pure: no display, no I/O, and a wrong line is an `InvalidRequest`, never the end of the process.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NoReturn

from resilient_nb.core.model import KEEP_AUTO, Interval, Keep
from resilient_nb.core.names import Reference, did_you_mean
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook import values
from resilient_nb.notebook.cell_options import CELL
from resilient_nb.notebook.grammar import Arguments, Parsed, Verb
from resilient_nb.notebook.values import (
    AUTO,
    ONE,
    Resume,
    Workers,
    is_number,
)
from resilient_nb.notebook.verbs import VERBS

__all__ = [
    "CellOptions",
    "Command",
    "Interval",
    "Surface",
    "Workers",
    "help_text",
    "parse_arguments",
    "parse_cell_line",
    "parse_line",
]

Surface = Literal["magic", "shell"]

_HELP = ("-h", "--help")


@dataclass(frozen=True)
class CellOptions:
    """How a cell is to run. A name or group of None leaves the choice to the control plane.

    `memory` is in bytes, `duration` and `deadline` in seconds; 0 of memory, cpus or gpus means
    any.
    `checkpoint_every` has the `checkpoint_overhead` that was asked for.
    """

    name: str | None = None
    workers: Workers = ONE
    scale_lr: str | None = None
    memory: int = 0
    cpus: float = 0.0
    gpus: int = 0
    priority: str = "normal"
    group: str | None = None
    after: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    duration: float | None = None
    deadline: float | None = None
    admin: bool = False
    checkpoint_every: Interval = AUTO
    checkpoint_overhead: float | None = None
    keep: Keep = KEEP_AUTO
    compress: str = ""
    replicas: tuple[str, ...] = ()
    memory_copies: int = 0
    retries: int = 3
    budgets: tuple[tuple[str, int], ...] = ()
    hang_after: float = 0.0
    on_nan: str = "skip"
    spike: float = 0.0
    stop_policy: str = "propose"
    out: tuple[str, ...] = ()
    resume: Resume = "auto"
    fork: Reference | None = None
    seed: int = 0
    wait: bool = False
    detach: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Command:
    """A verb and its arguments, by the names in `verbs`. `help` has `topic`: a verb or None."""

    verb: str
    arguments: Arguments


def parse_cell_line(line: str) -> CellOptions | Command:
    """Parse what follows `%%resilient`; with --help it is a `help` command.

    Raises:
        InvalidRequest: naming what is wrong and what would be right.
    """
    tokens = _split(line)
    if _asks_help(tokens):
        return _help(CELL.name)
    return CellOptions(**_parse(CELL, tokens, "magic"))


def parse_line(line: str) -> Command:
    """Parse what follows `%resilient`.

    Raises:
        InvalidRequest: naming what is wrong and what would be right.
    """
    return parse_arguments(_split(line), "magic")


def parse_arguments(arguments: Sequence[str], surface: Surface = "shell") -> Command:
    """Parse a verb and its arguments, as a shell has split them.

    Raises:
        InvalidRequest: naming what is wrong and what would be right.
    """
    if not arguments or arguments[0] in _HELP:
        return _help(None)
    name, *tokens = arguments
    if name == "help":
        return _help(_known_verb(tokens[0]).name if tokens else None)
    verb = _known_verb(name)
    if _asks_help(tokens):
        return _help(verb.name)
    return Command(verb.name, _parse(verb, tokens, surface))


def help_text(topic: str | None = None, surface: Surface = "magic") -> str:
    """Describe one verb, the cell magic (topic `cell`), or everything."""
    if topic is not None:
        return _verb_help(_known_verb(topic), surface)
    width = max(map(len, VERBS)) + 2
    lines = [
        f"{_usage(CELL, surface)}   {CELL.summary}",
        "",
        *(f"  {verb.name:{width}}{verb.summary}" for verb in VERBS.values()),
        "",
        f"{_prefix(surface)} VERB --help describes one verb; "
        f"{_prefix(surface)} help cell the options of a cell.",
        f"Example: {_example(VERBS['up'], surface)}",
    ]
    if surface == "shell":
        lines.insert(-3, f"  {'simulate':{width}}Compare scheduling policies on a trace of jobs.")
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """argparse prints and exits on errors; a notebook must get an exception."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{self.prog}: {message}. Usage: {self.usage}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise InvalidRequest(message or f"{self.prog} ended with status {status}.")


@cache
def _parser(verb: Verb, surface: Surface) -> _Parser:
    parser = _Parser(
        prog="%%resilient" if verb is CELL else verb.name, usage=_usage(verb, surface),
        add_help=False, allow_abbrev=False, exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    for argument in verb.arguments:
        parser.add_argument(
            argument.name, metavar=argument.metavar, nargs=None if argument.required else "?",
            default=None, type=partial(argument.convert, argument.metavar),
        )  # fmt: skip
    for option in verb.options:
        if option.metavar is None:
            parser.add_argument(option.flag, dest=option.name, action="store_true")
        else:
            convert = partial(option.convert, option.flag)
            parser.add_argument(option.flag, dest=option.name, metavar=option.metavar, type=convert)
    return parser


def _parse(verb: Verb, tokens: Sequence[str], surface: Surface) -> Parsed:
    _refuse_flags(verb, tokens)
    parser = _parser(verb, surface)
    try:
        found, extra = parser.parse_known_args(list(tokens))
    except argparse.ArgumentError as error:
        option = verb.option(error.argument_name or "")
        if option is None or option.metavar is None:
            parser.error(f"{error.argument_name}: {error.message}")
        raise InvalidRequest(
            f"{option.flag} needs a value: {option.flag} {option.metavar}."
        ) from error
    if extra:
        _refuse_spaces(verb, tokens, extra[0])
        parser.error(f"unexpected {extra[0]!r}")
    parsed: Parsed = {argument.name: None for argument in verb.arguments}
    for option in verb.options:
        parsed[option.name] = False if option.metavar is None else option.default
    parsed.update(vars(found))
    if verb.check is not None:
        verb.check(parsed)
    return parsed


def _refuse_spaces(verb: Verb, tokens: Sequence[str], extra: str) -> None:
    """Refuse names with a space between them after an option that takes several."""
    at = list(tokens).index(extra)
    option = verb.option(tokens[at - 2]) if at >= 2 else None
    if option is not None and option.convert in (values.variables, values.jobs_or_runs):
        value = tokens[at - 1]
        raise InvalidRequest(
            f"{option.flag} {value} {extra}: write names with commas and no spaces, "
            f"{option.flag} {value},{extra}."
        )


def _refuse_flags(verb: Verb, tokens: Sequence[str]) -> None:
    """Refuse unknown, repeated and conflicting options.

    argparse would report them last, after misreading the values that follow unknown ones.
    """
    flags = [
        token.partition("=")[0]
        for token in tokens
        if token.startswith("-") and not is_number(token[1:2])
    ]
    for flag, count in Counter(flags).items():
        if verb.option(flag) is None:
            known = [option.flag for option in verb.options]
            raise InvalidRequest(f"unknown option {flag}{did_you_mean(flag, known)}")
        if count > 1:
            raise InvalidRequest(f"{flag} is given {count} times; keep one.")
    for one, other in verb.exclusive:
        if one in flags and other in flags:
            raise InvalidRequest(f"{one} and {other} exclude each other; keep one.")


def _known_verb(name: str) -> Verb:
    if name == CELL.name:
        return CELL
    if name in VERBS:
        return VERBS[name]
    raise InvalidRequest(f"unknown verb {name}{did_you_mean(name, VERBS)}")


def _split(line: str) -> list[str]:
    """Split as IPython's `arg_split` does, where `#` begins no comment."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise InvalidRequest(f"{line.strip()!r} has a quote or backslash without end.") from error


def _asks_help(tokens: Sequence[str]) -> bool:
    return any(flag in tokens for flag in _HELP)


def _help(topic: str | None) -> Command:
    return Command("help", {"topic": topic})


def _prefix(surface: Surface) -> str:
    return "%resilient" if surface == "magic" else "resilient"


def _usage(verb: Verb, surface: Surface) -> str:
    words = ["%%resilient"] if verb is CELL else [_prefix(surface), verb.name]
    words += [a.metavar if a.required else f"[{a.metavar}]" for a in verb.arguments]
    if len(verb.options) > 5:
        return " ".join([*words, "[options]"])
    words += [f"[{o.flag} {o.metavar}]" if o.metavar else f"[{o.flag}]" for o in verb.options]
    return " ".join(words)


def _example(verb: Verb, surface: Surface) -> str:
    return verb.example if verb is CELL else f"{_prefix(surface)} {verb.example}"


def _verb_help(verb: Verb, surface: Surface) -> str:
    rows = [(argument.metavar, argument.help) for argument in verb.arguments]
    rows += [(f"{o.flag} {o.metavar or ''}".rstrip(), o.help) for o in verb.options]
    width = max((len(left) for left, _ in rows), default=0) + 2
    table = [f"  {left:{width}}{right}" for left, right in rows]
    head = [_usage(verb, surface), f"  {verb.summary}", ""]
    space = [""] if table else []
    return "\n".join([*head, *table, *space, f"Example: {_example(verb, surface)}"])
