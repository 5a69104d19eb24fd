"""Copying checkpoints from one store of runs to another: each object once, and only if it is whole.

Nothing damaged is ever copied, and what is good in the target is never replaced. A checkpoint's
manifest is created last, when everything that it needs is there and durable: whoever is killed in
the middle leaves no half checkpoint, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from resilient_nb.errors import CheckpointError, Conflict, CorruptCheckpoint
from resilient_nb.storage.contents import Piece, contents, damage, links
from resilient_nb.storage.fallback import copies
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.objects import ObjectStore, join
from resilient_nb.storage.opening import open_at

_THREADS = 4


class Stopped(Exception):
    """Asked to stop in the middle; what was copied stays."""


@dataclass(frozen=True)
class Copied:
    """How much was copied, or would be."""

    objects: int = 0
    nbytes: int = 0

    def __add__(self, other: Copied) -> Copied:
        return Copied(self.objects + other.objects, self.nbytes + other.nbytes)


@dataclass
class Copier:
    """Copies between two stores of runs. Use it from one thread at a time.

    Attributes:
        source: where from; of a store with copies, the first good one of each object.
        target: where to. Nobody else may write there meanwhile.
        stopped: asked before each object whether to stop.
        thorough: believe nothing of the target: verify what is there, and mend what is damaged.
        dry_run: only find out what there is to do.
        atomic: whatever is in the target under its name was written to its end.
    """

    source: ObjectStore
    target: ObjectStore
    stopped: Callable[[], bool] = lambda: False
    thorough: bool = False
    dry_run: bool = False
    atomic: bool = False
    _there: dict[str, int] = field(default_factory=dict)  # what the target has, with its size
    _good: set[str] = field(default_factory=set)  # what is known to be whole there
    _trusted: set[str] = field(default_factory=set)  # checkpoints there that were looked at
    _sizes: dict[str, dict[str, int]] = field(default_factory=dict)  # by folder of the source

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Look again at what the target has."""
        self._there = {entry.key: entry.size for entry in self.target.list()}
        self._good = set(self._there) if self.atomic else self._good & self._there.keys()
        self._trusted.clear()

    def has(self, identity: str) -> bool:
        """Return whether the target has a checkpoint."""
        return join(identity, "zarr.json") in self._there

    def committed(self) -> frozenset[str]:
        """Return all checkpoints that the target has."""
        found = (key.rpartition("/") for key in self._there)
        return frozenset(i for i, _, name in found if name == "zarr.json" and i.count("/") == 1)

    def copy(self, identity: str) -> Copied:
        """Copy what the target lacks of a checkpoint.

        Raises:
            CorruptCheckpoint: something is damaged or missing in the source, and isn't in the
                target either. What is whole was copied, but it is no checkpoint there.
            CheckpointError: there is no such checkpoint.
            Conflict: the target has another one of this name.
            OSError: of a store, unchanged.
            Stopped: we were asked to stop.
        """
        manifest, data = self._manifest(identity)
        if not self.thorough:
            self._trust(identity)
            self._trust(manifest.parent)
        pieces = contents(manifest)
        done = self._copy_all(identity, pieces)
        if self.dry_run:
            return done
        if done.objects:
            self.target.flush()
        self._good.update(pieces)
        return done + self._commit(manifest, data)

    def _manifest(self, identity: str) -> tuple[Manifest, bytes]:
        """Return the first good manifest, and its bytes."""
        failure: Exception | None = None
        for store in (*copies(self.source), self.target):
            try:
                manifest = open_at(store, identity, private=False).manifest
                return manifest, store.read(join(identity, "zarr.json"))
            except (CheckpointError, OSError) as error:
                failure = failure or error
        raise failure or CheckpointError(f"There is no checkpoint {identity}.")

    def _trust(self, identity: str | None) -> None:
        """What a checkpoint in the target needs was whole there when it was committed."""
        if identity is None or identity in self._trusted or not self.has(identity):
            return
        self._trusted.add(identity)
        known = self._manifest_there(identity)
        if known is not None:
            self._good.update(contents(known).keys() & self._there.keys())

    def _manifest_there(self, identity: str) -> Manifest | None:
        try:
            return open_at(self.target, identity, private=False).manifest
        except CheckpointError:
            return None  # damaged: then nothing is known of what it says

    # --- objects ----------------------------------------------------------------------------

    def _copy_all(self, identity: str, pieces: Mapping[str, Piece]) -> Copied:
        failures: list[str] = []

        def copy(key: str) -> Copied:
            if self.stopped():
                raise Stopped
            try:
                return self._copy(key, pieces[key])
            except _Damaged as error:
                failures.append(str(error))
                return Copied()

        with ThreadPoolExecutor(_THREADS, "checkpoint-copy") as pool:
            done = sum(pool.map(copy, pieces), Copied())
        if failures:
            more = f" ({len(failures)} objects in all)" if len(failures) > 1 else ""
            raise CorruptCheckpoint(
                f"Checkpoint {identity} is damaged in {self.source.url}: {min(failures)}{more}."
            )
        return done

    def _copy(self, key: str, piece: Piece) -> Copied:
        if self._is_there(key, piece):
            return Copied()
        if self.dry_run:
            size = self._size(key, piece)
            self._good.add(key)
        else:
            data = self._read(key, piece)
            self.target.put(key, [data])
            size = len(data)
        self._there[key] = size
        return Copied(1, size)

    def _is_there(self, key: str, piece: Piece) -> bool:
        """Whether the target has an object, of the right size and whole."""
        size = self._there.get(key)
        if size is None or (piece.size is not None and size != piece.size):
            return False
        likely = self.atomic or piece.size is not None
        if key in self._good and (likely or self._size_is_likely(key, size)):
            return True
        # Perhaps left by somebody who was killed: look at it.
        return not damage(piece, self.target.read(key))

    def _size_is_likely(self, key: str, size: int) -> bool:
        """Whether the source has an object of this size, if it has one."""
        folder = "/".join(key.split("/")[:2])
        if folder not in self._sizes:
            self._sizes[folder] = {e.key: e.size for e in self.source.list(folder)}
        return self._sizes[folder].get(key, size) == size

    def _read(self, key: str, piece: Piece) -> bytes:
        """Return an object's bytes from the first copy that is whole."""
        why = ""
        for store in copies(self.source):
            try:
                data = store.read(key)
            except FileNotFoundError:
                why = why or f"{piece.what} is missing ({key})"
                continue
            if not (wrong := damage(piece, data)):
                return data
            why = f"{piece.what} {wrong} ({key})"
        raise _Damaged(why)

    def _size(self, key: str, piece: Piece) -> int:
        try:
            return self.source.size(key) if piece.size is None else piece.size
        except FileNotFoundError:
            raise _Damaged(f"{piece.what} is missing ({key})") from None

    def _commit(self, manifest: Manifest, data: bytes) -> Copied:
        key = join(manifest.id, "zarr.json")
        if self._there.get(key) == len(data) and self.target.read(key) == data:
            return Copied()
        for name, place in links(manifest).items():
            self.target.link(name, place)
        try:
            self.target.create(key, data)
        except FileExistsError:
            self._replace(manifest.id, data)
        self._there[key] = len(data)
        return Copied(1, len(data))

    def _replace(self, identity: str, data: bytes) -> None:
        """Put a good manifest in the place of a damaged one."""
        if self._manifest_there(identity) is not None:
            if self.target.read(join(identity, "zarr.json")) == data:
                return
            raise Conflict(
                f"{self.target.url} has another checkpoint {identity}: it is of another cluster, "
                "or of another life of this one. Use another place."
            )
        self.target.delete([join(identity, "zarr.json")])
        self.target.create(join(identity, "zarr.json"), data)


class _Damaged(Exception):
    """An object has no good copy in the source."""
