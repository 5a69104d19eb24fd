"""Backing up a cluster's store and journal to another place, and bringing them back.

A backup is a store like the cluster's own (`runs/`, `blobs/`, `out/`) with copies of the journal.
It is incremental: what is there isn't copied again. It can be interrupted at any moment and goes on
where it was: a checkpoint's manifest comes after what it needs, and the journal after all that it
speaks of. Both run where the scheduler runs, and don't need the cluster to be up.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from resilient_nb.config import Settings, read_place
from resilient_nb.core.names import split_checkpoint
from resilient_nb.core.places import Place, overlap
from resilient_nb.core.transfers import TransferReport
from resilient_nb.errors import CheckpointError, Conflict, CorruptCheckpoint, InvalidRequest
from resilient_nb.storage import snapshots
from resilient_nb.storage.claim import claim, owner
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.snapshots import Snapshot
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.transfer import Transfer

Say = Callable[[str], None]

#: While checkpoints are copied others may be dropped: then it is looked again, so many times.
_ROUNDS = 3


def backup(
    settings: Settings, place: Place, say: Say, dry_run: bool = False, prune: bool = False
) -> TransferReport:
    """Bring a backup up to date.

    Args:
        settings: those of the cluster's home.
        place: the backup, a path or URL; nobody else's.
        say: is told how far it is.
        dry_run: only say what there is to do.
        prune: remove from it what the journal has dropped, and older copies of the journal.

    Raises:
        CorruptCheckpoint: something is damaged in the store, and isn't in the backup either;
            everything else was backed up.
        Conflict: the place has a backup of another cluster.
        CheckpointError: the home has no journal, or a store can't be used.
    """
    place, target = _elsewhere(settings, place)
    transfer = Transfer(settings, place, say, dry_run, time.monotonic())
    with _told(place), tempfile.TemporaryDirectory(prefix="resilient-nb-") as folder:
        for number in range(_ROUNDS):
            snapshot = snapshots.take(settings.journal, Path(folder, f"{number}.db"))
            known = _check_backup(settings, target, snapshot)
            if not dry_run:
                claim(target, snapshot.world.cluster_id)
            transfer.backup(snapshot.world, known)
            if not transfer.damaged:
                break
        journal = ""
        if not dry_run:
            now, files = time.time(), transfer.files
            index = snapshots.publish(target, snapshot, now, files, transfer.damaged)
            journal = index.journal[0]
            if prune and not transfer.damaged:
                transfer.prune(snapshot.world)
    return _finished(transfer.report("backup", snapshot.world.cluster_id, journal))


def restore(settings: Settings, place: Place, say: Say, dry_run: bool = False) -> TransferReport:
    """Bring back what the store has lost, and the journal if the home has none.

    Args:
        settings: those of the home that it is brought to.
        place: a backup; or, if the journal is still there, a replica.
        say: is told how far it is.
        dry_run: only say what there is to do.

    Raises:
        CorruptCheckpoint: something is damaged or missing in the backup; everything else was
            restored.
        Conflict: home or store are another cluster's, or have more than the backup knows of.
        CheckpointError: there is no backup at the place, or a store can't be used.
    """
    place, source = _elsewhere(settings, place)
    transfer = Transfer(settings, place, say, dry_run, time.monotonic())
    with _told(place), tempfile.TemporaryDirectory(prefix="resilient-nb-") as folder:
        index = snapshots.newest(source)
        if index is None and not owner(source):
            raise CheckpointError(f"{place} is no backup: there is no copy of a journal in it.")
        snapshot = _at_home(settings, source, Path(folder, "home.db"))
        is_new = snapshot is None
        if snapshot is None:
            if index is None:
                raise CheckpointError(
                    f"{place} has no copy of a journal, so it is no backup; and {settings.home} "
                    "has no journal that says what is to be restored."
                )
            snapshot = snapshots.fetch(source, index, Path(folder, "restored.db"))
        store = open_store(settings.store)
        _check_store(settings, store, snapshot, is_new)
        if not dry_run:
            claim(store, snapshot.world.cluster_id)
        transfer.restore(snapshot.world, index.files if index is not None else None)
        if not dry_run:
            store.flush()
            if is_new:
                _install(snapshot.path, settings.journal)
    journal = index.journal[0] if index is not None and is_new else ""
    return _finished(transfer.report("restore", snapshot.world.cluster_id, journal))


def _elsewhere(settings: Settings, place: Place) -> tuple[Place, ObjectStore]:
    place = read_place(place)
    if overlap(place, settings.store):
        raise InvalidRequest(f"{place} is the store itself, or a part of it: use another place.")
    return place, open_store(place)


def _check_backup(
    settings: Settings, target: ObjectStore, snapshot: Snapshot
) -> dict[str, snapshots.File]:
    """Refuse a backup that isn't of this journal; return the files that are known to be in it."""
    mine = snapshot.world.cluster_id
    for store in (open_store(settings.store), target):
        if (other := owner(store)) not in ("", mine):
            raise Conflict(
                f"{store.url} belongs to another cluster ({other}) than the journal in "
                f"{settings.home} ({mine}). Use another place."
            )
    index = snapshots.newest(target)
    if index is None:
        return {}
    if snapshots.tip_at(snapshot.path, index.seq) != index.tip:
        raise Conflict(
            f"The backup {target.url} knows of events that the journal in {settings.home} has "
            "not: it is of another life of this cluster. Use another place."
        )
    return index.files


