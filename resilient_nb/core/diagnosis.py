"""From the facts of a failed attempt to its cause, with the evidence for it.

`diagnose` blames a rank that failed on its own account: ranks that only lost their peer
("connection closed") are victims, named but never blamed. What can't be the result of another
rank's end (a hang, a limit that was passed, numbers that diverged) goes before the clocks, which
differ between hosts.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resilient_nb.core.causes import (
    ALLOCATION,
    CRASH,
    DAMAGED,
    DIVERGED,
    HANG,
    HOST_LOST,
    INPUT_LOST,
    KILLED,
    OUT_OF_MEMORY,
    SILENT_EXIT,
    amount,
    cause_of,
    is_victim,
)
from resilient_nb.core.model import Outcome, RankEnd, RemoteError

#: One whose allocation failed would be helped by more memory if it had used so much of it.
NEARLY_FULL = 0.9

#: Stacks of all ranks together, in characters.
MOST_STACKS = 16 << 10

#: What another rank's end can't bring about, and so stands before what is only earlier.
_SURE = frozenset([OUT_OF_MEMORY, HANG, DIVERGED, INPUT_LOST])

_SIGNALS = {2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
            11: "SIGSEGV", 15: "SIGTERM"}  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, first of all, and where.

    Attributes:
        cause: one of `CAUSES`.
        message: what happened, in a sentence.
        rank: who is to blame; None if nobody is.
        step: how far it was.
        host: where it was.
        evidence: the facts that the cause follows from, a line each.
        peak: the most memory that it had, in bytes.
        limit: the memory that it might have, in bytes; 0: no limit.
    """

    cause: str
    message: str
    rank: int | None = None
    step: int = 0
    error: RemoteError | None = None
    host: str = ""
    evidence: tuple[str, ...] = ()
    peak: int = 0
    limit: int = 0

    @property
    def short_of_memory(self) -> bool:
        """Whether it had used nearly all the memory that it might have."""
        return self.limit > 0 and self.peak >= NEARLY_FULL * self.limit


def diagnose(ends: Sequence[RankEnd], head: str | None = None) -> Diagnosis:
    """Return the cause of a failed attempt from how its ranks ended.

    Ranks that we ended ourselves and victims of other ranks are left out; of the rest one whose
    failure can't be the result of another's is to blame, else the earliest that failed by itself.

    Args:
        ends: of all ranks.
        head: the checkpoint that the next attempt would go on from. That it is damaged is no
            fault of the cell's; other checkpoints only the cell itself has tried to read.
    """
    own = [e for e in ends if e.outcome not in (Outcome.FINISHED, Outcome.LEFT) and not e.ordered]
    blamed = [e for e in own if not is_victim(e)] or own
    if not blamed:
        return Diagnosis(SILENT_EXIT, "The attempt ended without a failing rank.")
    first = min(blamed, key=lambda e: _blame(e, head))
    victims = [e for e in own if e is not first and is_victim(e)]
    found = _explain(first, cause_of(first, head))
    return replace(
        found,
        host=first.host,
        evidence=(*found.evidence, *_named(victims)),
        peak=first.peak_rss,
        limit=first.limit,
    )


def _blame(end: RankEnd, head: str | None) -> tuple[bool, int, bool, float, int]:
    """Return what ranks are blamed by, the least first.

    What diverged on one rank does so on all, a step later, whatever their clocks say. And who
    failed while it waited for others may have failed for one of these.
    """
    cause = cause_of(end, head)
    step = end.step if cause == DIVERGED else -1
    waited = end.error is not None and end.error.in_collective
    return cause not in _SURE, step, waited, end.at, end.rank


# --- in words -------------------------------------------------------------------------------


