"""Sweeping the store beside the scheduler's loop: at most one sweep at a time, in a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import cached_property

from resilient_nb.control.engine import Engine
from resilient_nb.core.places import sub_folder
from resilient_nb.core.replicas import replicas_of
from resilient_nb.core.views import RetentionReport
from resilient_nb.errors import CheckpointError, ResilientError
from resilient_nb.storage.claim import owner
from resilient_nb.storage.mirrored import open_anywhere
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.sweep import Array, Standing, Sweeper, Swept, references, standing

logger = logging.getLogger(__name__)

#: A scheduler that begins has more urgent things to do, and what failed is tried again later.
_FIRST, _AGAIN = 5.0, 60.0


class Sweeping:
    """Carries out the errands of the engine's `keeping`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._not_before = engine.now() + _FIRST
        self._closed = threading.Event()

    async def work(self) -> None:
        """Sweep what is to be swept, if anything is; call it again and again."""
        # After a loss of memory it isn't known at once who is writing what.
        not_before = max(self._not_before, self._engine.closing_until)
        if self._engine.now() < not_before or self._lock.locked():
            return
        async with self._lock:
            errand = self._engine.keeping.take()
            if errand is None:
                return
            try:
                swept = await asyncio.to_thread(self._sweep, self._standing(), errand.among)
            except BaseException as error:
                self._engine.keeping.give_back(errand)
                self._not_before = self._engine.now() + _AGAIN
                if not isinstance(error, (ResilientError, OSError)):
                    raise
                self._failed(error)
            else:
                self._engine.set_alert("sweep", None)
                self._engine.keeping.swept(errand, swept.nbytes)

    def _failed(self, error: Exception) -> None:
        logger.warning("resilient_nb: a sweep of the store failed: %s", error)
        text = f"The space of dropped checkpoints can't be freed: {error} It is tried again."
        self._engine.set_alert("sweep", text)

    async def retain(self, decide: Callable[[], RetentionReport]) -> RetentionReport:
        """Have checkpoints dropped (or not, in a dry run) and say how many bytes that frees.

        Only those of tensors are counted, as they are where a run's checkpoints are listed.
        """
        async with self._lock:  # else a sweep could free it before it is measured
            report = decide()
            gone = [row.id for row in report.checkpoints if not row.kept]
            facts = self._standing().without(gone)
            try:
                freed = await asyncio.to_thread(self._measure, facts, gone)
            except (ResilientError, OSError) as error:
                return replace(report, note=str(error))
            return replace(report, freed=freed.tensors)

    def close(self) -> None:
        """Have a sweep that is under way end soon; the next scheduler goes on."""
        self._closed.set()

    def _standing(self) -> Standing:
        found = standing(self._engine.world, self._engine.keeping.failed)
        busy = self._engine.strays.runs
        settled = {run: at for run, at in found.settled.items() if run not in busy}
        return replace(found, settled=settled)

    # --- in the thread ------------------------------------------------------------------

    def _sweep(self, facts: Standing, among: Collection[str] | None) -> Swept:
        if not self._is_ours():
            return Swept()
        return self._sweeper.sweep(facts, among, self._closed.is_set)

    def _measure(self, facts: Standing, gone: Collection[str]) -> Swept:
        return self._sweeper.measure(facts, gone) if self._is_ours() else Swept()

    def _is_ours(self) -> bool:
        """What another journal knows, or an older one, must not look like debris.

        A store that nobody owns has nothing in it: the first job that is submitted claims it.
        """
        mine = self._engine.world.cluster_id
        return bool(mine) and owner(open_store(self._engine.settings.store)) == mine

    @cached_property
    def _sweeper(self) -> Sweeper:
        return Sweeper(open_store(self._engine.settings.runs), self._references)

    def _references(self, store: ObjectStore, identity: str) -> Iterable[Array]:
        """Return what a checkpoint needs; if its manifest is damaged, as a second copy says."""
        try:
            return references(store, identity)
        except (CheckpointError, OSError):
            world, always = self._engine.world, self._engine.settings.replicas
            places = replicas_of(world, identity.partition("/")[0], always)
            if not places:
                raise
            runs = [sub_folder(place, "runs") for place in places]
            return open_anywhere(runs, identity, private=False).manifest.arrays
