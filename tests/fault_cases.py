"""Faults, each made for real, with the cause and decision that are expected of them.

A case gets a cluster and returns what it has seen. What a cell does to itself it does once, in its
first attempt, unless the case is about its coming again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resilient_nb.core.causes import (
    ALLOCATION,
    CRASH,
    DAMAGED,
    DISK_FULL,
    DIVERGED,
    HANG,
    HOST_LOST,
    INPUT_LOST,
    IO_ERROR,
    KILLED,
    NETWORK,
    OUT_OF_MEMORY,
    SILENT_EXIT,
    USER_ERROR,
)
from resilient_nb.core.model import Futile, Injection, JobState, Resources
from resilient_nb.wire.requests import Inject
from tests import fault_data as data
from tests.fault_checks import (
    GOES_ON,
    NONE,
    NOTED,
    PROPOSED,
    REMADE,
    REQUEUED,
    RETRY,
    STOP,
    STOPPED,
    always,
    blames,
    goes_on,
    kill,
    once,
    undisturbed,
    unfinished,
    with_stacks,
)
from tests.fault_world import Scene, Seen, until


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        name: what it is.
        play: makes it, and returns what came of it.
        cause, decision: that are right.
        within: seconds in which it must be found; None: no number is promised.
        permanent: nothing is tried again.
    """

    name: str
    play: Callable[[Any], Seen]
    cause: str
    decision: str
    within: float | None = None
    permanent: bool = False


def kill_mid_step(scene: Scene) -> Seen:
    job = scene.loop("midstep")
    struck = kill(job.step(15), 1)
    return goes_on(job, job.seen(struck))


def kill_mid_save(scene: Scene) -> Seen:
    """A rank is killed while its checkpoint is written but not committed."""
    before = "ballast = torch.zeros(24 << 20)\nrun.track(ballast=ballast)"
    job = scene.loop("midsave", "ballast += 1", before, pause=0.05)
    job.step(11)
    folder = scene.home / "store" / "runs" / "midsave"

    def writing() -> bool:
        newest = max(folder.glob(f"*-e{job.view.epoch}"), default=None)
        return newest is not None and not (newest / "zarr.json").exists()

    until(writing, what="it never wrote a checkpoint")
    struck = kill(job.view, 1)
    return goes_on(job, job.seen(struck))


def plain_kill(scene: Scene) -> Seen:
    """A kill of a rank with a limit that it is far from is no lack of memory."""
    job = scene.loop("plain", needs=Resources(memory=2 << 30))
    struck = kill(job.step(12), 0)
    return goes_on(job, job.seen(struck))


def out_of_memory(scene: Scene) -> Seen:
    """A leak beyond the limit that fits in half as much again."""
    inside = """
if run.rank == 1 and run.step > 10 and sum(map(len, sys.kept)) < 560 << 20:
    strike() if first and not sys.kept else None
    sys.kept.append(b"x" * (20 << 20))
"""
    job = scene.loop("oom", inside, "sys.kept = []", 120, needs=Resources(memory=512 << 20))
    return goes_on(job, job.seen(job.struck()))


def soft_out_of_memory(scene: Scene) -> Seen:
    """torch can't have what it asks for, and says so."""
    job = scene.loop("softoom", once(12, "torch.empty(1 << 50)"))
    return goes_on(job, job.seen(job.struck()))


def terminated(scene: Scene) -> Seen:
    """SIGTERM, as a batch system gives it before the kill: it leaves at a checkpoint."""
    job = scene.loop("terminated", steps=80)
    view = job.step(15)
    struck = time.time()
    os.kill(view.ranks[0].pid, signal.SIGTERM)
    job.when(lambda v: v.attempts == 2 and v.state is JobState.RUNNING)
    shown = time.time() - struck
    view = job.end()
    steps = sorted(c.step for c in view.checkpoints if c.step % 10)
    wrong = "" if steps and not view.failures else f"no checkpoint, or failures: {view.failures}"
    return Seen(NONE, REQUEUED, shown, 0.0, wrong or unfinished(view))


def crash_twice(scene: Scene) -> Seen:
    """SIGSEGV, and again at the same step: not a third time."""
    job = scene.loop("segv", always(12, "ctypes.string_at(0)"))
    struck = job.struck()
    first = job.seen(struck)
    job.failure(1)
    view = job.end()
    found = [(f.cause, f.decision) for f in view.failures]
    wrong = "" if found == [(CRASH, RETRY), (CRASH, STOP)] else str(found)
    return Seen(first.cause, view.failures[-1].decision, first.detected_s, first.shown_s, wrong)


def gil_hang(scene: Scene) -> Seen:
    job = scene.loop("gil", once(18, "ctypes.PyDLL(None).sleep(600)"))
    return with_stacks(job, job.seen(job.struck()))


def stopped(scene: Scene) -> Seen:
    job = scene.loop("stopped")
    view = job.step(15)
    struck = time.time()
    os.kill(view.ranks[1].pid, signal.SIGSTOP)
    return with_stacks(job, job.seen(struck))


