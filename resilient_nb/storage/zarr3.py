"""The Zarr v3 documents and keys that a checkpoint is made of. Pure.

They are written and read directly: zarr-python 3.1 needs a few ms per array to create one and 1 to
2 ms to open one, leaves out chunks that are all zeros, and reads a missing chunk as zeros.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from resilient_nb.errors import CannotStore
from resilient_nb.storage.tree import Json

#: What direct writes to any device are aligned to.
PAGE = 4096

_MAX_PIECE = 200  # file systems allow 255 bytes
_PLAIN = "!$&'()+,;=@^[]{} "  # beside letters, digits and _.-~


def dumps(value: object, what: str) -> str:
    """Return strict JSON.

    Raises:
        CannotStore: naming `what`, if it isn't.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as error:
        raise CannotStore(f"{what} isn't strict JSON: {error}.") from error


def sha256(value: object) -> str:
    """Return the digest of a value's JSON."""
    return hashlib.sha256(dumps(value, "the manifest").encode()).hexdigest()


def group_json(attributes: Mapping[str, Json], what: str) -> bytes:
    """Return a group's metadata."""
    return dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, what).encode()


GROUP = group_json({}, "a group")


def array_json(
    shape: Sequence[int],
    dtype: str,
    chunk: Sequence[int],
    codecs: Sequence[Mapping[str, Json]] = (),
    attributes: Mapping[str, Json] | None = None,
) -> bytes:
    """Return an array's metadata.

    Args:
        shape: of the array.
        dtype: as numpy and Zarr name it, `float32`.
        chunk: shape of a chunk.
        codecs: bytes to bytes, between the values and the checksum.
        attributes: what is said of it besides.
    """
    wide = dtype not in ("bool", "int8", "uint8")
    endian: dict[str, Json] = {"configuration": {"endian": "little"}} if wide else {}
    fill: Json = 0
    if dtype == "bool":
        fill = False
    elif dtype.startswith("float"):
        fill = 0.0
    elif dtype.startswith("complex"):
        fill = [0.0, 0.0]
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [{"name": "bytes", **endian}, *codecs, {"name": "crc32c"}],
        "attributes": attributes or {},
        "storage_transformers": [],
    }
    return dumps(meta, "array metadata").encode()


def safe_key(name: str) -> str:
    """Return the Zarr key of a tensor name; no two names have one key.

    Plain names are their own key. The first '/' separates group and array; everything that Zarr
    or a file system could mistake is percent-encoded, further slashes too, so that no array lies
    inside another's directory.
    """
    group, slash, leaf = name.partition("/")
    return f"{group_key(group)}/{_safe_piece(leaf) if slash else '%_'}"


def group_key(group: str) -> str:
    """Return the key of the group that holds a tracked object's tensors."""
    return "%73tate" if group == "state" else _safe_piece(group)


def pack_key(group: str, rank: int, dtype: str, number: int) -> str:
    """Return the key of an array that holds a rank's small tensors; no tensor has it."""
    return f"{group_key(group)}/%pack-{rank}-{dtype}-{number}"


def document_key(name: str) -> str:
    """Return the key of a state document's metadata, which holds it."""
    return f"state/{_safe_piece(name)}/zarr.json"


def _safe_piece(piece: str) -> str:
    text = quote(piece.encode("utf-8", "surrogatepass"), safe=_PLAIN)
    if text in ("c", "zarr.json") or text.startswith((".", "__")):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text) > _MAX_PIECE:
        text = f"{text[:150]}%~{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return text or "%"


def split(shape: tuple[int, ...], itemsize: int, most: int) -> tuple[int, ...]:
    """Return the chunk shape that keeps chunks within `most` bytes, as far as rows allow.

    Only the leading axis is split, so that each chunk is one contiguous piece of the array. Zarr's
    chunks all have one size: they are as even as can be, since the last is filled up with zeros.
    """
    if not shape:
        return ()
    rows, row = shape[0], math.prod(shape[1:]) * itemsize
    if rows * row > most:
        fit = max(1, most // row)
        # So that each chunk begins at a page, and is written from where it lies.
        whole = PAGE // math.gcd(PAGE, row)
        if fit >= whole:
            rows = -(-_even(rows, fit // whole * whole) // whole) * whole
        else:
            rows = _even(rows, fit)
    return tuple(max(1, n) for n in (rows, *shape[1:]))


def _even(total: int, most: int) -> int:
    """Return the size of the fewest equal parts that have at most `most`."""
    return -(-total // -(-total // most))


def chunk_count(shape: Sequence[int], chunk: Sequence[int]) -> int:
    """Return how many chunks an array has."""
    return math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))


def chunk_name(index: Sequence[int]) -> str:
    """Return a chunk's name in its array's folder."""
    return ".".join(["c", *map(str, index)])


def chunk_index(name: str) -> tuple[int, ...]:
    """Return the index of a chunk by its name."""
    return tuple(int(piece) for piece in name.split(".")[1:])


def row_chunks(
    shape: tuple[int, ...], chunk: tuple[int, ...], itemsize: int
) -> Iterator[tuple[str, slice]]:
    """Give each chunk's name and which of the array's bytes it begins with.

    For arrays of which only the leading axis is split; empty ones have no chunks.
    """
    nbytes, size = math.prod(shape) * itemsize, math.prod(chunk) * itemsize
    for index, start in enumerate(range(0, nbytes, size)):
        name = chunk_name([index, *[0] * (len(chunk) - 1)][: len(chunk)])
        yield name, slice(start, min(start + size, nbytes))
