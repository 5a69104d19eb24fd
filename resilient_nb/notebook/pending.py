"""Names that a job will return: a later cell that reads one waits for it.

An AST transformer sees every cell before it runs. It waits there, in the main thread, so an
interrupt ends the wait and the cell is not run. It raises only `InputRejected`: IPython
unregisters a transformer that raises anything else.

A name is pending until its value comes, the user gives it another, or another job is to return
it. A job that failed or can't be reached is none of these: whoever reads the name is told, and
never gets what it was before.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from IPython.core.error import InputRejected

from resilient_nb.core.model import JobState
from resilient_nb.errors import InvalidRequest, ResilientError
from resilient_nb.handles import Job
from resilient_nb.notebook.calls import followed
from resilient_nb.notebook.dataflow import CellNames, names_in

_NOTHING = object()


class NotReady(InputRejected):
    """The cell was not run, since a name that it reads didn't come back."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass
class _Claim:
    """A job's claim on a name.

    `before` is what the notebook had under the name when it was made: while it still has that,
    nobody has assigned the name since.
    """

    job: Job
    before: object


class Pending:
    """Which names come back from which job; `visit` makes it an AST transformer."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._claims: dict[str, _Claim] = {}

    def add(self, job: Job, names: Iterable[str]) -> None:
        """Expect names from a job; a newer job's claim on a name replaces an older one's."""
        for name in names:
            self._claims[name] = _Claim(job, self._value(name))
        job.on_result = partial(self.fill, job)

    def visit(self, tree: ast.AST) -> ast.AST:
        """Wait for what the cell reads. Changes nothing of the cell."""
        self._forget_assigned()
        if not self._claims:
            return tree
        try:
            names = names_in(_run_now(tree.body) if isinstance(tree, ast.Module) else [tree])
        except InvalidRequest as error:
            raise NotReady(str(error)) from None
        self.resolve(names)
        for name in names.usually_settled & self._claims.keys():
            # The cell assigns it before anything reads it. Until then it has no value: so it is
            # known afterwards if the cell came that far.
            self._namespace.pop(name, None)
            self._claims[name].before = _NOTHING
        return tree

    def resolve(self, names: CellNames, run: str | None = None) -> None:
        """Wait for the pending names that a cell reads, and put them into the namespace.

        Args:
            names: what the cell reads and assigns; what functions of the notebook read that it
                uses is found here.
            run: the run that the cell is submitted for. If it is that of a job which didn't
                succeed, the cell runs again with what the job began with.

        Raises:
            NotReady: a job failed or can't be reached, or the wait was interrupted. The names
                are pending still.
        """
        self._forget_assigned()
        read = names.reads.keys() - names.optional
        called = followed(read, self._namespace) - names.usually_settled
        for name in sorted((read | called) & self._claims.keys()):
            if name in self._claims:  # it may have come with another
                self._await(name, run)

    def _await(self, name: str, run: str | None) -> None:
        claim, job = self._claims[name], self._claims[name].job
        try:
            again = job.id.partition("#")[0] == run and claim.before is not _NOTHING
            if not (again and job.state is not JobState.SUCCEEDED):
                job.result()
        except KeyboardInterrupt:
            raise NotReady(
                f"Stopped waiting for {name!r}. Job {job.id} goes on; a cell that reads "
                f"{name!r} waits for it again."
            ) from None
        except Exception as error:  # what it returned may not unpickle, for whatever reason
            why = str(error) if isinstance(error, ResilientError) else repr(error)
            raise NotReady(
                f"{name!r} was to come from job {job.id}. {why}\n"
                f"To go on without it, assign {name!r}."
            ) from None

    def fill(self, job: Job, values: Mapping[str, Any]) -> None:
        """Put what a job returned into the namespace: those names that are still its to give."""
        self._forget_assigned()
        for name, claim in list(self._claims.items()):
            if claim.job is job and name in values:
                del self._claims[name]
                self._namespace[name] = values[name]

    def _forget_assigned(self) -> None:
        for name, claim in list(self._claims.items()):
            if self._value(name) is not claim.before:
                del self._claims[name]

    def _value(self, name: str) -> object:
        return self._namespace.get(name, _NOTHING)


def _run_now(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the statements; of functions that the cell defines and doesn't use, only the heads.

    What such a function reads is asked for when another cell calls it.
    """
    used = {n.id for stmt in body for n in ast.walk(stmt) if isinstance(n, ast.Name)}
    return [_head(stmt) if _is_only_defined(stmt, used) else stmt for stmt in body]


def _is_only_defined(stmt: ast.stmt, used: set[str]) -> bool:
    if not isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return not stmt.decorator_list and stmt.name not in used


def _head(stmt: ast.stmt) -> ast.stmt:
    head = copy.copy(stmt)
    head.body = []  # type: ignore[attr-defined]
    return head
