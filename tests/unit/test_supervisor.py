"""The real supervisor with light ranks: it forks, watches, tells, and no rank outlives it."""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from resilient_nb.core.model import Cell, Outcome, RankEnd
from resilient_nb.supervisor.place import Place, listen, short_path
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import (
    FACTS,
    ORDERS,
    Acknowledge,
    Kill,
    Launch,
    Leave,
    Note,
    Prepare,
    Prepared,
    RankDone,
    RankStarted,
    Shutdown,
)

ENTRY = "resilient_nb.testing.entries:scripted"
PATIENCE = 10.0
SHARES = re.compile(r"shares (\d+) slots from (\d+) with (\d+)\n")
_numbers = itertools.count(1)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition that no descriptor tells of."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        select.select([], [], [], 0.01)
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Agent:
    """A plain client of the supervisor's socket; keeps all that it was told.

    `job` is its own, so that tests can share a supervisor; `of` and `rows` show only that.
    """

    def __init__(self, place: Place) -> None:
        self.socket = self._connect(place)
        self.job = f"job{next(_numbers)}#1"
        self._place = place
        self.facts: dict[str, Any] = {}
        self.samples: list[dict[str, Any]] = []
        self.ranks: list[dict[str, Any]] = []
        self.speaks: bool | None = None
        self.closed = False
        self._reader = FrameReader()

    @staticmethod
    def _connect(place: Place) -> socket.socket:
        def attempt() -> socket.socket | None:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            name, fd = short_path(place.socket)
            try:
                client.connect(name)
            except OSError:
                client.close()
                return None
            finally:
                if fd is not None:
                    os.close(fd)
            return client

        return until(place.folder.exists, "folder") and until(attempt, "socket")

    def send(self, *orders: object) -> None:
        for order in orders:
            self.socket.sendall(frame(ORDERS.pack(order)))

    def hear(self, until: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Listen until the condition holds; return what it gives."""
        deadline = time.monotonic() + timeout
        while not (found := until()):
            left = deadline - time.monotonic()
            assert left > 0, f"heard only {self.facts}, {self.ranks}"
            assert not self.closed, f"hung up after {list(self.facts)}"
            if select.select([self.socket], [], [], left)[0]:
                self._take(self.socket.recv(1 << 16))
        return found

    def _take(self, data: bytes) -> None:
        self.closed = not data
        for message in self._reader.feed(data):
            self.speaks = message["speaks"]
            if self.speaks:
                self.ranks = message["ranks"]
                self.samples += message["samples"]
                self.facts.update({n: FACTS.unpack(dict(fact)) for n, fact in message["facts"]})

    def of(self, kind: type[Any]) -> list[Any]:
        return [f for f in self.facts.values() if isinstance(f, kind) and f.job == self.job]

    @property
    def rows(self) -> list[tuple[int, int, int]]:
        """The job's live ranks as (epoch, rank, pid)."""
        mine = [row for row in self.ranks if row["job"] == self.job]
        return [(row["epoch"], row["rank"], row["pid"]) for row in mine]

    def log(self, rank: int = 0, epoch: int = 1) -> str:
        return self._place.log(self.job.partition("#")[0], 1, epoch, rank).read_text()

    def ended(self, count: int = 1) -> list[RankEnd]:
        """Wait for so many ends."""
        done = self.hear(lambda: found if len(found := self.of(RankDone)) >= count else None)
        return [fact.end for fact in done]

    def order(self, source: str, count: int = 1, epoch: int = 1) -> Launch:
        """The order to launch ranks that behave as `source` says."""
        return Launch(an_attempt(self.job, epoch, count, cell=Cell(source)), 0, count)

    def launch(self, source: str, count: int = 1, epoch: int = 1) -> list[int]:
        """Launch ranks; return their pids when all of them have said hello."""
        self.send(self.order(source, count, epoch))

        def pids() -> list[int] | None:
            found = [fact.pid for fact in self.of(RankStarted) if fact.epoch == epoch]
            said = [fact for fact in self.of(Note) if fact.epoch == epoch]
            return found if len(found) == len(said) == count else None

        return list(self.hear(pids))

    def close(self) -> None:
        self.socket.close()


class Host:
    """A supervisor of its own folder, as a process that the test can kill and wait for."""

    def __init__(self, folder: Path, orphan_grace: float = 60.0) -> None:
        self.place = Place(folder)
        self.place.make()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.agents: list[Agent] = []
        self._grace = orphan_grace
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "resilient_nb.supervisor", str(self.place.folder)]
        command += ["--entry", ENTRY, "--orphan-grace", str(self._grace)]
        with self.place.output.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append(process)
        return process

    def agent(self) -> Agent:
        agent = Agent(self.place)
        self.agents.append(agent)
        return agent

    def end(self) -> None:
        for agent in self.agents:
            agent.close()
        for process in self.processes:
            process.kill()  # ranks die with it
            process.wait(PATIENCE)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A supervisor that the test may end."""
    made = Host(tmp_path / "place")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("supervisor") / "place")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def agent(shared: Host) -> Iterator[Agent]:
    """An agent with a job of its own on a supervisor that all tests share."""
    assert shared.process.poll() is None, shared.place.output.read_text()
    made = shared.agent()
    yield made
    made.send(*(Kill(made.job, epoch) for epoch in range(9, 0, -1)))
    made.send(Acknowledge(tuple(made.facts)))
    made.close()


# --- a rank's life ---


def test_a_rank_is_launched_heard_and_ends_well(shared: Host, agent: Agent) -> None:
    [pid] = agent.launch("finish")
    assert shared.process.pid != pid
    [end] = agent.ended()
    assert (end.rank, end.outcome, end.exit_code, end.signal) == (0, Outcome.FINISHED, 0, None)
    assert (end.step, end.ordered, end.error) == (7, False, None)
    assert end.peak_rss > 1 << 20
    agent.hear(lambda: not agent.rows)
    assert agent.of(Note)[0].text == "hello"
    mine = [sample for sample in agent.samples if sample["job"] == agent.job]
    points = [point for sample in mine for point in sample["points"]]
    assert points == [[7, {"loss": 0.5}]]  # once, though samples are sent again and again
    assert f"rank 0 of {agent.job} in attempt 1, local 0\n" in agent.log()


def test_the_table_lists_live_ranks_with_their_processes(agent: Agent) -> None:
    pids = agent.launch("deaf", count=2)
    agent.hear(lambda: len(agent.rows) == 2)
    assert agent.rows == [(1, 0, pids[0]), (1, 1, pids[1])]
    assert all(os.getsid(pid) == pid for pid in pids)  # each can be killed with its children


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("fail no luck", (Outcome.FAILED, 1, None, "no luck")),
        ("exit 0", (Outcome.EXITED, 0, None, None)),  # no word: no success
        ("exit 3", (Outcome.EXITED, 3, None, None)),
        ("die", (Outcome.EXITED, None, signal.SIGSEGV, None)),
    ],
)
def test_how_a_rank_ended_is_told(agent: Agent, source: str, expected: tuple[Any, ...]) -> None:
    agent.send(agent.order(source))
    [end] = agent.ended()
    message = end.error.message if end.error else None
    assert (end.outcome, end.exit_code, end.signal, message) == expected
    assert not end.ordered


def test_an_entry_that_raises_is_no_success_and_its_traceback_is_kept(
    agent: Agent,
) -> None:
    agent.send(agent.order("exit no-number"))
    [end] = agent.ended()
    assert (end.outcome, end.exit_code) == (Outcome.EXITED, 70)
    assert "ValueError: invalid literal" in agent.log()


def test_a_killed_rank_is_reported_at_once(agent: Agent) -> None:
    pids = agent.launch("deaf", count=2)
    began = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    [end] = agent.ended()
    assert time.monotonic() - began < 2.0
    assert (end.rank, end.outcome, end.signal) == (1, Outcome.EXITED, signal.SIGKILL)
    assert not end.ordered
    assert not gone(pids[0])


def test_a_killed_rank_takes_its_children_along(agent: Agent) -> None:
    [pid] = agent.launch("parent")
    line = until(lambda: [row for row in agent.log().splitlines() if "child" in row], "child")
    child = int(line[0].split()[1])
    os.kill(pid, signal.SIGKILL)
    agent.ended()
    until(lambda: gone(child), "end of the child")


# --- orders ---


def test_prepare_binds_a_socket_that_rank_0_inherits(agent: Agent) -> None:
    agent.send(Prepare(agent.job, 1))
    [prepared] = agent.hear(lambda: agent.of(Prepared))
    socket.create_connection(("127.0.0.1", prepared.port), timeout=PATIENCE).close()
    agent.launch("deaf", count=2)
    assert "rendezvous True" in agent.log(0)
    assert "rendezvous False" in agent.log(1)


def test_prepare_again_gives_the_same_port_and_a_newer_attempt_another(agent: Agent) -> None:
    agent.send(Prepare(agent.job, 1))
    [first] = agent.hear(lambda: agent.of(Prepared))
    agent.facts.clear()
    agent.send(Prepare(agent.job, 1), Prepare(agent.job, 2))
    agent.hear(lambda: len(agent.of(Prepared)) == 2)
    assert [(fact.epoch, fact.port == first.port) for fact in agent.of(Prepared)] == [
        (1, True),
        (2, False),
    ]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first.port), timeout=PATIENCE)


def test_ranks_share_slots_and_gangs_side_by_side_have_their_own(agent: Agent) -> None:
    """Fewer slots than ranks; ordered twice, and beside another gang."""

    def slots(rank: int, epoch: int) -> tuple[int, int, int]:
        """How many slots, from which one on, for how many ranks."""
        said = until(lambda: SHARES.search(agent.log(rank, epoch)), "its output")
        return tuple(int(number) for number in said.groups())  # type: ignore[return-value]

    order = replace(agent.order("deaf", count=3), slots=2)
    agent.send(order, order)
    agent.launch("deaf", count=2, epoch=2)
    count, first, ranks = slots(0, 1)
    assert (count, ranks) == (2, 3)
    assert slots(1, 1) == slots(2, 1) == slots(0, 1)
    assert slots(0, 2) == (2, slots(1, 2)[1], 2)
    assert abs(first - slots(0, 2)[1]) >= 2


def test_a_launch_that_comes_twice_forks_once(agent: Agent) -> None:
    pids = agent.launch("deaf", count=2)
    assert agent.launch("deaf", count=2) == pids
    agent.hear(lambda: len(agent.rows) == 2)


def test_a_launch_that_comes_late_doesnt_fork_again_what_has_ended(agent: Agent) -> None:
    """Control repeats a launch when it has not heard of a rank; this one was just quick."""
    agent.launch("finish")
    agent.ended()
    agent.send(agent.order("finish"))
    agent.launch("deaf", epoch=2)  # all that was ordered before has been obeyed
    assert agent.log().count("rank 0 of") == 1


def test_kill_ends_the_attempt_and_says_that_we_did(agent: Agent) -> None:
    pids = agent.launch("deaf", count=2)
    other = agent.launch("deaf", epoch=2)
    agent.send(Kill(agent.job, 1))
    ends = agent.ended(2)
    assert [(end.signal, end.ordered) for end in ends] == [(signal.SIGKILL, True)] * 2
    assert all(gone(pid) for pid in pids)
    assert not gone(other[0])


def test_an_end_before_the_kill_isnt_taken_for_ours(agent: Agent) -> None:
    pids = agent.launch("deaf", count=2)
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: gone(pids[0]), "end of rank 0")
    agent.send(Kill(agent.job, 1))
    ends = sorted(agent.ended(2), key=lambda end: end.rank)
    assert [end.ordered for end in ends] == [False, True]


def test_an_end_that_waits_to_be_seen_isnt_taken_for_ours(shared: Host, agent: Agent) -> None:
    """The order is read before the supervisor has looked after its children."""
    pids = agent.launch("deaf", count=2)
    os.kill(shared.process.pid, signal.SIGSTOP)
    try:
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: gone(pids[0]), "end of rank 0")
        agent.send(Kill(agent.job, 1))
    finally:
        os.kill(shared.process.pid, signal.SIGCONT)
    ends = sorted(agent.ended(2), key=lambda end: end.rank)
    assert [end.ordered for end in ends] == [False, True]


def test_a_rank_that_had_finished_is_no_victim_of_the_kill(agent: Agent) -> None:
    """Destroying its process group hangs, say: what it said of its end stands."""
    agent.launch("linger")
    agent.hear(lambda: len(agent.of(Note)) == 2)
    agent.send(Kill(agent.job, 1))
    [end] = agent.ended()
    assert (end.outcome, end.ordered, end.signal) == (Outcome.FINISHED, False, signal.SIGKILL)


@pytest.mark.parametrize("kills", [[2], [2, 1]])
def test_an_attempt_that_was_killed_is_never_launched_again(agent: Agent, kills: list[int]) -> None:
    """A late launch, overtaken by the kill; a kill of a still older attempt changes nothing."""
    agent.send(*(Kill(agent.job, epoch) for epoch in kills))
    agent.send(agent.order("deaf", epoch=2))
    [pid] = agent.launch("deaf", epoch=3)
    assert [fact.epoch for fact in agent.of(RankStarted)] == [3]
    assert not gone(pid)


def test_leave_lets_a_rank_end_by_itself(agent: Agent) -> None:
    agent.launch("train", count=2)
    agent.send(Leave(agent.job, 1, grace=60.0))
    ends = agent.ended(2)
    assert [(end.outcome, end.ordered, end.step) for end in ends] == [(Outcome.LEFT, False, 8)] * 2
    assert all(0 < end.vacated_s < PATIENCE for end in ends)


def test_a_rank_that_doesnt_leave_is_killed_after_the_grace(agent: Agent) -> None:
    agent.launch("deaf")
    began = time.monotonic()
    agent.send(Leave(agent.job, 1, grace=0.5))
    [end] = agent.ended()
    assert 0.5 <= end.vacated_s <= time.monotonic() - began
    assert (end.outcome, end.signal, end.ordered) == (Outcome.EXITED, signal.SIGKILL, True)


def test_leave_again_doesnt_prolong_the_grace(agent: Agent) -> None:
    """Control may repeat the order with every report, or a person press cancel twice."""
    agent.launch("deaf")
    agent.send(Leave(agent.job, 1, grace=0.5), Leave(agent.job, 1, grace=600.0))
    [end] = agent.ended()
    assert end.ordered


def test_orders_for_another_attempt_do_nothing(agent: Agent) -> None:
    [pid] = agent.launch("train", epoch=4)
    agent.send(
        Kill(agent.job, 3), Leave(agent.job, 3, 0.0), Kill("other#1", 4), Acknowledge(("nonsense",))
    )
    agent.launch("deaf", epoch=5)  # all of it has been obeyed by now
    assert not gone(pid)
    assert agent.of(RankDone) == []


def test_shutdown_leaves_no_process_and_no_socket(host: Host) -> None:
    agent = host.agent()
    pids = agent.launch("deaf", count=2)
    agent.send(Shutdown())
    assert host.process.wait(PATIENCE) == 0
    assert all(gone(pid) for pid in pids)
    assert not host.place.socket.exists()
    assert not host.place.pid.exists()


# --- facts are kept until they are acknowledged ---


def test_facts_are_told_again_to_the_next_agent_until_acknowledged(host: Host) -> None:
    agent = host.agent()
    agent.launch("finish")
    agent.ended()
    agent.close()
    second = host.agent()
    second.hear(lambda: len(second.facts) == len(agent.facts))
    assert second.facts == agent.facts
    assert second.speaks
    second.send(Acknowledge(tuple(second.facts)))
    second.launch("deaf")
    second.close()
    third = host.agent()
    third.hear(lambda: third.ranks)
    assert {fact.job for fact in third.facts.values()} == {second.job}
    with pytest.raises(FileNotFoundError):
        agent.log()  # its output was shipped before


def test_one_agent_speaks_and_the_next_takes_over_when_it_goes(host: Host) -> None:
    agent = host.agent()
    agent.launch("deaf")
    second = host.agent()
    second.hear(lambda: second.speaks is not None)
    assert (agent.speaks, second.speaks) == (True, False)
    assert second.facts == {}
    agent.close()
    second.hear(lambda: second.speaks)
    second.hear(lambda: second.ranks)
    assert second.facts == agent.facts


def test_an_agent_that_doesnt_acknowledge_loses_its_turn(host: Host) -> None:
    """Its worker may be stopped or stuck: facts go on by another one."""
    agent = host.agent()
    agent.launch("deaf")
    second = host.agent()
    second.hear(lambda: second.speaks)
    second.hear(lambda: second.ranks)
    assert second.facts == agent.facts
    agent.hear(lambda: agent.speaks is False)


# --- who outlives whom ---


def test_ranks_outlive_an_agents_process(host: Host) -> None:
    code = (
        "import socket, sys\n"
        "from resilient_nb.core.model import Cell\n"
        "from resilient_nb.testing.builders import an_attempt\n"
        "from resilient_nb.wire.frames import frame\n"
        "from resilient_nb.wire.orders import ORDERS, Launch\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        "order = Launch(an_attempt(cell=Cell('deaf')), 0, 1)\n"
        "client.sendall(frame(ORDERS.pack(order)))\n"
        "while True: client.recv(1 << 16)\n"
    )
    host.agent().close()  # the socket is there
    first = subprocess.Popen([sys.executable, "-c", code, str(host.place.socket)])
    try:
        log = host.place.log("digits", 1, 1, 0)
        until(lambda: log.exists() and "rendezvous" in log.read_text(), "launch")
    finally:
        first.kill()
        first.wait(PATIENCE)
    second = host.agent()
    [row] = second.hear(lambda: second.ranks)
    assert not gone(row["pid"])
    assert [f.pid for f in second.facts.values() if isinstance(f, RankStarted)] == [row["pid"]]


def test_ranks_die_with_their_supervisor(host: Host) -> None:
    agent = host.agent()
    pids = agent.launch("deaf", count=2)
    host.process.kill()
    host.process.wait(PATIENCE)
    until(lambda: all(gone(pid) for pid in pids), "end of the ranks")


def test_a_new_supervisor_takes_the_place_of_a_killed_one(host: Host) -> None:
    agent = host.agent()
    agent.launch("deaf")
    host.process.kill()
    host.process.wait(PATIENCE)
    assert host.place.socket.exists()  # nobody could tidy up
    host.start()
    fresh = host.agent()
    fresh.launch("deaf")
    fresh.hear(lambda: fresh.ranks)
    assert [row["job"] for row in fresh.ranks] == [fresh.job]


def test_a_second_supervisor_leaves_at_once(host: Host) -> None:
    agent = host.agent()
    agent.launch("deaf")
    assert host.start().wait(PATIENCE) == 0
    agent.launch("deaf", epoch=2)
    assert host.process.poll() is None
    assert host.place.pid.read_text() == str(host.process.pid)


def test_sigterm_ends_ranks_too(host: Host) -> None:
    agent = host.agent()
    [pid] = agent.launch("deaf")
    host.process.terminate()
    assert host.process.wait(PATIENCE) == 0
    assert gone(pid)


def test_ranks_that_nobody_adopts_end_after_the_grace(tmp_path: Path) -> None:
    host = Host(tmp_path / "place", orphan_grace=0.5)
    try:
        agent = host.agent()
        [pid] = agent.launch("deaf")
        agent.close()
        assert host.process.wait(PATIENCE) == 0
        assert gone(pid)
    finally:
        host.end()


# --- faults of one don't hurt the others ---


def test_a_rank_that_cant_be_launched_doesnt_end_the_others(host: Host) -> None:
    """A full disk, say: here the folder of the next job's output can't be made."""
    agent = host.agent()
    [pid] = agent.launch("deaf")
    (host.place.folder / "ranks" / "full").write_text("in the way")
    agent.job = "full#1"
    agent.send(agent.order("deaf"))
    [end] = agent.ended()
    assert end.outcome in (Outcome.EXITED, Outcome.FAILED)
    assert not gone(pid)


@pytest.mark.parametrize("junk", [frame({"kind": "FromTheFuture"}), frame(7), b"\0\0\0\1\xc1"])
def test_an_agent_that_talks_nonsense_doesnt_end_the_ranks(host: Host, junk: bytes) -> None:
    """An upgraded Dask worker, say: its order is unknown here, but the ranks must live on."""
    agent = host.agent()
    [pid] = agent.launch("deaf")
    agent.socket.sendall(junk)
    agent.close()
    second = host.agent()
    second.hear(lambda: second.ranks)
    assert not gone(pid)


# --- where it is found ---


def test_a_folder_too_deep_for_a_socket_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    assert len(str(folder / "socket")) > 108
    host = Host(folder)
    try:
        agent = host.agent()
        agent.launch("finish")
        agent.ended()
    finally:
        host.end()


def test_only_the_owner_can_reach_the_socket(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.make()
    before = os.umask(0)
    try:
        with listen(place.socket):
            assert place.socket.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert place.folder.stat().st_mode & 0o777 == 0o700


def test_places_of_clusters_and_hosts_differ(tmp_path: Path) -> None:
    folders = {Place.of(tmp_path, c, h).folder for c in ("c1", "c2") for h in ("h1", "h2")}
    assert len(folders) == 4
