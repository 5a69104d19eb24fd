"""What tracked objects begin with: a checkpoint's state, what an import has, or rank 0's values.

On resume the cell runs from its top, and loops that were complete are skipped. What follows one of
these needs the state; all of it is restored where the checkpoint was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.batches import Place
from resilient_nb.rank.gradients import GradientAveraging, averages_itself
from resilient_nb.rank.imported import Imported
from resilient_nb.rank.numerics import numerics
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import CHECKPOINT
from resilient_nb.rank.randomness import decorrelate
from resilient_nb.rank.stored import Stored


class Restoring:
    """Restores one rank's tracked objects, and has their gradients averaged.

    Args:
        parts: of the rank.
        averaging: of gradients over ranks, if there are several.
        stored: the checkpoint that the attempt begins with.
        note: takes lines for the user.

    Attributes:
        begins_at: the step at which the attempt begins.
        run_began_at: the step before the first that there is of its run.
    """

    def __init__(
        self,
        parts: Parts,
        averaging: GradientAveraging | None,
        stored: Stored | None,
        note: Callable[[str], None],
    ) -> None:
        self._group = parts.group
        self._tracker = parts.tracker
        self._phases = parts.telemetry.phases
        self._averaging = averaging
        self._around = parts.around
        self._note = note
        self.begins_at = stored.step if stored else 0
        self.run_began_at = 0
        self._imported: Imported | None = None
        if stored is not None and stored.imported:
            self.run_began_at = stored.step
            self._imported = Imported(stored, parts.tracker, note)
            stored = None  # but for what objects get from it, the cell begins
        self._stored = stored  # until the place that it was taken at is reached
        self._place: dict[str, int] = stored.position if stored else {}
        if stored is not None and stored.numerics != numerics():
            note(
                "Versions, threads or processor differ from those of the checkpoint: the run goes "
                "on statistically equivalent, but not bit for bit."
            )

    @property
    def pending(self) -> bool:
        """Whether the cell is still before the place that the checkpoint was taken at."""
        return self._stored is not None

    def track(self, objects: dict[str, Any]) -> None:
        """Track objects and restore them, or give all ranks rank 0's values."""
        for name, value in objects.items():
            self._tracker.add(name, value)
        if self._stored is not None:
            self._tracker.restore(self._stored, list(objects))
        elif self._imported is not None:
            self._imported.give(objects)
        self._attach(fresh=self._stored is None)

    def begin(self, loop: int) -> None:
        """Do once what comes before the first loop or checkpoint; `loop` is the next one."""
        self._tracker.find()
        if self._imported is not None:
            self._imported.give(self._tracker.names)
            if self._group.rank == 0:
                self._imported.tell()
        if self._stored is None:
            self._attach(fresh=True)
            decorrelate(self._group.rank)
        elif self._place["loop"] > loop:
            self._tracker.restore(self._stored)  # for what the cell does between loops
        self._tracker.mark()
        if self._stored is not None:
            self._tracker.fill(self._stored)

    def enter(self, loop: int) -> Place | None:
        """Return where to begin in a loop, restored as it was there; None if it was complete."""
        if self._stored is None:
            return Place()
        place = self._place
        if place["loop"] > loop:
            if place["loop"] == loop + 1 and not (place["epoch"] or place["batch"]):
                # Taken between two loops, or after the last: what follows needs the state.
                self._restore_all(self._stored)
            return None
        self._restore_all(self._stored)
        self._attach(fresh=False)
        if self._group.rank == 0 and (account := self._stored.account()):
            self._note(account)
        self._stored = None
        return Place(place["epoch"], place["batch"], place.get("samples"))

    def finish(self, loops: int) -> None:
        """The cell has ended after so many loops.

        Raises:
            InvalidRequest: the place of the checkpoint wasn't among them.
        """
        if self._stored is None or not self._around.repeats:
            return
        if (self._place["loop"], self._place["epoch"], self._place["batch"]) > (loops, 0, 0):
            raise InvalidRequest(
                f"The cell has ended after {loops} of its loops, and checkpoint {self._stored.id} "
                f"was taken in loop {self._place['loop'] + 1}: what is between loops has decided "
                "otherwise than before, or the cell has changed. Its results would be wrong. Put "
                "decisions into the loops (`break` there is kept), use epochs=, or start over with "
                "--resume never."
            )

    def _restore_all(self, stored: Stored) -> None:
        self._around.repeats = False
        with self._phases.within(CHECKPOINT):
            self._tracker.restore(stored)
            self._tracker.restore_own(stored)
            if not stored.knows_rank:
                decorrelate(self._group.rank)  # or it would draw what rank 0 draws

    def _attach(self, fresh: bool) -> None:
        if self._averaging is None:
            return
        wrapped = self._tracker.wrapped()
        for module in self._tracker.modules():
            if averages_itself(module) or any(id(p) in wrapped for p in module.parameters()):
                self._averaging.detach(module)
                continue
            if fresh and module not in self._averaging:
                self._group.broadcast([*module.parameters(), *module.buffers()])
            self._averaging.attach(module)
