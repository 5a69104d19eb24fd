"""The real supervisor: it ends who has too much memory, and tells where threads are that hang."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent, indent
from types import SimpleNamespace

import pytest

from resilient_nb.core.causes import HANG, cause_of
from resilient_nb.core.model import Outcome, RankEnd, RemoteError
from resilient_nb.supervisor import children
from resilient_nb.supervisor.activity import Activity
from resilient_nb.supervisor.children import Child
from resilient_nb.supervisor.limits import Limit
from resilient_nb.supervisor.loop import _kill_group
from resilient_nb.supervisor.seats import Seat
from resilient_nb.supervisor.stacks import Stacks, tidy
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.orders import Acknowledge, Kill, Launch, Sample
from tests.unit.supervised import Agent, Host, serving, until

MIB = 1 << 20
LIMIT = 160 * MIB
LEAK = """
    held = []
    while True:
        held.append(bytearray(b"x") * (4 << 20))
        time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    yield from serving(tmp_path_factory.mktemp("supervisor") / "place")


@pytest.fixture
def agent(shared: Host) -> Iterator[Agent]:
    made = shared.agent()
    yield made
    made.send(Kill(made.job, 1), Acknowledge(tuple(made.facts)))
    made.close()


def python(code: str) -> str:
    """What has a light rank run this."""
    head = "import ctypes, faulthandler, os, signal, subprocess, sys, threading, time\n"
    return "python " + head + dedent(code)


def launch(agent: Agent, code: str, count: int = 1, limit: int = 0) -> None:
    order = agent.order(python(code), count)
    agent.send(replace(order, attempt=replace(order.attempt, memory_limit=limit)))


def pid_of(agent: Agent, rank: int = 0) -> int:
    found = agent.hear(lambda: [pid for _, number, pid in agent.rows if number == rank])
    return int(found[0])


# --- memory ---


CHILD = "if not os.fork():\n" + indent(dedent(LEAK), "    ")


@pytest.mark.parametrize("code", [LEAK, CHILD])
def test_a_rank_that_leaks_is_ended_alone(agent: Agent, code: str) -> None:
    """By itself, or by a process that it has started."""
    other = replace(agent.order("deaf").attempt, job=f"x{agent.job}", memory_limit=LIMIT)
    agent.send(Launch(other, 0, 1))
    agent.hear(lambda: [row for row in agent.ranks if row.job == other.job])
    launch(agent, code, limit=LIMIT)
    [end] = agent.ended()
    assert (end.outcome, end.signal) == (Outcome.EXITED, signal.SIGKILL)
    assert (end.over_limit, end.ordered, end.limit, end.hang) == (True, False, LIMIT, "")
    assert LIMIT < end.peak_rss < LIMIT + 300 * MIB
    agent.hear(lambda: not agent.rows)
    assert [row.job for row in agent.ranks if row.job == other.job]
    agent.send(Kill(other.job, 1))
    agent.hear(lambda: f"{other.job}/1/0/done" in agent.facts)


# --- hangs ---


SEEN = {
    "idle": "signal.pause()",
    "busy": "while True: pass",
    "family": """
        held = bytearray(b"x") * (100 << 20)
        for _ in range(3):
            if not os.fork():
                signal.pause()
    """,
    "mapped": """
        import mmap
        with open("/proc/self/exe", "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        sum(data[n] for n in range(0, len(data), 4096))
        held = bytearray(b"x") * (30 << 20)
    """,
}


def test_what_can_be_seen_of_ranks_from_outside(agent: Agent) -> None:
    """Who does nothing; and what they hold, each page counted once, and none of files."""
    jobs = {kind: f"{kind}-{agent.job}" for kind in SEEN}
    for kind, code in SEEN.items():
        attempt = replace(agent.order(python(code)).attempt, job=jobs[kind], memory_limit=LIMIT)
        agent.send(Launch(attempt, 0, 1))

    def last(kind: str) -> Sample:
        none = Sample(jobs[kind], 1, 0)
        return next((s for s in agent.samples[::-1] if s.job == jobs[kind]), none)

    agent.hear(lambda: last("idle").idle_s > 1.2 and last("busy").cpu > 0.1)
    assert last("idle").silent_s > 1.0
    assert not last("idle").stopped
    assert last("busy").idle_s == 0.0
    assert 100 * MIB < last("family").peak_rss < LIMIT
    assert last("family").limit == LIMIT
    assert 30 * MIB < last("mapped").peak_rss < 60 * MIB
    os.kill(last("idle").pid, signal.SIGSTOP)
    agent.hear(lambda: last("idle").stopped)
    agent.send(*(Kill(job, 1) for job in jobs.values()))
    agent.hear(lambda: all(f"{job}/1/0/done" in agent.facts for job in jobs.values()))
    assert not any(agent.facts[f"{job}/1/0/done"].end.over_limit for job in jobs.values())


