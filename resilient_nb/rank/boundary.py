"""The step boundary: counting, telemetry, entering and leaving loops.

`step_done` is on the path of every step, so what is rare is decided by comparing one number:
`Checkpointing.due` is the step at which a checkpoint may be due, or the next one if steps are to be
timed or the cell has asked for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from resilient_nb.errors import Diverged, InvalidRequest
from resilient_nb.rank.batches import Place
from resilient_nb.rank.checkpointing import Checkpointing, Moment
from resilient_nb.rank.gradients import GradientAveraging
from resilient_nb.rank.group import Group
from resilient_nb.rank.origin import Origin
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import COMPUTE, WAIT
from resilient_nb.rank.restoring import Restoring
from resilient_nb.rank.schedule import Schedule
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.telemetry import Telemetry


class Left(BaseException):
    """Unwinds the cell when the job was asked to leave; never seen by the user's `except`."""


class Boundary:
    """Where one rank is in its job, and what happens between two steps."""

    def __init__(
        self, parts: Parts, schedule: Schedule, stored: Stored | None, note: Callable[[str], None]
    ) -> None:
        self.group = group = parts.group
        self.averaging = _averaging(group, parts.telemetry)
        self.phases = parts.telemetry.phases
        self.growth = parts.growth
        self.skip = parts.skip
        self._tracker = parts.tracker
        self._telemetry = parts.telemetry
        self._leaving = parts.leaving
        self._watch, self._around = parts.watch, parts.around
        self._saver = parts.saver
        self._note = note
        self._restoring = Restoring(parts, self.averaging, stored, note)
        self.step = self._telemetry.step = self._restoring.begins_at
        saved_step = self.step if self._restoring.pending else None
        self._checkpointing = Checkpointing(parts, schedule, saved_step, note)
        self._begun = self._entered = self._in_loop = False
        # Where the last step ended; `_position` is set where a loop was left by `break`.
        self._last: tuple[int, Place] | None = None
        self._before = Place()  # where the step under way began
        self._position: dict[str, int] | None = None
        # Optimizers that have stepped since the last boundary, and in the turn before it.
        self._stepped: set[int] = set()
        self._stepped_before: set[int] = set()
        self._prepared = False
        register_optimizer_step_post_hook(self._note_update)

    @property
    def origin(self) -> Origin:
        """What checkpoints say of where they come from."""
        return self._saver.origin

    def track(self, objects: dict[str, Any]) -> None:
        """Track objects and restore them, or give all ranks rank 0's values."""
        self._restoring.track(objects)

    # --- loops ------------------------------------------------------------------------------

    def enter(self, loop: int) -> Place | None:
        """Begin a loop; return where to begin in it, or None if it was complete before."""
        if self._in_loop:
            raise InvalidRequest(
                "run.batches and run.steps can't be used inside one another: a resumed job "
                "couldn't find its place. Use epochs=, a plain `for epoch in range(n)` around "
                "them, or a DataLoader for validation inside."
            )
        self._check()
        self._entered = True
        self._begin(loop)
        # What the last turn of a loop that `break` ended had no boundary for:
        if self._leaving.asked and not self._restoring.pending:
            self._leave_if_due(_position(loop, Place()))
        if self._checkpointing.wanted:
            self._checkpointing.save(self._moment(_position(loop, Place())))
        start = self._restoring.enter(loop)
        if start is None:
            return None
        self._in_loop, self._position = True, None
        self._telemetry.looping = True
        self._stepped = set()
        if self.growth is not None and self.group.rank == 0 and (news := self.growth.news()):
            self._note(news)
        self._checkpointing.resume()
        self._before = start
        self.phases.begin()
        return start

    def _begin(self, loop: int) -> None:
        """Do once what comes before the first loop or checkpoint."""
        if self._begun:
            return
        self._begun = True
        self._restoring.begin(loop)
        self._checkpointing.plan(self.step)

    def exit(self) -> None:
        """A loop has ended, or was left."""
        self._tracker.let_go()
        self._in_loop = self._telemetry.looping = False
        self.phases.enter(COMPUTE)

    def cut(self, loop: int) -> None:
        """A loop was left by `break`: it is over, and its last turn counts if it updated."""
        self._position = _position(loop + 1, Place())
        stepped = bool(self._stepped)
        self._end_turn()
        if stepped:
            self.step += 1
            self._telemetry.step = self.step
            self.phases.step_done()

    @property
    def diverged(self) -> Diverged | None:
        """What a loss has shown, if any has."""
        return self._watch.found if self._watch is not None else None

    def _check(self) -> None:
        """Go no further if the run has diverged, whatever the cell made of the exception."""
        if self._watch is not None:
            self._watch.check()

    def _end_turn(self) -> None:
        self._stepped_before, self._stepped = self._stepped, set()

    def _note_update(self, optimizer: object, *_: object) -> None:
        self._stepped.add(id(optimizer))
        if not self._prepared and self._in_loop:
            self._prepared = True
            self._checkpointing.prepare()

    # --- every step -----------------------------------------------------------------------

    def step_done(self, loop: int, after: Place) -> None:
        """One step is complete: count it, and look whether anything is due."""
        self.step = step = self.step + 1
        self._end_turn()
        self._telemetry.step = step
        self._last = (loop, after)
        items = _items(self._before, after)
        self._before = after
        try:
            if step >= self._checkpointing.due or self._leaving.asked:
                self._look()
        finally:
            self.phases.step_done(items)

    def leave_out(self, loop: int, after: Place) -> None:
        """A step was not made, since its batch did harm: count it all the same."""
        if self.group.rank == 0:
            spikes = self._watch is not None and self._watch.spikes
            what = "not finite, or far off" if spikes else "not finite"
            self._note(f"Step {self.step + 1} was left out: its loss was {what}.")
        self._stepped = self._stepped_before  # the turn that has ended is still the one before
        self.step_done(loop, after)

    @property
    def total(self) -> int | None:
        """Steps that the job will have made at the end of the current loop."""
        return self._telemetry.total

    @total.setter
    def total(self, steps: int) -> None:
        self._telemetry.total = int(steps)  # a cell may count with NumPy's numbers

    def log(self, metrics: dict[str, Any]) -> None:
        """Record metrics for the step under way."""
        values = {}
        for name, value in metrics.items():
            try:
                values[name] = float(value.detach() if torch.is_tensor(value) else value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(
                    f"run.log({name}=...) takes a number or a tensor of one element: {error}"
                ) from error
        if self._around.repeats:
            return  # it was recorded when it was true
        step = self.step + 1 if self._in_loop else self.step
        if self._watch is not None:
            try:
                self._watch.look(step, values)
            except Diverged:
                self._checkpointing.look_next()  # should the cell catch it
                raise
        self._telemetry.log(step, values)

    # --- checkpoints ----------------------------------------------------------------------

    def request_checkpoint(self, loops: int, tag: str | None) -> None:
        """The cell asks for a checkpoint: at the end of this step, or now outside a loop."""
        if self._in_loop:
            self._checkpointing.request(tag)
        else:
            if not self._restoring.pending:
                self._begin(loops)
            self._checkpointing.save_as(self._moment(_position(loops, Place())), tag)

    def finish(self, loops: int) -> None:
        """The cell has ended: keep its final state, and wait until the journal has it."""
        self._check()
        self._restoring.finish(loops)
        begun = self.step > self._restoring.run_began_at and not self._restoring.pending
        if self._checkpointing.expected and self._tracker.names and begun:
            # In the last loop, not after it: with more epochs, a resumed run trains on.
            last = self._moment(self._position)
            if not self._checkpointing.save_last(last, lambda: self._leaving.asked):
                raise Left
        self._checkpointing.settle()

    def _look(self) -> None:
        """Something may be due at this step."""
        self._check()
        self._checkpointing.time_step()
        if self._leaving.asked:
            self._leave_if_due()
        self._checkpointing.look(self.step, self._moment)

    def _moment(self, position: dict[str, int] | None = None) -> Moment:
        """Return where the rank is: at a position, or where the last step ended."""
        position = position or _position(*(self._last or (0, Place())))
        return Moment(self.step, position, self._stepped_before | self._stepped, self._in_loop)

    # --- leaving ----------------------------------------------------------------------------

    @property
    def leaving(self) -> bool:
        """Whether the job was asked to leave, and all ranks know where."""
        return self._leaving.agreed

    @property
    def underway(self) -> int | None:
        """The step that is being made, None if no loop was begun."""
        return self.step + 1 if self._entered else None

    def _leave_if_due(self, position: dict[str, int] | None = None) -> None:
        with self.phases.within(WAIT):
            due = self._leaving.due(self.step)
        if due:
            self._checkpointing.save(self._moment(position))
            self._checkpointing.settle()
            raise Left


def _averaging(group: Group, telemetry: Telemetry) -> GradientAveraging | None:
    if group.world_size == 1:
        return None
    return GradientAveraging(group.world_size, telemetry.phases)


def _items(before: Place, after: Place) -> int:
    """Return how many samples of data lie between two places in a loop, as far as is known."""
    if after.samples is None:
        return 0
    if before.epoch != after.epoch:
        return after.samples
    return after.samples - (before.samples or 0) if before.samples or not before.batch else 0


def _position(loop: int, place: Place) -> dict[str, int]:
    """Return a place in a loop as checkpoints have it."""
    position = {"loop": loop, "epoch": place.epoch, "batch": place.batch}
    return position if place.samples is None else {**position, "samples": place.samples}
