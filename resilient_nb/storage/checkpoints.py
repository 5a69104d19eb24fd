"""One checkpoint: a plain Zarr v3 group in a local directory, committed by its last file.

    PATH/zarr.json                   root group; the manifest is in its attributes; written last
    PATH/model/zarr.json             one group per tracked object
    PATH/model/0.weight/zarr.json    one array per tensor, and beside it
    PATH/model/0.weight/c.0.0        its chunks: little-endian values, then their crc32c
    PATH/state/shared/zarr.json      one group per state document, which is in its attributes

Any Zarr v3 reader opens it without us: `zarr.open_group(path)["model/0.weight"]`. Documents are
groups since Zarr readers warn of foreign files in a hierarchy.

Every rank calls `write_part` and `write_documents`, all on one path and at once; when all have
returned, one process calls `commit`. A directory without a manifest is no checkpoint. The path
holds the epoch (`core.names.checkpoint_id`), so that two attempts never write to one place.

The layout is written and read directly: zarr-python 3.1 needs a few ms per array to create one
and 1 to 2 ms to open one, leaves out chunks that are all zeros, and reads a missing chunk as
zeros; here a missing chunk is an error. Only the leading axis is split into chunks, so that each
chunk is one contiguous piece of the array.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar
from urllib.parse import quote

import google_crc32c
import numpy as np
import numpy.typing as npt

from resilient_nb.core.names import checkpoint_id
from resilient_nb.errors import CannotStore, CheckpointError, CorruptCheckpoint
from resilient_nb.storage.tree import STORABLE_DTYPES, Json, TensorLeaf

FORMAT = 1
CHUNK_BYTES = 64 << 20

StrPath: TypeAlias = str | os.PathLike[str]
_Bytes: TypeAlias = npt.NDArray[np.uint8]
_Record = TypeVar("_Record")

_GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'

_CRC_BLOCK = 1 << 20  # crc32c holds the GIL: let the training thread in every 0.3 ms
_MAX_PIECE = 200  # file systems allow 255 bytes
_PLAIN = "!$&'()+,;=@^[]{} "  # beside letters, digits and _.-~
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO)


@dataclass(frozen=True)
class TensorRecord:
    """What the manifest says of one tensor. `digest` is of the raw bytes, as `digest()` gives."""

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    torch_dtype: str | None
    digest: str
    nbytes: int


@dataclass(frozen=True)
class DocumentRecord:
    """What the manifest says of one state document; `sha256` is of the file that holds it."""

    name: str
    sha256: str
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint is. `created_at` is in seconds since 1970; `parent` a checkpoint id."""

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
    info: dict[str, Json] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def id(self) -> str:
        """The checkpoint's identity, as `core.names.checkpoint_id` gives it."""
        return checkpoint_id(self.run, self.step, self.epoch)


def safe_key(name: str) -> str:
    """Return the Zarr key of a tensor name; no two names have one key.

    Plain names are their own key. The first '/' separates group and array; everything that Zarr
    or a file system could mistake is percent-encoded, further slashes too, so that no array lies
    inside another's directory.
    """
    group, slash, leaf = name.partition("/")
    reserved = "%73tate" if group == "state" else _safe_piece(group)
    return f"{reserved}/{_safe_piece(leaf) if slash else '%_'}"


def digest(array: npt.NDArray[Any]) -> str:
    """Return the crc32c of the array's little-endian bytes in C order, as 8 hex digits."""
    return f"{_crc(_raw(array)):08x}"


def write_part(
    path: StrPath, leaves: Mapping[str, TensorLeaf], *, chunk_bytes: int = CHUNK_BYTES
) -> dict[str, TensorRecord]:
    """Write tensors below `path` and make them durable; return their records by name.

    Other processes may write other tensors to the same path at the same time.

    Args:
        path: the checkpoint's directory, made if missing.
        leaves: the tensors by name, as `tree.flatten` names them. They must not change meanwhile.
        chunk_bytes: arrays larger than this are split along their leading axis.

    Raises:
        CheckpointError: `path` is a committed checkpoint already.
        CannotStore: a dtype that Zarr doesn't specify. Nothing was written.
        OSError: of the file system, unchanged, so that its errno tells a full disk.
    """
    _refuse_committed(path)
    for name, leaf in leaves.items():
        if leaf.array.dtype.name not in STORABLE_DTYPES:
            raise CannotStore(f"{name} is an array of dtype {leaf.array.dtype}. Convert it first.")
    records = {name: _write_tensor(path, name, leaf, chunk_bytes) for name, leaf in leaves.items()}
    for group in {record.key.partition("/")[0] for record in records.values()}:
        _write_group(Path(path, group), _GROUP)
    os.makedirs(path, exist_ok=True)
    _sync_filesystem(path)
    return records


