"""The store as the control plane uses it: the scheduler's loop never waits for a network.

A folder is looked at when it is asked about. With a store that is far away, threads look and
write; until they have an answer nothing is held up that may well be in order, and captured values
are sent on from the home folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from resilient_nb.config import Settings
from resilient_nb.core.places import Place, Places, is_url, sub_folder
from resilient_nb.errors import CheckpointError, ResilientError
from resilient_nb.storage import outside
from resilient_nb.storage.blobs import BlobStore
from resilient_nb.storage.claim import claim
from resilient_nb.storage.objects import ObjectStore
from resilient_nb.storage.stores import blob_key, open_store, out_key
from resilient_nb.wire.requests import OutPiece

#: A "no" of a store that is far away is asked again after so many seconds.
_AGAIN = 5.0
_THREADS = 4
#: What the loop waits for at most, in seconds.
_MOMENT = 0.1
_GONE = (
    "The captured values are no longer in the store: %resilient cancel it, and submit the cell "
    "again."
)


class Storing:
    """What is known of the store. `news` is called by a thread that has found something out."""

    def __init__(self, settings: Settings, news: Callable[[], None] = lambda: None) -> None:
        self._place = settings.store
        self._far = is_url(settings.store)
        self.blobs = BlobStore(settings.blobs)
        self._stores: dict[Place, ObjectStore] = {}
        self._answers = _Answers(news)
        self._looks: dict[str, Future[str]] = {}  # at data outside the store
        self._eyes: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Begin nothing more."""
        self._answers.close()
        if self._eyes is not None:
            self._eyes.shutdown(wait=False, cancel_futures=True)

    def check(self, cluster_id: str) -> None:
        """Refuse a store that can't be written, or that is another's; as far as is known.

        Raises:
            CheckpointError: with what to do.
        """
        why = self._claimed(cluster_id)  # None: a job is taken, and waits
        if why:
            raise CheckpointError(
                f"{why} Make it writable for the cluster's user, or set RESILIENT_NB_STORE to "
                "another place and restart the cluster."
            )

    def waits_for(self, cluster_id: str) -> str:
        """Return why nothing can start now, "" if it can."""
        if not self._far:
            return ""
        why = self._claimed(cluster_id)
        return f"The store {self._place} is being looked at." if why is None else why

    def captured(self, digest: str, replicas: Places) -> str:
        """Return why ranks can't read captured values now, "" if they can."""
        key = blob_key(digest)
        if not self.blobs.has(digest):
            there = self.has((self._place, *replicas), key)
            return "" if there else _GONE
        if not self._far:
            return ""
        why: str | None = self._answers.ask(f"send {key}", lambda: self._send(key, digest))
        return "The captured values are being copied to the store." if why is None else why

    def has(self, places: Places, key: str) -> bool:
        """Return whether one of the stores may have an object; no only if that is certain."""
        return any(self._has(place, key) is not False for place in places)

    def unseen(self, path: str) -> str:
        """Return why data outside the store can't be read on this host, "" if it can.

        A file system that doesn't answer at once isn't waited for: it may well be there.
        """
        self._eyes = self._eyes or ThreadPoolExecutor(1, "resilient_nb data")
        if path not in self._looks or self._looks[path].done():
            self._looks[path] = self._eyes.submit(outside.missing, path)
        try:
            return self._looks[path].result(_MOMENT)
        except TimeoutError:
            return ""

    def read_out(self, run: str, number: int, offset: int, limit: int) -> OutPiece | None:
        """Return a piece of what a job returned, None if it is gone. May wait for a network."""
        key = out_key(run, number)
        store = self._store(self._place)
        try:
            size = store.size(key)
            data = bytearray(max(0, min(limit, size - offset)))
            count = store.read_into(key, offset, memoryview(data))
            return OutPiece(bytes(data[:count]), size)
        except FileNotFoundError:
            return None

    # --- looking ----------------------------------------------------------------------------

    def _claimed(self, cluster_id: str) -> str | None:
        if not self._far:
            return self._claim(cluster_id)
        answer: str | None = self._answers.ask("claim", lambda: self._claim(cluster_id))
        return answer

    def _claim(self, cluster_id: str) -> str:
        try:
            if not self._far:
                _make_folders(Path(self._place))
            claim(self._store(self._place), cluster_id)
            return ""
        except OSError as error:
            return f"The store {self._place} can't be written: {error.strerror or error}."
        except ResilientError as error:
            return str(error)

    def _has(self, place: Place, key: str) -> bool | None:
        if not is_url(place):
            return Path(place, key).exists()
        answer: bool | None = self._answers.ask(
            f"has {sub_folder(place, key)}", lambda: _is_there(self._store(place), key)
        )
        return answer

    def _send(self, key: str, digest: str) -> str:
        store = self._store(self._place)
        try:
            if _is_there(store, key):
                return ""
            store.put(key, [self.blobs.read(digest)])
            store.flush()
            return ""
        except (OSError, ResilientError) as error:
            return f"The captured values can't be copied to the store: {error}."

    def _store(self, place: Place) -> ObjectStore:
        if place not in self._stores:
            self._stores[place] = open_store(place)
        return self._stores[place]


class _Answers:
    """What threads have found out, by question. A good answer stands; others are asked again."""

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._closed = False
        self._pool: ThreadPoolExecutor | None = None
        self._asked: dict[str, tuple[float, Future[Any]]] = {}

    def ask(self, question: str, find_out: Callable[[], Any]) -> Any:
        """Return the answer; None as long as there is none."""
        at, found = self._asked.get(question, (0.0, None))
        if found is None or (self._is_bad(found) and time.monotonic() - at > _AGAIN):
            before = found.result() if found is not None and not found.exception() else None
            self._asked[question] = (time.monotonic(), self._submit(find_out))
            return before
        return found.result() if found.done() else None

    def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, find_out: Callable[[], Any]) -> Future[Any]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "resilient_nb store")
        found = self._pool.submit(find_out)
        found.add_done_callback(lambda _: None if self._closed else self._news())
        return found

    @staticmethod
    def _is_bad(found: Future[Any]) -> bool:
        return found.done() and (found.exception() is not None or found.result() not in ("", True))


def _is_there(store: ObjectStore, key: str) -> bool | None:
    try:
        store.size(key)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return True


def _make_folders(store: Path) -> None:
    for name in ("runs", "blobs", "out"):
        (store / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(store / "runs", os.W_OK | os.X_OK):
        raise PermissionError(13, "no permission to write")
