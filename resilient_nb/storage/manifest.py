"""What a checkpoint says of itself, in the attributes of its root group.

A tensor is found by `at` and `key`: the array lies in the folder of the checkpoint that wrote it.
What hasn't changed since is not written again, so `at` may be an earlier checkpoint, of another
run even, if this one was forked. There are no chains: `at` is always the one that has the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from resilient_nb.core.model import Checkpoint
from resilient_nb.core.names import checkpoint_id
from resilient_nb.core.recorded import data_names
from resilient_nb.errors import CannotStore
from resilient_nb.storage.keys import keyring
from resilient_nb.storage.private import hide, reveal
from resilient_nb.storage.tree import Json
from resilient_nb.storage.zarr3 import sha256

FORMAT = 2


@dataclass(frozen=True)
class TensorRecord:
    """One tensor and where its values are.

    Attributes:
        name: as `tree.flatten` names it.
        at: id of the checkpoint whose folder holds the array.
        key: of the array in that folder.
        shape: of the tensor (of the whole, if ranks hold parts of it).
        dtype: of the array, as numpy names it.
        torch_dtype: as torch names it; None for a numpy array.
        digest: equal for equal values (`hashing.digest`; of a tensor in parts, over theirs).
        nbytes: of the values.
        chunk: shape of the array's chunks; of a packed tensor, its own shape.
        sums: by each chunk's name the xxh3-64 of all its stored bytes, as 16 hex digits. Of a
            packed tensor that isn't encoded, its own bytes' under its one name.
        offset: of a packed tensor: its first element in the packing array.
        codecs: bytes to bytes, as in the array's metadata.
        stored: bytes that it takes in the store (a packed tensor, its share).
        tied: the name of the tensor that this one is (tied weights, say); all else is as there.
    """

    name: str
    at: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    torch_dtype: str | None
    digest: str
    nbytes: int
    chunk: tuple[int, ...]
    sums: Mapping[str, str]
    offset: int | None = None
    codecs: tuple[Any, ...] = ()
    stored: int = 0
    tied: str | None = None

    @property
    def kind(self) -> str:
        """What it holds: `float32[3, 4]`."""
        return kind_of(self.torch_dtype, self.dtype, self.shape)


@dataclass(frozen=True)
class DocumentRecord:
    """What the manifest says of one state document; `sha256` is of the file that holds it.

    `plain` is what that would be if it were not encrypted ("" if it isn't).
    """

    name: str
    sha256: str
    nbytes: int
    plain: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint is. `created_at` is in seconds since 1970; `parent` a checkpoint id.

    If it is encrypted, `key_id` says with which key; and if it was read without that key,
    what is private of it is still in `hidden` (see `private`), and empty where it belongs.
    """

    run: str
    job: str
    epoch: int
    step: int
    parent: str | None
    world_size: int
    created_at: float
    tensors: tuple[TensorRecord, ...]
    documents: tuple[DocumentRecord, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    key_id: str = ""
    hidden: str = ""

    @property
    def id(self) -> str:
        """The checkpoint's identity, as `core.names.checkpoint_id` gives it."""
        return checkpoint_id(self.run, self.step, self.epoch)

    @property
    def arrays(self) -> frozenset[tuple[str, str]]:
        """The (checkpoint id, key) of every array that it needs."""
        return frozenset((t.at, t.key) for t in self.tensors)


def kind_of(torch_dtype: str | None, dtype: str, shape: Sequence[int]) -> str:
    """Return a text that tells tensors apart whose bytes may be equal all the same."""
    return f"{torch_dtype or f'numpy {dtype}'}{list(shape)}"


def manifest_json(manifest: Manifest) -> dict[str, Json]:
    """Return the manifest as JSON values, with what is private encrypted if it has a `key_id`.

    Raises:
        CannotStore: `info` holds something else.
        KeyMissing: this process lacks the key.
    """
    try:
        body: dict[str, Json] = msgspec.to_builtins(manifest)
    except TypeError as error:
        raise CannotStore(f"the manifest isn't strict JSON: {error}.") from error
    # JSON has no nan, and a loss that became nan must not prevent the checkpoint.
    body["metrics"] = {
        name: float(value) if math.isfinite(value) else str(float(value))
        for name, value in manifest.metrics.items()
    }
    if not manifest.key_id:
        return body
    return hide(body, keyring().find(manifest.key_id, f"Checkpoint {manifest.id}"))


def revealed(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what `manifest_json` wrote with what is hidden in it decrypted, if anything is.

    Raises:
        ValueError: it was changed.
        KeyMissing: this process lacks the key.
    """
    if not body.get("key_id"):
        return body
    what = f"Checkpoint {checkpoint_id(body['run'], body['step'], body['epoch'])}"
    return reveal(body, keyring().find(body["key_id"], what))


def manifest_from(body: Mapping[str, Any]) -> Manifest:
    """Return the manifest that `manifest_json` wrote; what is hidden stays so.

    Raises:
        ValueError: it has another form.
    """
    metrics = {name: float(value) for name, value in body["metrics"].items()}
    return msgspec.convert({**body, "metrics": metrics}, Manifest)


def manifest_at_once(text: bytes) -> Manifest | None:
    """Return the manifest in the text that `manifest_json` gave, in half the time.

    None if it takes a closer look: something is hidden, a metric is no number, its form is
    another.
    """
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError:
        return None
    return manifest if manifest.format == FORMAT and not manifest.key_id else None


def checkpoint_of(manifest: Manifest) -> Checkpoint:
    """Return a whole checkpoint as the journal has it."""
    identity = manifest.id
    new = [t for t in manifest.tensors if t.at == identity and t.tied is None]
    return Checkpoint(
        id=identity,
        run=manifest.run,
        job=manifest.job,
        epoch=manifest.epoch,
        step=manifest.step,
        parent=manifest.parent,
        digest=checkpoint_digest(manifest),
        nbytes=sum(t.nbytes for t in manifest.tensors),
        at=manifest.created_at,
        metrics=manifest.metrics,
        changed=sum(t.nbytes for t in new),
        written=sum(t.stored for t in new),
        data=data_names(manifest.info),
    )


def checkpoint_digest(manifest: Manifest) -> str:
    """Return a sha256 that is equal for equal state.

    It covers each tensor's name, dtypes, shape and digest, and each document's name and sha256
    (before it is encrypted), of everything whose name doesn't begin with `rank-`. It doesn't
    cover what is in the manifest besides: run, job, epoch, step, parent, world size, time,
    metrics, info, and where arrays are.
    """
    tensors = [[r.name, r.dtype, r.torch_dtype, list(r.shape), r.digest] for r in manifest.tensors]
    documents = [[r.name, r.plain or r.sha256] for r in manifest.documents]
    shared = [
        sorted(row for row in rows if not str(row[0]).startswith("rank-"))
        for rows in (tensors, documents)
    ]
    return sha256(shared)
