"""The magics in real kernels."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from cells import finish, wait
from resilient_nb.client import Client
from resilient_nb.core.model import JobState

SETUP = """
%load_ext resilient_nb
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 4)
    def forward(self, x):
        return scale(self.inner(x))
def scale(x):
    return x * factor
factor = 2.0
features = torch.randn(96, 8)
data = torch.utils.data.TensorDataset(features, features.sum(1, keepdim=True))
"""

CELL = """%%resilient {name} --workers 2 --checkpoint-every 5 --out model,history {more}
import os, time
model, history = Net(), []
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
print("training")
for x, y in run.batches(data, batch_size=16, epochs={epochs}, shuffle=True):
    while run.step == 40 and not os.path.exists({gate!r}): time.sleep(0.01)
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())
    time.sleep({pause})
"""


@dataclass
class Output:
    """What a cell has shown."""

    text: str = ""
    error: str = ""
    panels: list[str] = field(default_factory=list)


class Kernel:
    """A real kernel, driven as a frontend does."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> Output:
        """Execute a cell and return what it showed."""
        request = self.client.execute(code)
        output = Output()
        while True:
            message = self.client.get_iopub_msg(timeout=90)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != request:
                continue
            if kind == "stream":
                output.text += content["text"]
            elif kind in ("display_data", "update_display_data", "execute_result"):
                shown = content["data"].get("text/plain", "")
                output.panels.append(shown)
                assert "text/html" in content["data"] or kind == "execute_result"
            elif kind == "error":
                output.error = f"{content['ename']}: " + "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return output

    def complete(self, code: str) -> list[str]:
        """Return the kernel's completions at the end of `code`."""
        reply: Any = self.client.complete(code, reply=True, timeout=30)
        matches: list[str] = reply["content"]["matches"]
        return matches

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(client: Client) -> Iterator[Kernel]:
    kernel = Kernel()
    assert not kernel.run(SETUP).error
    yield kernel
    kernel.close()


def test_a_cell_comes_back(kernel: Kernel) -> None:
    submitted = kernel.run(CELL.format(name="comes-back", more="", epochs=2, pause=0, gate="/"))
    assert not submitted.error
    assert "comes-back#1" in submitted.panels[0]
    read = kernel.run("print(len(history), type(model) is Net, model(features).shape)")
    assert read.text.startswith("12 True"), read
    # The class is the notebook's own, and so are the globals that its methods use.
    assert kernel.run("factor = 0.0; print(model(features).abs().sum().item())").text == "0.0\n"
    assert kernel.run("print(job.logs(), end='')").text == "training\n"
    loaded = kernel.run(
        "import resilient_nb\n"
        "again = resilient_nb.load('comes-back', into=Net(), only='model')\n"
        "print(torch.equal(again.inner.weight, model.inner.weight))"
    )
    assert loaded.text == "True\n", loaded


def test_a_killed_kernel_loses_nothing(client: Client, kernel: Kernel, tmp_path: Path) -> None:
    back = tmp_path / "back"
    more = "--hang-after never"
    kernel.run(CELL.format(name="orphan", more=more, epochs=10, pause=0.05, gate=str(back)))
    wait(client, "orphan", lambda view: view.step >= 8)
    provisioner = kernel.manager.provisioner
    assert provisioner is not None
    os.kill(provisioner.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=60)
    kernel.run(SETUP)
    assert "orphan#1" in kernel.run("%resilient jobs").panels[0]
    back.touch()
    view = finish(client, "orphan")
    assert view.state is JobState.SUCCEEDED
    assert view.attempts == 1
    found = kernel.run(
        "import resilient_nb\njob = resilient_nb.run('orphan').jobs[0]\n"
        "print(len(job.result()['history']), job.logs(), len(job.run.checkpoints))"
    )
    assert found.text == "60 training\n 12\n", found


def test_an_error_shows_the_cells_own_line(kernel: Kernel) -> None:
    failed = kernel.run(
        "%%resilient fails --workers 2 --wait\n"
        "x = 1\n"
        "if run.rank == 1:\n"
        "    raise ValueError('boom')"
    )
    assert "JobFailed" in failed.error
    assert "ValueError: boom (rank 1" in failed.error
    assert re.search(r"Cell In\[\d+\], line 4", failed.error), failed.error
    assert "failed" in failed.panels[-1]


def test_dry_run_sends_nothing(client: Client, kernel: Kernel) -> None:
    shown = kernel.run(CELL.format(name="dry", more="--dry-run", epochs=1, pause=0, gate="/")).text
    assert "data" in shown
    assert "KiB" in shown
    assert "dry" not in [run.name for run in client.runs()]


