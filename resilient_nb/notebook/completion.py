"""Completion of `%%resilient` and `%resilient` lines, from the same table as parsing and help."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resilient_nb.notebook.cell_options import CELL
from resilient_nb.notebook.grammar import Expects, Option, Verb
from resilient_nb.notebook.values import CHAOS
from resilient_nb.notebook.verbs import VERBS


@dataclass(frozen=True)
class Names:
    """What exists now: runs, jobs (`digits#1`), checkpoints (`digits@120`), notebook variables."""

    runs: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


def complete(line: str, cursor: int, names: Names) -> list[str]:
    """Return what may stand for the word that ends at `cursor`, whole words, best first.

    An empty list means that the line or the place isn't ours to complete.
    """
    head, space, rest = line[:cursor].lstrip().partition(" ")
    if not space or head not in ("%%resilient", "%resilient"):
        return []
    words = rest.split()
    word = words.pop() if words and not rest[-1:].isspace() else ""
    if head == "%%resilient":
        verb = CELL
    elif not words:
        return _starting(word, [*VERBS, "help"])
    elif words[0] == "help":
        return _starting(word, [*VERBS, CELL.name]) if len(words) == 1 else []
    elif words[0] in VERBS:
        verb = VERBS[words.pop(0)]
    else:
        return []
    return _complete_verb(verb, words, word, line[cursor:].split(), names)


def _complete_verb(
    verb: Verb, before: Sequence[str], word: str, after: Sequence[str], names: Names
) -> list[str]:
    places = _places(verb, before)
    if before and (option := verb.option(before[-1])) and option.metavar is not None:
        return _values(option, word, places, names)
    flag, equals, start = word.partition("=")
    if equals and (option := verb.option(flag)) and option.metavar is not None:
        return [f"{flag}={value}" for value in _values(option, start, places, names)]
    options = _starting(word, _unused(verb, [*before, *after]))
    if word.startswith("-") or len(places) >= len(verb.arguments):
        return options
    found = _starting(word, _candidates(verb.arguments[len(places)].expects, places, names))
    return found + (options if not word else [])


def _places(verb: Verb, words: Sequence[str]) -> list[str]:
    """Return the words that are neither options nor their values."""
    places: list[str] = []
    value_follows = False
    for word in words:
        if not value_follows and not word.startswith("-"):
            places.append(word)
        option = verb.option(word)
        value_follows = option is not None and option.metavar is not None
    return places


def _unused(verb: Verb, words: Iterable[str]) -> list[str]:
    used = {word.partition("=")[0] for word in words}
    for pair in verb.exclusive:
        if used & set(pair):
            used |= set(pair)
    return [option.flag for option in verb.options if option.flag not in used]


def _values(option: Option, word: str, places: Sequence[str], names: Names) -> list[str]:
    if option.expects in (Expects.VARIABLES, Expects.JOBS):
        chosen, comma, last = word.rpartition(",")
        known = _candidates(option.expects, places, names)
        rest = [name for name in known if name not in chosen.split(",")]
        return [f"{chosen}{comma}{name}" for name in _starting(last, rest)]
    return _starting(word, [*option.choices, *_candidates(option.expects, places, names)])


def _candidates(expects: Expects, places: Sequence[str], names: Names) -> list[str]:
    match expects:
        case Expects.RUN:
            return list(names.runs)
        case Expects.JOB | Expects.JOBS:
            return [*names.jobs, *names.runs]
        case Expects.VARIABLES:
            return list(names.variables)
        case Expects.CHAOS:
            return list(CHAOS)
        case Expects.REFERENCE:
            return [*names.checkpoints, *names.runs]
        case Expects.POINT:
            run = f"{places[0]}@" if places else ""
            return [ref.removeprefix(run) for ref in names.checkpoints if ref.startswith(run)]
        case _:
            return []


def _starting(word: str, candidates: Iterable[str]) -> list[str]:
    return [found for found in dict.fromkeys(candidates) if found.startswith(word)]
