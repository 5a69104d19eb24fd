"""The objects that a checkpoint is made of, and how to tell whether each is whole. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resilient_nb.storage.hashing import crc32c, xxh3
from resilient_nb.storage.manifest import Manifest, TensorRecord
from resilient_nb.storage.objects import Buffer, join
from resilient_nb.storage.zarr3 import document_key, safe_key

#: Behind each chunk: Zarr's crc32c codec.
_CRC_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """One object, and what the manifest says of its bytes.

    Attributes:
        what: the tensor or document that it is of; of several, the first.
        size: in bytes, if that is known.
        whole: xxh3-64 of all of it, "" if the manifest doesn't say.
        parts: (start, bytes, xxh3-64) of what the manifest says of parts of it.
        sha256: of all of it, "" if the manifest doesn't say.
        sealed: it ends with the crc32c of what comes before.
    """

    what: str
    size: int | None = None
    whole: str = ""
    parts: tuple[tuple[int, int, str], ...] = ()
    sha256: str = ""
    sealed: bool = False


def contents(manifest: Manifest) -> dict[str, Piece]:
    """Return all objects that a checkpoint needs, by key, but for the one that commits it.

    Arrays of other checkpoints that it refers to are among them.
    """
    found: dict[str, Piece] = {}
    for group in groups(manifest):
        found[join(manifest.id, group, "zarr.json")] = Piece(group)
    for record in manifest.tensors:
        folder = join(record.at, record.key)
        found.setdefault(join(folder, "zarr.json"), Piece(record.name))
        for name, total in record.sums.items():
            key = join(folder, name)
            found[key] = _chunk(record, total, found.get(key))
    for document in manifest.documents:
        key = join(manifest.id, document_key(document.name))
        found[key] = Piece(document.name, document.nbytes, sha256=document.sha256)
    return found


def groups(manifest: Manifest) -> list[str]:
    """Return the keys of all groups in a checkpoint's folder, but for its root."""
    own = {key for at, key in manifest.arrays if at == manifest.id}
    return sorted(
        {key.partition("/")[0] for key in (*own, *_elsewhere(manifest.id, manifest.tensors))}
        | {"state"}
    )


def links(manifest: Manifest) -> Mapping[str, str]:
    """Return the names by which people find arrays that lie elsewhere, and where they lie.

    They are of other checkpoints, or of tensors to which others are tied.
    """
    return links_of(manifest.id, manifest.tensors)


def links_of(identity: str, tensors: Iterable[TensorRecord]) -> Mapping[str, str]:
    """Return the same for some tensors of a checkpoint."""
    found = _elsewhere(identity, tuple(tensors))
    return {join(identity, key): join(r.at, r.key) for key, r in found.items()}


def _elsewhere(identity: str, tensors: Sequence[TensorRecord]) -> dict[str, TensorRecord]:
    arrays = {safe_key(record.name): record for record in tensors if record.offset is None}
    own = {record.key for record in tensors if record.at == identity}
    return {key: record for key, record in arrays.items() if key not in own}


def damage(piece: Piece, data: Buffer) -> str:
    """Return what is wrong with an object's bytes, "" if nothing is."""
    found = np.frombuffer(data, np.uint8)
    if piece.size is not None and found.size != piece.size:
        return f"has {found.size} bytes instead of {piece.size}"
    if piece.sha256:
        good = hashlib.sha256(found.data).hexdigest() == piece.sha256
        return "" if good else "doesn't match its digest"
    if not piece.sealed:
        return "" if _is_metadata(data) else "is no Zarr metadata"
    if piece.whole and xxh3(found) != piece.whole:
        return "doesn't match its checksum"
    for start, count, total in piece.parts:
        if start + count > found.size or xxh3(found[start : start + count]) != total:
            return "doesn't match its checksum"
    body, seal = found[:-_CRC_BYTES], found[-_CRC_BYTES:]
    if not piece.whole and crc32c(body) != int.from_bytes(seal.tobytes(), "little"):
        return "doesn't match its crc32c"
    return ""


def _chunk(record: TensorRecord, total: str, known: Piece | None) -> Piece:
    itemsize = np.dtype(record.dtype).itemsize
    if record.codecs:
        return Piece(record.name, whole=total, sealed=True)
    if record.offset is None:
        size = math.prod(record.chunk) * itemsize + _CRC_BYTES
        return Piece(record.name, size, whole=total, sealed=True)
    part = (record.offset * itemsize, record.nbytes, total)
    if known is None:
        return Piece(record.name, parts=(part,), sealed=True)
    return known if part in known.parts else replace(known, parts=(*known.parts, part))


def _is_metadata(data: Buffer) -> bool:
    try:
        found = json.loads(bytes(data))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("zarr_format") == 3
