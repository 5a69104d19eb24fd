"""A cluster that is followed, and what a browser makes of what it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from resilient_nb.control.board import board_row
from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.feed import Feed
from resilient_nb.control.pieces import Sources
from resilient_nb.control.shell import Shell
from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.core.model import Outcome
from resilient_nb.core.views import run_view
from resilient_nb.testing.builders import a_spec
from resilient_nb.testing.fakes import FakeCluster, FakeRank
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import to_json
from resilient_nb.wire.feed import Follow, Followed, RankRow
from resilient_nb.wire.orders import Sample

#: Pieces of a job's view that are told apart from its head.
APART = ("ranks", "series", "checkpoints", "failures", "notes", "chaos")


class Plane(FakeCluster):
    """A model of a cluster, and its feed."""

    def __init__(self, home: Path, **slots: int) -> None:
        self.alerts = AlertsReport((), (), ())
        self._asked = 0
        super().__init__(home, slots or {"h0": 4})

    def _new_engine(self) -> Engine:
        self.feed = Feed(self.clock)
        shell = Shell(self.journal, self._deliver, self.clock, self.feed.changed, self._lease)
        engine = Engine(self.settings, shell)
        commands = Commands(engine, "tcp://here")
        self.ask = lambda request: commands(request, "ada")
        views = commands.views
        self.feed.begin(Sources(engine, views.cluster, views.run, lambda: self.alerts))
        return engine

    def submit(self, run: str = "digits", workers: int = 1, **spec: Any) -> str:
        self._asked += 1
        request = rq.Submit(run, a_spec(workers, **spec), f"r{self._asked}")
        return str(self.ask(request).job)

    def running(self, run: str = "digits", workers: int = 1, **spec: Any) -> str:
        """Submit a job and have its gang run."""
        self.round()
        job = self.submit(run, workers, **spec)
        for _ in range(3):
            self.round()
        assert self.rank(job) is not None
        return job

    def rank(self, job: str, number: int = 0) -> FakeRank | None:
        """Return a live rank of the job's current attempt."""
        return next((r for _, r in self._ranks(job) if r.rank == number), None)

    def _ranks(self, job: str) -> list[tuple[str, FakeRank]]:
        epoch = self.engine.world.jobs[job].epoch
        hosts = self.hosts.values()
        return [
            (host.name, rank)
            for host in hosts
            for key, rank in host.ranks.items()
            if key[:2] == (job, epoch)
        ]

    def sample(self, job: str, number: int = 0, **said: Any) -> None:
        """Have a live rank say how it is."""
        for host, rank in self._ranks(job):
            if rank.rank == number:
                said.setdefault("step", rank.step)
                sample = Sample(job, rank.attempt.epoch, number, pid=rank.pid, **said)
                self.engine.report(replace(self.hosts[host].report(()), samples=(sample,)))

    def checkpoint(self, job: str) -> None:
        """Have rank 0 make a step and a checkpoint."""
        for host, rank in self._ranks(job):
            if rank.rank == 0:
                head = self.engine.world.runs[rank.attempt.run].head
                self.hosts[host].write_checkpoint(rank, head)
                self.report(host)

    def end(self, job: str, outcome: Outcome = Outcome.FINISHED) -> None:
        """End all its ranks."""
        how = {"exit_code": 0 if outcome is Outcome.FINISHED else 1}
        for host, rank in self._ranks(job):
            self.hosts[host].end(rank, outcome, **how)
        for host in self.hosts:
            self.report(host)

    def answer(self, *jobs: str, cursor: int = 0, board: bool = False) -> tuple[Followed, bool]:
        """Ask at once."""
        return self.feed.answer(Follow(cursor, jobs, board))


class Reader:
    """What somebody knows who has only been told what changed."""

    def __init__(self) -> None:
        self.cursor = 0
        self._on_board = False
        self.rows: dict[str, Any] = {}
        self.pieces: dict[str, Any] = {}
        self.jobs: dict[str, dict[str, Any]] = {}

    def follow(self, plane: Plane, *jobs: str, board: bool = True) -> bool:
        """Ask for news; of what wasn't followed before, for everything first."""
        for job in [job for job in self.jobs if job not in jobs]:
            del self.jobs[job]
        new, new_board = [job for job in jobs if job not in self.jobs], board > self._on_board
        if self.cursor and (new or new_board):
            self._take(plane.answer(*new, board=new_board)[0])
        self._on_board = board
        answer, any_new = plane.answer(*jobs, cursor=self.cursor, board=board)
        self._take(answer)
        self.cursor = answer.cursor
        return any_new

    def _take(self, answer: Followed) -> None:
        if answer.board:
            self._take_board(json.loads(answer.board))
        for text in answer.jobs:
            self._take_job(json.loads(text))

    def _take_board(self, told: dict[str, Any]) -> None:
        if told["full"]:
            self.rows, self.pieces = {}, {}
        self.rows.update({row["id"]: row for row in told["rows"]})
        for job in told["gone"]:
            self.rows.pop(job, None)
        for name in ("cluster", "leases", "shares", "alerts", "groups"):
            if told[name] is not None:
                self.pieces[name] = told[name]

    def _take_job(self, told: dict[str, Any]) -> None:
        if told["full"]:
            self.jobs[told["job"]] = {"ranks": {}, "points": {}}
        known = self.jobs[told["job"]]
        for name in ("head", "failures", "chaos", "notes", "run"):
            if told[name] is not None:
                known[name] = told[name]
        known["ranks"].update({row[0]: row for row in told["ranks"]})
        if told["world"] is not None:
            known["ranks"] = {n: row for n, row in known["ranks"].items() if n < told["world"]}
        for name, points in told["points"].items():
            kept = [p for p in known["points"].get(name, []) if p[0] < points[0][0]]
            known["points"][name] = kept + points


def as_json(value: object) -> Any:
    """Return what arrives of a value as JSON."""
    return json.loads(to_json(value))


def truth(plane: Plane, name: str) -> dict[str, Any]:
    """Return what should be known of a job, from its whole view."""
    engine = plane.engine
    job = engine.world.jobs[name]
    view = as_json(engine.view(job))
    straggle = engine.watching.stragglers(job)
    return {
        "head": {**view, **{part: {} if part == "series" else [] for part in APART}},
        "failures": view["failures"],
        "chaos": view["chaos"],
        "notes": view["notes"],
        "run": as_json(run_view(engine.world, engine.world.runs[job.run], engine.settings.runs)),
        "ranks": {
            row["rank"]: [*(row[f] for f in RankRow._fields[:-1]), row["rank"] in straggle]
            for row in view["ranks"]
        },
        "points": view["series"],
    }


def listed(plane: Plane) -> dict[str, Any]:
    """Return the rows that there should be; why a job waits, in words, may be a little old."""
    engine = plane.engine
    return {name: calm(as_json(board_row(engine, job))) for name, job in engine.world.jobs.items()}


def calm(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what time alone changes."""
    timed = ("reason", "starts_at", "starts_guess") if row["state"] == "queued" else ()
    return {name: value for name, value in row.items() if name not in timed}
