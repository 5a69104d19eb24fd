"""Where a rank's threads are when it hangs or crashes, in a file in memory that both can reach.

faulthandler writes it in the rank: at a signal, and when the process is about to die of a fault.
It needs no help of the interpreter for that, so that something may well hold the GIL. The
supervisor reads it, also when the rank is gone. A cell that sets up faulthandler for itself has
its way; then there are no stacks.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
from contextlib import suppress

#: Signals one thread. glibc has it since 2.30, which is of 2019.
_tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
#: Asks a rank for its stacks. SIGUSR1 is left to cells.
ASK = signal.SIGUSR2
#: Characters that are kept of a rank that is to blame, and of another.
_MOST, _LESS = 6 << 10, 2 << 10
#: Frames of ours and of Python's own: a thread with no others is none of the cell's.
_OURS = re.compile(
    r'  File "(?:.*/resilient_nb/(?:rank|supervisor)/|.*/lib/python3[^/]*/|<frozen )'
)
#: Where the supervisor's own frames begin, of which a rank was forked.
_FORKED = re.compile(r'^  File ".*/resilient_nb/supervisor/', re.MULTILINE)
_THREAD = re.compile(r"^(?=(?:Current thread|Thread) 0x)", re.MULTILINE)


class Stacks:
    """The file of one rank. It is made before the fork, and both have it."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("resilient_nb stacks")
        self._size = 0

    def register(self) -> None:
        """In the rank: write at a signal, and at a fault, of which it still dies."""
        faulthandler.enable(self._fd)
        faulthandler.register(ASK, self._fd)

    def ask(self, pid: int) -> None:
        """Have a rank write; one that is stopped goes on, since it can't otherwise.

        The main thread is asked (its id is the process's). Any other could take a signal to the
        whole process, and one that was stopped would be past the place where it was by then.
        """
        with suppress(ProcessLookupError):
            if _tgkill is None:
                os.kill(pid, ASK)
            else:
                _tgkill(pid, pid, ASK)  # one that is gone, as the next line finds, needs none
            os.kill(pid, signal.SIGCONT)

    def grows(self) -> bool:
        """Whether more was written since the last call, or nothing yet."""
        before, self._size = self._size, os.fstat(self._fd).st_size
        return self._size == 0 or self._size != before

    def read(self, to_blame: bool = True) -> str:
        """Return what was written, "" if nothing was."""
        text = os.pread(self._fd, 64 << 10, 0).decode(errors="replace")
        return tidy(text, _MOST if to_blame else _LESS)

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def tidy(text: str, most: int = _MOST) -> str:
    """Return stacks with the thread first that was running, then the main one; not too long.

    faulthandler has the youngest thread first, and the main one last. Threads that only serve the
    rank itself are left out.
    """
    head, *threads = _THREAD.split(text)
    current = [t for t in threads if t.startswith("Current")]
    others = [t for t in threads if not t.startswith("Current")]
    main = others[-1:] if threads[-1:] == others[-1:] else []
    rest = [t for t in reversed(others[: len(others) - len(main)]) if _is_cells(t)]
    whole = "\n\n".join(filter(None, [head.strip(), *map(_cut, (*current, *main, *rest))]))
    return whole if len(whole) <= most else whole[:most].rpartition("\n")[0] + "\n  …"


def _is_cells(thread: str) -> bool:
    frames = [line for line in thread.splitlines() if line.startswith("  File ")]
    return not all(_OURS.match(frame) for frame in frames)


def _cut(thread: str) -> str:
    """Return a thread without what lies below its cell, and the modules that a crash lists."""
    return _FORKED.split(thread.partition("\nExtension modules:")[0])[0].strip()
