"""Writing one checkpoint: a plain Zarr v3 group, committed by its last object.

    ID/zarr.json                      root group; the manifest is in its attributes; created last
    ID/model/zarr.json                one group per tracked object
    ID/model/0.weight/zarr.json       one array per tensor, and beside it
    ID/model/0.weight/c.0.0           its chunks: little-endian values, then their crc32c
    ID/model/%pack-0-float32-0/…      small tensors share arrays; the attributes say which
    ID/state/shared/zarr.json         one group per state document, which is in its attributes

Any Zarr v3 reader opens it without us: `zarr.open_group(path)["model/0.weight"]`. Documents are
groups since Zarr readers warn of foreign files in a hierarchy.

Every rank calls `write_part` with its share; when all have returned, one process calls `commit`.
Without a manifest there is no checkpoint. The id holds the epoch (`core.names.checkpoint_id`), so
that two attempts never write to one place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from resilient_nb.errors import CannotStore, CheckpointError
from resilient_nb.storage.contents import groups, links, links_of
from resilient_nb.storage.encoding import Codecs, encode, fit, key_of
from resilient_nb.storage.encryption import envelope
from resilient_nb.storage.hashing import Bytes, Seal, Sealing, digest, digest_of, raw, xxh3
from resilient_nb.storage.keys import Keyring, keyring
from resilient_nb.storage.manifest import DocumentRecord, Manifest, TensorRecord, manifest_json
from resilient_nb.storage.objects import ObjectStore, join
from resilient_nb.storage.tree import STORABLE_DTYPES, Json, TensorLeaf
from resilient_nb.storage.zarr3 import (
    GROUP,
    array_json,
    chunk_count,
    chunk_name,
    document_key,
    group_json,
    pack_key,
    row_chunks,
    safe_key,
    sha256,
    split,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Options:
    """How a part is written.

    Attributes:
        chunk_bytes: arrays larger than this are split along their leading axis.
        pack_bytes: smaller tensors share arrays: a file each would cost more than their bytes.
        codecs: bytes to bytes: compression, encryption (`encoding.codecs_of`).
        threads: that write at the same time; 0 for as many as the store likes.
    """

    chunk_bytes: int = 64 << 20
    pack_bytes: int = 256 << 10
    codecs: Codecs = ()
    threads: int = 0


#: By the tensor's name and the chunk's.
Seals = dict[tuple[str, str], Seal]


@dataclass
class _Part:
    """One rank's share while it is written."""

    store: ObjectStore
    identity: str
    options: Options
    keys: Keyring = field(default_factory=Keyring)
    seals: Seals = field(default_factory=dict)

    def codecs(self, key: str, itemsize: int, nbytes: int) -> Codecs:
        """Return the codecs of an array whose chunks have so many bytes."""
        return fit(self.options.codecs, join(self.identity, key), itemsize, nbytes)

    def put_chunk(self, key: str, name: str, codecs: Codecs, chunk: Sealing) -> tuple[str, int]:
        """Store one chunk; return the sum of what is stored, and its size."""
        if codecs:
            whole = chunk.pieces[0] if len(chunk.pieces) == 1 else np.concatenate(chunk.pieces)
            encoded = encode(codecs, whole.data, name, self.keys)
            chunk = Sealing([np.frombuffer(encoded, np.uint8)])
        self.store.put(join(self.identity, key, name), chunk)
        return chunk.seal.sum, chunk.nbytes


def hashed(
    leaves: Mapping[str, TensorLeaf], options: Options | None = None
) -> tuple[dict[str, str], Seals]:
    """Return the digest of each tensor, and the seals of the chunks that it will be written as.

    One pass over memory for both, which is what training on the other cores feels: so for those
    who will write nearly all of it. Seals of what is stored in other bytes aren't known yet.
    """
    options = options or Options()
    digests: dict[str, str] = {}
    seals: Seals = {}
    for name, leaf in leaves.items():
        digests[name], found = _hashed(leaf, options)
        seals.update({(name, chunk): seal for chunk, seal in found.items()})
    return digests, seals


def _hashed(leaf: TensorLeaf, options: Options) -> tuple[str, dict[str, Seal]]:
    array, seals = leaf.array, {}
    if options.codecs or leaf.shard is not None or _is_small(leaf, options):
        return digest(array), {}
    data = raw(array)
    whole: xxhash.xxh3_128 | None = xxhash.xxh3_128()
    chunk = split(array.shape, array.itemsize, options.chunk_bytes)
    size = int(np.prod(chunk, dtype=np.int64)) * array.itemsize
    for name, at in row_chunks(array.shape, chunk, array.itemsize):
        sealing = Sealing(_padded(data[at], size), whole)
        seals[name] = sealing.done()
        whole = sealing.whole
    return _digest_made(whole, array), seals


