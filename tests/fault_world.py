"""What the suite of faults plays in: clusters, jobs that are watched, and what was seen of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.cluster.record import read
from resilient_nb.config import load_settings
from resilient_nb.core.model import Cell, Failure, Interval, JobSpec
from resilient_nb.core.views import JobView
from resilient_nb.wire.requests import Submit

PATIENCE = 60.0

#: `first` says whether the fault hasn't happened yet; `strike()` notes when it does.
LOOP = """
import ctypes, os, pathlib, sys, time
import torch
mark = pathlib.Path({mark!r})
first = not mark.exists()
def strike():
    mark.with_suffix(".new").write_text(repr(time.time()))
    mark.with_suffix(".new").rename(mark)
{before}
model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x = torch.randn(256, 16)
y = x.sum(1, keepdim=True)
run.track(model=model, optimizer=optimizer)
for _ in run.steps({steps}):
    loss = ((model(x) - y) ** 2).mean()
{inside}
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(loss=loss)
    time.sleep({pause})
"""


@dataclass(frozen=True)
class Seen:
    """What came of a fault.

    Attributes:
        cause: that was found, "none" if no attempt was lost.
        decision: what was done about it.
        detected_s: from the fault to the decision; None if there was nothing to detect.
        shown_s: from there to a notebook's view of it.
        wrong: what else isn't as it should be, "" if all is.
    """

    cause: str
    decision: str
    detected_s: float | None = None
    shown_s: float | None = None
    wrong: str = ""


def until(condition: Callable[[], Any], patience: float = PATIENCE, what: str = "") -> Any:
    """Return what a condition gives as soon as it holds.

    Raises:
        TimeoutError: it never did.
    """
    give_up = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > give_up:
            raise TimeoutError(what or "it never came to that")
        time.sleep(0.005)
    return found


class Watched:
    """A job as a notebook sees it, and when it first saw what."""

    def __init__(self, client: Client, job: str, mark: Path) -> None:
        self.job, self.mark = job, mark
        self._client = client
        self.view: JobView = client.watch(job, timeout=0.0).job
        self._failures: list[float] = []
        self._said: dict[str, float] = {}
        self._over = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        seen = -1
        while not self._over:
            try:
                watched = self._client.watch(self.job, seen, 1.0)
            except Exception:
                time.sleep(0.05)  # the scheduler is away
                continue
            seen, self.view = watched.version, watched.job
            now = time.time()
            while len(self._failures) < len(self.view.failures):
                self._failures.append(now)
            for text in self.view.notes:
                self._said.setdefault(text, now)
            if self.view.state.final:
                return

    def close(self) -> None:
        """Look no more."""
        self._over = True
        self._thread.join()

    # --- waiting ------------------------------------------------------------------------

    def step(self, step: int) -> JobView:
        """Return the job when it has made so many steps, and they are its own."""
        return self.when(lambda v: v.state.value == "running" and v.step >= step)

    def when(self, condition: Callable[[JobView], Any], patience: float = PATIENCE) -> JobView:
        """Return the job as soon as a condition holds."""

        def holds() -> JobView | None:
            view = self.view
            assert not view.state.final or condition(view), f"{view.state}: {view.failures}"
            return view if condition(view) else None

        found: JobView = until(holds, patience, f"{self.job} is {self.view.state}")
        return found

    def end(self, patience: float = PATIENCE) -> JobView:
        """Return the job when it is over."""
        return self.when(lambda view: view.state.final, patience)

    def failure(self, number: int = 0, patience: float = PATIENCE) -> Failure:
        """Return a failure as soon as a notebook sees it."""
        view: JobView = until(
            lambda: self.view if len(self.view.failures) > number else None,
            patience,
            f"{self.job} never failed: {self.view.state} at step {self.view.step}",
        )
        return view.failures[number]

    def struck(self, patience: float = PATIENCE) -> float:
        """Return when the cell made its fault."""
        until(self.mark.exists, patience, "the fault was never made")
        return float(self.mark.read_text())

    def said(self, words: str, patience: float = PATIENCE) -> tuple[str, float]:
        """Return a note that has these words, and when a notebook first saw it."""
        return until(
            lambda: next(((t, at) for t, at in list(self._said.items()) if words in t), None),
            patience,
            f"nobody said {words!r}, only {self.view.notes}",
        )  # type: ignore[no-any-return]

    def seen(self, struck: float, number: int = 0, patience: float = PATIENCE) -> Seen:
        """Return what was made of a fault that cost an attempt."""
        found = self.failure(number, patience)
        shown = self._failures[number] - found.at
        wrong = "" if found.evidence or found.stacks else "no evidence"
        return Seen(found.cause, found.decision, found.at - struck, max(0.0, shown), wrong)


class Scene:
    """A cluster for one or more faults.

    Attributes:
        client: of the cluster.
        home: of the cluster.
    """

    def __init__(self, client: Client, home: Path) -> None:
        self.client, self.home = client, home
        self._watched: list[Watched] = []

    def loop(
        self,
        run: str,
        inside: str = "",
        before: str = "",
        steps: int = 60,
        pause: float = 0.02,
        **spec: Any,
    ) -> Watched:
        """Submit a training loop that does something at each step, and watch it."""
        mark = self.home / f"mark-{run}"
        indented = "\n".join(f"    {line}" for line in inside.splitlines())
        source = LOOP.format(
            mark=str(mark), before=before, inside=indented, steps=steps, pause=pause
        )
        return self.submit(run, source, mark, **spec)

    def submit(self, run: str, source: str, mark: Path | None = None, **spec: Any) -> Watched:
        """Submit a cell, and watch it."""
        values: dict[str, Any] = {"workers": 2, "interval": Interval(steps=10), **spec}
        message = Submit(run, JobSpec(Cell(source, "Cell In[1]", "Cell In[1]"), **values), _new())
        job = self.client.submit(message).job
        watched = Watched(self.client, job, mark or self.home / f"mark-{run}")
        self._watched.append(watched)
        return watched

    def clear(self) -> None:
        """End what was watched."""
        while self._watched:
            watched = self._watched.pop()
            if not watched.view.state.final:
                with contextlib.suppress(Exception):
                    self.client.cancel(watched.job)
                    watched.end()
            watched.close()

    def pids(self, role: str) -> list[int]:
        """Return the live processes of a role: scheduler, supervisor."""
        if role == "supervisor":
            return [int(file.read_text()) for file in self.home.glob("supervisors/*/pid")]
        record = read(load_settings().cluster_file)
        assert record is not None
        part = record.parts[role].find()
        return [part.pid] if part else []

    def replays(self) -> bool:
        """Whether the world that the journal tells is the one that the scheduler lives in."""

        def same(dask_scheduler: Any) -> bool:
            from resilient_nb.core.lifecycle import replay

            plugin = dask_scheduler.plugins["resilient_nb"]
            return bool(replay(plugin._journal.events()) == plugin._engine.world)

        with distributed.Client(self.client.address, set_as_default=False) as dask:
            return bool(dask.run_on_scheduler(same))


def _new() -> str:
    return uuid.uuid4().hex


@contextlib.contextmanager
def cluster(workers: int = 4, **settings: str) -> Iterator[Scene]:
    """A local cluster in a home of its own, of which nothing stays."""
    home = Path(tempfile.mkdtemp(prefix="rnb-faults-"))
    given = {"RESILIENT_NB_HOME": str(home), **settings}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        embedded.up(load_settings(), workers, lambda _: None)
        record = embedded.find(load_settings())
        assert record is not None
        scene = Scene(Client(record.address, patience=60.0), home)
        yield scene
        scene.clear()
        scene.client.close()
    finally:
        with contextlib.suppress(Exception):
            embedded.down(load_settings(), lambda _: None)
        shutil.rmtree(home, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
