"""What of the notebook goes with a cell: names found by data flow, in one payload.

`capture` is the notebook's half; the rank's half is `pickle.loads`, here called `restore`.
"""

from __future__ import annotations

import builtins
import hashlib
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from resilient_nb.core.model import KEEP_AUTO
from resilient_nb.core.names import did_you_mean
from resilient_nb.errors import CannotCapture, InvalidRequest
from resilient_nb.notebook.culprit import explain, find_culprit
from resilient_nb.notebook.dataflow import CellNames, analyse
from resilient_nb.notebook.namespace import RUNTIME, Notebook, is_history
from resilient_nb.notebook.options import CellOptions
from resilient_nb.notebook.pickling import Pickled, pickled, sizes
from resilient_nb.notebook.summary import describe
from resilient_nb.notebook.values import Workers
from resilient_nb.notebook.words import duration, size

__all__ = [
    "Capture",
    "CellNames",
    "Entry",
    "analyse",
    "capture",
    "dry_run_text",
    "explain_missing",
    "restore",
]

_NOT_IN_A_RANK = {
    "get_ipython": "a rank has no IPython shell",
    "display": "a rank has no output cell: print it, or return it with --out",
}
# IPython adds to the builtins what a rank won't have.
_BUILTINS = frozenset(vars(builtins)) - _NOT_IN_A_RANK.keys()


@dataclass(frozen=True)
class Entry:
    """One name that is sent.

    Attributes:
        name: The name.
        summary: What it is, in a few words.
        nbytes: What it adds to the payload, in bytes; None if not measured.
        via: The notebook function that uses it, where the cell itself doesn't.
    """

    name: str
    summary: str
    nbytes: int | None = None
    via: str | None = None


@dataclass(frozen=True)
class Capture:
    """What is sent with a cell.

    Attributes:
        entries: The names in the payload, and those that come with the functions in it.
        payload: A pickle of a dict of the names that the cell uses.
        sources: Text of the notebook cells that define captured functions, by file name.
        missing: Names that the cell uses and nothing defines; see `explain_missing`.
        left_out: Names that can't be sent and aren't used in the cell's usual course.
    """

    entries: tuple[Entry, ...]
    payload: bytes
    sources: Mapping[str, str]
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The payload's SHA-256, in hexadecimal."""
        return hashlib.sha256(self.payload).hexdigest()


def capture(
    names: CellNames,
    namespace: Mapping[str, object],
    out: Sequence[str] = (),
    *,
    measure: bool = False,
) -> Capture:
    """Pickle what the cell needs of the notebook, all together, so that what is shared stays so.

    Args:
        names: What `analyse` found in the cell.
        namespace: The notebook's globals: the very dict, by which its functions are known.
        out: The names that are to come back.
        measure: Whether to find each entry's size, which pickles everything once more.

    Raises:
        CannotCapture: naming the value that can't be sent, and why.
        InvalidRequest: if the cell can't make a name in `out`.
    """
    notebook = Notebook(namespace)
    _check_out(names, notebook, out)
    wanted = [name for name in names.reads if name in notebook]
    # Where the cell may end without assigning it, the notebook's value comes back.
    wanted += [n for n in out if n in notebook and n not in names.settled and n not in names.reads]
    notebook, found = _pickle(wanted, notebook, _dispensable(names, out))
    sent = [name for name in wanted if name in notebook]
    via = {name: used_by for name, used_by in found.uses.items() if name not in sent}
    every = [*sent, *via]
    measured = sizes(every, notebook) if measure else {}
    return Capture(
        tuple(Entry(n, describe(notebook[n]), measured.get(n), via.get(n)) for n in every),
        found.payload,
        found.sources,
        tuple(_missing(names, Notebook(namespace))),
        tuple(sorted(notebook.left_out)),
    )


def restore(payload: bytes) -> dict[str, object]:
    """Return the captured names and values.

    Functions of the notebook get the globals of this process's `__main__`: in a rank, those
    are the cell's. Update them with the returned names, then run the cell in them.
    """
    restored: dict[str, object] = pickle.loads(payload)
    return restored


def explain_missing(
    names: CellNames, missing: Iterable[str], namespace: Mapping[str, object]
) -> str:
    """Say, a line for each, which name the cell uses that nothing defines."""
    known = {*Notebook(namespace), *names.assigns, *_BUILTINS}
    return "\n".join(_explain_missing(name, names.reads[name], known) for name in missing)


def _explain_missing(name: str, line: int, known: Iterable[str]) -> str:
    if is_history(name):
        return (
            f"line {line} uses `{name}`, which is the notebook's history and isn't sent. "
            "Give the value a name of its own."
        )
    if name in _NOT_IN_A_RANK:
        return f"line {line} uses `{name}`: {_NOT_IN_A_RANK[name]}."
    text = f"line {line} uses `{name}`, which neither the cell nor the notebook defines"
    if name in sys.stdlib_module_names:
        return f"{text}: import {name}."
    return f"{text}{did_you_mean(name, known)}"


