"""The memory that a rank may have with all that it starts: more, and it is ended, alone.

Either the kernel sees to it, in a control group of the rank's own, or the supervisor looks often
enough. What counts is memory that can't be taken back (see `footprint`): pages of files are given
up before that.
"""

from __future__ import annotations

import math

from resilient_nb.supervisor.cgroups import Cgroup

#: Seconds between two looks at a rank with a limit.
_SOONEST, _LATEST = 0.1, 0.5
#: What the kernel killed longer ago than so many seconds, or twice as many, says nothing of who
#: ends now.
_RECENT = 30.0
#: A process can hardly fill memory faster than this, in bytes a second.
_FASTEST = 2e9


class Limit:
    """One rank's limit, in bytes (0: none), and when to look at it again."""

    def __init__(self, most: int, group: Cgroup | None = None) -> None:
        self.most = most
        self.group = group
        self.over = False
        self._kills = self._later = oom_kills()
        self._counted_at = -math.inf
        self.due_at = 0.0 if most > 0 else math.inf

    def enter(self) -> None:
        """In the rank: be held to it from now on."""
        if self.group is not None:
            self.group.enter()

    def due(self, now: float) -> bool:
        """Whether it is time to look. The nearer to the limit, the more often."""
        return now >= self.due_at

    def look(self, held: int, now: float) -> bool:
        """Take what the rank holds; True if that is too much."""
        self.due_at = now + min(_LATEST, max(_SOONEST, (self.most - held) / _FASTEST))
        by_kernel = self.group is not None and self.group.oom_kills() > 0
        self.over = held > self.most or by_kernel
        if self.over:
            self.due_at = math.inf
        return self.over

    def count(self, now: float) -> None:
        """Note now and then how often the kernel has killed for lack of memory."""
        if now - self._counted_at >= _RECENT:
            self._counted_at = now
            self._kills, self._later = self._later, oom_kills()

    def oom_kills(self) -> int:
        """Return how often the kernel has killed for lack of memory lately, while the rank ran."""
        return max(0, oom_kills() - self._kills)

    def ended(self) -> bool:
        """Whether the rank, which has ended, was ended for it; lets go of its group."""
        if self.group is not None:
            self.over = self.over or self.group.oom_kills() > 0
            self.group.remove()
        return self.over


def oom_kills() -> int:
    """Return how often the kernel has killed for lack of memory since the machine began."""
    try:
        with open("/proc/vmstat") as file:
            for line in file:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    except (OSError, ValueError):
        pass
    return 0
