"""What it all is for, once through, in a browser: submit, lose a rank, go back, load, compare."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import torch
from playwright.sync_api import expect

from cells import finish, results, wait
from resilient_nb.client import Client
from resilient_nb.core.model import JobState
from tests.browser.desk import PATIENCE, SOON, Desk
from tests.browser.jobs import SETUP, train
from tests.browser.lab import Lab

CHECK = 'print(all(torch.equal(state["model"][name], weights[name]) for name in weights))'


def test_a_cell_is_submitted_loses_a_rank_goes_back_by_keyboard_and_is_loaded(
    client: Client, lab: Lab, desk: Desk, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    cell = train("tour", epochs=20, gate=str(killed))
    desk.open(lab.notebook("tour.ipynb", [SETUP, cell, CHECK]))
    desk.run(0)
    desk.done(0)
    desk.run(1)
    panel = desk.inline("tour#1")
    panel.shows("running")
    panel.reaches(25)

    # A rank is killed: the banner says so, and the job goes on from a checkpoint.
    view = wait(client, "tour#1", lambda view: bool(view.checkpoints))
    os.kill(view.ranks[1].pid, signal.SIGKILL)
    expect(panel.failure).to_contain_text("killed", timeout=PATIENCE)
    wait(client, "tour#1", lambda view: view.attempts == 2 and view.state is JobState.RUNNING)
    panel.shows("running")
    killed.touch()
    finish(client, "tour#1")
    panel.shows("succeeded")
    weights = results(client, "tour#1")["weights"]

    # Back to an earlier checkpoint, without the mouse.
    timeline = panel.timeline
    desk.tab_to(timeline)
    desk.page.keyboard.press("Home")
    chosen = timeline.get_by_role("option", selected=True)
    first = re.match(r"step ([\d,]+)", chosen.get_attribute("aria-label") or chosen.inner_text())
    assert first, chosen.inner_text()
    desk.page.keyboard.press("Enter")
    expect(panel.button("Roll back")).to_be_focused(timeout=SOON)
    desk.page.keyboard.press("Enter")
    desk.confirm("Move the head")
    expect(panel.said).to_contain_text(f"tour@{first[1]}", timeout=SOON)
    head = client.resolve("tour")
    assert head.step == int(first[1]) < 200

    # Resume: the same numbers come out.
    desk.tab_to(panel.button("Resume"), back=True)
    desk.page.keyboard.press("Enter")
    expect(panel.said).to_contain_text("tour#2", timeout=SOON)
    assert finish(client, "tour#2").state is JobState.SUCCEEDED
    again = results(client, "tour#2")["weights"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    # Load: the code is put into the notebook, and is right.
    head = client.resolve("tour")
    timeline.get_by_role("option", name=re.compile(rf"^step {head.step}, head")).first.click()
    panel.button("Load").click()
    loading = desk.find_cell(f'resilient_nb.load("tour@{head.step}")')
    desk.run(loading)
    expect(desk.done(loading)).to_be_empty()
    checking = desk.find_cell("torch.equal")
    desk.run(checking)
    expect(desk.done(checking)).to_have_text("True", timeout=SOON)

    # Compare, by a command and keys.
    desk.command("resilient-nb:compare", job="tour#2")
    timeline = desk.tab("tour#2").timeline
    expect(timeline).to_be_focused(timeout=SOON)
    desk.page.keyboard.press("Home")
    desk.page.keyboard.press("Enter")
    desk.page.keyboard.press("Enter")
    expect(desk.tab("tour#2").said).to_contain_text("Compared tour@", timeout=SOON)
    assert not desk.trouble
