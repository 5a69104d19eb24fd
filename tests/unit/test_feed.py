"""`control.feed`: whoever is told only what changes knows what is."""

from __future__ import annotations

import asyncio
import json
import math
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.control import board, detail, feed
from resilient_nb.control.live import Thinned
from resilient_nb.control.pieces import Points
from resilient_nb.core.model import Cell, Outcome
from resilient_nb.core.policy import GroupRule, Policy
from resilient_nb.errors import ResilientError
from resilient_nb.testing.builders import a_checkpoint
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq
from resilient_nb.wire.feed import Follow, Followed, RankRow
from tests.unit.followers import Plane, Reader, calm, listed, truth

STRAGGLER = RankRow._fields.index("straggler")


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return Plane(tmp_path)


def delta(answer: Followed) -> dict[str, Any]:
    """Return the only job that is told of."""
    [text] = answer.jobs
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_first_answer_is_everything_and_the_next_one_nothing(plane: Plane) -> None:
    job = plane.running(workers=2)
    plane.sample(job, points=((1, {"loss": 1.0}),))
    answer, new = plane.answer(job, board=True)
    assert new
    told = json.loads(answer.board)
    assert told["full"]
    assert [row["id"] for row in told["rows"]] == [job]
    assert told["cluster"]["running"] == [job]
    assert told["leases"] == [{"host": "h0", "job": job, "slots": 2}]
    assert [row["user"] for row in told["shares"]] == ["", "ada"]
    assert told["groups"] == {"ada": ["everyone"]}
    assert told["alerts"] == {"firing": [], "recent": [], "channels": []}
    found = delta(answer)
    assert found["full"]
    assert (found["world"], len(found["ranks"])) == (2, 2)
    assert found["points"] == {"loss": [[1, 1.0]]}
    again, new = plane.answer(job, cursor=answer.cursor, board=True)
    assert (again, new) == (replace(answer, board=b"", jobs=()), False)


def test_only_what_has_changed_is_told(plane: Plane) -> None:
    job = plane.running(workers=3)
    for step in (1, 2, 3):
        plane.sample(job, points=((step, {"loss": 1.0 / step, "lr": 0.1}),))
    first, _ = plane.answer(job)
    plane.sample(job, 1, step=4, rate=2.5)
    second, _ = plane.answer(job, cursor=first.cursor)
    found = delta(second)
    assert [(row[0], row[4], row[6]) for row in found["ranks"]] == [(1, 4, 2.5)]
    assert found["points"] == {}
    assert found["run"] is found["failures"] is found["notes"] is found["world"] is None
    assert not found["full"]
    plane.sample(job, step=4, points=((4, {"loss": 0.25}),))
    third, _ = plane.answer(job, cursor=second.cursor)
    # The last point that was known before comes again, and nothing of the other metric.
    assert delta(third)["points"] == {"loss": [[3, 1 / 3], [4, 0.25]]}
    plane.checkpoint(job)
    fourth, _ = plane.answer(job, cursor=third.cursor)
    assert len(delta(fourth)["run"]["checkpoints"]) == 1


def test_a_number_that_is_not_finite_is_null(plane: Plane) -> None:
    job = plane.running()
    plane.sample(job, points=((1, {"loss": math.nan, "grad": math.inf}),))
    new = a_checkpoint(job, 1, metrics={"loss": -math.inf})
    plane.hosts["h0"].facts["c"] = orders.CheckpointWritten(new)
    plane.report("h0")
    found = delta(plane.answer(job)[0])
    assert found["points"] == {"grad": [[1, None]], "loss": [[1, None]]}
    assert found["head"]["metrics"] == {"grad": None, "loss": None}
    assert found["run"]["checkpoints"][0]["metrics"] == {"loss": None}
    first, _ = plane.answer(job)
    assert plane.answer(job, cursor=first.cursor)[1] is False


