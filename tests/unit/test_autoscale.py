"""How many workers gangs need, and which may go."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.control.autoscale import Autoscale, Demand, removable
from resilient_nb.control.cordon import Cordon
from tests.unit.fake_dask import FakeScheduler

counts = st.integers(0, 50)


@given(counts, counts, st.integers(1, 50), st.integers(1, 8))
def test_enough_workers_for_all_that_wait(
    covering: int, offered: int, wanted: int, per_worker: int
) -> None:
    demand = Demand(covering, offered, wanted, Fraction(per_worker))
    assert demand.workers * per_worker >= offered + wanted
    assert (demand.workers - 1) * per_worker < offered + wanted


@given(counts, counts)
def test_only_leases_count_where_nobody_waits(covering: int, offered: int) -> None:
    assert Demand(covering, offered, 0).workers == covering


def test_uneven_workers_count_by_their_average() -> None:
    assert Demand(0, 4, 4, Fraction(4, 3)).workers == 6


def test_tasks_that_are_shut_out_get_one_worker() -> None:
    assert Demand(4, 4, 0, shut_out=True).workers == 5


addresses = st.sampled_from(["a", "b", "c", "d", "e"])


@given(
    st.dictionaries(addresses, st.sampled_from(["7", "job-0", "job-1", "pod-x", "tcp://h:1"])),
    st.frozensets(addresses),
    st.dictionaries(addresses, st.sampled_from(["H", "I"])),
)
def test_what_is_leased_stays_with_its_siblings(
    names: dict[str, str], kept: frozenset[str], hosts: dict[str, str]
) -> None:
    free = removable(names.items(), kept, hosts)
    assert free <= names.keys() - kept
    for address in names.keys() - kept - free:
        siblings = [
            a
            for a in kept & names.keys()
            if hosts.get(a) == hosts.get(address)
            and names[a].rpartition("-")[0] == names[address].rpartition("-")[0] != ""
        ]
        assert siblings


class Adaptive(FakeScheduler):
    """A scheduler whose own wish is `wish`."""

    def __init__(self, wish: int) -> None:
        super().__init__()
        self.wish = wish
        self.queued: list[Any] = []
        self.unrunnable: dict[Any, Any] = {}
        self.add("w0", "w1", "w2")

    def adaptive_target(self, target_duration: Any = None) -> int:
        return self.wish


def test_the_target_is_the_larger_of_both_wishes() -> None:
    for wish, wanted, target in ((0, 0, 1), (2, 0, 2), (0, 4, 7), (9, 4, 9)):
        dask = Adaptive(wish)
        cordon = Cordon(dask)
        for address in dask.workers:
            cordon.agent_said(address, "H", 1)
        cordon.lease({"H": 1})
        Autoscale(dask, cordon, lambda wanted=wanted: (3, wanted), 1)
        assert dask.handlers["adaptive_target"](target_duration="5s") == target
        assert dask.adaptive_target() == target


def test_without_workers_the_setting_says_how_many_slots_one_has() -> None:
    dask = Adaptive(0)
    dask.workers.clear()
    auto = Autoscale(dask, Cordon(dask), lambda: (0, 8), 4)
    assert auto.target() == 2


def test_leased_workers_are_not_offered_for_closing() -> None:
    dask = Adaptive(0)
    cordon = Cordon(dask)
    for address in dask.workers:
        cordon.agent_said(address, "H", 1)
    cordon.lease({"H": 2})
    auto = Autoscale(dask, cordon, lambda: (3, 0), 1)
    assert [ws.address for ws in auto.may_go(dask.workers.values())] == ["w2"]
    dask.queued = ["t"]
    assert auto.demand().shut_out is False
    cordon.lease({"H": 3})
    assert auto.demand().shut_out is True
