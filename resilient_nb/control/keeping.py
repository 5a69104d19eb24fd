"""Dropping checkpoints as each run's rule says, and making room when the store is full.

What is dropped is in the journal first; what only the dropped ones held is swept from the store
later, off the scheduler's loop (`sweeping`), which takes its errands from here.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resilient_nb.control.preflight import lacks_room
from resilient_nb.core import events as ev
from resilient_nb.core.chaos import is_drill
from resilient_nb.core.model import Injection, Job, Keep, Thinning
from resilient_nb.core.names import checkpoint_id
from resilient_nb.core.retention import Fate, fates, for_room, rule_of, superfluous, undecided
from resilient_nb.core.views import RetentionReport, RetentionRow
from resilient_nb.wire.orders import CheckpointFailed

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: The store has no room, or its user no quota, for more.
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Errand:
    """What is to be swept: runs and checkpoints, or everything (None); and which jobs wait."""

    among: frozenset[str] | None
    jobs: tuple[str, ...] = ()


class Keeping:
    """Which checkpoints go, and when; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failed: set[str] = set()  # folders of running attempts that won't be checkpoints
        self._among: set[str] = set()
        self._everything = True  # what was left by those before us
        self._jobs: dict[str, None] = {}
        self._full: set[str] = set()  # checkpoints and attempts for which room was made
        self._undecided: set[str] = set()  # jobs that were told that their rule drops nothing

    # --- what happens to checkpoints --------------------------------------------------------

    def committed(self, name: str) -> None:
        """A run has a new checkpoint: an older one may be superfluous now."""
        keep = rule_of(self._engine.world, name)
        if keep.thinning is Thinning.ALWAYS:
            self._drop(name, keep, str(keep))
            self._tell(name, keep)

    def _tell(self, name: str, keep: Keep) -> None:
        """Tell a run's job, once, that its rule drops nothing since it can't tell the best."""
        run = self._engine.world.runs[name]
        job = self._engine.world.active_job(name)
        why = undecided(self._engine.world, name, keep) if len(run.checkpoints) > 1 else ""
        if job is not None and why and job.id not in self._undecided:
            self._undecided.add(job.id)
            self._engine.live.note(job.id, why)

    def checkpoint_failed(self, job: Job, fact: CheckpointFailed) -> None:
        """A rank couldn't write one: tell the user, and make room if that was the reason."""
        identity = checkpoint_id(job.run, fact.step, job.epoch)
        if identity in self._engine.world.runs[job.run].checkpoints:
            return
        self._engine.live.note(job.id, fact.text)
        if not fact.again:
            self.failed.add(identity)
            self._among.add(identity)
        if is_drill(job, Injection.FILL_DISK, self._engine.now()):
            return  # no checkpoint is dropped for a disk that only seems to be full
        if fact.errno in _FULL and identity not in self._full:
            self._make_room(job)
            self._full.add(identity)  # once it is made: the journal may be full, too

    def lacks_room(self, job: Job) -> None:
        """A job can't start, since the store has too little room for its checkpoints."""
        attempt = f"{job.id}/{job.attempts}"
        if attempt not in self._full:
            self._make_room(job)
            self._full.add(attempt)

    def attempt_ended(self, job: Job, in_order: bool) -> None:
        """An attempt is over; one that broke off may have left half a checkpoint."""
        mine = (f"{job.run}/", f"{job.id}/")
        self.failed = {name for name in self.failed if not name.startswith(mine)}
        self._full = {name for name in self._full if not name.startswith(mine)}
        if not in_order:
            self._among.add(job.run)

    def retain(self, name: str, keep: Keep | None, dry_run: bool) -> RetentionReport:
        """Apply a rule to a run now (its own if None), or say what would become of it.

        A run's own rule that waits for a full store waits here, too.
        """
        world, asked = self._engine.world, keep is not None
        keep = rule_of(world, name) if keep is None else keep
        rows = tuple(map(_row, fates(world, name, keep)))
        hint = undecided(world, name, keep)
        report = RetentionReport(name, str(keep), dry_run, rows, hint=hint)
        waits = keep.thinning is Thinning.FULL and not asked
        if waits and not lacks_room(world, name, self._engine.hosts.store_free()):
            return _spared(report)
        if not dry_run:
            self._drop(name, keep, f"retain {keep}")
        return report

    def _make_room(self, job: Job) -> None:
        """Thin a job's run and sweep everything; the job is told what that freed."""
        keep, run = job.spec.keep, job.run
        gone: tuple[str, ...] = ()
        if keep.thinning is not Thinning.NEVER:
            rule = for_room(self._engine.world, run, keep)
            gone = self._drop(run, rule, f"{keep}, since the store is full")
        self._everything = True
        self._jobs[job.id] = None
        if gone:
            text = f"The store is full: dropped {_count(gone)} of {run} (rule {keep})."
        else:
            text = (
                f"The store is full, and the rule {keep} leaves no checkpoint of {run} to drop. "
                f"Free some space, or keep fewer (%resilient retain {run} --keep 1)."
            )
        self._engine.live.note(job.id, text)

    def _drop(self, name: str, keep: Keep, reason: str) -> tuple[str, ...]:
        engine = self._engine
        gone = superfluous(engine.world, name, keep)
        if gone:
            checkpoints = engine.world.runs[name].checkpoints
            jobs = dict.fromkeys(checkpoints[identity].job for identity in gone)
            engine.record(ev.CheckpointsDropped(engine.now(), name, gone, reason))
            self._among.update(gone)
            for job in jobs:
                engine.changed(job)
        return gone

    # --- errands ----------------------------------------------------------------------------

    def take(self) -> Errand | None:
        """Return what is to be swept now, and forget it."""
        if not self._everything and not self._among:
            return None
        errand = Errand(None if self._everything else frozenset(self._among), tuple(self._jobs))
        self._everything, self._among, self._jobs = False, set(), {}
        return errand

    def give_back(self, errand: Errand) -> None:
        """It came to nothing, and a part may be done: look everywhere the next time."""
        self._everything = True
        self._jobs = {**dict.fromkeys(errand.jobs), **self._jobs}

    def swept(self, errand: Errand, nbytes: int) -> None:
        """Tell the jobs that needed room what was freed."""
        for name in errand.jobs:
            if nbytes and name in self._engine.world.open:
                self._engine.live.note(name, f"Freed {nbytes / (1 << 20):,.1f} MiB of the store.")
                self._engine.changed(name)


def _spared(report: RetentionReport) -> RetentionReport:
    """Return what a rule that waits for a full store makes of a run while there is room."""
    if all(row.kept for row in report.checkpoints):
        return report
    rows = tuple(
        row if row.kept else replace(row, kept=True, reasons=("the store has room",))
        for row in report.checkpoints
    )
    hint = (
        f"The rule {report.rule} drops checkpoints when the store is full, and it has room. Drop "
        f"some anyway: %resilient retain {report.run} --keep 3 (--keep {report.rule}: those that "
        "would go if it were full)."
    )
    return replace(report, checkpoints=rows, hint=hint)


def _row(fate: Fate) -> RetentionRow:
    c = fate.checkpoint
    ref = f"{c.run}@{c.step}"
    return RetentionRow(ref, c.id, c.step, c.at, c.nbytes, bool(fate.reasons), fate.reasons)


def _count(gone: Collection[str]) -> str:
    return "1 checkpoint" if len(gone) == 1 else f"{len(gone)} checkpoints"