def joined_stacks(ends: Sequence[RankEnd], first: int | None) -> str:
    """Return where the threads of all ranks were, of the one to blame first, within bounds."""
    told = [end for end in ends if end.stacks]
    if not told:
        return ""
    told.sort(key=lambda end: (end.rank != first, end.rank))
    most = MOST_STACKS // len(told)
    return "\n".join(f"--- {_where(end)}\n{_clipped(end.stacks.rstrip(), most)}" for end in told)[
        :MOST_STACKS
    ]


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(0, most - 80)]}\n…"


def _where(end: RankEnd) -> str:
    return f"rank {end.rank}" + (f" on {end.host}" if end.host else "")


def _explain(end: RankEnd, cause: str) -> Diagnosis:
    where = _where(end)
    facts = tuple(_evidence(end, cause))
    if end.error is not None and cause not in (OUT_OF_MEMORY, HANG):
        error = end.error
        text = f"{error.type}: {error.message}" if error.message else error.type
        message = error.message if cause == DAMAGED else f"{text} ({where}, step {end.step})"
        return Diagnosis(cause, message, end.rank, end.step, error, evidence=facts)
    return Diagnosis(cause, _message(end, cause, where), end.rank, end.step, evidence=facts)


def _message(end: RankEnd, cause: str, where: str) -> str:
    if cause == HOST_LOST:
        return f"The host of {where} is gone."
    if cause == HANG:
        return f"{where} hung at step {end.step}: {_sentence(end.hang)}"
    if cause == OUT_OF_MEMORY:
        return f"{where} ran out of memory at step {end.step}."
    if end.signal is not None:
        name = _SIGNALS.get(end.signal, f"signal {end.signal}")
        verb = "crashed with" if cause == CRASH else "was killed by"
        return f"{where} {verb} {name} at step {end.step}."
    return (
        f"{where} exited with code {end.exit_code} at step {end.step} without finishing the cell."
    )


def _evidence(end: RankEnd, cause: str) -> list[str]:
    """Return the facts about one rank that speak for the cause, a line each."""
    facts = []
    if cause == HOST_LOST:
        facts.append("Nobody has said how it ended: neither its supervisor nor an agent.")
    if cause in (OUT_OF_MEMORY, ALLOCATION, KILLED) and end.peak_rss:
        limit = f" of the {amount(end.limit)} that it may have" if end.limit else ", with no limit"
        facts.append(f"It had {amount(end.peak_rss)}{limit}.")
    if end.over_limit:
        facts.append("It was ended for passing its limit of memory.")
    if end.oom_kills and cause in (OUT_OF_MEMORY, KILLED):
        times = "once" if end.oom_kills == 1 else f"{end.oom_kills} times"
        facts.append(f"The kernel killed for lack of memory {times} on its host meanwhile.")
    elif cause == KILLED:
        facts.append("Nothing shows that memory was short, and we didn't end it.")
    if cause == CRASH and end.stacks:
        facts.append("Where its threads were is noted.")
    if cause == SILENT_EXIT:
        facts.append("It never said that the cell was finished, whatever its exit code.")
    if end.error is not None and cause not in (HANG, OUT_OF_MEMORY):
        facts += _about_error(end.error, cause)
    return facts


def _about_error(error: RemoteError, cause: str) -> list[str]:
    facts = []
    if error.frames:
        frame = error.frames[0]
        line = f": {frame.line}" if frame.line else ""
        facts.append(f"Raised from line {frame.lineno}{line}")
    if error.errno:
        name = errno.errorcode.get(error.errno, "unknown")
        facts.append(f"The system said {name} ({error.errno}).")
    if cause == DIVERGED:
        facts.append(f"Seen in {error.metric}.")
    if cause == INPUT_LOST:
        facts.append(f"What is missing: {error.lost_input}.")
    return facts


def _named(victims: Sequence[RankEnd]) -> list[str]:
    """Return who isn't to blame though it failed."""
    if not victims:
        return []
    ranks = sorted(end.rank for end in victims)
    if len(ranks) == 1:
        return [f"Rank {ranks[0]} only lost its peer."]
    named = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return [f"Ranks {named} only lost their peer."]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
