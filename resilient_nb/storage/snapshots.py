"""Copies of the journal in a backup, and what belongs to each besides checkpoints.

    journal/SEQ-TIME.db     a copy of the journal as it was after event SEQ (encrypted with a key)
    journal/SEQ-TIME.json   its index, created last: whose it is, and every other file's sha256

A backup is what its newest index says. Everything that the journal's copy speaks of was there and
durable before the index.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from resilient_nb.core.lifecycle import replay
from resilient_nb.core.world import World
from resilient_nb.errors import CheckpointError, CorruptCheckpoint
from resilient_nb.storage.encryption import decrypt_file, encrypt_file
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.storage.objects import ObjectStore

#: How many copies of the journal a backup keeps.
KEPT = 3
FORMAT = 1
_FOLDER = "journal"


@dataclass(frozen=True)
class File:
    """A file that is no part of a checkpoint."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What a backup has.

    Attributes:
        cluster_id: whose it is.
        at: when it was made, in seconds since 1970.
        seq: number of the last event in the journal's copy.
        tip: digest of that event: histories that differ there are of different lives.
        journal: key of the journal's copy, and its digest.
        files: captured and returned values, by key.
        damaged: what could not be copied, and why.
    """

    cluster_id: str
    at: float
    seq: int
    tip: str
    journal: tuple[str, File]
    files: dict[str, File] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True)
class Snapshot:
    """A copy of a journal in a file: the world that it tells of, and where it ends."""

    path: Path
    world: World
    seq: int
    tip: str


def take(journal: Path, to: Path) -> Snapshot:
    """Copy a journal, which may be in use, to a new file.

    Raises:
        CheckpointError: there is no journal, or it can't be read.
    """
    try:
        with (
            closing(sqlite3.connect(f"{journal.as_uri()}?mode=rw", uri=True)) as source,
            closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)
    except sqlite3.Error as error:
        raise CheckpointError(
            f"The journal {journal} can't be read ({error}). This runs where the cluster's "
            "scheduler runs, with its RESILIENT_NB_HOME."
        ) from error
    return read(to)


def read(path: Path) -> Snapshot:
    """Return what a copy of a journal tells."""
    with closing(SqliteJournal(path)) as journal:
        world = replay(journal.events())
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT seq, kind, body FROM events ORDER BY seq DESC LIMIT 1")
        seq, *last = row.fetchone() or (0, "", "")
    return Snapshot(path, world, seq, _digest(last))


def tip_at(path: Path, seq: int) -> str | None:
    """Return the digest of a journal's event, None if it doesn't have so many."""
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT kind, body FROM events WHERE seq = ?", (seq,)).fetchone()
    return _digest(row) if row else None


def indices(store: ObjectStore) -> list[str]:
    """Return the keys of a backup's indices, the newest first."""
    keys = [entry.key for entry in store.list(_FOLDER) if entry.key.endswith(".json")]
    return sorted(keys, reverse=True)


def newest(store: ObjectStore) -> Index | None:
    """Return the newest good index of a backup, None if it has none at all.

    Raises:
        CorruptCheckpoint: all that there are are damaged.
    """
    keys = indices(store)
    for key in keys:
        if (index := _index(store.read(key))) is not None:
            return index
    if keys:
        raise CorruptCheckpoint(f"The backup {store.url} is damaged: {keys[0]} can't be read.")
    return None


def fetch(store: ObjectStore, index: Index, to: Path) -> Snapshot:
    """Bring the journal's copy here.

    Raises:
        CorruptCheckpoint: it is damaged.
        KeyMissing: it is encrypted, and this process lacks the key.
    """
    key, file = index.journal
    data = store.read(key)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptCheckpoint(f"The backup {store.url} is damaged: {key} isn't what it was.")
    to.write_bytes(decrypt_file(data, _FOLDER, f"The journal in the backup {store.url}"))
    to.chmod(0o600)
    return read(to)


def publish(
    store: ObjectStore,
    snapshot: Snapshot,
    at: float,
    files: Mapping[str, File],
    damaged: Sequence[str],
) -> Index:
    """Put a journal's copy and its index into a backup, unless the newest says the same.

    The oldest are dropped.
    """
    data = encrypt_file(snapshot.path.read_bytes(), _FOLDER)
    copy = File(len(data), hashlib.sha256(data).hexdigest())
    name = f"{_FOLDER}/{snapshot.seq:012d}-{int(at * 1000):014d}"
    index = Index(
        snapshot.world.cluster_id, at, snapshot.seq, snapshot.tip, (f"{name}.db", copy),
        dict(files), tuple(damaged),
    )  # fmt: skip
    before = newest(store)
    if (
        before is not None
        and replace(before, at=at, journal=(f"{name}.db", before.journal[1])) == index
    ):
        return before
    store.put(f"{name}.db", [data])
    store.flush()
    store.create(f"{name}.json", _seal(index))
    drop(store, KEPT)
    return index


def drop(store: ObjectStore, kept: int) -> None:
    """Remove all copies of the journal but the newest ones."""
    for old in indices(store)[kept:]:
        store.delete([old])
        store.delete([old.removesuffix(".json") + ".db"])


def _seal(index: Index) -> bytes:
    body = asdict(index)
    return json.dumps({"resilient_nb_backup": body, "sha256": _digest(body)}).encode()


def _index(data: bytes) -> Index | None:
    try:
        found = json.loads(data)
        body = found["resilient_nb_backup"]
        if found["sha256"] != _digest(body):
            return None
        return msgspec.convert(body, Index)
    except (ValueError, KeyError, TypeError):
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
