"""Second copies of checkpoints: a thread for each place copies what it lacks, after each commit.

The newest come first. What the journal has dropped is removed there, too, unless the place is also
a backup. A place that can't be reached is tried again, and says so where the queue is shown.
"""

from __future__ import annotations

import logging
import os
import threading

from resilient_nb.config import Settings
from resilient_nb.core.places import Place, Places, overlap, sub_folder
from resilient_nb.core.replicas import copies_by_place
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError, InvalidRequest, ResilientError
from resilient_nb.storage import snapshots
from resilient_nb.storage.claim import claim
from resilient_nb.storage.copying import Copier, Stopped
from resilient_nb.storage.files import Mismatch, copy_file
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.pruning import prune
from resilient_nb.storage.stores import blob_key, open_store
from resilient_nb.storage.sweep import references

logger = logging.getLogger(__name__)

#: Behind everything else when cores are scarce.
_NICE = 10
#: What failed is tried again after so many seconds, at first and later.
_SOON, _AGAIN = 2.0, 30.0


class Replication:
    """The copies of one cluster. `look` at each new world; ask for `state` and `alerts`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._replicas: dict[Place, Replica] = {}
        self._seen: object = None

    def look(self, world: World) -> None:
        """Have copied what this world has and a replica lacks. Returns at once."""
        if world.runs is self._seen:
            return
        self._seen = world.runs
        for place, identities in copies_by_place(world, self._settings.replicas).items():
            if place not in self._replicas:
                self._replicas[place] = replica = Replica(self._settings, place)
                replica.start()
            self._replicas[place].want(world, identities)

    def state(self, places: Places, identity: str) -> str:
        """Return whether a checkpoint is at all places: yes, lagging or failing; "" if at none."""
        if not places:
            return ""
        replicas = [self._replicas.get(place) for place in places]
        missing = [r for r in replicas if r is None or not r.has(identity)]
        if not missing:
            return "yes"
        return "failing" if any(r is not None and r.alert for r in missing) else "lagging"

    def alerts(self) -> dict[str, str | None]:
        """Return by place what is the matter with it, None if nothing is."""
        return {place: replica.alert or None for place, replica in self._replicas.items()}

    def close(self) -> None:
        """Have all threads end soon; the next control plane goes on."""
        for replica in self._replicas.values():
            replica.close()


class Replica:
    """One place, and the thread that copies to it."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self.place = place
        self.alert = ""
        self._settings = settings
        self._wanted: tuple[World, list[str]] | None = None
        self._news = threading.Event()
        self._closed = threading.Event()
        self._copier: Copier | None = None
        self._blobs: set[str] = set()
        self._problems: list[str] = []
        self._thread = threading.Thread(
            target=self._run, name=f"resilient_nb replica {place}", daemon=True
        )

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def want(self, world: World, identities: list[str]) -> None:
        """Say what is to be there, the most urgent first."""
        known = self._wanted
        if known is None or known[1] != identities or known[0].cluster_id != world.cluster_id:
            self._wanted = (world, identities)
            self._news.set()

    def has(self, identity: str) -> bool:
        """Return whether a checkpoint is there."""
        copier = self._copier
        return copier is not None and copier.has(identity)

    def close(self) -> None:
        """End soon."""
        self._closed.set()
        self._news.set()

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        again: float | None = None
        while not self._closed.is_set():
            self._news.wait(again)
            self._news.clear()
            wanted = self._wanted
            if wanted is None or self._closed.is_set():
                continue
            try:
                problems = self.bring_up(*wanted)
            except Stopped:
                return
            except (OSError, ResilientError) as error:
                problems, self._copier = [str(error)], None
            except Exception as error:
                logger.exception("resilient_nb: copying to %s failed", self.place)
                problems, self._copier = [repr(error)], None
            # Dropped a moment ago, perhaps, or a short absence: told when it is seen again.
            seen, self._problems = self._problems, problems
            lasting = [text for text in problems if text in seen]
            self.alert = self._told(lasting)
            again = None if not problems else _AGAIN if lasting == problems else _SOON

    def _told(self, problems: list[str]) -> str:
        if not problems:
            return ""
        more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
        return (
            f"Second copies to {self.place} fail: {problems[0].rstrip('.')}{more}. They are tried "
            f"again every {_AGAIN:.0f} s."
        )

    def bring_up(self, world: World, identities: list[str]) -> list[str]:
        """Copy what is missing; return what was wrong with single checkpoints.

        Raises:
            OSError: the place can't be written.
            ResilientError: it is another cluster's.
            Stopped: we are to end.
        """
        root = open_store(self.place)
        if overlap(self.place, self._settings.store):
            raise InvalidRequest("That is the store itself, or a part of it: use another place.")
        if self._copier is None:
            claim(root, world.cluster_id)
            self._copier = Copier(
                open_store(self._settings.runs),
                open_store(sub_folder(self.place, "runs")),
                self._closed.is_set,
            )
        problems = self._copy_blobs(root, world, identities)
        for identity in identities:
            if self._closed.is_set():
                raise Stopped
            if self._copier.has(identity):
                continue
            try:
                self._copier.copy(identity)
            except CheckpointError as error:
                if self._is_wanted(identity):
                    problems.append(str(error))
            if self._wanted is not None and self._wanted[1] is not identities:
                break  # there is something newer, which comes first
        self._remove_dropped(root, world)
        return problems

    def _is_wanted(self, identity: str) -> bool:
        """Whether it hasn't been dropped meanwhile."""
        return self._wanted is not None and identity in self._wanted[1]

    def _copy_blobs(self, root: ObjectStore, world: World, identities: list[str]) -> list[str]:
        """Copy what the runs' newest jobs have captured: without it they can't start again."""
        problems = []
        runs = dict.fromkeys(identity.partition("/")[0] for identity in identities)
        jobs = [world.jobs[world.runs[run].jobs[-1]] for run in runs if world.runs[run].jobs]
        for digest in {job.spec.captured for job in jobs} - self._blobs:
            if digest is None:
                continue
            key = blob_key(digest)
            try:
                root.size(key)
            except FileNotFoundError:
                try:
                    copy_file(open_store(self._settings.store), root, key, digest)
                except (Mismatch, FileNotFoundError) as error:
                    problems.append(f"{error}.")
                    continue
            self._blobs.add(digest)
        return problems

    def _remove_dropped(self, root: ObjectStore, world: World) -> None:
        """Remove from the place what the journal has dropped."""
        copier = self._copier
        live = frozenset(i for run in world.runs.values() for i in run.checkpoints)
        if copier is None or copier.committed() <= live or snapshots.indices(root):
            return
        source = open_store(self._settings.runs)
        try:
            prune(
                copier.target,
                world,
                lambda _, identity: references(source, identity),
                self._closed.is_set,
            )
        except CheckpointError as error:
            logger.warning("resilient_nb: %s isn't swept: %s", self.place, error)
        copier.look()
