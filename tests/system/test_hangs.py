"""Ranks that hang, or fill their memory, in a real cluster: found, ended, blamed, and mended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cells import finish, submit, wait
from resilient_nb.client import Client
from resilient_nb.core.model import JobState, Resources

#: Every step is averaged over the ranks. Rank 1 hangs once, at step 20, as HOW says.
LOOP = """
import ctypes, os, signal, threading, time, torch
from torch import nn
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
run.track(model=model, optimizer=optimizer)

def hang():
    if run.rank == 1 and run.step == 20 and not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        {how}

for _ in run.steps(60):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    hang()
    time.sleep(0.02)
"""
HOW = {
    "gil": "ctypes.PyDLL(None).sleep(1000)",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "stop": "os.kill(os.getpid(), signal.SIGSTOP)",
}
#: Seconds of work between two steps, and of nothing after the last, with a patience of one second
#: for those that do nothing between two steps.
VALIDATES = """
import time
for _ in run.steps(10):
    if run.step == 5:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            sum(range(10_000))
time.sleep(2)
"""
LEAKS = """
import time
held = []
for _ in run.steps(10_000):
    held.append(bytearray(b"x" * (8 << 20)))
    time.sleep(0.01)
"""


def test_hangs_of_all_kinds_are_found_and_the_jobs_go_on(client: Client, tmp_path: Path) -> None:
    jobs = []
    for kind, how in HOW.items():
        source = LOOP.format(mark=str(tmp_path / kind), how=how)
        jobs.append(submit(client, f"hangs-{kind}", source, 2, hang_after=2.0))
    for job in jobs:
        view = finish(client, job)
        assert (view.state, view.step) == (JobState.SUCCEEDED, 60), view
        [failure] = view.failures
        assert (failure.cause, failure.rank, failure.decision) == ("hang", 1, "retry")
        assert "in hang\n" in failure.stacks
        assert "rank 0" in failure.stacks
        assert "rank 1" in failure.stacks


def test_a_rank_that_works_between_two_steps_does_not_hang(client: Client) -> None:
    job = submit(client, "validates", VALIDATES, 1, hang_after=1.0)
    view = finish(client, job)
    assert view.state is JobState.SUCCEEDED
    assert not view.failures


def test_a_rank_that_is_stopped_from_outside_is_found(client: Client) -> None:
    job = submit(
        client, "is-stopped", VALIDATES.replace("steps(10)", "steps(10_000)"), 1, hang_after=1.0
    )
    view = wait(client, job, lambda v: v.step >= 5 and bool(v.ranks) and v.ranks[0].pid > 0)
    os.kill(view.ranks[0].pid, signal.SIGSTOP)
    view = wait(client, job, lambda v: bool(v.failures))
    assert "is stopped (SIGSTOP)" in view.failures[0].message
    client.cancel(job)
    finish(client, job)


def test_a_leaking_job_dies_alone_and_is_tried_with_more(client: Client) -> None:
    other = submit(client, "bystander", "import time\nfor _ in run.steps(600): time.sleep(0.05)", 1)
    leak = submit(client, "leaks", LEAKS, 1, needs=Resources(memory=300 << 20))
    view = wait(client, leak, lambda v: bool(v.failures))
    failure = view.failures[0]
    assert (failure.cause, failure.rank) == ("out of memory", 0)
    assert failure.remedy is not None
    assert failure.remedy.memory == 450 << 20
    assert not client.watch(other).job.failures
    for job in (leak, other):
        client.cancel(job)
        finish(client, job)
