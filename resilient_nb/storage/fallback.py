"""An `ObjectStore` with second copies: what the first store has lost is read from another."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from resilient_nb.storage.objects import Entry, ObjectStore, Parts

_T = TypeVar("_T")

#: A store that didn't answer isn't asked again for so many seconds.
_AWAY = 30.0


class FallbackStore:
    """Reads from the first store that can; writes to the first store alone.

    Keys are the same in all of them. An object that is there but damaged looks whole from here:
    whoever finds it damaged reads the other `copies`.
    """

    def __init__(
        self,
        first: ObjectStore,
        others: Sequence[ObjectStore],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first = first
        self.others = tuple(others)
        self.block, self.threads = first.block, first.threads
        self._clock = clock
        self._away: dict[int, float] = {}  # by the store's place in the row: until when

    @property
    def url(self) -> str:
        return self.first.url

    def put(self, key: str, parts: Parts) -> None:
        self.first.put(key, parts)

    def flush(self) -> None:
        self.first.flush()

    def create(self, key: str, data: bytes) -> None:
        self.first.create(key, data)

    def link(self, key: str, target: str) -> None:
        self.first.link(key, target)

    def delete(self, keys: Iterable[str]) -> None:
        self.first.delete(keys)

    def read(self, key: str) -> bytes:
        return self._from_any(lambda store: store.read(key))

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        return self._from_any(lambda store: store.read_into(key, offset, view))

    def size(self, key: str) -> int:
        return self._from_any(lambda store: store.size(key))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield what any of the stores has, each key once."""
        found: dict[str, Entry] = {}

        def look(store: ObjectStore) -> None:
            for entry in store.list(prefix):
                found.setdefault(entry.key, entry)

        self._ask(look, stop=False)
        yield from found.values()

    def _from_any(self, read: Callable[[ObjectStore], _T]) -> _T:
        """Return what the first store gives that can."""
        return self._ask(read)[0]

    def _ask(self, read: Callable[[ObjectStore], _T], stop: bool = True) -> Sequence[_T]:
        """Ask one store after the other, at most until one answers; raise if none does."""
        answers: list[_T] = []
        failures: list[OSError] = []
        for place, store in enumerate((self.first, *self.others)):
            if self._clock() < self._away.get(place, 0.0):
                failures.append(_away(store.url))
                continue
            try:
                answers.append(read(store))
            except OSError as error:
                if isinstance(error, ConnectionError):
                    self._away[place] = self._clock() + _AWAY
                failures.append(error)
            if answers and stop:
                break
        if answers:
            return answers
        raise _why(failures)


def copies(store: ObjectStore) -> tuple[ObjectStore, ...]:
    """Return the stores that a store reads from, the first one first."""
    return (store.first, *store.others) if isinstance(store, FallbackStore) else (store,)


def _why(failures: Sequence[OSError]) -> OSError:
    """Only if every store says so is an object missing: one that can't be reached may have it."""
    for error in failures:
        if not isinstance(error, FileNotFoundError):
            return error
    return failures[0]


def _away(url: str) -> OSError:
    return ConnectionError(errno.EHOSTUNREACH, "The store can't be reached", url)
