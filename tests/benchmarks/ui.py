"""What the face costs, and how soon it shows what happens.

    make bench NAME=ui
    python tests/benchmarks/ui.py [--ranks N] [--hosts N] [--seconds S] [--rounds N]

Real are the scheduler with its plugin, the Jupyter server, JupyterLab in headless Chromium and the
notebook's kernel. Simulated are the ranks: 1,000 of one job, each with a new sample four times a
second (`ui_agent.py`), of which every value changes. The job is submitted from a cell, and shown in
its output, in a tab of its own with the table of ranks, and in the sidebar, all at once. Shares are
of one core, over some seconds, with what JupyterLab takes anyway; that is measured before, and
printed beside them. The scheduler's is without what it takes with all hosts and no rank. Of the
browser's main thread it is the CPU time; `tasks` is how long its tasks took by the clock, which is
more where other processes have the cores. `week` is a job of 600,000 steps with 500 checkpoints and
100 MB of output (`ui_history.py`); its page is whole when state, plots, timeline and output are
drawn.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Browser

from resilient_nb import connection
from resilient_nb.client import Client
from resilient_nb.config import load_settings
from resilient_nb.core.model import Cell, JobSpec, JobState
from resilient_nb.core.views import JobView
from resilient_nb.wire.requests import Submit
from tests.browser.chromium import MISSING, chromium, chromium_path
from tests.browser.desk import Desk
from tests.browser.lab import Lab
from ui_history import write_week
from ui_page import Probe, listed_at, open_job, reload_live, watch_list, watch_steps

PATIENCE = 60.0
CELLS = ("%load_ext resilient_nb", "%%resilient wide --workers {ranks}\npass")
#: What is aimed at, in the order of the table.
LIMITS = {
    "browser_main_thread": 0.05, "longest_task_ms": 50, "server_cpu": 0.02, "scheduler_cpu": 0.10,
    "submit_visible_ms": 300, "reload_live_s": 3, "week_open_s": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Shares:
    """Of a core, but for the last, which is in milliseconds."""

    tasks: float
    cpu: float
    server: float
    scheduler: float
    longest: float


@contextmanager
def process(*command: str, log: Path) -> Iterator[psutil.Process]:
    """Run a command, and end it."""
    with log.open("wb") as file:
        child = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file)
    family = psutil.Process(child.pid)
    try:
        yield family
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def cluster(home: Path, hosts: int, slots: int) -> Iterator[tuple[Client, psutil.Process]]:
    """Give a scheduler's client and process, with simulated hosts."""
    file = home / "scheduler.json"
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--scheduler-file", str(file), "--preload", "resilient_nb", "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = stack.enter_context(process(*command, log=home / "scheduler.log"))
        _until(file.exists)
        address = json.loads(file.read_text())["address"]
        agent = str(Path(__file__).with_name("ui_agent.py"))
        stack.enter_context(process(agent, address, str(hosts), str(slots), log=home / "agent.log"))
        connection.connect(address)
        client = connection.current()
        stack.callback(client.close)
        _until(lambda: client.cluster().slots >= hosts * slots)
        yield client, scheduler