def test_a_name_that_is_no_text_harms_nobody(agent: Agent) -> None:
    """The kernel cuts names off after 15 bytes, within a character if need be."""
    launch(agent, "ctypes.CDLL(None).prctl(15, b'a' * 14 + 'é'.encode()); signal.pause()")
    pid = pid_of(agent)
    until(lambda: Path(f"/proc/{pid}/comm").read_bytes() == b"a" * 14 + b"\xc3\n", "named")
    agent.samples.clear()
    agent.hear(lambda: [s for s in agent.samples if s.pid == pid and s.idle_s > 1.2])
    assert agent.samples[-1].rss > MIB


def test_the_end_of_a_child_is_no_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say, of data loaders at the end of an epoch."""
    took = {1: (5.0, 0.0), 2: (10.0, 0.0)}  # by themselves, and by children that have ended

    class Process:
        def __init__(self, pid: int) -> None:
            self.cpu_times = lambda: SimpleNamespace(
                user=took[pid][0], system=0.0, children_user=took[pid][1], children_system=0.0
            )
            self.io_counters = lambda: SimpleNamespace(read_chars=0, write_chars=0)

    monkeypatch.setattr(children.psutil, "Process", Process)
    monkeypatch.setattr(children, "descendants", lambda _: sorted(took))
    ours, theirs = socket.socketpair()
    child = Child(
        an_attempt(), 0, Seat(0, 1, 1), 1, ours, Path(), Limit(0), Stacks(), Activity(0.0)
    )
    child.measure(1.0)
    del took[2]
    took[1] = (5.1, 10.4)
    child.measure(2.0)
    assert child.cpu == pytest.approx(0.5)
    ours.close()
    theirs.close()


def test_what_isnt_ours_to_end_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cell has started with sudo, say, stays in its group and outlives it."""
    refused: list[int] = []

    def refuse(pid: int, _: int) -> None:
        refused.append(pid)
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(os, "kill", refuse)
    _kill_group(7)
    ours, theirs = socket.socketpair()
    child = Child(
        an_attempt(), 0, Seat(0, 1, 1), 8, ours, Path(), Limit(0), Stacks(), Activity(0.0)
    )
    child.kill()
    assert refused == [7, 8, 8]
    ours.close()
    theirs.close()


HANGS = {
    "lock": """
        def waits_for_a_lock():
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        waits_for_a_lock()
    """,
    "gil": """
        def holds_the_gil():
            ctypes.PyDLL(None).sleep(1000)
        holds_the_gil()
    """,
    # A signal to the whole process would be taken by whichever thread goes on first, while the
    # main one leaves the place where it was.
    "stopped": """
        for _ in range(8):
            threading.Thread(target=lambda: [time.sleep(0.0001) for _ in range(10**9)]).start()
        def stops_itself():
            os.kill(os.getpid(), signal.SIGSTOP)
        stops_itself()
        while True:
            time.sleep(0.0001)
    """,
}
FUNCTIONS = {"lock": "waits_for_a_lock", "gil": "holds_the_gil", "stopped": "stops_itself"}


@pytest.mark.parametrize("kind", HANGS)
def test_a_gang_that_hangs_is_ended_with_its_stacks(agent: Agent, kind: str) -> None:
    body = dedent(HANGS[kind])
    launch(agent, f"\nprint('begun', flush=True)\n{body}", count=2)
    pid_of(agent, 1)
    until(lambda: all("begun" in agent.log(rank) for rank in (0, 1)), "begun")
    if kind == "stopped":
        until(lambda: _state(pid_of(agent, 0)) == _state(pid_of(agent, 1)) == "T", "stopped")
    agent.send(Kill(agent.job, 1, (1,), "it hangs"), Kill(agent.job, 1, (1,), "it hangs"))
    one, other = sorted(agent.ended(2), key=lambda end: end.rank)
    assert (one.hang, one.ordered, other.hang, other.ordered) == ("", True, "it hangs", False)
    for end in (one, other):
        assert end.signal == signal.SIGKILL
        assert f"in {FUNCTIONS[kind]}\n" in end.stacks
        assert end.stacks.startswith("Current thread")