def write_documents(path: StrPath, documents: Mapping[str, Json]) -> dict[str, DocumentRecord]:
    """Write state documents below `path`, durably; return their records by name.

    Names that begin with `rank-` are for what differs by rank (see `checkpoint_digest`).

    Raises:
        CheckpointError: `path` is a committed checkpoint already.
        CannotStore: a document isn't strict JSON (`tree.flatten` makes it so).
        OSError: of the file system, unchanged.
    """
    _refuse_committed(path)
    files = {name: _group_json({"document": doc}, name) for name, doc in documents.items()}
    _write_group(Path(path, "state"), _GROUP)
    for name, data in files.items():
        _write_group(_document_path(path, name).parent, data)
    _sync_filesystem(path)
    return {
        name: DocumentRecord(name, hashlib.sha256(data).hexdigest(), len(data))
        for name, data in files.items()
    }


def commit(path: StrPath, manifest: Manifest) -> None:
    """Make the directory a checkpoint, atomically and durably, by writing its root group.

    Call it once all parts and documents in the manifest are written. Who may commit is decided
    elsewhere (the epoch in the path; the journal moves the head). If this process dies meanwhile,
    the checkpoint is there or it isn't: ask `is_committed`.

    Raises:
        CheckpointError: `path` is committed already, or something in the manifest isn't there.
        CannotStore: `manifest.info` isn't strict JSON.
        OSError: of the file system, unchanged.
    """
    _refuse_committed(path)
    files = [(r.name, Path(path, r.key, "zarr.json")) for r in manifest.tensors]
    files += [(r.name, _document_path(path, r.name)) for r in manifest.documents]
    missing = [name for name, file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"Checkpoint {manifest.id} can't be committed: {', '.join(missing[:5])} "
            f"({len(missing)} in all) not written. Write every part before the commit."
        )
    body = _manifest_json(manifest)
    attributes: dict[str, Json] = {"resilient_nb": body, "resilient_nb_sha256": _sha256(body)}
    data = _group_json(attributes, "the manifest")
    private = Path(path, f".zarr.json.{uuid.uuid4().hex}")
    try:
        _write_durably(private, data)
        private.replace(Path(path, "zarr.json"))
    finally:
        private.unlink(missing_ok=True)
    _sync_directory(path)


def is_committed(path: StrPath) -> bool:
    """Return whether `path` holds a checkpoint; one whose manifest was damaged counts."""
    try:
        # Not the mere file: `zarr.open_group` makes one where a user opens a half-written path.
        return b'"resilient_nb"' in Path(path, "zarr.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False


def checkpoint_digest(manifest: Manifest) -> str:
    """Return a sha256 that is equal for equal state.

    It covers each tensor's name, dtypes, shape and digest, and each document's name and sha256,
    of everything whose name doesn't begin with `rank-`. It doesn't cover what is in the manifest
    besides: run, job, epoch, step, parent, world size, time, metrics, info, and Zarr keys.
    """
    tensors = [[r.name, r.dtype, r.torch_dtype, list(r.shape), r.digest] for r in manifest.tensors]
    documents = [[r.name, r.sha256] for r in manifest.documents]
    shared = [
        sorted(row for row in rows if not str(row[0]).startswith("rank-"))
        for rows in (tensors, documents)
    ]
    return _sha256(shared)


def open_checkpoint(path: StrPath) -> Checkpoint:
    """Open a committed checkpoint and read its manifest.

    Raises:
        CheckpointError: there is none at `path`, or a newer resilient_nb wrote it.
        CorruptCheckpoint: the manifest was damaged.
    """
    if not is_committed(path):
        raise CheckpointError(f"{os.fspath(path)} holds no committed checkpoint.")
    try:
        attributes = json.loads(Path(path, "zarr.json").read_bytes())["attributes"]
        body = attributes["resilient_nb"]
        intact = attributes["resilient_nb_sha256"] == _sha256(body)
    except (ValueError, KeyError, TypeError, CannotStore) as error:
        raise _damaged(os.fspath(path), "the manifest", f"is unreadable ({error})") from error
    if not intact:
        raise _damaged(os.fspath(path), "the manifest", "doesn't match its digest")
    if body["format"] > FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)} has format {body['format']}; this resilient_nb reads up to "
            f"{FORMAT}. Update resilient_nb."
        )
    return Checkpoint(path, _manifest_from(body))


