"""Beginning with a checkpoint that was imported: tracked objects get what it has for them, once.

Unlike on resume, the cell begins at its beginning: with random numbers of its own, and with what
it changes between `run.track` and its first loop (a new head for a model, say) left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from resilient_nb.rank.state import Tracker
from resilient_nb.rank.stored import Stored


class Imported:
    """An imported checkpoint, for one rank's tracked objects.

    Args:
        stored: the checkpoint.
        tracker: has the objects.
        note: takes lines for the user.
    """

    def __init__(self, stored: Stored, tracker: Tracker, note: Callable[[str], None]) -> None:
        self._stored = stored
        self._tracker = tracker
        self._note = note
        self._given: set[str] = set()

    def give(self, names: Iterable[str]) -> None:
        """Restore those of these objects that the import has, and that don't have it yet."""
        new = [n for n in names if n in self._stored.names and n not in self._given]
        self._tracker.restore(self._stored, new)
        self._given.update(new)

    def tell(self) -> None:
        """Say what was restored and what wasn't, now that everything is tracked."""
        tracked, has = self._tracker.names, self._stored.names
        ref = f"{self._stored.manifest.run}@{self._stored.step}"
        if not self._given:
            self._note(
                f"Nothing of {ref} is used: it has {_all(has)}, and the cell tracks "
                f"{_all(tracked)}. Track by the same names, or import with --as NAME."
            )
            return
        parts = [f"Restored from {ref}: {_all(sorted(self._given))}."]
        if lacking := [name for name in tracked if name not in has]:
            parts.append(f"It has no {_all(lacking)}: as the cell made them.")
        if unused := [name for name in has if name not in tracked]:
            parts.append(f"Not used, since the cell doesn't track them: {_all(unused)}.")
        self._note(" ".join(parts))


def _all(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