def _digest_made(whole: xxhash.xxh3_128 | None, array: npt.NDArray[Any]) -> str:
    """Return the sum that was made of an array on the way, or make it."""
    return digest(array) if whole is None else whole.hexdigest()


def write_part(
    store: ObjectStore,
    identity: str,
    leaves: Mapping[str, TensorLeaf],
    digests: Mapping[str, str] | None = None,
    *,
    rank: int = 0,
    options: Options | None = None,
    seals: Seals | None = None,
    kept: Iterable[TensorRecord] = (),
) -> dict[str, TensorRecord]:
    """Write tensors and make them durable; return their records by name.

    Other processes may write other tensors of the same checkpoint at the same time.

    Args:
        store: of all runs.
        identity: of the checkpoint; its keys begin with it.
        leaves: the tensors by name, as `tree.flatten` names them. They must not change meanwhile.
        digests: of each (`hashing.digest`); of a shard, that of the whole tensor. None if there
            are no shards: each is found while others are on their way to the store.
        rank: tells this process's packs from the others'.
        options: how it is written.
        seals: those that are known, as of `hashed` with the same options.
        kept: tensors of earlier checkpoints that this one has, too. `commit` would link them all:
            here it is done while others are on their way to the store.

    Raises:
        CheckpointError: it is a committed checkpoint already.
        CannotStore: a dtype that Zarr doesn't specify. Nothing was written.
        KeyMissing: this process lacks the key to encrypt with.
        OSError: of the store, unchanged, so that its errno tells a full disk.
    """
    options = options or Options()
    refuse_committed(store, identity)
    for name, leaf in leaves.items():
        if leaf.array.dtype.name not in STORABLE_DTYPES:
            raise CannotStore(f"{name} is an array of dtype {leaf.array.dtype}. Convert it first.")
    keys = keyring() if key_of(options.codecs) else Keyring()
    part = _Part(store, identity, options, keys, seals or {})
    small = {n: v for n, v in leaves.items() if _is_small(v, options)}
    jobs: list[Callable[[], list[TensorRecord]]] = [
        partial(_write_array, part, name, leaf, None if digests is None else digests[name])
        for name, leaf in leaves.items()
        if name not in small
    ]
    jobs += [
        partial(_write_pack, part, key, pack, digests)
        for key, pack in _packs(small, rank, options).items()
    ]
    with ThreadPoolExecutor(1, "checkpoint-link") as side:
        linked = side.submit(_link, store, links_of(identity, kept))
        done = _run(jobs, options.threads or store.threads)
        linked.result()
    records = {record.name: record for job in done for record in job}
    store.flush()
    return {name: records[name] for name in leaves}


def write_documents(
    store: ObjectStore, identity: str, documents: Mapping[str, Json], key_id: str = ""
) -> dict[str, DocumentRecord]:
    """Write state documents; return their records by name. `commit` makes them durable.

    Names that begin with `rank-` are for what differs by rank (see `checkpoint_digest`). They
    are encrypted with the key of this id, "" for none.

    Raises:
        CheckpointError: it is a committed checkpoint already.
        CannotStore: a document isn't strict JSON (`tree.flatten` makes it so).
        KeyMissing: this process lacks the key.
        OSError: of the store, unchanged.
    """
    refuse_committed(store, identity)
    key = keyring().find(key_id, f"Checkpoint {identity}") if key_id else None
    records = {}
    for name, document in documents.items():
        data = group_json({"document": document}, name)
        plain = ""
        if key is not None:
            plain = hashlib.sha256(data).hexdigest()
            hidden = envelope(key, join(identity, document_key(name)), document)
            data = group_json({"document": hidden}, name)
        store.put(join(identity, document_key(name)), [data])
        records[name] = DocumentRecord(name, hashlib.sha256(data).hexdigest(), len(data), plain)
    return records


def commit(store: ObjectStore, manifest: Manifest) -> None:
    """Make it a checkpoint, atomically and durably, by creating its root group.

    Call it once all parts and documents in the manifest are written. Who may commit is decided
    elsewhere (the epoch in the id; the journal moves the head). If this process dies meanwhile,
    the checkpoint is there or it isn't: ask `is_committed`.

    Raises:
        CheckpointError: it is committed already, or something in the manifest isn't there.
        CannotStore: `manifest.info` isn't strict JSON.
        OSError: of the store, unchanged.
    """
    identity = manifest.id
    refuse_committed(store, identity)
    _check_written(store, manifest)
    body = manifest_json(manifest)
    attributes: dict[str, Json] = {"resilient_nb": body, "resilient_nb_sha256": sha256(body)}
    data = group_json(attributes, "the manifest")
    for group in groups(manifest):
        store.put(join(identity, group, "zarr.json"), [GROUP])
    _link(store, links(manifest))
    store.flush()
    try:
        store.create(join(identity, "zarr.json"), data)
    except FileExistsError:
        refuse_committed(store, identity)
        raise