class Checkpoint:
    """A committed checkpoint, open for reading. Threads may share it.

    Whatever is read is compared with its digest. CorruptCheckpoint names the checkpoint and the
    tensor or document that is missing or differs; CheckpointError, a name it never had.
    """

    def __init__(self, path: StrPath, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._tensors = {record.name: record for record in manifest.tensors}
        self._documents = {record.name: record for record in manifest.documents}

    def names(self) -> list[str]:
        """Return the names of all tensors, in the manifest's order."""
        return list(self._tensors)

    def read(self, name: str) -> TensorLeaf:
        """Return one tensor, in memory of its own."""
        record = self._find(self._tensors, name)
        try:
            array = _read_array(self.path / record.key, record)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._fail(name, f"can't be read ({error})")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            self._fail(name, str(error))
        return TensorLeaf(array, record.torch_dtype)

    def read_many(self, names: Iterable[str], *, threads: int = 2) -> dict[str, TensorLeaf]:
        """Return several tensors by name, read by that many threads if they are large."""
        wanted = list(names)
        size = sum(self._find(self._tensors, name).nbytes for name in wanted)
        if threads <= 1 or size < len(wanted) << 20:  # small ones: the GIL makes threads slower
            return {name: self.read(name) for name in wanted}
        with ThreadPoolExecutor(threads, "checkpoint-read") as pool:
            return dict(zip(wanted, pool.map(self.read, wanted), strict=True))

    def document(self, name: str) -> Json:
        """Return one state document."""
        record = self._find(self._documents, name)
        try:
            data = _document_path(self.path, name).read_bytes()
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._fail(name, f"can't be read ({error})")
        if hashlib.sha256(data).hexdigest() != record.sha256:
            self._fail(name, "doesn't match its digest")
        document: Json = json.loads(data)["attributes"]["document"]
        return document

    def _find(self, records: Mapping[str, _Record], name: str) -> _Record:
        if name not in records:
            raise CheckpointError(
                f"Checkpoint {self.manifest.id} has no {name!r}. It has: {', '.join(records)}."
            )
        return records[name]

    def _fail(self, name: str, why: str) -> NoReturn:
        raise _damaged(self.manifest.id, name, why) from None


def _damaged(checkpoint: str, what: str, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"Checkpoint {checkpoint} is damaged: {what} {why}. Use an earlier checkpoint of the run."
    )


def _refuse_committed(path: StrPath) -> None:
    if is_committed(path):
        raise CheckpointError(
            f"{os.fspath(path)} is a committed checkpoint, which never changes. Write the new one "
            "to the path of its own step and epoch."
        )


def _safe_piece(piece: str) -> str:
    text = quote(piece.encode("utf-8", "surrogatepass"), safe=_PLAIN)
    if text in ("c", "zarr.json") or text.startswith((".", "__")):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text) > _MAX_PIECE:
        text = f"{text[:150]}%~{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return text or "%"


def _document_path(path: StrPath, name: str) -> Path:
    return Path(path, "state", _safe_piece(name), "zarr.json")


