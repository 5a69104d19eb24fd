"""Checkpoints are dropped while a job trains, and what is left is whole."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cells import GATED, finish, results, submit, train, wait
from resilient_nb.client import Client
from resilient_nb.core.model import Best, Interval, Keep
from resilient_nb.handles import Run
from resilient_nb.loading import load_path
from resilient_nb.wire.requests import Retain


def folders(home: Path, run: str) -> set[str]:
    """Return the checkpoints of a run that are in the store whole, as far as can be seen."""
    return {path.parent.name for path in (home / "store" / "runs" / run).glob("*/zarr.json")}


def test_a_run_that_keeps_two_goes_on_after_a_kill(client: Client, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    out = ("weights", "history")
    calm = finish(client, submit(client, "keep-calm", train(), 2, out)).id
    keep = Keep(last=2, best=(Best(1, "loss"),))
    source = train(pause=0.05, gates={36: killed})
    job = submit(client, "keep", source, 2, out, Interval(steps=2), keep=keep, **GATED)
    view = wait(client, job, lambda v: v.step >= 22)
    os.kill(view.ranks[0].pid, signal.SIGKILL)
    killed.touch()
    assert finish(client, job).attempts == 2
    ours, theirs = results(client, job), results(client, calm)
    assert all(ours["weights"][name].equal(theirs["weights"][name]) for name in theirs["weights"])
    assert ours["history"] == theirs["history"]
    left = Run(client, "keep").checkpoints
    assert 2 <= len(left) <= 4
    assert left[-1].is_head
    for checkpoint in left:
        assert set(load_path(checkpoint.path)) == {"model", "optimizer", "scheduler"}


def test_retain_frees_what_only_the_dropped_ones_held(client: Client, home: Path) -> None:
    job = submit(client, "retained", train(epochs=2), 1, every=Interval(steps=2))
    finish(client, job)
    run = Run(client, "retained")
    before = [c.id.partition("/")[2] for c in run.checkpoints]
    assert len(before) >= 7
    run.tag(4, "mine")
    dry = run.retain("1", dry_run=True)
    assert dry.freed is not None
    assert dry.freed > 0
    assert folders(home, "retained") == set(before)
    assert client.retain(Retain("retained", Keep(last=1))).freed == dry.freed
    steps = [c.step for c in run.checkpoints]
    assert steps == [4, 14]
    seen = client.watch(job).version
    while len(folders(home, "retained")) != 2:
        client.watch(job, seen, 0.5)  # until it is swept, or pytest-timeout ends it
    for checkpoint in run.checkpoints:
        assert "model" in load_path(checkpoint.path)