def test_many_ranks_that_just_go_on_are_told_twice_a_second(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "_MANY", 2)
    job = plane.running(workers=2)
    reader = Reader()
    reader.follow(plane, job)
    plane.sample(job, 1, step=1)
    reader.follow(plane, job)
    assert reader.jobs[job]["head"]["step"] == 1
    assert reader.jobs[job]["ranks"][1][4] == 0
    plane.clock.advance(1.0)  # soon, though it says nothing more
    reader.follow(plane, job)
    assert reader.jobs[job] == truth(plane, job)


def test_how_many_ranks_are_is_told_at_once_when_the_job_has_changed(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "_MANY", 2)
    job = plane.running(workers=2)
    reader = Reader()
    reader.follow(plane, job)
    plane.sample(job, 1, step=1)
    plane.end(job)
    reader.follow(plane, job)
    assert reader.jobs[job] == truth(plane, job)


def test_a_rank_that_holds_the_others_up_is_marked(plane: Plane) -> None:
    job = plane.running(workers=2)
    reader = Reader()
    for step in range(10, 50, 10):
        plane.clock.advance(1.0)
        plane.sample(job, 0, step=step, steps=10, compute_s=0.5)
        plane.sample(job, 1, step=step, steps=10, compute_s=5.0)
        reader.follow(plane, job)
    assert [row[STRAGGLER] for row in reader.jobs[job]["ranks"].values()] == [False, True]
    for step in range(50, 90, 10):
        plane.sample(job, 0, step=step, steps=10, compute_s=0.5)
        plane.sample(job, 1, step=step, steps=10, compute_s=0.5)
    reader.follow(plane, job)
    assert reader.jobs[job] == truth(plane, job)
    assert [row[STRAGGLER] for row in reader.jobs[job]["ranks"].values()] == [False, False]


def test_where_a_job_was_submitted_is_told(plane: Plane) -> None:
    job = plane.submit(cell=Cell("pass", notebook="work/a.ipynb", cell_id="c1"))
    answer, _ = plane.answer(job, board=True)
    [row] = json.loads(answer.board)["rows"]
    for told in (row, delta(answer)["head"]):
        assert (told["notebook"], told["cell_id"]) == ("work/a.ipynb", "c1")


def test_a_cursor_of_an_earlier_scheduler_leads_to_everything(plane: Plane) -> None:
    job = plane.running()
    answer, _ = plane.answer(job, board=True)
    plane.clock.advance(1.0)
    plane.restart_engine()
    after, _ = plane.answer(job, cursor=answer.cursor, board=True)
    assert delta(after)["full"]
    assert json.loads(after.board)["full"]
    assert after.cursor > answer.cursor
    # So does one that was never given.
    strange, _ = plane.answer(job, cursor=after.cursor + 1000, board=True)
    assert json.loads(strange.board)["full"]


def test_a_job_that_does_not_exist_is_unknown(plane: Plane) -> None:
    answer, new = plane.answer("nobody#1")
    assert (answer.unknown, answer.jobs, new) == (("nobody#1",), (), True)
    assert plane.answer("nobody#1", cursor=answer.cursor)[1] is False


def test_the_newest_finished_jobs_are_listed(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "LISTED", 2)
    waits = plane.submit("wide", workers=50)
    early, late = Reader(), Reader()
    names = []
    for n in range(5):
        names.append(plane.running(f"r{n}"))
        early.follow(plane)
        plane.end(names[-1])
        early.follow(plane)
    assert set(early.rows) == {waits, *names[-2:]}
    plane.clock.advance(feed.FORGET + 1)
    plane.feed.look()  # it is made anew, from what is in the world
    late.follow(plane)
    assert late.rows == early.rows
    assert early.follow(plane) is True  # told everything
    # What happens to one that isn't listed doesn't bring it back.
    plane.engine.changed(names[0])
    plane.clock.advance(1.1)
    early.follow(plane)
    assert set(early.rows) == {waits, *names[-2:]}


def test_who_missed_that_too_many_went_is_told_everything(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "LISTED", 1)
    monkeypatch.setattr(board, "_GONE", 2)
    often, seldom = Reader(), Reader()
    for n in range(6):
        job = plane.running(f"r{n}")
        often.follow(plane)
        if n == 0:
            seldom.follow(plane)
        plane.end(job)
        often.follow(plane)
    seldom.follow(plane)
    assert seldom.rows == often.rows
    assert len(seldom.rows) == 1


