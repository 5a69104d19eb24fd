"""Real ranks under real supervisors, without a scheduler: the test plays control's part."""

from __future__ import annotations

import itertools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resilient_nb.core.model import Cell, Checkpoint, Interval, RankEnd
from resilient_nb.rank.state import Stored
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.supervisor.place import Place, short_path
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.codec import build
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import (
    FACTS,
    ORDERS,
    Acknowledge,
    Attempt,
    CheckpointWritten,
    Kill,
    Launch,
    Leave,
    Note,
    Prepare,
    Prepared,
    RankDone,
    RankStarted,
    Sample,
)

PATIENCE = 60.0


class Supervised:
    """A supervisor with real ranks, and the agent that speaks for it."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.place.make()
        command = [sys.executable, "-m", "resilient_nb.supervisor", str(folder)]
        command += ["--entry", "resilient_nb.rank.process:main", "--orphan-grace", "60"]
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        env["RESILIENT_NB_HOME"] = str(folder)
        self._output = self.place.output.open("wb")
        self.process = subprocess.Popen(command, stderr=self._output, env=env)
        self.facts: dict[str, Any] = {}
        self.samples: list[Sample] = []
        self.warm = False
        self._socket = self._connect()
        self._reader = FrameReader()
        hear([self], lambda: self.warm)

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + PATIENCE
        while True:
            client = socket.socket(socket.AF_UNIX)
            name, fd = short_path(self.place.socket)
            try:
                client.connect(name)
                return client
            except OSError:
                client.close()
                assert time.monotonic() < deadline
                select.select([], [], [], 0.02)
            finally:
                if fd is not None:
                    os.close(fd)

    def send(self, order: object) -> None:
        self._socket.sendall(frame(ORDERS.pack(order)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen(self) -> None:
        """Take what was said; acknowledge every fact."""
        data = self._socket.recv(1 << 16)
        assert data, self.place.output.read_text()
        for message in self._reader.feed(data):
            self.warm = message.get("warm", self.warm)
            self.samples += [build(Sample, said) for said in message.get("samples", ())]
            new = {n: FACTS.unpack(dict(fact)) for n, fact in message.get("facts", ())}
            self.facts.update(new)
            if new:
                self.send(Acknowledge(tuple(new)))

    def end(self) -> None:
        self._socket.close()
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0
        self._output.close()


def hear(hosts: Sequence[Supervised], until: Callable[[], Any]) -> Any:
    """Listen until the condition holds; return what it gives."""
    deadline = time.monotonic() + PATIENCE
    while not (found := until()):
        left = deadline - time.monotonic()
        assert left > 0, [list(host.facts.items())[-5:] for host in hosts]
        for host in select.select(hosts, [], [], left)[0]:
            host.listen()
    return found


@dataclass
class Gang:
    """One job on supervisors that share a store; each `begin` is an attempt from its head."""

    hosts: Sequence[Supervised]
    store: Path
    source: str
    job: str = "digits#1"
    interval: Interval = field(default_factory=Interval)
    out: tuple[str, ...] = ()
    epoch: int = 0
    head: Checkpoint | None = None
    attempt: Attempt = field(init=False)

    def begin(self, ranks: Sequence[int], slots: Sequence[int] = (), **changes: Any) -> None:
        """Launch so many ranks on each host, sharing so many slots."""
        self.epoch += 1
        self._used = self.hosts[: len(ranks)]
        first = self._used[0]
        first.send(Prepare(self.job, self.epoch))
        [prepared] = self.wait(lambda: self._all(Prepared))
        start = self.store / "runs" / self.head.id if self.head else None
        plain = an_attempt(self.job, self.epoch, sum(ranks), cell=Cell(self.source))
        self.attempt = replace(
            plain,
            interval=self.interval,
            out=self.out,
            store=str(self.store),
            start=str(start) if start else None,
            start_id=self.head.id if self.head else None,
            start_step=self.head.step if self.head else 0,
            rendezvous=f"127.0.0.1:{prepared.port}",
            one_host=len(ranks) == 1,
            **changes,
        )
        at = 0
        for n, (host, count) in enumerate(zip(self._used, ranks, strict=True)):
            host.send(Launch(self.attempt, at, count, slots[n] if slots else 0))
            at += count

    def _all(self, kind: type[Any]) -> list[Any]:
        facts = [f for host in self._used for f in host.facts.values() if isinstance(f, kind)]
        if kind is CheckpointWritten:
            return [f.checkpoint for f in facts if f.checkpoint.job == self.job]
        return [f for f in facts if (f.job, f.epoch) == (self.job, self.epoch)]

    def wait(self, until: Callable[[], Any]) -> Any:
        """Listen to all hosts until the condition holds; return what it gives."""
        return hear(self._used, until)

    def checkpoint(self, step: int) -> Checkpoint:
        """Wait for a checkpoint at a step or after it."""
        return self.wait(lambda: [c for c in self.checkpoints if c.step >= step])[0]  # type: ignore[no-any-return]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return sorted(self._all(CheckpointWritten), key=lambda c: (c.epoch, c.step))

    @property
    def notes(self) -> list[str]:
        return [note.text for note in self._all(Note)]

    @property
    def samples(self) -> list[Sample]:
        """What ranks of this attempt have said of themselves."""
        key = (self.job, self.epoch)
        return [s for h in self._used for s in h.samples if (s.job, s.epoch) == key]

    def pids(self) -> dict[int, int]:
        """Wait for all ranks' processes."""
        size = self.attempt.world_size
        started = self.wait(lambda: f if len(f := self._all(RankStarted)) == size else None)
        return {fact.rank: fact.pid for fact in started}

    def leave(self, grace: float = 30.0) -> None:
        for host in self._used:
            host.send(Leave(self.job, self.epoch, grace))

    def kill(self, rank: int = 0) -> None:
        """kill -9 a rank, then the others as control does."""
        os.kill(self.pids()[rank], signal.SIGKILL)
        for host in self._used:
            host.send(Kill(self.job, self.epoch))

    def ended(self) -> list[RankEnd]:
        """Wait for the attempt's end; the last checkpoint is the next one's start."""
        size = self.attempt.world_size
        done = self.wait(lambda: f if len(f := self._all(RankDone)) == size else None)
        if self.checkpoints:
            self.head = self.checkpoints[-1]
        return sorted((fact.end for fact in done), key=lambda end: end.rank)

    def stored(self, rank: int = 0) -> Stored:
        """Return the head as a rank reads it."""
        assert self.head is not None
        return Stored(open_checkpoint(self.store / "runs" / self.head.id), rank)

    def info(self) -> dict[str, Any]:
        """Return what the head's manifest says beside its tensors."""
        assert self.head is not None
        return dict(open_checkpoint(self.store / "runs" / self.head.id).manifest.info)


Make = Callable[..., Gang]
_numbers = itertools.count(1)


def making(hosts: list[Supervised], folder: Path) -> Make:
    """Return what makes gangs on these hosts, each with a job of its own."""

    def make(source: str, **options: Any) -> Gang:
        return Gang(hosts, folder, source, f"run{next(_numbers)}#1", **options)

    return make


def returned(gang: Gang) -> dict[str, Any]:
    """Return what the job returned."""
    path = gang.store / "out" / gang.attempt.run / "1" / "out.pkl"
    values: dict[str, Any] = pickle.loads(path.read_bytes())
    return values
