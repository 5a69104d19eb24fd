"""`core.scheduling.plan`: whole gangs, in order, never too many, and always a reason."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core.model import Priority, Share
from resilient_nb.core.scheduling import (
    Decision,
    Host,
    QueuedGang,
    QueueView,
    Start,
    Wait,
    order,
    place,
    plan,
)

NOW = 100.0

gangs = st.builds(
    QueuedGang,
    job=st.integers(1, 99).map("r#{}".format),
    workers=st.integers(1, 6),
    priority=st.sampled_from(Priority),
    submitted_at=st.integers(0, 5).map(float),
    not_before=st.sampled_from([0.0, NOW - 1, NOW, NOW + 0.5, NOW + 30]),
)
hosts = st.builds(
    Host, id=st.integers(1, 9).map("h{}".format), slots=st.integers(0, 4), used=st.integers(0, 6)
)
views = st.builds(
    QueueView,
    st.lists(gangs, max_size=8, unique_by=lambda g: g.job).map(tuple),
    st.lists(hosts, max_size=4, unique_by=lambda h: h.id).map(tuple),
)


def gang(number: int, workers: int = 1, **changes: object) -> QueuedGang:
    base = QueuedGang(f"r#{number}", workers, Priority.NORMAL, float(number))
    return replace(base, **changes)  # type: ignore[arg-type]


def started(decisions: tuple[Decision, ...]) -> list[str]:
    return [d.job for d in decisions if isinstance(d, Start)]


def free(view: QueueView) -> int:
    return sum(host.free for host in view.hosts)


@settings(deadline=None, max_examples=300)
@given(views)
def test_each_gang_is_decided_once_in_queue_order(view: QueueView) -> None:
    assert [d.job for d in plan(view, NOW)] == [g.job for g in sorted(view.queued, key=order)]


@settings(deadline=None, max_examples=300)
@given(views)
def test_gangs_are_whole_and_hosts_never_oversubscribed(view: QueueView) -> None:
    left = {host.id: host.free for host in view.hosts}
    width = {g.job: g.workers for g in view.queued}
    for decision in plan(view, NOW):
        if isinstance(decision, Start):
            ranks = [n for s in decision.placement for n in range(s.first, s.first + s.count)]
            assert ranks == list(range(width[decision.job]))
            assert all(share.count > 0 for share in decision.placement)
            for share in decision.placement:
                left[share.host] -= share.count
            assert len({share.host for share in decision.placement}) == len(decision.placement)
    assert min(left.values(), default=0) >= 0


@settings(deadline=None, max_examples=200)
@given(views, st.randoms(use_true_random=False))
def test_the_order_of_the_input_doesnt_matter(view: QueueView, rng: random.Random) -> None:
    queued, there = list(view.queued), list(view.hosts)
    rng.shuffle(queued)
    rng.shuffle(there)
    assert plan(QueueView(tuple(queued), tuple(there)), NOW) == plan(view, NOW)


@settings(deadline=None, max_examples=300)
@given(views)
def test_nothing_overtakes_a_gang_that_could_ever_run(view: QueueView) -> None:
    total = sum(host.slots for host in view.hosts)
    by_name = {g.job: g for g in view.queued}
    blocked = False
    for decision in plan(view, NOW):
        if isinstance(decision, Start):
            assert not blocked
        elif by_name[decision.job].workers <= total and by_name[decision.job].not_before <= NOW:
            blocked = True


@settings(deadline=None, max_examples=300)
@given(views)
def test_what_waits_says_why(view: QueueView) -> None:
    for decision in plan(view, NOW):
        if isinstance(decision, Wait):
            assert decision.reason.endswith((".", ")."))
            waiting = next(g for g in view.queued if g.job == decision.job)
            # `until` only where nothing but time has to pass.
            assert decision.until == (waiting.not_before if waiting.not_before > NOW else None)


@settings(deadline=None, max_examples=300)
@given(views)
def test_the_first_in_line_starts_if_it_fits(view: QueueView) -> None:
    """A plan that only ever waits would keep all the laws above."""
    total = sum(host.slots for host in view.hosts)
    able = [g for g in sorted(view.queued, key=order) if g.not_before <= NOW and g.workers <= total]
    if able and able[0].workers <= free(view):
        assert able[0].job in started(plan(view, NOW))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(Priority), st.integers(0, 20),
                  st.integers(1, 5)),
        min_size=1, max_size=25,
    ),
    st.lists(st.integers(1, 2), min_size=1, max_size=3),
)  # fmt: skip
def test_in_a_finite_stream_everything_that_fits_has_its_turn(
    stream: list[tuple[int, Priority, int, int]], slots: list[int]
) -> None:
    queue = [
        QueuedGang(f"r#{n}", workers, priority, float(at))
        for n, (workers, priority, at, _) in enumerate(stream)
    ]
    lasts = {f"r#{n}": last for n, (*_, last) in enumerate(stream)}
    running: dict[str, tuple[int, tuple[Share, ...]]] = {}
    done: set[str] = set()
    for now in range(30 + sum(lasts.values())):
        done |= {job for job, (end, _) in running.items() if end <= now}
        running = {job: held for job, held in running.items() if job not in done}
        used = {f"h{n}": 0 for n in range(len(slots))}
        for _, placement in running.values():
            for share in placement:
                used[share.host] += share.count
        there = tuple(Host(f"h{n}", count, used[f"h{n}"]) for n, count in enumerate(slots))
        assert all(host.used <= host.slots for host in there)
        ready = [g for g in queue if g.submitted_at <= now and g.job not in {*running, *done}]
        for decision in plan(QueueView(tuple(ready), there), float(now)):
            if isinstance(decision, Start):
                running[decision.job] = (now + lasts[decision.job], decision.placement)
    assert done == {g.job for g in queue if g.workers <= sum(slots)}


# --- where a gang goes ---


@pytest.mark.parametrize(
    ("workers", "there", "shares"),
    [
        (2, [Host("a", 4, 0), Host("b", 2, 0)], (Share("b", 0, 2),)),  # best fit
        (2, [Host("b", 2, 0), Host("a", 2, 0)], (Share("a", 0, 2),)),  # ties by name
        (3, [Host("a", 1, 0), Host("b", 2, 0)], (Share("b", 0, 2), Share("a", 2, 1))),
        (3, [Host("b", 2, 0), Host("a", 2, 0)], (Share("a", 0, 2), Share("b", 2, 1))),
        (3, [Host("a", 4, 3), Host("b", 2, 1)], None),
        (1, [Host("a", 1, 3), Host("b", 1, 0)], (Share("b", 0, 1),)),  # a holds too much already
        (1, [], None),
    ],
)
def test_place(workers: int, there: list[Host], shares: tuple[Share, ...] | None) -> None:
    assert place(workers, tuple(there)) == shares


# --- who goes first ---


def test_class_comes_before_age_and_age_before_name() -> None:
    queued = [
        gang(1, priority=Priority.LOW),
        gang(2),
        gang(3),
        gang(4, priority=Priority.URGENT),
        gang(5, priority=Priority.HIGH),
        gang(0, submitted_at=3.0),
    ]
    jobs = [d.job for d in plan(QueueView(tuple(queued), ()), NOW)]
    assert jobs == ["r#4", "r#5", "r#2", "r#0", "r#3", "r#1"]


def test_a_wide_gang_keeps_later_ones_waiting_behind_it() -> None:
    view = QueueView((gang(1, 3), gang(2, 1)), (Host("a", 4, 2),))
    assert plan(view, NOW) == (
        Wait("r#1", "Needs 3 workers at once; 2 of 4 are free."),
        Wait("r#2", "Waits behind r#1, which is first in line."),
    )


def test_a_gang_wider_than_the_cluster_is_passed_over() -> None:
    first, second = plan(QueueView((gang(1, 5), gang(2, 1)), (Host("a", 4, 0),)), NOW)
    assert isinstance(first, Wait)
    assert first.reason.startswith("Needs 5 workers; the cluster has 4.")
    assert second == Start("r#2", (Share("a", 0, 1),))


def test_without_hosts_the_reason_is_that_none_has_joined() -> None:
    [decision] = plan(QueueView((gang(1),), ()), NOW)
    assert decision == Wait("r#1", "No worker has joined the cluster yet.")


def test_a_gang_in_back_off_lets_others_pass_and_starts_when_it_is_over() -> None:
    view = QueueView((gang(1, not_before=NOW + 2.5), gang(2)), (Host("a", 1, 0),))
    first, second = plan(view, NOW)
    assert first == Wait("r#1", "Retries in 2.5 s (back-off).", NOW + 2.5)
    assert second == Start("r#2", (Share("a", 0, 1),))
    assert started(plan(view, NOW + 2.5)) == ["r#1"]


def test_slots_that_one_decision_grants_are_gone_for_the_next() -> None:
    view = QueueView((gang(1, 2), gang(2, 2), gang(3, 1)), (Host("a", 3, 0), Host("b", 1, 0)))
    assert plan(view, NOW) == (
        Start("r#1", (Share("a", 0, 2),)),
        Start("r#2", (Share("a", 0, 1), Share("b", 1, 1))),
        Wait("r#3", "Needs 1 worker at once; 0 of 4 are free."),
    )