def test_a_rank_that_goes_on_when_it_is_asked_hung_all_the_same() -> None:
    """It finds that its peers were ended, and says so before it is ended itself."""
    ours, theirs = socket.socketpair()
    child = Child(
        an_attempt(), 1, Seat(0, 1, 1), 0, ours, Path(), Limit(0), Stacks(), Activity(0.0),
        hang="it hangs",
    )  # fmt: skip
    error = RemoteError("RuntimeError", "Connection closed by peer", in_collective=True)
    child.word = RankEnd(1, Outcome.FAILED, 1.0, error=error)
    end = child.end(1 << 8, 0)
    assert (end.hang, end.ordered, cause_of(end)) == ("it hangs", False, HANG)
    child.word = RankEnd(1, Outcome.FINISHED, 1.0)
    assert child.end(0, 0).hang == ""
    late = replace(child, hang="", kill_at=99.0)
    late.end_hung("it hangs", 1.0)  # it had ended by itself
    assert (late.hang, late.kill_at) == ("", 99.0)
    for end_of_it in (ours, theirs):
        end_of_it.close()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE])
def test_a_crash_says_where_it_was(agent: Agent, number: signal.Signals) -> None:
    code = f"""
        def crashes():
            os.kill(os.getpid(), {int(number)})
            time.sleep(1)
        crashes()
    """
    launch(agent, code)
    [end] = agent.ended()
    assert (end.outcome, end.signal) == (Outcome.EXITED, number)
    assert end.stacks.startswith("Fatal Python error: ")
    assert "in crashes\n" in end.stacks


def test_a_cell_that_has_faults_written_elsewhere_gets_its_way(agent: Agent) -> None:
    launch(agent, "faulthandler.enable(); os.kill(os.getpid(), signal.SIGSEGV); time.sleep(1)")
    [end] = agent.ended()
    assert (end.signal, end.stacks) == (signal.SIGSEGV, "")
    assert "Fatal Python error: Segmentation fault" in agent.log()


def test_who_ends_well_has_no_stacks(agent: Agent) -> None:
    agent.send(agent.order("finish"))
    [end] = agent.ended()
    assert end == replace(end, stacks="", hang="", over_limit=False, limit=0)
    assert isinstance(end, RankEnd)


# --- stacks as text ---


def test_the_thread_that_ran_comes_first_then_the_main_one() -> None:
    text = (
        "Thread 0x1 (most recent call first):\n  File a, line 1 in link\n\n"
        "Current thread 0x2 (most recent call first):\n  File b, line 2 in worker\n\n"
        "Thread 0x3 (most recent call first):\n  File c, line 3 in main\n"
    )
    blocks = tidy(text).split("\n\n")
    assert [block.split()[-1] for block in blocks] == ["worker", "main", "link"]


def test_long_stacks_are_cut_at_a_line() -> None:
    text = "Thread 0x1 (most recent call first):\n" + "  File a, line 1 in f\n" * 1000
    cut = tidy(text, 500)
    assert len(cut) < 520
    assert cut.endswith("in f\n  …")


def test_the_modules_of_a_crash_are_left_out() -> None:
    text = "Fatal Python error: Aborted\n\nCurrent thread 0x1:\n  File a\n\nExtension modules: x, y"
    assert tidy(text) == "Fatal Python error: Aborted\n\nCurrent thread 0x1:\n  File a"


def test_threads_that_are_only_ours_are_left_out() -> None:
    text = (
        'Thread 0x1 (most recent call first):\n  File "/x/resilient_nb/rank/link.py", line 1 in f\n'
        '  File "/usr/lib/python3.11/threading.py", line 2 in run\n\n'
        'Thread 0x2 (most recent call first):\n  File "Cell In[1]", line 3 in hang\n'
        '  File "/x/resilient_nb/rank/process.py", line 4 in main\n'
        '  File "/x/resilient_nb/supervisor/children.py", line 5 in fork_rank\n'
    )
    assert tidy(text) == (
        'Thread 0x2 (most recent call first):\n  File "Cell In[1]", line 3 in hang\n'
        '  File "/x/resilient_nb/rank/process.py", line 4 in main'
    )
