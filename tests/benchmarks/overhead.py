"""Steps per second of a loop in a cell, against the same loop in a bare script.

    make bench NAME=overhead

Same model, data, batches, threads and world size, no checkpoints. The bare script is what
one would write without us: torch's DistributedDataParallel under torchrun for two ranks, and
nothing at all around the loop for one. The last line is JSON: `steps_per_s_vs_bare` is the
smaller of the two ratios (1 is equal, larger is faster than the bare script).
"""

from __future__ import annotations

import json
import statistics

from launch import log_with, stamp
from peers import ROUNDS, cluster, submit, torchrun
from resilient_nb.core.model import Interval

STEPS, WARMUP = 400, 50

SETUP = """
import time, torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10))
loss_fn = nn.CrossEntropyLoss()
images, labels = torch.randn(1792, 1, 8, 8), torch.randint(10, (1792,))
"""

STEP = """
    loss = loss_fn(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    count += 1
    if count == WARMUP:
        begin = time.perf_counter()
    if count == WARMUP + STEPS:
        break
pace = STEPS / (time.perf_counter() - begin)
""".replace("STEPS", str(STEPS)).replace("WARMUP", str(WARMUP))

CELL = (
    SETUP
    + """
optimizer = torch.optim.AdamW(model.parameters())
data = torch.utils.data.TensorDataset(images, labels)
count = 0
for x, y in run.batches(data, batch_size=64 * run.world_size, epochs=100, shuffle=True):"""
    + STEP.replace("    count += 1", "    run.log(loss=loss)\n    count += 1")
    + """
if run.rank == 0:
    print("pace", pace, flush=True)
"""
)

BARE = (
    """
import os, torch
import torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
"""
    + SETUP
    + """
if world > 1:
    model = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters())
losses = []
def batches():
    for epoch in range(100):
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(images), generator=generator)
        for at in range(0, len(images) - 64 * world + 1, 64 * world):
            mine = order[at + 64 * rank : at + 64 * (rank + 1)]
            yield images[mine], labels[mine]
count = 0
for x, y in batches():"""
    + STEP.replace("    count += 1", "    losses.append(loss.item())\n    count += 1")
    + """
if rank == 0:
    print("pace", pace, flush=True)
"""
)


def main() -> None:
    """Print each round, then the ratio of medians."""
    ratios = []
    with cluster(2) as client:
        for workers in (1, 2):
            ours, theirs = [], []
            for number in range(ROUNDS):
                job = submit(client, CELL, workers, Interval())
                ours.append(stamp(log_with(client, job, "pace"), "pace"))
                theirs.append(stamp(torchrun(BARE, workers), "pace"))
                print(
                    f"{workers} ranks, round {number + 1}: {ours[-1]:.1f} steps/s, "
                    f"bare {theirs[-1]:.1f} steps/s",
                    flush=True,
                )
            ratios.append(statistics.median(ours) / statistics.median(theirs))
            print(f"{workers} ranks: {ratios[-1]:.3f}")
    print(json.dumps({"steps_per_s_vs_bare": round(min(ratios), 4)}))


if __name__ == "__main__":
    main()
