"""Jobs that wait for jobs: what holds them, circles, and inherited priority."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.core import dependencies
from resilient_nb.core.model import Priority
from resilient_nb.testing.builders import Story

RUNS = [f"r{n}" for n in range(6)]


def chain(*links: tuple[str, tuple[str, ...], Priority]) -> Story:
    """Return a story in which each run has a job that waits for others."""
    story = Story()
    for run, after, priority in links:
        story.submit(run, after=after, priority=priority)
    return story


def test_a_job_is_held_until_its_upstream_succeeds() -> None:
    story = Story().submit("ingest").submit("train", after=("ingest#1",))
    train = story.world.jobs["train#1"]
    assert dependencies.hold(story.world, train) == ("Waits for ingest#1 to succeed; it is queued.")
    story.start("ingest").succeed("ingest")
    assert dependencies.hold(story.world, train) == ""


def test_a_failed_upstream_is_said_with_the_ways_out() -> None:
    story = Story().submit("ingest").submit("train", after=("ingest#1",))
    story.cancel("ingest")
    text = dependencies.hold(story.world, story.world.jobs["train#1"])
    assert text == (
        "Waits for ingest#1, which was cancelled: resume it (%resilient resume ingest), "
        "or cancel this job (%resilient cancel train)."
    )


def test_a_later_job_of_the_run_meets_the_dependency() -> None:
    story = Story().submit("ingest").submit("train", after=("ingest#1",))
    story.cancel("ingest").submit("ingest")
    train = story.world.jobs["train#1"]
    assert dependencies.upstream(story.world, "ingest#1").id == "ingest#2"
    story.start("ingest").succeed("ingest")
    assert dependencies.unmet(story.world, train) == ()


def test_a_resubmission_that_closes_a_circle_is_found() -> None:
    story = Story().submit("a").submit("b", after=("a#1",))
    story.submit("c", after=("b#1",))
    story.cancel("a")
    assert dependencies.find_cycle(story.world, "a", ("c#1",)) == ("a", "c", "b", "a")
    assert dependencies.find_cycle(story.world, "d", ("c#1",)) == ()


def test_priority_is_inherited_along_the_chain_and_never_lowered() -> None:
    story = chain(
        ("a", (), Priority.LOW),
        ("b", ("a#1",), Priority.URGENT),
        ("c", ("b#1",), Priority.HIGH),
        ("d", ("a#1",), Priority.NORMAL),
    )
    assert dependencies.inherited_priorities(story.world) == {"a#1": Priority.URGENT}


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 5), max_size=3), st.sampled_from(Priority)),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_waits_for_someone_less_urgent(links: list[tuple[set[int], Priority]]) -> None:
    """No priority inversion: what a job waits for is at least as urgent, transitively."""
    rows = [
        (RUNS[n], tuple(f"{RUNS[m]}#1" for m in sorted(after) if m < n), priority)
        for n, (after, priority) in enumerate(links)
    ]
    story = chain(*rows)
    raised = dependencies.inherited_priorities(story.world)
    jobs = story.world.open
    inforce = {name: raised.get(name, job.spec.priority).rank for name, job in jobs.items()}
    for name, job in jobs.items():
        assert inforce[name] >= job.spec.priority.rank
        assert all(inforce[blocker] >= inforce[name] for blocker in job.spec.after)
    # And no higher than somebody asked for.
    assert all(any(raised[name] is job.spec.priority for job in jobs.values()) for name in raised)
