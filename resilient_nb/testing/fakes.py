"""The world outside the engine, in memory: journal, clock, and hosts that obey orders.

`FakeHost` is a model of a host's supervisor (forks ranks, keeps facts until they are
acknowledged, never launches an attempt that was killed); `FakeCluster` wires such hosts to an
engine, can lose orders and restart the engine. Nothing here waits or uses threads.
"""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient_nb.config import Settings
from resilient_nb.control.engine import Engine
from resilient_nb.control.shell import Shell
from resilient_nb.core.events import EVENTS, Event
from resilient_nb.core.model import Checkpoint, Outcome, RankEnd
from resilient_nb.errors import JournalFailed
from resilient_nb.storage.records import Records
from resilient_nb.testing.builders import START, a_checkpoint
from resilient_nb.wire import orders
from resilient_nb.wire.codec import Registry
from resilient_nb.wire.orders import FACTS, Attempt, RankRow, Report

_EVENTS = Registry(*EVENTS.values())
_Key = tuple[str, int, int]  # job, epoch, rank


class MemoryJournal:
    """The `Journal` port in memory. What goes through it is JSON, as in a file, or SQL.

    `fail` is raised by the next `append`, which then keeps nothing; so do all while it is `full`.
    """

    def __init__(self) -> None:
        self.fail: Exception | None = None
        self.full = False
        self._lines: list[str] = []
        file = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.records = Records(file)
        weakref.finalize(self.records, file.close)

    def append(self, events: Sequence[Event]) -> None:
        """Keep all events, or none."""
        lines = [json.dumps(_EVENTS.pack(event)) for event in events]
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self.probe()
        self._lines += lines

    def probe(self) -> None:
        """Fail while it is full."""
        if self.full:
            raise JournalFailed("The journal can't be written (database or disk is full).")

    def events(self) -> Iterator[Event]:
        """Yield every event in the order of appending."""
        for line in list(self._lines):
            yield _EVENTS.unpack(json.loads(line))

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class RecordingLauncher:
    """The `Launcher` port that keeps all orders. Hosts in `deaf` have no agent."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, Any]] = []
        self.deaf: set[str] = set()

    def __call__(self, host: str, order: object) -> bool:
        if host in self.deaf:
            return False
        self.orders.append((host, order))
        return True

    def of(self, kind: type[Any]) -> list[tuple[str, Any]]:
        """Return (host, order) of one kind, oldest first."""
        return [(host, order) for host, order in self.orders if isinstance(order, kind)]


def fake_settings(home: Path, **changes: Any) -> Settings:
    """Return settings whose folders are below `home`."""
    values: dict[str, Any] = {"home": home, "store": home / "store", "host": "h0", "user": "ada"}
    values.update(changes)
    return Settings(**{**values, "store": str(values["store"])})


@dataclass
class FakeRank:
    """A live rank: what it runs, and whether it was asked to leave."""

    attempt: Attempt
    rank: int
    pid: int
    leaving: bool = False
    step: int = 0


@dataclass
class FakeHost:
    """A host's supervisor as a model. `agent` says whether anybody takes its orders and words."""

    name: str
    slots: int
    clock: ManualClock
    agent: bool = True
    ranks: dict[_Key, FakeRank] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    begun: list[_Key] = field(default_factory=list)  # every rank this supervisor forked
    overlaps: list[_Key] = field(default_factory=list)  # launched beside an older attempt
    _killed: dict[str, int] = field(default_factory=dict)
    _pids: int = 1000

    def obey(self, order: object) -> None:
        """Do what a supervisor does."""
        match order:
            case orders.Prepare():
                name = f"{order.job}/{order.epoch}/prepared"
                self.facts[name] = orders.Prepared(order.job, order.epoch, 4000 + order.epoch)
            case orders.Launch():
                self._launch(order)
            case orders.Leave():
                for rank in self._of(order.job, order.epoch):
                    rank.leaving = True
            case orders.Kill():
                self._killed[order.job] = max(order.epoch, self._killed.get(order.job, 0))
                for rank in self._of(order.job, order.epoch):
                    hangs = rank.rank in order.hung
                    why = order.why if hangs else ""
                    self.end(rank, Outcome.EXITED, signal=9, ordered=not hangs, hang=why)

    def _launch(self, order: orders.Launch) -> None:
        attempt = order.attempt
        if attempt.epoch <= self._killed.get(attempt.job, 0):
            return
        for number in range(order.first, order.first + order.count):
            key = (attempt.job, attempt.epoch, number)
            if key in self.ranks:
                continue
            if any(old[0] == key[0] and old[1] < key[1] for old in self.ranks):
                self.overlaps.append(key)
            self._pids += 1
            self.begun.append(key)
            self.ranks[key] = FakeRank(attempt, number, self._pids, step=attempt.start_step)
            started = orders.RankStarted(*key, self._pids)
            self.facts[f"{attempt.job}/{attempt.epoch}/{number}/started"] = started

    def end(self, rank: FakeRank, outcome: Outcome, **how: Any) -> None:
        """End a rank; the fact is kept until it is acknowledged."""
        attempt = rank.attempt
        del self.ranks[attempt.job, attempt.epoch, rank.rank]
        end = RankEnd(rank.rank, outcome, self.clock(), step=rank.step, **how)
        done = orders.RankDone(attempt.job, attempt.epoch, end)
        self.facts[f"{attempt.job}/{attempt.epoch}/{rank.rank}/done"] = done

    def write_checkpoint(self, rank: FakeRank, parent: str | None) -> Checkpoint:
        """Have rank 0 make a step and write a checkpoint of it."""
        rank.step += 1
        new = a_checkpoint(rank.attempt.job, rank.step, rank.attempt.epoch, parent)
        self.facts[f"{rank.attempt.job}/{rank.attempt.epoch}/c{rank.step}"] = (
            orders.CheckpointWritten(new)
        )
        return new

    def crash(self) -> None:
        """Lose the supervisor: its ranks die with it, and nobody will say so."""
        self.ranks.clear()
        self.facts.clear()
        self.begun.clear()
        self._killed.clear()

    def report(self, names: Iterable[str] | None = None) -> Report:
        """Return a report with the named facts (all of them if None)."""
        chosen = list(self.facts) if names is None else [n for n in self.facts if n in set(names)]
        rows = tuple(RankRow(*key, rank.pid) for key, rank in self.ranks.items())
        facts = tuple((name, FACTS.pack(self.facts[name])) for name in chosen)
        return Report(
            f"tcp://{self.name}", self.name, self.slots, True, warm=True, ranks=rows, facts=facts
        )

    def _of(self, job: str, epoch: int) -> list[FakeRank]:
        return [r for (name, number, _), r in self.ranks.items() if (name, number) == (job, epoch)]


