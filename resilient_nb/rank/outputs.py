"""What a cell returns: pickled together, and stored even if the disk is full for a while."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

import cloudpickle

from resilient_nb.errors import InvalidRequest
from resilient_nb.storage import returned
from resilient_nb.storage.stores import open_store
from resilient_nb.wire.orders import Attempt

#: Between two tries to write to a full disk, in seconds.
AGAIN = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def pickled(attempt: Attempt, namespace: dict[str, Any]) -> bytes:
    """Pickle the values for `--out` together, so that what they share stays shared.

    Raises:
        InvalidRequest: naming the one that is missing or can't be pickled.
    """
    missing = [name for name in attempt.out if name not in namespace]
    if missing:
        raise InvalidRequest(f"--out {missing[0]}: the cell ended without assigning it.")
    values = {name: namespace[name] for name in attempt.out}
    try:
        payload: bytes = cloudpickle.dumps(values)
        return payload
    except Exception as error:
        for name, value in values.items():
            try:
                cloudpickle.dumps(value)
            except Exception as cause:
                raise InvalidRequest(
                    f"--out {name}: a {type(value).__name__} can't be sent back ({cause})."
                ) from cause
        raise InvalidRequest(f"--out: {error}") from error


def store(
    attempt: Attempt, payload: bytes, note: Callable[[str], None], leaving: Callable[[], bool]
) -> bool:
    """Store what a cell returns; False if the job was asked to leave before there was room.

    All of the work is done: to fail now would lose what isn't in a checkpoint.

    Raises:
        OSError: of the store, for any reason but that it is full.
    """
    told = False
    while True:
        try:
            returned.write(open_store(attempt.store), attempt.run, attempt.number, payload)
            return True
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if not told:
                told = True
                note(
                    f"The store is full, so what the cell returns can't be kept. It is tried again "
                    f"every {AGAIN:g} s: free some space ({attempt.store})."
                )
        if not pause(leaving):
            return False


def pause(leaving: Callable[[], bool]) -> bool:
    """Wait until it is time for another try; False if the job was asked to leave meanwhile."""
    give_up = time.monotonic() + AGAIN
    while time.monotonic() < give_up:
        if leaving():
            return False
        time.sleep(0.1)
    return True
