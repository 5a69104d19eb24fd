"""Jobs in MLflow: told once, found again after a restart, and no trouble if nobody is there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from posixpath import normpath
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_nb.control import mlflow_sync
from resilient_nb.control.commands import Commands
from resilient_nb.control.mlflow_sync import MlflowSync, Worker
from resilient_nb.core.model import Outcome
from resilient_nb.core.tracked import Tracked, metric_name, tracked
from resilient_nb.testing.builders import Story, a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import requests as rq
from resilient_nb.wire.orders import Sample


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; pytest-timeout bounds it."""
    while not condition():
        time.sleep(0.005)


class FakeServer:
    """As much of an MLflow server as its client shows; it counts what is written."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.metrics: list[tuple[str, str, int, float]] = []
        self.writes = 0
        self.down = False

    def __call__(self, uri: str) -> FakeServer:
        return self

    def _check(self) -> None:
        if self.down:
            raise ConnectionError("nobody is there")

    def get_experiment_by_name(self, name: str) -> Any:
        self._check()
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, _: list[str], wanted: str, page_token: str | None = None) -> Any:
        self._check()
        found = [r for r in self.runs.values() if r.data.tags["resilient_nb.cluster"] in wanted]

        class Page(list[Any]):
            token = None

        return Page(found)

    def create_run(self, _: str, at: int, tags: dict[str, str], run_name: str) -> Any:
        self._write()
        info = SimpleNamespace(run_id=f"id-{run_name}", status="RUNNING", end_time=None)
        run = SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(tags), params={}))
        self.runs[info.run_id] = run
        return run

    def log_batch(
        self,
        run: str,
        metrics: list[Any],
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
    ) -> None:
        self._write()
        self.metrics += [(run, m.key, m.step, m.value) for m in metrics]
        data = self.runs[run].data
        for param in params:
            assert data.params.setdefault(param.key, param.value) == param.value
        data.tags.update({tag.key: tag.value for tag in tags})

    def update_run(self, run: str, status: str) -> None:
        self._write()
        self.runs[run].info.status = status

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        self._write()
        self.runs[run].info.status, self.runs[run].info.end_time = status, end_time

    def _write(self) -> None:
        self._check()
        self.writes += 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    made = FakeServer()
    entities = SimpleNamespace(
        Metric=lambda k, v, t, s: SimpleNamespace(key=k, value=v, step=s),
        Param=lambda k, v: SimpleNamespace(key=k, value=v),
        RunTag=lambda k, v: SimpleNamespace(key=k, value=v),
    )
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(entities=entities))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(mlflow_sync, "_client", made)
    monkeypatch.setattr(mlflow_sync, "FIRST", 0.01)
    return made


class Site(FakeCluster):
    """A cluster that tells an MLflow server of its jobs."""

    def __init__(self, home: Path, uri: str = "http://u:secret@mlflow:5000") -> None:
        super().__init__(home, {"h0": 2}, mlflow=uri)
        from resilient_nb.core.events import ClusterCreated

        self.engine.record(ClusterCreated(self.clock(), "c1"))
        self.sync = MlflowSync(self.engine, every=0.0)
        self.second(2)

    def restart(self) -> None:
        """Kill the scheduler, and start another."""
        self.sync.close()
        self.engine.recording.write()
        self.restart_engine()
        self.sync = MlflowSync(self.engine, every=0.0)

    def second(self, count: int = 1) -> None:
        """Let seconds pass as the plugin does."""
        for _ in range(count):
            self.round()
            self.sync.look()

    def settled(self) -> None:
        """Wait until the server was told all."""
        worker = self.sync._worker
        assert worker is not None
        until(lambda: worker.connected)
        self.sync.look()
        until(lambda: not self.sync._changed and not worker.behind)

    def train(self, *losses: float, run: str = "digits") -> None:
        """Submit a job that logs these losses, from step 1 on."""
        Commands(self.engine, "here")(rq.Submit(run, a_spec(), f"{run} {self.clock()}"), "ada")
        self.second(2)
        job = self.engine.world.jobs[self.engine.world.runs[run].jobs[-1]]
        points = tuple((n, {"loss": loss}) for n, loss in enumerate(losses, 1))
        sample = Sample(job.id, job.epoch, 0, step=len(losses), state="running", points=points)
        self.sampled(sample)

    def sampled(self, sample: Sample) -> None:
        """Have the host report a sample."""
        self.engine.report(replace(self.hosts["h0"].report(()), samples=(sample,)))

    def finish(self) -> None:
        """Have all ranks finish."""
        for rank in list(self.hosts["h0"].ranks.values()):
            self.hosts["h0"].end(rank, Outcome.FINISHED)
        self.second(2)


@pytest.fixture
def site(server: FakeServer, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.sync.close()


def test_a_job_is_a_run_with_params_tags_metrics_and_checkpoints(
    site: Site, server: FakeServer
) -> None:
    site.train(3.0, 2.0, 1.0)
    [rank] = site.hosts["h0"].ranks.values()
    site.hosts["h0"].write_checkpoint(rank, None)
    site.second()
    site.settled()
    [run] = server.runs.values()
    assert run.info.status == "RUNNING"
    site.finish()
    site.settled()
    assert run.info.status == "FINISHED"
    assert run.info.end_time == int(1000 * (site.engine.world.jobs["digits#1"].ended_at or 0))
    assert run.data.params["workers"] == "1"
    tags = run.data.tags
    assert tags["resilient_nb.run"] == "digits"
    assert tags["resilient_nb.state"] == "succeeded"
    assert tags["mlflow.user"] == "ada"
    assert tags["resilient_nb.checkpoint.last"].startswith("digits@1 ")
    assert [(s, v) for _, _, s, v in server.metrics] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_telling_it_again_changes_nothing(site: Site, server: FakeServer) -> None:
    site.train(3.0, 2.0)
    site.settled()
    site.finish()
    site.settled()
    writes, metrics = server.writes, list(server.metrics)
    site.second(3)
    site.settled()
    for _ in range(2):
        site.restart()
        site.second(2)
        site.settled()
    assert (server.writes, server.metrics) == (writes, metrics)
    assert len(server.runs) == 1


def test_a_restart_goes_on_where_it_was(site: Site, server: FakeServer) -> None:
    site.train(3.0, 2.0)
    site.settled()
    site.restart()
    site.second(2)
    site.settled()
    sample = Sample("digits#1", 1, 0, step=3, state="running", points=((3, {"loss": 0.5}),))
    site.sampled(sample)
    site.second()
    site.settled()
    assert [(s, v) for _, _, s, v in server.metrics] == [(1, 3.0), (2, 2.0), (3, 0.5)]
    assert len(server.runs) == 1


def test_a_tag_that_is_given_later_comes_there(site: Site, server: FakeServer) -> None:
    site.train(1.0)
    [rank] = site.hosts["h0"].ranks.values()
    site.hosts["h0"].write_checkpoint(rank, None)
    site.second()
    site.finish()
    site.settled()
    Commands(site.engine, "here")(rq.Tag("digits@1", "best"), "ada")
    site.second()
    site.settled()
    [run] = server.runs.values()
    assert run.data.tags["resilient_nb.checkpoint.best"].startswith("digits@1 ")


def test_a_server_that_is_down_is_an_alert_and_told_later(site: Site, server: FakeServer) -> None:
    site.settled()
    server.down = True
    site.train(3.0)
    site.second(2)
    worker = site.sync._worker
    assert worker is not None
    until(lambda: worker.trouble)
    site.second()
    [text] = [t for key, t in site.engine.alerts.items() if key == "mlflow"]
    assert "nobody is there" in text
    assert "secret" not in text
    server.down = False
    site.finish()
    site.settled()
    until(lambda: not worker.trouble)
    site.second()
    assert "mlflow" not in site.engine.alerts
    assert [run.info.status for run in server.runs.values()] == ["FINISHED"]


def test_without_a_server_nothing_listens(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, {"h0": 1})
    sync = MlflowSync(cluster.engine)
    sync.look()
    sync.close()
    assert sync.heard not in cluster.engine.listeners


def test_what_a_tracker_is_told_is_text_and_short() -> None:
    story = Story().submit().start()
    said = tracked(story.world, story.job(), {}, "/store/runs")
    assert all(isinstance(text, str) for text in (*said.params.values(), *said.tags.values()))
    assert all(len(text) <= 5000 for text in said.tags.values())


# --- a real server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on a port of this machine, if one is installed."""
    pytest.importorskip("mlflow", reason="pip install mlflow: heavy, and not in CI")
    program = os.environ.get("MLFLOW_SERVER") or shutil.which("mlflow") or ""
    if not program or not os.environ.get("RESILIENT_NB_TEST_MLFLOW"):
        pytest.skip("RESILIENT_NB_TEST_MLFLOW isn't set: a real MLflow server starts in 20 s")
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{home}/db", "--artifacts-destination", str(home)],
        cwd=home, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or answers(f"{uri}/health"))
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        time.sleep(0.2)
        return False