def _until(true: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("The simulated cluster doesn't start.")
        time.sleep(0.05)


def wait_for(client: Client, job: str, state: JobState) -> JobView:
    """Return a job as soon as it is in a state."""
    seen = -1
    while True:
        watched = client.watch(job, seen, 5.0)
        seen = watched.version
        if watched.job.state is state:
            return watched.job
        if watched.job.state.final:
            raise RuntimeError(f"{job} is {watched.job.state}: {watched.job.reason}")


class Bench:
    """One JupyterLab in one tab, beside a cluster of simulated hosts."""

    def __init__(self, desk: Desk, client: Client, scheduler: psutil.Process) -> None:
        self._desk, self._client, self._scheduler = desk, client, scheduler
        self._server = psutil.Process(desk.lab.pid)

    def shares(self, seconds: float) -> Shares:
        """Return what browser, server and scheduler take of a core for some time."""
        probe = Probe(self._desk.page)
        parts = (self._server, self._scheduler)
        before = [_cpu(part) for part in parts]
        began = time.monotonic()
        probe.begin()
        self._desk.page.wait_for_timeout(1000 * seconds)
        spent, wall = probe.end(), time.monotonic() - began
        server, scheduler = (
            (_cpu(part) - was) / wall for part, was in zip(parts, before, strict=True)
        )
        return Shares(spent.tasks / wall, spent.cpu / wall, server, scheduler, spent.longest)

    def submit_visible(self, rounds: int) -> list[float]:
        """Return seconds from each of some submissions until the sidebar has drawn it."""
        watch_list(self._desk.page)
        return [self._submit_visible() for _ in range(rounds)]

    def _submit_visible(self) -> float:
        run = f"small-{uuid.uuid4().hex[:8]}"
        began = time.time()
        submitted = self._client.submit(Submit(run, JobSpec(Cell("pass")), uuid.uuid4().hex))
        seen = listed_at(self._desk.page, submitted.job)
        self._client.cancel(submitted.job)
        wait_for(self._client, submitted.job, JobState.CANCELLED)
        return seen - began

    def week_open(self, job: str, rounds: int) -> list[float]:
        """Return seconds until a job's page is whole, each time it is opened."""
        found = []
        for _ in range(rounds):
            found.append(open_job(self._desk.page, job))
            self._desk.command("application:close-all")
        return found

    def run_wide(self, ranks: int) -> str:
        """Submit the wide job from its cell, and show it everywhere; return the job."""
        desk, job = self._desk, "wide#1"
        desk.open(desk.lab.notebook("wide.ipynb", [c.format(ranks=ranks) for c in CELLS]))
        desk.run(0)
        desk.done(0)
        desk.run(1)
        desk.done(1)
        wait_for(self._client, job, JobState.RUNNING)
        desk.inline(job).is_live()
        desk.save()
        desk.open_job(job).is_live()
        return job

    def reloads(self, job: str, rounds: int) -> list[float]:
        """Return seconds from each of some reloads until a panel is live."""
        watch_steps(self._desk.page)
        found = []
        for _ in range(rounds):
            step = self._client.watch(job, timeout=0.0).job.step
            found.append(reload_live(self._desk.page, step))
            self._desk.wait_for_lab()
        return found


def _cpu(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def measure(
    browser: Browser, home: Path, options: argparse.Namespace
) -> tuple[dict[str, float], Shares, Shares]:
    """Return all figures, and the shares with nothing running and with the wide job."""
    settings = load_settings()
    began = time.perf_counter()
    week = write_week(settings, settings.user)
    print(f"a week's history, made in {time.perf_counter() - began:.0f} s", flush=True)
    slots = -(-options.ranks // options.hosts)
    lab = Lab(home / "lab")
    with cluster(home, options.hosts, slots) as (client, scheduler):
        try:
            page = browser.new_page(viewport={"width": 1500, "height": 1100})
            desk = Desk(page, lab.start()).open()
            desk.open_sidebar()
            bench = Bench(desk, client, scheduler)
            idle = bench.shares(options.seconds)
            visible = bench.submit_visible(3 * options.rounds)
            opened = bench.week_open(week, options.rounds)
            wide = bench.run_wide(options.ranks)
            busy = bench.shares(options.seconds)
            reloads = bench.reloads(wide, options.rounds)
            page.close()
            client.cancel(wide)
            wait_for(client, wide, JobState.CANCELLED)
        finally:
            lab.stop()
    figures = {
        "browser_main_thread": busy.cpu,
        "longest_task_ms": busy.longest,
        "server_cpu": busy.server,
        "scheduler_cpu": busy.scheduler - idle.scheduler,
        "submit_visible_ms": 1000 * statistics.median(visible),
        "reload_live_s": statistics.median(reloads),
        "week_open_s": statistics.median(opened),
    }
    return figures, idle, busy


def table(figures: dict[str, float], idle: Shares, busy: Shares) -> str:
    """Return what was measured beside what is aimed at."""
    lines = [f"{'':24}{'measured':>12}{'limit':>10}"]
    for name, value in figures.items():
        mark = "" if value <= LIMITS[name] else "  over"
        lines.append(f"{name:24}{value:12.3f}{LIMITS[name]:10.2f}{mark}")
    lines.append("")
    lines.append(f"{'of a core':24}{'idle':>12}{'all ranks':>12}")
    for name in ("tasks", "cpu", "server", "scheduler"):
        lines.append(f"{name:24}{getattr(idle, name):12.3f}{getattr(busy, name):12.3f}")
    return "\n".join(lines)


def main() -> None:
    """Print a table, and the figures as JSON."""
    parser = argparse.ArgumentParser(description="What the face costs.")
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=10, help="that the ranks are on")
    parser.add_argument("--seconds", type=float, default=30.0, help="that shares are taken over")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = chromium_path()
    if path is None:
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory(prefix="rnb-") as folder:
        os.environ["RESILIENT_NB_HOME"] = folder
        with chromium(path) as browser:
            figures, idle, busy = measure(browser, Path(folder), options)
    print(table(figures, idle, busy), flush=True)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
