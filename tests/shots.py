"""Pictures of the sidebar and the inline panel for the README, of a real run, in both themes.

    python tests/shots.py [FOLDER]

A small network is trained in a notebook; a rank of it is killed, so that there is a failure to be
seen; other jobs have failed, run and wait. Needs Chromium and the built labextension.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from pathlib import Path

from playwright.sync_api import expect

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Cell, Interval, JobSpec, Priority
from resilient_nb.core.views import JobView
from resilient_nb.wire.requests import Submit
from tests.browser.chromium import MISSING, chromium, chromium_path
from tests.browser.desk import PATIENCE, Desk
from tests.browser.lab import Lab

FOLDER = Path(__file__).parents[1] / ".github"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

SETUP = """%load_ext resilient_nb
import time
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
data = torch.utils.data.TensorDataset(images, torch.tensor(digits.target))"""

TRAIN = """%%resilient digits --workers 2 --checkpoint-every 60 --keep all --out model
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
run.track(model=model, optimizer=optimizer)
for x, y in run.batches(data, batch_size=64, epochs=30, shuffle=True):
    scores = model(x)
    loss = nn.functional.cross_entropy(scores, y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    run.log(loss=loss, accuracy=(scores.argmax(1) == y).float().mean())
    time.sleep(0.02)"""

ENDLESS = "import time\nfor _ in run.steps(4000):\n    time.sleep(0.05)\n    run.log(loss=1.0)"
MISTAKE = "for _ in run.steps(40):\n    run.log(loss=1.0)\nraise KeyError('label')"


def submit(client: Client, run: str, source: str, workers: int, **options: object) -> str:
    """Submit a cell; return the job."""
    cell = Cell(source, "Cell In[3]", "Cell In[3]")
    spec = JobSpec(cell, workers, interval=Interval(steps=20), **options)  # type: ignore[arg-type]
    return client.submit(Submit(run, spec, uuid.uuid4().hex)).job


def wait(client: Client, job: str, step: int, attempt: int = 1) -> JobView:
    """Return a job when it has reached a step in an attempt, or has ended."""
    seen = -1
    while True:
        watched = client.watch(job, seen, 5.0)
        seen, view = watched.version, watched.job
        if view.state.final or (view.step >= step and view.attempts >= attempt):
            return view


def take(desk: Desk, client: Client, folder: Path) -> None:
    """Make all pictures."""
    desk.open(desk.lab.notebook("digits.ipynb", [SETUP, TRAIN]))
    desk.run(0)
    desk.done(0)
    desk.run(1)
    desk.inline("digits#1").shows("running")
    view = wait(client, "digits#1", 250)
    os.kill(view.ranks[1].pid, signal.SIGKILL)
    wait(client, "digits#1", 400, attempt=2)
    wait(client, submit(client, "labels", MISTAKE, 1), 10**9)
    others = [
        submit(client, "warm-up", ENDLESS, 2),
        submit(client, "sweep", ENDLESS, 2),
        submit(client, "night-run", ENDLESS, 4, priority=Priority.LOW),
    ]
    desk.open_sidebar()
    panel = desk.inline("digits#1")
    expect(panel.failure).to_be_visible(timeout=PATIENCE)
    for name, theme in THEMES.items():
        desk.theme(theme)
        panel.region.scroll_into_view_if_needed()
        panel.region.screenshot(path=folder / f"panel-{name}.png", animations="disabled")
        desk.page.screenshot(path=folder / f"lab-{name}.png", animations="disabled")
    for job in ("digits#1", *others):
        client.cancel(job)


def main() -> None:
    """Start everything, make the pictures, and end everything."""
    path = chromium_path()
    if path is None:
        sys.exit(MISSING)
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rnb-") as folder:
        os.environ["RESILIENT_NB_HOME"] = folder
        settings = load_settings()
        lab = Lab(Path(folder) / "lab")
        client = Client(embedded.up(settings, 4, print).address)
        try:
            lab.start()
            with chromium(path) as browser:
                page = browser.new_page(viewport={"width": 1440, "height": 1000})
                take(Desk(page, lab), client, pictures)
        finally:
            lab.stop()
            client.close()
            embedded.down(settings, print)
    print(*sorted(str(each) for each in pictures.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