def test_a_real_server_has_each_job_once(real: str, tmp_path: Path) -> None:
    site = Site(tmp_path, real)
    site.train(3.0, 2.0, float("nan"), 1.0)
    site.settled()
    for _ in range(2):
        site.restart()
        site.second(2)
        site.settled()
    site.finish()
    site.settled()
    site.sync.close()
    from mlflow import MlflowClient

    client = MlflowClient(real)
    experiment = client.get_experiment_by_name("resilient_nb")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("digits#1", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (4, 1.0)]
    assert run.data.params["workers"] == "1"
    assert run.data.tags["resilient_nb.state"] == "succeeded"


def test_bringing_up_a_job_is_in_pieces(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_sync, "_BATCH", 10)
    worker = Worker("uri", "c1", server)
    worker.connect()
    series = {"loss": tuple((n, float(n)) for n in range(25))}
    job = Tracked("a#1", 1.0, None, "RUNNING", {"p": "1"}, {"t": "2"}, series)
    worker.bring_up(job)
    worker.bring_up(job)
    assert [step for _, _, step, _ in server.metrics] == list(range(25))
    assert server.runs["id-a#1"].data.tags["resilient_nb.synced_step"] == "24"


def test_metrics_whose_names_a_server_refuses_get_others(server: FakeServer) -> None:
    worker = Worker("uri", "c1", server)
    worker.connect()
    series = {"acc@5": ((1, 0.5),), "/val//loss[0]": ((1, 2.0),)}
    worker.bring_up(Tracked("a#1", 1.0, None, "RUNNING", {}, {}, series))
    assert [name for _, name, _, _ in server.metrics] == ["acc_5", "val/loss_0_"]
    for name in ("", ".", "../..", "a" * 250 + "/b"):
        plain = metric_name(name)
        assert 0 < len(plain) <= 250
        assert normpath(plain) == plain
        assert plain != ".."
