"""Leaving together: all ranks agree on the step that they checkpoint and leave at.

Whoever is asked first (by an order or a signal) tells all others through the store. Each rank
then says beyond which step it will not go without having looked: the one under way. The
largest of these is where all leave. A rank that comes to a boundary before it knows waits
there, only for the others' threads and never for their loops: so this comes to an end
whether steps have collectives or not, and at whatever speed each rank goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from resilient_nb.rank.group import Group

_FOREVER = timedelta(days=30)
_ASKED = "leave/asked"
_OUT = "out"


class Leaving:
    """Whether and when one rank leaves.

    Args:
        group: the ranks that leave together.
        underway: gives the step under way, or None as long as no loop has begun.
        out: ends this process at once, without a checkpoint. It is called from a thread: the
            main one may be waiting for a peer that has gone already.

    Attributes:
        asked: whether the job was asked to leave; from then on every boundary must look.
    """

    def __init__(
        self, group: Group, underway: Callable[[], int | None], out: Callable[[], None]
    ) -> None:
        self.asked = False
        self._rank, self._world = group.rank, group.world_size
        self._underway = underway
        self._out = out
        self._step = 0
        self._over = False
        self._agreed = threading.Event()
        if self._world > 1:
            # Connections of their own: waiting on one blocks every other use of it.
            self._tell, self._hear = group.store.clone(), group.store.clone()  # type: ignore[attr-defined]
            threading.Thread(target=self._watch, name="resilient_nb leave", daemon=True).start()

    def ask(self) -> None:
        """Ask all ranks to leave (called from another thread than the loop's)."""
        if self.asked:
            return
        self.asked = True
        if self._world == 1:
            self._agreed.set()
            if self._underway() is None:
                self._out()
            return
        try:
            self._tell.set(_ASKED, "1")
        except dist.DistError:
            self._lost()

    @property
    def agreed(self) -> bool:
        """Whether it is known where all leave: what is done from then on can't move it."""
        return self._agreed.is_set()

    def close(self) -> None:
        """The cell has ended: that rank 0 goes, and the store with it, is no news any more."""
        self._over = True

    def due(self, step: int) -> bool:
        """Whether to leave now that `step` is done; waits until all ranks have said so."""
        self._agreed.wait()
        return step >= self._step

    def _watch(self) -> None:
        """Wait to be asked, and agree with the others."""
        try:
            self._hear.wait([_ASKED], _FOREVER)
            # First this, then the step: a boundary passed after it will have looked.
            self.asked = True
            step = self._underway()
            self._hear.set(f"leave/{self._rank}", _OUT if step is None else str(step))
            if step is None:
                self._out()
                return
            keys = [f"leave/{rank}" for rank in range(self._world)]
            self._hear.wait(keys, _FOREVER)
            said = [self._hear.get(key).decode() for key in keys]
        except dist.DistError:
            if self.asked:
                self._lost()
            return
        if _OUT in said:
            self._out()  # one has not even begun: no step that all have done
        else:
            self._step = max(int(word) for word in said)
            self._agreed.set()

    def _lost(self) -> None:
        """Rank 0 has left without us, and the store with it."""
        if not self._over:
            self._out()
