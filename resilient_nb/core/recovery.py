"""From the cause of a failure to a decision: is it tried again, when, and what changes.

What is proven permanent is never tried again by itself: only a person can override that. What can
pass is, and each class of causes has a budget of its own, so that an unreliable network doesn't
use up the retries that its user meant for the cell. `decide` is pure: with the facts and the
random number of a back-off it gives the same verdict again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from resilient_nb.core.case import BUDGETS, Case, Verdict
from resilient_nb.core.causes import (
    ALLOCATION,
    CRASH,
    DAMAGED,
    DISK_FULL,
    DIVERGED,
    HANG,
    HOST_LOST,
    INPUT_LOST,
    IO_ERROR,
    KILLED,
    NETWORK,
    NOT_STARTED,
    OUT_OF_MEMORY,
    SILENT_EXIT,
    USER_ERROR,
    amount,
)
from resilient_nb.core.diagnosis import Diagnosis
from resilient_nb.core.divergence import LOWER, to_skip
from resilient_nb.core.model import Checkpoint, Failure, OnNan

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
        "StateMismatch",
        "SyntaxError",
        "TypeError",
        "UnboundLocalError",
        "ValueError",
        "ZeroDivisionError",
    ]
)

#: Attempts in a row without a new checkpoint before even outside kills are given up.
FRUITLESS_LIMIT = BUDGETS["attempts"]
#: To how many times what it was memory is raised.
MEMORY_FACTOR = 1.5
#: After trouble with network, disks and processes: the longest pause before the first try, which
#: doubles each time, and the longest of all.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: The same for a full disk, which nobody empties within seconds.
DISK_PAUSE, LONGEST_DISK_PAUSE = 5.0, 300.0

#: What is in the user's own budget of retries. All else isn't of the job's making.
_OWN = frozenset({USER_ERROR, SILENT_EXIT, CRASH, ALLOCATION})


def decide(diagnosis: Diagnosis, case: Case) -> Verdict:
    """Return whether to retry, and how. Every cause has just one decision."""
    rule = _RULES.get(diagnosis.cause, _own)
    return rule(diagnosis, case)


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


# --- the classes ----------------------------------------------------------------------------


def _from_outside(diagnosis: Diagnosis, case: Case) -> Verdict:
    return _again("Not the job's fault: it goes on", case)


def _again(text: str, case: Case) -> Verdict:
    """At once, and later with growing pauses if attempts get nowhere."""
    fruitless = case.fruitless
    if fruitless >= case.budget("attempts"):
        return Verdict(
            False, f"{fruitless} attempts in a row made no checkpoint: given up.", spent="attempts"
        )
    if fruitless <= 3:
        return Verdict(True, f"{text} at once.")
    delay = min(30.0, 0.5 * 2.0 ** (fruitless - 4))
    return Verdict(True, f"{text} in {delay:.1f} s.", delay)


def _memory(diagnosis: Diagnosis, case: Case) -> Verdict:
    """More memory, within what the cluster has."""
    tries = sum(f.cause == OUT_OF_MEMORY or _grew(f) for f in case.past)
    most = case.budget("memory")
    if tries >= most:
        return Verdict(
            False,
            f"More memory was tried {tries} times, and wasn't enough. Give it more yourself "
            f"(%resilient retry {case.run} --memory SIZE), or have the cell use less.",
            spent="memory",
        )
    had = case.memory or diagnosis.peak * case.ranks
    count = f"try {tries + 1} of {most}"
    # Where there is no limit it may have had more than workers say to have: others fill them, too.
    beyond = not case.memory and case.room is not None and case.room <= had
    if not had or case.room == 0 or beyond:
        return Verdict(True, f"How much it needs, or could get, isn't known; it may pass: {count}.")
    wanted = int(had * MEMORY_FACTOR)
    if case.room is not None and wanted > case.room:
        wanted = case.room
        if wanted <= case.memory or wanted <= diagnosis.peak * case.ranks:
            return Verdict(
                False,
                f"It needs more than {amount(had)} for each worker, and no worker here has that. "
                "Add larger ones, or have the cell use less.",
                spent="memory",
            )
    remedy = replace(case.remedy, memory=wanted)
    asked = f"instead of {amount(case.memory)}" if case.memory else "where none was asked for"
    text = f"It gets {amount(wanted)} for each worker {asked}: {count}."
    return Verdict(True, text, remedy=remedy)


def _allocation(diagnosis: Diagnosis, case: Case) -> Verdict:
    """An allocation failed: of what is limited only if it was near the limit."""
    return (_memory if diagnosis.short_of_memory else _own)(diagnosis, case)


def _crash(diagnosis: Diagnosis, case: Case) -> Verdict:
    """Once more, on another host: the same step twice is the job's own."""
    verdict = _own(diagnosis, case)
    return _elsewhere(verdict, diagnosis, case)


def _hang(diagnosis: Diagnosis, case: Case) -> Verdict:
    if any(_same(f, diagnosis) for f in case.past):
        return Verdict(False, f"It hung at step {diagnosis.step} before: not retried.")
    return _again("A hang may pass: it starts again", case)


def _passing(diagnosis: Diagnosis, case: Case) -> Verdict:
    """Trouble that time mends: a growing pause before each try."""
    recent = case.past[len(case.past) - (case.fruitless - 1) :] if case.fruitless > 1 else ()
    tries = sum(f.cause == diagnosis.cause for f in recent)
    name = _SPENT[diagnosis.cause]
    most = case.budget(name)
    if tries >= most:
        return Verdict(
            False,
            f"{most} tries in a row came to the same ({diagnosis.cause}): given up.",
            spent=name,
        )
    delay = _pause(tries, case.jitter, FIRST_PAUSE, LONGEST_PAUSE)
    text = f"It may pass: try {tries + 1} of {most} in {delay:.1f} s."
    verdict = Verdict(True, text, delay)
    return verdict if diagnosis.cause == NETWORK else _elsewhere(verdict, diagnosis, case)


