"""A journal that was damaged: what can be read of it goes on, with what the store knows beyond it.

The events before the damage are kept. Of what came after, the checkpoints are still in the store:
without them new attempts would write over them, and a sweep would take them for debris. So a
journal is only salvaged while the store can be read; until then nothing may be decided.

    journal.db                  the new journal
    journal.db.salvaged         the same before it takes the old one's place
    journal.db.damaged-TIME     the old file, and what SQLite kept beside it, for who knows better
    journal.db.rewrite          asks for it: a check has found damage that events don't show
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import evolve
from resilient_nb.core.model import Checkpoint, Run
from resilient_nb.core.names import split_checkpoint
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError, JournalDamaged
from resilient_nb.storage.claim import new_id, owner
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.storage.journal import readable as journal_events
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import checkpoint_of
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.opening import open_at

_BESIDE = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Readable:
    """The beginning of a journal that can be read, and what is wrong behind it ("": nothing)."""

    events: tuple[ev.Event, ...]
    world: World
    why: str = ""


def asked_for(journal: Path) -> bool:
    """Whether a check has found that the file should be written anew."""
    return _beside(journal, "rewrite").exists()


def ask_for(journal: Path) -> None:
    """Have the file written anew when it is opened the next time."""
    _beside(journal, "rewrite").touch(mode=0o600)


def finish(journal: Path) -> None:
    """Put a salvaged journal in its place, if whoever made it was killed before that."""
    new = _beside(journal, "salvaged")
    if new.exists() and not journal.exists():
        _install(journal, new, time.time())


def readable(journal: Path) -> Readable:
    """Return what can be read of a journal."""
    world, events, why = World(), [], ""
    try:
        for event in journal_events(journal):
            world = evolve(world, event)
            events.append(event)
    except JournalDamaged as error:
        why = str(error)
    return Readable(tuple(events), world, why)


def salvage(journal: Path, store: ObjectStore, runs: ObjectStore) -> str:
    """Write a journal anew from what can be read of it and what is in the store; say what was lost.

    Raises:
        OSError: of the disk or the store: nothing was changed.
        ResilientError: the journal can't be written, or the store not be read.
    """
    now, found = time.time(), readable(journal)
    world, events = found.world, list(found.events)
    if found.why and world.runs and owner(store) != world.cluster_id:
        raise CheckpointError(f"The store {store.url} isn't this cluster's: is it mounted?")
    if not world.cluster_id:
        mine = owner(store) or new_id()  # supervisors are found by it, and so are their ranks
        events.insert(0, ev.ClusterCreated(now, mine))
        world = replace(world, cluster_id=mine)
    if found.why:
        recovered = list(_recovered(world, _forgotten(world, runs), now))
        events += [ev.JournalSalvaged(now, _words(journal, found, recovered, now)), *recovered]
    new = _beside(journal, "salvaged")
    new.unlink(missing_ok=True)
    with closing(SqliteJournal(new)) as file:
        file.append(events)
    _copy_records(journal, new)
    _install(journal, new, now)
    _beside(journal, "rewrite").unlink(missing_ok=True)
    return found.why


def relapse(world: World, runs: ObjectStore) -> list[ev.Event]:
    """Return what brings a journal up to date that is whole, but older than the store.

    SQLite takes a log whose end is damaged for a shorter one, and people put old copies back. What
    shows that is a checkpoint of an attempt that the journal doesn't know: each was in it before
    its ranks began.
    """
    now = time.time()
    later = [c for c in _forgotten(world, runs, certain=True) if c.job]  # imports come first
    if not later:
        return []
    text = (
        f"The journal has forgotten attempts that the store knows of ({later[0].id}): its end was "
        "lost, or it is an old copy. Their checkpoints are back; look at %resilient jobs, and "
        "submit again what is missing."
    )
    return [ev.JournalSalvaged(now, text), *_recovered(world, later, now)]


def _recovered(world: World, forgotten: Iterable[Checkpoint], now: float) -> Iterator[ev.Event]:
    """Yield the events that bring forgotten checkpoints back, and the runs that have them."""
    by_run: dict[str, list[Checkpoint]] = {}
    for new in sorted(forgotten, key=lambda c: (c.epoch, c.step)):
        by_run.setdefault(new.run, []).append(new)
    known = {identity for run in world.runs.values() for identity in run.checkpoints}
    known |= {new.id for several in by_run.values() for new in several}
    waiting = dict(by_run)
    while waiting:
        # A fork comes after the run that it was forked from.
        name = next(
            (n for n, cs in waiting.items() if _origin(cs, n) not in waiting.keys() - {n}),
            next(iter(waiting)),
        )
        several = [
            replace(c, parent=c.parent if c.parent in known else None) for c in waiting.pop(name)
        ]
        if name not in world.runs:
            first = several[0].parent
            origin = first if first and first.partition("/")[0] != name else None
            yield ev.RunCreated(now, name, origin)
        yield ev.CheckpointsFound(now, name, tuple(several), _head(world.runs.get(name), several))


def _origin(checkpoints: Iterable[Checkpoint], name: str) -> str:
    """Return the run that a run's first checkpoint follows, "" if it is its own."""
    for each in checkpoints:
        run = (each.parent or "").partition("/")[0]
        return "" if run == name else run
    return ""


