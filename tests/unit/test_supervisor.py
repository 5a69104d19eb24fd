"""The real supervisor with light ranks: it forks, watches, tells, and no rank outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.core.model import Outcome
from resilient_nb.supervisor.place import Place, listen
from resilient_nb.wire.frames import frame
from resilient_nb.wire.orders import (
    Acknowledge,
    Kill,
    Leave,
    Note,
    Prepare,
    Prepared,
    RankDone,
    RankStarted,
    Shutdown,
)
from tests.unit.supervised import PATIENCE, SHARES, Agent, Host, gone, serving, until


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A supervisor that the test may end."""
    yield from serving(tmp_path / "place")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    yield from serving(tmp_path_factory.mktemp("supervisor") / "place")


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
    mine = [sample for sample in agent.samples if sample.job == agent.job]
    points = [point for sample in mine for point in sample.points]
    assert points == [(7, {"loss": 0.5})]  # once, though samples are sent again and again
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


def test_who_is_in_a_hurry_shortens_the_grace(agent: Agent) -> None:
    """It had all the time to go on elsewhere, and now its user cancels it."""
    agent.launch("deaf")
    agent.send(Leave(agent.job, 1, grace=600.0), Leave(agent.job, 1, grace=0.5))
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
    assert not gone(row.pid)
    assert [f.pid for f in second.facts.values() if isinstance(f, RankStarted)] == [row.pid]


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
    assert [row.job for row in fresh.ranks] == [fresh.job]


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


def test_an_order_that_goes_wrong_doesnt_end_the_ranks(host: Host) -> None:
    agent = host.agent()
    [pid] = agent.launch("deaf")
    done = f"{agent.job}/2/0/done"
    agent.send(agent.order("exit 0", epoch=2))
    agent.hear(lambda: done in agent.facts)
    log = host.place.log(agent.job.partition("#")[0], 1, 2, 0)
    log.unlink()
    log.mkdir()  # it can't be removed as a file is
    agent.send(Acknowledge((done,)), agent.order("exit 0", epoch=3))
    agent.hear(lambda: f"{agent.job}/3/0/done" in agent.facts)
    assert not gone(pid)


def test_a_rank_that_talks_nonsense_ends_alone(host: Host) -> None:
    """Its cell may write to any descriptor of its process."""
    agent = host.agent()
    [pid] = agent.launch("deaf")
    code = "import sys; sys._getframe(1).f_locals['channel'].sendall(b'\\0\\0\\0\\1\\xc1')"
    agent.send(agent.order(f"python {code}", epoch=2))
    until(lambda: "was not understood" in host.place.output.read_text(), "it is said")
    agent.send(Kill(agent.job, 2))
    agent.hear(lambda: f"{agent.job}/2/0/done" in agent.facts)
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
