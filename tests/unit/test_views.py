"""`core.views`: the one fold that panel, command line and `--json` show."""

from __future__ import annotations

import pytest

from resilient_nb.core.model import JobState, Outcome, StopReason
from resilient_nb.core.views import JobView, Live, LiveRank, job_view, run_view
from resilient_nb.testing.builders import Story, a_failure, an_end, failed, killed, on_hosts


def shown(story: Story, live: Live | None = None) -> JobView:
    return job_view(story.world, story.job(), live or Live(), "/store/runs")


def test_a_queued_job_says_why_it_waits() -> None:
    view = shown(Story().submit(workers=2, user="ada", out=("model",)), Live(waiting="Needs 2."))
    assert (view.state, view.reason, view.workers) == (JobState.QUEUED, "Needs 2.", 2)
    assert (view.user, view.out, view.returned) == ("ada", ("model",), ())
    assert (view.step, view.total_steps, view.eta_s, view.rate) == (0, None, None, 0.0)


def test_what_was_waited_for_is_no_reason_any_more() -> None:
    assert shown(Story().submit().start(), Live(waiting="Needs 2.")).reason == ""


def test_why_a_job_stopped_is_its_reason() -> None:
    story = Story().submit().start().stop().end(failed()).fail()
    assert shown(story).reason == "It broke."
    assert len(shown(story).failures) == 1


def test_progress_is_that_of_the_slowest_rank() -> None:
    ranks = (
        LiveRank(0, "running", step=10, total_steps=50, rate=4.0),
        LiveRank(1, "running", step=9, rate=2.0),
    )
    view = shown(Story().submit(workers=2).start(), Live(ranks))
    assert (view.step, view.total_steps, view.rate, view.eta_s) == (10, 50, 2.0, 20.0)


def test_a_job_that_doesnt_run_has_no_rate_and_no_end_in_sight() -> None:
    ranks = (LiveRank(0, step=10, total_steps=50, rate=4.0),)
    view = shown(Story().submit().start().stop(StopReason.CANCEL), Live(ranks))
    assert (view.step, view.total_steps, view.rate, view.eta_s) == (10, 50, 0.0, None)


def test_a_job_past_its_total_is_never_late() -> None:
    ranks = (LiveRank(0, step=60, total_steps=50, rate=4.0),)
    assert shown(Story().submit().start(), Live(ranks)).eta_s == 0.0


@pytest.mark.parametrize(("live_step", "step"), [(10, 20), (25, 25)])
def test_the_step_is_the_newest_of_rank_and_checkpoint(live_step: int, step: int) -> None:
    story = Story().submit().start().checkpoint(20)
    assert shown(story, Live((LiveRank(0, step=live_step),))).step == step


def test_a_resumed_job_begins_at_the_heads_step() -> None:
    story = Story().submit().start().checkpoint(20).succeed().submit()
    assert story.job().id == "digits#2"
    assert shown(story).step == 20
    assert shown(story).checkpoints == ()  # those of the first job aren't its own


def test_ended_ranks_say_how_they_ended() -> None:
    ranks = tuple(LiveRank(n, "running", step=5, rate=1.0, cpu=1.0) for n in range(4))
    story = Story().submit(workers=4).start().stop()
    story.end(failed(0, step=7), an_end(1, Outcome.LEFT, step=6), killed(2, ordered=True, step=5))
    rows = shown(story, Live(ranks)).ranks
    assert [row.state for row in rows] == ["failed", "left", "stopped", "running"]
    assert [(row.step, row.rate, row.cpu) for row in rows[:2]] == [(7, 0.0, 0.0), (6, 0.0, 0.0)]
    assert rows[3].rate == 1.0


def test_metrics_are_the_last_of_each_series() -> None:
    series = {"loss": ((1, 2.0), (2, 1.5)), "lr": ((1, 0.1),), "none": ()}
    view = shown(Story().submit().start(), Live(series=series, notes=("hi",)))
    assert view.metrics == {"loss": 1.5, "lr": 0.1}
    assert view.series == series
    assert view.notes == ("hi",)


def test_checkpoints_carry_their_reference_place_and_tags() -> None:
    story = Story().submit().start().checkpoint(20, tag="best").checkpoint(40)
    first, second = shown(story).checkpoints
    assert (first.ref, first.tags, first.is_head) == ("digits@20", ("best",), False)
    assert (second.ref, second.tags, second.is_head) == ("digits@40", (), True)
    assert second.path == "/store/runs/digits/00000040-e1"
    assert second.parent == first.id


def test_a_run_lists_jobs_checkpoints_and_what_is_active() -> None:
    story = Story().submit().start().checkpoint(20).succeed().submit()
    view = run_view(story.world, story.world.runs["digits"], "/r")
    assert (view.jobs, view.active_job) == (("digits#1", "digits#2"), "digits#2")
    assert [c.ref for c in view.checkpoints] == ["digits@20"]
    assert run_view(story.cancel().world, story.world.runs["digits"], "/r").active_job is None


def test_a_fork_shows_where_it_came_from_and_counts_from_there() -> None:
    story = Story().submit().start().checkpoint(20, tag="best").run("fork", "digits/00000020-e1")
    story.submit("fork")
    view = run_view(story.world, story.world.runs["fork"], "/r")
    assert (view.forked_from, view.head) == ("digits/00000020-e1",) * 2
    assert view.checkpoints == ()
    assert job_view(story.world, story.job("fork"), Live(), "/r").step == 20


def test_a_retried_job_keeps_its_history() -> None:
    failure = a_failure()
    story = Story().submit(workers=2).start("digits", on_hosts(1, 1)).stop()
    story.end(failed(0), failed(1)).requeue(failure=failure)
    view = shown(story.reserve())
    assert (view.attempts, view.epoch, view.failures) == (2, 2, (failure,))
