"""Useful step time over wall time with a failure every minute, and every five, beside torchrun.

    make bench NAME=goodput
    python tests/benchmarks/goodput.py --minutes 2 --only 60

A job of two ranks makes steps of 50 ms (a small model really trains; the rest of each step is
waited). A random rank is killed with -9, with exponential gaps; torchrun restarts the same loop,
which has saved its state with torch.save as often as ours has checkpoints, and is killed at the
same moments. Useful is the number of different steps made, times the median of undisturbed ones;
the clock begins with the first step. The last line is JSON: `goodput_60s` is the share of useful
time with a failure every 60 s on average, and so on; `recording_overhead` what telemetry costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from peers import changes, cluster, submit
from resilient_nb.client import Client
from resilient_nb.core.chaos import gaps
from resilient_nb.core.model import Interval

SEED = 7
STEP = 0.05
#: Steps between checkpoints, of both.
EVERY = 20

_MODEL = """
import os, time, torch
from pathlib import Path
folder = Path({folder!r})
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8))
optimizer = torch.optim.AdamW(model.parameters())
"""
#: A step begins where the one before has ended, so that what is between them counts, too.
_STEP = """
def train(model, step, rank):
    began = time.monotonic()
    loss = model(torch.randn(32, 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(max(0.0, {step} - (time.monotonic() - began)))
    if rank == 0:
        with (folder / "steps").open("a") as file:
            file.write(f"{{step}} {{time.monotonic()}} {{os.getpid()}}\\n")
"""

OURS = (
    _MODEL
    + _STEP
    + """
run.track(model=model, optimizer=optimizer)
(folder / f"pid-{{run.rank}}").write_text(str(os.getpid()))
for _ in run.steps(10_000_000):
    train(model, run.step, run.rank)
"""
)

THEIRS = (
    _MODEL
    + _STEP
    + """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
rank, first, saved = dist.get_rank(), 0, folder / "state.pt"
(folder / f"pid-{{rank}}").write_text(str(os.getpid()))
if saved.exists():
    state = torch.load(saved)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    first = state["step"]
wrapped = DistributedDataParallel(model)
for step in range(first, 10_000_000):
    train(wrapped, step, rank)
    if (step + 1) % {every} == 0 and rank == 0:
        state = {{"model": model.state_dict(), "optimizer": optimizer.state_dict()}}
        state["step"] = step + 1
        torch.save(state, folder / "state.new")
        os.replace(folder / "state.new", saved)
"""
)


@dataclass(frozen=True)
class Figures:
    """One series. `mttr_s`: mean seconds from a kill to the next step that was made."""

    goodput: float
    steps: int
    again: int
    kills: int
    step_s: float
    mttr_s: float


def steps_of(folder: Path) -> list[tuple[int, float, int]]:
    """Return (step, time, pid) of every step that rank 0 has made."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line.split() for line in (folder / "steps").read_text().splitlines()]
        return [(int(n), float(at), int(pid)) for n, at, pid in (x for x in lines if len(x) == 3)]
    return []


def kill(folder: Path, where: float) -> bool:
    """Kill a random one of the two ranks; False if it isn't there at the moment."""
    try:
        process = psutil.Process(int((folder / f"pid-{int(where * 2)}").read_text()))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.send_signal(signal.SIGKILL)
    except (OSError, ValueError, psutil.NoSuchProcess):
        return False
    return True


def series(folder: Path, mean: float, seconds: float, alive: Callable[[], None]) -> Figures:
    """Kill by the schedule for so many seconds after the first step; return what came of it."""
    while not steps_of(folder):
        alive()
        time.sleep(0.05)
    began, kills = steps_of(folder)[0][1], []
    for at, dice in gaps(SEED, mean, seconds):
        time.sleep(max(0.0, began + at - time.monotonic()))
        alive()
        if kill(folder, next(dice)):
            kills.append(time.monotonic())
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return figures([s for s in steps_of(folder) if s[1] <= began + seconds], began, seconds, kills)


def figures(
    steps: list[tuple[int, float, int]], began: float, seconds: float, kills: list[float]
) -> Figures:
    """Work out what the steps and kills of a series say."""
    step_s = statistics.median(b[1] - a[1] for a, b in pairwise(steps) if a[2] == b[2])
    made = len({number for number, _, _ in steps}) - 1  # the clock begins as the first ends
    repairs = [next((s[1] - k for s in steps if s[1] > k + STEP), None) for k in kills]
    known = [r for r in repairs if r is not None]
    return Figures(
        goodput=made * step_s / seconds,
        steps=made + 1,
        again=len(steps) - made - 1,
        kills=len(kills),
        step_s=step_s,
        mttr_s=statistics.fmean(known) if known else 0.0,
    )


def ours(client: Client, mean: float, seconds: float) -> Figures:
    """One series of a job on our cluster."""
    with tempfile.TemporaryDirectory(prefix="rnb-") as text:
        source = OURS.format(folder=text, step=STEP)
        job = submit(client, source, 2, Interval(steps=EVERY))

        def alive() -> None:
            view = client.watch(job, timeout=0.0).job
            assert not view.state.final, view.failures

        try:
            return series(Path(text), mean, seconds, alive)
        finally:
            client.cancel(job)
            for _ in changes(client, job):
                pass


def theirs(mean: float, seconds: float) -> Figures:
    """The same under torchrun."""
    with tempfile.TemporaryDirectory(prefix="rnb-") as text, torchrun(Path(text)) as process:

        def alive() -> None:
            assert process.poll() is None, "torchrun gave up"

        return series(Path(text), mean, seconds, alive)


@contextlib.contextmanager
def torchrun(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the loop under torchrun, with as many restarts as it needs."""
    script = folder / "script.py"
    script.write_text(THEIRS.format(folder=str(folder), step=STEP, every=EVERY))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "--max-restarts=100000", str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    # A store for each restart. Without, gloo finds the addresses of the attempt before in it, and
    # most restarts fail (torch 2.13).
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def main() -> None:
    """Measure both means side by side and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, help="of each series (default: 5, and 10)")
    parser.add_argument("--only", type=int, choices=(60, 300), help="only this mean, in seconds")
    parser.add_argument("--no-torchrun", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, float | None] = {}
    for mean, minutes in ((60, 5.0), (300, 10.0)):
        seconds = 60 * (arguments.minutes or minutes)
        skipped = arguments.only not in (None, mean)
        with contextlib.nullcontext() if skipped else cluster(2) as client:
            mine = None if client is None else ours(client, mean, seconds)
        peer = None if skipped or arguments.no_torchrun else theirs(mean, seconds)
        for name, result in (("", mine), ("torchrun_", peer)):
            found[f"{name}goodput_{mean}s"] = result and round(result.goodput, 4)
            if result is not None:
                print(
                    f"{name.rstrip('_') or 'resilient_nb':12}  a failure every {mean} s: goodput "
                    f"{result.goodput:.4f}, {result.steps} steps of {1e3 * result.step_s:.1f} ms, "
                    f"{result.again} made again, {result.kills} kills, "
                    f"{result.mttr_s:.2f} s to the next step",
                    flush=True,
                )
    found["recording_overhead"] = overhead()
    print(json.dumps(found))


def overhead() -> float | None:
    """Return what recording costs of a step, if that can be measured here."""
    try:
        from recording import recording_overhead
    except ImportError:
        return None
    return float(recording_overhead())


if __name__ == "__main__":
    main()
