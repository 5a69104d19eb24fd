"""Chaos: schedules, what is said, who may, and what the supervisor and a rank do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.core import chaos
from resilient_nb.core.lifecycle import replay
from resilient_nb.core.model import Injected, Injection, Outcome
from resilient_nb.errors import InvalidRequest, NotAllowed
from resilient_nb.rank.chaos import hold_gil
from resilient_nb.storage.failing import FailingDisk, Switch
from resilient_nb.storage.local import LocalStore
from resilient_nb.supervisor.chaos import Injector
from resilient_nb.testing.builders import a_failure, a_spec
from resilient_nb.testing.fakes import FakeCluster
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq


def until(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.002)
    return found


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


# --- schedules ---


@given(st.integers(0, 2**63), st.floats(1, 100), st.floats(0, 1000))
def test_a_schedule_follows_from_its_seed(seed: int, every: float, span: float) -> None:
    planned = chaos.schedule(seed, every, span)
    assert planned == chaos.schedule(seed, every, span)
    moments = [each.at for each in planned]
    assert moments == sorted(moments)
    assert all(0 <= at < span for at in moments)
    assert all(0 <= each.rank(4) < 4 for each in planned)
    longer = chaos.schedule(seed, every, 2 * span)
    assert longer[: len(planned)] == planned


def test_schedules_are_as_dense_as_was_asked_and_of_all_kinds() -> None:
    planned = chaos.schedule(7, 30.0, 300_000.0)
    assert 9_500 < len(planned) < 10_500
    assert {each.kind for each in planned} == set(Injection)
    assert {each.rank(3) for each in planned} == {0, 1, 2}
    assert planned != chaos.schedule(8, 30.0, 300_000.0)


def test_a_seed_means_the_same_everywhere() -> None:
    first = chaos.schedule(7, 30.0, 60.0)[0]
    assert (round(first.at, 6), first.kind, round(first.where, 6)) == FIRST


FIRST = (14.820518, Injection.KILL_RANK, 0.900761)

# --- what is said ---


def an_injection(**changes: Any) -> Injected:
    values: dict[str, Any] = {"at": 100.0, "seconds": 10.0, "user": "ada", **changes}
    return Injected("i1", Injection.STOP, 1, 1, "h0", **values)


def test_a_failure_says_that_it_was_made_on_purpose() -> None:
    [line] = chaos.evidence([an_injection()], 1, 108.0)
    assert line == "chaos: stop of rank 1 for 10 s by ada, 8.0 s before"
    assert chaos.is_chaos(a_failure(evidence=("It was stopped.", line)))
    assert not chaos.is_chaos(a_failure(evidence=("It was stopped.",)))


def test_chaos_explains_neither_other_attempts_nor_what_comes_long_after() -> None:
    assert chaos.evidence([an_injection()], 2, 108.0) == ()
    assert chaos.evidence([an_injection()], 1, 99.0) == ()
    assert chaos.evidence([an_injection()], 1, 400.0) == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ({}, {}, (0, None)),
        ({1: "a"}, {2: "a"}, (0, None)),
        ({1: "a", 2: "b"}, {1: "a", 2: "b", 3: "c"}, (2, True)),
        ({1: "a", 2: "b"}, {1: "a", 2: "c"}, (2, False)),
    ],
)
def test_numbers_are_compared_at_equal_steps(
    ours: dict[int, str], theirs: dict[int, str], found: tuple[int, bool | None]
) -> None:
    assert chaos.unchanged(ours, theirs) == found


# --- who may, and what is ordered ---


class Desk:
    """A job of two ranks that runs on a host."""

    def __init__(self, home: Path) -> None:
        self.cluster = FakeCluster(home, {"h0": 2})
        self.ask = partial(Commands(self.engine, "tcp://here"), user="ada")
        self.cluster.round()
        self.ask(rq.Submit("digits", a_spec(2, user="ada"), "r1"))
        for _ in range(3):
            self.cluster.round()
        self.cluster.orders.clear()

    @property
    def engine(self) -> Engine:
        return self.cluster.engine

    def inject(self, kind: Injection, user: str = "ada", rank: int = 1, **how: Any) -> Any:
        how.setdefault("id", f"i-{kind}")
        return self.ask(rq.Inject("digits#1", kind, rank=rank, **how), user=user)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_injection_is_noted_and_ordered_once(desk: Desk) -> None:
    done = desk.inject(Injection.STOP)
    assert (done.host, done.rank, done.epoch, done.seconds, done.user) == ("h0", 1, 1, 10.0, "ada")
    assert desk.inject(Injection.STOP) == done  # a repeated request
    [(host, order)] = desk.cluster.orders
    assert (host, order) == ("h0", orders.Chaos("digits#1", 1, done.id, Injection.STOP, 1, 10.0))
    assert desk.engine.view(desk.engine.world.jobs["digits#1"]).chaos == (done,)
    assert replay(desk.cluster.journal.events()) == desk.engine.world


def test_what_was_done_on_purpose_is_no_hosts_fault(desk: Desk) -> None:
    host = desk.cluster.hosts["h0"]
    for epoch in (1, 2, 3):
        desk.inject(Injection.KILL_RANK, id=f"i{epoch}")
        host.end(host.ranks["digits#1", epoch, 1], Outcome.EXITED, signal=9)
        for _ in range(4):
            desk.cluster.round()
    world = desk.engine.world
    failures = world.jobs["digits#1"].failures
    assert len(failures) == 3
    assert all(chaos.is_chaos(failure) for failure in failures)
    assert world.health == {}
    found = desk.engine.tallies.of("digits#1")
    assert (found.failures, found.repairs) == (3, 3)
    desk.cluster.restart_engine()
    assert desk.engine.tallies.of("digits#1") == found


@pytest.mark.parametrize("user", ["bob", "root"])
def test_chaos_is_for_ones_own_jobs_only(desk: Desk, user: str) -> None:
    with pytest.raises(NotAllowed, match=r"digits#1 is ada's, and you are"):
        desk.inject(Injection.KILL_RANK, user=user)
    assert desk.cluster.orders == []


def test_what_cannot_be_broken_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match="has the ranks 0 to 1"):
        desk.inject(Injection.STOP, rank=2)
    with pytest.raises(InvalidRequest, match="at most an hour"):
        desk.inject(Injection.STOP, seconds=1e6)
    with pytest.raises(InvalidRequest, match="no two checkpoints yet"):
        desk.inject(Injection.CORRUPT_CHUNK)
    desk.cluster.hosts["h0"].agent = False
    desk.cluster.agent_leaves("h0")
    with pytest.raises(InvalidRequest, match="no Dask worker at the moment"):
        desk.inject(Injection.KILL_RANK)
    assert desk.engine.world.jobs["digits#1"].chaos == ()


def test_only_a_head_with_a_checkpoint_before_it_is_damaged(desk: Desk) -> None:
    host = desk.cluster.hosts["h0"]
    first = host.write_checkpoint(host.ranks["digits#1", 1, 0], None)
    desk.cluster.round()
    with pytest.raises(InvalidRequest, match="no two checkpoints yet"):
        desk.inject(Injection.CORRUPT_CHUNK)
    second = host.write_checkpoint(host.ranks["digits#1", 1, 0], first.id)
    desk.cluster.round()
    assert desk.inject(Injection.CORRUPT_CHUNK).checkpoint == second.id
    order = desk.cluster.orders[-1][1]
    assert order.path.endswith(f"runs/{second.id}")


def test_a_job_that_waits_is_left_alone(desk: Desk) -> None:
    desk.ask(rq.Submit("other", a_spec(2, user="ada"), "r2"))
    with pytest.raises(InvalidRequest, match="chaos is for jobs that run"):
        desk.ask(rq.Inject("other#1", Injection.STOP, "i1"))


# --- what the supervisor does ---


@pytest.fixture
def sleeper() -> Iterator[Any]:
    """A process that a supervisor would take for a rank."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield SimpleNamespace(pid=process.pid)
    process.kill()
    process.wait()


