"""The panel with buttons, as ipywidgets: cancel, resume and roll back by a click.

It shows the same HTML as the plain panel. Clicks are handled by the kernel, so they wait
while it is busy; the command line and the `%resilient` verbs of another kernel don't.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, Protocol

from ipywidgets import HTML, Button, Dropdown, HBox, Layout, VBox

from resilient_nb.connection import current
from resilient_nb.core.model import JobState
from resilient_nb.core.views import CheckpointView, JobView
from resilient_nb.handles import Job
from resilient_nb.notebook import words
from resilient_nb.notebook.display import picture
from resilient_nb.notebook.follow import Fetch, Follower, Pace, Sight, Tail
from resilient_nb.outcomes import said

CANCEL = "Cancel"
REALLY = "Really cancel? (checkpoint first)"


class Actions(Protocol):
    """What the buttons do. What an action returns or raises is shown in the status line."""

    def cancel(self) -> object:
        """Have the job checkpoint and end."""

    def resume(self) -> object:
        """Submit the run's last cell again, from the head."""

    def rollback(self, ref: str) -> object:
        """Move the run's head to the checkpoint `ref`; delete nothing."""


class JobWidget(VBox):
    """A job's live panel above buttons and a status line.

    It begins to follow the job when it is made, and ends by itself when the job does.
    """

    def __init__(
        self,
        actions: Actions,
        fetch: Fetch,
        job_id: str = "",
        *,
        tail: Tail | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._actions = actions
        self._job_id = job_id
        self._panel = HTML()
        self._cancel = _button(CANCEL, "Checkpoint, then end the job")
        self._resume = _button("Resume", "Run the job's cell again, from the run's head")
        self._rollback = _button("Roll back to", "Move the run's head; nothing is deleted")
        self._checkpoints = Dropdown(options=(), layout=Layout(width="auto", min_width="220px"))
        self._status = HTML()
        self._cancel.on_click(lambda _: self._cancel_clicked())
        self._resume.on_click(lambda _: self._act("Resume", self._actions.resume))
        self._rollback.on_click(lambda _: self._rollback_clicked())
        row = HBox(
            [self._cancel, self._resume, self._rollback, self._checkpoints],
            layout=Layout(flex_flow="row wrap"),
        )
        super().__init__([self._panel, row, self._status])
        self._enable(None)
        self._follower = Follower(fetch, self._show, tail=tail, pace=pace)
        self._follower.start()

    def close(self) -> None:
        """Stop following, and take the widget away. The job goes on."""
        follower = getattr(self, "_follower", None)  # also called by `__del__` of a half-made one
        if follower is not None:
            follower.stop()
        super().close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the final panel was shown. False if `timeout` seconds weren't enough."""
        return self._follower.join(timeout)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Return the widget, with the panel as it is now for files read without a kernel."""
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        shown = picture(self._follower.sight, self._job_id)
        return {**bundle, "text/plain": shown.text, "text/html": shown.html}

    def _show(self, sight: Sight) -> None:
        self._panel.value = picture(sight, self._job_id).html
        if sight.view is not None:
            self._offer(sight.view.checkpoints)
        if sight.final:
            self._disarm()
        self._enable(sight.view)

    def _enable(self, view: JobView | None) -> None:
        self._cancel.disabled = not can_cancel(view)
        self._resume.disabled = not can_resume(view)
        self._rollback.disabled = self._checkpoints.disabled = not can_roll_back(view)

    def _offer(self, checkpoints: tuple[CheckpointView, ...]) -> None:
        # Two attempts can save the same step; the reference means the newer one.
        newest = {c.ref: c for c in checkpoints}
        options = tuple((_described(c), c.ref) for c in reversed(newest.values()))
        if options == self._checkpoints.options:
            return
        chosen = self._checkpoints.value
        self._checkpoints.options = options
        # ipywidgets chooses nothing by itself; the newest is a choice that does no harm.
        if options:
            self._checkpoints.value = chosen if chosen in newest else options[0][1]

    def _cancel_clicked(self) -> None:
        if self._cancel.description == CANCEL:
            self._cancel.description = REALLY
            self._cancel.button_style = "danger"
            return
        self._act("Cancel", self._actions.cancel)

    def _rollback_clicked(self) -> None:
        ref = self._checkpoints.value
        self._act(f"Roll back to {ref}", lambda: self._actions.rollback(ref))

    def _act(self, name: str, action: Callable[[], object]) -> None:
        self._disarm()
        self._say("…", f"{name} …")
        try:
            result = action()
        except Exception as error:
            # Whatever it is, the status line is where the person who clicked looks.
            self._say("✗", f"{name} failed: {str(error) or type(error).__name__}")
        else:
            self._say("✓", said(result) or f"{name}: done.")
        self._follower.refresh()

    def _disarm(self) -> None:
        self._cancel.description = CANCEL
        self._cancel.button_style = ""

    def _say(self, symbol: str, text: str) -> None:
        self._status.value = f"{symbol} {escape(words.one_line(text))}"


def can_cancel(view: JobView | None) -> bool:
    """Whether there is something to cancel."""
    return view is not None and not view.state.final


def can_resume(view: JobView | None) -> bool:
    """Whether a resume would compute anything: unfinished, or rolled back since."""
    if view is None or not view.state.final:
        return False
    if view.state is not JobState.SUCCEEDED:
        return True
    return bool(view.checkpoints) and not view.checkpoints[-1].is_head


def can_roll_back(view: JobView | None) -> bool:
    """Whether the head may move: there is where to, and no job that writes from it."""
    return view is not None and view.state.final and bool(view.checkpoints)


def _button(description: str, tooltip: str) -> Button:
    return Button(description=description, tooltip=tooltip, layout=Layout(width="auto"))


def _described(checkpoint: CheckpointView) -> str:
    head = "head" if checkpoint.is_head else ""
    return words.one_line(
        words.joined(checkpoint.ref, words.size(checkpoint.nbytes), *checkpoint.tags, head)
    )


def panel(job: Job | str) -> JobWidget:
    """Return a job's live panel with buttons: cancel, resume, roll back.

    Args:
        job: the job, or what names it (`digits#2`, or a run for its latest job).
    """
    if isinstance(job, str):
        client = current()
        job = Job(client, client.watch(job, timeout=0.0).job.id)
    return JobWidget(job, job.watch, job.id, tail=job.tail)
