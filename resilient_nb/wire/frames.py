"""Messages on a byte stream: four bytes of length, then MessagePack."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

_HEAD = struct.Struct("!I")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def frame(message: Any) -> bytes:
    """Return a message with its length before it."""
    body = _encoder.encode(message)
    return _HEAD.pack(len(body)) + body


class FrameReader:
    """Collects bytes and gives back whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Return the messages that are complete with `data`.

        Raises:
            ValueError: the bytes are no MessagePack (`msgspec.DecodeError` is one).
        """
        self._buffer += data
        found, at = [], 0
        while len(self._buffer) - at >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._buffer, at)
            if len(self._buffer) - at - _HEAD.size < size:
                break
            at += _HEAD.size
            found.append(_decoder.decode(bytes(self._buffer[at : at + size])))
            at += size
        del self._buffer[:at]
        return found
