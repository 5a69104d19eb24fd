"""Encrypting what is stored with AES-256-GCM: what was changed or is elsewhere is refused.

Each thing (an array, a document, a manifest) is encrypted with a key of its own that is derived
from the user's and the thing's name, so that nothing can be put in the place of something else,
and no key is used often enough for two random nonces to meet. What is stored of each piece:

    2 bytes          how long the piece's name is, little-endian
    the name         of the piece, which is authenticated with it ("c.0.0": a chunk of an array)
    12 bytes         nonce
    …                ciphertext, as long as the plain bytes
    16 bytes         GCM's tag

Needs the package `cryptography` (the extra `encryption`), and only where something is encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from resilient_nb.errors import CorruptCheckpoint, InvalidRequest
from resilient_nb.storage.keys import Key, Keyring, encrypting_key, keyring
from resilient_nb.storage.objects import Buffer
from resilient_nb.storage.tree import Json

_LENGTH, _NONCE, _TAG = 2, 12, 16
_SLACK = 15  # what `update_into` of older versions of cryptography wants beyond the text
#: What `encrypt_file` is told of captured values; they are named by their content.
CAPTURED = "captured"
#: Files that are encrypted as a whole begin with this, the key's id and a newline. No pickle does.
_MAGIC = b"resilient_nb encrypted 1 "


def encrypt(key: Key, thing: str, piece: str, data: Buffer, nonce: bytes | None = None) -> Buffer:
    """Return the data encrypted.

    Args:
        key: the user's.
        thing: what it is part of; to decrypt it, the same must be given.
        piece: which part of the thing it is.
        data: plain bytes.
        nonce: never the same for two data of one thing; None for a random one.
    """
    text = _flat(data)
    name, nonce = piece.encode(), nonce or os.urandom(_NONCE)
    cipher = _cipher(key, thing, nonce).encryptor()
    cipher.authenticate_additional_data(name)
    head = len(name).to_bytes(_LENGTH, "little") + name + nonce
    end = len(head) + text.nbytes
    out = bytearray(end + max(_TAG, _SLACK))
    out[: len(head)] = head
    view = memoryview(out)
    cipher.update_into(text, view[len(head) : end + _SLACK])
    cipher.finalize()
    view[end : end + _TAG] = cipher.tag
    return view[: end + _TAG]


def decrypt(key: Key, thing: str, piece: str | None, data: Buffer) -> Buffer:
    """Return what was encrypted; `piece` None takes any piece of the thing.

    Raises:
        ValueError: it was changed, or is of another thing, piece or key.
    """
    text = _flat(data)
    start = _LENGTH + int.from_bytes(text[:_LENGTH], "little")
    name, nonce = bytes(text[_LENGTH:start]), bytes(text[start : start + _NONCE])
    body = text[start + _NONCE : text.nbytes - _TAG]
    if text.nbytes < start + _NONCE + _TAG or (piece is not None and name != piece.encode()):
        raise ValueError(f"can't be decrypted with the key {key.id}: it is of another place")
    cipher = _cipher(key, thing, nonce, bytes(text[-_TAG:])).decryptor()
    cipher.authenticate_additional_data(name)
    out = bytearray(body.nbytes + _SLACK)
    cipher.update_into(body, out)
    if not _is_authentic(cipher):
        raise ValueError(
            f"can't be decrypted with the key {key.id}: it was changed, or is of another place"
        )
    return memoryview(out)[: body.nbytes]


def encrypt_json(key: Key, thing: str, piece: str, value: Json) -> str:
    """Return a JSON value encrypted, in base64."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(encrypt(key, thing, piece, text)).decode()


def decrypt_json(key: Key, thing: str, piece: str, text: str) -> Any:
    """Return the value that `encrypt_json` was given.

    Raises:
        ValueError: it was changed, or is of another thing, piece or key.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"can't be decrypted: it is no base64 ({error})") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError("can't be decrypted: it was changed")  # in bits that base64 ignores
    return json.loads(bytes(decrypt(key, thing, piece, data)))


def encrypt_file(data: bytes, thing: str) -> bytes:
    """Return a file's bytes encrypted as a whole, if there is a key; else as they are.

    The same bytes come out the same, so that what is stored once for each content stays so.
    """
    key = encrypting_key()
    if key is None:
        return data
    nonce = hmac.digest(key.derive(f"{thing} nonce"), data, "sha256")[:_NONCE]
    head = _MAGIC + key.id.encode() + b"\n"
    return b"".join((head, encrypt(key, thing, "", data, nonce)))


def decrypt_file(data: bytes, thing: str, what: str) -> bytes:
    """Return what `encrypt_file` was given; bytes that aren't encrypted come back as they are.

    Raises:
        KeyMissing: the key is needed and isn't there; `what` is what the message calls the file.
        CorruptCheckpoint: it was changed.
    """
    if not data.startswith(_MAGIC):
        return data
    head, _, body = data.partition(b"\n")
    key = keyring().find(head.removeprefix(_MAGIC).decode(errors="replace"), what)
    try:
        return bytes(decrypt(key, thing, "", body))
    except ValueError as error:
        raise CorruptCheckpoint(f"{what} {error}.") from error


def envelope(key: Key, thing: str, value: Json) -> dict[str, Json]:
    """Return a JSON value encrypted, with what tells which key it needs."""
    return {"key_id": key.id, "encrypted": encrypt_json(key, thing, "", value)}


def opened(found: Mapping[str, Any], thing: str, what: str, keys: Keyring) -> Any:
    """Return the value in an envelope.

    Raises:
        KeyMissing: this process lacks the key; `what` is what can't be read.
        ValueError: it was changed.
    """
    return decrypt_json(keys.find(found["key_id"], what), thing, "", found["encrypted"])


def _flat(data: Buffer) -> memoryview:
    return memoryview(data).cast("B")


def _cipher(key: Key, thing: str, nonce: bytes, tag: bytes | None = None) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError:
        raise InvalidRequest(
            "Encryption needs the package cryptography: pip install 'resilient_nb[encryption]', "
            "where the cluster's workers run and in your notebook's environment."
        ) from None
    return Cipher(algorithms.AES(key.derive(thing)), modes.GCM(nonce, tag))


def _is_authentic(cipher: Any) -> bool:
    from cryptography.exceptions import InvalidTag

    try:
        cipher.finalize()
    except InvalidTag:
        return False
    return True
