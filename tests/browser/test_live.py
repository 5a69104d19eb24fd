"""A panel and the sidebar stay live whatever happens to kernel, page, server and scheduler."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from cells import finish, wait
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState
from tests.browser.desk import PATIENCE, SOON, Desk
from tests.browser.jobs import SETUP, endless, train
from tests.browser.lab import Lab

#: Occupies the kernel until the test is over.
BUSY = "import threading\nthreading.Event().wait()"


@pytest.fixture(scope="module")
def job() -> str:
    """The name of a job that a cell submits; each test goes on with the same one."""
    return "live#1"


@pytest.fixture
def watched(client: Client, lab: Lab, desk: Desk, job: str) -> Desk:
    """A notebook with a running job's panel in it, saved."""
    cells = [SETUP, train("live", epochs=100_000), BUSY]
    notebook = lab.root / "live.ipynb"
    if not notebook.exists():
        desk.open(lab.notebook("live.ipynb", cells))
        desk.run(0)
        desk.done(0)
        desk.run(1)
        desk.inline(job).shows("running")
        desk.save()
    else:
        desk.open(notebook)
    panel = desk.inline(job)
    panel.region.scroll_into_view_if_needed(timeout=SOON)
    panel.is_live()
    return desk


@pytest.fixture(scope="module", autouse=True)
def _ended(client: Client, job: str) -> Iterator[None]:
    yield
    if any(view.id == job and not view.state.final for view in client.jobs("live")):
        client.cancel(job)
        finish(client, job)


def test_while_the_kernel_is_busy(watched: Desk, job: str) -> None:
    watched.run(2)
    watched.wait_for_kernel("busy")
    watched.inline(job).is_live()


def test_while_the_kernel_is_busy_buttons_work(watched: Desk, client: Client, job: str) -> None:
    watched.run(2)
    watched.wait_for_kernel("busy")
    panel = watched.inline(job)
    epoch = client.watch(job, timeout=0.0).job.epoch
    panel.button("Restart").click()
    watched.confirm("Restart the job")
    expect(panel.said).to_contain_text(job, timeout=SOON)
    wait(client, job, lambda view: view.epoch > epoch and view.state is JobState.RUNNING)
    panel.shows("running")
    panel.is_live()


def test_when_the_kernel_is_dead(watched: Desk, lab: Lab, job: str) -> None:
    [kernel] = lab.kernels()
    os.kill(kernel.pid, signal.SIGKILL)
    lab.shut_kernels_down()
    kernel.wait(PATIENCE / 1000)
    assert lab.kernels() == []
    watched.inline(job).is_live()


def test_after_the_page_was_reloaded(watched: Desk, job: str) -> None:
    step = watched.inline(job).step()
    watched.reload()
    watched.inline(job).reaches(step + 3)
    watched.inline(job).is_live()


def test_after_the_jupyter_server_was_restarted(watched: Desk, lab: Lab, job: str) -> None:
    panel = watched.inline(job)
    step = panel.step()
    lab.stop()
    expect(panel.offline).to_be_visible(timeout=PATIENCE)
    lab.start()
    panel.reaches(step + 3)
    panel.is_live()
    expect(panel.offline).to_have_count(0, timeout=PATIENCE)


def test_after_the_scheduler_was_killed(watched: Desk, client: Client, job: str) -> None:
    panel = watched.inline(job)
    attempts = client.watch(job, timeout=0.0).job.attempts
    scheduler = _scheduler()
    os.kill(scheduler, signal.SIGKILL)
    step = client.watch(job, timeout=0.0).job.step  # as soon as there is another one
    assert _scheduler() != scheduler
    panel.reaches(step + 3)
    panel.is_live()
    expect(panel.offline).to_have_count(0, timeout=PATIENCE)
    assert client.watch(job, timeout=0.0).job.attempts == attempts


def _scheduler() -> int:
    record = embedded.find(load_settings())
    assert record is not None
    return record.parts["scheduler"].pid


def test_in_a_second_tab(watched: Desk, desks: Callable[[], Desk], job: str) -> None:
    other = desks()
    other.open()
    panel = other.open_job(job)
    panel.is_live()
    watched.inline(job).is_live()
    expect(other.row(job)).to_contain_text("running", timeout=SOON)


def test_two_tabs_that_act_at_once_do_not_fight(
    client: Client, desks: Callable[[], Desk], watched: Desk
) -> None:
    """Both cancel: one job ends once, and both say so."""
    with endless(client, "shared") as job:
        tabs = [desks().open() for _ in range(2)]
        panels = [tab.open_job(job) for tab in tabs]
        for panel in panels:
            panel.shows("running")
            panel.button("Cancel").click()
        for tab in tabs:
            tab.confirm("Cancel the job")
        for panel in panels:
            expect(panel.said).to_contain_text(job, timeout=SOON)
            panel.shows("cancelled")
        assert client.watch(job, timeout=0.0).job.attempts == 1
