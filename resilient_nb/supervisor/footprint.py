"""The memory that a rank and its descendants hold, each page counted once.

What a forked process has in common with its parent counts in the resident size of both, and what
several map counts in that of each. Only the kernel can divide it (PSS), and it walks all pages for
that. So it is asked now and then, and between these times the growth of the sizes is added,
which is cheap. Pages of files aren't counted: the kernel takes them back when it needs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

#: The kernel is asked this often at most, in seconds, and for at most this part of the time.
_EVERY, _PART = 1.0, 0.001


class Footprint:
    """Memory now and at its most, in bytes."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._exact = self._bound = 0
        self._due = 0.0

    def measure(self, pids: Sequence[int], clock: float, limit: int = 0) -> int:
        """Measure; what is close to exceed a limit is measured exactly."""
        bound = _upper_bound(pids)
        found = max(0, self._exact + bound - self._bound)
        if clock >= self._due or 0 < limit < found:
            began = time.thread_time()
            found = self._exact = min(bound, _exact(pids) or bound)
            self._bound = bound
            self._due = clock + max(_EVERY, (time.thread_time() - began) / _PART)
        self.now, self.peak = found, max(found, self.peak)
        return found


def _upper_bound(pids: Iterable[int]) -> int:
    """Return no less than the memory that they hold; what is shared counts several times."""
    own, shared = 0, 0
    for pid in pids:
        found = _read(f"/proc/{pid}/status", ("RssAnon:", "VmSwap:", "RssShmem:"))
        own += found["RssAnon:"] + found["VmSwap:"]
        shared += found["RssShmem:"]
    return own + shared


def _exact(pids: Iterable[int]) -> int:
    """Return the memory that they hold, 0 if the kernel doesn't say."""
    fields = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
    return sum(sum(_read(f"/proc/{pid}/smaps_rollup", fields).values()) for pid in pids)


def _read(path: str, fields: tuple[str, ...]) -> dict[str, int]:
    """Return fields of a file of /proc that has them in kB, as bytes; 0 of those it hasn't."""
    found = dict.fromkeys(fields, 0)
    try:
        with open(path, errors="replace") as file:  # names are any bytes
            for line in file:
                words = line.split()
                if words and words[0] in found:
                    found[words[0]] = int(words[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # it ended while we looked, or is none of ours
    return found
