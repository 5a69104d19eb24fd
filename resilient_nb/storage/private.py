"""What of an encrypted checkpoint's manifest only those with its key can read.

Metrics, what it records of its origin (`info`: the cell's source, say), and the digests of plain
contents, which would tell who guesses these that the guess is right. The rest stays readable, so
that stores can be swept, copied and verified without the key; and it is authenticated: with the
key, a manifest of which anything was changed is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilient_nb.core.names import checkpoint_id
from resilient_nb.storage.encryption import decrypt_json, encrypt_json
from resilient_nb.storage.keys import Key
from resilient_nb.storage.tree import Json
from resilient_nb.storage.zarr3 import sha256

#: By the part of the manifest, the field of each of its records.
_DIGESTS = {"tensors": "digest", "documents": "plain"}
_WHOLE = ("metrics", "info")


def hide(body: Mapping[str, Any], key: Key) -> dict[str, Json]:
    """Return a manifest's JSON with what is private encrypted, in `hidden`."""
    private: dict[str, Json] = {name: body[name] for name in _WHOLE}
    public = {**body, **{name: {} for name in _WHOLE}, "hidden": ""}
    for name, field in _DIGESTS.items():
        private[name] = [record[field] for record in body[name]]
        public[name] = [{**record, field: ""} for record in body[name]]
    return {**public, "hidden": encrypt_json(key, _thing(body), sha256(public), private)}


def reveal(body: Mapping[str, Any], key: Key) -> dict[str, Json]:
    """Return what `hide` was given.

    Raises:
        ValueError: it was changed.
    """
    public = {**body, "hidden": ""}
    private = decrypt_json(key, _thing(body), sha256(public), body["hidden"])
    found = {**public, **{name: private[name] for name in _WHOLE}}
    for name, field in _DIGESTS.items():
        digests = zip(body[name], private[name], strict=True)
        found[name] = [{**record, field: digest} for record, digest in digests]
    return found


def _thing(body: Mapping[str, Any]) -> str:
    return f"{checkpoint_id(body['run'], body['step'], body['epoch'])}/manifest"
