"""Failures on purpose, where the ranks are. Each ends by itself, whoever asked for it.

What only the rank itself can do (hold its GIL, cut its connections, fail to write) it is told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resilient_nb.core.model import Injection
from resilient_nb.errors import ResilientError
from resilient_nb.supervisor.children import Child
from resilient_nb.wire.orders import Chaos

if TYPE_CHECKING:
    from resilient_nb.storage.corrupting import Flipped

#: A slow rank is stopped for the first part of each period, in seconds.
_PERIOD, _STOPPED = 0.1, 0.09

Whisper = Callable[[Child, object], None]
Tell = Callable[[Chaos, str], None]


@dataclass
class _Lasting:
    """Something that is to end: a rank that is stopped, or slow, or a bit that is flipped."""

    order: Chaos
    until: float
    child: Child | None = None
    flipped: Flipped | None = None
    next: float = 0.0
    stopped: bool = False


@dataclass
class Injector:
    """Breaks things, and mends them when their time is over.

    Attributes:
        whisper: tells a rank.
        tell: tells the user what was done, or why it couldn't be.
    """

    whisper: Whisper
    tell: Tell
    _lasting: list[_Lasting] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def inject(self, order: Chaos, child: Child | None, now: float) -> None:
        """Do what an order says, once."""
        if order.id in self._known:
            return
        self._known.add(order.id)
        match order.what:
            case Injection.CORRUPT_CHUNK:
                self._flip(order, now)
            case Injection.KILL_WORKER:  # only comes here if the agent couldn't
                self.tell(order, "the Dask worker has no nanny that would start another")
            case _ if child is None:
                self.tell(order, f"rank {order.rank} has ended already")
            case Injection.KILL_RANK:
                os.kill(child.pid, signal.SIGKILL)
            case Injection.STOP:
                self._stop(child, True)
                self._lasting.append(_Lasting(order, now + order.seconds, child, stopped=True))
            case Injection.SLOW:
                self._lasting.append(_Lasting(order, now + order.seconds, child))
            case _:
                self.whisper(child, order)

    @property
    def next(self) -> float:
        """When there is something to do (monotonic clock)."""
        return min((min(x.next or x.until, x.until) for x in self._lasting), default=float("inf"))

    def look(self, now: float, live: Callable[[Child], bool]) -> None:
        """Do what is due. Only ranks that are `live` get signals: others' numbers may be reused."""
        for lasting in list(self._lasting):
            gone = lasting.child is not None and not live(lasting.child)
            if gone or now >= lasting.until:
                self._lasting.remove(lasting)
                if not gone:
                    self._mend(lasting)
            elif lasting.order.what is Injection.SLOW and now >= lasting.next:
                assert lasting.child is not None
                lasting.stopped = not lasting.stopped
                self._stop(lasting.child, lasting.stopped)
                lasting.next = now + (_STOPPED if lasting.stopped else _PERIOD - _STOPPED)

    def close(self) -> None:
        """Mend everything at once: nobody will be there later. Ranks die with the supervisor."""
        for lasting in self._lasting:
            if lasting.flipped is not None:
                lasting.flipped.undo()
        self._lasting.clear()

    def _flip(self, order: Chaos, now: float) -> None:
        from resilient_nb.storage.corrupting import flip  # numpy: only for this

        try:
            flipped = flip(order.path)
        except (OSError, ResilientError) as error:
            self.tell(order, str(error))
            return
        self._lasting.append(_Lasting(order, now + order.seconds, flipped=flipped))

    def _mend(self, lasting: _Lasting) -> None:
        if lasting.flipped is not None:
            lasting.flipped.undo()
        if lasting.child is not None:
            self._stop(lasting.child, False)

    @staticmethod
    def _stop(child: Child, stop: bool) -> None:
        try:
            os.kill(child.pid, signal.SIGSTOP if stop else signal.SIGCONT)
        except ProcessLookupError:
            return  # it is dead, and will be collected
