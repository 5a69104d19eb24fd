"""A real supervisor with light ranks, and an agent that it tells all that it knows."""

from __future__ import annotations

import itertools
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from resilient_nb.core.model import Cell, RankEnd
from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.place import Place, short_path
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.codec import build
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import (
    FACTS,
    ORDERS,
    Launch,
    Note,
    RankDone,
    RankRow,
    RankStarted,
    Sample,
)

ENTRY = "resilient_nb.testing.entries:scripted"
PATIENCE = 10.0
SHARES = re.compile(r"shares (\d+) slots from (\d+) with (\d+)\n")
_numbers = itertools.count(1)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition that no descriptor tells of."""
    deadline = time.monotonic() + PATIENCE
    while not (found := _unless_missing(condition)):
        assert time.monotonic() < deadline, f"still not: {what}"
        select.select([], [], [], 0.01)
    return found


def _unless_missing(condition: Callable[[], Any]) -> Any:
    """A rank's output is a file that only comes to be."""
    with suppress(FileNotFoundError):
        return condition()


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
        self.samples: list[Sample] = []
        self.ranks: list[RankRow] = []
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
                self.ranks = [build(RankRow, row) for row in message["ranks"]]
                self.samples += [build(Sample, said) for said in message["samples"]]
                self.facts.update({n: FACTS.unpack(dict(fact)) for n, fact in message["facts"]})

    def of(self, kind: type[Any]) -> list[Any]:
        return [f for f in self.facts.values() if isinstance(f, kind) and f.job == self.job]

    @property
    def rows(self) -> list[tuple[int, int, int]]:
        """The job's live ranks as (epoch, rank, pid)."""
        mine = [row for row in self.ranks if row.job == self.job]
        return [(row.epoch, row.rank, row.pid) for row in mine]

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
            said = {fact.rank for fact in self.of(Note) if fact.epoch == epoch}
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
        scratch.sweep(self.place)


def serving(place: Path) -> Iterator[Host]:
    """Yield a supervisor, and end it."""
    made = Host(place)
    try:
        yield made
    finally:
        made.end()
