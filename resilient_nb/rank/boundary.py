"""The step boundary: counting, telemetry, checkpoints, restoring, leaving.

`step_done` is on the path of every step, so what is rare is decided by comparing one number:
`_due` is the step at which a checkpoint may be due, or the next one if steps are to be timed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from resilient_nb.errors import Diverged, InvalidRequest
from resilient_nb.rank.batches import Place
from resilient_nb.rank.divergence import LossWatch
from resilient_nb.rank.gradients import GradientAveraging, averages_itself
from resilient_nb.rank.group import Group
from resilient_nb.rank.imported import Imported
from resilient_nb.rank.leaving import Leaving
from resilient_nb.rank.numerics import numerics
from resilient_nb.rank.origin import Origin
from resilient_nb.rank.phases import CHECKPOINT, COMPUTE, WAIT
from resilient_nb.rank.saver import Request, Saver
from resilient_nb.rank.scaling import Growth, Lowered, ScaledRates
from resilient_nb.rank.schedule import NEVER, Schedule
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.telemetry import Telemetry


class Left(BaseException):
    """Unwinds the cell when the job was asked to leave; never seen by the user's `except`."""


class _Note(Protocol):
    def __call__(self, text: str) -> None: ...


@dataclass(frozen=True)
class Parts:
    """What a boundary works with."""

    group: Group
    tracker: Tracker
    saver: Saver
    telemetry: Telemetry
    leaving: Leaving
    growth: Growth | None
    rates: ScaledRates | None = None
    lowered: Lowered = field(default_factory=Lowered)
    watch: LossWatch | None = None
    skip: frozenset[int] = frozenset()  # steps that are counted, but not made