def is_committed(store: ObjectStore, identity: str) -> bool:
    """Return whether there is a checkpoint; one whose manifest was damaged counts."""
    return root_of(store, identity) is not None


def root_of(store: ObjectStore, identity: str) -> bytes | None:
    """Return a checkpoint's root group, with the manifest in it; None if there is none."""
    try:
        data = store.read(join(identity, "zarr.json"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if _is_bare(data) else data


def _is_bare(data: bytes) -> bool:
    """Whether it is a group that `zarr.open_group` made where somebody opened half a checkpoint.

    A damaged manifest isn't: it must not be taken for debris.
    """
    try:
        return len(data) < 1000 and json.loads(data)["attributes"] == {}
    except (ValueError, KeyError, TypeError):
        return False


def refuse_committed(store: ObjectStore, identity: str) -> None:
    """Raise CheckpointError if there is a checkpoint already: it never changes."""
    if is_committed(store, identity):
        raise CheckpointError(
            f"{store.url}/{identity} is a committed checkpoint, which never changes. Write "
            "the new one to the path of its own step and epoch."
        )


def merge(records: Sequence[TensorRecord]) -> TensorRecord:
    """Return the record of a tensor whose chunks several ranks have written."""
    if len(records) == 1:
        return records[0]
    sums = {name: text for record in records for name, text in record.sums.items()}
    stored = sum(record.stored for record in records)
    return replace(records[0], sums=dict(sorted(sums.items())), stored=stored)


def shards_digest(shards: Mapping[tuple[int, ...], str]) -> str:
    """Return the digest of a tensor whose chunks have these."""
    return digest_of(f"{chunk_name(index)} {shards[index]}" for index in sorted(shards))


def _link(store: ObjectStore, found: Mapping[str, str]) -> None:
    for key, target in found.items():
        store.link(key, target)


def _run(jobs: Sequence[Callable[[], _T]], threads: int) -> list[_T]:
    """Return what jobs return, in their order. After one has failed no other begins."""
    if threads <= 1 or len(jobs) <= 1:
        return [job() for job in jobs]
    found: dict[int, _T] = {}
    failed: list[BaseException] = []

    def work(number: int) -> None:
        if failed:
            return
        try:
            found[number] = jobs[number]()
        except BaseException as error:
            failed.append(error)

    with ThreadPoolExecutor(threads, "checkpoint-write") as pool:
        for number in range(len(jobs)):
            pool.submit(work, number)
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(jobs))]


def _is_small(leaf: TensorLeaf, options: Options) -> bool:
    return leaf.shard is None and leaf.array.nbytes < options.pack_bytes


def _write_array(part: _Part, name: str, leaf: TensorLeaf, found: str | None) -> list[TensorRecord]:
    array, shard, key = leaf.array, leaf.shard, safe_key(name)
    shape = shard.shape if shard else array.shape
    chunk = shard.chunk if shard else split(shape, array.itemsize, part.options.chunk_bytes)
    size = int(np.prod(chunk, dtype=np.int64)) * array.itemsize
    codecs = part.codecs(key, array.itemsize, size)
    meta = array_json(shape, array.dtype.name, chunk, codecs, _torch(leaf))
    part.store.put(join(part.identity, key, "zarr.json"), [meta])
    if shard is None:
        data = raw(array)
        pieces = {n: _padded(data[at], size) for n, at in row_chunks(shape, chunk, array.itemsize)}
    else:
        pieces = {chunk_name(shard.index): _padded_shard(leaf)} if array.size else {}
    assert found is not None or shard is None, f"{name} is a part, whose whole isn't known here"
    whole = xxhash.xxh3_128() if found is None and not codecs else None
    done = {}
    for n, piece in pieces.items():
        sealing = Sealing(piece, whole, part.seals.get((name, n)) if whole is None else None)
        done[n] = part.put_chunk(key, n, codecs, sealing)
        whole = sealing.whole
    found = found or _digest_made(whole, array)
    return [
        TensorRecord(
            name, part.identity, key, shape, array.dtype.name, leaf.torch_dtype, found,
            int(np.prod(shape, dtype=np.int64)) * array.itemsize, chunk,
            {n: done[n][0] for n in sorted(done)},
            codecs=part.options.codecs, stored=sum(stored for _, stored in done.values()),
        )
    ]  # fmt: skip