def test_a_long_list_comes_in_several_answers(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_AT_ONCE", 10)
    for n in range(25):
        plane.submit(f"r{n}", workers=50)
    reader = Reader()
    sizes = []
    while reader.follow(plane):
        sizes.append(len(reader.rows))
    assert sizes == [10, 20, 25]


def test_what_ends_while_a_long_list_is_made_stays_on_it(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "LISTED", 2)
    monkeypatch.setattr(board, "_AT_ONCE", 1)
    for n in range(2):
        plane.end(plane.running(f"old{n}"))
    new = {plane.running("new"), plane.running("newer")}
    reader = Reader()
    reader.follow(plane)  # which makes the first row of four
    for job in sorted(new):
        plane.end(job)
    while reader.follow(plane):
        pass
    assert set(reader.rows) == new


def test_places_in_the_queue_are_told_when_others_leave_it(plane: Plane) -> None:
    plane.round()
    names = [plane.submit(f"r{n}", workers=4) for n in range(4)]
    plane.round()
    reader = Reader()
    reader.follow(plane)
    assert [reader.rows[name]["position"] for name in names] == [None, 1, 2, 3]
    plane.ask(rq.Cancel(names[1]))
    plane.round(1.1)
    reader.follow(plane)
    assert [reader.rows[name]["position"] for name in names] == [None, None, 1, 2]


def test_another_policy_is_told(plane: Plane) -> None:
    reader = Reader()
    reader.follow(plane)
    assert reader.pieces["groups"] == {"ada": ["everyone"]}
    plane.engine.set_policy(Policy(groups={"vision": GroupRule(users=("ada", "bob"))}))
    plane.clock.advance(1.1)
    reader.follow(plane)
    assert reader.pieces["groups"] == {"ada": ["vision"], "bob": ["vision"]}


def test_a_sample_shows_in_the_list_within_a_second(plane: Plane) -> None:
    job = plane.running()
    reader = Reader()
    reader.follow(plane)
    plane.sample(job, step=7, rate=2.0)
    assert reader.follow(plane) is False
    plane.clock.advance(1.1)
    reader.follow(plane)
    assert (reader.rows[job]["step"], reader.rows[job]["rate"]) == (7, 2.0)


def test_ranks_of_a_smaller_gang_are_no_more(plane: Plane) -> None:
    job = plane.running(workers=3)
    reader = Reader()
    reader.follow(plane, job)
    assert sorted(reader.jobs[job]["ranks"]) == [0, 1, 2]
    plane.engine.live.begin(job, {0: "h0", 1: "h0"}, plane.clock())
    plane.engine.changed(job)
    reader.follow(plane, job)
    assert reader.jobs[job] == truth(plane, job)
    assert sorted(reader.jobs[job]["ranks"]) == [0, 1]


def test_on_an_idle_cluster_nothing_is_new(plane: Plane) -> None:
    plane.end(plane.running())
    plane.round()
    reader = Reader()
    reader.follow(plane)
    for second in range(20):
        plane.clock.advance(1.0)
        report = replace(plane.hosts["h0"].report(), round_trip=1e-4 * second, slots=4)
        plane.engine.report(replace(report, disk_free=(50 << 30) + second))
        plane.engine.tick()
        if second:
            assert reader.follow(plane, "digits#1") is (second == 1)


def test_what_nobody_follows_is_forgotten(plane: Plane) -> None:
    job = plane.running()
    answer, _ = plane.answer(job, board=True)
    plane.clock.advance(feed.FORGET / 2)
    plane.answer(job, cursor=answer.cursor)
    plane.clock.advance(feed.FORGET / 2 + 1)
    plane.feed.look()
    assert (plane.feed._board, list(plane.feed._details)) == (None, [job])
    plane.clock.advance(feed.FORGET + 1)
    plane.feed.look()
    assert not plane.feed._details
    again, _ = plane.answer(job, cursor=answer.cursor, board=True)
    assert delta(again)["full"]
    assert json.loads(again.board)["full"]


# --- waiting ---


def waited(plane: Plane, request: Follow, happens: Any) -> Followed:
    """Return the answer to a request during which something happens."""

    async def both() -> Followed:
        asking = asyncio.create_task(plane.feed.follow(request))
        await asyncio.sleep(0)
        assert not asking.done()
        happens()
        return await asyncio.wait_for(asking, 20.0)

    return asyncio.run(both())


def test_an_answer_waits_for_news(plane: Plane) -> None:
    first, _ = plane.answer(board=True)
    answer = waited(plane, Follow(first.cursor, wait=60.0), lambda: plane.submit())
    assert [row["id"] for row in json.loads(answer.board)["rows"]] == ["digits#1"]


def test_a_sample_wakes_who_follows_its_job(plane: Plane) -> None:
    job = plane.running()
    first, _ = plane.answer(job)
    request = Follow(first.cursor, (job,), board=False, wait=60.0)
    answer = waited(plane, request, lambda: plane.sample(job, step=5))
    assert delta(answer)["ranks"][0][4] == 5


def test_a_tag_wakes_who_follows_another_job_of_the_run(plane: Plane) -> None:
    job = plane.running()
    plane.checkpoint(job)
    plane.end(job)
    later = plane.running()
    first, _ = plane.answer(job)
    request = Follow(first.cursor, (job,), board=False, wait=60.0)
    answer = waited(plane, request, lambda: plane.ask(rq.Tag("digits@1", "best")))
    assert delta(answer)["run"]["tags"] == {"best": "digits/00000001-e1"}
    assert delta(answer)["head"] is None
    first, _ = plane.answer(job)
    assert delta(first)["run"]["active_job"] == later
    request = Follow(first.cursor, (job,), board=False, wait=60.0)
    answer = waited(plane, request, lambda: plane.end(later))
    assert delta(answer)["run"]["active_job"] is None


def test_without_news_the_answer_is_empty(plane: Plane) -> None:
    first, _ = plane.answer(board=True)
    answer = asyncio.run(plane.feed.follow(Follow(first.cursor, wait=0.05)))
    assert answer == replace(first, board=b"")
    assert not plane.feed._waiting


def test_each_second_what_time_changes_is_looked_at(plane: Plane) -> None:
    first, _ = plane.answer(board=True)

    def second() -> None:
        plane.clock.advance(1.1)
        plane.engine.set_alert("disk", "It is full.")
        plane.feed.look()

    answer = waited(plane, Follow(first.cursor, wait=60.0), second)
    assert json.loads(answer.board)["cluster"]["alerts"] == ["It is full."]


# --- laws ---


@given(st.data())
def test_points_that_are_told_make_the_whole_series(data: Any) -> None:
    """Whatever steps are logged, and however often somebody asks."""
    series, points = Thinned(), Points()
    known: dict[str, tuple[int, list[Any]]] = {"often": (0, []), "seldom": (0, [])}
    at, step = 0, 0
    for _ in range(data.draw(st.integers(1, 12))):
        count, every = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 5))
        step = max(0, step - data.draw(st.sampled_from((0, 0, 0, 3, 300, 10**6))))
        for _ in range(count):
            step += every
            series.add(step, math.nan if step % 7 == 0 else step / 2)
        at += points.set(series.points(), at + 1)
        for name in ("often", *data.draw(st.sampled_from(((), ("seldom",))))):
            cursor, old = known[name]
            new = list(points.since(cursor))
            kept = [p for p in old if p[0] < new[0][0]] if new else old
            known[name] = (at, kept + new)
            assert [p[0] for p in known[name][1]] == [p[0] for p in series.points()]
            assert str(known[name][1]) == str(list(series.points()))
    assert len(points._changes) <= 1 + len(points._points)


