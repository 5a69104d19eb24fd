"""Scrubbing: whether every byte of a checkpoint is as it was written.

A restore verifies what it reads of chunks and documents. This reads all there is, also what only
other readers of Zarr rely on: the metadata of arrays and groups, and the crc32c behind each chunk.
No key is needed for what is encrypted: sums are of what is stored.
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from resilient_nb.errors import CheckpointError
from resilient_nb.storage.chunks import array_codecs
from resilient_nb.storage.contents import Piece, contents, damage
from resilient_nb.storage.encoding import fit
from resilient_nb.storage.hashing import xxh3
from resilient_nb.storage.manifest import Manifest, TensorRecord
from resilient_nb.storage.objects import ObjectStore, join
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.tree import Json
from resilient_nb.storage.zarr3 import GROUP, array_json, chunk_name, group_json

_GONE = (errno.ENOENT, errno.ENOTDIR)
#: What is damage, and no store that is out of reach; a folder may be in an object's place.
_DAMAGE = (*_GONE, errno.EISDIR, errno.EIO)
_CRC_BYTES = 4

#: Says what is wrong with an object's bytes: (tensor or document, why). Nothing if they are right.
Check: TypeAlias = Callable[[bytes], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Problem:
    """Something of a checkpoint that isn't as it was written.

    Attributes:
        checkpoint: its identity.
        what: the tensor, document or group, or "the manifest".
        why: what is wrong with it.
        key: of the object in the store; it may lie in the folder of an earlier checkpoint.
    """

    checkpoint: str
    what: str
    why: str
    key: str

    def __str__(self) -> str:
        return f"{self.what} {self.why} ({self.key})"


def verify(store: ObjectStore, identity: str, *, threads: int | None = None) -> list[Problem]:
    """Return all that is wrong with a checkpoint.

    Args:
        store: of all runs.
        identity: of the checkpoint.
        threads: how many read at once; None for what the store likes.

    Raises:
        OSError: the store can't be reached.
    """
    return Verifier(store, threads).verify(identity)


class Verifier:
    """Verifies several checkpoints of one store; objects that they share are read once.

    Attributes:
        nbytes: that were read so far.
    """

    def __init__(self, store: ObjectStore, threads: int | None = None) -> None:
        self.nbytes = 0
        self._store = store
        self._threads = store.threads if threads is None else threads
        self._owners: dict[str, Manifest | None] = {}
        self._known: dict[tuple[str, Any], list[tuple[str, str]]] = {}
        self._lock = threading.Lock()

    def verify(self, identity: str) -> list[Problem]:
        """Return all that is wrong with a checkpoint. Raises as `verify` does."""
        root = join(identity, "zarr.json")
        try:
            manifest = open_at(self._store, identity, private=False).manifest
            data = self._read(root)
        except CheckpointError as error:
            return [Problem(identity, "the manifest", f"can't be used: {error}", root)]
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            return [Problem(identity, "the manifest", f"can't be read: {error}", root)]
        found = [(root, wrong) for wrong in _manifest(manifest, identity, data)]
        jobs = [partial(self._look, *job) for job in self._jobs(manifest)]
        with ThreadPoolExecutor(self._threads, "checkpoint-verify") as pool:
            for wrongs in pool.map(lambda job: job(), jobs):
                found += wrongs
        return [Problem(identity, what, why, key) for key, (what, why) in found]

    def _jobs(self, manifest: Manifest) -> Iterator[tuple[str, Any, str, Check]]:
        """Yield each object's key, a mark of its check, whose it is, and the check."""
        arrays: dict[str, list[TensorRecord]] = {}
        for record in manifest.tensors:
            arrays.setdefault(join(record.at, record.key), []).append(record)
        metadata = {join(folder, "zarr.json"): folder for folder in arrays}
        packs = {
            join(folder, chunk_name((0,))): records
            for folder, records in arrays.items()
            if records[0].offset is not None and not records[0].codecs
        }
        for key, piece in contents(manifest).items():
            if key in metadata:
                records = arrays[metadata[key]]
                mark = (manifest.id, "metadata") if records[0].offset is not None else "metadata"
                yield key, mark, piece.what, self._metadata(manifest, records)
            elif key in packs:
                yield key, piece, piece.what, partial(_packed, packs[key], piece)
            elif piece.sealed or piece.sha256:
                yield key, piece, piece.what, partial(_whole, piece)
            else:
                what = f"group {piece.what}"
                yield key, "group", what, partial(_equal, what, GROUP)

    def _metadata(self, manifest: Manifest, records: list[TensorRecord]) -> Check:
        first = records[0]
        if first.offset is None:
            return partial(_equal, first.name, _array_metadata(first))
        if (owner := self._owner(first.at)) is not None:
            # Its own manifest knows all that is in a pack, not only what others still need.
            whole = [r for r in owner.tensors if (r.at, r.key) == (first.at, first.key)]
            manifest, records = owner, whole or records
        return partial(_pack_metadata, manifest, records, self._store)

    def _owner(self, identity: str) -> Manifest | None:
        """Return the manifest of the checkpoint that wrote a pack, None if it was dropped."""
        if identity not in self._owners:
            try:
                found = open_at(self._store, identity, private=False).manifest
            except (CheckpointError, OSError):
                found = None  # or it is damaged: who verifies it will say so
            self._owners[identity] = found
        return self._owners[identity]

    def _look(
        self, key: str, mark: Any, what: str, check: Check
    ) -> list[tuple[str, tuple[str, str]]]:
        known = self._known.get((key, mark))
        if known is None:
            try:
                known = list(check(self._read(key)))
            except OSError as error:
                if error.errno not in _DAMAGE:
                    raise
                why = "is missing" if error.errno in _GONE else f"can't be read: {error}"
                known = [(what, why)]
            self._known[key, mark] = known
        return [(key, wrong) for wrong in known]

    def _read(self, key: str) -> bytes:
        data = self._store.read(key)
        with self._lock:
            self.nbytes += len(data)
        return data