def an_order(kind: Injection, seconds: float = 0.0, **changes: Any) -> orders.Chaos:
    values: dict[str, Any] = {"id": f"i-{kind}", "rank": 1, **changes}
    return orders.Chaos("digits#1", 1, what=kind, seconds=seconds, **values)


def an_injector(told: list[Any] | None = None) -> Injector:
    heard = told if told is not None else []
    return Injector(
        lambda child, order: heard.append(order), lambda order, text: heard.append(text)
    )


def test_a_stopped_rank_goes_on_when_its_time_is_over(sleeper: Any) -> None:
    injector = an_injector()
    injector.inject(an_order(Injection.STOP, 5.0), sleeper, 100.0)
    until(lambda: state(sleeper.pid) == "T")
    assert injector.next == 105.0
    injector.look(104.9, lambda child: True)
    assert state(sleeper.pid) == "T"
    injector.look(105.0, lambda child: True)
    until(lambda: state(sleeper.pid) in "RS")
    assert injector.next == float("inf")


def test_a_slow_rank_gets_a_tenth_of_its_time_and_then_all_of_it(sleeper: Any) -> None:
    injector = an_injector()
    injector.inject(an_order(Injection.SLOW, 1.0), sleeper, 0.0)
    states, now = [], 0.0
    while now < 1.0:
        injector.look(now, lambda child: True)
        wanted = "T" if injector._lasting[0].stopped else "RS"
        until(lambda w=wanted: state(sleeper.pid) in w)  # type: ignore[misc]
        states.append((min(injector.next, 1.0) - now, wanted))
        now = injector.next
    injector.look(1.0, lambda child: True)
    assert sum(lasts for lasts, wanted in states if wanted == "T") == pytest.approx(0.9, abs=0.05)
    until(lambda: state(sleeper.pid) in "RS")


