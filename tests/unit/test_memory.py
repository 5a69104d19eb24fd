"""Memory copies as control sees them: which hosts have them, and orders until they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.control.commands import Commands
from resilient_nb.core.memory import holders, peers
from resilient_nb.core.model import Outcome
from resilient_nb.testing.builders import a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import requests as rq
from resilient_nb.wire.orders import Kept, PutBack, Shelve

HOSTS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


@given(st.data(), HOSTS, st.integers(0, 2))
def test_as_many_hosts_may_be_lost_as_there_are_copies(
    data: st.DataObject, hosts: list[str], copies: int
) -> None:
    gang = data.draw(st.lists(st.sampled_from(hosts), min_size=1, max_size=4, unique=True))
    found = holders(gang, hosts, copies)
    assert len(set(found)) == len(found)
    assert set(found) <= set(hosts)
    lost = data.draw(st.lists(st.sampled_from(hosts), max_size=copies, unique=True))
    enough = len(hosts) > copies
    if copies and enough and set(gang) & set(lost):
        assert set(found) - set(lost)
    assert len(peers(gang, hosts, copies)) == min(copies, len(set(hosts) - set(gang)))


def test_copies_go_to_the_next_hosts() -> None:
    assert holders(["b"], "abcd", 1) == ("b", "c")
    assert holders(["d"], "abcd", 2) == ("d", "a", "b")
    assert holders(["a", "b"], "abc", 1) == ("c",)
    assert holders(["a", "b"], "ab", 1) == ("a", "b")
    assert holders(["a"], "a", 2) == ("a",)
    assert holders(["a"], "b", 1) == ("b",)  # a itself can't have any


class Site(FakeCluster):
    """Hosts that say what they have in memory."""

    def __init__(self, home: Path, *hosts: str) -> None:
        super().__init__(home, dict.fromkeys(hosts, 1))
        self.shelves: dict[str, tuple[str, ...] | None] = dict.fromkeys(hosts, ())
        self.trouble: dict[str, str] = {}
        self.rules: dict[str, Any] = {}

    def report(self, host: str, names: Any = None, acknowledge: bool = True) -> None:
        known = self.hosts[host]
        if known.agent:
            told = replace(
                known.report(names), shelf=self.shelves[host], shelf_trouble=self.trouble
            )
            reply = self.engine.report(told)
            self.rules[host] = reply.shelf
            for name in reply.acknowledged:
                known.facts.pop(name, None)

    def submit(self, run: str, workers: int = 1, copies: int = 1) -> None:
        spec = a_spec(workers, memory_copies=copies)
        Commands(self.engine, "tcp://here")(rq.Submit(run, spec, run), "ada")
        for _ in range(3):
            self.round()

    def checkpoint(self, run: str) -> str:
        """Have a run's rank 0 write a checkpoint; return its id."""
        (host,) = [
            h for h in self.hosts.values() for r in h.ranks.values()
            if r.attempt.run == run and r.rank == 0
        ]  # fmt: skip
        (rank,) = [r for r in host.ranks.values() if r.attempt.run == run and r.rank == 0]
        written = host.write_checkpoint(rank, self.engine.world.runs[run].head)
        self.report(host.name)
        return written.id

    def told(self, kind: type[Any] = Shelve) -> dict[str, Any]:
        """Return the orders since the last time, by host."""
        found = {host: order for host, order in self.orders if isinstance(order, kind)}
        self.orders.clear()
        return found

    def notes(self, job: str) -> tuple[str, ...]:
        return self.engine.live.of(job).notes


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path, "a", "b", "c")
    site.round()
    return site


def test_without_the_option_nothing_is_ordered(site: Site) -> None:
    site.submit("digits", copies=0)
    site.checkpoint("digits")
    site.round()
    assert site.told() == {}
    assert site.rules["a"] == {}


def test_a_checkpoint_is_copied_once_it_is_accepted(site: Site) -> None:
    site.submit("digits")
    assert site.engine.world.jobs["digits#1"].placement[0].host == "a"
    head = site.checkpoint("digits")
    told = site.told()
    assert told.keys() == {"a", "b"}
    assert told["b"] == Shelve(head, ("tcp://a", "tcp://c"))
    site.shelves["a"] = (head,)
    site.round()
    assert site.told() == {}  # it may be on its way
    site.round(5.0)
    assert site.told().keys() == {"b"}  # the order may have been lost
    site.shelves["b"] = (head,)
    site.round(5.0)
    assert site.told() == {}
    assert site.rules["a"] == site.rules["b"] == {"digits": Kept(head, 1, True)}
    assert site.rules["c"] == {"digits": Kept(head, 1, False)}
    newer = site.checkpoint("digits")
    assert site.told()["b"].checkpoint == newer


def test_what_fails_is_told_once_and_tried_less_often(site: Site) -> None:
    site.submit("digits")
    site.checkpoint("digits")
    site.told()
    site.trouble = {"digits": "b has no memory copy of it: full"}
    for _ in range(3):
        site.round(5.0)
    assert site.told() == {}
    assert site.notes("digits#1").count("b has no memory copy of it: full") == 1
    site.round(20.0)
    assert site.told().keys() == {"a", "b"}


def test_too_few_hosts_are_told(tmp_path: Path) -> None:
    site = Site(tmp_path, "a", "b")
    site.shelves["b"] = None  # it has no memory to give
    site.round()
    site.submit("digits", copies=2)
    head = site.checkpoint("digits")
    site.round()
    assert site.told().keys() == {"a"}
    (note,) = site.notes("digits#1")
    assert "--memory-copies 2: no other host has room" in note
    site.shelves["b"] = ()
    site.round()
    assert site.told()["b"].checkpoint == head


def test_hosts_that_are_about_to_read_get_it_first(site: Site) -> None:
    site.submit("digits", workers=2)
    head = site.checkpoint("digits")
    assert site.told().keys() == {"c"}  # each of the gang's has a part
    site.shelves["c"] = (head,)
    site.hosts["a"].crash()
    site.agent_leaves("a")
    for _ in range(40):
        site.round()
    assert {share.host for share in site.engine.world.jobs["digits#1"].placement} == {"b", "c"}
    to_b = [order for host, order in site.orders if host == "b" and isinstance(order, Shelve)]
    assert to_b[0] == Shelve(head, ("tcp://c",), awaited=True)


def test_what_the_store_has_lost_is_put_back_by_who_has_it(site: Site) -> None:
    site.submit("digits")
    head = site.checkpoint("digits")
    assert site.engine.memory.put_back(head) == ""
    site.shelves["b"] = (head,)
    site.round()
    site.told()
    assert [site.engine.memory.put_back(head) for _ in range(3)] == ["b"] * 3
    assert site.orders == [("b", PutBack(head))]


def test_when_the_job_has_ended_nothing_stays(site: Site) -> None:
    site.submit("digits")
    site.checkpoint("digits")
    Commands(site.engine, "tcp://here")(rq.Cancel("digits#1"), "ada")
    for rank in list(site.hosts["a"].ranks.values()):
        site.hosts["a"].end(rank, Outcome.LEFT)
    site.round()
    site.round()
    assert site.engine.world.jobs["digits#1"].state.final
    assert site.rules["a"] == {}