def _at_home(settings: Settings, source: ObjectStore, copy: Path) -> Snapshot | None:
    """Return a copy of the home's own journal, None if it has none."""
    if not settings.journal.exists():
        return None
    snapshot = snapshots.take(settings.journal, copy)
    mine, other = snapshot.world.cluster_id, owner(source)
    if not mine:
        return None  # it was opened once, and nothing was ever written
    if mine != other:
        runs = len(snapshot.world.runs)
        raise Conflict(
            f"{settings.home} has the journal of another cluster ({mine}, {runs} runs) than "
            f"{source.url} ({other or 'nobody'}). Restore into an empty home: set "
            f"RESILIENT_NB_HOME, or take that cluster down and move {settings.journal} away."
        )
    return snapshot


def _check_store(settings: Settings, store: ObjectStore, snapshot: Snapshot, is_new: bool) -> None:
    other = owner(store)
    if other not in ("", snapshot.world.cluster_id):
        raise Conflict(
            f"The store {store.url} belongs to another cluster ({other}), and is left as it is. "
            "Restore into an empty one: set RESILIENT_NB_STORE."
        )
    if not is_new:
        return
    known = {i for run in snapshot.world.runs.values() for i in run.checkpoints}
    unknown = sorted(_committed(open_store(settings.runs)) - known)
    if unknown:
        raise Conflict(
            f"The store {store.url} has checkpoints that the backup doesn't know of "
            f"({', '.join(unknown[:3])}; {len(unknown)} in all), which new attempts could write "
            "over. Restore into an empty store (set RESILIENT_NB_STORE); they can still be read "
            "where they are (resilient_nb.load_path)."
        )


def _committed(runs: ObjectStore) -> set[str]:
    """Return the checkpoints in a store of runs."""
    found = (entry.key.removesuffix("/zarr.json") for entry in runs.list())
    return {identity for identity in found if split_checkpoint(identity) is not None}


def _install(copy: Path, journal: Path) -> None:
    """Make a copy the journal, durably, in one step."""
    journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = journal.with_name(f"{journal.name}.restored")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(copy.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    for suffix in ("-wal", "-shm"):
        Path(f"{journal}{suffix}").unlink(missing_ok=True)
    new.replace(journal)


class _told:
    """Tell what a store couldn't do as something that a user can mend."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise CheckpointError(
                f"It could not be finished: {error}. What was copied stays; do it again, and it "
                "goes on."
            ) from error


def _finished(report: TransferReport) -> TransferReport:
    if not report.damaged:
        return report
    more = len(report.damaged) - 5
    listed = "\n".join(f"  {text}" for text in report.damaged[:5])
    also = f"\n  … and {more} more" if more > 0 else ""
    done = "Everything else was copied" if not report.dry_run else "Everything else can be copied"
    raise CorruptCheckpoint(
        f"{done} ({report.objects} objects, {report.nbytes / 1e6:,.1f} MB), but not:\n"
        f"{listed}{also}"
    )
