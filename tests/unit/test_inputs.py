"""`--in`: where values come from, what is refused, and how what is lost is made again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.control.commands import Commands
from resilient_nb.control.preflight import missing
from resilient_nb.control.storing import Storing
from resilient_nb.core import dependencies, inputs
from resilient_nb.core import events as ev
from resilient_nb.core.causes import INPUT_LOST
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import JobState, Outcome
from resilient_nb.core.views import Live, LiveRank, job_view
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.capture import analyse, capture
from resilient_nb.notebook.options import CellOptions, parse_cell_line
from resilient_nb.notebook.panel import panel_text
from resilient_nb.storage.stores import open_store, out_key
from resilient_nb.testing.builders import Story, a_spec, an_error
from resilient_nb.testing.contracts import world_problems
from resilient_nb.testing.fakes import FakeCluster, fake_settings
from resilient_nb.wire import requests as rq


def prepared(*out: str, run: str = "prep") -> Story:
    """A run whose job has returned values."""
    return Story().submit(run, out=out).start(run).succeed(run, returned=out)


def use(
    story: Story, after: tuple[str, ...] = ("prep#1",), names: tuple[str, ...] = ("x",)
) -> Story:
    return story.submit("use", after=after, inputs=names)


def failing(story: Story, lost: str) -> inputs.Remaking:
    """Have the job's attempt fail for a lost input, and ask what is done."""
    story.start("use").stop(run="use").requeue("use")
    return inputs.remake(story.world, story.job("use"), lost, story.now)


def given_by(world: World, job: str = "use#1") -> dict[str, tuple[str, ...]]:
    return {s.job.id: s.names for s in inputs.sources(world, world.jobs[job])}


# --- what is refused at once ---


@pytest.mark.parametrize(
    ("after", "names", "words"),
    [
        ((), ("x",), r"--in x: from which job\? Name one that returns it: --after JOB"),
        (("prep#1",), ("z",), r"no job that use waits for returns it \(prep#1 returns x, y\)"),
        (("prep#1", "other#1"), ("x",), "other and prep both return it"),
        (("prep#1", "bare#1"), ("z",), "bare#1 returns nothing"),
    ],
)
def test_names_must_come_from_just_one_job(
    after: tuple[str, ...], names: tuple[str, ...], words: str
) -> None:
    story = prepared("x", "y")
    story.submit("other", out=("x",)).submit("bare")
    with pytest.raises(InvalidRequest, match=words):
        inputs.check(story.world, "use", after, names)
    inputs.check(story.world, "use", ("prep#1", "other#1"), ("y",))


def test_what_an_older_job_of_the_run_has_returned_still_counts() -> None:
    story = prepared("x").submit("prep", out=("y",))
    inputs.check(story.world, "use", ("prep#1",), ("x", "y"))


# --- where it comes from ---


def test_each_name_comes_from_the_newest_success_that_returned_it() -> None:
    story = use(prepared("x", "y"), names=("x", "y"))
    assert given_by(story.world) == {"prep#1": ("x", "y")}
    story.submit("prep", out=("x",)).start("prep").succeed("prep", returned=("x",))
    assert given_by(story.world) == {"prep#2": ("x",), "prep#1": ("y",)}


def test_a_job_doesnt_start_without_what_nobody_returned() -> None:
    story = Story().submit("prep", out=("x",)).start("prep")
    use(story).stop(run="prep").fail("prep")
    story.submit("prep").start("prep").succeed("prep")  # resumed by a cell that returns nothing
    assert dependencies.hold(story.world, story.job("use")) == ""
    words = inputs.hold(story.world, story.job("use"))
    assert "Needs x (--in), which no job of prep that has succeeded returned" in words


# --- what is lost is made again ---


def test_the_producer_runs_again_and_the_job_waits_for_it() -> None:
    story = use(prepared("x"))
    made = failing(story, "prep#1")
    assert made.rerun == "prep#2"
    story.then(*made.events)
    again, job = story.job("prep"), story.job("use")
    assert again.spec == story.world.jobs["prep#1"].spec
    assert story.world.runs["prep"].head is None
    assert "prep#2" in dependencies.hold(story.world, job)
    assert job.claim == 0
    assert "What prep#1 returned is lost; prep#2 makes it again." in job.message
    story.start("prep").succeed("prep", returned=("x",))
    assert dependencies.hold(story.world, story.job("use")) == ""
    assert given_by(story.world) == {"prep#2": ("x",)}
    assert replay(story.events) == story.world
    assert world_problems(story.world) == []