def _dumps(value: object, what: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as error:
        raise CannotStore(f"{what} isn't strict JSON: {error}.") from error


def _sha256(value: object) -> str:
    return hashlib.sha256(_dumps(value, "the manifest").encode()).hexdigest()


def _group_json(attributes: Mapping[str, Json], what: str) -> bytes:
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return _dumps(group, what).encode()


def _manifest_json(manifest: Manifest) -> dict[str, Json]:
    body = asdict(manifest)
    # JSON has no nan, and a loss that became nan must not prevent the checkpoint.
    body["metrics"] = {
        name: float(value) if math.isfinite(value) else str(float(value))
        for name, value in manifest.metrics.items()
    }
    return body


def _manifest_from(body: dict[str, Any]) -> Manifest:
    tensors = [TensorRecord(**{**r, "shape": tuple(r["shape"])}) for r in body["tensors"]]
    documents = [DocumentRecord(**r) for r in body["documents"]]
    metrics = {name: float(value) for name, value in body["metrics"].items()}
    changed = {"tensors": tuple(tensors), "documents": tuple(documents), "metrics": metrics}
    return Manifest(**{**body, **changed})


# One array.


@dataclass(frozen=True)
class _Layout:
    """Where an array's chunks are: `chunk` is the shape of one, `size` its bytes."""

    chunk: tuple[int, ...]
    size: int
    nbytes: int

    def files(self, directory: Path) -> Iterator[tuple[Path, slice]]:
        """Give each chunk's file and which of the array's bytes it begins with."""
        for index, start in enumerate(range(0, self.nbytes, self.size)):
            piece = slice(start, min(start + self.size, self.nbytes))
            yield directory / ".".join(["c", str(index), *["0"] * len(self.chunk)][:-1]), piece


def _layout(shape: tuple[int, ...], itemsize: int, chunk_bytes: int) -> _Layout:
    nbytes = math.prod(shape) * itemsize
    if not shape:
        return _Layout((), itemsize, nbytes)
    chunks = min(max(1, -(-nbytes // chunk_bytes)), max(1, shape[0]))
    chunk = tuple(max(1, n) for n in (-(-shape[0] // chunks), *shape[1:]))
    return _Layout(chunk, math.prod(chunk) * itemsize, nbytes)


def _write_tensor(path: StrPath, name: str, leaf: TensorLeaf, chunk_bytes: int) -> TensorRecord:
    array, key = leaf.array, safe_key(name)
    layout = _layout(array.shape, array.itemsize, chunk_bytes)
    directory = Path(path, key)
    os.makedirs(directory, exist_ok=True)
    (directory / "zarr.json").write_bytes(_array_json(leaf, layout))
    raw, whole = _raw(array), 0
    for file, piece in layout.files(directory):
        whole = _write_chunk(file, raw[piece], layout.size, whole)
    return TensorRecord(
        name, key, array.shape, array.dtype.name, leaf.torch_dtype, f"{whole:08x}", array.nbytes
    )


def _write_chunk(file: Path, data: _Bytes, size: int, whole: int) -> int:
    """Write one chunk, padded to `size`; return `whole`, the crc of all before, with its data."""
    padding = np.zeros(size - data.size, np.uint8)
    extended = _crc(data, whole)
    crc = _crc(padding, _crc(data) if whole else extended)
    with open(file, "wb") as stream:
        for part in (data, padding):
            stream.write(part.data)
        stream.write(crc.to_bytes(4, "little"))
    return extended


def _read_array(directory: Path, record: TensorRecord) -> npt.NDArray[Any]:
    meta = json.loads((directory / "zarr.json").read_bytes())
    if (tuple(meta["shape"]), meta["data_type"]) != (record.shape, record.dtype):
        raise ValueError("has another shape or dtype than the manifest says")
    array = np.empty(record.shape, np.dtype(record.dtype).newbyteorder("<"))
    chunk = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    layout = _Layout(chunk, math.prod(chunk) * array.itemsize, array.nbytes)
    raw, whole = _raw(array), 0
    for file, piece in layout.files(directory):
        whole = _read_chunk(file, raw[piece], layout.size, whole)
    if f"{whole:08x}" != record.digest:
        raise ValueError("doesn't match its digest")
    return array


def _read_chunk(file: Path, data: _Bytes, size: int, whole: int) -> int:
    """Fill `data` from one chunk; return `whole`, the crc of all before, with its data."""
    with open(file, "rb") as stream:
        found = stream.readinto(data.data)
        rest = stream.read(size - data.size + 5)
    if found != data.size or len(rest) != size - data.size + 4:
        raise ValueError(f"has a chunk of the wrong size ({file.name})")
    extended = _crc(data, whole)
    crc = _crc(np.frombuffer(rest[:-4], np.uint8), _crc(data) if whole else extended)
    if crc != int.from_bytes(rest[-4:], "little"):
        raise ValueError(f"has a chunk that doesn't match its crc32c ({file.name})")
    return extended


def _array_json(leaf: TensorLeaf, layout: _Layout) -> bytes:
    kind = leaf.array.dtype.kind
    attributes = {} if leaf.torch_dtype is None else {"torch_dtype": leaf.torch_dtype}
    endian = {} if leaf.array.itemsize == 1 else {"configuration": {"endian": "little"}}
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": leaf.array.shape,
        "data_type": leaf.array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": layout.chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": {"b": False, "f": 0.0, "c": [0.0, 0.0]}.get(kind, 0),
        "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
        "attributes": attributes,
        "storage_transformers": [],
    }
    return _dumps(meta, "array metadata").encode()


def _raw(array: npt.NDArray[Any]) -> _Bytes:
    """Return the array's little-endian bytes in C order; a view where they lie so already."""
    ordered = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return ordered.reshape(-1).view(np.uint8)


def _crc(data: _Bytes, before: int = 0) -> int:
    crc = before
    for start in range(0, data.size, _CRC_BLOCK):
        crc = google_crc32c.extend(crc, data[start : start + _CRC_BLOCK])
    return crc


# Files.


def _write_group(directory: Path, data: bytes) -> None:
    """Write a group's metadata, though another process may do so at the same moment.

    Both write the same bytes over each other without truncating, so the file is whole whoever
    ends last, even if the other is killed halfway.
    """
    os.makedirs(directory, exist_ok=True)
    with open(os.open(directory / "zarr.json", os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        file.write(data)
        file.truncate()


def _sync_filesystem(path: StrPath) -> None:
    """Make everything written to the file system of `path` durable: one call for all files."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    with _opened(path) as descriptor:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(path))


def _write_durably(file: Path, data: bytes) -> None:
    with open(file, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(path: StrPath) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(path: StrPath) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
