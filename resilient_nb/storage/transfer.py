"""One pass over what a journal speaks of: checkpoints, captured and returned values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from resilient_nb.config import Settings
from resilient_nb.core.places import Place, is_url, sub_folder
from resilient_nb.core.transfers import TransferReport
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError
from resilient_nb.storage import snapshots
from resilient_nb.storage.copying import Copied, Copier
from resilient_nb.storage.fallback import FallbackStore
from resilient_nb.storage.files import Mismatch, copy_file, describe
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.pruning import prune
from resilient_nb.storage.snapshots import File
from resilient_nb.storage.stores import blob_key, open_store, out_key

Say = Callable[[str], None]

#: Seconds between two words of progress.
_SAY_EVERY = 2.0


class Transfer:
    """Copies between a cluster's store and a backup, in either direction.

    Attributes:
        files: captured and returned values that the target has now, by key.
        damaged: what could not be copied, and why.
    """

    def __init__(
        self, settings: Settings, place: Place, say: Say, dry_run: bool, began: float
    ) -> None:
        self._settings = settings
        self._place = place
        self._say = say
        self._dry_run = dry_run
        self._began = self._said = began
        self._copied = Copied()
        self._there = self._checkpoints = self._freed = 0
        self.files: dict[str, File] = {}
        self.damaged: list[str] = []

    def backup(self, world: World, known: Mapping[str, File]) -> None:
        """Copy to the backup what it lacks.

        Args:
            world: what the journal speaks of.
            known: files that are in the backup, whole, as its newest index says.
        """
        self.files, self.damaged = {}, []
        source, target = _with_home(self._settings), open_store(self._place)
        self._copy_runs(world, self._settings.runs, sub_folder(self._place, "runs"), False)
        there = _sizes(target)
        for key, wanted in _files(world):
            if key in known and there.get(key) == known[key].size:
                self.files[key] = known[key]
            else:
                self._copy_file(source, target, key, wanted, key in there)

    def restore(self, world: World, known: Mapping[str, File] | None) -> None:
        """Copy to the store what it lacks.

        Args:
            world: what the journal speaks of.
            known: files that are in the backup; None if it doesn't say.
        """
        source, target = open_store(self._place), open_store(self._settings.store)
        self._copy_runs(world, sub_folder(self._place, "runs"), self._settings.runs, True)
        there = _sizes(target)
        if known is None:
            has = _sizes(source)
            files = {key: wanted for key, wanted in _files(world) if key in has}
        else:
            files = {key: file.sha256 for key, file in known.items()}
        for key, wanted in files.items():
            self._copy_file(source, target, key, wanted, key in there)

    def prune(self, world: World) -> None:
        """Remove from a complete backup what the journal doesn't speak of any more."""
        target = open_store(self._place)
        snapshots.drop(target, 1)  # older ones speak of what goes now
        freed = prune(open_store(sub_folder(self._place, "runs")), world).nbytes
        there = _sizes(target)
        captured = {job.spec.captured for job in world.jobs.values()}
        known = {blob_key(digest) for digest in captured if digest}
        gone = known & there.keys() - self.files.keys()
        target.delete(gone)
        self._freed = freed + sum(there[key] for key in gone)

    def report(self, action: str, cluster_id: str, journal: str) -> TransferReport:
        """Return how it went."""
        return TransferReport(
            action=action,
            place=self._place,
            store=self._settings.store,
            cluster_id=cluster_id,
            dry_run=self._dry_run,
            checkpoints=self._checkpoints,
            there=self._there,
            objects=self._copied.objects,
            nbytes=self._copied.nbytes,
            journal=journal,
            damaged=tuple(self.damaged),
            freed=self._freed,
            seconds=round(time.monotonic() - self._began, 3),
        )

    # --- checkpoints ------------------------------------------------------------------------

    def _copy_runs(self, world: World, source: Place, target: Place, thorough: bool) -> None:
        copier = Copier(
            open_store(source), open_store(target), thorough=thorough, dry_run=self._dry_run
        )
        identities = [identity for run in world.runs.values() for identity in run.checkpoints]
        self._checkpoints, self._there = len(identities), 0
        for number, identity in enumerate(identities, 1):
            self._tell(f"checkpoint {number} of {len(identities)}")
            try:
                copied = copier.copy(identity)
            except CheckpointError as error:
                self.damaged.append(str(error))
                continue
            self._copied += copied
            self._there += not copied.objects

    # --- files ------------------------------------------------------------------------------

    def _copy_file(
        self, source: ObjectStore, target: ObjectStore, key: str, wanted: str, there: bool
    ) -> None:
        """Copy a file unless the target has it already, which is found out by reading both."""
        try:
            if there:
                found = describe(target, key)
                if found.sha256 == (wanted or describe(source, key).sha256):
                    self.files[key] = found
                    return
            if self._dry_run:
                self._copied += Copied(1, source.size(key))
                return
            self._tell(key)
            self.files[key] = file = copy_file(source, target, key, wanted)
            self._copied += Copied(1, file.size)
        except FileNotFoundError:
            if wanted:
                self.damaged.append(f"{key} is missing in {source.url}.")
        except Mismatch as error:
            self.damaged.append(f"{source.url} is damaged: {error}.")

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY:
            self._said = now
            self._say(f"{what}; {self._copied.nbytes / 1e6:,.1f} MB copied so far ...")


def _files(world: World) -> Iterator[tuple[str, str]]:
    """Give the keys of captured and returned values, and the sha256 of each, if that is known.

    Captured values are those that a job may yet begin with; returned ones may have been removed.
    """
    jobs = {run.jobs[-1] for run in world.runs.values() if run.jobs} | set(world.open)
    blobs = {world.jobs[job].spec.captured for job in jobs}
    for digest in sorted(filter(None, blobs)):
        yield blob_key(digest), digest
    for job in world.jobs.values():
        if job.returned:
            yield out_key(job.run, job.number), ""


def _sizes(store: ObjectStore) -> dict[str, int]:
    return {e.key: e.size for folder in ("blobs", "out") for e in store.list(folder)}


def _with_home(settings: Settings) -> ObjectStore:
    """Return the store; captured values may still be on their way there, from the home folder."""
    store = open_store(settings.store)
    return FallbackStore(store, [LocalStore(settings.home)]) if is_url(settings.store) else store
