"""From the facts of a failed attempt to its cause, and from the cause to a decision.

`diagnose` blames the rank that failed first on its own account: ranks that only lost their
peer ("connection closed") are victims and never blamed. `decide` retries what can pass and
never retries what is proven permanent. Both are pure, so a decision can be replayed from
the journal with its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resilient_nb.core.model import Checkpoint, Failure, Outcome, RankEnd, RemoteError

KILLED = "killed from outside"
HOST_LOST = "host lost"
CRASH = "native crash"
USER_ERROR = "error in the cell"
SILENT_EXIT = "silent exit"
NETWORK = "connection lost"
DAMAGED = "damaged checkpoint"

#: Not of the job's own making: its user's budget of retries isn't for them.
_FROM_OUTSIDE = frozenset({KILLED, HOST_LOST, NETWORK, DAMAGED})

#: Deterministic by nature: a resumed run would meet them again.
PERMANENT_ERRORS = frozenset(
    [
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "CannotStore",
        "ImportError",
        "IndentationError",
        "IndexError",
        "InvalidRequest",
        "KeyError",
        "LookupError",
        "ModuleNotFoundError",
        "NameError",
        "NotImplementedError",
        "SyntaxError",
        "TypeError",
        "UnboundLocalError",
        "ValueError",
        "ZeroDivisionError",
    ]
)

#: Attempts in a row without a new checkpoint before even outside kills are given up.
FRUITLESS_LIMIT = 20

_SIGNALS = {2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
            11: "SIGSEGV", 15: "SIGTERM"}  # fmt: skip
_CRASHES = frozenset({4, 6, 7, 8, 11})
_VICTIM_WORDS = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connection refused",
    "connection was closed",
    "failed to recv",
    "failed to send",
    "nccl",
)


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, first of all, and where."""

    cause: str
    message: str
    rank: int | None = None
    step: int = 0
    error: RemoteError | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do about it: retry (after `delay` seconds) or stop, and why."""

    retry: bool
    reason: str
    delay: float = 0.0


def is_victim(end: RankEnd) -> bool:
    """Whether a rank failed only because a peer did."""
    if end.error is None:
        return False
    text = end.error.message.lower()
    return end.error.in_collective and any(word in text for word in _VICTIM_WORDS)


def diagnose(ends: Sequence[RankEnd], head: str | None = None) -> Diagnosis:
    """Return the cause of a failed attempt from how its ranks ended.

    Ranks that we ended ourselves and victims of other ranks are left out; of the rest the
    earliest is to blame.

    Args:
        ends: of all ranks.
        head: the checkpoint that the next attempt would go on from. That it is damaged is no
            fault of the cell's; other checkpoints only the cell itself has tried to read.
    """
    own = [e for e in ends if e.outcome not in (Outcome.FINISHED, Outcome.LEFT) and not e.ordered]
    blamed = [e for e in own if not is_victim(e)] or own
    if not blamed:
        return Diagnosis(SILENT_EXIT, "The attempt ended without a failing rank.")
    first = min(blamed, key=lambda e: (e.at, e.rank))
    if head is not None and first.error is not None and first.error.damaged == head:
        error = first.error
        return Diagnosis(DAMAGED, error.message, first.rank, first.step, error)
    return _explain(first)


def _explain(end: RankEnd) -> Diagnosis:
    where = f"rank {end.rank}" + (f" on {end.host}" if end.host else "")
    if end.outcome is Outcome.LOST:
        return Diagnosis(HOST_LOST, f"The host of {where} is gone.", end.rank, end.step)
    if end.error is not None:
        cause = NETWORK if is_victim(end) else USER_ERROR
        text = f"{end.error.type}: {end.error.message}" if end.error.message else end.error.type
        return Diagnosis(cause, f"{text} ({where}, step {end.step})", end.rank, end.step, end.error)
    if end.signal is not None:
        name = _SIGNALS.get(end.signal, f"signal {end.signal}")
        cause = CRASH if end.signal in _CRASHES else KILLED
        verb = "crashed with" if cause == CRASH else "was killed by"
        return Diagnosis(cause, f"{where} {verb} {name} at step {end.step}.", end.rank, end.step)
    return Diagnosis(
        SILENT_EXIT,
        f"{where} exited with code {end.exit_code} at step {end.step} without finishing the cell.",
        end.rank,
        end.step,
    )


def decide(diagnosis: Diagnosis, past: Sequence[Failure], retries: int, fruitless: int) -> Verdict:
    """Return whether to retry.

    Args:
        diagnosis: this attempt's failure.
        past: the job's earlier failures, oldest first.
        retries: the user's budget for failures of the job's own making.
        fruitless: attempts in a row, this one included, without a new checkpoint.
    """
    if diagnosis.cause in (KILLED, HOST_LOST, NETWORK):
        return _from_outside(fruitless)
    same = [f for f in past if _same(f, diagnosis)]
    if diagnosis.error is not None and diagnosis.error.type in PERMANENT_ERRORS:
        return Verdict(False, f"{diagnosis.error.type} would happen again: not retried.")
    if diagnosis.cause == USER_ERROR and diagnosis.step < 1:
        return Verdict(False, "It failed before the first step: not retried.")
    if same:
        return Verdict(False, f"The same failure at step {diagnosis.step} again: not retried.")
    spent = sum(f.cause not in _FROM_OUTSIDE for f in past)
    if spent >= retries:
        return Verdict(False, f"All {retries} retries are used up.")
    return Verdict(True, f"It may pass: retry {spent + 1} of {retries}.")


def after_damage(before: Checkpoint | None) -> Verdict:
    """Return whether to retry when the head is damaged.

    Each time, one checkpoint more is known to be damaged: this ends by itself.

    Args:
        before: the newest of the head's ancestors that isn't known to be damaged.
    """
    if before is None:
        return Verdict(
            False,
            "No earlier checkpoint is left. Bring one back from a backup (%resilient restore URL) "
            "and resume, or start over (--resume never).",
        )
    ref = f"{before.run}@{before.step}"
    return Verdict(True, f"It goes on from {ref}, the newest before it not known to be damaged.")


def _from_outside(fruitless: int) -> Verdict:
    if fruitless >= FRUITLESS_LIMIT:
        return Verdict(False, f"{fruitless} attempts in a row made no checkpoint: given up.")
    if fruitless <= 3:
        return Verdict(True, "Not the job's fault: it goes on at once.")
    delay = min(30.0, 0.5 * 2.0 ** (fruitless - 4))
    return Verdict(True, f"Not the job's fault: it goes on in {delay:.1f} s.", delay)


def _same(failure: Failure, diagnosis: Diagnosis) -> bool:
    kind = failure.error.type if failure.error else ""
    new = diagnosis.error.type if diagnosis.error else ""
    return (failure.cause, failure.step, kind) == (diagnosis.cause, diagnosis.step, new)
