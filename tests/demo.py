"""`make demo`: the quickstart notebook, run from end to end in this terminal.

The notebook's own cells run here, in an IPython shell without a kernel, and their assertions
count. What is printed doesn't come from them: a second client watches the cluster and says
what it sees. The exit code is 0 only if everything held and no process is left.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Failure, JobState
from resilient_nb.core.views import JobView, RunView
from resilient_nb.errors import ClusterUnreachable, ResilientError

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "quickstart.ipynb"
#: Steps between two lines about a job that makes progress.
STRIDE = 50


class DemoFailed(Exception):
    """Something that the notebook promises did not hold."""


class Teller:
    """Prints lines with the time since the start; cells' own output goes elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._out = sys.stdout

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=self._out, flush=True)


class Witness:
    """Tells what becomes of runs and jobs, and remembers it for the verdict."""

    def __init__(self, say: Teller) -> None:
        self.digests: dict[str, str] = {}  # of the last checkpoint, by finished job
        self.kills: list[Failure] = []
        self.rollbacks: list[int] = []
        self._say = say
        self._client: Client | None = None
        self._told: dict[str, int] = {}  # the last step told, by job
        self._failures: dict[str, int] = {}
        self._going_on: set[str] = set()  # jobs that failed and don't run again yet
        self._pids: dict[tuple[str, int], int] = {}
        self._heads: dict[str, int] = {}
        self._tags: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)

    def start(self) -> None:
        """Look at the cluster ten times a second from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Tell what is new."""
        with self._lock:
            if self._client is None and not self._found():
                return
            assert self._client is not None
            for job in reversed(self._client.jobs()):
                self._job(job)
            for run in self._client.runs():
                self._run(run)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            # A cluster that comes up doesn't answer at once.
            with contextlib.suppress(ClusterUnreachable):
                self.look()

    def _found(self) -> bool:
        record = embedded.find(load_settings())
        if record is None:
            return False
        client = Client(record.address, patience=0.0)
        view = client.cluster()
        self._client = client
        self._say(f"cluster up at {view.address}")
        return True

    def _job(self, job: JobView) -> None:
        if job.id not in self._told:
            self._told[job.id] = 0
            self._say(f"{job.id} submitted, for {job.workers} workers")
        if job.total_steps and job.step >= self._told[job.id] + STRIDE:
            self._told[job.id] = job.step // STRIDE * STRIDE
            self._say(f"{job.id} at step {job.step} of {job.total_steps}")
        for failure in job.failures[self._failures.get(job.id, 0) :]:
            self._failure(job, failure)
            self._going_on.add(job.id)
        self._failures[job.id] = len(job.failures)
        if job.id in self._going_on and job.state is JobState.RUNNING:
            self._going_on.discard(job.id)
            self._say(f"{job.id} resumed at step {job.failures[-1].resumes_from}")
        self._pids.update({(job.id, rank.rank): rank.pid for rank in job.ranks if rank.pid})
        if job.state.final:
            self._ended(job)

    def _failure(self, job: JobView, failure: Failure) -> None:
        pid = self._pids.get((job.id, failure.rank if failure.rank is not None else 0))
        self._say(f"{job.id} rank {failure.rank} {failure.cause} (process {pid})")
        self.kills.append(failure)

    def _ended(self, job: JobView) -> None:
        if job.id in self.digests:
            return
        digest = job.checkpoints[-1].digest if job.checkpoints else "none"
        equal = [other for other, theirs in self.digests.items() if theirs == digest]
        same = f", equal to that of {' and '.join(equal)}" if equal else ""
        self.digests[job.id] = digest
        self._say(f"{job.id} {job.state} at step {job.step}: digest {digest[:10]}{same}")

    def _run(self, run: RunView) -> None:
        head = next((c.step for c in run.checkpoints if c.is_head), 0)
        if head < self._heads.get(run.name, 0):
            self.rollbacks.append(head)
            self._say(f"{run.name} rolled back to step {head}")
        self._heads[run.name] = head
        for tag in run.tags:
            if (ref := f"{run.name}@{tag}") not in self._tags:
                self._tags.add(ref)
                self._say(f"{ref} names the checkpoint at step {head}")