class Boundary:
    """Where one rank is in its job, and what happens between two steps."""

    def __init__(
        self, parts: Parts, schedule: Schedule, stored: Stored | None, note: _Note
    ) -> None:
        self.group = group = parts.group
        self.averaging = _averaging(group, parts.telemetry)
        self.step = stored.step if stored else 0
        self._tracker = parts.tracker
        self._saver = parts.saver
        self._telemetry = parts.telemetry
        self.phases = parts.telemetry.phases
        self._leaving = parts.leaving
        self.growth = parts.growth
        self.skip = parts.skip
        self._rates, self._lowered, self._watch = parts.rates, parts.lowered, parts.watch
        self._schedule = schedule
        self._due = NEVER
        self._note = note
        self._first = 0  # the step before the first
        self._imported: Imported | None = None
        if stored is not None and stored.imported:
            self._first = stored.step
            self._imported = Imported(stored, parts.tracker, note)
            stored = None  # but for what objects get from it, the cell begins
        self._stored = stored  # until the place that it was taken at is reached
        self._place: dict[str, int] = stored.position if stored else {}
        self._begun = self._entered = self._in_loop = False
        self._saved_step = self.step if stored else -1
        self._uncommitted: int | None = None
        self._requested: str | None = None
        self._wanted = False
        # Where the last step ended; `_position` is set where a loop was left by `break`.
        self._last: tuple[int, Place] | None = None
        self._before = Place()  # where the step under way began
        self._position: dict[str, int] | None = None
        self._telemetry.step = self.step
        # Optimizers that have stepped since the last boundary, and in the turn before it.
        self._stepped: set[int] = set()
        self._stepped_before: set[int] = set()
        self._prepared = False
        register_optimizer_step_post_hook(self._note_update)
        self._tracker.on_wait(self._waited)
        if stored is not None and stored.numerics != numerics():
            note(
                "Versions, threads or processor differ from those of the checkpoint: the run goes "
                "on statistically equivalent, but not bit for bit."
            )

    @property
    def origin(self) -> Origin:
        """What checkpoints say of where they come from."""
        return self._saver.origin

    # --- tracking and restoring -----------------------------------------------------------

    def track(self, objects: dict[str, Any]) -> None:
        """Track objects and restore them, or give all ranks rank 0's values."""
        for name, value in objects.items():
            self._tracker.add(name, value)
        if self._stored is not None:
            self._tracker.restore(self._stored, list(objects))
        elif self._imported is not None:
            self._imported.give(objects)
        self._attach(fresh=self._stored is None)

    def _attach(self, fresh: bool) -> None:
        if self.averaging is None:
            return
        wrapped = self._tracker.wrapped()
        for module in self._tracker.modules():
            if averages_itself(module) or any(id(p) in wrapped for p in module.parameters()):
                self.averaging.detach(module)
                continue
            if fresh and module not in self.averaging:
                self.group.broadcast([*module.parameters(), *module.buffers()])
            self.averaging.attach(module)

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
        if self._leaving.asked and self._stored is None:
            self._leave_if_due(_position(loop, Place()))
        if self._wanted:
            self._save(_position(loop, Place()))
        start = Place()
        if self._stored is not None:
            place = self._place
            if place["loop"] > loop:
                if place["loop"] == loop + 1 and not (place["epoch"] or place["batch"]):
                    # Taken between two loops, or after the last: what follows needs the state.
                    self._restore_all()
                return None
            self._restore_all()
            self._attach(fresh=False)
            start = Place(place["epoch"], place["batch"], place.get("samples"))
            if self.group.rank == 0 and (account := self._stored.account()):
                self._note(account)
            self._stored = None
        self._in_loop, self._position = True, None
        self._telemetry.looping = True
        self._stepped = set()
        if self.growth is not None and self.group.rank == 0 and (news := self.growth.news()):
            self._note(news)
        self._schedule.resume()
        self._before = start
        self.phases.begin()
        return start

    def _begin(self, loop: int) -> None:
        """Do once what comes before the first loop or checkpoint."""
        if self._begun:
            return
        self._begun = True
        self._tracker.find()
        if self._imported is not None:
            self._imported.give(self._tracker.names)
            if self.group.rank == 0:
                self._imported.tell()
        if self._stored is None:
            self._attach(fresh=True)
            _diverge(self.group.rank)
        elif self._place["loop"] > loop:
            self._tracker.restore(self._stored)  # for what the cell does between loops
        self._tracker.mark()
        if self._stored is not None:
            self._tracker.fill(self._stored)
        self._plan()

    def _restore_all(self) -> None:
        with self.phases.within(CHECKPOINT):
            self._restore()

    def _restore(self) -> None:
        assert self._stored is not None
        self._tracker.restore(self._stored)
        self._tracker.restore_own(self._stored)
        if not self._stored.knows_rank:
            _diverge(self.group.rank)  # or it would draw what rank 0 draws

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
            if not self._schedule.never:
                self._tracker.prepare()

    # --- every step -----------------------------------------------------------------------

    def _waited(self, seconds: float) -> None:
        """The step under way had to wait until a snapshot was copied."""
        self._schedule.waited(seconds)
        self.phases.moved(seconds, CHECKPOINT)

    def step_done(self, loop: int, after: Place) -> None:
        """One step is complete: count it, and look whether anything is due."""
        self.step = step = self.step + 1
        self._end_turn()
        self._telemetry.step = step
        self._last = (loop, after)
        items = _items(self._before, after)
        self._before = after
        try:
            if step >= self._due or self._wanted or self._leaving.asked:
                self._look(self._here())
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
        step = self.step + 1 if self._in_loop else self.step
        if self._watch is not None:
            try:
                self._watch.look(step, values)
            except Diverged:
                self._due = -1  # the next boundary looks, should the cell catch it
                raise
        self._telemetry.log(step, values)

    # --- checkpoints ----------------------------------------------------------------------

    def request_checkpoint(self, loops: int, tag: str | None) -> None:
        """The cell asks for a checkpoint: at the end of this step, or now outside a loop."""
        if self._in_loop:
            self._wanted, self._requested = True, tag or self._requested
        else:
            if self._stored is None:
                self._begin(loops)
            self._requested = tag
            self._save(_position(loops, Place()))

    def finish(self, loops: int) -> None:
        """The cell has ended: keep its final state, and wait until the journal has it."""
        self._check()
        if self._stored is not None and self._place["loop"] > loops:
            self._note("The checkpoint's place in the cell's loops was not reached.")
        wanted = self._wanted or not self._schedule.never
        begun = self.step > self._first
        if wanted and self._tracker.names and begun and self._stored is None:
            # In the last loop, not after it: with more epochs, a resumed run trains on.
            self._save(self._position or self._here())
        self._settle()

    def _here(self) -> dict[str, int]:
        return _position(*(self._last or (0, Place())))

    def _settle(self) -> None:
        """Wait until what was saved is written and, on rank 0, committed."""
        with self.phases.within(CHECKPOINT):
            self._saver.wait()
            if self._uncommitted is not None and self.group.rank == 0:
                self._saver.wait_for_commit(self._uncommitted)

    def _save(self, position: dict[str, int]) -> None:
        with self.phases.within(CHECKPOINT):
            self._take(position)

    def _take(self, position: dict[str, int]) -> None:
        self._check()
        tag, self._requested, self._wanted = self._requested, None, False
        if self._saved_step == self.step:
            if tag is not None and self.group.rank == 0:
                self._saver.tag_last(self.step, tag)
            return
        self._telemetry.state = "checkpointing"
        began = self._schedule.clock()
        self._saver.wait()
        if self._rates is not None:
            self._rates.settle()
        request = Request(
            self.step,
            position,
            # Outside a loop any code may follow, not just a turn that ends in optimizer.step().
            self._tracker.snapshot(not self._in_loop, self._stepped_before | self._stepped),
            self._telemetry.latest(),
            tag,
            self.growth.record() if self.growth is not None else None,
            self._lowered.record(),
        )
        self._saver.write(request)
        self._saved_step = self._uncommitted = self.step
        self._telemetry.state = "running"
        self._schedule.saved(self.step, began)
        self._due = self._schedule.look(self.step)

    def _look(self, position: dict[str, int]) -> None:
        """Something may be due at this step."""
        self._check()
        self._schedule.time_step(self._saver.busy)
        if self._leaving.asked:
            self._leave_if_due(position)
        if self._wanted:
            self._save(position)
        if self.step >= self._schedule.due:
            with self.phases.within(WAIT):
                due = self._schedule.is_due(self.step, self._saver.busy)
            if due:
                self._save(position)
            self._plan()
        else:
            self._due = self._schedule.look(self.step)
        self._telemetry.cadence = self._schedule.cadence

    def _plan(self) -> None:
        with self.phases.within(WAIT):  # for rank 0, which says when it is time
            self._schedule.plan(self.step)
        self._due = self._schedule.look(self.step)

    # --- leaving ----------------------------------------------------------------------------

    @property
    def leaving(self) -> bool:
        """Whether the job was asked to leave, and all ranks know where."""
        return self._leaving.agreed

    @property
    def underway(self) -> int | None:
        """The step that is being made, None if no loop was begun."""
        return self.step + 1 if self._entered else None

    def _leave_if_due(self, position: dict[str, int]) -> None:
        with self.phases.within(WAIT):
            due = self._leaving.due(self.step)
        if due:
            self._save(position)
            self._settle()
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


def _diverge(rank: int) -> None:
    """Give each rank random numbers of its own, say for dropout.

    Up to the first step all ranks draw alike, so that models begin equal; rank 0 goes on with
    the cell's own series, so that one worker computes what a bare script would.
    """
    if rank:
        torch.manual_seed(int(torch.randint(2**62, (1,))) + rank)
        random.seed(random.getrandbits(62) + rank)
        np.random.seed((int(np.random.randint(2**31)) + rank) % 2**32)
