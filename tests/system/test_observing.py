"""What others see of a real cluster: alerts at a webhook, measures, traces."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

import resilient_nb
from cells import finish, results, submit, train, wait
from resilient_nb.cli import main
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core import traces
from resilient_nb.core.model import JobState
from resilient_nb.core.traces import Parent


@pytest.fixture
def hook(home: Path) -> Iterator[list[dict[str, Any]]]:
    """What the administrator's webhook gets; the policy names it as long as the test runs."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    write(home, f"[channels.ops]\nwebhook = 'http://127.0.0.1:{server.server_port}/'\n")
    yield got
    write(home, "")  # which means the defaults
    server.shutdown()
    thread.join()
    server.server_close()


def write(home: Path, text: str) -> None:
    part = home / "policy.part"
    part.write_text(text)
    part.chmod(0o600)
    part.replace(home / "policy.toml")


def kill_the_scheduler(home: Path) -> None:
    """Kill it as soon as it has noted what it has sent."""
    while json.loads((home / "alerts.json").read_text())["waiting"] != {"ops": []}:
        time.sleep(0.02)
    record = embedded.find(load_settings())
    assert record is not None
    process = record.parts["scheduler"].find()
    assert process is not None
    process.kill()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def test_a_job_that_fails_is_told_and_over_when_its_run_goes_on(
    client: Client, home: Path, hook: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    while not client.alerts().channels:
        time.sleep(0.05)
    assert main(["alerts", "--test"]) == 0
    assert "sent" in capsys.readouterr().out
    job = submit(client, "told", "raise KeyError('nothing')", workers=1)
    finish(client, job)
    while len(hook) < 2:
        time.sleep(0.02)
    test, alert = hook
    assert test["labels"]["alertname"] == "test"
    assert alert["labels"]["alertname"] == "job failed"
    assert alert["labels"]["job"] == job
    assert "KeyError" in alert["annotations"]["description"]
    assert main(["alerts", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [a["rule"] for a in shown["firing"] if a["labels"].get("job") == job] == ["job failed"]
    assert [(c["name"], c["kind"], c["trouble"]) for c in shown["channels"]] == [
        ("ops", "webhook", "")
    ]
    kill_the_scheduler(home)
    assert "job failed" in [a.rule for a in client.alerts().firing if a.labels.get("job") == job]
    finish(client, submit(client, "told", "pass", workers=1))
    while len(hook) < 3:
        time.sleep(0.02)
    assert (hook[2]["status"], hook[2]["fingerprint"]) == ("resolved", alert["fingerprint"])
    assert len(hook) == 3  # the scheduler that came after has told nothing again


def asked() -> set[str]:
    """Return the measures that the dashboard asks for."""
    text = (Path(resilient_nb.__file__).parent / "grafana.json").read_text()
    return set(re.findall(r"\bresilient_(?!nb\b)[a-z_]+", text))


def test_dasks_metrics_have_ours(client: Client) -> None:
    job = submit(client, "measured", train(epochs=10_000, pause=0.02), workers=2)
    wait(client, job, lambda view: view.rate > 0 and view.step > 6)
    url = client.cluster().metrics
    assert url.startswith("http://127.0.0.1:")
    text = ""
    while f'job="{job}",phase="compute"' not in text or f'job="{job}",rank="1"' not in text:
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        time.sleep(0.05)
    assert "dask_scheduler_workers" in text
    for name in ("resilient_jobs", "resilient_slots_used", "resilient_job_steps_per_second"):
        assert f"\n{name}{{" in text
    assert "\nresilient_job_waiting_seconds_count" in text
    for name in asked():
        whole = name.removesuffix("_total")
        assert f"# TYPE {name} " in text or f"# TYPE {whole} " in text or f"\n{name}" in text
    client.cancel(job)
    finish(client, job)
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    assert f'job="{job}"' not in text


def test_the_cell_knows_whose_part_its_own_spans_are(client: Client) -> None:
    submitted = Parent("a" * 32, "b" * 16)
    cell = "import os\nparent = os.environ['TRACEPARENT']"
    job = submit(client, "traced", cell, workers=1, out=("parent",), trace=str(submitted))
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    found = traces.parse(results(client, job)["parent"])
    assert found is not None
    assert found.trace == submitted.trace
    attempt = submitted.child("job", job).child("attempt", job, view.epoch)
    assert found == traces.rank(attempt, 0)