class Story:
    """Jobs come and go at random; two follow them, whose wishes and cursors differ."""

    def __init__(self, home: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.plane = Plane(home, h0=2, h1=2)
        self.readers = [Reader(), Reader()]
        self.plane.round()

    def newest(self, run: str) -> str:
        jobs = self.plane.engine.world.runs[run].jobs if run in self.plane.engine.world.runs else ()
        return jobs[-1] if jobs else ""

    def act(self) -> None:
        """Do one thing."""
        acts = (self.submit, self.happens, self.happens, self.decide, self.follow, self.break_off)
        self.draw.choice(acts)()

    def submit(self) -> None:
        """Submit a job, and let it begin if there is room; one that runs ends before."""
        run, seconds = self.draw.choice("ab"), self.draw.choice((0.1, 1.0, 3.0))
        if job := self.newest(run):
            self.plane.end(job)
        with suppress(ResilientError):
            self.plane.submit(run, self.draw.randint(1, 3))
        for _ in range(3):
            self.plane.round(seconds)

    def happens(self) -> None:
        """Something happens to a run's newest job."""
        plane, draw = self.plane, self.draw
        job, step = self.newest(draw.choice("ab")), draw.randrange(10)
        what = draw.choice(("sample", "sample", "sample", "checkpoint", "end", "note", "round"))
        if what == "round" or not job:
            plane.round(1.0)
        elif what == "sample":
            values = [
                draw.choice((0.5, -1.0, math.nan, math.inf)) for _ in range(draw.randrange(4))
            ]
            points = tuple((step + n, {"loss": v, f"m{n}": v}) for n, v in enumerate(values))
            said = {"step": step, "steps": 1, "compute_s": 0.1, "rate": draw.random()}
            plane.sample(job, draw.randrange(3), points=points, **said)
        elif what == "checkpoint":
            plane.checkpoint(job)
        elif what == "end":
            plane.end(job, draw.choice((Outcome.FINISHED, Outcome.FAILED, Outcome.EXITED)))
        else:
            plane.engine.live.note(job, f"step {step}")
            plane.engine.changed(job)

    def decide(self) -> None:
        """A person asks for something, which may be refused."""
        run = self.draw.choice("ab")
        ref, forks = f"{run}@{self.draw.randint(1, 3)}", len(self.plane.engine.world.runs)
        requests = rq.Tag(ref, "best"), rq.Rollback(ref), rq.Fork(ref, f"f{forks}"), rq.Cancel(run)
        with suppress(ResilientError):
            self.plane.ask(self.draw.choice(requests))

    def follow(self) -> None:
        jobs = [job for job in self.plane.engine.world.jobs if self.draw.random() < 0.4]
        self.draw.choice(self.readers).follow(self.plane, *jobs, board=self.draw.random() < 0.7)

    def break_off(self) -> None:
        """A follower begins anew, or the scheduler; or nobody has followed anything for long."""
        what = self.draw.choice(("reconnect", "restart", "forget"))
        if what == "reconnect":
            self.readers[self.draw.randrange(2)] = Reader()
        elif what == "restart":
            self.plane.clock.advance(1.0)
            self.plane.restart_engine()
        else:
            told = self.plane.feed
            for followed in (*told._details.values(), *filter(None, [told._board])):
                followed.used_at -= feed.FORGET
            self.plane.clock.advance(0.1)
            told.look()

    def check(self) -> None:
        """Let all ask, as after a second in which nothing happened."""
        self.plane.clock.advance(1.1)
        fresh, all_jobs = Reader(), tuple(self.plane.engine.world.jobs)
        for reader in (*self.readers, fresh):
            reader.follow(self.plane, *(all_jobs if reader is fresh else reader.jobs))
        for job in all_jobs:
            assert fresh.jobs[job] == truth(self.plane, job)
        assert {n: calm(row) for n, row in fresh.rows.items()} == listed(self.plane)
        for reader in self.readers:
            assert (reader.rows, reader.pieces) == (fresh.rows, fresh.pieces)
            assert reader.jobs == {job: fresh.jobs[job] for job in reader.jobs}


@pytest.mark.parametrize("seed", range(30))
def test_all_followers_know_what_is(tmp_path: Path, seed: int) -> None:
    story = Story(tmp_path, seed)
    for _ in range(15):
        for _ in range(story.draw.randint(1, 6)):
            story.act()
        story.check()
