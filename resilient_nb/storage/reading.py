"""Reading checkpoints: every byte is verified, and only the bytes that are asked for are read.

A missing chunk is an error, and never fill values. Whatever is wrong is raised as
CorruptCheckpoint, which names the checkpoint and the tensor or document.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NoReturn, TypeVar

import numpy as np

from resilient_nb.errors import CheckpointError, CorruptCheckpoint
from resilient_nb.storage import chunks
from resilient_nb.storage.chunks import Wanted, array_codecs, chunk_bytes
from resilient_nb.storage.encoding import decode
from resilient_nb.storage.encryption import opened
from resilient_nb.storage.hashing import Bytes, xxh3
from resilient_nb.storage.keys import Keyring, keyring
from resilient_nb.storage.manifest import DocumentRecord, Manifest, TensorRecord
from resilient_nb.storage.objects import Buffer, ObjectStore, join
from resilient_nb.storage.regions import Slices, is_beginning, is_within, shares, slices, view
from resilient_nb.storage.tree import Array, Json, TensorLeaf
from resilient_nb.storage.zarr3 import chunk_name, document_key, group_json

_Record = TypeVar("_Record")

#: Small tensors of less than this together take steps of Python more than they take reads: in
#: several threads these would wait for each other.
_LITTLE = 1 << 20
#: What is no store that is out of reach; a folder may be in an object's place.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


class Checkpoint:
    """A committed checkpoint, open for reading. Threads may share it.

    Attributes:
        store: of all runs.
        identity: where it is in the store.
        manifest: what it says of itself.
    """

    def __init__(self, store: ObjectStore, identity: str, manifest: Manifest) -> None:
        self.store = store
        self.identity = identity
        self.manifest = manifest
        self._tensors = {record.name: record for record in manifest.tensors}
        self._documents = {record.name: record for record in manifest.documents}

    @property
    def path(self) -> str:
        """Where it is: a path or URL."""
        return f"{self.store.url}/{self.identity}"

    def names(self) -> list[str]:
        """Return the names of all tensors, in the manifest's order."""
        return list(self._tensors)

    def record(self, name: str) -> TensorRecord:
        """Return what the manifest says of a tensor.

        Raises:
            CheckpointError: there is none of this name.
        """
        return self._find(self._tensors, name)

    def _place(self, record: TensorRecord) -> str:
        """Return the key of the array that holds a tensor."""
        return join(self.identity if record.at == self.manifest.id else record.at, record.key)

    def read(self, name: str) -> TensorLeaf:
        """Return one tensor, in memory of its own."""
        return self.read_many([name])[name]

    def read_many(
        self, names: Iterable[str], *, threads: int | None = None
    ) -> dict[str, TensorLeaf]:
        """Return several tensors by name, read in parallel if they are large."""
        records = [self.record(name) for name in names]
        arrays = {r.name: np.empty(r.shape, np.dtype(r.dtype).newbyteorder("<")) for r in records}
        self.read_into(arrays, threads=threads)
        return {r.name: TensorLeaf(arrays[r.name], r.torch_dtype) for r in records}

    def read_into(
        self,
        targets: Mapping[str, Array],
        starts: Mapping[str, tuple[int, ...]] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        """Fill arrays with the tensors of these names, or with parts of them.

        If one is damaged, some targets have been filled already.

        Args:
            targets: C-contiguous arrays of the tensors' dtypes by name, and of their shapes,
                unless they are parts.
            starts: the index at which a part begins, by name.
            threads: how many read at once; None for what the store likes.

        Raises:
            CheckpointError: there is no such tensor, or it doesn't fit its target.
            CorruptCheckpoint: a tensor is missing or damaged.
        """
        jobs: list[Callable[[], None]] = []
        packs: dict[tuple[str, str], list[Wanted]] = {}
        cut: list[tuple[Array, Array]] = []
        for name, target in targets.items():
            record, start = self.record(name), (starts or {}).get(name)
            self._check_fit(record, target, start)
            if record.offset is None:
                jobs += self._array_jobs(record, target, start or (0,) * target.ndim)
                continue
            if start is not None:  # packed tensors are small: read it all
                whole = np.empty(record.shape, target.dtype)
                cut.append((target, whole[slices(start, target.shape)]))
                target = whole
            packs.setdefault((record.at, record.key), []).append((record, target))
        little: list[Callable[[], None]] = []
        for wanted in packs.values():
            size = sum(target.nbytes for _, target in wanted)
            job = partial(self._read_pack, self._place(wanted[0][0]), wanted)
            (little if size < _LITTLE else jobs).append(job)
        _run(jobs, little, self.store.threads if threads is None else threads)
        for target, part in cut:
            target[...] = part

    def _check_fit(
        self, record: TensorRecord, target: Array, start: tuple[int, ...] | None
    ) -> None:
        shape = target.shape
        fits = shape == record.shape if start is None else is_within(start, shape, record.shape)
        if not fits or target.dtype != np.dtype(record.dtype):
            part = "" if start is None else f" from {list(start)} on"
            raise CheckpointError(
                f"{record.name} of {self.manifest.id} is {record.dtype}{list(record.shape)}; it "
                f"doesn't fit {target.dtype}{list(shape)}{part}."
            )

    def read_region(self, name: str, start: tuple[int, ...], shape: tuple[int, ...]) -> TensorLeaf:
        """Return the part of a tensor that begins at index `start`; reads the chunks it is in."""
        record = self.record(name)
        target = np.empty(shape, np.dtype(record.dtype).newbyteorder("<"))
        self.read_into({name: target}, {name: start})
        return TensorLeaf(target, record.torch_dtype)

    def document(self, name: str) -> Json:
        """Return one state document."""
        record = self._find(self._documents, name)
        data = self._checked(name, lambda: self.store.read(join(self.identity, document_key(name))))
        if hashlib.sha256(data).hexdigest() != record.sha256:
            self._fail(name, "doesn't match its digest")
        document: Json = json.loads(data)["attributes"]["document"]
        return self._decrypted(record, document) if record.plain else document

    def _decrypted(self, record: DocumentRecord, hidden: Any) -> Json:
        what = f"Checkpoint {self.manifest.id}"
        thing = join(self.manifest.id, document_key(record.name))
        found: Json = self._checked(record.name, lambda: opened(hidden, thing, what, self._keys))
        data = group_json({"document": found}, record.name)
        if hashlib.sha256(data).hexdigest() != record.plain:
            self._fail(record.name, "doesn't match its digest")
        return found

    @cached_property
    def _keys(self) -> Keyring:
        return keyring()

    # --- arrays -------------------------------------------------------------------------

    def _array_jobs(
        self, record: TensorRecord, target: Array, start: tuple[int, ...]
    ) -> Iterator[Callable[[], None]]:
        """Give a job for each chunk that `target`, the part from `start` on, has a share of."""
        size = chunk_bytes(record)
        for index, source, to in shares(record.chunk, start, target.shape):
            name, piece = chunk_name(index), view(target, to)
            if piece.flags.c_contiguous and is_beginning(source, record.chunk):
                data = piece.reshape(-1).view(np.uint8)
                yield partial(self._read_chunk, record, name, data, size)
            else:
                yield partial(self._read_share, record, name, piece, source)

    def _read_share(self, record: TensorRecord, name: str, piece: Array, source: Slices) -> None:
        """Fill `piece` with a part of a chunk that doesn't lie in it as it does in memory."""
        chunk = np.empty(record.chunk, piece.dtype)
        data = chunk.reshape(-1).view(np.uint8)
        self._read_chunk(record, name, data, data.size)
        piece[...] = view(chunk, source)

    def _read_chunk(self, record: TensorRecord, name: str, data: Bytes, size: int) -> None:
        """Fill `data` from a chunk of `size` bytes, and verify the whole of it."""
        key = join(self._place(record), name)

        def read() -> None:
            if name not in record.sums:
                raise ValueError(f"the manifest doesn't know chunk {name}")
            if record.codecs:
                stored = chunks.read_encoded(self.store, key, record.sums[name])
                plain = decode(array_codecs(record), stored, name, self._keys)
                found = np.frombuffer(plain, np.uint8)
                if found.size != size:
                    raise chunks.wrong_size(key)
                data[:] = found[: data.size]
            else:
                chunks.read_plain(self.store, key, data, size, record.sums[name])

        self._checked(record.name, read)

    def _read_pack(self, key: str, wanted: list[Wanted]) -> None:
        """Fill several tensors of one pack; the bytes between them are not read."""
        wanted = [(r, t) for r, t in sorted(wanted, key=lambda w: w[0].offset or 0) if t.size]
        if not wanted:
            return
        name = chunk_name((0,))
        chunk = join(key, name)
        first = wanted[0][0]
        if first.codecs:
            total, codecs = next(iter(first.sums.values())), array_codecs(first)

            def read() -> Buffer:
                stored = chunks.read_encoded(self.store, chunk, total)
                return decode(codecs, stored, name, self._keys)

            data = np.frombuffer(self._checked(first.name, read), np.uint8)
            for record, target in wanted:
                at = (record.offset or 0) * target.itemsize
                _copy(data[at : at + record.nbytes], target)
            return
        for run in chunks.neighbours(wanted):
            self._read_run(chunk, run)

    def _read_run(self, chunk: str, run: list[Wanted]) -> None:
        """Fill tensors that lie one after the other with one read."""
        start = (run[0][0].offset or 0) * run[0][1].itemsize
        data = np.empty(sum(record.nbytes for record, _ in run), np.uint8)
        count = self._checked(run[0][0].name, lambda: self.store.read_into(chunk, start, data.data))
        at = 0
        for record, target in run:
            piece = data[at : at + record.nbytes]
            at += record.nbytes
            if at > count:
                self._fail(record.name, f"has a chunk of the wrong size ({chunk})")
            if xxh3(piece) not in record.sums.values():
                self._fail(record.name, f"doesn't match its checksum ({chunk})")
            _copy(piece, target)

    # --- failures -----------------------------------------------------------------------

    def _checked(self, name: str, read: Callable[[], _Record]) -> _Record:
        try:
            return read()
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            self._fail(name, f"can't be read ({error})")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            self._fail(name, str(error))

    def _find(self, records: Mapping[str, _Record], name: str) -> _Record:
        if name not in records:
            raise CheckpointError(
                f"Checkpoint {self.manifest.id} has no {name!r}. It has: {', '.join(records)}."
            )
        return records[name]

    def _fail(self, name: str, why: str) -> NoReturn:
        raise damaged(self.identity, name, why) from None


def damaged(checkpoint: str, what: str, why: str) -> CorruptCheckpoint:
    """Return what to raise of a part of a checkpoint, for a user."""
    text = f"Checkpoint {checkpoint} is damaged: {what} {why}."
    return CorruptCheckpoint(f"{text} Use an earlier checkpoint of the run.", checkpoint)


def _copy(data: Bytes, target: Array) -> None:
    target[...] = data.view(target.dtype).reshape(target.shape)


def _run(jobs: list[Callable[[], None]], little: list[Callable[[], None]], threads: int) -> None:
    """Do all jobs, the little ones in this thread beside others. After a failure none begins."""
    if threads <= 1 or len(jobs) + len(little) <= 1:
        for job in (*jobs, *little):
            job()
        return
    with ThreadPoolExecutor(threads, "checkpoint-read") as pool:
        done = [pool.submit(job) for job in jobs]
        try:
            for job in little:
                job()
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
