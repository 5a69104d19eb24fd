"""What both benchmarks share: a cluster of their own, and running a script under torchrun."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Cell, Interval, JobSpec
from resilient_nb.core.views import JobView
from resilient_nb.wire.requests import Submit

ROUNDS = 7


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Client]:
    """Give the client of a warm local cluster in a temporary home."""
    with tempfile.TemporaryDirectory(prefix="rnb-") as home:
        os.environ["RESILIENT_NB_HOME"] = home
        settings = load_settings()
        view = embedded.up(settings, workers, lambda _: None)
        client = Client(view.address)
        try:
            yield client
        finally:
            client.close()
            embedded.down(settings, lambda _: None)


def submit(client: Client, source: str, workers: int, interval: Interval) -> str:
    """Submit a cell that prints; return the job."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    spec = JobSpec(Cell(source), workers=workers, interval=interval)
    return client.submit(Submit(name, spec, uuid.uuid4().hex)).job


def changes(client: Client, job: str) -> Iterator[JobView]:
    """Yield every new view of a job until it has ended."""
    seen = -1
    while True:
        watched = client.watch(job, seen, 5.0)
        seen = watched.version
        yield watched.job
        if watched.job.state.final:
            return


def torchrun(source: str, workers: int) -> str:
    """Run a script on `workers` processes with one thread each; return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(source)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={workers}", str(script)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"torchrun failed:\n{done.stderr}")
        return done.stdout
