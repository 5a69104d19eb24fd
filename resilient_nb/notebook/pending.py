"""Names that a job will return: a later cell that reads one waits for it.

An AST transformer sees every cell before it runs. It waits there, in the main thread, so an
interrupt ends the wait and the cell is not run. It raises only `InputRejected`: IPython
unregisters a transformer that raises anything else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from IPython.core.error import InputRejected

from resilient_nb.errors import ResilientError
from resilient_nb.handles import Job


class NotReady(InputRejected):
    """The cell was not run, since a name that it reads didn't come back."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Pending:
    """Which names come back from which job; `visit` makes it an AST transformer."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job, names: Iterable[str]) -> None:
        """Expect names from a job; a newer job's claim on a name replaces an older one's."""
        for name in names:
            self._jobs[name] = job

    def visit(self, tree: ast.AST) -> ast.AST:
        """Wait for what the cell reads; forget what it only assigns. Changes nothing."""
        if not self._jobs:
            return tree
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        self.resolve(read)
        for name in {n.id for n in names} - read:
            self._jobs.pop(name, None)
        return tree

    def resolve(self, names: Iterable[str]) -> None:
        """Wait for those of `names` that are pending, and put them into the namespace.

        Raises:
            NotReady: the job failed, or the wait was interrupted (then it is pending still).
        """
        for name in names:
            job = self._jobs.get(name)
            if job is None:
                continue
            try:
                self.take(job)
            except KeyboardInterrupt:
                raise NotReady(
                    f"Stopped waiting for {name!r}. Job {job.id} goes on; a cell that reads "
                    f"{name!r} waits for it again."
                ) from None
            except ResilientError as error:
                raise NotReady(f"{name!r} was to come from job {job.id}. {error}") from None

    def take(self, job: Job) -> None:
        """Wait for a job and put what it returned into the namespace.

        Raises:
            ResilientError: it failed or was cancelled; its names are no longer pending.
        """
        mine = [name for name, owner in self._jobs.items() if owner is job]
        try:
            values = job.result()
        except ResilientError:
            for name in mine:
                del self._jobs[name]
            raise
        for name in mine:
            if name in self._jobs:
                del self._jobs[name]
                self._namespace[name] = values[name]
