"""What can be seen of a rank from outside: whether it is stopped, idle, or silent.

A rank that hangs can't say so, and one that is merely slow must not be taken for one that hangs:
so idle is only who uses no CPU although nothing but itself keeps it from it.
"""

from __future__ import annotations

import os

#: Fewer cores than this are what a rank needs to say that it lives.
IDLE_CPU = 0.03
#: As /proc has them: running, or kept from it by others; waiting for a disk; stopped.
_RUNNING, _DISK, _STOPPED = "R", "D", "T"


class Activity:
    """Since when a rank is silent and idle, by the monotonic clock."""

    def __init__(self, now: float) -> None:
        self.stopped = False
        self._heard_at = now
        self._idle_since: float | None = None

    def heard(self, now: float) -> None:
        """It has said something."""
        self._heard_at = now

    def forgive(self, now: float) -> None:
        """We were away ourselves: nothing is known of the time up to now."""
        self._heard_at, self._idle_since = now, None

    def look(self, pids: list[int], cpu: float, since: float, now: float) -> None:
        """Look at a rank and its descendants, which have used so many cores since a time."""
        own = _threads(pids[0])
        self.stopped = set(own) == {_STOPPED}
        # Data loaders may have hundreds of threads: they are only looked at if nobody works.
        if cpu >= IDLE_CPU or _is_busy(own) or any(_is_busy(_threads(pid)) for pid in pids[1:]):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = since

    def silent_s(self, now: float) -> float:
        """Return the seconds since it last said anything."""
        return now - self._heard_at

    def idle_s(self, now: float) -> float:
        """Return for how many seconds it has been idle, 0 if it isn't."""
        return now - self._idle_since if self._idle_since is not None else 0.0


def _is_busy(threads: list[str]) -> bool:
    """Whether a process would use a core if it got one. Its first thread is the main one.

    Others are seen running also if they only look for the GIL, two hundred times a second.
    """
    return threads[:1] == [_RUNNING] or _DISK in threads


def _threads(pid: int) -> list[str]:
    """Return the states of a process's threads, that of the main one first."""
    found = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        for task in sorted(tasks, key=lambda task: task != str(pid)):
            # A name of 15 bytes may end within a character.
            with open(f"/proc/{pid}/task/{task}/stat", errors="replace") as file:
                found.append(file.read().rpartition(")")[2].split()[0])
    except (OSError, IndexError):
        pass  # it ended while we looked
    return found
