"""The live display of a job: a panel in its cell, or lines in a terminal.

`LivePanel` shows the panel once in the cell that started the job and replaces it from a
background thread by its `display_id`, while the kernel is busy with anything else, until
the job ends. What was shown last is what the notebook file holds.
"""

from __future__ import annotations

import contextvars
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from resilient_nb.core.views import JobView
from resilient_nb.notebook import saved
from resilient_nb.notebook.blocks import Block, Head, Note, to_html, to_text
from resilient_nb.notebook.follow import Fetch, Follower, Pace, Sight, Tail
from resilient_nb.notebook.panel import Rich, line_text, panel_html, panel_text
from resilient_nb.notebook.words import Moment

#: Takes what is known of a job and shows it somewhere.
Publish = Callable[[Sight], None]


class LivePanel:
    """Shows a job until it ends.

    Args:
        fetch: long poll for the job; see `follow.Fetch`.
        job_id: what to call the job as long as the cluster didn't answer.
        cluster_id: the cluster that it belongs to; "" if that isn't known.
        tail: returns the end of the job's output.
        publish: where to show it; the default is this cell, or the terminal.
        minimum_interval: seconds between two updates at least.
    """

    def __init__(
        self,
        fetch: Fetch,
        job_id: str,
        *,
        cluster_id: str = "",
        tail: Tail | None = None,
        publish: Publish | None = None,
        minimum_interval: float = 0.25,
    ) -> None:
        self._follower = Follower(
            fetch, publish or here(job_id, cluster_id), tail=tail, pace=Pace(minimum_interval)
        )

    @property
    def view(self) -> JobView | None:
        """The job as it was shown last."""
        return self._follower.sight.view

    def start(self) -> LivePanel:
        """Show the panel here and now, and keep it up to date in the background."""
        self._follower.start()
        return self

    def stop(self) -> None:
        """Leave the panel as it is. The job goes on."""
        self._follower.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the final panel was shown. False if `timeout` seconds weren't enough.

        Code that blocks a cell until a job ends calls this before it returns, so that
        the panel is complete when the next cell begins.
        """
        return self._follower.join(timeout)


def picture(sight: Sight, job_id: str) -> Rich[JobView | None]:
    """Return what is known of a job as a panel."""
    if sight.view is None:
        blocks: list[Block] = [Head(f"job {job_id}"), Note("", sight.notice)]
        return Rich(to_text(blocks), to_html(blocks), None)
    # While the cluster doesn't answer, what is shown is of when it last did.
    moment = Moment(sight.at)
    return Rich(
        panel_text(sight.view, sight.tail, notice=sight.notice, moment=moment),
        panel_html(sight.view, sight.tail, notice=sight.notice, moment=moment),
        sight.view,
    )


def bundle(sight: Sight, job_id: str, cluster_id: str = "") -> dict[str, Any]:
    """Return a panel for every frontend: the first of these types that one knows is drawn."""
    shown = picture(sight, job_id)
    return {
        saved.MIME: saved.payload(job_id, cluster_id, sight.view, sight.at),
        "text/html": shown.html,
        "text/plain": shown.text,
    }


def here(job_id: str, cluster_id: str = "") -> Publish:
    """Return the way to show a job in this process: in a cell if there is a kernel."""
    shell = _shell()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return CellOutput(job_id, shell, cluster_id)
    return TerminalLines()


class CellOutput:
    """One output of a notebook cell, replaced by its `display_id`.

    An update carries as its parent the request that the kernel is working on, and not the
    cell that it belongs to. Frontends find the output by `display_id` alone, but nbclient
    (nbconvert, papermill, nbval) throws away every message whose parent isn't the cell it is
    executing. ipykernel 7 keeps the parent in a context variable and falls back on the
    current request where that isn't set, so an update is sent from an empty context.

    For the same reason nbclient misses what is sent between two cells: that is sent again
    when the next cell begins.
    """

    def __init__(self, job_id: str, shell: Any, cluster_id: str = "") -> None:
        self._job_id, self._cluster_id = job_id, cluster_id
        self._shell = shell
        self._display_id = f"resilient-nb-{secrets.token_hex(8)}"
        self._last: Sight | None = None
        self._in_cell = True
        self._missed = False
        self._lock = threading.RLock()

    def __call__(self, sight: Sight) -> None:
        """Show `sight`: first in the current cell, from then on at the same place."""
        with self._lock:
            update = self._last is not None
            self._last = sight
            self._missed = not self._in_cell
            if not update:
                self._shell.events.register("pre_run_cell", self._cell_began)
                self._shell.events.register("post_run_cell", self._cell_ended)
            self._send(sight, update)

    def _send(self, sight: Sight, update: bool) -> None:
        from IPython.display import display

        data = bundle(sight, self._job_id, self._cluster_id)
        where = contextvars.Context() if update else contextvars.copy_context()
        where.run(display, data, raw=True, display_id=self._display_id, update=update)

    def _cell_began(self, *_: object) -> None:
        with self._lock:
            self._in_cell = True
            if self._missed and self._last is not None:
                self._missed = False
                self._send(self._last, update=True)

    def _cell_ended(self, *_: object) -> None:
        with self._lock:
            self._in_cell = False
            if self._last is not None and self._last.final and not self._missed:
                self._shell.events.unregister("pre_run_cell", self._cell_began)
                self._shell.events.unregister("post_run_cell", self._cell_ended)


class TerminalLines:
    """Short lines while the job goes on, and its whole panel in plain text at the end."""

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        *,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write or _print
        self._every = every
        self._clock = clock
        self._told: tuple[object, ...] = ()
        self._told_at = 0.0
        self._failures = 0

    def __call__(self, sight: Sight) -> None:
        """Print what is new, but mere progress only every few seconds."""
        view = sight.view
        if view is None:
            self._write(sight.notice)
        elif sight.final:
            self._write(panel_text(view, sight.tail))
        else:
            self._tell(view, sight.notice)

    def _tell(self, view: JobView, notice: str) -> None:
        for failure in view.failures[self._failures :]:
            self._write(f"{view.id} ↻ {failure.message} {failure.reason}")
        self._failures = len(view.failures)
        # Expected times and free slots in the reason change all the time: no news by themselves.
        news = (view.state, re.sub(r"\d+", "", view.reason), view.attempts, notice)
        now = self._clock()
        if news == self._told and now - self._told_at < self._every:
            return
        self._told, self._told_at = news, now
        self._write(f"{view.id}: {notice}" if notice else line_text(view))


def _print(text: str) -> None:
    # A terminal may not have every symbol; a job must not look failed because of that.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def _shell() -> Any:
    """Return IPython's shell, if this process runs one; never load IPython to find out."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
