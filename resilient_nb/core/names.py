"""Names that people type: runs, jobs, tags and checkpoint references."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from resilient_nb.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


#: Of more names only so many are listed.
_MOST_LISTED = 20


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End a sentence: `"; did you mean X?"` if a known word is close, else a full stop."""
    close = get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "."


def listed(names: Iterable[str]) -> str:
    """Return names in order with commas; of very many the first, and how many there are."""
    found = sorted(names)
    if len(found) <= _MOST_LISTED:
        return ", ".join(found) or "none"
    return f"{', '.join(found[:_MOST_LISTED])}, … ({len(found):,} in all)"


def check_name(name: str, kind: str = "run") -> str:
    """Return `name` if it is a valid run or tag name.

    Raises:
        InvalidRequest: with the rule, so that the next try succeeds.
    """
    if not _NAME.match(name):
        raise InvalidRequest(
            f"{name!r} can't be a {kind} name. Use 1 to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit."
        )
    return name


def job_id(run: str, number: int) -> str:
    """Return the identity of a run's n-th job: `digits#2`."""
    return f"{run}#{number}"


def split_job(text: str) -> tuple[str, int | None]:
    """Split `digits#2` into run and number; the number is None for a bare run name."""
    run, mark, number = text.partition("#")
    if mark and not _is_number(number):
        raise InvalidRequest(f"{text!r} is no job. A job is RUN#NUMBER, for example {run}#1.")
    return check_name(run), int(number) if mark else None


@dataclass(frozen=True)
class Reference:
    """A checkpoint as people write it. Neither step nor tag means the head.

    `epoch` says which one of a step that several attempts have saved; None: whichever is right.
    """

    run: str
    step: int | None = None
    tag: str | None = None
    epoch: int | None = None

    def __str__(self) -> str:
        if self.step is not None and self.epoch is not None:
            return checkpoint_id(self.run, self.step, self.epoch)
        if self.step is not None:
            return f"{self.run}@{self.step}"
        return f"{self.run}@{self.tag}" if self.tag is not None else self.run


def parse_reference(text: str) -> Reference:
    """Parse `run`, `run@step`, `run@tag` or a checkpoint's identity (`run/00000060-e1`).

    Raises:
        InvalidRequest: if it is none of these.
    """
    if (exact := split_checkpoint(text)) is not None:
        run, step, epoch = exact
        return Reference(run, step, epoch=epoch)
    run, mark, rest = text.partition("@")
    check_name(run)
    if not mark:
        return Reference(run)
    if _is_number(rest):
        return Reference(run, step=int(rest))
    return Reference(run, tag=check_name(rest, "tag"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18  # more is no step


def checkpoint_id(run: str, step: int, epoch: int) -> str:
    """Return a checkpoint's identity, which is also its path below the store's `runs`.

    The epoch is part of it, so that two attempts never write to one place.
    """
    return f"{run}/{step:08d}-e{epoch}"


def split_checkpoint(identity: str) -> tuple[str, int, int] | None:
    """Return run, step and epoch of a checkpoint's identity; None if it can't be one."""
    run, _, rest = identity.partition("/")
    step, mark, epoch = rest.partition("-e")
    if not (_NAME.match(run) and mark and _is_number(step) and _is_number(epoch)):
        return None
    found = (run, int(step), int(epoch))
    return found if checkpoint_id(*found) == identity else None


def reference(identity: str) -> str:
    """Return a checkpoint's identity (`digits/00000060-e1`) as people type it (`digits@60`)."""
    run, _, rest = identity.partition("/")
    step = rest.partition("-")[0]
    return f"{run}@{int(step)}" if step.isdecimal() else identity
