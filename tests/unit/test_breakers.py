"""`core.breakers`, `core.health`: hosts on which jobs keep failing get no new ones for a while."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.core import breakers as br
from resilient_nb.core import causes, health
from resilient_nb.core.breakers import Breaker, Health, Trouble
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import JobState, Resources
from resilient_nb.core.placement import Room, place
from resilient_nb.core.queue import Gang, Host
from resilient_nb.core.room import most_memory
from resilient_nb.testing.builders import (
    START,
    Story,
    a_failure,
    a_row,
    an_end,
    an_error,
    failed,
    killed,
    on_hosts,
)
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq
from tests.unit.test_engine import Desk


def trouble(at: float, cause: str = causes.KILLED, job: str = "a#1", step: int = 5) -> Trouble:
    return Trouble(at, cause, job, step)


def opened(at: float = 0.0) -> Health:
    """Return a host whose breaker has just opened."""
    found = Health()
    for _ in range(br.MOST):
        found = found.failed(trouble(at))
    assert found.breaker(at) is Breaker.OPEN
    return found


# --- one host ---


def test_three_failures_within_an_hour_open_it() -> None:
    two = Health().failed(trouble(0.0)).failed(trouble(1800.0))
    assert two.breaker(1800.0) is Breaker.CLOSED
    assert two.failed(trouble(3599.0)).breaker(3599.0) is Breaker.OPEN
    assert two.failed(trouble(3601.0)).breaker(3601.0) is Breaker.CLOSED


@pytest.mark.parametrize("cause", [causes.CRASH, causes.HANG])
def test_what_comes_again_at_the_same_step_is_the_jobs_own(cause: str) -> None:
    found = Health()
    for n in range(10):
        found = found.failed(trouble(float(n), cause))
    assert found.breaker(10.0) is Breaker.CLOSED
    for n in range(2):
        found = found.failed(trouble(float(n), cause, step=20 + n))
    assert found.breaker(10.0) is Breaker.OPEN


def test_after_the_pause_one_job_may_try() -> None:
    found, later = opened(), br.FIRST_PAUSE
    assert found.shuns("b#1", later - 1)
    assert found.breaker(later) is Breaker.HALF_OPEN
    assert not found.shuns("b#1", later)
    found = found.took("b#1", later)
    assert not found.shuns("b#1", later)
    assert found.shuns("c#1", later)
    assert found.took("c#1", later) == found


def test_a_try_that_fails_doubles_the_pause_up_to_a_bound() -> None:
    found, now, pauses = opened(), br.FIRST_PAUSE, []
    for _ in range(7):
        found = found.took("b#1", now).failed(trouble(now + 1, job="b#1"))
        pauses.append(found.until - now - 1)
        now = found.until
    assert pauses == [1200.0, 2400.0, 4800.0, 9600.0, 14400.0, 14400.0, 14400.0]


def test_a_try_that_serves_or_lasts_closes_it() -> None:
    tried = opened().took("b#1", br.FIRST_PAUSE - 1)  # it is open still: this is no try
    assert tried.probe == ""
    tried = tried.took("b#1", br.FIRST_PAUSE + 1)
    assert tried.served(br.FIRST_PAUSE + 2) == Health()
    assert tried.breaker(br.FIRST_PAUSE + br.PROVEN) is Breaker.HALF_OPEN
    lasted = br.FIRST_PAUSE + 1 + br.PROVEN
    assert tried.breaker(lasted) is Breaker.CLOSED
    assert not tried.shuns("c#1", lasted)
    # One failure more is the first of a new count.
    again = tried.failed(trouble(lasted, job="b#1"))
    assert (len(again.troubles), again.breaker(lasted)) == (1, Breaker.CLOSED)


def test_of_a_host_that_is_gone_nothing_is_said_or_kept() -> None:
    found = opened()
    later = found.until + br.GONE
    assert found.words(later - 1)
    assert not found.is_past(later - 1)
    assert not found.words(later)
    assert found.is_past(later)
    assert found.failed(trouble(later)) == Health((trouble(later),))
    assert not Health((trouble(0.0),)).is_past(br.WITHIN - 1)
    assert Health((trouble(0.0),)).is_past(br.WITHIN)


def test_a_try_that_says_nothing_makes_way_for_another() -> None:
    tried = opened().took("b#1", 700.0)
    assert not tried.left("b#1", 710.0).shuns("c#1", 710.0)
    assert tried.left("x#1", 710.0) == tried


def test_checkpoints_of_those_that_were_there_before_dont_close_it() -> None:
    found = opened()
    assert found.served(10.0) == found


actions = st.lists(
    st.tuples(
        st.sampled_from(["fail", "took", "left", "served"]),
        st.sampled_from(["a#1", "b#1"]),
        st.sampled_from(sorted(br.OF_HOSTS)),
        st.floats(0.1, 3000.0),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(actions)
def test_whatever_happens_a_host_is_bounded_and_comes_back(what: list[Any]) -> None:
    found, now = Health(), 0.0
    for step, (kind, job, cause, after) in enumerate(what):
        now += after
        match kind:
            case "fail":
                found = found.failed(trouble(now, cause, job, step))
            case "took":
                found = found.took(job, now)
            case "left":
                found = found.left(job, now)
            case "served":
                found = found.served(now)
        assert len(found.troubles) <= 2 * br.MOST
        assert found.until - now <= br.LONGEST_PAUSE
        assert bool(found.words(now)) == (found.breaker(now) is not Breaker.CLOSED)
    # Whoever tries next may, and closes it.
    later = now + br.LONGEST_PAUSE + br.PROVEN
    found = found.left("a#1", later).left("b#1", later)
    assert not found.shuns("new#1", later)
    assert found.took("new#1", later).breaker(later + br.PROVEN) is Breaker.CLOSED


# --- the fold ---


def lost(story: Story, host: str = "h0", cause: str = causes.KILLED, **changes: Any) -> Story:
    failure = a_failure(cause, host=host, **changes)
    return story.stop().end(killed(0)).requeue(failure=failure).start(placement=on_hosts(1))


def test_failures_of_a_hosts_making_count_and_others_dont() -> None:
    story = Story().submit().start(placement=on_hosts(1))
    for n in range(4):
        lost(story, cause=causes.USER_ERROR, step=n)
        lost(story, cause=causes.OUT_OF_MEMORY, step=n)
    lost(story, host="")
    assert story.world.health == {}
    for _ in range(3):
        lost(story)
    assert health.shunned(story.world, story.now) == {"h0"}
    [text] = health.alerts(story.world, story.now)
    assert text == (
        "Host h0: new jobs go elsewhere, if others could hold them, for 10 min: "
        "3 × killed from outside."
    )


def test_hosts_that_come_and_go_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(br, "WITHIN", 3.0)
    story = lost(Story().submit().start(placement=on_hosts(1)), host="spot1")
    assert set(story.world.health) == {"spot1"}
    assert set(lost(story, host="spot2").world.health) == {"spot2"}


def test_a_checkpoint_of_a_try_closes_it() -> None:
    story = Story().submit().start(placement=on_hosts(1))
    for _ in range(3):
        lost(story)
    until = story.world.health["h0"].until
    world = replace(story.world, health={"h0": replace(story.world.health["h0"], until=START)})
    assert until > story.now
    story.world = world  # the pause is over
    story.checkpoint(20)
    assert story.world.health == {}


# --- where gangs go ---


def gang(workers: int = 1, **changes: Any) -> Gang:
    return Gang("a#1", "ada", "g", workers, 0.0, **changes)


def test_hosts_are_avoided_if_there_is_room_elsewhere() -> None:
    hosts = [Host("a", 2), Host("b", 2), Host("c", 2, used=2)]
    found = place(gang(avoid=("a",)), 1, 1, hosts)
    assert found is not None
    assert [share.host for share in found] == ["b"]
    found = place(gang(avoid=("a", "b")), 2, 2, hosts)
    assert found is not None
    found = place(gang(avoid=("a",)), 3, 3, hosts)
    assert found is not None
    assert sorted(share.host for share in found) == ["a", "b"]


rooms = st.lists(
    st.builds(Host, st.integers(0, 5).map("h{}".format), st.integers(0, 4), st.integers(0, 4)),
    max_size=6,
    unique_by=lambda host: host.id,
)


@settings(deadline=None, max_examples=200)
@given(rooms, st.integers(1, 8), st.sets(st.integers(0, 5).map("h{}".format), max_size=3))
def test_avoiding_never_keeps_a_gang_from_starting(
    there: list[Host], workers: int, avoid: set[str]
) -> None:
    found = Room(there).place(Resources(), workers, workers, avoid)
    plain = Room(there).place(Resources(), workers, workers)
    assert (found is None) == (plain is None)
    others = Room([h for h in there if h.id not in avoid])
    fits = others.place(Resources(), workers, workers)
    if found is not None:
        used = {share.host for share in found} & avoid
        assert bool(used) == (fits is None)
    if fits is not None:
        assert found == fits


def test_hosts_are_left_out_only_if_the_others_could_hold_all_that_wait() -> None:
    hosts = (Host("a", 4), Host("b", 2, used=2))
    assert health.kept_off(hosts, [gang(2)], frozenset({"a"}))
    assert not health.kept_off(hosts, [gang(2), gang(3)], frozenset({"a"}))
    assert not health.kept_off(hosts[:1], [gang(1)], frozenset({"a"}))
    assert health.kept_off(hosts, [gang(4, held=4)], frozenset({"a"}))
    assert not health.kept_off(hosts[:1], [gang(1, held=1)], frozenset({"a"}))
    assert not health.kept_off(hosts, [gang(1)], frozenset({"z"}))


def test_the_most_memory_is_what_the_whole_gang_could_have() -> None:
    slot = Resources(memory=4)
    hosts = [Host("a", 4, slot=slot), Host("b", 2, used=2, slot=slot)]
    assert most_memory(hosts, Resources(), 1) == 16
    assert most_memory(hosts, Resources(), 2) == 8
    assert most_memory(hosts, Resources(), 3) == 8
    assert most_memory(hosts, Resources(), 4) == 4
    assert most_memory(hosts, Resources(), 7) == 0
    assert most_memory([], Resources(), 1) is None
    assert most_memory([Host("a", 4)], Resources(), 1) == 0


# --- the engine ---


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def kill_rank(desk: Desk, name: str = "digits#1", signal: int = 9) -> None:
    """Have a job's only rank killed where it is."""
    job = desk.job(name)
    [share] = job.placement
    end = killed(0, signal, step=job.epoch)
    done = orders.RankDone(name, job.epoch, end)
    desk.report(share.host, done)


