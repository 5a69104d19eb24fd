"""Following a job, and showing it live in a cell or a terminal."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import resilient_nb.core
from resilient_nb.core.model import Failure, Frame, JobState, RemoteError
from resilient_nb.core.views import CheckpointView, JobView, LiveRank
from resilient_nb.errors import ClusterUnreachable, UnknownName
from resilient_nb.notebook import saved
from resilient_nb.notebook.display import LivePanel, TerminalLines, bundle, picture
from resilient_nb.notebook.follow import NOT_ANSWERING, Follower, Pace, Sight
from resilient_nb.notebook.words import Moment
from resilient_nb.wire.codec import build
from resilient_nb.wire.requests import Watched

PATIENCE = 20.0
FAST = Pace(interval=0.001, patience=PATIENCE)


def a_job(step: int = 0, state: JobState = JobState.RUNNING, **changes: object) -> JobView:
    base = JobView(
        id="digits#1", run="digits", state=state, reason="", priority="normal", workers=1,
        user="ann", submitted_at=0.0, started_at=1.0, ended_at=None, attempts=1, epoch=1,
        step=step, total_steps=100, rate=1.0, eta_s=None, out=(), returned=(), ranks=(),
        metrics={}, series={}, checkpoints=(), failures=(), notes=(), label="In [1]",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


class FakeJob:
    """A job whose watchers wait for `set`, as those of the cluster do."""

    def __init__(self, view: JobView | None = None) -> None:
        self._view = view or a_job()
        self._version = 0
        self._errors: list[Exception] = []
        self._news = threading.Condition()
        self.asked: list[int] = []

    def set(self, step: int, state: JobState = JobState.RUNNING) -> None:
        with self._news:
            self._view, self._version = a_job(step, state), self._version + 1
            self._news.notify_all()

    def fail_with(self, *errors: Exception) -> None:
        with self._news:
            self._errors += errors
            self._news.notify_all()

    def fetch(self, seen: int, timeout: float) -> Watched:
        with self._news:
            self.asked.append(seen)
            self._news.wait_for(lambda: self._errors or self._version != seen, timeout)
            if self._errors:
                raise self._errors.pop(0)
            return Watched(self._version, self._view)


class Shown:
    """Remembers what was shown, and lets a test wait for it."""

    def __init__(self) -> None:
        self.sights: list[Sight] = []
        self._news = threading.Condition()

    def __call__(self, sight: Sight) -> None:
        with self._news:
            self.sights.append(sight)
            self._news.notify_all()

    def wait_for(self, test: Callable[[Sight], object]) -> None:
        with self._news:
            assert self._news.wait_for(lambda: any(map(test, self.sights)), PATIENCE), self.sights

    @property
    def steps(self) -> list[int]:
        return [s.view.step for s in self.sights if s.view is not None]


def at_step(step: int) -> Callable[[Sight], bool]:
    return lambda sight: sight.view is not None and sight.view.step == step


def test_every_change_is_shown_until_the_job_ends() -> None:
    job, shown = FakeJob(), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    assert shown.steps == [0]
    job.set(1)
    shown.wait_for(at_step(1))
    job.set(2, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert shown.steps == [0, 1, 2]
    assert shown.sights[-1].final
    assert job.asked == [-1, 0, 1]


def test_a_job_that_has_ended_needs_no_thread() -> None:
    shown = Shown()
    follower = Follower(FakeJob(a_job(9, JobState.FAILED)).fetch, shown, pace=FAST)
    before = threading.active_count()
    follower.start()
    assert threading.active_count() == before
    assert follower.join(0)
    assert shown.steps == [9]


def test_what_did_not_change_is_not_shown_again() -> None:
    job, shown = FakeJob(), Shown()
    follower = Follower(job.fetch, shown, pace=Pace(interval=0.001, patience=0.001))
    follower.start()
    while len(job.asked) < 10:
        assert len(shown.sights) == 1
    job.set(1, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert shown.steps == [0, 1]


def test_new_output_is_shown_even_if_the_view_is_the_same() -> None:
    job, shown, output = FakeJob(), Shown(), ["one"]
    follower = Follower(
        job.fetch, shown, tail=lambda: output[-1], pace=Pace(interval=0.001, patience=0.001)
    )
    follower.start()
    output.append("two")
    shown.wait_for(lambda sight: sight.tail == "two")
    follower.stop()


def test_output_that_cannot_be_read_does_not_stop_the_panel() -> None:
    job, shown = FakeJob(), Shown()

    def tail() -> str:
        if len(job.asked) == 1:
            return "begun"
        raise UnknownName("There is no log yet.")

    follower = Follower(job.fetch, shown, tail=tail, pace=FAST)
    follower.start()
    job.set(1, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert [(s.tail, s.notice) for s in shown.sights] == [("begun", ""), ("begun", "")]
    assert shown.sights[-1].final


def test_updates_come_no_faster_than_the_interval() -> None:
    job, shown = FakeJob(), Shown()
    follower = Follower(job.fetch, shown, pace=Pace(interval=0.2, patience=PATIENCE))
    follower.start()
    for step in range(1, 100):
        job.set(step)
    job.set(100, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert shown.steps == [0, 100]


def test_a_cluster_that_does_not_answer_is_asked_again_and_the_view_stays() -> None:
    job, shown = FakeJob(a_job(7)), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    job.fail_with(ClusterUnreachable("down"), ConnectionResetError("reset"))
    shown.wait_for(lambda sight: sight.notice == NOT_ANSWERING and sight.view is not None)
    shown.wait_for(lambda sight: sight is shown.sights[-1] and not sight.notice)
    job.set(8, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert [(s.view and s.view.step, s.notice) for s in shown.sights[:2]] == [
        (7, ""),
        (7, NOT_ANSWERING),
    ]
    assert shown.steps[-1] == 8
    assert shown.sights[-1].notice == ""


def test_a_restarted_cluster_is_asked_without_the_old_version() -> None:
    job, shown = FakeJob(a_job(7)), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    job.fail_with(ClusterUnreachable("down"))
    shown.wait_for(lambda sight: len(shown.sights) == 3)
    follower.stop()
    assert job.asked[:3] == [-1, 0, -1]


def test_pauses_grow_to_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    job, shown = FakeJob(), Shown()
    job.fail_with(*(ClusterUnreachable("down") for _ in range(6)))
    pauses: list[float] = []

    class NoWaiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return super().wait(0)

    follower = Follower(job.fetch, shown, pace=Pace(interval=0.1, patience=PATIENCE))
    monkeypatch.setattr(follower, "_stopped", NoWaiting())
    follower.start()
    job.set(1, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert pauses[:6] == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert shown.sights[0] == Sight(notice=NOT_ANSWERING)
    assert shown.sights[-1].final


def test_an_error_that_waiting_cannot_mend_is_shown_and_ends_it() -> None:
    job, shown = FakeJob(a_job(7)), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    job.fail_with(UnknownName("There is no job digits#1."))
    assert follower.join(PATIENCE)
    assert shown.sights[-1].notice == "This panel stopped: There is no job digits#1."
    assert shown.steps[-1] == 7


def test_nothing_is_shown_after_stop() -> None:
    job, shown = FakeJob(), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    follower.stop()
    job.set(1, JobState.SUCCEEDED)
    assert follower.join(PATIENCE)
    assert shown.steps == [0]


def test_an_answer_that_is_no_news_is_known_to_be_newer() -> None:
    job, shown = FakeJob(a_job(5, JobState.SUCCEEDED)), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    first = follower.sight.at
    follower.refresh()
    assert follower.sight.at > first
    job.fail_with(ClusterUnreachable("down"))
    newest = follower.sight.at
    follower.refresh()
    assert (follower.sight.notice, follower.sight.at) == (NOT_ANSWERING, newest)
    assert len(shown.sights) == 2


def test_refresh_shows_what_changed_after_the_end() -> None:
    job, shown = FakeJob(a_job(5, JobState.SUCCEEDED)), Shown()
    follower = Follower(job.fetch, shown, pace=FAST)
    follower.start()
    job.set(6, JobState.SUCCEEDED)
    follower.refresh()
    assert shown.steps == [5, 6]


def test_a_panel_without_an_answer_yet_names_the_job() -> None:
    shown = picture(Sight(notice=NOT_ANSWERING), "digits#1")
    assert "digits#1" in shown.text
    assert NOT_ANSWERING in shown.text
    assert NOT_ANSWERING in shown.html


def a_huge_job() -> JobView:
    """A job of which there is more than enough of everything."""
    text = "\N{SNOWMAN}" * 20_000
    error = RemoteError("ValueError", text, (Frame("<cell>", 1, "<module>", text),) * 500)
    failure = Failure(
        "user error", text, "stop", text, 0.0, 1, error=error, evidence=(text,) * 50, stacks=text
    )
    curve = tuple((step, 1 / (step + 1)) for step in range(5000))
    names = tuple(f"value{n}" for n in range(500))
    checkpoints = tuple(
        CheckpointView(
            f"digits@{n}", "digits", n, 0.0, 1, "0" * 64, None, f"digits/{n}", f"/store/{n}",
            tags=("first",) if n == 0 else (), is_head=n == 1, metrics=dict.fromkeys(names, 1.0),
        )
        for n in range(1000)
    )  # fmt: skip
    return a_job(
        series=dict.fromkeys((*names, "loss"), curve), metrics=dict.fromkeys(names, 1.0),
        ranks=tuple(LiveRank(n) for n in range(1000)), checkpoints=checkpoints, reason=text,
        failures=(failure,) * 50, notes=(text,) * 50, alerts=(text,) * 50, out=names,
        reads=dict.fromkeys(names, text),
    )  # fmt: skip


def test_what_a_notebook_holds_of_a_job_is_the_newest_of_it_and_bounded() -> None:
    job = a_huge_job()
    held = bundle(Sight(job), "digits#1", "c0ffee")[saved.MIME]
    assert len(json.dumps(held, ensure_ascii=False).encode()) < 200_000
    assert (held["version"], held["job"], held["run"]) == (1, "digits#1", "digits")
    assert held["cluster"] == "c0ffee"
    view = held["view"]
    assert [rank["rank"] for rank in view["ranks"]] == list(range(16))
    assert next(iter(view["series"])) == "loss"
    assert len(view["series"]["loss"]) <= 300
    assert [view["series"]["loss"][n][0] for n in (0, -1)] == [0, 4999]
    kept = [c["step"] for c in view["checkpoints"]]
    assert kept == [0, 1, *range(960, 1000)]  # a tag, the head, the newest
    assert {c["path"] for c in view["checkpoints"]} == {""}  # is nobody's business elsewhere
    assert [len(job.failures), len(view["failures"])] == [50, 5]


def test_what_a_notebook_holds_of_a_small_job_is_all_of_it() -> None:
    job = a_job(2, series={"loss": ((1, 0.5), (2, 0.25))}, metrics={"loss": 0.25})
    held = saved.payload("digits#1", "", job, 1e9)
    assert build(JobView, held["view"]) == job
    assert held["at"] == 1e9


def test_what_is_shown_while_the_cluster_is_silent_is_of_when_it_last_answered() -> None:
    silent = bundle(Sight(a_job(7), notice=NOT_ANSWERING, at=1e9), "digits#1")
    assert silent[saved.MIME]["at"] == 1e9
    for text in (silent["text/plain"], silent["text/html"]):
        assert f"as of {Moment(1e9).stamp()}" in text


def test_a_value_that_is_no_number_is_null_in_the_notebook() -> None:
    curve = ((1, 0.5), (2, math.nan), (3, math.inf))
    held = saved.payload("digits#1", "", a_job(3, series={"loss": curve}), 1e9)
    assert held["view"]["series"]["loss"] == [[1, 0.5], [2, None], [3, None]]
    json.dumps(held, allow_nan=False)


def test_a_notebook_holds_a_jobs_name_before_the_cluster_answers() -> None:
    shown = bundle(Sight(notice=NOT_ANSWERING, at=1e9), "digits#1")
    assert shown[saved.MIME] == {
        "version": 1, "job": "digits#1", "run": "digits", "cluster": "", "at": 1e9, "view": None,
    }  # fmt: skip
    assert NOT_ANSWERING in shown["text/plain"]


def test_a_terminal_gets_lines_for_news_and_the_panel_at_the_end() -> None:
    written: list[str] = []
    now = [0.0]
    lines = TerminalLines(written.append, every=5.0, clock=lambda: now[0])
    killed = Failure("killed", "rank 0 was killed.", "retry", "It goes on at once.", 0.0, 1)
    lines(Sight(a_job(1)))
    lines(Sight(a_job(2)))
    now[0] = 6.0
    lines(Sight(a_job(3)))
    lines(Sight(a_job(3), notice=NOT_ANSWERING))
    lines(Sight(a_job(4, attempts=2, failures=(killed,))))
    lines(Sight(a_job(100, JobState.SUCCEEDED, failures=(killed,)), tail="bye"))
    assert [line.split("\n")[0] for line in written] == [
        "digits#1 ► running · step 1 of 100 (1 %) · 1.00 steps/s",
        "digits#1 ► running · step 3 of 100 (3 %) · 1.00 steps/s",
        f"digits#1: {NOT_ANSWERING}",
        "digits#1 ↻ rank 0 was killed. It goes on at once.",
        "digits#1 ► running · step 4 of 100 (4 %) · 1.00 steps/s",
        "✓ succeeded  digits#1  In [1] · normal priority · 1 worker",
    ]
    assert written[-1].endswith("bye")


def test_a_new_reason_is_news_and_another_expected_time_is_not() -> None:
    written: list[str] = []
    lines = TerminalLines(written.append, every=5.0, clock=lambda: 0.0)
    for reason in ("Starts in about 12 min.", "Starts in about 11 min.", "Room is made."):
        lines(Sight(a_job(state=JobState.QUEUED, reason=reason)))
    assert written == [
        "digits#1 ○ queued · Starts in about 12 min.",
        "digits#1 ○ queued · Room is made.",
    ]


def test_without_a_kernel_the_panel_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    job = FakeJob(a_job(100, JobState.SUCCEEDED))
    panel = LivePanel(job.fetch, "digits#1").start()
    assert panel.join(PATIENCE)
    assert panel.view is not None
    assert "✓ succeeded" in capsys.readouterr().out


# --- in a real kernel ---------------------------------------------------------------------

SETUP = """
import threading
from resilient_nb.core.model import JobState
from resilient_nb.notebook.display import LivePanel
from test_display import FakeJob, a_job
steady, between, endless = FakeJob(), FakeJob(), FakeJob()
"""
SHOW = "panel = LivePanel({job}.fetch, '{job}', minimum_interval=0.01).start()"
BUSY = """
def work():
    for step in range(1, 6):
        steady.set(step)
        while panel.view.step != step:
            stop.wait(0.01)
    steady.set(100, JobState.SUCCEEDED)
    panel.join()
    stop.set()