def cells(notebook: Path) -> list[str]:
    """Return the sources of a notebook's code cells."""
    content = json.loads(notebook.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def run_cells(sources: list[str], folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run cells as a notebook would; yield each before it runs, and the names so far.

    Raises:
        DemoFailed: a cell raised; with all that the cells had printed.
        KeyboardInterrupt: the person has had enough.
    """
    os.environ["IPYTHONDIR"] = str(folder)
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    quiet = Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": "nocolor"})
    shell: Any = InteractiveShell.instance(config=quiet)
    printed = io.StringIO()
    for source in sources:
        yield source, shell.user_ns
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            result = shell.run_cell(source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, KeyboardInterrupt):
            raise error
        if error is not None:
            raise DemoFailed(f"{printed.getvalue()}\nThis cell failed:\n{source}") from error


def judge(witness: Witness, accuracy: float) -> None:
    """Check what the witness saw, without trusting the notebook's own assertions.

    Raises:
        DemoFailed: naming what did not happen.
    """
    harmed, unharmed, again = (
        witness.digests.get(job) for job in ("digits#1", "digits-unharmed#1", "digits#2")
    )
    held = {
        "one rank was killed, from outside": [kill.cause for kill in witness.kills]
        == ["killed from outside"],
        "the job resumed from a checkpoint": all(kill.resumes_from for kill in witness.kills),
        "the killed and the unharmed job ended alike": harmed is not None and harmed == unharmed,
        "the run was rolled back to step 60": witness.rollbacks == [60],
        "the job after the rollback ended alike": again is not None and again == unharmed,
        "accuracy is above 90 %": accuracy > 0.9,
    }
    failed = [what for what, true in held.items() if not true]
    if failed:
        raise DemoFailed("Not true: " + "; ".join(failed) + ".")


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the live processes that have this home in their environment, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.environ().get("RESILIENT_NB_HOME") == str(home)
            if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_cluster(home: Path, say: Teller) -> bool:
    """End the cluster if it is still up; return whether it left no process."""
    with contextlib.suppress(ClusterUnreachable):  # the notebook's last cell has ended it
        embedded.down(load_settings(), say)
    _, left = psutil.wait_procs(processes_of(home), timeout=10)
    for process in left:
        say(f"process {process.pid} was left over: {' '.join(process.cmdline())[:80]}")
        process.kill()
    return not left


def demo(home: Path, say: Teller) -> None:
    """Run the notebook and judge it."""
    say(f"{NOTEBOOK.name}, in {home}")
    witness, accuracy = Witness(say), 0.0
    witness.start()
    try:
        for source, names in run_cells(cells(NOTEBOOK), home / "ipython"):
            with contextlib.suppress(ClusterUnreachable):
                witness.look()  # a rollback may be over before the witness looks by itself
            if not accuracy and "accuracy" in names:
                accuracy = names["accuracy"]
                say(f"accuracy of digits@best, loaded: {accuracy:.1%}")
            if source.startswith("%resilient down"):
                witness.stop()
    finally:
        witness.stop()
    judge(witness, accuracy)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Return the exit code."""
    for name in [name for name in os.environ if name.startswith("RESILIENT_NB_")]:
        del os.environ[name]  # nobody's settings, nobody's cluster
    home = Path(tempfile.mkdtemp(prefix="rnb-"))
    os.environ["RESILIENT_NB_HOME"] = str(home)
    signal.signal(signal.SIGTERM, _interrupted)
    say, code = Teller(), 1
    try:
        demo(home, say)
        code = 0
    except (DemoFailed, ResilientError) as error:
        say(f"failed. {error}")
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # what follows must be finished
        clean = end_cluster(home, say)
    if clean:
        say("cluster down, no process left")
    if code == 0 and clean:
        say("Everything held.")
    shutil.rmtree(home, ignore_errors=True)
    return code if clean else code or 1


if __name__ == "__main__":
    sys.exit(main())