def _head(run: Run | None, found: list[Checkpoint]) -> str | None:
    """Return the newest of all: what the run was at, unless it was rolled back since."""
    newest = max(found, key=lambda c: (c.epoch, c.step))
    head = run.checkpoints.get(run.head or "") if run is not None else None
    if head is not None and (head.epoch, head.step) > (newest.epoch, newest.step):
        return head.id
    return newest.id


def _forgotten(world: World, runs: ObjectStore, certain: bool = False) -> Iterator[Checkpoint]:
    """Yield the checkpoints in the store that the journal doesn't know of.

    Some may have been dropped, or never been committed. Of those that are `certain` it doesn't
    even know the attempt.
    """
    for identity in _folders(runs):
        place = split_checkpoint(identity)
        if place is None:
            continue
        run = world.runs.get(place[0])
        if run is not None and (identity in run.checkpoints or (certain and place[2] <= run.epoch)):
            continue
        with suppress(CheckpointError):  # half of one, or damaged: what nobody can go on from
            yield _checkpoint(runs, identity)


def _folders(runs: ObjectStore) -> Iterator[str]:
    """Yield what may be the identities of checkpoints."""
    if isinstance(runs, LocalStore):  # without looking at every chunk
        yield from (
            f"{p.parent.parent.name}/{p.parent.name}" for p in runs.root.glob("*/*/zarr.json")
        )
        return
    for entry in runs.list():
        if entry.key.endswith("/zarr.json"):
            yield entry.key.removesuffix("/zarr.json")


def _checkpoint(runs: ObjectStore, identity: str) -> Checkpoint:
    manifest = open_at(runs, identity, private=False).manifest
    if manifest.id != identity:
        raise CheckpointError(f"{identity} says that it is {manifest.id}.")
    return checkpoint_of(manifest)


def _words(journal: Path, found: Readable, recovered: list[ev.Event], now: float) -> str:
    count = sum(len(e.checkpoints) for e in recovered if isinstance(e, ev.CheckpointsFound))
    brought = (
        f" {count} checkpoints that it had forgotten are back, from the store." if count else ""
    )
    return (
        f"{found.why} What was decided after that is lost: look at %resilient jobs, and submit "
        f"again what is missing.{brought} The damaged file is {_old(journal, now)}. If a backup "
        f"knows more, take the cluster down, move {journal} away and use %resilient restore."
    )


def _copy_records(old: Path, new: Path) -> None:
    """Copy what was measured, as far as it can be read: nothing depends on it."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(old)) as source:
        rows = source.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        with closing(sqlite3.connect(new)) as target:
            there = target.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in set(rows) & set(there) - {("events",)}:
                with suppress(sqlite3.Error):
                    _copy_table(source, target, name)
                target.commit()


def _copy_table(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> None:
    rows = source.execute(f'SELECT * FROM "{name}"')
    while row := rows.fetchone():  # raises at damage; what came before it stays
        marks = ", ".join("?" * len(row))
        target.execute(f'INSERT OR IGNORE INTO "{name}" VALUES ({marks})', row)


def _install(journal: Path, new: Path, now: float) -> None:
    """Put the old file aside and the new one in its place; `finish` does what is left undone."""
    old = _old(journal, now)
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            Path(f"{journal}{suffix}").rename(f"{old}{suffix}")
    new.rename(journal)
    Path(f"{new}.reserve").unlink(missing_ok=True)


def _old(journal: Path, now: float) -> Path:
    return _beside(journal, time.strftime("damaged-%Y%m%d-%H%M%S", time.localtime(now)))


def _beside(journal: Path, what: str) -> Path:
    return journal.with_name(f"{journal.name}.{what}")