def _padded(data: Bytes, size: int) -> list[Bytes]:
    """Return a chunk's pieces: Zarr's chunks all have one size."""
    return [data] if data.size == size else [data, np.zeros(size - data.size, np.uint8)]


def _padded_shard(leaf: TensorLeaf) -> list[Bytes]:
    shard = leaf.shard
    assert shard is not None
    if leaf.array.shape == shard.chunk:
        return [raw(leaf.array)]
    whole = np.zeros(shard.chunk, leaf.array.dtype)
    whole[tuple(slice(n) for n in leaf.array.shape)] = leaf.array
    return [raw(whole)]


def _packs(
    small: Mapping[str, TensorLeaf], rank: int, options: Options
) -> dict[str, dict[str, TensorLeaf]]:
    """Divide small tensors into packs: by tracked object, dtype and size."""
    packs: dict[str, dict[str, TensorLeaf]] = {}
    filled: dict[tuple[str, str], int] = {}
    for name, leaf in small.items():
        kind = name.partition("/")[0], leaf.array.dtype.name
        at = filled.get(kind, 0)
        filled[kind] = at + leaf.array.nbytes
        key = pack_key(kind[0], rank, kind[1], at // options.chunk_bytes)
        packs.setdefault(key, {})[name] = leaf
    return packs


def _write_pack(
    part: _Part, key: str, pack: Mapping[str, TensorLeaf], digests: Mapping[str, str] | None
) -> list[TensorRecord]:
    dtype = next(iter(pack.values())).array.dtype
    offsets, length = {}, 0
    for name, leaf in pack.items():
        offsets[name], length = length, length + leaf.array.size
    contents: dict[str, Json] = {
        name: {"offset": offsets[name], "shape": list(leaf.array.shape), **_torch(leaf)}
        for name, leaf in pack.items()
    }
    chunk = (max(1, length),)
    codecs = part.codecs(key, dtype.itemsize, chunk[0] * dtype.itemsize)
    meta = array_json((length,), dtype.name, chunk, codecs, {"tensors": contents})
    part.store.put(join(part.identity, key, "zarr.json"), [meta])
    values = {name: raw(leaf.array) for name, leaf in pack.items()}
    digests = digests or {name: digest(leaf.array) for name, leaf in pack.items()}
    name_of_chunk, whole, stored = chunk_name((0,)), "", 0
    if length:
        whole, stored = part.put_chunk(key, name_of_chunk, codecs, Sealing([*values.values()]))
    total = max(1, sum(value.size for value in values.values()))

    def sums(value: Bytes) -> dict[str, str]:
        if not length:
            return {}
        # What isn't encoded can be read, and verified, by itself.
        return {name_of_chunk: whole if part.options.codecs else xxh3(value)}

    return [
        TensorRecord(
            name, part.identity, key, leaf.array.shape, dtype.name, leaf.torch_dtype,
            digests[name], leaf.array.nbytes, leaf.array.shape, sums(values[name]),
            offset=offsets[name], codecs=part.options.codecs,
            stored=stored * values[name].size // total,
        )
        for name, leaf in pack.items()
    ]  # fmt: skip


def _torch(leaf: TensorLeaf) -> dict[str, Json]:
    return {} if leaf.torch_dtype is None else {"torch_dtype": leaf.torch_dtype}


def _check_written(store: ObjectStore, manifest: Manifest) -> None:
    """Every object of this checkpoint that the manifest relies on must be there."""
    there = {entry.key for entry in store.list(manifest.id)}
    wanted = {
        join(manifest.id, t.key, name): t.name
        for t in manifest.tensors
        if t.at == manifest.id
        for name in ("zarr.json", *t.sums)
    }
    wanted |= {join(manifest.id, document_key(d.name)): d.name for d in manifest.documents}
    missing = sorted({name for key, name in wanted.items() if key not in there})
    if missing:
        raise CheckpointError(
            f"Checkpoint {manifest.id} can't be committed: {', '.join(missing[:5])} "
            f"({len(missing)} in all) not written. Write every part before the commit."
        )
    for t in manifest.tensors:
        if t.offset is None and len(t.sums) != chunk_count(t.shape, t.chunk):
            raise CheckpointError(
                f"Checkpoint {manifest.id} can't be committed: of {t.name} there are "
                f"{len(t.sums)} of {chunk_count(t.shape, t.chunk)} parts. If it is sharded, track "
                "it on every rank of its mesh."
            )