def test_completion(kernel: Kernel) -> None:
    assert "--workers" in kernel.complete("%%resilient name --wor")
    assert "rollback" in kernel.complete("%resilient roll")


@pytest.mark.parametrize(
    ("line", "cell", "words"),
    [
        ("x --worker 2", "1", "did you mean --workers"),
        ("x --workers 0", "1", "1 to 1024"),
        ("x --workers 10000", "1", "1 to 1024"),
        ("x --workers 9", "1", "the cluster has 4 and can't grow"),
        ("../x", "1", "can't be a run name"),
        ("<b>x</b>", "1", "can't be a run name"),
        ("x --deadline 3", "1", "--deadline"),
        ("x --workers 4:2", "1", "Write --workers 2:4"),
        ("x --memory 2", "1", "Write 2MiB or 2GiB"),
        ("x --after nobody", "1", "no such job"),
        ("x", "y = = 1", "doesn't compile"),
        ("x", "  ", "empty"),
        ("x", "lock.acquire()", "lock"),
        ("x", "print(fetaures)", "features"),
        ("x --out modle", "model = 1", "model"),
    ],
)
def test_bad_input_is_refused_at_once(
    client: Client, kernel: Kernel, line: str, cell: str, words: str
) -> None:
    kernel.run("import threading; lock = threading.Lock()")
    before = len(client.jobs())
    error = kernel.run(f"%%resilient {line}\n{cell}").error
    assert words in error, error
    assert len(error.splitlines()) < 12, error
    assert len(client.jobs()) == before


def test_one_run_has_one_job_at_a_time(client: Client, kernel: Kernel) -> None:
    kernel.run(CELL.format(name="busy", more="", epochs=50, pause=0.05, gate="/"))
    again = kernel.run(CELL.format(name="busy", more="", epochs=1, pause=0, gate="/"))
    assert "AlreadyRunning" in again.error
    assert "busy#1" in again.error
    resumed = kernel.run("%resilient resume busy")
    assert "AlreadyRunning" in resumed.error
    wait(client, "busy", lambda view: view.step >= 3)
    assert "is cancelled" in kernel.run("%resilient cancel busy").text
    head = client.resolve("busy").step
    assert f"goes on from step {head}" in kernel.run("%resilient resume busy").text
    kernel.run("%resilient cancel busy")


def test_a_cell_gets_what_another_returned_and_the_notebooks_own_value_stays(
    kernel: Kernel, client: Client
) -> None:
    kernel.run("net, scaled = 'of the notebook', 0.0")
    made = kernel.run("%%resilient nets --out net\nnet = Net()")
    assert made.error == ""
    used = kernel.run(
        "%%resilient nets-used --after nets --in net --out scaled\n"
        "assert type(net) is Net, type(net)\n"
        "scaled = net(torch.ones(1, 8)).sum().item()"
    )
    assert used.error == ""
    view = finish(client, "nets-used#1")
    assert view.state is JobState.SUCCEEDED, view.failures
    shown = kernel.run("print(scaled == net(torch.ones(1, 8)).sum().item())")
    assert shown.text.strip() == "True"
    refused = kernel.run("%%resilient nets-third --after nets --in nat\nprint(nat)")
    assert "no job that nets-third waits for returns it (nets#1 returns net)" in refused.error


def test_a_name_stays_pending_when_its_job_fails(kernel: Kernel, client: Client) -> None:
    first = kernel.run("%%resilient gives --out answer --wait\nanswer = 'first'")
    assert first.error == ""
    failed = kernel.run("%%resilient gives-not --out answer\nanswer = 2\nraise ValueError('no')")
    assert failed.error == ""
    for _ in range(2):
        assert "'answer' was to come from job gives-not#1" in kernel.run("print(answer)").error
    assert kernel.run("answer = 'mine'\nprint(answer)").text == "mine\n"


@pytest.mark.parametrize(
    "wait", ["job.result()", "job.wait()", "await job", "%resilient logs held --follow"]
)
def test_an_interrupted_wait_is_one_line_and_the_result_comes_later(
    kernel: Kernel, client: Client, tmp_path: Path, wait: str
) -> None:
    gate = tmp_path / "gate"
    kernel.run(
        "%%resilient held --out answer --hang-after never --resume never\n"
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nanswer = 3"
    )
    kernel.run("def asked(): return answer")
    provisioner = kernel.manager.provisioner
    assert provisioner is not None
    interrupt = os.kill, (provisioner.pid, signal.SIGINT)  # type: ignore[attr-defined]
    threading.Timer(1.0, *interrupt).start()
    interrupted = kernel.run(wait).error
    assert "goes on" in interrupted, interrupted
    assert len(interrupted.splitlines()) == 1, interrupted
    gate.touch()
    assert kernel.run("print(asked())").text == "3\n"