def begin(desk: Desk, name: str = "digits#1") -> str:
    """Have a job's ranks run; return its host."""
    job = desk.job(name)
    [share] = job.placement
    desk.report(share.host, orders.Prepared(name, job.epoch, 4000))
    facts = [orders.RankStarted(name, job.epoch, 0, 77)]
    desk.report(share.host, *facts, ranks=(a_row(name, job.epoch),))
    assert desk.job(name).state is JobState.RUNNING
    return share.host


def test_a_host_on_which_jobs_keep_dying_gets_no_more(desk: Desk) -> None:
    desk.report("h0")
    desk.submit()
    for _ in range(br.MOST):
        assert begin(desk) == "h0"
        kill_rank(desk)
    assert desk.job().state is JobState.STARTING  # nowhere else could hold it
    assert desk.job().placement[0].host == "h0"
    desk.report("h1")
    begin(desk)
    kill_rank(desk)
    desk.clock.advance(1.0)  # its back-off
    desk.engine.tick()
    assert begin(desk) == "h1"
    desk.submit("moons")
    desk.report("h1")
    assert begin(desk, "moons#1") == "h1"
    # h1 is full, and h0 is well for nobody.
    desk.submit("third")
    desk.report("h0")
    assert desk.job("third#1").state is JobState.QUEUED
    assert "h0" in desk.commands(rq.Why("third")).reason
    alerts = desk.commands(rq.GetQueue()).alerts
    assert any("h0" in text and "go elsewhere" in text for text in alerts)
    unwell = {host.id: host.unwell for host in desk.commands(rq.GetCluster()).hosts}
    assert unwell["h0"]
    assert not unwell["h1"]
    # After the pause one may try, and only one.
    desk.clock.advance(br.FIRST_PAUSE)
    for host in ("h0", "h1"):
        rows = tuple(a_row(n, desk.job(n).epoch) for n in ("digits#1", "moons#1") if host == "h1")
        desk.report(host, ranks=rows)
    desk.engine.tick()
    assert begin(desk, "third#1") == "h0"
    desk.submit("fourth")
    desk.engine.tick()
    assert desk.job("fourth#1").state is JobState.QUEUED
    desk.clock.advance(br.PROVEN)
    desk.report("h0", ranks=(a_row("third#1", desk.job("third#1").epoch),))
    desk.engine.tick()
    assert begin(desk, "fourth#1") == "h0"
    assert desk.world_is_journal()


def test_a_restart_of_the_control_plane_forgets_no_breaker(desk: Desk) -> None:
    desk.report("h0")
    desk.submit()
    for _ in range(br.MOST):
        begin(desk)
        kill_rank(desk)
    before = desk.engine.world.health
    assert before
    desk.restart()
    assert desk.engine.world.health == before
    assert replay(desk.journal.events()) == desk.engine.world


def test_a_crashed_job_goes_to_another_host(desk: Desk) -> None:
    desk.report("h0")
    desk.report("h1")
    desk.submit()
    first = begin(desk)
    kill_rank(desk, signal=11)
    assert desk.job().remedy.avoid == (first,)
    assert begin(desk) != first


def test_an_error_in_the_cell_says_nothing_of_its_host(desk: Desk) -> None:
    desk.running()
    desk.report("h0", orders.RankDone("digits#1", 1, failed(0, an_error("NameError"), step=3)))
    assert desk.engine.world.health == {}
    assert an_end(0).host == ""
