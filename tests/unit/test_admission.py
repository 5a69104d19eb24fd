"""Whether a job may be submitted, and as what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.control.admission import Admission
from resilient_nb.core import limits
from resilient_nb.core.model import JobSpec, JobState, Priority
from resilient_nb.core.policy import DAY, GroupRule, Limits, Policy, UserRule
from resilient_nb.errors import InvalidRequest, NotAllowed, UnknownName
from resilient_nb.testing.builders import START, Story, a_spec
from resilient_nb.testing.fakes import fake_settings

POLICY = Policy(
    admins=("root",),
    limits={
        Priority.HIGH: Limits(running=4, waiting=2),
        Priority.URGENT: Limits(per_day=1),
    },
    groups={
        "vision": GroupRule(users=("ada", "eva"), limits={Priority.HIGH: Limits(running=6)}),
        "speech": GroupRule(users=("ben", "eva")),
    },
    users={"boss": UserRule(limits={Priority.HIGH: Limits()})},
)


def admit(story: Story, spec: JobSpec, user: str = "ada", run: str = "new") -> JobSpec:
    world = replace(story.world, policy=POLICY)
    admission = Admission(world, fake_settings(Path("/nowhere"), user="owner"), user)
    return admission.admit(run, spec, story.now)[0]


def test_the_user_is_who_the_server_knows_and_the_group_theirs() -> None:
    admitted = admit(Story(), a_spec(user="root", group=""), user="ben")
    assert (admitted.user, admitted.group) == ("ben", "speech")
    assert admit(Story(), a_spec(group="speech"), user="eva").group == "speech"
    assert admit(Story(), a_spec(), user="stranger").group == "everyone"


def test_a_group_that_isnt_mine_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidRequest, match="ada is not in group 'speech' but in vision"):
        admit(Story(), a_spec(group="speech"))


def test_only_administrators_have_the_admin_lane() -> None:
    assert admit(Story(), a_spec(admin=True), user="root").admin
    assert admit(Story(), a_spec(admin=True), user="owner").admin
    with pytest.raises(NotAllowed, match=r"ada is no administrator of this cluster \(root may\)"):
        admit(Story(), a_spec(admin=True))


def test_a_size_that_cant_be_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Use --workers 2:4"):
        admit(Story(), a_spec(4, max_workers=2))


def test_what_a_job_waits_for_must_exist() -> None:
    story = Story().submit("ingest").run("empty")
    assert admit(story, a_spec(after=("ingest", "ingest#1"))).after == ("ingest#1",)
    for name in ("nobody", "empty", "nobody#1"):
        with pytest.raises(UnknownName, match=f"--after {name}: there is no such job"):
            admit(story, a_spec(after=(name,)))
    with pytest.raises(UnknownName, match="run ingest has ingest#1"):
        admit(story, a_spec(after=("ingest#2",)))


def test_a_circle_is_refused() -> None:
    story = Story().submit("a").submit("b", after=("a#1",)).cancel("a")
    with pytest.raises(InvalidRequest, match="a waits for b waits for a"):
        admit(story, a_spec(after=("b",)), run="a")
    with pytest.raises(InvalidRequest, match="can't wait for its own run"):
        admit(story, a_spec(after=("a",)), run="a")


def test_over_a_limit_a_job_is_let_in_one_lower_and_told_why() -> None:
    story = Story().submit("one", 3, priority=Priority.HIGH, user="ada", group="vision")
    world = replace(story.world, policy=POLICY)
    spec = a_spec(2, priority=Priority.HIGH, user="ada", group="vision")
    granted = limits.grant(world, spec, story.now)
    assert granted.priority is Priority.NORMAL
    assert granted.message == (
        "3 of 4 high slots of yours are in use or waited for: submitted as normal."
    )
    assert limits.grant(world, replace(spec, workers=1), story.now).priority is Priority.HIGH


def test_a_groups_limit_counts_all_its_users() -> None:
    story = Story().submit("one", 3, priority=Priority.HIGH, user="ada", group="vision")
    world = replace(story.world, policy=POLICY)
    spec = a_spec(4, priority=Priority.HIGH, user="eva", group="vision")
    granted = limits.grant(world, spec, story.now)
    assert granted.message == (
        "3 of 6 high slots of group vision are in use or waited for: submitted as normal."
    )
    assert limits.grant(world, replace(spec, group="speech"), story.now).message == ""


def test_ones_own_limits_replace_everybodys() -> None:
    spec = a_spec(100, priority=Priority.HIGH, user="boss", group="everyone")
    world = replace(Story().world, policy=POLICY)
    assert limits.grant(world, spec, START).priority is Priority.HIGH


def test_a_rate_is_over_24_hours_and_urgent_falls_as_far_as_it_must() -> None:
    story = Story().submit("one", 4, priority=Priority.URGENT, user="ada", group="vision")
    story.submit("two", 4, priority=Priority.HIGH, user="ada", group="vision")
    world = replace(story.world, policy=POLICY)
    spec = a_spec(1, priority=Priority.URGENT, user="ada", group="vision")
    granted = limits.grant(world, spec, story.now)
    assert granted.priority is Priority.NORMAL
    assert granted.message == (
        "1 of 1 urgent jobs of yours in 24 hours are used up: submitted as high. "
        "4 of 4 high slots of yours are in use or waited for: submitted as normal."
    )
    assert limits.grant(world, spec, story.now + DAY).priority is Priority.URGENT


@given(
    st.lists(
        st.tuples(st.sampled_from(["ada", "ben", "eva"]), st.sampled_from(Priority),
                  st.integers(1, 3)),
        max_size=25,
    )
)  # fmt: skip
def test_whatever_is_submitted_no_limit_is_broken(asked: list[tuple[str, Priority, int]]) -> None:
    story = Story()
    for n, (user, priority, workers) in enumerate(asked):
        world = replace(story.world, policy=POLICY)
        group = POLICY.group_of(user)
        spec = a_spec(workers, priority=priority, user=user, group=group)
        granted = limits.grant(world, spec, story.now)
        assert granted.priority.rank <= priority.rank
        assert bool(granted.message) == (granted.priority is not priority)
        story.submit(f"r{n}", workers, priority=granted.priority, user=user, group=group)
    jobs = [j for j in story.world.open.values() if j.state is JobState.QUEUED]
    for user in ("ada", "ben", "eva"):
        mine = [j for j in jobs if j.spec.user == user]
        high = [j for j in mine if j.spec.priority is Priority.HIGH]
        assert sum(j.spec.workers for j in high) <= 4
        assert len(high) <= 2
        assert sum(j.spec.priority is Priority.URGENT for j in mine) <= 1
