"""The one polling loop: follow a job from a background thread until it ends.

The panel in a cell and the ipywidgets panel both show what `Follower` hands them. It asks by
long poll, so a change is shown at once and an idle job costs one call per `patience`; it
never asks more often than every `minimum_interval`, and of a wide gang less often; and a cluster
that doesn't answer (it may be restarting) is asked again, with the last view kept and a line that
says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from resilient_nb.core.views import JobView
from resilient_nb.errors import ClusterUnreachable, ResilientError
from resilient_nb.wire.requests import Watched

#: Returns the job once it differs from version `seen`, or after `timeout` seconds.
Fetch = Callable[[int, float], Watched]
#: Returns the end of the job's output.
Tail = Callable[[], str]

NOT_ANSWERING = "cluster not answering, trying again"

#: What a restarting cluster looks like from here; anything else won't pass by waiting.
_PASSING = (ClusterUnreachable, OSError)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 2.0

#: Seconds between two questions for each rank: the view of a wide gang is long, and so is the work
#: that each copy of it makes for scheduler, kernel and browser.
_PER_RANK = 0.003


@dataclass(frozen=True)
class Sight:
    """What is known of a job now. `view` is None until the cluster first answered.

    `at` is when the cluster last answered: the same at another time is no news.
    """

    view: JobView | None = None
    tail: str = ""
    notice: str = ""
    at: float = field(default_factory=time.time, compare=False)

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self.view is not None and self.view.state.final


@dataclass(frozen=True)
class Pace:
    """How often to ask, in seconds: at most every `interval`, at least every `patience`."""

    interval: float = 0.25
    patience: float = 10.0


class Follower:
    """Calls `changed(sight)` whenever the job, its output or the cluster's answering changed.

    The first call is made by `start` itself, in the caller's thread; later ones by a daemon
    thread, one at a time. The last one has the final view. An error that waiting can't mend
    is shown as a notice and ends the following; the job itself goes on.
    """

    def __init__(
        self,
        fetch: Fetch,
        changed: Callable[[Sight], None],
        *,
        tail: Tail | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.sight = Sight()
        self._fetch = fetch
        self._changed = changed
        self._tail = tail
        self._pace = pace or Pace()
        self._seen = -1
        self._pause = 0.0
        self._over = False
        self._stopped = threading.Event()
        self._turn = threading.RLock()  # held while a sight is shown: none after `stop` returns
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Show what is known now, and go on in the background unless that is final."""
        if self._thread is not None:
            return
        self._ask(-1, 0.0)
        if self._over or self._stopped.is_set():
            return
        self._thread = threading.Thread(target=self._run, name="resilient-nb-follow", daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Ask once more, now: for changes that we made ourselves, after the end too."""
        self._ask(-1, 0.0)

    def stop(self) -> None:
        """Show nothing any more. The job goes on."""
        with self._turn:
            self._stopped.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the last sight was shown. False if `timeout` seconds weren't enough."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _run(self) -> None:
        # The first sight was shown just now: the interval counts from there.
        while not self._over and not self._stopped.wait(self._gap()):
            self._ask(self._seen, self._pace.patience)

    def _gap(self) -> float:
        view = self.sight.view
        ranks = 0 if view is None else len(view.ranks)
        return max(self._pause, self._pace.interval, ranks * _PER_RANK)

    def _ask(self, seen: int, patience: float) -> None:
        try:
            watched = self._fetch(seen, patience)
            tail = self._latest_tail()
        except _PASSING:
            self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
            # A restarted cluster counts its versions anew, and the first answer ends the notice.
            self._seen = -1
            self._show(replace(self.sight, notice=NOT_ANSWERING))
            return
        except Exception as error:
            # Shown and not raised: a traceback of this thread would land in some other cell.
            self._over = True
            said = str(error) if isinstance(error, ResilientError) else repr(error)
            self._show(replace(self.sight, notice=f"This panel stopped: {said}"))
            return
        self._pause = 0.0
        self._seen = watched.version
        self._over = watched.job.state.final
        self._show(Sight(watched.job, tail))

    def _latest_tail(self) -> str:
        if self._tail is None:
            return ""
        try:
            return self._tail()
        except ResilientError:
            # A job that waits has no output yet, and a lost host's can't be read: the view
            # says so, and is worth showing without it.
            return self.sight.tail

    def _show(self, sight: Sight) -> None:
        with self._turn:
            if self._stopped.is_set():
                return
            known, self.sight = self.sight, sight
            if sight != known:
                self._changed(sight)
