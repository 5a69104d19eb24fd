"""Opening committed checkpoints: the manifest is read, and verified before anything is believed."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from resilient_nb.config import read_place
from resilient_nb.errors import CannotStore, CheckpointError
from resilient_nb.storage.manifest import FORMAT, manifest_at_once, manifest_from, revealed
from resilient_nb.storage.objects import ObjectStore, StrPath, join
from resilient_nb.storage.reading import Checkpoint, damaged
from resilient_nb.storage.stores import open_store
from resilient_nb.storage.writing import root_of
from resilient_nb.storage.zarr3 import sha256

# What is around the manifest in a root group, as `commit` writes it.
_BEFORE = b'{"zarr_format":3,"node_type":"group","attributes":{"resilient_nb":'
_BEHIND, _END = b',"resilient_nb_sha256":"', b'"}}'


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
    try:
        data = root_of(store, identity)
    except IsADirectoryError as error:
        raise damaged(identity, "the manifest", f"can't be read ({error})") from error
    if data is None:
        raise CheckpointError(f"{place} holds no committed checkpoint.")
    text = _intact(data)
    manifest = manifest_at_once(text) if text is not None else None
    if manifest is not None:
        return Checkpoint(store, identity, manifest)
    try:
        body, intact = _body(data, text)
    except (ValueError, KeyError, TypeError, CannotStore) as error:
        raise damaged(identity, "the manifest", f"is unreadable ({error})") from error
    if not intact:
        raise damaged(identity, "the manifest", "doesn't match its digest")
    if body["format"] != FORMAT:
        newer = body["format"] > FORMAT
        raise CheckpointError(
            f"{place} has format {body['format']}; this resilient_nb reads {FORMAT}. "
            + ("Update resilient_nb." if newer else "Train it again: it is of before 0.1.0.")
        )
    try:
        shown = revealed(body) if private else body
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(identity, "the manifest", str(error)) from error
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
