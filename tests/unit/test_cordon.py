"""Which workers ordinary tasks are kept off, on a scheduler that is a few dicts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from distributed import Status
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.control.cordon import PATIENCE, REST, UNKNOWN_FOR, Cordon, Member, cover
from resilient_nb.control.retirement import Retirement
from resilient_nb.testing.fakes import ManualClock
from tests.unit.fake_dask import FakeScheduler

members = st.lists(
    st.builds(
        Member,
        address=st.integers(0, 99).map("w{:02}".format),
        slots=st.integers(1, 4),
        tasks=st.integers(0, 3),
        covers=st.booleans(),
    ),
    unique_by=lambda m: m.address,
    max_size=8,
)


# --- the choice -----------------------------------------------------------------------------


@given(members, st.integers(0, 40))
def test_leases_are_covered_and_by_no_worker_too_many(found: list[Member], leased: int) -> None:
    slots = {m.address: m.slots for m in found}
    chosen = cover(found, leased)
    covered = sum(slots[a] for a in chosen)
    assert len(set(chosen)) == len(chosen)
    assert covered >= leased or set(chosen) == set(slots)
    if chosen:
        assert covered - slots[chosen[-1]] < leased


@given(members, st.integers(0, 40))
def test_no_busy_worker_while_an_idle_one_would_do(found: list[Member], leased: int) -> None:
    chosen = set(cover(found, leased))
    spared = [m for m in found if m.address not in chosen]
    new = [m for m in found if m.address in chosen and not m.covers]
    assert all(m.tasks <= other.tasks for m in new for other in spared)
    if any(m.covers for m in spared):
        assert not new


@given(members, st.integers(0, 40), st.randoms())
def test_the_choice_does_not_depend_on_the_order(
    found: list[Member], leased: int, dice: Any
) -> None:
    shuffled = list(found)
    dice.shuffle(shuffled)
    assert cover(found, leased) == cover(shuffled, leased)


@given(members, st.integers(0, 40))
def test_it_stays_with_what_it_chose(found: list[Member], leased: int) -> None:
    first = cover([Member(m.address, m.slots, m.tasks) for m in found], leased)
    again = [Member(m.address, m.slots, 3 - m.tasks, m.address in first) for m in found]
    assert set(cover(again, leased)) <= set(first)


# --- on a scheduler ---------------------------------------------------------------------------


@pytest.fixture
def dask() -> FakeScheduler:
    scheduler = FakeScheduler()
    scheduler.add("a1", "a2", "a3", "a4", "b1")
    return scheduler


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cordon(dask: FakeScheduler, clock: ManualClock) -> Cordon:
    """Host A with four workers of one slot, host B with one of two."""
    made = Cordon(dask, clock)
    for address in ("a1", "a2", "a3", "a4"):
        made.agent_said(address, "A", 1)
    made.agent_said("b1", "B", 2)
    return made


def second(cordon: Cordon, wanted: int = 0) -> dict[str, int]:
    """Let a second pass in which gangs want so many slots more."""
    return cordon.tick(lambda: wanted)


def says(dask: FakeScheduler, worker: str, status: str) -> None:
    """A worker reports its own status."""
    dask.stream_handlers["worker-status-change"](worker=worker, status=status, stimulus_id="x")


def test_leased_workers_are_closed_and_opened_again(cordon: Cordon, dask: FakeScheduler) -> None:
    cordon.lease({"A": 2, "B": 1})
    assert dask.running == {"a3", "a4"}
    cordon.lease({"A": 1})
    assert dask.running == {"a2", "a3", "a4", "b1"}
    cordon.lease({})
    assert dask.running == {"a1", "a2", "a3", "a4", "b1"}


def test_a_worker_that_says_it_runs_stays_closed(cordon: Cordon, dask: FakeScheduler) -> None:
    cordon.lease({"A": 4})
    says(dask, "a1", "paused")  # its memory is full
    says(dask, "a1", "running")  # and no longer
    says(dask, "a2", "running")
    assert dask.running == {"b1"}
    cordon.lease({})
    assert len(dask.running) == 5


def test_a_worker_that_paused_itself_stays_paused_after_its_lease(
    cordon: Cordon, dask: FakeScheduler
) -> None:
    cordon.lease({"A": 4})
    says(dask, "a1", "paused")
    cordon.lease({})
    assert dask.running == {"a2", "a3", "a4", "b1"}
    says(dask, "a1", "running")
    assert len(dask.running) == 5


def test_a_closing_worker_covers_nothing_and_is_left_alone(
    cordon: Cordon, dask: FakeScheduler
) -> None:
    says(dask, "a1", "closing_gracefully")
    cordon.lease({"A": 2})
    assert dask.running == {"a4", "b1"}
    cordon.lease({})
    assert dask.workers["a1"].status is Status.closing_gracefully


def test_busy_workers_are_spared_and_not_offered(cordon: Cordon, dask: FakeScheduler) -> None:
    dask.run_task("t", "a1")
    assert cordon.task_began("t") == "A"
    assert cordon.task_began("t") is None  # no news
    assert cordon.busy("A") == 1
    cordon.lease({"A": 3})
    assert dask.running == {"a1", "b1"}
    assert cordon.busy("A") == 1
    dask.workers["a1"].processing.clear()
    assert second(cordon)["A"] == 0
    assert second(cordon) == {}


def test_tasks_from_before_count_when_the_agent_comes(dask: FakeScheduler) -> None:
    dask.run_task("t", "b1")
    cordon = Cordon(dask)
    cordon.agent_said("b1", "B", 2)
    assert cordon.busy("B") == 2


def test_a_stolen_task_makes_the_thief_busy(cordon: Cordon, dask: FakeScheduler) -> None:
    stealing = type("Stealing", (), {})()
    stealing.in_flight = {"t": {"thief": dask.workers["a1"]}}
    dask.extensions["stealing"] = stealing
    cordon.lease({"A": 1})
    assert "a1" in dask.running  # another one was free
    stealing.in_flight = {}
    dask.run_task("t", "a1")
    dask.stream_handlers["steal-response"](key="t", state="ready", stimulus_id="x")
    assert cordon.busy("A") == 1


def test_another_worker_takes_the_place_of_one_that_died(
    cordon: Cordon, dask: FakeScheduler
) -> None:
    cordon.lease({"A": 2})
    del dask.workers["a1"]
    cordon.worker_left("a1")
    second(cordon)
    assert dask.running == {"a4", "b1"}


def test_a_new_worker_waits_until_its_host_is_known(
    cordon: Cordon, dask: FakeScheduler, clock: ManualClock
) -> None:
    cordon.lease({"B": 4})
    for address in ("b2", "c1", "other"):
        dask.add(address)
        dask.workers[address].status = Status.init
        cordon.worker_came(address)
        says(dask, address, "running")
    assert dask.running == {"a1", "a2", "a3", "a4"}
    cordon.agent_said("b2", "B", 2)
    cordon.agent_said("c1", "C", 1)
    assert dask.running == {"a1", "a2", "a3", "a4", "c1"}
    clock.advance(UNKNOWN_FOR)
    second(cordon)
    assert "other" in dask.running  # it has no agent, so it has no slots


def test_without_leases_a_new_worker_is_open_at_once(cordon: Cordon, dask: FakeScheduler) -> None:
    dask.add("c1")
    cordon.worker_came("c1")
    assert "c1" in dask.running


# --- draining ---------------------------------------------------------------------------------


def test_workers_drain_for_gangs_that_wait(cordon: Cordon, dask: FakeScheduler) -> None:
    for number, address in enumerate(("a1", "a2", "a3", "b1")):
        dask.run_task(f"t{number}", address)
        cordon.task_began(f"t{number}")
    dask.run_task("more", "a1")
    second(cordon, 2)
    assert dask.running == {"a1", "a4", "b1"}  # the two with the fewest tasks
    assert cordon.busy("A") == 3
    dask.workers["a2"].processing.clear()
    assert second(cordon, 1)["A"] == 2
    assert "a2" not in dask.running  # kept for the gang
    cordon.lease({"A": 2})
    assert "a1" in dask.running
    second(cordon)
    assert dask.running == {"a1", "a3", "b1"}


def test_what_no_gang_takes_is_given_back_for_a_while(
    cordon: Cordon, dask: FakeScheduler, clock: ManualClock
) -> None:
    dask.run_task("t", "a1")
    cordon.task_began("t")
    second(cordon, 100)
    assert "a1" not in dask.running
    clock.advance(1000.0)
    second(cordon, 100)
    assert "a1" not in dask.running  # it hasn't drained yet: patience begins when it has
    dask.workers["a1"].processing.clear()
    second(cordon, 100)
    clock.advance(PATIENCE)
    second(cordon, 100)
    assert "a1" in dask.running
    dask.run_task("t", "a1")
    cordon.task_began("t")
    clock.advance(REST - 1)
    second(cordon, 100)
    assert "a1" in dask.running
    clock.advance(1)
    second(cordon, 100)
    assert "a1" not in dask.running


@given(st.data())
def test_laws_of_the_cordon(data: st.DataObject) -> None:
    """Whatever happens: leases are covered if they can be, and nothing else is closed for long."""
    dask, clock = FakeScheduler(), ManualClock()
    cordon = Cordon(dask, clock)
    places = {f"{host}{n}": host for host in "AB" for n in range(3)}
    leased: dict[str, int] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        address = data.draw(st.sampled_from(sorted(places)))
        match data.draw(st.sampled_from(["come", "go", "lease", "task", "end", "says", "tick"])):
            case "come" if address not in dask.workers:
                dask.add(address)
                cordon.worker_came(address)
                cordon.agent_said(address, places[address], 1)
            case "go" if address in dask.workers:
                del dask.workers[address]
                cordon.worker_left(address)
            case "lease":
                leased = {h: data.draw(st.integers(0, 3)) for h in "AB"}
                cordon.lease(leased)
            case "task" if address in dask.running:
                dask.run_task(f"t{address}", address)
                cordon.task_began(f"t{address}")
            case "end" if address in dask.workers:
                dask.workers[address].processing.clear()
            case "says" if address in dask.workers:
                says(dask, address, data.draw(st.sampled_from(["running", "paused"])))
            case "tick":
                second(cordon, data.draw(st.integers(0, 3)))
                clock.advance(1.0)
    clock.advance(PATIENCE + REST)
    second(cordon)
    for host in "AB":
        mine = {a for a in dask.workers if places[a] == host}
        covering = cordon.covering() & mine
        assert len(covering) == min(leased.get(host, 0), len(mine))
        assert not covering & dask.running
        assert all(cordon.holds(a) == (a in covering) for a in mine)
        with_tasks = {a for a in mine - covering if dask.workers[a].processing}
        assert cordon.busy(host) == len(with_tasks)


# --- retiring ---------------------------------------------------------------------------------


@dataclass
class FakeTenants:
    """Gangs that leave after some looks, or never."""

    leases: dict[str, int]
    looks: int = 3
    asked: list[str] = field(default_factory=list)
    withdrawn: dict[str, int] = field(default_factory=dict)

    def leased(self, host: str) -> int:
        if host in self.asked:
            self.looks -= 1
            if self.looks <= 0:
                self.leases[host] = 0
        return self.leases.get(host, 0)

    def vacate(self, host: str, reason: str) -> None:
        assert reason
        self.asked.append(host)

    def set_busy(self, host: str, slots: int) -> None:
        self.withdrawn[host] = slots


def test_a_worker_that_leases_need_is_vacated_first(cordon: Cordon, dask: FakeScheduler) -> None:
    tenants = FakeTenants({"A": 4})
    Retirement(dask, cordon, tenants, 1.0)
    cordon.lease({"A": 4})
    done = asyncio.run(dask.retire_workers(workers=["a1"]))
    assert tenants.asked == ["A"]
    assert tenants.leases["A"] == 0
    assert set(done) == {"a1"}


def test_others_take_over_where_they_can(cordon: Cordon, dask: FakeScheduler) -> None:
    tenants = FakeTenants({"A": 2})
    Retirement(dask, cordon, tenants, 1.0)
    cordon.lease({"A": 2})
    asyncio.run(dask.handlers["retire_workers"](workers=["a1", "a2"], close_workers=True))
    assert tenants.asked == []
    assert tenants.withdrawn == {"A": 2}  # at once, before a gang is started there
    assert cordon.covering() == {"a3", "a4"}
    assert dask.retired == [{"workers": ["a1", "a2"], "names": None, "close_workers": True}]


def test_names_are_understood_wherever_they_stand(cordon: Cordon, dask: FakeScheduler) -> None:
    for options in ({"names": ["name-of-b1"]}, {"workers": ["name-of-b1"]}):
        tenants = FakeTenants({"B": 1})
        Retirement(dask, cordon, tenants, 1.0)
        asyncio.run(dask.handlers["retire_workers"](**options))
        assert tenants.asked == ["B"]


def test_a_gang_that_does_not_leave_is_not_waited_for_for_ever(
    cordon: Cordon, dask: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilient_nb.control.retirement._MARGIN", 0.0)
    Retirement(dask, cordon, FakeTenants({"B": 1}, looks=1 << 30), 0.1)
    assert set(asyncio.run(dask.handlers["retire_workers"](workers=["b1"]))) == {"b1"}


def test_a_worker_that_could_not_be_retired_works_again(
    cordon: Cordon, dask: FakeScheduler
) -> None:
    Retirement(dask, cordon, FakeTenants({}), 0.1)
    dask.add("stuck")
    cordon.agent_said("stuck", "S", 1)
    assert asyncio.run(dask.handlers["retire_workers"](workers=["stuck"])) == {}
    assert dask.stream_comms["stuck"].messages[-1]["status"] == "running"
    assert "stuck" in dask.running


def test_a_retiring_workers_slots_are_not_offered(cordon: Cordon) -> None:
    cordon.retire(["b1"])
    assert cordon.busy("B") == 2
    assert cordon.staying("B") == 0
    cordon.stay(["b1"])
    assert cordon.busy("B") == 0
