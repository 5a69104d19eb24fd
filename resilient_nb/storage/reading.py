"""Reading checkpoints: every byte is verified, and only the bytes that are asked for are read.

A missing chunk is an error, and never fill values. Whatever is wrong is raised as
CorruptCheckpoint, which names the checkpoint and the tensor or document.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import product
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from resilient_nb.config import read_place
from resilient_nb.errors import CannotStore, CheckpointError, CorruptCheckpoint
from resilient_nb.storage.encoding import Codecs, decode, fit
from resilient_nb.storage.encryption import opened
from resilient_nb.storage.hashing import Bytes, xxh3
from resilient_nb.storage.keys import Keyring, keyring
from resilient_nb.storage.manifest import (
    FORMAT,
    DocumentRecord,
    Manifest,
    TensorRecord,
    manifest_at_once,
    manifest_from,
    revealed,
)
from resilient_nb.storage.objects import ObjectStore, StrPath, join
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.tree import Json, TensorLeaf
from resilient_nb.storage.writing import root_of
from resilient_nb.storage.zarr3 import chunk_name, document_key, group_json, sha256

Array = npt.NDArray[Any]
_Record = TypeVar("_Record")

# What is around the manifest in a root group, as `commit` writes it.
_BEFORE = b'{"zarr_format":3,"node_type":"group","attributes":{"resilient_nb":'
_BEHIND, _END = b',"resilient_nb_sha256":"', b'"}}'
#: Small tensors of less than this together take steps of Python more than they take reads: in
#: several threads these would wait for each other.
_LITTLE = 1 << 20
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO)


def open_checkpoint(where: StrPath) -> Checkpoint:
    """Open a committed checkpoint by its path or URL, `STORE/runs/RUN/STEP-eEPOCH`.

    Raises: as `open_at`.
    """
    place = read_place(os.fspath(where)).rstrip("/")
    root, run, step = place.rsplit("/", 2)
    return open_at(open_store(root or "/"), join(run, step))


def open_at(store: ObjectStore, identity: str, *, private: bool = True) -> Checkpoint:
    """Open a committed checkpoint of a store of runs and read its manifest.

    Args:
        store: of all runs.
        identity: of the checkpoint.
        private: if it is encrypted, decrypt what its manifest hides. Without it no key is
            needed: for those who only count, move or verify what is stored.

    Raises:
        CheckpointError: there is none, or another version of resilient_nb wrote it.
        CorruptCheckpoint: the manifest was damaged.
        KeyMissing: it is encrypted, and this process lacks the key.
    """
    place = f"{store.url}/{identity}"
    data = root_of(store, identity)
    if data is None:
        raise CheckpointError(f"{place} holds no committed checkpoint.")
    text = _intact(data)
    manifest = manifest_at_once(text) if text is not None else None
    if manifest is not None:
        return Checkpoint(store, identity, manifest)
    try:
        body, intact = _body(data, text)
    except (ValueError, KeyError, TypeError, CannotStore) as error:
        raise _damaged(identity, "the manifest", f"is unreadable ({error})") from error
    if not intact:
        raise _damaged(identity, "the manifest", "doesn't match its digest")
    if body["format"] != FORMAT:
        newer = body["format"] > FORMAT
        raise CheckpointError(
            f"{place} has format {body['format']}; this resilient_nb reads {FORMAT}. "
            + ("Update resilient_nb." if newer else "Train it again: it is of before 0.1.0.")
        )
    try:
        shown = revealed(body) if private else body
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(identity, "the manifest", str(error)) from error
    try:
        manifest = manifest_from(shown)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place} was written by another version ({error}).") from error
    return Checkpoint(store, identity, manifest)


def _intact(data: bytes) -> bytes | None:
    """Return the manifest's text in a root group that is as `commit` wrote it, else None."""
    text = data[len(_BEFORE) : data.rfind(_BEHIND)]
    total = hashlib.sha256(text).hexdigest().encode()
    return text if data == b"".join((_BEFORE, text, _BEHIND, total, _END)) else None