class FakeCluster:
    """An engine and its hosts. Orders arrive at once, unless `losing` makes them vanish."""

    def __init__(self, home: Path, slots: Mapping[str, int], **settings: Any) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal()
        self.settings = fake_settings(home, **settings)
        self.hosts = {name: FakeHost(name, count, self.clock) for name, count in slots.items()}
        self.losing = False
        self.orders: list[tuple[str, Any]] = []
        self.leases: dict[str, int] = {}
        self.engine = self._new_engine()

    def _new_engine(self) -> Engine:
        shell = Shell(self.journal, self._deliver, self.clock, lambda job: None, self._lease)
        return Engine(self.settings, shell)

    def _lease(self, leases: Mapping[str, int]) -> None:
        self.leases = dict(leases)

    def restart_engine(self) -> None:
        """Replace the engine by a new one on the same journal, as a scheduler's restart does."""
        self.engine = self._new_engine()

    def _deliver(self, host: str, order: object) -> bool:
        if host not in self.hosts or not self.hosts[host].agent:
            return False
        if self.losing:
            return True  # taken by an agent that dies before passing it on
        self.orders.append((host, order))
        self.hosts[host].obey(order)
        return True

    def report(
        self, host: str, names: Iterable[str] | None = None, acknowledge: bool = True
    ) -> None:
        """Have a host's agent report, if it has one; its facts are forgotten if acknowledged."""
        known = self.hosts[host]
        if not known.agent:
            return
        reply = self.engine.report(known.report(names))
        if acknowledge:
            for name in reply.acknowledged:
                known.facts.pop(name, None)

    def agent_leaves(self, host: str) -> None:
        """Kill a host's Dask worker; its supervisor and ranks go on."""
        self.hosts[host].agent = False
        self.engine.agent_gone(f"tcp://{host}")

    def round(self, seconds: float = 1.0) -> None:
        """Let time pass; every host reports, then the engine ticks."""
        self.clock.advance(seconds)
        for host in self.hosts:
            self.report(host)
        self.engine.tick()
        with suppress(JournalFailed):
            for _ in self.engine.queue.work():  # as the plugin does for a long queue
                pass
        self.engine.settle()

    def live(self) -> list[tuple[str, _Key]]:
        """Return (host, (job, epoch, rank)) of every live rank."""
        return [(host.name, key) for host in self.hosts.values() for key in host.ranks]
