"""The panel with buttons."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import pytest

from resilient_nb.core.model import JobState
from resilient_nb.core.views import CheckpointView, JobView, RunView
from resilient_nb.errors import AlreadyRunning
from resilient_nb.notebook.follow import Pace
from resilient_nb.notebook.widgets import CANCEL, REALLY, JobWidget
from resilient_nb.outcomes import said
from resilient_nb.wire.requests import Submitted, Watched

PATIENCE = 20.0


class Watchable(Protocol):
    def fetch(self, seen: int, timeout: float) -> Watched: ...


class Calls:
    """Actions that remember what was asked, and answer or raise what they are told to."""

    def __init__(self, answer: object = None) -> None:
        self.made: list[str] = []
        self.answer = answer

    def cancel(self) -> object:
        return self._made("cancel")

    def resume(self) -> object:
        return self._made("resume")

    def rollback(self, ref: str) -> object:
        return self._made(f"rollback {ref}")

    def _made(self, call: str) -> object:
        self.made.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Still:
    """A job whose view changes only when a test sets it, and is seen at the next refresh."""

    def __init__(self, view: JobView) -> None:
        self.view = view

    def fetch(self, seen: int, timeout: float) -> Watched:
        return Watched(1, self.view)


def a_widget(job: Watchable, actions: Calls | None = None) -> JobWidget:
    return JobWidget(actions or Calls(), job.fetch, "digits#1", pace=Pace(interval=0.01))


def a_checkpoint(step: int, epoch: int = 1, head: bool = False) -> CheckpointView:
    return CheckpointView(
        ref=f"digits@{step}", run="digits", step=step, at=float(step), nbytes=2048, digest="ab",
        parent=None, id=f"digits/{step:08d}-e{epoch}", path="", is_head=head,
    )  # fmt: skip


def a_job(state: JobState, *checkpoints: CheckpointView) -> JobView:
    return JobView(
        id="digits#1", run="digits", state=state, reason="", priority="normal", workers=1,
        user="ann", submitted_at=0.0, started_at=1.0, ended_at=None, attempts=1, epoch=1, step=20,
        total_steps=100, rate=1.0, eta_s=None, out=(), returned=(), ranks=(), metrics={},
        series={}, checkpoints=checkpoints, failures=(), notes=(), label="In [1]",
    )  # fmt: skip


def buttons(widget: JobWidget) -> tuple[bool, bool, bool]:
    """Return whether cancel, resume and roll back can be clicked."""
    row = widget.children[1].children
    assert row[2].disabled == row[3].disabled
    return (not row[0].disabled, not row[1].disabled, not row[2].disabled)


def click(widget: JobWidget, which: int) -> None:
    widget.children[1].children[which].click()


def status(widget: JobWidget) -> str:
    return str(widget.children[2].value)


END, HEAD = a_checkpoint(40), a_checkpoint(40, head=True)


@pytest.mark.parametrize(
    ("job", "enabled"),
    [
        (a_job(JobState.QUEUED), (True, False, False)),
        (a_job(JobState.RUNNING, HEAD), (True, False, False)),
        (a_job(JobState.STOPPING, HEAD), (True, False, False)),
        (a_job(JobState.SUCCEEDED), (False, False, False)),
        (a_job(JobState.SUCCEEDED, a_checkpoint(20), HEAD), (False, False, True)),
        (a_job(JobState.SUCCEEDED, a_checkpoint(20, head=True), END), (False, True, True)),
        (a_job(JobState.FAILED), (False, True, False)),
        (a_job(JobState.CANCELLED, HEAD), (False, True, True)),
    ],
)
def test_buttons_are_enabled_by_state(job: JobView, enabled: tuple[bool, bool, bool]) -> None:
    widget = a_widget(Still(job))
    assert buttons(widget) == enabled
    widget.close()


def test_the_panel_is_the_same_html_as_without_widgets() -> None:
    widget = a_widget(Still(a_job(JobState.FAILED)))
    assert "✗ failed" in widget.children[0].value
    bundle = widget._repr_mimebundle_()
    assert bundle["text/html"] == widget.children[0].value
    assert "✗ failed" in bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_cancel_needs_a_second_click() -> None:
    calls = Calls("Job digits#1 is stopping.")
    widget = a_widget(Still(a_job(JobState.RUNNING)), calls)
    button = widget.children[1].children[0]
    click(widget, 0)
    assert (button.description, calls.made) == (REALLY, [])
    click(widget, 0)
    assert (button.description, calls.made) == (CANCEL, ["cancel"])
    assert status(widget) == "✓ Job digits#1 is stopping."
    widget.close()


def test_an_armed_cancel_is_put_back_when_the_job_ends() -> None:
    job = Still(a_job(JobState.RUNNING))
    widget = a_widget(job)
    click(widget, 0)
    job.view = a_job(JobState.SUCCEEDED)
    assert widget.join(PATIENCE)
    assert widget.children[1].children[0].description == CANCEL
    assert buttons(widget) == (False, False, False)


def test_roll_back_goes_to_the_chosen_checkpoint_and_then_resume_is_offered() -> None:
    job = Still(a_job(JobState.SUCCEEDED, a_checkpoint(20), HEAD))
    calls = Calls()
    widget = a_widget(job, calls)
    choice = widget.children[1].children[3]
    assert choice.options == (("digits@40 · 2.00 KiB · head", "digits@40"),
                              ("digits@20 · 2.00 KiB", "digits@20"))  # fmt: skip
    assert choice.value == "digits@40"
    assert not buttons(widget)[1]
    choice.value = "digits@20"
    job.view = a_job(JobState.SUCCEEDED, a_checkpoint(20, head=True), END)
    click(widget, 2)
    assert calls.made == ["rollback digits@20"]
    assert status(widget) == "✓ Roll back to digits@20: done."
    assert buttons(widget)[1]
    assert choice.value == "digits@20"
    click(widget, 1)
    assert calls.made[-1] == "resume"


def test_a_new_checkpoint_does_not_change_what_was_chosen() -> None:
    job = Still(a_job(JobState.CANCELLED, a_checkpoint(20), HEAD))
    widget = a_widget(job)
    choice = widget.children[1].children[3]
    choice.value = "digits@20"
    job.view = a_job(JobState.CANCELLED, a_checkpoint(20), END, a_checkpoint(60, head=True))
    click(widget, 1)
    assert [ref for _, ref in choice.options] == ["digits@60", "digits@40", "digits@20"]
    assert choice.value == "digits@20"


def test_two_checkpoints_of_one_step_are_offered_once() -> None:
    job = a_job(JobState.FAILED, a_checkpoint(20), a_checkpoint(20, 2, head=True))
    choice = a_widget(Still(job)).children[1].children[3]
    assert choice.options == (("digits@20 · 2.00 KiB · head", "digits@20"),)


def test_an_error_of_an_action_is_shown_and_inert() -> None:
    widget = a_widget(Still(a_job(JobState.FAILED)), Calls(AlreadyRunning("<b>digits#2</b> runs.")))
    click(widget, 1)
    assert status(widget) == "✗ Resume failed: &lt;b&gt;digits#2&lt;/b&gt; runs."


def test_an_error_without_words_is_named() -> None:
    widget = a_widget(Still(a_job(JobState.FAILED)), Calls(TimeoutError()))
    click(widget, 1)
    assert status(widget) == "✗ Resume failed: TimeoutError"


def test_what_actions_return_is_said_in_a_sentence() -> None:
    run = RunView("digits", 0.0, "digits/00000020-e1", None, {}, (), (), None)
    assert said(run) == "The head of digits is digits@20."
    assert said(replace(run, head=None)) == "The head of digits is empty."
    assert said(a_job(JobState.STOPPING)) == "Job digits#1 is stopping."
    assert said(Submitted("digits#2", "digits", 20, "")) == (
        "Job digits#2 was submitted; it goes on from step 20."
    )
    assert said(Submitted("digits#2", "digits", None, "Forked.")) == (
        "Job digits#2 was submitted. Forked."
    )
    assert said(None) == ""
