"""`control.judging`: what is proposed and withdrawn, stopped and tagged, and what people read."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.control.commands import Commands
from resilient_nb.control.judging import AGAIN, CONFIRM, LOOK_EVERY
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import (
    Cell,
    Futile,
    Job,
    JobState,
    Outcome,
    StopPolicy,
    StopReason,
)
from resilient_nb.core.views import WhyReport
from resilient_nb.notebook.panel import panel_text
from resilient_nb.testing.builders import a_checkpoint, a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq

TOTAL = 800
Loss = Callable[[int], float]


def flat(step: int) -> float:
    return 1.0 + random.Random(step).gauss(0, 0.1)


def falling(step: int) -> float:
    return flat(step) - step / 100


class Lab:
    """A cluster whose ranks train: a look's time is ten seconds, and ten steps, unless said."""

    def __init__(self, home: Path) -> None:
        self.cluster = FakeCluster(home, {"h0": 8})
        self.cluster.round()

    def ask(self, request: Any, user: str = "ada") -> Any:
        return Commands(self.cluster.engine, "x")(request, user)

    def submit(self, run: str, **spec: Any) -> Job:
        self.ask(rq.Submit(run, a_spec(**spec), f"req-{run}"), spec.get("user", "ada"))
        for _ in range(3):
            self.cluster.round()
        return self.job(run)

    def job(self, run: str = "digits") -> Job:
        world = self.cluster.engine.world
        return world.jobs[world.runs[run].jobs[-1]]

    def train(self, losses: dict[str, Loss], looks: int, steps: int = 10) -> None:
        """Let all jobs make steps; ranks that were asked to leave do so."""
        host = self.cluster.hosts["h0"]
        for _ in range(looks):
            samples = []
            for rank in list(host.ranks.values()):
                loss = losses.get(rank.attempt.run)
                if rank.leaving:
                    host.end(rank, Outcome.LEFT, exit_code=0)
                elif loss is not None:
                    begun, rank.step = rank.step, rank.step + steps
                    points = [(n, {"loss": loss(n)}) for n in range(begun + 1, rank.step + 1)]
                    samples.append(_sample(rank, points, steps / LOOK_EVERY))
            self.cluster.engine.report(replace(host.report([]), samples=tuple(samples)))
            self.cluster.round(LOOK_EVERY)

    def kinds(self, run: str = "digits") -> set[str]:
        return {proposal.kind for proposal in self.job(run).proposals}

    def commit(self, run: str, step: int, loss: float) -> None:
        job, head = self.job(run), self.cluster.engine.world.runs[run].head
        new = a_checkpoint(job.id, step, job.epoch, head, metrics={"loss": loss})
        self.cluster.hosts["h0"].facts[f"c{step}"] = orders.CheckpointWritten(new)
        self.cluster.report("h0")

    def is_replayed(self) -> bool:
        return replay(self.cluster.journal.events()) == self.cluster.engine.world


def _sample(rank: Any, points: Any, rate: float) -> orders.Sample:
    attempt = rank.attempt
    return orders.Sample(
        attempt.job, attempt.epoch, rank.rank, "running", rank.step, TOTAL, rate,
        points=tuple(points), pid=rank.pid,
    )  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


# --- converged ---


def test_a_plateau_is_proposed_once_and_shown_with_the_way_to_stop(lab: Lab) -> None:
    lab.submit("digits")
    lab.train({"digits": flat}, 60)
    job = lab.job()
    assert (job.state, lab.kinds()) == (JobState.RUNNING, {Futile.CONVERGED})
    events = [e for e in lab.cluster.journal.events() if type(e).__name__ == "StopProposed"]
    assert len(events) == 1
    view = lab.cluster.engine.view(job)
    text = panel_text(view)
    assert "Proposal: It has converged. loss hasn't improved from step" in text
    assert "%resilient cancel digits stops it" in " ".join(text.split())
    why = lab.ask(rq.Why("digits"))
    assert isinstance(why, WhyReport)
    assert why.remedies[0].endswith("`%resilient cancel digits` stops it at a checkpoint.")
    assert lab.is_replayed()


