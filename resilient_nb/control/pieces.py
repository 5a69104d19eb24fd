"""What followers are told in pieces: each one's JSON, and since when it is as it is.

Time is counted in changes: a follower's cursor is the count at its last answer, and whatever has
changed at a later count is news to it. So any number of followers share what is encoded once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from msgspec import Raw

from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.core.views import ClusterView, RunView
from resilient_nb.wire.codec import to_json

if TYPE_CHECKING:
    from resilient_nb.control.engine import Engine

#: The cursor of who has been told nothing yet.
NOTHING = -1

Series = tuple[tuple[int, float], ...]
_step = itemgetter(0)


@dataclass(frozen=True)
class Sources:
    """Where it comes from what followers are told."""

    engine: Engine
    cluster: Callable[[], ClusterView]
    run: Callable[[str], RunView]
    alerts: Callable[[], AlertsReport]


class Piece:
    """A value as JSON, and the count at which that last changed."""

    def __init__(self) -> None:
        self.at = 0
        self._value: object = None
        self._json = b"null"

    def set(self, value: object, at: int) -> bool:
        """Take the value as it is now; return whether its JSON is another one."""
        if value is self._value:
            return False
        self._value, before = value, self._json
        self._json = to_json(value)
        if self._json == before:
            return False
        self.at = at
        return True

    def since(self, cursor: int) -> Raw | None:
        """Return its JSON if that has changed since the cursor."""
        return Raw(self._json) if self.at > cursor else None


class Points:
    """A metric's points, and at which counts they changed, from which step on."""

    def __init__(self) -> None:
        self._points: Series = ()
        # (count, step). Both grow: a later change from an earlier step on covers those before it.
        self._changes: list[tuple[int, int]] = []

    def set(self, points: Series, at: int) -> bool:
        """Take the points as they are now; return whether they are other ones."""
        same = _common(self._points, points)
        if same == len(points) == len(self._points):
            return False
        self._points = points
        # The last point that stays comes again: what was behind it and is no more goes with it.
        step = points[max(0, same - 1)][0]
        while self._changes and self._changes[-1][1] >= step:
            self._changes.pop()
        self._changes.append((at, step))
        return True

    def since(self, cursor: int) -> Series:
        """Return the points that replace all from their first step on."""
        first = bisect_right(self._changes, cursor, key=_step)
        if first == len(self._changes):
            return ()
        return self._points[bisect_left(self._points, self._changes[first][1], key=_step) :]


def _common(old: Series, new: Series) -> int:
    """Return how many points at the beginning are the same."""
    most = min(len(old), len(new))
    for count in (most, most - 1):  # nearly always: the newest point makes way for the next
        if count >= 0 and old[:count] == new[:count]:
            return count
    return next(n for n in range(most) if old[n] != new[n])