panel, stop = panel, threading.Event()
threading.Thread(target=work).start()
while not stop.is_set():
    sum(range(1000))
"""
ENDS_BETWEEN_CELLS = """
import pathlib
last = panel
def end():
    while not pathlib.Path("go").exists():
        stop.wait(0.01)
    between.set(100, JobState.SUCCEEDED)
    last.join()
    pathlib.Path("ended").touch()

stop = threading.Event()
threading.Thread(target=end).start()
"""
STILL_RUNNING = """
endless.set(3)
while panel.view.step != 3:
    stop.wait(0.01)
"""
WIDGET = """
from test_widgets import a_widget
watched = FakeJob()
widget = a_widget(watched)
display(widget)
"""
WIDGET_ENDS = """
watched.set(100, JobState.SUCCEEDED)
assert widget.join(20)
"""
# Some Pythons give a new thread the context of the one that starts it.
INHERITED = """
import contextvars
from resilient_nb.notebook.display import here
from resilient_nb.notebook.follow import Sight
output = here("digits#1")
output(Sight(a_job(1)))
old = contextvars.copy_context()
"""
UPDATE_FROM_OLD_CONTEXT = "old.run(output, Sight(a_job(2)))"
CELLS = (
    SETUP,
    SHOW.format(job="steady"),
    BUSY,
    SHOW.format(job="between"),
    ENDS_BETWEEN_CELLS,
    "1 + 1",
    WIDGET,
    WIDGET_ENDS,
    SHOW.format(job="endless"),
    STILL_RUNNING,
    INHERITED,
    UPDATE_FROM_OLD_CONTEXT,
)


class Recorder(NotebookClient):
    """Runs a notebook and notes which update came during which cell."""

    updates: dict[int, int]

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.updates[cell_index] = self.updates.get(cell_index, 0) + 1
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    folder = tmp_path_factory.mktemp("notebook")
    roots = (Path(resilient_nb.core.__file__).parents[2], Path(__file__).parent)
    v4: Any = nbformat.v4  # has no types
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in CELLS])

    def in_the_gap(cell: Any, cell_index: int) -> None:
        if cell_index == 5:
            (folder / "go").touch()
            ended = threading.Event()
            while not (folder / "ended").exists():
                ended.wait(0.01)

    client = Recorder(notebook, timeout=60, on_cell_start=in_the_gap)
    client.updates = {}
    client.resources = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ":".join(map(str, roots)))
        patch.setenv("IPYTHONDIR", str(folder))
        client.execute()
    return client


def html_of(client: Recorder, cell: int) -> str:
    (output,) = client.nb.cells[cell].outputs
    assert output.output_type == "display_data"
    assert set(output.data) >= {"text/plain", "text/html"}
    return str(output.data["text/html"])


def test_the_executed_notebook_holds_the_view_that_the_labextension_draws(
    executed: Recorder,
) -> None:
    (output,) = executed.nb.cells[1].outputs
    held = output.data[saved.MIME]
    assert (held["job"], held["view"]["state"], held["view"]["step"]) == (
        "steady",
        "succeeded",
        100,
    )


def test_updates_arrive_while_the_kernel_is_busy_in_another_cell(executed: Recorder) -> None:
    assert executed.updates[2] >= 6


def test_the_executed_notebook_holds_the_final_panel_in_its_own_cell(executed: Recorder) -> None:
    assert "✓ succeeded" in html_of(executed, 1)
    assert "step 100 of 100" in html_of(executed, 1)
    assert executed.nb.cells[2].outputs == []


def test_a_job_that_ends_between_two_cells_is_shown_by_the_next(executed: Recorder) -> None:
    assert executed.updates[5] == 1
    assert "✓ succeeded" in html_of(executed, 3)


def test_a_notebook_that_ends_before_the_job_holds_the_last_update(executed: Recorder) -> None:
    assert "► running" in html_of(executed, 8)
    assert "step 3 of 100" in html_of(executed, 8)


def test_an_update_reaches_nbclient_from_a_thread_that_inherited_its_context(
    executed: Recorder,
) -> None:
    assert executed.updates[11] == 1
    assert "step 2 of 100" in html_of(executed, 10)


def test_the_widget_is_complete_in_the_executed_notebook(executed: Recorder) -> None:
    assert "digits#1" in html_of(executed, 6)
    saved = executed.nb.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert any("✓ succeeded" in str(model["state"].get("value")) for model in saved.values())
