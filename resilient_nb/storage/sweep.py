"""Removing from a store what no checkpoint needs, and nothing that could be live.

A dropped checkpoint's folder may hold arrays that others refer to: those stay. So does everything
that an attempt may be writing now. What is left over was dropped, or is debris of attempts that
are over. A folder's manifest goes first, so that half a checkpoint never looks like a whole one;
whoever is killed in the middle, or does it twice, has only begun what the next sweep finishes.

It relies on what writers keep to: an attempt writes one checkpoint after the other, in the order
of its steps, and refers only to arrays that the last one that it committed (or the one that it
started from) refers to or holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from resilient_nb.core.names import split_checkpoint
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError
from resilient_nb.storage.local import PRIVATE
from resilient_nb.storage.objects import Entry, ObjectStore, join
from resilient_nb.storage.opening import open_at

#: (checkpoint id, key) of an array in the store.
Array = tuple[str, str]
#: Returns all arrays that a checkpoint needs. Raises CheckpointError or OSError.
References = Callable[[ObjectStore, str], Iterable[Array]]

#: Objects that are deleted before it is asked again whether to stop.
_BATCH = 200


@dataclass(frozen=True)
class Standing:
    """What the journal says of folders at one moment.

    Attributes:
        live: the checkpoints that there are.
        settled: by run the (epoch, step) up to which nothing is being written any more.
        failed: folders of which a writer has said that they won't become checkpoints.
    """

    live: frozenset[str]
    settled: Mapping[str, tuple[int, int]]
    failed: frozenset[str] = frozenset()

    def without(self, gone: Iterable[str]) -> Standing:
        """Return what it would say if these were dropped."""
        return replace(self, live=self.live - set(gone))

    def removable(self, folder: str) -> bool:
        """Whether a folder is no checkpoint, and nobody can be making it one."""
        found = split_checkpoint(folder)
        if found is None or folder in self.live or found[0] not in self.settled:
            return False
        run, step, epoch = found
        return (epoch, step) <= self.settled[run] or folder in self.failed


def standing(world: World, failed: Iterable[str] = ()) -> Standing:
    """Return what the journal says of folders."""
    settled = {}
    for name, run in world.runs.items():
        settled[name] = (run.epoch + 1, -1)
        job = world.active_job(name)
        if job is not None and job.state.holds_gang:
            head = run.checkpoints.get(run.head or "")
            begun = head is not None and head.epoch == job.epoch
            settled[name] = (job.epoch, head.step if head is not None and begun else -1)
    live = frozenset(identity for run in world.runs.values() for identity in run.checkpoints)
    return Standing(live, settled, frozenset(failed))


def doomed(
    entries: Iterable[Entry], standing: Standing, held: Mapping[str, Set[str]]
) -> list[Entry]:
    """Return the objects to delete, in this order.

    Args:
        entries: what is in the store, or in a part of it.
        standing: what the journal says of its folders.
        held: by folder the keys of arrays there that live checkpoints refer to.
    """
    found = []
    for entry in entries:
        folder, key = _split(entry.key)
        superfluous = standing.removable(folder) and not _below(key, held.get(folder, frozenset()))
        if superfluous or _left_behind(entry.key, standing):
            found.append(entry)
    return sorted(found, key=lambda entry: (_split(entry.key)[1] != "zarr.json", entry.key))


def references(store: ObjectStore, identity: str) -> Iterable[Array]:
    """Return all arrays that a checkpoint needs, as its manifest says."""
    return open_at(store, identity, private=False).manifest.arrays


@dataclass(frozen=True)
class Swept:
    """How much was removed, or would be; `tensors` are the bytes without documents and metadata."""

    objects: int = 0
    nbytes: int = 0
    tensors: int = 0


@dataclass
class Sweeper:
    """Sweeps one store of runs. Use it from one thread at a time."""

    store: ObjectStore
    references: References = references
    # Manifests never change: of each, the arrays that lie in other folders. Neighbours often have
    # the same: each set is kept once.
    _known: dict[str, frozenset[Array]] = field(default_factory=dict)
    _sets: dict[frozenset[Array], frozenset[Array]] = field(default_factory=dict)

    def sweep(
        self,
        standing: Standing,
        among: Collection[str] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Swept:
        """Delete what is superfluous; return what that freed.

        Args:
            standing: what the journal says; it may be old, but never ahead of the journal.
            among: runs and checkpoints to look at; None for all.
            stopped: asked now and then whether to leave the rest for another time.

        Raises:
            CheckpointError: a live checkpoint's manifest can't be read. Nothing was deleted.
            OSError: of the store, unchanged. The rest can be swept later.
        """
        entries = self._doomed(standing, among)
        done = 0
        while done < len(entries) and not stopped():
            # Manifests in batches of their own: a store may delete a batch in any order.
            batch = entries[done : done + _BATCH]
            first = _split(batch[0].key)[1] == "zarr.json"
            batch = [e for e in batch if (_split(e.key)[1] == "zarr.json") == first]
            self.store.delete(entry.key for entry in batch)
            done += len(batch)
        return _sum(entries[:done])

    def measure(self, standing: Standing, among: Collection[str]) -> Swept:
        """Return what a sweep would free. Raises as `sweep` does."""
        return _sum(self._doomed(standing, among))

    def _doomed(self, standing: Standing, among: Collection[str] | None) -> list[Entry]:
        places = {""} if among is None else {*among, *self._holders(among)}
        entries = {
            entry.key: entry
            for place in sorted(places)
            for entry in self.store.list(place)
            if standing.removable(_split(entry.key)[0]) or _left_behind(entry.key, standing)
        }
        if not entries:
            return []
        folders = {_split(key)[0] for key in entries}
        return doomed(entries.values(), standing, self._held(standing, folders))

    def _holders(self, among: Iterable[str]) -> set[str]:
        """Return the folders in which dropped checkpoints have arrays."""
        found: set[str] = set()
        for identity in filter(split_checkpoint, among):
            try:
                found.update(at for at, _ in self._foreign(identity))
            except (CheckpointError, OSError):
                continue  # never committed, or damaged: a sweep of everything finds them, too
        return found

    def _held(self, standing: Standing, folders: Set[str]) -> dict[str, set[str]]:
        """Return the keys in these folders that live checkpoints refer to."""
        held: dict[str, set[str]] = {}
        for identity in sorted(standing.live):
            try:
                foreign = self._foreign(identity)
            except (CheckpointError, OSError) as error:
                raise CheckpointError(
                    f"What checkpoint {identity} refers to isn't known, so nothing can be deleted "
                    f"({error}) Bring it back from a backup, or drop it (%resilient retain "
                    f"{identity.partition('/')[0]} --keep 1, if a later one is the head)."
                ) from error
            for at, key in foreign:
                if at in folders:
                    held.setdefault(at, set()).add(key)
        self._known = {i: arrays for i, arrays in self._known.items() if i in standing.live}
        self._sets = {arrays: arrays for arrays in self._known.values()}
        return held

    def _foreign(self, identity: str) -> frozenset[Array]:
        if identity not in self._known:
            arrays = self.references(self.store, identity)
            foreign = frozenset(array for array in arrays if array[0] != identity)
            self._known[identity] = self._sets.setdefault(foreign, foreign)
        return self._known[identity]


def _split(key: str) -> tuple[str, str]:
    """Return the folder of a checkpoint (RUN/STEP-eEPOCH) and the key in it."""
    run, _, rest = key.partition("/")
    step, _, inside = rest.partition("/")
    return join(run, step), inside


def _left_behind(key: str, standing: Standing) -> bool:
    """Whether it is what a commit that was cut off has left in a checkpoint, which is whole."""
    return key.rpartition("/")[2].startswith(PRIVATE) and _split(key)[0] in standing.live


def _below(key: str, arrays: Set[str]) -> bool:
    """Whether an object is one of an array's, or the array itself if it is a link."""
    while key and arrays:
        if key in arrays:
            return True
        key = key.rpartition("/")[0]
    return False


def _sum(entries: Collection[Entry]) -> Swept:
    tensors = sum(e.size for e in entries if e.key.rpartition("/")[2] != "zarr.json")
    return Swept(len(entries), sum(entry.size for entry in entries), tensors)
