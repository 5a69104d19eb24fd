"""A team's bad day: three users' random jobs on four slots, with kills and preemptions.

`RESILIENT_NB_SOAK=300 make soak` makes it a long one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cells import finish, results, submit
from certificates import Authority
from conftest import processes_of
from resilient_nb.client import Client, Tls
from resilient_nb.cluster import embedded
from resilient_nb.core import events as ev
from resilient_nb.core.lifecycle import evolve
from resilient_nb.core.model import Interval, JobState, Priority
from resilient_nb.core.world import World
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.testing.contracts import world_problems

JOBS = int(os.environ.get("RESILIENT_NB_SOAK", "36"))
SLOTS = 4
USERS = ("ada", "ben", "eva")
POLICY = """
patience = "0.3s"
quantum = 0
grace = "5s"
admins = ["ada"]
[groups.vision]
weight = 2
users = ["ada", "ben"]
[groups.speech]
users = ["eva"]
[limits.urgent]
running = 2
"""
#: The sum of all ranks' steps, whatever was killed, moved or resized on the way.
CELL = """
import time, torch
total = torch.zeros(1, dtype=torch.float64)
run.track(total=total)
for step in run.steps({steps}):
    total += step * (run.rank + 1)
    time.sleep(0.01)
answer = float(total)
"""


@dataclass
class Team:
    """The cluster, its users' certificates, and what went wrong."""

    address: str
    home: Path
    tls: dict[str, Tls]
    over: threading.Event = field(default_factory=threading.Event)
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    """A Dask cluster with TLS, started as an administrator would, one process a part."""
    authority = Authority(tmp_path)
    site = authority.issue("site")
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "policy.toml").chmod(0o600)
    env = {
        **os.environ,
        "RESILIENT_NB_HOME": str(tmp_path),
        "RESILIENT_NB_LEAVE_GRACE": "5",
        "RESILIENT_NB_ADOPT_GRACE": "20",
    }
    file, log = tmp_path / "scheduler.json", (tmp_path / "dask.log").open("wb")
    common = ["--scheduler-file", str(file), "--preload", "resilient_nb", "--no-dashboard"]
    common += ["--tls-ca-file", site.ca_file, "--tls-cert", site.cert, "--tls-key", site.key]
    scheduler = ["dask_scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0"]
    workers = ["dask_worker", "--nworkers", str(SLOTS), "--nthreads", "1", "--memory-limit", "0"]
    workers += ["--local-directory", str(tmp_path)]
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{part[0]}", *part[1:], *common],
            env=env,
            stdout=log,
            stderr=log,
        )
        for part in (scheduler, workers)
    ]
    try:
        yield Team(_address(file, parts), tmp_path, {user: authority.issue(user) for user in USERS})
    finally:
        for part in reversed(parts):
            part.terminate()
            part.wait(30)
        embedded.end_supervisors(tmp_path)
        log.close()
        assert processes_of(tmp_path) == []


def _address(file: Path, parts: list[subprocess.Popen[bytes]]) -> str:
    """Return where the scheduler listens, once it says so."""
    while True:
        assert all(part.poll() is None for part in parts)
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return str(json.loads(file.read_text())["address"])
        threading.Event().wait(0.05)


def use(team: Team, user: str, count: int) -> None:
    """Submit random jobs, some at a time, and look at what they return."""
    dice = random.Random(f"{user} {JOBS}")
    client = Client(team.address, patience=60.0, tls=team.tls[user])
    pending: list[tuple[str, float]] = []
    for number in range(count):
        steps, workers = dice.randint(20, 160), dice.randint(1, SLOTS)
        least = dice.randint(1, workers) if dice.random() < 0.3 else workers
        last = pending[-1][0] if pending and dice.random() < 0.2 else None
        job = submit(
            client,
            f"{user}-{number}",
            CELL.format(steps=steps),
            workers=least,
            max_workers=workers if least < workers else 0,
            out=("answer",),
            every=Interval(steps=10),
            priority=dice.choice(list(Priority)),
            admin=user == "ada" and dice.random() < 0.05,
            after=(last,) if last else (),
        )
        pending.append((job, steps * (steps - 1) / 2))
        while len(pending) > 8 or (number == count - 1 and pending):
            name, answer = pending.pop(0)
            view = finish(client, name)
            if view.state is not JobState.SUCCEEDED or results(client, name) != {"answer": answer}:
                team.wrong.append(f"{name} of {user} is {view.state}: {view.reason}")
    client.close()


def kill(team: Team) -> None:
    """Kill a rank now and then, and sometimes a Dask worker with its lease."""
    dice = random.Random(JOBS)
    while not team.over.wait(dice.uniform(0.1, 1.0)):
        named = processes_of(team.home)
        forked = {p.pid: p for p, words in named if "resilient_nb.supervisor" in words}
        ranks = [p for p in forked.values() if _parent(p) in forked]
        workers = [p for p, words in named if "multiprocessing" in words and "spawn_main" in words]
        what, victims = ("worker", workers) if dice.random() < 0.15 else ("rank", ranks)
        if victims:
            with contextlib.suppress(psutil.Error):
                dice.choice(victims).kill()
                team.kills[what] += 1


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0  # it has ended meanwhile


@pytest.mark.timeout(60 + 6 * JOBS)
def test_all_jobs_of_all_users_end_well(team: Team) -> None:
    killer = threading.Thread(target=kill, args=(team,))
    users = [
        threading.Thread(target=use, args=(team, user, len(range(n, JOBS, len(USERS)))))
        for n, user in enumerate(USERS)
    ]
    killer.start()
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    team.over.set()
    killer.join()
    assert team.wrong == []
    seen = _replay(team.home / "journal.db")
    print(f"\n{JOBS} jobs; kills: {dict(team.kills)}; {dict(seen)}")
    assert seen["JobSucceeded"] == JOBS
    assert team.kills["rank"] > 0
    assert seen["preempt"] > 0


def _replay(path: Path) -> Counter[str]:
    """Count what happened; no gang is ever in part, and no slot is ever leased twice."""
    journal = SqliteJournal(path)
    world, seen = World(), Counter[str]()
    for event in journal.events():
        world = evolve(world, event)
        seen[type(event).__name__] += 1
        if isinstance(event, ev.StopRequested):
            seen[event.reason.value] += 1
        assert world_problems(world) == []
        leased = sum(
            share.leased
            for job in world.open.values()
            for share in job.placement
            if not set(range(share.first, share.first + share.count)) <= set(job.ends)
        )
        assert leased <= SLOTS
    journal.close()
    assert {job.spec.user for job in world.jobs.values()} == set(USERS)
    return seen
