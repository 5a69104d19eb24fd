"""The embedded cluster's life, and other people's Dask clusters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cells import finish, results, submit, train, wait
from conftest import processes_of
from resilient_nb import connection
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.cluster.watchdog import end_tree
from resilient_nb.config import load_settings
from resilient_nb.core.model import JobState
from resilient_nb.errors import AlreadyRunning, ClusterUnreachable
from resilient_nb.handles import Job
from resilient_nb.loading import load_path
from resilient_nb.processes import os_user

RESILIENT = [sys.executable, "-m", "resilient_nb.cli"]


def resilient(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the shell command."""
    return subprocess.run([*RESILIENT, *words], capture_output=True, text=True, check=False)


def test_a_second_cluster_is_refused(client: Client) -> None:
    with pytest.raises(AlreadyRunning, match="up already"):
        embedded.up(load_settings(), 2, print)
    second = resilient("up", "--workers", "2")
    assert second.returncode == 1
    assert "resilient down" in second.stderr


def test_another_process_finds_the_cluster_and_its_jobs(client: Client) -> None:
    job = submit(client, "seen-from-a-shell", "print('hello')", workers=1)
    finish(client, job)
    views = json.loads(resilient("jobs", "--json").stdout)
    assert job in [view["id"] for view in views]
    assert resilient("logs", job).stdout == "hello\n"
    assert json.loads(resilient("status", "--json").stdout)["slots"] == 4


def test_a_shell_compares_checkpoints_and_shows_what_they_record(client: Client) -> None:
    finish(client, submit(client, "compared", train(epochs=2), workers=2))
    report = json.loads(resilient("diff", "compared@5", "compared", "--json").stdout)
    assert (report["a"]["step"], report["b"]["step"]) == (5, 14)
    changes = {tensor["name"]: tensor for tensor in report["tensors"]}
    weights = [client.resolve(ref).path for ref in ("compared@5", "compared")]
    a, b = (load_path(path, only="model")["0.weight"].double() for path in weights)
    assert changes["model/0.weight"]["norm"] == pytest.approx((b - a).norm().item())
    assert changes["model/1.num_batches_tracked"]["max_abs"] == 9
    assert {"scheduler.last_epoch", "seen"} <= {value["path"] for value in report["state"]}
    assert report["code"]["equal"] is True
    assert not any(report[part] for part in ("config", "data", "versions", "environment", "notes"))

    shown = resilient("checkpoints", "compared@10").stdout
    for part in ("after compared@5", "run.batches(batch_size=30, epochs=2, shuffle=True",
                 "TensorDataset", "210", "model = nn.Sequential(", "2 (2 ranks)"):  # fmt: skip
        assert part in shown, shown
    assert "compared@14  ◀ head" in resilient("checkpoints").stdout


def test_the_cluster_is_its_owners(client: Client) -> None:
    found = client.identity()
    assert (found.user, found.source) == (os_user(), "owner")


def test_errors_have_a_code_and_an_exit_status(client: Client) -> None:
    missing = resilient("show", "nothing", "--json")
    assert missing.returncode == 2
    assert json.loads(missing.stdout)["error"]["code"] == "unknown-name"
    assert resilient("shwo").returncode == 2


def test_down_ends_everything_and_up_goes_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a home of its own: a job survives `down` and finishes after the next `up`."""
    with _own_home(tmp_path_factory) as home:
        settings = load_settings()
        embedded.up(settings, 2, print)
        client = connection.current()
        job = submit(client, "long", train(epochs=20, pause=0.05), 2, ("seen",))
        wait(client, job, lambda v: v.step >= 8)
        embedded.down(settings, print)
        assert processes_of(home) == []
        with pytest.raises(ClusterUnreachable):
            connection.current()
        assert repr(Job(client, job)).startswith(f"<job {job}. No cluster is up.")

        said: list[str] = []
        embedded.up(settings, 2, said.append)
        assert f"{job} is unfinished: it goes on." in said
        view = finish(client, job)
        assert view.state is JobState.SUCCEEDED
        assert view.attempts == 2
        assert not view.failures
        assert results(client, job)["seen"] == 20 * 210 // 2
        client.close()
        embedded.down(settings, print)
        assert processes_of(home) == []


@pytest.mark.parametrize("preload", [True, False])
def test_any_dask_cluster_will_do(tmp_path_factory: pytest.TempPathFactory, preload: bool) -> None:
    """With `--preload`, or plain: then `connect` registers the plugins."""
    with _own_home(tmp_path_factory) as home:
        extra = ["--preload", "resilient_nb"] if preload else []
        file = home / "scheduler.json"
        scheduler = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), *extra]
        processes = [_dask("scheduler", scheduler, home)]
        try:
            address = _address(file, processes[0])
            worker = [address, "--nworkers", "2", "--nthreads", "1", *extra]
            processes.append(_dask("worker", worker, home))
            connection.connect(address)
            client = connection.current()
            job = submit(client, "elsewhere", train(), 2, ("seen",))
            assert finish(client, job).state is JobState.SUCCEEDED
            assert results(client, job)["seen"] == 6 * 210 // 2
            client.close()
        finally:
            for process in reversed(processes):
                end_tree(psutil.Process(process.pid))
                process.wait()
            embedded.end_supervisors(home)
            connection.forget(load_settings())


def _dask(what: str, arguments: list[str], home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=home, stdout=quiet, stderr=quiet)


def _address(file: Path, scheduler: subprocess.Popen[bytes]) -> str:
    """Return the scheduler's address as soon as its file is whole."""
    while True:
        assert scheduler.poll() is None
        try:
            address: str = json.loads(file.read_text())["address"]
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # not there yet, or half written
        return address


class _own_home:
    """A home apart from the session's cluster."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._home = factory.mktemp("home")

    def __enter__(self) -> Path:
        self._old = os.environ.get("RESILIENT_NB_HOME")
        os.environ["RESILIENT_NB_HOME"] = str(self._home)
        return self._home

    def __exit__(self, *_: object) -> None:
        if self._old is None:
            del os.environ["RESILIENT_NB_HOME"]
        else:
            os.environ["RESILIENT_NB_HOME"] = self._old
