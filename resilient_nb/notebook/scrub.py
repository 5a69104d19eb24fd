"""`verify`: read all of some checkpoints, in the process that asks, and say what is damaged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from resilient_nb.client import Client
from resilient_nb.core.names import Reference
from resilient_nb.core.scrubbing import Damage, VerifyReport, VerifyRow
from resilient_nb.core.views import CheckpointView
from resilient_nb.notebook import words
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.verify import Verifier


def scrub(client: Client, target: Reference | None, say: Callable[[str], None]) -> VerifyReport:
    """Verify a checkpoint, all those of a run, or all there are.

    Args:
        client: knows which there are. The store must be within reach of this process.
        target: a run without step and tag for all of its checkpoints; None for all runs.
        say: takes a line when a checkpoint is done.

    Raises:
        UnknownName: there is no such run or checkpoint.
        OSError: the store can't be reached.
    """
    began = time.monotonic()
    scrubber = _Scrubber(client, say)
    rows = [scrubber.row(view) for view in scrubber.wanted(target)]
    if any(row.damage for row in rows):
        # What a rule has dropped meanwhile is no damage.
        left = {view.id for view in _all(client)}
        rows = [row for row in rows if not row.damage or row.id in left]
    return VerifyReport(tuple(rows), scrubber.nbytes, time.monotonic() - began)


class _Scrubber:
    def __init__(self, client: Client, say: Callable[[str], None]) -> None:
        self._client = client
        self._say = say
        self._views = {view.id: view for view in _all(client)}
        self._verifiers: dict[str, Verifier] = {}
        self._found: dict[str, tuple[Damage, ...]] = {}

    @property
    def nbytes(self) -> int:
        return sum(verifier.nbytes for verifier in self._verifiers.values())

    def wanted(self, target: Reference | None) -> list[CheckpointView]:
        """Return what is meant, the oldest first."""
        if target is None:
            return list(self._views.values())
        if target.step is None and target.tag is None:
            [run] = self._client.runs(target.run)
            return list(run.checkpoints)
        return [self._client.resolve(str(target))]

    def row(self, view: CheckpointView) -> VerifyRow:
        found = self._damage(view)
        before = self._good_before(view) if found else None
        return VerifyRow(view.ref, view.id, view.path, found, before)

    def _damage(self, view: CheckpointView) -> tuple[Damage, ...]:
        if view.id not in self._found:
            root = view.path.removesuffix(f"/{view.id}")
            verifier = self._verifiers.setdefault(root, Verifier(open_store(root)))
            problems = verifier.verify(view.id)
            self._found[view.id] = tuple(Damage(p.what, p.why, p.key) for p in problems)
            count = words.count(len(problems), "problem")
            self._say(f"{view.ref}: {count if problems else 'whole'}")
        return self._found[view.id]

    def _good_before(self, view: CheckpointView) -> str | None:
        """Return the newest ancestor that is whole."""
        parent = view.parent
        while parent is not None and parent in self._views:
            at = self._views[parent]
            if not self._damage(at):
                return at.ref
            parent = at.parent
        return None


def _all(client: Client) -> Iterable[CheckpointView]:
    return [c for run in reversed(client.runs()) for c in run.checkpoints]
