"""Our encryption as a codec of zarr-python, which finds it by the entry point `zarr.codecs`.

`zarr.open_group(path)` then reads encrypted checkpoints wherever resilient_nb is installed and the
key is in the environment (see `keys`). Which array a chunk is of is verified; which chunk of the
array it is, only `storage.reading` can verify, since zarr-python doesn't tell its codecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zarr.abc.codec import BytesBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer

from resilient_nb.errors import CorruptCheckpoint
from resilient_nb.storage.encoding import AES_GCM
from resilient_nb.storage.encryption import decrypt, encrypt
from resilient_nb.storage.keys import Key, keyring


@dataclass(frozen=True)
class AesGcm(BytesBytesCodec):
    """AES-256-GCM. `key_id` tells which key is needed, `array` what the chunks are part of."""

    is_fixed_size = False
    key_id: str
    array: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AesGcm:
        """Return the codec that an array's metadata describes."""
        told = data["configuration"]
        return cls(key_id=told["key_id"], array=told["array"])

    def to_dict(self) -> dict[str, Any]:
        """Return what the metadata of an array says of it."""
        told = {"key_id": self.key_id, "array": self.array}
        return {"name": AES_GCM, "configuration": told}

    @cached_property
    def _key(self) -> Key:
        return keyring().find(self.key_id, f"Array {self.array}")

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        try:
            plain = decrypt(self._key, self.array, None, chunk_bytes.to_bytes())
        except ValueError as error:
            raise CorruptCheckpoint(f"Array {self.array} {error}.") from error
        return chunk_spec.prototype.buffer.from_bytes(bytes(plain))

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        hidden = encrypt(self._key, self.array, "", chunk_bytes.to_bytes())
        return chunk_spec.prototype.buffer.from_bytes(bytes(hidden))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError: it depends on how long the chunk's name is."""
        raise NotImplementedError
