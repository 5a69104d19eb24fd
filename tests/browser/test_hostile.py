"""Nothing that comes from a job is ever HTML or a script, wherever it is shown."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from cells import finish, submit, wait
from resilient_nb.client import Client
from resilient_nb.core.model import Interval
from tests.browser.desk import PATIENCE, SOON, Desk
from tests.browser.jobs import SETUP
from tests.browser.lab import Lab

#: Each would say so if it were run; all are to be seen as they are written.
IMAGE = "<img src=x onerror=window.__pwned=1>"
SCRIPT = "<script>window.__pwned=2</script>"
LINK = "<a href='javascript:window.__pwned=3' autofocus onfocus=window.__pwned=4>x</a>"
SVG = "<svg><image href=x onerror=window.__pwned=5></image></svg>"
CLOSING = '"></text></svg></div><iframe srcdoc="<script>parent.__pwned=6</script>">'
HOSTILE = (IMAGE, SCRIPT, LINK, SVG, CLOSING)
MADE = "img[src=x], a[href^=javascript], iframe[srcdoc], image[href=x], [onerror], [onfocus]"

CELL = f"""
HOSTILE = {HOSTILE!r}
from torch import nn
model = nn.Linear(1, 1)
run.track(model=model)
globals()[HOSTILE[0]] = nn.Linear(1, 1)  # a note says that it isn't tracked
run.input(__import__("torch").__file__, name=HOSTILE[1])
for _ in run.steps(30):
    run.log(**{{name: 1.0 / (run.step + 1) for name in HOSTILE}})
    print(*HOSTILE, sep="\\n", flush=True)
run.checkpoint()
raise ValueError("\\n".join(HOSTILE))
"""


@pytest.fixture(scope="module")
def job(client: Client) -> str:
    """A job with hostile metrics, output, names, notes and exception, that has failed."""
    job = submit(client, "hostile", CELL, workers=1, every=Interval(steps=10), retries=0)
    view = finish(client, job)
    assert IMAGE in view.metrics, view.failures
    assert any(IMAGE in note for note in view.notes), view.notes
    assert SCRIPT in view.reads
    assert view.failures[-1].error is not None
    assert SCRIPT in view.failures[-1].error.message
    return job


def is_harmless(page: Page) -> None:
    """Nothing of it was made an element, and nothing was run."""
    assert page.evaluate("window.__pwned === undefined")
    assert page.locator(MADE).count() == 0
    # What JupyterLab puts into its page as JSON (the notebook's path, say) isn't run.
    assert page.evaluate(
        "[...document.scripts].every(s => /json/.test(s.type) || !s.text.includes('__pwned'))"
    )


@pytest.mark.parametrize("string", HOSTILE)
def test_the_strings_do_harm_where_they_are_html(desk: Desk, string: str) -> None:
    """Else seeing no harm would say nothing."""
    desk.open()
    page = desk.page
    page.evaluate("html => document.body.append("
                  "document.createRange().createContextualFragment(html))", string)  # fmt: skip
    page.wait_for_function("window.__pwned > 0", timeout=SOON)
    with pytest.raises(AssertionError):
        is_harmless(page)


@pytest.mark.parametrize("where", ["inline", "tab"])
def test_metrics_output_notes_and_exceptions_are_text(
    desk: Desk, lab: Lab, job: str, where: str
) -> None:
    show = f"{SETUP}\nfrom resilient_nb.notebook.magic import live_panel\n"
    show += "import resilient_nb\n_ = live_panel(resilient_nb.jobs('hostile')[0]).start()"
    desk.open(lab.notebook("hostile.ipynb", [show]))
    if where == "inline":
        desk.run(0)
        panel = desk.inline(job)
    else:
        panel = desk.open_job(job)
    panel.shows("failed")
    expect(panel.failure).to_contain_text(IMAGE, timeout=SOON)
    expect(panel.region).to_contain_text(SCRIPT, timeout=SOON)
    plots = panel.region.get_by_role("img")
    expect(plots.first).to_be_visible(timeout=SOON)
    plots.first.hover()
    log = panel.region.get_by_role("log")
    if not log.is_visible():
        panel.region.get_by_text("Output", exact=False).first.click()
    expect(log).to_contain_text(IMAGE, timeout=SOON)
    search = panel.region.get_by_role("textbox", name="Search the output")
    search.fill(IMAGE)
    search.press("Enter")
    panel.timeline.get_by_role("option").last.click()
    is_harmless(desk.page)
    assert not desk.trouble


def test_names_of_notebooks_forks_and_filters_are_text(
    desk: Desk, client: Client, lab: Lab, job: str
) -> None:
    name = IMAGE + ".ipynb"
    desk.open(lab.notebook(name, [SETUP, "%%resilient named\nprint(1)"]))
    desk.run(0)
    desk.done(0)
    desk.run(1)
    desk.done(1)
    wait(client, "named#1", lambda view: view.state.final)
    desk.open_sidebar()
    expect(desk.row("named#1")).to_be_visible(timeout=PATIENCE)
    desk.filter(SCRIPT)
    panel = desk.open_job(job)
    panel.timeline.get_by_role("option").last.click()
    panel.button("Fork").click()
    dialog = desk.page.locator(".jp-Dialog")
    dialog.get_by_role("textbox").first.fill(IMAGE)
    dialog.get_by_role("button", name="OK", exact=True).click()
    expect(dialog).to_contain_text("Use 1 to 64", timeout=SOON)
    is_harmless(desk.page)