def test_once_is_enough() -> None:
    story = use(prepared("x"))
    story.then(*failing(story, "prep#1").events)
    story.start("prep").succeed("prep", returned=("x",))
    made = failing(story, "prep#2")
    assert (made.rerun, made.events) == ("", ())
    assert "prep#2 had made it again already" in made.reason


def test_a_job_that_another_one_had_run_again_is_waited_for() -> None:
    story = use(prepared("x"))
    story.submit("prep", out=("x",))
    made = failing(story, "prep#1")
    assert (made.rerun, [type(e) for e in made.events]) == ("prep#2", [ev.InputLost])
    story.start("prep").succeed("prep", returned=("x",))
    assert failing(story, "prep#1").rerun == "prep#2"  # it is there already


def test_nothing_is_made_again_that_cant_be() -> None:
    story = use(prepared("x"))
    assert "No job made /data/train.npy" in failing(story, "/data/train.npy").reason
    story.submit("prep")  # another cell of the run, that returns nothing
    made = failing(story, "prep#1")
    assert made.rerun == ""
    assert "can't make it again while prep#2 is queued" in made.reason


def test_a_circle_is_not_waited_for() -> None:
    story = Story().submit("use", out=("y",)).start("use").succeed("use", returned=("y",))
    story.submit("prep", out=("x",), after=("use#1",)).start("prep").succeed(
        "prep", returned=("x",)
    )
    use(story)
    # What makes x again would need what only this run can make again.
    story.submit("prep", out=("x",), after=("use#2",))
    made = failing(story, "prep#1")
    assert made.rerun == ""
    assert "it would wait for use itself" in made.reason


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["lose", "fail", "succeed", "other"]), max_size=8))
def test_whatever_happens_the_job_never_starts_without_its_input(acts: list[str]) -> None:
    """A model: `whole` are the jobs whose results are there."""
    story, whole = use(prepared("x")), {"prep#1"}
    for act in acts:
        prep, job = story.job("prep"), story.job("use")
        if (
            act == "lose"
            and job.state is JobState.QUEUED
            and not dependencies.unmet(story.world, job)
        ):
            [(giver, _)] = given_by(story.world).items()
            whole.discard(giver)
            made = failing(story, giver)
            story.then(*made.events)
            assert (made.rerun == "") == ("prep" in job.lost)
            if not made.rerun:
                return  # for good
        elif act == "other" and prep.state.final:
            story.submit("prep", out=("x",))
        elif act in ("fail", "succeed") and prep.state is JobState.QUEUED:
            story.start("prep")
            if act == "succeed":
                story.succeed("prep", returned=("x",))
                whole.add(story.job("prep").id)
            else:
                story.stop(run="prep").fail("prep")
        assert replay(story.events) == story.world
        assert world_problems(story.world) == []
        job = story.job("use")
        if job.lost and not dependencies.unmet(story.world, job):
            assert set(given_by(story.world)) <= whole | set(job.lost.values())


# --- the whole way, with hosts ---


class Desk:
    """Two runs on a fake cluster; the second gets `x` from the first."""

    def __init__(self, home: Path, storing: Storing | None = None) -> None:
        self.cluster = FakeCluster(home, {"h0": 1})
        self.ask("prep", out=("x",))
        self.finish("prep")
        engine = self.cluster.engine
        if storing is not None:
            look = partial(missing, self.cluster.settings, storing, lambda _: "")
            engine.preflight = partial(look, remake=engine.remake)
        self.ask("use", after=("prep",), inputs=("x",))

    def ask(self, run: str, **spec: Any) -> rq.Submitted:
        commands = Commands(self.cluster.engine, "x")
        request = rq.Submit(run, a_spec(**spec), f"r-{run}")
        answer: rq.Submitted = commands(request, self.cluster.settings.user)
        return answer

    def begin(self, run: str) -> None:
        for _ in range(20):
            self.cluster.round(0.5)
            if any(key[0].startswith(f"{run}#") for _, key in self.cluster.live()):
                return
        raise AssertionError(f"{run} didn't start")

    def finish(self, run: str) -> None:
        self.begin(run)
        [rank] = self.cluster.hosts["h0"].ranks.values()
        self.cluster.hosts["h0"].end(rank, Outcome.FINISHED, exit_code=0)
        self.cluster.round(0.1)

    def lose(self, lost: str) -> None:
        self.begin("use")
        [rank] = self.cluster.hosts["h0"].ranks.values()
        error = replace(an_error("InputLost", f"What {lost} returned is lost."), lost_input=lost)
        self.cluster.hosts["h0"].end(rank, Outcome.FAILED, exit_code=1, error=error)
        self.cluster.report("h0")

    def job(self, name: str) -> Any:
        return self.cluster.engine.world.jobs[name]


