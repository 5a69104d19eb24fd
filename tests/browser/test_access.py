"""axe-core finds nothing serious in sidebar and panels, in any theme."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from cells import finish, submit
from resilient_nb.client import Client
from resilient_nb.core.model import Interval
from tests.browser.desk import SOON, THEMES, Desk
from tests.browser.jobs import endless
from tests.browser.lab import Lab

AXE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"

FAILS = """
for _ in run.steps(25):
    run.log(loss=1 / (run.step + 1), accuracy=run.step / 25)
    print("step", run.step)
raise ValueError("The cell's own mistake.")
"""


def violations(page: Page, *regions: str) -> list[str]:
    """Return what axe-core calls serious or critical in parts of the page, an element a line."""
    if not AXE.exists():
        reason = f"axe-core is missing ({AXE}): `npm ci` in labextension."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate(
        "async regions => (await axe.run({include: regions}, {resultTypes: ['violations']}))"
        ".violations",
        [[region] for region in regions],
    )
    return [
        f"{each['impact']} {each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_axe_sees_what_is_wrong(desk: Desk) -> None:
    """Else finding nothing would say nothing."""
    desk.open()
    desk.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<button id=bad></button>')")
    [found] = violations(desk.page, "#bad")
    assert found.startswith("critical button-name")


@pytest.mark.parametrize("theme", THEMES)
def test_nothing_serious_in_any_theme(client: Client, lab: Lab, desk: Desk, theme: str) -> None:
    finish(client, submit(client, f"axe-failed-{theme[-4:].strip().lower()}", FAILS, 1,
                          every=Interval(steps=5), retries=0))  # fmt: skip
    failed = client.jobs()[0].id
    with endless(client, "axe-runs") as running, endless(client, "axe-fills", workers=2):
        waiting = submit(client, "axe-waits", FAILS, workers=1)
        try:
            desk.open()
            desk.theme(theme)
            desk.open_sidebar()
            for job, state in ((failed, "failed"), (running, "running"), (waiting, "queued")):
                panel = desk.open_job(job)
                panel.shows(state)
                desk.filter("")
                expect(desk.row(running)).to_be_visible(timeout=SOON)
                if job == failed:
                    expect(panel.failure).to_be_visible(timeout=SOON)
                    panel.timeline.get_by_role("option").first.click()
                    expect(panel.button("Roll back")).to_be_visible(timeout=SOON)
                found = violations(
                    desk.page, "[role=region][aria-label='resilient_nb']",
                    f"#jp-main-dock-panel [role=region][aria-label='Job {job}']",
                )  # fmt: skip
                assert found == [], "\n".join(found)
        finally:
            client.cancel(waiting)
            finish(client, waiting)
