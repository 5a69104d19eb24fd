"""What a person does in JupyterLab: open a notebook, run a cell, press keys, look at a panel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import Lab

#: Milliseconds: the machine may be busy with ranks.
SOON, PATIENCE = 20_000, 60_000
THEMES = ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast")

_STEP = re.compile(r"step ([\d,]+)")


class Panel:
    """A job as it is shown: in its cell's output or in a tab of its own."""

    def __init__(self, region: Locator) -> None:
        self.region = region

    @property
    def state(self) -> Locator:
        return self.region.locator("[data-rnb=state]").first

    @property
    def steps(self) -> Locator:
        return self.region.locator("[data-rnb=steps]").first

    @property
    def failure(self) -> Locator:
        return self.region.locator("[data-rnb=failure]").first

    @property
    def said(self) -> Locator:
        return self.region.locator("[data-rnb=said]").first

    @property
    def offline(self) -> Locator:
        return self.region.locator("[data-rnb=offline]").first

    @property
    def timeline(self) -> Locator:
        return self.region.get_by_role("listbox", name="Checkpoints")

    def button(self, name: str) -> Locator:
        return self.region.get_by_role("button", name=name, exact=True)

    def step(self) -> int:
        """Return the step that is shown."""
        found = _STEP.search(self.steps.inner_text(timeout=SOON))
        assert found, self.steps.inner_text()
        return int(found[1].replace(",", ""))

    def shows(self, state: str) -> None:
        """Wait until the job is shown to be in a state."""
        expect(self.state).to_contain_text(state, timeout=PATIENCE)

    def is_live(self, steps: int = 3) -> None:
        """Wait until the job has moved on by some steps on the screen."""
        self.reaches(self.step() + steps)

    def reaches(self, step: int) -> None:
        """Wait until a step is shown, or one after it."""
        expect(self.steps).to_be_visible(timeout=PATIENCE)
        self.steps.page.wait_for_function(
            """([element, step]) => {
                const found = /step ([\\d,]+)/.exec(element.textContent);
                return found && Number(found[1].replaceAll(",", "")) >= step;
            }""",
            arg=[self.steps.element_handle(), step],
            timeout=PATIENCE,
        )


