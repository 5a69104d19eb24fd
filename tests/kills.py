"""`make kills KILLS=200`: kill -9 at random, and every run ends with the bits of one left alone.

Runs of 1 to 4 ranks train with dropout, batch norm, data-loading processes that draw random
numbers, shuffling, gradients accumulated over several turns, clipping, AdamW and a schedule; some
shard their state (FSDP2). Ranks, their writers and the supervisor are killed at any moment, and
often on purpose while a checkpoint is being written. What a run returns, and each of its
checkpoints, must equal those of an uninterrupted run. The last line is JSON; the exit code is 0
only if all were equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings
from resilient_nb.core.model import Cell, Interval, JobSpec, JobState
from resilient_nb.core.views import JobView
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.wire.requests import Submit

#: A turn is a micro-batch: every third one ends in a step of the optimizer. Checkpoints are taken
#: at any turn, so that they find gradients under way.
CELL = """
import random, time
import numpy as np, torch
from torch import nn
from torch.distributed.fsdp import fully_shard
class Noisy(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(192, 16)
        self.y = (self.x.sum(1) > 0).long() + (self.x[:, 0] > 1).long()
    def __len__(self):
        return 192
    def __getitem__(self, i):
        noise = torch.randn(16) + np.random.random() + random.random()
        return self.x[i] + 0.1 * noise, self.y[i]
model = nn.Sequential(
    nn.Linear(16, 192), nn.BatchNorm1d(192), nn.ReLU(), nn.Dropout(0.3),
    nn.Linear(192, 192), nn.ReLU(), nn.Dropout(0.1), nn.Linear(192, 3))
if {sharded}:
    fully_shard(model[4])
    fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
loader = torch.utils.data.DataLoader(Noisy(), batch_size=16, shuffle=True, num_workers=2)
run.track(model=model, optimizer=optimizer, scheduler=scheduler)
history, seen, best = [], 0, None
for x, y in run.batches(loader, epochs=4):
    loss = nn.functional.cross_entropy(model(x), y)
    (loss / 3).backward()
    if run.step % 3 == 2:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    history.append((loss.item(), random.random(), float(np.random.random())))
    seen += len(x)
    best = min(best or 99.0, loss.item())
    time.sleep({pause})
weights = {{
    k: v.full_tensor() if hasattr(v, "full_tensor") else v.clone()
    for k, v in model.state_dict().items()
}}
"""
OUT = ("weights", "history", "seen", "best")
TURNS = 48
#: No multiple of the accumulated turns.
EVERY = Interval(steps=4)
#: What is killed, and how often. The supervisor takes its ranks with it.
ROLES = {"rank": 6, "writer": 3, "supervisor": 1}
#: Kills of one run: so many attempts in a row without a checkpoint are given up (20).
MOST = 8


@dataclass
class Campaign:
    """Runs, kills and what came of them.

    Attributes:
        client: of the cluster.
        home: of the cluster; every process that is killed is of it.
        dice: decides everything.
        kills: by what was killed, and `in a save` besides.
        runs: that were killed in.
        unequal: of these the ones that differ from the uninterrupted run, and how.
    """

    client: Client
    home: Path
    dice: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    unequal: list[str] = field(default_factory=list)
    _references: dict[tuple[int, bool], tuple[dict[str, Any], dict[int, str]]] = field(
        default_factory=dict
    )

    @property
    def killed(self) -> int:
        """How many processes were killed."""
        return sum(self.kills[role] for role in ROLES)

    def run(self, world: int, sharded: bool, most: int = MOST) -> bool:
        """Run a job on so many ranks, with random kills; return whether it ended as it should."""
        wanted = self._reference(world, sharded)
        self.runs += 1
        name = f"killed-{self.runs}"
        job = self._submit(name, world, sharded, pause=0.03)
        goal = self.dice.randint(min(2, most), most)
        done = self.killed + goal
        while self.killed < done and not (view := self._view(job)).state.final:
            self._kill_one(name, view)
        view = self._finish(job)
        if view.state is not JobState.SUCCEEDED:
            self.unequal.append(f"{job} on {world} ranks is {view.state}: {view.reason}")
            return False
        found = self._result(name, job)
        differing = [what for what in OUT if not _same(found[0][what], wanted[0][what])]
        differing += [f"checkpoint {step}" for step, d in found[1].items() if d != wanted[1][step]]
        if differing:
            kind = "sharded " if sharded else ""
            self.unequal.append(f"{job} on {world} {kind}ranks differs in {', '.join(differing)}")
        return not differing

    def _reference(self, world: int, sharded: bool) -> tuple[dict[str, Any], dict[int, str]]:
        """Return what an uninterrupted run gives, and its checkpoints' digests by step."""
        kind = world, sharded
        if kind not in self._references:
            name = f"reference-{world}{'-sharded' if sharded else ''}"
            job = self._submit(name, world, sharded, pause=0)
            view = self._finish(job)
            assert (view.state, view.attempts) == (JobState.SUCCEEDED, 1), view.failures
            self._references[kind] = self._result(name, job)
            assert len(self._references[kind][1]) == TURNS // (EVERY.steps or 1)
        return self._references[kind]

    def _submit(self, run: str, world: int, sharded: bool, pause: float) -> str:
        cell = Cell(CELL.format(sharded=sharded, pause=pause), "Cell In[1]", "Cell In[1]")
        spec = JobSpec(cell, workers=world, out=OUT, interval=EVERY)
        return self.client.submit(Submit(run, spec, uuid.uuid4().hex)).job

    def _view(self, job: str) -> JobView:
        return self.client.watch(job, -1, 0.0).job

    def _finish(self, job: str) -> JobView:
        seen = -1
        while True:
            watched = self.client.watch(job, seen, 10.0)
            if watched.job.state.final:
                return watched.job
            seen = watched.version

    def _result(self, run: str, job: str) -> tuple[dict[str, Any], dict[int, str]]:
        """Return what a job returned and its checkpoints' digests; all must be whole."""
        [view] = self.client.runs(run)
        for checkpoint in view.checkpoints:
            opened = open_checkpoint(checkpoint.path)
            opened.read_many(opened.names())
        values: dict[str, Any] = pickle.loads(self.client.out(job))
        return values, {c.step: c.digest for c in view.checkpoints}

    # --- killing ------------------------------------------------------------------------

    def _kill_one(self, run: str, view: JobView) -> None:
        """Wait for a random moment, or for a save, and kill something."""
        moment = time.monotonic() + self.dice.uniform(0.0, 0.8)
        for_save = self.dice.random() < 0.5
        while time.monotonic() < moment and not (for_save and self._saving(run, view.epoch)):
            time.sleep(0.002)
        [role] = self.dice.choices(list(ROLES), list(ROLES.values()))
        victims = self._victims(role, view)
        if not victims:
            return
        saving = self._saving(run, view.epoch)
        with contextlib.suppress(psutil.NoSuchProcess):
            self.dice.choice(victims).kill()
            self.kills[role] += 1
            self.kills["in a save"] += saving

    def _saving(self, run: str, epoch: int) -> bool:
        """Whether this attempt has begun a checkpoint that isn't committed."""
        folders = (self.home / "store" / "runs" / run).glob(f"*-e{epoch}")
        newest = max(folders, default=None)
        return newest is not None and not (newest / "zarr.json").exists()

    def _victims(self, role: str, view: JobView) -> list[psutil.Process]:
        ranks = [p for rank in view.ranks if rank.pid for p in self._alive(rank.pid)]
        if role == "rank" or not ranks:
            return ranks
        if role == "supervisor":
            pids = [int(f.read_text()) for f in self.home.glob("supervisors/*/pid")]
            return [process for pid in pids for process in self._alive(pid)]
        writers = []
        for process in ranks:
            with contextlib.suppress(psutil.Error):
                # A rank's other children load data; its writer runs behind them.
                usual = process.nice()
                writers += [child for child in process.children() if child.nice() > usual]
        return writers

    def _alive(self, pid: int) -> Iterator[psutil.Process]:
        """Give the process if there is one, and if it is of this cluster."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.environ().get("RESILIENT_NB_HOME") == str(self.home):
                yield process


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal bit for bit."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    return repr(a) == repr(b)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Client, Path]]:
    """A cluster of four workers in a home of its own, of which nothing stays."""
    home = Path(tempfile.mkdtemp(prefix="rnb-kills-"))
    os.environ["RESILIENT_NB_HOME"] = str(home)
    settings = load_settings()
    try:
        embedded.up(settings, 4, print)
        record = embedded.find(settings)
        assert record is not None
        client = Client(record.address, patience=60.0)
        yield client, home
        client.close()
    finally:
        embedded.down(settings, print)
        shutil.rmtree(home)


def main() -> int:
    """Kill until enough were; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with cluster() as (client, home):
        campaign = Campaign(client, home, random.Random(arguments.seed))
        equal = 0
        while (left := arguments.kills - campaign.killed) > 0:
            world = campaign.runs % 4 + 1
            sharded = campaign.dice.random() < 0.3
            before = campaign.killed
            good = campaign.run(world, sharded, min(left, MOST))
            equal += good
            print(
                f"{time.monotonic() - began:6.1f} s  run {campaign.runs} on {world} "
                f"{'sharded ' if sharded else ''}ranks: {campaign.killed - before} kills, "
                f"{'equal' if good else campaign.unequal[-1]}",
                flush=True,
            )
    figures = {"kills": campaign.killed, "runs": campaign.runs, "equal": equal}
    print(json.dumps({**figures, **campaign.kills, "unequal": campaign.unequal}))
    return 0 if equal == campaign.runs else 1


if __name__ == "__main__":
    sys.exit(main())
