"""A circuit breaker for each host: hosts on which jobs keep failing get no new gangs for a while.

Three failures of a host's making within an hour open its breaker. After a pause one job may try
(half open): if that makes a checkpoint, or runs for two minutes, the breaker closes; if it fails
for such a reason again, the next pause is twice as long. (M. Nygard, "Release It!", 2007.)

A breaker is folded from the journal (`health`), so that a restart of the control plane forgets
none; what only time changes is found out when it is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

from resilient_nb.core.causes import CRASH, HANG, HOST_LOST, IO_ERROR, KILLED, NOT_STARTED

#: So many failures within so many seconds open a breaker.
MOST, WITHIN = 3, 3600.0
#: The first pause and the longest, in seconds; each is twice the one before.
FIRST_PAUSE, LONGEST_PAUSE = 600.0, 4 * 3600.0
#: A host on which an attempt ran so many seconds is well.
PROVEN = 120.0
#: A host on which nothing was tried for so many seconds after its pause is most likely gone.
GONE = 86400.0

#: Causes that may be the host's own.
OF_HOSTS = frozenset({KILLED, HOST_LOST, CRASH, HANG, IO_ERROR, NOT_STARTED})
#: Of these, one that comes again to the same job at the same step is the job's.
_OF_STEPS = frozenset({CRASH, HANG, IO_ERROR})


class Breaker(StrEnum):
    """What a host may get."""

    CLOSED = "closed"  # everything
    HALF_OPEN = "half open"  # one job
    OPEN = "open"  # nothing new


@dataclass(frozen=True)
class Trouble:
    """A failure that may have been the host's."""

    at: float
    cause: str
    job: str
    step: int

    def is_of_the_job(self, other: Trouble) -> bool:
        """Whether what has happened before shows that it is the job that fails there."""
        same = (self.cause, self.job, self.step) == (other.cause, other.job, other.step)
        return same and self.cause in _OF_STEPS


@dataclass(frozen=True)
class Health:
    """What has happened on a host.

    Attributes:
        troubles: since the last time that it was well, the newest last.
        until: its breaker is open until then; 0: it is closed.
        opened: how often in a row it was opened.
        probe: the job that tries whether the host is well again, "" if none does.
        probe_at: when that was put on the host.
    """

    troubles: tuple[Trouble, ...] = ()
    until: float = 0.0
    opened: int = 0
    probe: str = ""
    probe_at: float = 0.0

    def breaker(self, now: float) -> Breaker:
        """Return the state of the host's breaker."""
        if not self.until or self._proven(now):
            return Breaker.CLOSED
        return Breaker.OPEN if now < self.until else Breaker.HALF_OPEN

    def shuns(self, job: str, now: float) -> bool:
        """Whether a job is to be kept off the host."""
        match self.breaker(now):
            case Breaker.OPEN:
                return True
            case Breaker.HALF_OPEN:
                return self.probe not in ("", job)
        return False

    def failed(self, trouble: Trouble) -> Health:
        """Return the health after a failure of a kind that may be the host's."""
        state = self.breaker(trouble.at)
        known = Health() if self._proven(trouble.at) else self
        known = replace(known, probe="" if known.probe == trouble.job else known.probe)
        if any(trouble.is_of_the_job(other) for other in known.troubles):
            return known
        recent = [t for t in known.troubles if trouble.at - t.at < WITHIN]
        new = replace(known, troubles=(*recent, trouble)[-2 * MOST :])
        often = len(new.troubles) >= MOST
        if state is Breaker.HALF_OPEN or (state is Breaker.CLOSED and often):
            return new._open(trouble.at)
        return new

    def took(self, job: str, at: float) -> Health:
        """Return the health when a job was put on the host."""
        if self.breaker(at) is Breaker.HALF_OPEN and not self.probe:
            return replace(self, probe=job, probe_at=at)
        return self

    def left(self, job: str, at: float) -> Health:
        """Return the health when a job left the host, and the host is not to blame."""
        if self._proven(at):
            return Health()
        return replace(self, probe="") if self.probe == job else self

    def served(self, at: float) -> Health:
        """Return the health when a job on the host made a checkpoint, or ran long enough."""
        return Health() if self.breaker(at) is Breaker.HALF_OPEN else self

    def words(self, now: float) -> str:
        """Return in words why the host gets nothing, or only one job; "" if it gets everything."""
        state = self.breaker(now)
        if state is Breaker.CLOSED:
            return ""
        causes = Counter(trouble.cause for trouble in self.troubles).most_common()
        what = ", ".join(f"{count} × {cause}" for cause, count in causes)
        if state is Breaker.OPEN:
            minutes = max(1, round((self.until - now) / 60))
            return f"new jobs go elsewhere, if others could hold them, for {minutes} min: {what}"
        if self.probe:
            return f"{self.probe} tries whether it is well again: {what}"
        return f"one job may try whether it is well again: {what}"

    def is_past(self, now: float) -> bool:
        """Whether all of it is long ago."""
        recent = any(now - trouble.at < WITHIN for trouble in self.troubles)
        return self.breaker(now) is Breaker.CLOSED and not recent

    def _proven(self, now: float) -> bool:
        """Whether the job that tries has run long enough to show that the host is well.

        Or none was put there for so long that there is nothing to be said of it any more.
        """
        if self.probe:
            return now - self.probe_at >= PROVEN
        return bool(self.until) and now - self.until >= GONE

    def _open(self, at: float) -> Health:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.opened, 20))
        return replace(self, until=at + pause, opened=self.opened + 1, probe="", probe_at=0.0)
