"""Taking one rank's checkpoints: when one is due or asked for, what it has, and its commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from resilient_nb.rank.outputs import AGAIN, pause
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import CHECKPOINT, WAIT
from resilient_nb.rank.saver import Request
from resilient_nb.rank.schedule import NEVER, Schedule

_AT_ONCE = -1  # before all steps
#: What becomes of a job's last checkpoint.
_KEPT, _AGAIN, _LEFT = 0, 1, 2


@dataclass(frozen=True)
class Moment:
    """Where a rank is when a checkpoint of it may be taken.

    Attributes:
        step: the last that is complete.
        position: the place in the cell's loops, as checkpoints have it.
        stepped: ids of the optimizers that stepped in the turn that has ended, or since.
        in_loop: whether just a turn that ends in `optimizer.step()` follows, and not any code.
    """

    step: int
    position: dict[str, int]
    stepped: set[int]
    in_loop: bool


class Checkpointing:
    """Takes one rank's checkpoints.

    Args:
        parts: of the rank.
        schedule: says when one is due.
        saved_step: the step of the checkpoint that the attempt goes on from.
        note: takes lines for the user.

    Attributes:
        due: the next step at which to `look`: all that a step which needs no look compares with.
        wanted: whether the cell has asked for a checkpoint that wasn't taken yet.
    """

    def __init__(
        self,
        parts: Parts,
        schedule: Schedule,
        saved_step: int | None,
        note: Callable[[str], None],
    ) -> None:
        self.due = NEVER
        self.wanted = False
        self._tag: str | None = None
        self._tracker = parts.tracker
        self._saver = parts.saver
        self._telemetry = parts.telemetry
        self._phases = parts.telemetry.phases
        self._growth, self._rates, self._lowered = parts.growth, parts.rates, parts.lowered
        self._group, self._watch, self._around = parts.group, parts.watch, parts.around
        self._rank = parts.group.rank
        self._note = note
        self._schedule = schedule
        self._saved_step = saved_step
        self._uncommitted: int | None = None
        parts.tracker.on_wait(self._waited)

    # --- when -------------------------------------------------------------------------------

    @property
    def expected(self) -> bool:
        """Whether there is to be one of the end."""
        return self.wanted or not self._schedule.never

    def request(self, tag: str | None) -> None:
        """The cell asks for one at the end of the step under way."""
        self.wanted, self._tag = True, tag or self._tag
        self.look_next()

    def look_next(self) -> None:
        """Have the next boundary look, whatever step it is."""
        self.due = _AT_ONCE

    def plan(self, step: int) -> None:
        """Set when to look next; the ranks do so at the same steps."""
        with self._phases.within(WAIT):  # for rank 0, which says when it is time
            self._schedule.plan(step)
        self._set_due(step)

    def resume(self) -> None:
        """A loop begins: what was before belongs to no step."""
        self._schedule.resume()

    def time_step(self) -> None:
        """A step was made that may have to be timed."""
        self._schedule.time_step(self._saver.busy)

    def look(self, step: int, moment: Callable[[], Moment]) -> None:
        """Take one if it was asked for, or if it is due at this step."""
        if self.wanted:
            self.save(moment())
        if step >= self._schedule.due:
            with self._phases.within(WAIT):
                due = self._schedule.is_due(step, self._saver.busy)
            if due:
                self.save(moment())
            self.plan(step)
        else:
            self._set_due(step)
        self._telemetry.cadence = self._schedule.cadence

    def _set_due(self, step: int) -> None:
        self.due = _AT_ONCE if self.wanted else self._schedule.look(step)

    def _waited(self, seconds: float) -> None:
        """The step under way had to wait until a snapshot was copied."""
        self._schedule.waited(seconds)
        self._phases.moved(seconds, CHECKPOINT)

    # --- what -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The first optimizer has stepped: the state has the size that it will have."""
        if not self._schedule.never:
            self._tracker.prepare()

    def save_as(self, moment: Moment, tag: str | None) -> None:
        """Take one now, and tag it."""
        self._tag = tag
        self.save(moment)

    def save(self, moment: Moment, last: bool = False) -> None:
        """Take one now, with the tag that the cell has asked for; it is written beside training.

        Raises:
            Diverged: the run has: its state is none to go on from.
        """
        with self._phases.within(CHECKPOINT):
            if self._watch is not None:
                self._watch.check()
            tag, self._tag, self.wanted = self._tag, None, False
            if self._saved_step != moment.step:
                self._save(moment, tag, last)
            elif tag is not None and self._rank == 0:
                self._saver.tag_last(moment.step, tag)

    def _save(self, moment: Moment, tag: str | None, last: bool) -> None:
        self._telemetry.state = "checkpointing"
        began = self._schedule.clock()
        self._saver.wait()
        if self._rates is not None:
            self._rates.settle()
        request = Request(
            moment.step,
            moment.position,
            self._tracker.snapshot(not moment.in_loop, moment.stepped),
            self._telemetry.latest(),
            tag,
            self._growth.record() if self._growth is not None else None,
            self._lowered.record(),
            self._around.course,
            last,
        )
        self._saver.write(request)
        self._saved_step = self._uncommitted = moment.step
        self._telemetry.state = "running"
        self._schedule.saved(moment.step, began)
        self._set_due(moment.step)

    def save_last(self, moment: Moment, leaving: Callable[[], bool]) -> bool:
        """Take the last one: again and again if the disk can't, as all of the work is done.

        Returns:
            False if the job was asked to leave before it could be kept.
        """
        self.save(moment, last=True)
        told = False
        while True:
            self.settle()
            what = torch.tensor([_KEPT])
            if self._rank == 0 and self._saver.passes:
                if not told:
                    told = True
                    self._note(
                        f"The last checkpoint can't be kept. {self._saver.failed}. It is tried "
                        f"again every {AGAIN:g} s: free some space, or mend the store."
                    )
                with self._phases.within(CHECKPOINT):
                    what[0] = _AGAIN if pause(leaving) else _LEFT
            self._group.broadcast([what])
            if what != _AGAIN:
                return bool(what == _KEPT)
            with self._phases.within(CHECKPOINT):
                self._save(moment, None, last=True)

    def settle(self) -> None:
        """Wait until what was saved is written and, on rank 0, committed."""
        with self._phases.within(CHECKPOINT):
            self._saver.wait()
            if self._uncommitted is not None and self._rank == 0:
                self._saver.wait_for_commit(self._uncommitted)