def _disk_full(diagnosis: Diagnosis, case: Case) -> Verdict:
    """Not the job's fault; whether the store has room is looked at before it starts, too."""
    if case.fruitless >= case.budget("attempts"):
        text = f"{case.fruitless} attempts in a row found the disk full: given up."
        return Verdict(False, text, spent="disk")
    delay = _pause(case.fruitless - 1, case.jitter, DISK_PAUSE, LONGEST_DISK_PAUSE)
    text = "What its rule doesn't keep is dropped; it goes on when there is room"
    return Verdict(True, f"{text}, in {delay:.1f} s at the earliest.", delay)


def _diverged(diagnosis: Diagnosis, case: Case) -> Verdict:
    if case.on_nan in (OnNan.STOP, OnNan.IGNORE):
        return Verdict(False, "It is to stop when its numbers diverge (--on-nan stop).")
    tries = sum(f.cause == DIVERGED for f in case.past)
    most = case.budget("rollbacks")
    if tries >= most:
        other = OnNan.SKIP if case.on_nan is OnNan.LOWER_LR else OnNan.LOWER_LR
        return Verdict(
            False,
            f"It went back {tries} times, and diverged again. Look at the cell and its data; "
            f"another policy may help (%resilient retry {case.run} --on-nan {other}).",
            spent="rollbacks",
        )
    bad, old = diagnosis.step + 1, case.remedy
    start = f"from step {case.back_to.step}" if case.back_to else "from the beginning"
    if case.on_nan is OnNan.LOWER_LR:
        remedy = replace(old, lr_scale=old.lr_scale * LOWER)
        how = f"with {100 * remedy.lr_scale:g} % of its learning rate"
    else:
        remedy = replace(old, skip=to_skip(bad, old.skip))
        new = [str(step) for step in remedy.skip if step not in old.skip]
        how = f"without {'step' if len(new) == 1 else 'steps'} {' and '.join(new)}"
    text = f"It goes on {start}, {how}: rollback {tries + 1} of {most}."
    return Verdict(True, text, remedy=remedy)


def _input_lost(diagnosis: Diagnosis, case: Case) -> Verdict:
    lost = diagnosis.error.lost_input if diagnosis.error else ""
    if any(f.error is not None and f.error.lost_input == lost for f in case.past):
        return Verdict(False, f"{lost} is lost again after it was made anew: not retried.")
    if "#" not in lost or "/" in lost:
        return Verdict(False, f"Nothing here can bring {lost or 'it'} back: not retried.")
    return Verdict(True, f"{lost} is run again first, then this job.", rerun=lost)


def _own(diagnosis: Diagnosis, case: Case) -> Verdict:
    """Of the job's own making: the user's retries, but nothing that would happen again."""
    error, step = diagnosis.error, diagnosis.step
    if error is not None and error.type in PERMANENT_ERRORS:
        return Verdict(False, f"{error.type} would happen again: not retried.")
    if error is not None and step < 1:
        return Verdict(False, "It failed before the first step: not retried.")
    if any(_same(f, diagnosis) for f in case.past):
        return Verdict(False, f"The same failure at step {step} again: not retried.")
    mine = _OWN | {diagnosis.cause}
    used = sum(f.cause in mine and not _grew(f) for f in case.past)
    if used >= case.retries:
        return Verdict(False, f"All {case.retries} retries are used up.", spent="retries")
    return Verdict(True, f"It may pass: retry {used + 1} of {case.retries}.")


def _damaged(diagnosis: Diagnosis, case: Case) -> Verdict:
    return after_damage(case.back_to)


_Rule = Callable[[Diagnosis, Case], Verdict]
_RULES: dict[str, _Rule] = {
    KILLED: _from_outside,
    HOST_LOST: _from_outside,
    OUT_OF_MEMORY: _memory,
    ALLOCATION: _allocation,
    CRASH: _crash,
    HANG: _hang,
    NETWORK: _passing,
    IO_ERROR: _passing,
    NOT_STARTED: _passing,
    DISK_FULL: _disk_full,
    DIVERGED: _diverged,
    INPUT_LOST: _input_lost,
    DAMAGED: _damaged,
    SILENT_EXIT: _own,
    USER_ERROR: _own,
}
_SPENT = {NETWORK: "network", IO_ERROR: "io", NOT_STARTED: "starts"}


def _elsewhere(verdict: Verdict, diagnosis: Diagnosis, case: Case) -> Verdict:
    """Have the next attempt avoid the host, if there is one."""
    host, old = diagnosis.host, case.remedy
    if not verdict.retry or not host:
        return verdict
    avoid = (*(name for name in old.avoid if name != host), host)
    remedy = replace(verdict.remedy or old, avoid=avoid)
    return replace(verdict, reason=f"{verdict.reason} Not on {host}, if possible.", remedy=remedy)


def _pause(tries: int, jitter: float, first: float, longest: float) -> float:
    """Return a pause with full jitter: jobs that failed together don't come back together."""
    return jitter * min(longest, first * 2.0 ** min(tries, 60))


def _grew(failure: Failure) -> bool:
    """Whether it got more memory for an allocation that failed."""
    return failure.cause == ALLOCATION and failure.remedy is not None


def _same(failure: Failure, diagnosis: Diagnosis) -> bool:
    kind = failure.error.type if failure.error else ""
    new = diagnosis.error.type if diagnosis.error else ""
    return (failure.cause, failure.step, kind) == (diagnosis.cause, diagnosis.step, new)
