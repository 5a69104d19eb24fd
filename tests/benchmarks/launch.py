"""From submit to the first all-reduce on two warm ranks, against torchrun; and restarts.

    make bench NAME=launch

The last line is JSON: `launch_vs_torchrun` is our median over torchrun's (smaller is better),
`restart_s` the median from SIGKILL of a rank to the end of its successor's first step.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time

from peers import ROUNDS, changes, cluster, submit, torchrun
from resilient_nb.client import Client
from resilient_nb.core.model import Interval
from resilient_nb.wire.requests import ReadLog

REDUCE = """
import time, torch
import torch.distributed as dist
dist.all_reduce(torch.ones(1))
if dist.get_rank() == 0:
    print("reduced", time.time(), flush=True)
"""

BARE = (
    """
import torch.distributed as dist
dist.init_process_group("gloo")
"""
    + REDUCE
)

TRAIN = """
import time, torch
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
optimizer = torch.optim.AdamW(model.parameters())
first = run.step
for _ in run.steps(10_000):
    if run.rank == 0 and run.step == first + 1:
        print("stepped", time.time(), flush=True)
    loss = model(torch.randn(16, 32)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(0.01)
"""


def stamp(text: str, word: str) -> float:
    """Return the time printed after a word."""
    return float(text.split(word)[1].split()[0])


def log_with(client: Client, job: str, word: str, epoch: int | None = None) -> str:
    """Return rank 0's output as soon as it has a word."""
    for _ in changes(client, job):
        text = client.log(ReadLog(job, 0, epoch)).data.decode()
        if word in text and text.endswith("\n"):
            return text
    raise RuntimeError(f"{job} ended without printing {word!r}")


def launch(client: Client) -> float:
    """Return seconds from submit to the first all-reduce."""
    start = time.time()
    job = submit(client, REDUCE, 2, Interval())
    return stamp(log_with(client, job, "reduced"), "reduced") - start


def peer() -> float:
    """Return the same for torchrun, from the start of its command."""
    start = time.time()
    return stamp(torchrun(BARE, 2), "reduced") - start


def restart(client: Client) -> float:
    """Return seconds from a rank's death to its successor's first step."""
    job = submit(client, TRAIN, 2, Interval(steps=20))
    view = next(view for view in changes(client, job) if view.step >= 50)
    start = time.time()
    os.kill(view.ranks[1].pid, signal.SIGKILL)
    next(new for new in changes(client, job) if new.epoch > view.epoch)
    back = stamp(log_with(client, job, "stepped", view.epoch + 1), "stepped")
    client.cancel(job)
    for _ in changes(client, job):
        pass
    return back - start


def main() -> None:
    """Print each round, then the medians."""
    ours, theirs, restarts = [], [], []
    with cluster(2) as client:
        launch(client)
        for number in range(ROUNDS):
            ours.append(launch(client))
            theirs.append(peer())
            restarts.append(restart(client))
            print(
                f"round {number + 1}: launch {ours[-1]:.3f} s, torchrun {theirs[-1]:.3f} s, "
                f"restart {restarts[-1]:.3f} s",
                flush=True,
            )
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        json.dumps(
            {
                "launch_vs_torchrun": round(ratio, 4),
                "restart_s": round(statistics.median(restarts), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