def _manifest(manifest: Manifest, identity: str, data: bytes) -> Iterator[tuple[str, str]]:
    if manifest.id != identity:
        yield "the manifest", f"is that of {manifest.id}"
    if group_json(json.loads(data)["attributes"], "the manifest") != data:
        yield "the manifest", "has other bytes than were written, but says the same"


def _equal(what: str, wanted: bytes, data: bytes) -> Iterator[tuple[str, str]]:
    if data != wanted:
        yield what, "has other metadata than was written"


def _whole(piece: Piece, data: bytes) -> Iterator[tuple[str, str]]:
    if why := damage(piece, data):
        yield piece.what, why


def _packed(records: list[TensorRecord], piece: Piece, data: bytes) -> Iterator[tuple[str, str]]:
    """Say which tensors of a pack are damaged."""
    found, good = np.frombuffer(data, np.uint8), True
    for record in records:
        start = (record.offset or 0) * np.dtype(record.dtype).itemsize
        value = found[start : start + record.nbytes]
        if value.size != record.nbytes or xxh3(value) not in record.sums.values():
            good = False
            yield record.name, "doesn't match its checksum"
    if good and (why := damage(piece, data)):
        yield f"the array of {piece.what} and others", why


def _array_metadata(record: TensorRecord) -> bytes:
    """Return the metadata that was written for an array of one tensor."""
    codecs = array_codecs(record)
    return array_json(record.shape, record.dtype, record.chunk, codecs, _torch(record))


def _pack_metadata(
    manifest: Manifest, records: list[TensorRecord], store: ObjectStore, data: bytes
) -> Iterator[tuple[str, str]]:
    """Say which tensors' places a pack's metadata tells wrongly.

    It has the form that we write, and tells each tensor's place. That it tells nothing else is
    known only of a checkpoint's own pack: others may have had more tensors then.
    """
    first = records[0]
    itemsize = np.dtype(first.dtype).itemsize
    name = f"the array of {first.name} and others"
    try:
        meta = json.loads(data)
        [length], attributes = meta["shape"], meta["attributes"]
        told: dict[str, Any] = dict(attributes["tensors"])
        chunk, array = (max(1, length),), join(first.at, first.key)
        codecs = fit(first.codecs, array, itemsize, chunk[0] * itemsize)
        whole = array_json((length,), first.dtype, chunk, codecs, attributes)
    except (ValueError, KeyError, TypeError, CheckpointError):
        yield name, "has metadata that can't be read"
        return
    if whole != data:
        yield name, "has other metadata than was written"
    wanted = {r.name: {"offset": r.offset, "shape": list(r.shape), **_torch(r)} for r in records}
    own = {r.name for r in records if r.at == manifest.id and r.tied is None}
    for record in records:
        places = [told.get(record.name)] if record.name in own else told.values()
        if wanted[record.name] not in places:
            yield record.name, "has another place by its array's metadata"
    if first.at == manifest.id and told.keys() != own:
        yield name, "has metadata that names other tensors"
    if length and not first.codecs:
        size = store.size(join(array, chunk_name((0,))))
        if size != length * itemsize + _CRC_BYTES:
            yield name, f"has {size} bytes, but {length} elements by its metadata"


def _torch(record: TensorRecord) -> dict[str, Json]:
    return {} if record.torch_dtype is None else {"torch_dtype": record.torch_dtype}