def test_no_signal_goes_to_a_rank_that_has_ended(sleeper: Any) -> None:
    injector = an_injector()
    injector.inject(an_order(Injection.STOP, 5.0), sleeper, 0.0)
    until(lambda: state(sleeper.pid) == "T")
    injector.look(1.0, lambda child: False)  # its number is another process's now
    injector.look(9.0, lambda child: True)
    assert state(sleeper.pid) == "T"
    assert injector.next == float("inf")


def test_a_killed_rank_is_dead_and_an_order_counts_once(sleeper: Any) -> None:
    told: list[Any] = []
    injector = an_injector(told)
    injector.inject(an_order(Injection.KILL_RANK), sleeper, 0.0)
    until(lambda: state(sleeper.pid) == "Z")
    hang = an_order(Injection.HANG, 5.0)
    injector.inject(hang, sleeper, 0.0)
    injector.inject(hang, sleeper, 0.0)
    injector.inject(an_order(Injection.DROP_NETWORK), None, 0.0)
    assert told == [hang, "rank 1 has ended already"]


# --- what a rank does ---


def test_the_gil_is_held_for_as_long_as_was_said() -> None:
    ticks: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    until(lambda: len(ticks) > 3)
    began = time.monotonic()
    hold_gil(0.2)
    ended = time.monotonic()
    over.set()
    ticker.join()
    assert ended - began >= 0.2
    assert not [at for at in ticks if began + 0.02 < at < began + 0.19]


def test_signals_do_not_end_it_early() -> None:
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        began = time.monotonic()
        hold_gil(0.1)
        assert time.monotonic() - began >= 0.1
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


_CUT = """
import socket
from resilient_nb.rank.chaos import cut_connections
server = socket.create_server(("127.0.0.1", 0))
ours = socket.create_connection(server.getsockname())
theirs, _ = server.accept()
local, other = socket.socketpair()
assert cut_connections() == 2
assert ours.recv(1) == theirs.recv(1) == b""
local.send(b"x")
assert other.recv(1) == b"x"
socket.create_connection(server.getsockname())  # what listens goes on listening
"""


def test_connections_are_cut_and_nothing_else() -> None:
    """In a process of its own: this one's connections are others'."""
    subprocess.run([sys.executable, "-c", _CUT], check=True)


def test_a_disk_is_full_for_a_while(tmp_path: Path) -> None:
    switch = Switch()
    store = LocalStore(tmp_path / "store", FailingDisk(switch))
    store.create("before", b"1")
    switch.fail(errno.ENOSPC, 60.0)
    with pytest.raises(OSError, match="No space left") as caught:
        store.create("meanwhile", b"2")
    assert caught.value.errno == errno.ENOSPC
    assert store.read("before") == b"1"
    switch.fail(errno.ENOSPC, 0.0)
    store.create("after", b"3")
    assert [entry.key for entry in store.list()] == ["after", "before"]
