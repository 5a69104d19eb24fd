"""What recording costs: time of a step, and room on disk.

    make bench NAME=recording

Cost: a loop of 20 ms steps in a rank's own handle, timed, with a metric in each and a link to a
supervisor that listens, against the same loop without these. Both sleep in their steps, so that
the CPU time of a process is what the loop itself costs. The difference is an upper bound: what the
link's thread does counts whether or not it was in the way. Room: the rows that a week of 8 ranks at
that pace makes, by the scheduler's own code, in a journal's file. `--days` shortens it.

The last line is JSON: `recording_overhead` is a part of step time, `week_bytes` bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]

from resilient_nb.control.recording import Recording
from resilient_nb.core.model import Interval
from resilient_nb.rank.boundary import Boundary
from resilient_nb.rank.link import Link
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import Phases
from resilient_nb.rank.run import Run
from resilient_nb.rank.schedule import Schedule
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.testing.builders import START, an_attempt
from resilient_nb.wire.orders import Sample

STEP, STEPS, ROUNDS = 0.02, 150, 5
RANKS, DAYS, EACH = 8, 7.0, 4  # seconds between samples


def recording_overhead(steps: int = STEPS, rounds: int = ROUNDS) -> float:
    """Return what part of a 20 ms step recording takes: the median of some rounds."""
    costs = []
    for _ in range(rounds):
        ours, without = (_in_a_child(loop, steps) for loop in (_recorded, _unrecorded))
        costs.append((ours - without) / (steps * STEP))
    return max(0.0, statistics.median(costs))


class _Still(Phases):
    """A stopwatch that nobody looks at, and that looks at no clock."""

    def enter(self, phase: str) -> str:
        return phase

    def begin(self) -> None: ...

    def step_done(self, items: int = 0) -> None: ...


def _unrecorded(steps: int, _: socket.socket) -> float:
    """Return the seconds of CPU that a loop takes of which nothing is recorded."""
    telemetry = Telemetry(an_attempt(), 0)
    telemetry.phases = _Still()
    run, losses = _run(telemetry), []
    began = time.process_time()
    for step in run.steps(steps):
        time.sleep(STEP)
        losses.append(float(step))
    return time.process_time() - began


def _recorded(steps: int, channel: socket.socket) -> float:
    """Return the seconds of CPU that the same loop takes in a real rank."""
    telemetry = Telemetry(an_attempt(), 0)
    run = _run(telemetry)
    signals, silent = socket.socketpair()
    Link(channel, signals, telemetry.sample, lambda order: None).start()
    began = time.process_time()
    for step in run.steps(steps):
        time.sleep(STEP)
        run.log(loss=float(step))
    spent = time.process_time() - began
    silent.close()  # not before: its end would be news
    return spent


def _run(telemetry: Telemetry) -> Run:
    group: Any = SimpleNamespace(
        rank=0, world_size=1, workers=1, device=None, store=HashStore(), phases=telemetry.phases
    )
    saver: Any = SimpleNamespace(busy=False, origin=SimpleNamespace(steps=lambda *_: None))
    leaving: Any = SimpleNamespace(asked=False)
    parts = Parts(group, Tracker(0, {}, lambda text: None), saver, telemetry, leaving, None)
    schedule = Schedule(group, Interval(), 3600.0)
    inputs: Any = None
    return Run(Boundary(parts, schedule, None, lambda text: None), 0, inputs)


def _in_a_child(loop: Callable[[int, socket.socket], float], steps: int) -> float:
    """Run a loop in a process of its own and listen to it as a supervisor does."""
    ours, theirs = socket.socketpair()
    answer, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            os.write(told, struct.pack("d", loop(steps, theirs)))
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    theirs.close()
    os.close(told)
    with ours, os.fdopen(answer, "rb") as file:
        while ours.recv(1 << 16):
            pass
        os.waitpid(pid, 0)
        [spent] = struct.unpack("d", file.read())
        return float(spent)


def week_bytes(ranks: int = RANKS, days: float = DAYS) -> int:
    """Record so long a run, write it as the scheduler does, and return the bytes on disk."""
    with tempfile.TemporaryDirectory(prefix="rnb-") as folder:
        path = Path(folder, "journal.db")
        with closing(SqliteJournal(path)) as journal:
            _record(Recording(journal.records), ranks, round(days * 86400))
        return sum(each.stat().st_size for each in Path(folder).iterdir())


def _record(recording: Recording, ranks: int, seconds: int) -> None:
    """Say what ranks would, if less often: the rows become wider than that anyway."""
    pace = round(EACH / STEP)
    for number in range(seconds // EACH):
        second, first = number * EACH, number * pace
        now = START + second
        points = tuple((step, {"loss": 1.0 / step}) for step in range(first + 1, first + pace + 1))
        for rank in range(ranks):
            recording.sample(
                Sample(
                    "digits#1", 1, rank, step=first + pace, steps=pace, data_s=0.4, compute_s=2.8,
                    wait_s=0.6, checkpoint_s=0.2, longest_s=0.03, rss=2 << 30, cpu=0.98,
                    read=second << 20, written=second << 12, points=() if rank else points,
                ),
                now,
            )  # fmt: skip
        recording.write_if_due(now, lambda job, epoch: True)
    recording.write()


def main() -> None:
    """Measure both and print one line of JSON."""
    parser = argparse.ArgumentParser(description="What recording costs.")
    parser.add_argument("--days", type=float, default=DAYS, help="of the simulated run")
    days = parser.parse_args().days
    overhead = recording_overhead()
    print(f"recording takes {100 * overhead:.3f} % of a step of {1000 * STEP:.0f} ms", flush=True)
    began = time.perf_counter()
    size = week_bytes(days=days)
    took = time.perf_counter() - began
    print(f"{days:g} days of {RANKS} ranks: {size / 2**20:.2f} MiB, made in {took:.0f} s")
    print(json.dumps({"recording_overhead": round(overhead, 6), "week_bytes": size}))


if __name__ == "__main__":
    main()
