"""Codecs from bytes to bytes, as Zarr v3 metadata names them: compression and encryption.

Manifests and `writing.Options` have codecs without what follows from the array; `fit` adds it.

Compression is Zarr's `blosc` codec: zstd behind a byte shuffle in blocks of 1 MiB. Floats are
nearly incompressible as they lie; shuffled, their signs and exponents are together. Measured on a
transformer of 3.2 million parameters after 300 steps, with AdamW's state, in float32: 1.21 : 1
where zstd alone gets 1.10, at the same speed of writing (0.6 GB/s a core) and a higher one of
reading (1.0 against 0.6 GB/s); on its weights in bfloat16, 1.47 : 1 against 1.29. Blosc's own
blocks, which are smaller, lose a good part of that (1.13), shuffling bits does too (1.17), and
levels above 1 win nothing: 1.21 at level 5, five times as slow.

Encryption is a codec of our own, `resilient_nb.aes_gcm`. zarr-python finds it by its entry point
(see `zarr_codec`); other readers of Zarr say that they don't know it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from resilient_nb.errors import CheckpointError, InvalidRequest
from resilient_nb.storage.encryption import decrypt, encrypt
from resilient_nb.storage.keys import Key, Keyring
from resilient_nb.storage.objects import Buffer
from resilient_nb.storage.tree import Json

Codecs: TypeAlias = tuple[Mapping[str, Json], ...]

#: Our codec's name, and what it needs to be told.
AES_GCM = "resilient_nb.aes_gcm"

_BLOCK = 1 << 20
_VALUES = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
_BLOSC_MOST = (1 << 31) - 17  # bytes of one buffer

# As zarr-python does: its threads would take the training's cores, and don't survive a fork.
blosc.use_threads = False


def codecs_of(text: str, key: Key | None = None) -> Codecs:
    """Return the codecs that a user names, and the encryption if there is a key for it.

    Args:
        text: "" (none), `zstd` or `zstd:LEVEL`.
        key: encrypts.

    Raises:
        InvalidRequest: there is no such compression.
    """
    check_compression(text)
    level = int(text.partition(":")[2] or 1)
    found: list[Mapping[str, Json]] = [shuffled_zstd(level)] if text else []
    if key is not None:
        found.append({"name": AES_GCM, "configuration": {"key_id": key.id}})
    return tuple(found)


def shuffled_zstd(level: int) -> dict[str, Json]:
    """Return the codec that compresses; `level` is 1 (fast) to 9."""
    return {
        "name": "blosc",
        "configuration": {
            "cname": "zstd", "clevel": level, "shuffle": "shuffle", "blocksize": _BLOCK,
        },
    }  # fmt: skip


def key_of(codecs: Sequence[Mapping[str, Any]]) -> str:
    """Return the id of the key that they encrypt with, "" if they don't."""
    found = [codec["configuration"]["key_id"] for codec in codecs if codec["name"] == AES_GCM]
    return str(found[0]) if found else ""


def fit(
    codecs: Sequence[Mapping[str, Any]], array: str, itemsize: int, nbytes: int
) -> tuple[dict[str, Any], ...]:
    """Return codecs as an array's metadata has them.

    Args:
        codecs: as a manifest has them.
        array: the id of the checkpoint that holds it, and its key there.
        itemsize: of its values.
        nbytes: of one chunk's values.
    """
    return tuple(_fit(codec, array, itemsize, nbytes) for codec in codecs)


def _fit(codec: Mapping[str, Any], array: str, itemsize: int, nbytes: int) -> dict[str, Any]:
    name, told = codec["name"], dict(codec["configuration"])
    if name == "blosc" and nbytes > _BLOSC_MOST:
        return {"name": "zstd", "configuration": {"level": told["clevel"], "checksum": False}}
    if name == "blosc":
        told["typesize"] = itemsize
    elif name == AES_GCM:
        told["array"] = array
    return {"name": name, "configuration": told}


def encode(codecs: Sequence[Mapping[str, Any]], data: Buffer, chunk: str, keys: Keyring) -> Buffer:
    """Return a chunk's bytes as they are stored.

    Args:
        codecs: as `fit` gives them.
        data: the chunk's bytes.
        chunk: its name in its array's folder.
        keys: to encrypt it.
    """
    for codec in codecs:
        told = codec["configuration"]
        if codec["name"] == AES_GCM:
            key = keys.find(told["key_id"], told["array"])
            data = encrypt(key, told["array"], chunk, data)
        else:
            # Blosc takes the width of what it shuffles from the buffer.
            values = np.frombuffer(data, _VALUES[told.get("typesize", 1)])
            data = _compressor(codec).encode(values)
    return data


def decode(codecs: Sequence[Mapping[str, Any]], data: Buffer, chunk: str, keys: Keyring) -> Buffer:
    """Return what was encoded; arguments as of `encode`.

    Raises:
        CheckpointError: this version, or this process, can't decode it.
        ValueError: it is damaged.
    """
    for codec in reversed(codecs):
        told = codec["configuration"]
        if codec["name"] == AES_GCM:
            key = keys.find(told["key_id"], f"Tensor {told['array']}")
            data = decrypt(key, told["array"], chunk, data)
        else:
            data = _decompressed(codec, data)
    return data


def _decompressed(codec: Mapping[str, Any], data: Buffer) -> Buffer:
    try:
        found: Buffer = _compressor(codec).decode(data)
    except RuntimeError as error:
        raise ValueError(f"can't be decompressed ({error})") from error
    return found


def _compressor(codec: Mapping[str, Any]) -> Any:
    told = codec["configuration"]
    if codec["name"] == "zstd":
        return Zstd(level=told["level"])
    if codec["name"] != "blosc":
        raise CheckpointError(f"Codec {codec['name']} is unknown. Update resilient_nb.")
    shuffle = ("noshuffle", "shuffle", "bitshuffle").index(told["shuffle"])
    return blosc.Blosc(told["cname"], told["clevel"], shuffle, told["blocksize"])


def check_compression(text: str) -> str:
    """Return what a user gives for `--compress`.

    Raises:
        InvalidRequest: there is no such compression.
    """
    name, colon, level = text.partition(":")
    if text and (name != "zstd" or (colon and level not in tuple("123456789"))):
        raise InvalidRequest(
            f"{text!r} is no compression: use zstd, or zstd:1 (the default) to zstd:9."
        )
    return text
