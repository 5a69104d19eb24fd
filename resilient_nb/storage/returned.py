"""What jobs returned (`--out`), in the store: one pickle a job, that says if it is whole.

Behind the pickle, where nobody who unpickles it looks, is a checksum of it.
"""

from __future__ import annotations

import xxhash

from resilient_nb.errors import CorruptCheckpoint, InputLost
from resilient_nb.storage.encryption import decrypt_file, encrypt_file
from resilient_nb.storage.fallback import copies
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.stores import out_key

_MARK = b"\nresilient_nb xxh3 "
_SUM = 32  # hexadecimal digits


def write(store: ObjectStore, run: str, number: int, payload: bytes) -> None:
    """Keep what a run's n-th job returned."""
    key = out_key(run, number)
    store.delete([key])  # an earlier attempt's, of which nobody has heard
    store.create(key, encrypt_file(payload + _MARK + _sum(payload), key))


def read(store: ObjectStore, run: str, number: int) -> bytes:
    """Return it from the first copy that is whole.

    Raises:
        InputLost: there is none, or only damaged ones.
        OSError: a store that may have it can't be reached or read.
        KeyMissing: it is encrypted, and this process lacks the key.
    """
    job, key = f"{run}#{number}", out_key(run, number)
    why, away = "it is not in the store", None
    for copy in copies(store):
        try:
            return _whole(decrypt_file(copy.read(key), key, f"What {job} returned"))
        except FileNotFoundError:
            continue
        except OSError as error:
            away = error
        except CorruptCheckpoint as error:
            why = str(error)
    if away is not None:
        raise away
    raise InputLost(f"What {job} returned is lost: {why.rstrip('.')} ({store.url}/{key}).", job)


def _whole(data: bytes) -> bytes:
    """Return the pickle."""
    payload, mark, found = (
        data[: -_SUM - len(_MARK)],
        data[-_SUM - len(_MARK) : -_SUM],
        data[-_SUM:],
    )
    if mark != _MARK or _sum(payload) != found:
        raise CorruptCheckpoint("it is damaged: it doesn't match its checksum")
    return payload


def _sum(payload: bytes) -> bytes:
    return xxhash.xxh3_128_hexdigest(payload).encode()