def error_on_one_rank(scene: Scene) -> Seen:
    job = scene.loop("error", always(12, "raise ValueError('a bad sample')"))
    return blames(job, job.seen(job.struck()), 1)


def import_error(scene: Scene) -> Seen:
    job = scene.loop("import", before="strike()\nimport nowhere_to_be_found")
    return job.seen(job.struck())


def silent_exit(scene: Scene) -> Seen:
    job = scene.loop("silent", once(12, "os._exit(0)"))
    return goes_on(job, job.seen(job.struck()))


def straggler(scene: Scene) -> Seen:
    """A rank gets a tenth of its time. On one host it can't go elsewhere: its user is told."""
    inside = "for _ in range(40): torch.randn(96, 96) @ torch.randn(96, 96)"
    job = scene.loop("straggler", inside, steps=3000, pause=0.005)
    job.step(80)
    struck = time.time()
    scene.client.inject(Inject(job.job, Injection.SLOW, "slow", 1, 40.0))
    text, shown = job.said("Rank 1 on", patience=40.0)
    wrong = "" if job.view.attempts == 1 else "it was restarted"
    cause = "straggler" if "times what is usual in its gang" in text else text
    return Seen(cause, NOTED, shown - struck, 0.0, wrong)


def connection_resets(scene: Scene) -> Seen:
    job = scene.loop("resets")
    job.step(15)
    struck = time.time()
    scene.client.inject(Inject(job.job, Injection.DROP_NETWORK, "cut", 1))
    return goes_on(job, job.seen(struck))


def kernel_killed(scene: Scene) -> Seen:
    """The process that has submitted the job, and waits for it, is killed."""
    job = scene.loop("kernel", steps=100)
    job.step(5)
    code = (
        "from resilient_nb.client import Client\n"
        f"c = Client({scene.client.address!r})\nprint('here', flush=True)\n"
        f"while True: c.watch({job.job!r}, timeout=5.0)\n"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert kernel.stdout is not None
    kernel.stdout.readline()
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    return undisturbed(job)


def scheduler_killed(scene: Scene) -> Seen:
    job = scene.loop("scheduler", steps=150, pause=0.05)
    job.step(12)
    [pid] = scene.pids("scheduler")
    os.kill(pid, signal.SIGKILL)
    return undisturbed(job)


def supervisor_killed(scene: Scene) -> Seen:
    """The parent of the ranks is killed, and they with it: nobody says how they ended."""
    job = scene.loop("supervisor", steps=100)
    job.step(15)
    [pid] = scene.pids("supervisor")
    struck = time.time()
    os.kill(pid, signal.SIGKILL)
    return goes_on(job, job.seen(struck))


CASES = (
    Case("SIGKILL in a step", kill_mid_step, KILLED, RETRY, 0.5),
    Case("SIGKILL in a save", kill_mid_save, KILLED, RETRY, 0.5),
    Case("EIO", data.io_error, IO_ERROR, RETRY, 0.5),
    Case("ENOSPC in the cell", data.no_space, DISK_FULL, RETRY, 0.5),
    Case("ENOSPC in a save", data.full_store, DISK_FULL, GOES_ON),
    Case("bit flip", data.bit_flip, DAMAGED, RETRY),
    Case("missing chunk", data.missing_chunk, DAMAGED, RETRY),
    Case("out of memory", out_of_memory, OUT_OF_MEMORY, RETRY),
    Case("soft out of memory", soft_out_of_memory, ALLOCATION, RETRY, 0.5),
    Case("plain kill, with a limit", plain_kill, KILLED, RETRY, 0.5),
    Case("SIGTERM with grace", terminated, NONE, REQUEUED),
    Case("SIGSEGV twice at a step", crash_twice, CRASH, STOP, 0.5, permanent=True),
    Case("hang that holds the GIL", gil_hang, HANG, RETRY, 10.0),
    Case("SIGSTOP", stopped, HANG, RETRY, 10.0),
    Case("exception on one rank", error_on_one_rank, USER_ERROR, STOP, 0.5, permanent=True),
    Case("import error", import_error, USER_ERROR, STOP, 0.5, permanent=True),
    Case("NaN", data.not_a_number, DIVERGED, RETRY, 0.5),
    Case("plateau", data.plateau, Futile.CONVERGED, PROPOSED),
    Case("hopeless", data.hopeless, Futile.LATE, STOPPED),
    Case("straggler, 10 times slower", straggler, "straggler", NOTED),
    Case("connections reset", connection_resets, NETWORK, RETRY, 0.5),
    Case("kernel killed", kernel_killed, NONE, GOES_ON),
    Case("scheduler killed", scheduler_killed, NONE, GOES_ON),
    Case("supervisor killed", supervisor_killed, HOST_LOST, RETRY),
    Case("lost input", data.lost_input, INPUT_LOST, REMADE),
    Case("silent exit", silent_exit, SILENT_EXIT, RETRY, 0.5),
)
