"""Memory copies as a rank sees them: what it writes goes there too, what it needs may be there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from resilient_nb.core.places import Place
from resilient_nb.rank.writer import Writer
from resilient_nb.storage.mirrored import open_anywhere
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.recalling import Account, Recalled, recall
from resilient_nb.storage.shelf import ShelfStore

#: How long a rank waits for a copy that is on its way, and between looks, in seconds.
_PATIENCE, _LOOK_EVERY = 20.0, 0.02


class ShelvedWriter:
    """A writer that also writes to memory, and says once if that fails.

    Args:
        writer: does the work.
        runs: the store of runs whose objects are to be in memory, too.
        shelf: where that is.
        note: takes lines for the user.
    """

    def __init__(
        self, writer: Writer, runs: Place, shelf: str, note: Callable[[str], None]
    ) -> None:
        self._writer = writer
        self._runs = runs
        self._note = note
        self._told = False
        writer("double", runs, shelf)

    def __call__(self, method: str, *args: Any) -> Any:
        """Return what the method of `Work` returns, or raise what it raises."""
        answer = self._writer(method, *args)
        if method == "write" and not self._told and (why := self._writer("trouble", self._runs)):
            self._told = True
            self._note(
                f"Checkpoints can't be copied to this host's memory: {why}. They are in the store "
                "as always. Give its containers more of /dev/shm, or set RESILIENT_NB_SHELF to a "
                "larger folder in memory."
            )
        return answer


def open_start(
    places: Sequence[Place], identity: str, shelf: str, patience: float = _PATIENCE
) -> Checkpoint:
    """Open the checkpoint that an attempt goes on from, with what is in memory of it.

    What is on its way there from other hosts is waited for; what hasn't come is in the store.

    Args:
        places: the stores of runs that it should be in.
        identity: of the checkpoint.
        shelf: where checkpoints are in memory, "" if they aren't.
        patience: seconds to wait at most.

    Raises: as `open_anywhere`.
    """
    if not shelf:
        return open_anywhere(places, identity)
    store = ShelfStore(shelf)
    give_up = time.monotonic() + patience
    while store.announced(identity.partition("/")[0]).exists() and time.monotonic() < give_up:
        time.sleep(_LOOK_EVERY)
    return recall(store, places, identity)


def account_of(checkpoint: Checkpoint) -> str:
    """Return in words where a checkpoint was read from, "" if it could only be the store."""
    if not isinstance(checkpoint, Recalled):
        return ""
    return words(checkpoint.manifest.step, checkpoint.account)


def words(step: int, read: Account) -> str:
    """Return in words where step `step` was restored from."""
    if not read.memory:
        where = "from the store; this host had no copy of it in memory"
    elif read.store:
        where = f"from memory, but for {_size(read.store)} from the store"
    else:
        where = "from memory"
    total = _size(read.memory + read.store)
    return f"Step {step} was restored {where} ({total} in {read.seconds:.2f} s)."


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 100_000 else f"{nbytes / 1e3:,.1f} kB"