def test_ranks_are_told_where_their_inputs_are_and_a_lost_one_is_made_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.begin("use")
    [rank] = desk.cluster.hosts["h0"].ranks.values()
    assert [(i.run, i.number, i.names) for i in rank.attempt.inputs] == [("prep", 1, ("x",))]
    desk.lose("prep#1")
    [failure] = desk.job("use#1").failures
    assert (failure.cause, failure.decision) == (INPUT_LOST, "retry")
    assert failure.reason == "prep#2 runs first and makes it again; then it goes on."
    # At once: nothing is kept free for a job that waits.
    assert desk.job("prep#2").state is JobState.STARTING
    assert desk.job("use#1").state is JobState.QUEUED
    desk.cluster.restart_engine()
    desk.finish("prep")
    desk.begin("use")
    [rank] = desk.cluster.hosts["h0"].ranks.values()
    assert [(i.run, i.number, i.names) for i in rank.attempt.inputs] == [("prep", 2, ("x",))]
    desk.lose("prep#2")
    job = desk.job("use#1")
    assert (job.state, job.failures[-1].decision) == (JobState.FAILED, "stop")
    assert replay(desk.cluster.journal.events()) == desk.cluster.engine.world


def test_a_lost_path_is_for_good(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.lose("/data/train.npy")
    job = desk.job("use#1")
    assert (job.state, job.failures[-1].cause) == (JobState.FAILED, INPUT_LOST)
    assert len(desk.cluster.engine.world.runs["prep"].jobs) == 1


def test_a_job_isnt_started_without_data_that_its_cell_declared(tmp_path: Path) -> None:
    place = tmp_path / "train.npy"
    story = Story().submit("digits").start("digits")
    story.then(ev.InputDeclared(story.now, "digits#1", "train", str(place), "h0"))
    story.stop().requeue()
    here, storing = fake_settings(tmp_path), Storing(fake_settings(tmp_path))

    def held(settings: Any) -> str:
        return missing(settings, storing, lambda _: "", story.world, story.job(), None)

    words = f"Input train ({place}), which the cell of digits#1 reads, isn't there (No such file"
    assert held(here).startswith(words)
    assert held(replace(here, host="h1")) == ""  # from another host it can't be said
    place.touch()
    assert held(here) == ""
    storing.close()


def test_what_is_gone_before_the_start_is_made_again_without_an_attempt(tmp_path: Path) -> None:
    storing = Storing(fake_settings(tmp_path))
    desk = Desk(tmp_path, storing)
    engine = desk.cluster.engine
    for _ in range(5):
        desk.cluster.round(1.0)
    assert desk.job("prep#2").state is not JobState.QUEUED
    assert (desk.job("use#1").attempts, desk.job("use#1").failures) == (0, ())
    assert "prep#2" in engine.queue.reason(desk.job("use#1"))
    store = open_store(desk.cluster.settings.store)
    store.put(out_key("prep", 2), [b"x"])
    desk.finish("prep")
    desk.begin("use")
    storing.close()


# --- in the notebook ---


def test_the_option_needs_a_job_to_wait_for() -> None:
    options = parse_cell_line("use --after prep,other#2 --in x,y --out z")
    assert isinstance(options, CellOptions)
    assert (options.inputs, options.after) == (("x", "y"), ("prep", "other#2"))
    with pytest.raises(InvalidRequest, match=r"--in x,y: from which job\? .* with --after JOB"):
        parse_cell_line("use --in x,y")
    with pytest.raises(InvalidRequest, match="--in names x twice"):
        parse_cell_line("use --after prep --in x,x")


def test_the_notebooks_value_of_an_input_stays_there() -> None:
    source = "y = x + other\nz = x"
    names = analyse(source, "cell").given(("x",))
    found = capture(names, {"x": 1, "other": 2, "unused": 3}, ("x", "y", "z"))
    assert [entry.name for entry in found.entries] == ["other"]
    assert capture(names, {"other": 2}, ("y",)).missing == ()
    assert capture(analyse(source, "cell"), {"other": 2}, ("y",)).missing == ("x",)


def test_the_panel_shows_what_a_cell_reads_and_what_is_gone() -> None:
    story = use(prepared("x")).start("use")
    story.then(ev.InputDeclared(story.now, "use#1", "train", "/data/train.npy", "h0"))
    live = Live(ranks=(LiveRank(0, missing=("train",)),))
    text = panel_text(job_view(story.world, story.job("use"), live, "/store/runs"))
    assert "after prep#1 · gets x" in text
    assert "- train: /data/train.npy (can't be read now)" in text