def dry_run_text(options: CellOptions, capture: Capture, source: str) -> str:
    """Say what a submission would send: options, names, sizes (if measured), results."""
    rows = [
        (
            entry.name,
            entry.summary + (f" (used by {entry.via})" if entry.via else ""),
            "" if entry.nbytes is None else size(entry.nbytes),
        )
        for entry in capture.entries
    ]
    wide = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [
        "Dry run: nothing is submitted.",
        _options_text(options),
        f"Sends {_count(len(rows), 'name')} in {size(len(capture.payload))}, and the cell: "
        f"{_count(len(source.splitlines()), 'line')}, {size(len(source.encode()))}.",
        *(f"  {a:{wide[0]}}  {b:{wide[1]}}  {c:>{wide[2]}}".rstrip() for a, b, c in rows),
    ]
    if capture.left_out:
        lines.append(
            f"Leaves out {', '.join(capture.left_out)}: can't be sent, and the cell "
            "makes it before using it."
        )
    lines.append(f"Returns {', '.join(options.out) or 'nothing; name values with --out'}.")
    return "\n".join(lines)


def _options_text(options: CellOptions) -> str:
    start = f"fork {options.fork}" if options.fork else f"resume {options.resume}"
    every = options.checkpoint_every
    checkpoints = f"checkpoint interval {every}" if every.auto else f"checkpoint every {every}"
    parts = [
        _workers_text(options.workers),
        f"learning rate scaled {options.scale_lr}" if options.scale_lr else "",
        _needs_text(options),
        f"priority {options.priority}" + (" in the admin lane" if options.admin else ""),
        f"group {options.group}" if options.group else "",
        f"after {', '.join(options.after)}" if options.after else "",
        f"getting {', '.join(options.inputs)} from what these return" if options.inputs else "",
        f"expected to run {duration(options.duration)}" if options.duration else "",
        f"done within {duration(options.deadline)}" if options.deadline else "",
        "no periodic checkpoints" if every.never else checkpoints,
        f"keep {options.keep}" if options.keep != KEEP_AUTO else "",
        f"compressed with {options.compress}" if options.compress else "",
        f"copies in {' and '.join(options.replicas)}" if options.replicas else "",
        f"copies in the memory of {_count(options.memory_copies, 'other host')}"
        if options.memory_copies
        else "",
        f"on a loss that isn't finite: {options.on_nan}" if options.on_nan != "skip" else "",
        f"on one {options.spike:g} times the usual, too" if options.spike else "",
        "stopped if it no longer improves" if options.stop_policy == "stop" else "",
        f"retries {options.retries}",
        *(f"{name} {number}" for name, number in options.budgets),
        start,
        f"seed {options.seed}",
    ]  # fmt: skip
    said = ", ".join(part for part in parts if part)
    return f"Run {options.name or '(named when submitted)'}: {said}."


def _workers_text(workers: Workers) -> str:
    if workers.most:
        return f"{workers.least} to {workers.most} workers (elastic)"
    return _count(workers.least, "worker")


def _needs_text(options: CellOptions) -> str:
    needs = [
        f"{options.cpus:g} cores" if options.cpus else "",
        f"{size(options.memory)} of memory" if options.memory else "",
        _count(options.gpus, "GPU") if options.gpus else "",
    ]
    said = " and ".join(need for need in needs if need)
    return f"each with {said}" if said else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _dispensable(names: CellNames, out: Sequence[str]) -> frozenset[str]:
    """Return the names that the cell's usual course makes before anything uses them."""
    made_first = names.optional | (names.assigns - names.reads.keys())
    return made_first - (frozenset(out) - names.usually_settled)


def _pickle(
    wanted: Sequence[str], notebook: Notebook, dispensable: frozenset[str]
) -> tuple[Notebook, Pickled]:
    """Pickle the names, leaving out dispensable ones that can't be pickled."""
    while True:
        names = [name for name in wanted if name in notebook]
        try:
            return notebook, pickled(names, notebook)
        except Exception as error:
            culprit = find_culprit(names, notebook)
            if culprit is None:
                raise CannotCapture(
                    f"The names {', '.join(names)} can't be sent together "
                    f"({type(error).__name__}: {error}), though each can alone."
                ) from error
            if culprit.name not in dispensable:
                raise explain(culprit, notebook) from culprit.error
            notebook = notebook.without(culprit.name)


def _check_out(names: CellNames, notebook: Notebook, out: Sequence[str]) -> None:
    for name in out:
        if name not in names.assigns and name not in notebook and not names.open_ended:
            raise InvalidRequest(
                f"--out {name}: the cell never assigns it{did_you_mean(name, names.assigns)}"
            )


def _missing(names: CellNames, notebook: Notebook) -> list[str]:
    if names.open_ended:
        return []
    defined = names.assigns | names.guarded | RUNTIME | _BUILTINS
    return [name for name in names.reads if name not in defined and name not in notebook]