def _body(data: bytes, text: bytes | None) -> tuple[dict[str, Any], bool]:
    """Return the manifest in a root group, whose `text` may be intact, and whether it is.

    As `commit` writes it, the sum is of the very text. Where another Zarr tool has written the
    attributes anew, it is of what they say.
    """
    if text is not None:
        return json.loads(text), True
    attributes = json.loads(data)["attributes"]
    body = attributes["resilient_nb"]
    return body, attributes["resilient_nb_sha256"] == sha256(body)


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
        self._own = manifest.id

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

    def place(self, record: TensorRecord) -> str:
        """Return the key of the array that holds a tensor."""
        return join(self.identity if record.at == self._own else record.at, record.key)

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
        packs: dict[tuple[str, str], list[tuple[TensorRecord, Array]]] = {}
        cut: list[tuple[Array, Array]] = []
        for name, target in targets.items():
            record, start = self.record(name), (starts or {}).get(name)
            self._check_fit(record, target, start)
            if record.offset is None:
                jobs += self._array_jobs(record, target, start or (0,) * target.ndim)
                continue
            if start is not None:  # packed tensors are small: read it all
                whole = np.empty(record.shape, target.dtype)
                cut.append((target, whole[_slices(start, target.shape)]))
                target = whole
            packs.setdefault((record.at, record.key), []).append((record, target))
        little: list[Callable[[], None]] = []
        for wanted in packs.values():
            size = sum(target.nbytes for _, target in wanted)
            job = partial(self._read_pack, self.place(wanted[0][0]), wanted)
            (little if size < _LITTLE else jobs).append(job)
        _run(jobs, little, self.store.threads if threads is None else threads)
        for target, part in cut:
            target[...] = part

    def _check_fit(
        self, record: TensorRecord, target: Array, start: tuple[int, ...] | None
    ) -> None:
        shape = target.shape
        if start is None:
            fits = shape == record.shape
        else:
            fits = len(start) == len(shape) == len(record.shape) and all(
                0 <= a <= a + n <= whole
                for a, n, whole in zip(start, shape, record.shape, strict=True)
            )
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

    def _codecs(self, record: TensorRecord) -> Codecs:
        array = join(record.at, record.key)
        return fit(record.codecs, array, np.dtype(record.dtype).itemsize, _chunk_bytes(record))

    # --- arrays -------------------------------------------------------------------------

    def _array_jobs(
        self, record: TensorRecord, target: Array, start: tuple[int, ...]
    ) -> Iterator[Callable[[], None]]:
        """Give a job for each chunk that `target`, the part from `start` on, has a share of."""
        if not target.size:
            return
        size = _chunk_bytes(record)
        ranges = [
            range(a // c, -(-(a + n) // c))
            for a, n, c in zip(start, target.shape, record.chunk, strict=True)
        ]
        for index in product(*ranges):
            source, to = _overlap(index, record.chunk, start, target.shape)
            name, piece = chunk_name(index), _view(target, to)
            if piece.flags.c_contiguous and _is_beginning(source, record.chunk):
                data = piece.reshape(-1).view(np.uint8)
                yield partial(self._read_chunk, record, name, data, size)
            else:
                yield partial(self._read_share, record, name, piece, source)

    def _read_share(
        self, record: TensorRecord, name: str, piece: Array, source: tuple[slice, ...]
    ) -> None:
        """Fill `piece` with a part of a chunk that doesn't lie in it as it does in memory."""
        chunk = np.empty(record.chunk, piece.dtype)
        data = chunk.reshape(-1).view(np.uint8)
        self._read_chunk(record, name, data, data.size)
        piece[...] = _view(chunk, source)

    def _read_chunk(self, record: TensorRecord, name: str, data: Bytes, size: int) -> None:
        """Fill `data` from a chunk of `size` bytes, and verify the whole of it."""
        key = join(self.place(record), name)

        def read() -> None:
            if name not in record.sums:
                raise ValueError(f"the manifest doesn't know chunk {name}")
            if record.codecs:
                stored = self._whole(key, record.sums[name])
                plain = decode(self._codecs(record), stored, name, self._keys)
                found = np.frombuffer(plain, np.uint8)
                if found.size != size:
                    raise ValueError(f"has a chunk of the wrong size ({key})")
                data[:] = found[: data.size]
            else:
                self._plain(key, data, size, record.sums[name])

        self._checked(record.name, read)

    def _plain(self, key: str, data: Bytes, size: int, wanted: str) -> None:
        """Read and sum up block by block, while each is in the processor's cache."""
        found, block = xxhash.xxh3_64(), self.store.block
        for at in range(0, data.size, block):
            piece = data[at : at + block]
            if self.store.read_into(key, at, piece.data) != piece.size:
                raise ValueError(f"has a chunk of the wrong size ({key})")
            found.update(piece.data)
        rest = np.empty(size - data.size + 5, np.uint8)  # padding, its crc32c, and nothing more
        if self.store.read_into(key, data.size, rest.data) != rest.size - 1:
            raise ValueError(f"has a chunk of the wrong size ({key})")
        found.update(rest[:-1].data)
        _match(key, found.hexdigest(), wanted)

    def _whole(self, key: str, wanted: str) -> memoryview:
        stored = np.frombuffer(self.store.read(key), np.uint8)
        _match(key, xxh3(stored), wanted)
        return stored[:-4].data

    def _read_pack(self, key: str, wanted: list[tuple[TensorRecord, Array]]) -> None:
        """Fill several tensors of one pack; the bytes between them are not read."""
        wanted = [(r, t) for r, t in sorted(wanted, key=lambda w: w[0].offset or 0) if t.size]
        if not wanted:
            return
        name = chunk_name((0,))
        chunk = join(key, name)
        if wanted[0][0].codecs:
            first = wanted[0][0]
            wanted_sum = next(iter(first.sums.values()))
            codecs = self._codecs(first)
            plain = self._checked(
                first.name, lambda: decode(codecs, self._whole(chunk, wanted_sum), name, self._keys)
            )
            data = np.frombuffer(plain, np.uint8)
            for record, target in wanted:
                at = (record.offset or 0) * target.itemsize
                _copy(data[at : at + record.nbytes], target)
            return
        for run in _neighbours(wanted):
            self._read_run(chunk, run)

    def _read_run(self, chunk: str, run: list[tuple[TensorRecord, Array]]) -> None:
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
            if error.errno not in _GONE:
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
        raise _damaged(self.identity, name, why) from None


def _damaged(checkpoint: str, what: str, why: str) -> CorruptCheckpoint:
    text = f"Checkpoint {checkpoint} is damaged: {what} {why}."
    return CorruptCheckpoint(f"{text} Use an earlier checkpoint of the run.", checkpoint)


def _match(key: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"has a chunk that doesn't match its checksum ({key})")


def _slices(start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def _view(array: Array, at: tuple[slice, ...]) -> Array:
    where: Any = (*at, ...)  # of an array without dimensions a view, too
    view: Array = array[where]
    return view


def _overlap(
    index: tuple[int, ...],
    chunk: tuple[int, ...],
    start: tuple[int, ...],
    shape: tuple[int, ...],
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return which of a chunk is in the part from `start` on, and where in the part it is."""
    source, to = [], []
    for i, c, a, n in zip(index, chunk, start, shape, strict=True):
        low, high = max(i * c, a), min((i + 1) * c, a + n)
        source.append(slice(low - i * c, high - i * c))
        to.append(slice(low - a, high - a))
    return tuple(source), tuple(to)


def _is_beginning(source: tuple[slice, ...], chunk: tuple[int, ...]) -> bool:
    """Whether a share of a chunk is the first of its bytes: whole rows from the first on."""
    return all(s.start == 0 for s in source) and all(
        s.stop == n for s, n in zip(source[1:], chunk[1:], strict=True)
    )


def _chunk_bytes(record: TensorRecord) -> int:
    return int(np.prod(record.chunk, dtype=np.int64)) * np.dtype(record.dtype).itemsize


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


def _copy(data: Bytes, target: Array) -> None:
    target[...] = data.view(target.dtype).reshape(target.shape)


def _neighbours(
    wanted: list[tuple[TensorRecord, Array]],
) -> Iterator[list[tuple[TensorRecord, Array]]]:
    """Divide tensors of one pack, in order, into those that follow each other without a gap."""
    run: list[tuple[TensorRecord, Array]] = []
    end = -1
    for record, target in wanted:
        if run and record.offset != end:
            yield run
            run = []
        run.append((record, target))
        end = (record.offset or 0) + target.size
    yield run