class Desk:
    """One browser tab with JupyterLab.

    Attributes:
        trouble: exceptions that nobody caught in the page.
    """

    def __init__(self, page: Page, lab: Lab) -> None:
        self.page, self.lab = page, lab
        page.set_default_timeout(SOON)
        self.trouble: list[str] = []
        page.on("pageerror", lambda error: self.trouble.append(str(error)))

    # --- JupyterLab ---------------------------------------------------------------------

    def open(self, notebook: Path | None = None) -> Desk:
        """Open JupyterLab in a fresh workspace, with a notebook, and wait until it can be used."""
        tree = f"/tree/{notebook.name}" if notebook else ""
        self.page.goto(f"{self.lab.url}/lab{tree}?token={self.lab.token}&reset")
        self.wait_for_lab()
        if notebook:
            expect(self.cell(0)).to_be_visible(timeout=PATIENCE)
            self.wait_for_kernel()
        return self

    def reload(self) -> None:
        """Load the page anew."""
        self.page.reload()
        self.wait_for_lab()

    def wait_for_lab(self) -> None:
        self.page.wait_for_function(
            "window.jupyterapp?.restored.then(() => true)", timeout=PATIENCE
        )
        self._wait_for_splash()

    def _wait_for_splash(self) -> None:
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0, timeout=PATIENCE)

    def wait_for_kernel(self, status: str = "idle") -> None:
        """Wait until the notebook has its kernel, and that is idle, or busy."""
        self.page.wait_for_function(
            """async status => {
                const context = window.jupyterapp.shell.currentWidget?.sessionContext;
                await context?.ready;
                return context?.session?.kernel?.status === status;
            }""",
            arg=status,
            timeout=PATIENCE,
        )

    def command(self, name: str, **arguments: object) -> Any:
        """Execute one of JupyterLab's commands."""
        return self.page.evaluate(
            "async ([name, given]) => { await window.jupyterapp.commands.execute(name, given); }",
            [name, arguments],
        )

    def theme(self, name: str) -> None:
        """Change the theme and wait until it is drawn."""
        self.command("apputils:change-theme", theme=name)
        expect(self.page.locator(f"body[data-jp-theme-name='{name}']")).to_be_attached(timeout=SOON)
        self._wait_for_splash()

    def save(self) -> None:
        """Save the notebook."""
        self.command("docmanager:save")

    # --- the notebook -------------------------------------------------------------------

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-NotebookPanel .jp-CodeCell").nth(number)

    def find_cell(self, text: str) -> int:
        """Wait for a cell with a text in its source; return its place."""
        found = self.page.locator(".jp-NotebookPanel .cm-content", has_text=text)
        expect(found).to_have_count(1, timeout=SOON)
        sources = self.page.locator(".jp-NotebookPanel .jp-CodeCell .cm-content").all_inner_texts()
        return next(n for n, source in enumerate(sources) if text in source)

    def run(self, number: int) -> None:
        """Click into a cell and run it by Shift+Enter."""
        cell = self.cell(number)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        expect(cell.locator(".jp-InputPrompt")).not_to_have_text("[ ]:", timeout=SOON)

    def done(self, number: int) -> Locator:
        """Wait until a cell has run; return its output."""
        prompt = self.cell(number).locator(".jp-InputPrompt").first
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE)
        return self.cell(number).locator(".jp-Cell-outputArea")

    def inline(self, job: str) -> Panel:
        """Return a job's panel in the output of its cell."""
        notebook = self.page.locator(".jp-NotebookPanel")
        return Panel(notebook.get_by_role("region", name=f"Job {job}", exact=True).first)

    # --- the sidebar --------------------------------------------------------------------

    @property
    def sidebar(self) -> Locator:
        return self.page.get_by_role("region", name="resilient_nb", exact=True)

    @property
    def jobs(self) -> Locator:
        return self.sidebar.get_by_role("listbox", name="Jobs")

    def row(self, job: str) -> Locator:
        """Return a job's row in the list."""
        return self.jobs.get_by_role("option", name=re.compile(rf"^{re.escape(job)}, "))

    def open_sidebar(self) -> Locator:
        """Show the sidebar; everybody's jobs are listed."""
        if not self.sidebar.is_visible():
            self.page.locator(".jp-SideBar [role=tab][data-id=resilient-nb-sidebar]").first.click()
        expect(self.sidebar).to_be_visible(timeout=SOON)
        return self.sidebar

    def filter(self, text: str) -> None:
        """Type into the sidebar's search box."""
        self.sidebar.get_by_role("textbox", name="Filter jobs").fill(text)

    def open_job(self, job: str) -> Panel:
        """Open a job from the sidebar in a tab of its own."""
        self.open_sidebar()
        self.filter(job)
        self.row(job).click()
        self.jobs.press("Enter")
        return self.tab(job)

    def tab(self, job: str) -> Panel:
        """Return a job's panel in its tab."""
        main = self.page.locator("#jp-main-dock-panel")
        return Panel(main.get_by_role("region", name=f"Job {job}", exact=True).last)

    # --- keys ---------------------------------------------------------------------------

    def focused(self, target: Locator) -> bool:
        """Whether an element, or something in it, has the focus."""
        return bool(target.evaluate("element => element.contains(document.activeElement)"))

    def tab_to(self, target: Locator, back: bool = False, most: int = 150) -> None:
        """Press Tab until an element has the focus."""
        expect(target).to_be_visible(timeout=SOON)
        for _ in range(most):
            if self.focused(target):
                return
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
        where = self.page.evaluate("document.activeElement.outerHTML.slice(0, 300)")
        raise AssertionError(f"{most} times Tab don't reach {target}; the focus is on {where}")

    def confirm(self, action: str) -> None:
        """Accept a dialog by keyboard alone: its focus is on Cancel at first."""
        dialog = self.page.locator(".jp-Dialog")
        cancel = dialog.get_by_role("button", name="Cancel", exact=True)
        expect(cancel).to_be_focused(timeout=SOON)
        self.tab_to(dialog.get_by_role("button", name=action, exact=True), most=5)
        self.page.keyboard.press("Enter")
        expect(dialog).to_have_count(0, timeout=SOON)
