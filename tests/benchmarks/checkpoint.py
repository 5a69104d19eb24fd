"""Checkpoints against PyTorch's, `torch.save` and torch-checkpointing, side by side in one run.

    make bench NAME=checkpoint
    python tests/benchmarks/checkpoint.py [--rounds N] [--folder DIR] [--only PART] [--timed N]

The state is GPT-2 small with AdamW (1.5 GB), 2,000 tensors of 64 KiB, and the first with 5 % of
its bytes changed. All saves are made durable: fsync of the files and of their folder is part of
every "save to durable", and of what is written beside the loop.

* Stall: a loop on one thread (`checkpoint_loop`), ours as a rank of a real cluster, the peers'
  each in its own process. Time lost per checkpoint is what the steps until it is durable, and one
  more, take beyond the plain steps around them; the slowdown is that of the steps made while it
  was written. The first round runs all of DCP's modes, the others the best two; the best is the
  one that loses least.
* Save, load: `checkpoint_disk`. Nothing else runs. Direct writes of as many bytes show what the
  device can do at all.

The last line is JSON: ratios of medians (of N rounds, 5 unless told otherwise), ours over
theirs, so that smaller is better, but for `save_rate_vs_write_fsync`. `partial_time` is the worse
of the warm and the cold one. What is below the noise counts as 1 ms or 0.1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

import checkpoint_disk as disk
from checkpoint_loop import TIMED, Loss, Training
from checkpoint_peers import ASYNC, DCP_MODES, PACKAGE
from launch import log_with
from peers import cluster, submit
from resilient_nb.config import load_settings
from resilient_nb.core.model import Interval

HERE = Path(__file__).parent
ROUNDS = 5
FINALISTS = 2

CELL = f"""
import json, sys
sys.path.insert(0, {str(HERE)!r})
import checkpoint_loop
training = checkpoint_loop.Training()
run.track(model=training.model, optimizer=training.optimizer)
saver = checkpoint_loop.OurSaver(run, RUNS)
found = checkpoint_loop.measure(training, run.steps, saver, TIMED)
print("timings", json.dumps(found), flush=True)
"""

#: Seconds, and fractions, that can't be told from none.
LEAST_TIME, LEAST_FRACTION = 0.001, 0.001


# --- stall ----------------------------------------------------------------------------------


def run_ours(timed: int) -> Loss:
    """Run the loop as a job of one rank on a cluster of its own."""
    with cluster(1) as client:
        source = CELL.replace("RUNS", repr(str(load_settings().runs)))
        job = submit(client, source.replace("TIMED", str(timed)), 1, Interval())
        text = log_with(client, job, "timings")
        return Loss(**json.loads(text.split("timings ")[1].splitlines()[0]))


def run_peer(name: str, timed: int) -> Loss:
    """Run the loop with a peer in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    env["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        command = [sys.executable, str(HERE / "checkpoint_peers.py"), name, folder, str(timed)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return Loss(**json.loads(done.stdout.splitlines()[-1]))


def stall(rounds: int, timed: int) -> dict[str, float]:
    """Run everybody's loop; print what each has shown, return the ratios."""
    losses: dict[str, list[Loss]] = {}
    names = [disk.OURS, *ASYNC]
    for number in range(rounds):
        for name in disk.rotated(names, number):
            loss = run_ours(timed) if name == disk.OURS else run_peer(name, timed)
            losses.setdefault(name, []).append(loss)
            print(
                f"round {number + 1}, {name}: lost {loss.lost:.3f} s, paused {loss.pause:.3f} s, "
                f"slower by {loss.slowdown:.1%}, durable after {loss.durable:.2f} s, a step "
                f"{loss.step:.3f} s",
                flush=True,
            )
        if number == 0:
            best = sorted(DCP_MODES, key=lambda mode: lost(losses[mode]))[:FINALISTS]
            names = [disk.OURS, PACKAGE, *best]
    best_mode = min(names[2:], key=lambda mode: lost(losses[mode]))
    title = f"Training time lost per checkpoint (best mode of DCP: {best_mode}), s"
    table(title, {name: [x.lost for x in found] for name, found in losses.items()})
    title = "Steps slower while it is written, %"
    slowdowns = {name: [x.slowdown for x in found] for name, found in losses.items()}
    table(title, {name: [100 * x for x in found] for name, found in slowdowns.items()})
    title = "Which is so many seconds a checkpoint"
    table(title, {n: [x.slowdown * x.durable for x in found] for n, found in losses.items()})
    ours, dcp, package = (lost(losses[name]) for name in (disk.OURS, best_mode, PACKAGE))
    return {
        "stall_vs_dcp_async": ratio(ours, dcp, LEAST_TIME),
        "stall_vs_torch_checkpointing": ratio(ours, package, LEAST_TIME),
        "slowdown_vs_dcp_async": ratio(
            median(slowdowns[disk.OURS]), median(slowdowns[best_mode]), LEAST_FRACTION
        ),
    }


def lost(found: list[Loss]) -> float:
    """Return the median time lost."""
    return median(loss.lost for loss in found)


def ratio(ours: float, theirs: float, least: float) -> float:
    """Divide, with nothing smaller than what can be measured."""
    return max(ours, least) / max(theirs, least)


# --- saves and loads ------------------------------------------------------------------------


def save(folder: Path, training: Training, rounds: int) -> dict[str, float]:
    """Print how long everybody's saves take, return the ratios."""
    big = disk.saves(folder, training.state(), rounds, delta=True)
    table(f"Save {big.nbytes / 1e9:.2f} GB until durable (fsync included), s", big.times)
    tiny = disk.saves(folder, disk.small_state(), rounds, delta=False)
    title = f"Save {disk.SMALL_COUNT} tensors of 64 KiB until durable (fsync included), s"
    table(title, tiny.times)
    times = {name: median(found) for name, found in big.times.items()}
    small = {name: median(found) for name, found in tiny.times.items()}
    dcp = min(seconds for name, seconds in times.items() if name.startswith("DCP"))
    return {
        "save_vs_dcp": times[disk.OURS] / dcp,
        "save_vs_torch": times[disk.OURS] / times["torch.save"],
        "save_rate_vs_write_fsync": times["write + fsync"] / times[disk.OURS],
        "small_vs_torch": small[disk.OURS] / small["torch.save"],
        "delta_bytes": big.delta_bytes / big.full_bytes,
        "delta_time": times[disk.DELTA] / times[disk.OURS],
    }


def load(folder: Path, training: Training, rounds: int) -> dict[str, float]:
    """Print how long loads take, return the ratios."""
    warm, cold, how = disk.loads(folder, training, rounds)
    table("Load into live tensors, page cache warm, s", warm)
    table(f"Load into live tensors, page cache cold ({how}), s", cold)
    hot, chill = ({n: median(found) for n, found in times.items()} for times in (warm, cold))
    return {
        "load_warm_vs_torch_mmap": hot[disk.OURS] / hot[disk.MMAP],
        "load_cold_vs_torch_mmap": chill[disk.OURS] / chill[disk.MMAP],
        "partial_time": max(x[disk.PARTIAL] / x[disk.OURS] for x in (hot, chill)),
    }


def table(title: str, times: disk.Times) -> None:
    """Print medians with the least and greatest."""
    print(f"\n{title}:")
    for name, found in times.items():
        print(
            f"  {name:36} {median(found):8.3f}  ({min(found):.3f}–{max(found):.3f}, "
            f"{len(found)} rounds)"
        )
    print(flush=True)


# --- all of it ------------------------------------------------------------------------------


@contextmanager
def place(parent: Path) -> Iterator[Path]:
    """Give a temporary folder, which is also where everything else makes its own."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=parent) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = None


def describe(folder: Path) -> None:
    """Print what it runs on."""
    asked = ["findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T", str(folder)]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    print(
        f"{os.cpu_count()} processors ({platform.machine()}), {torch.get_num_threads()} torch "
        f"threads for saves and loads, 1 for the loop; torch {torch.__version__}; {folder} on "
        f"{' '.join(found.split()) or 'an unknown file system'}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> None:
    """Print everything, the figures last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--timed", type=int, default=TIMED, help="checkpoints of a launch")
    parser.add_argument("--folder", type=Path, default=HERE.parents[1].parent, metavar="DIR")
    parser.add_argument("--only", choices=("stall", "save", "load"))
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with place(options.folder) as folder:
        describe(folder)
        if options.only in (None, "stall"):
            figures |= stall(options.rounds, options.timed)
        training = Training()
        if options.only in (None, "save"):
            figures |= save(folder, training, options.rounds)
        if options.only in (None, "load"):
            figures |= load(folder, training, options.rounds)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