def test_one_that_improves_isnt_and_what_improves_again_is_withdrawn_for_a_while(lab: Lab) -> None:
    lab.submit("digits")
    lab.submit("other")
    lab.train({"digits": flat, "other": falling}, 45)
    assert (lab.kinds(), lab.kinds("other")) == ({Futile.CONVERGED}, set())
    lab.train({"digits": falling}, 20)
    assert lab.kinds() == set()
    lab.train({"digits": lambda n: flat(n) - 6.5}, int(AGAIN / LOOK_EVERY) // 3)
    assert lab.kinds() == set()
    assert lab.is_replayed()


def test_a_restart_neither_forgets_nor_proposes_again(lab: Lab) -> None:
    lab.submit("digits")
    lab.train({"digits": flat}, 50)
    before = lab.job().proposals
    lab.cluster.restart_engine()
    lab.cluster.round()
    lab.train({"digits": flat}, 3)
    assert lab.job().proposals == before != ()


def test_by_policy_it_is_stopped_at_a_checkpoint_when_that_has_stood_for_a_while(lab: Lab) -> None:
    lab.submit("digits", stop_policy=StopPolicy.STOP)
    lab.train({"digits": flat}, 30)
    lab.commit("digits", 100, 0.9)
    lab.commit("digits", 200, 0.5)
    lab.commit("digits", 300, 0.7)
    while not lab.kinds():
        lab.train({"digits": flat}, 1)
    since = lab.job().proposals[0].at
    while lab.job().stop is None and lab.job().state is JobState.RUNNING:
        lab.train({"digits": flat}, 1)
    assert lab.cluster.clock() - since >= CONFIRM
    assert any(isinstance(order, orders.Leave) for _, order in lab.cluster.orders)
    lab.train({"digits": flat}, 2)
    job, run = lab.job(), lab.cluster.engine.world.runs["digits"]
    assert job.state is JobState.CANCELLED
    assert job.message.startswith("Stopped, since it has converged (--stop-policy stop). loss")
    assert job.message.endswith("Its best checkpoint is digits@best, at step 200.")
    assert run.checkpoints[run.tags["best"]].step == 200
    assert "digits@best" in panel_text(lab.cluster.engine.view(job))
    assert lab.is_replayed()


def test_who_cancels_what_was_proposed_finds_the_best_tagged_but_never_another_moved(
    lab: Lab,
) -> None:
    for name in ("digits", "tagged", "plain"):
        lab.submit(name)
    lab.train({"digits": flat, "tagged": flat, "plain": falling}, 50)
    for name in ("digits", "tagged", "plain"):
        lab.commit(name, 100, 0.5)
        lab.commit(name, 200, 0.6)
    lab.ask(rq.Tag("tagged@200", "best"))
    for name in ("digits", "tagged", "plain"):
        lab.ask(rq.Cancel(name))
    lab.train({}, 2)
    runs = lab.cluster.engine.world.runs
    best = {n: [runs[n].checkpoints[at].step for at in runs[n].tags.values()] for n in runs}
    assert best == {"digits": [100], "tagged": [200], "plain": []}
    assert lab.job("tagged").message == "Cancelled by ada. Its best checkpoint is tagged@100."
    assert lab.job("plain").message == "Cancelled by ada."


def test_a_persons_cancel_outranks_the_policy(lab: Lab) -> None:
    lab.submit("digits", stop_policy=StopPolicy.STOP)
    while lab.job().stop is None:
        lab.train({"digits": flat}, 1)
    assert lab.job().stop is StopReason.ENOUGH
    lab.ask(rq.Cancel("digits"))
    assert lab.job().stop is StopReason.CANCEL
    lab.train({}, 2)
    assert lab.job().state is JobState.CANCELLED
    assert lab.job().message.startswith("Cancelled by ada.")


# --- the deadline ---


def test_a_job_that_cant_make_its_deadline_is_proposed_to_be_stopped(lab: Lab) -> None:
    lab.submit("slow", deadline=700.0)
    lab.submit("fast", deadline=2000.0)
    lab.train({"slow": falling, "fast": falling}, 10)
    assert (lab.kinds("slow"), lab.kinds("fast")) == ({Futile.LATE}, set())
    [proposal] = lab.job("slow").proposals
    assert "steps, the last" in proposal.evidence[0]
    lab.train({"slow": falling}, 20, steps=30)
    assert lab.kinds("slow") == set()
    assert "deadline" in panel_text(lab.cluster.engine.view(lab.job("slow")))


def test_a_deadline_that_passes_stops_by_policy_even_what_waits(lab: Lab) -> None:
    lab.submit("wide", workers=8, deadline=100.0, stop_policy=StopPolicy.STOP)
    lab.submit("waits", workers=8, deadline=100.0, stop_policy=StopPolicy.STOP)
    lab.submit("told", workers=8, deadline=100.0)
    assert lab.job("waits").state is JobState.QUEUED
    lab.train({"wide": falling}, 14, steps=1)
    assert lab.job("wide").state is JobState.CANCELLED
    waited = lab.job("waits")
    assert waited.state is JobState.CANCELLED
    assert waited.message.startswith("Stopped, since it misses its deadline")
    assert (lab.job("told").state.final, lab.kinds("told")) == (False, {Futile.LATE})


# --- siblings ---


def test_siblings_that_are_better_by_far_are_named(lab: Lab) -> None:
    same = Cell("train(lr)")
    for n in range(3):
        lab.submit(f"s{n}", cell=same)
    lab.submit("bad", cell=same)
    lab.submit("other", cell=Cell("something_else()"))
    lab.submit("bens", cell=same, user="ben")
    good = {f"s{n}": falling for n in range(3)}
    bad: Loss = lambda step: 5 + falling(step) / 10  # noqa: E731
    lab.train({**good, "bad": bad, "other": bad, "bens": bad}, 30)
    assert lab.kinds("bad") == {Futile.DOMINATED}
    assert lab.kinds("s0") == lab.kinds("other") == lab.kinds("bens") == set()
    assert "3 of its 3 siblings are better by far" in lab.job("bad").proposals[0].evidence[0]


def test_forks_of_one_run_are_siblings(lab: Lab) -> None:
    lab.submit("root")
    lab.train({"root": falling}, 1)
    lab.commit("root", 10, 0.5)
    for n in range(4):
        spec = a_spec(cell=Cell(f"cell {n}"))
        lab.ask(rq.Submit(f"f{n}", spec, f"req-f{n}", fork="root@10"))
    for _ in range(3):
        lab.cluster.round()
    losses: dict[str, Loss] = {f"f{n}": falling for n in range(3)}
    lab.train({**losses, "f3": lambda step: 5 + falling(step) / 10}, 30)
    assert lab.kinds("f3") == {Futile.DOMINATED}
