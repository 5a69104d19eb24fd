"""The supervisor's loop: orders from agents, words from ranks, ends of processes.

One thread and one selector, because a process with threads can't be forked safely. One
agent at a time speaks for the host: it gets the table of ranks, every fact until it is
acknowledged, and the newest samples. When it goes or stops acknowledging, the next speaks.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from resilient_nb.core.causes import COULD_NOT_START
from resilient_nb.core.model import Outcome, RankEnd, RemoteError
from resilient_nb.supervisor.cgroups import Cgroup, Cgroups
from resilient_nb.supervisor.chaos import Injector
from resilient_nb.supervisor.children import Child, Entry, fork_rank, load_entry, reap
from resilient_nb.supervisor.limits import Limit
from resilient_nb.supervisor.place import Place
from resilient_nb.supervisor.seats import Seat, first_fit
from resilient_nb.supervisor.shelf import find as find_shelf
from resilient_nb.wire.codec import build, plain
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import (
    FACTS,
    ORDERS,
    Acknowledge,
    Attempt,
    Chaos,
    Committed,
    Kill,
    Launch,
    Leave,
    Note,
    Prepare,
    Prepared,
    RankDone,
    RankRow,
    RankStarted,
    Sample,
    Shutdown,
)

_SAMPLE_EVERY = 0.25
_MEASURE_EVERY = 1.0
_ACK_PATIENCE = 3.0
_IDLE_LIFE = 60.0
#: From a rank's last word to SIGKILL: destroying a process group can hang.
_EXIT_PATIENCE = 5.0
#: A turn of the loop that takes longer, in seconds, has kept us from hearing ranks.
_AWAY = 3.0


@dataclass
class _Agent:
    connection: socket.socket
    reader: FrameReader = field(default_factory=FrameReader)
    outgoing: bytearray = field(default_factory=bytearray)


class Supervisor:
    """One host's ranks. `run` returns when it was told to shut down or nobody needs it."""

    def __init__(self, place: Place, server: socket.socket, lock: int, orphan_grace: float) -> None:
        self._place = place
        self._server = server
        self._lock = lock
        self._orphan_grace = orphan_grace
        self._entry: Entry | None = None
        self._groups: Cgroups | None = None
        self._agents: list[_Agent] = []
        self._children: dict[int, Child] = {}
        self._rendezvous: dict[tuple[str, int], socket.socket] = {}
        self._facts: dict[str, dict[str, Any]] = {}  # unacknowledged, in order
        self._last_samples: list[Sample] = []  # of ranks that have ended
        self._unsent: list[str] = []
        self._ended_epochs: dict[str, int] = {}
        self._begun: dict[str, tuple[int, set[int]]] = {}  # job to epoch and ranks
        self._waiting_since: float | None = None
        self._alone_since = time.monotonic()
        self._next_sample = self._next_measure = 0.0
        self._injector = Injector(self._whisper, self._tell_chaos)
        self._turned_at = time.monotonic()
        self._done = False
        self._selector = selectors.DefaultSelector()
        self._wake_in, wake_out = socket.socketpair()
        for end in (self._wake_in, wake_out, server):
            end.setblocking(False)
        self._wake_out = wake_out
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_done", True))
        signal.set_wakeup_fd(wake_out.fileno())
        self._selector.register(server, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._woken)

    def load(self, entry: str, groups: Cgroups | None = None) -> None:
        """Import what ranks run; agents may connect meanwhile, and wait."""
        self._entry, self._groups = load_entry(entry), groups

    def run(self) -> None:
        """Serve until shut down, then end every rank."""
        try:
            while not self._done:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._periodic()
        finally:
            self._injector.close()
            for child in self._children.values():
                child.kill()
            while self._children:
                for pid, _, _ in reap():
                    self._children.pop(pid, None)
                time.sleep(0.005)

    # --- time ---------------------------------------------------------------------------

    def _timeout(self) -> float:
        if not self._children:
            return 1.0
        children = self._children.values()
        kills = [child.kill_at for child in children if child.kill_at is not None]
        due = [self._next_sample, self._injector.next, *kills]
        soonest = min([*due, *(child.limit.due_at for child in children)])
        return max(0.0, soonest - time.monotonic())

    def _periodic(self) -> None:
        now = time.monotonic()
        away, self._turned_at = now - self._turned_at > _AWAY, now
        for child in self._children.values():
            if away:
                child.activity.forgive(now)
            child.check_limit(now)
            child.kill_if_due(now)
        self._injector.look(now, lambda child: self._children.get(child.pid) is child)
        if now >= self._next_measure:
            self._next_measure = now + _MEASURE_EVERY
            for child in self._children.values():
                child.measure(now)
        if now >= self._next_sample:
            self._next_sample = now + _SAMPLE_EVERY
            self._tell()
        if self._waiting_since is not None and now - self._waiting_since > _ACK_PATIENCE:
            self._next_speaker()
        if self._agents:
            self._alone_since = now
        limit = self._orphan_grace if self._children or self._facts else _IDLE_LIFE
        if now - self._alone_since > limit:
            self._done = True

    # --- agents -------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return  # it has gone already, or there are too many open files: it tries again
        connection.setblocking(False)
        agent = _Agent(connection)
        self._agents.append(agent)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(agent))
        if agent is self._agents[0]:
            self._unsent = list(self._facts)
            self._tell()
        else:
            self._send(agent, {"speaks": False})

    def _hear(self, agent: _Agent) -> None:
        data = _receive(agent.connection)
        if data is None:
            return
        if not data:
            self._drop(agent)
            return
        try:
            for message in agent.reader.feed(data):
                self._obey(ORDERS.unpack(message))
        except Exception as error:
            # An agent of another version, or a broken disk, say. The ranks must not suffer for it.
            what = f"{type(error).__name__}: {error}"
            print(f"an order could not be obeyed: {what}", file=sys.stderr, flush=True)
            self._drop(agent)

    def _drop(self, agent: _Agent) -> None:
        if agent not in self._agents:
            return
        spoke = agent is self._agents[0]
        self._agents.remove(agent)
        self._selector.unregister(agent.connection)
        agent.connection.close()
        if spoke:
            self._begin_speaking()

    def _next_speaker(self) -> None:
        """The speaking agent doesn't acknowledge: let another one try."""
        self._waiting_since = time.monotonic()
        if len(self._agents) > 1:
            self._agents.append(self._agents.pop(0))
            self._send(self._agents[-1], {"speaks": False})
            self._begin_speaking()

    def _begin_speaking(self) -> None:
        self._unsent = list(self._facts)
        self._waiting_since = time.monotonic() if self._facts else None
        self._tell()

    def _tell(self) -> None:
        """Tell the speaking agent what is new."""
        if not self._agents:
            return
        facts = [(name, self._facts[name]) for name in self._unsent if name in self._facts]
        self._unsent = []
        if facts and self._waiting_since is None:
            self._waiting_since = time.monotonic()
        rows = [RankRow(c.attempt.job, c.attempt.epoch, c.rank, c.pid) for c in self._live()]
        self._send(
            self._agents[0],
            {
                "speaks": True,
                "warm": self._entry is not None,
                "ranks": plain(rows),
                "facts": facts,
                "samples": plain(list(self._samples())),
            },
        )

    def _samples(self) -> Iterator[Sample]:
        yield from self._last_samples
        self._last_samples.clear()
        for child in self._live():
            yield child.take_sample()

    def _send(self, agent: _Agent, message: dict[str, Any]) -> None:
        agent.outgoing += frame(message)
        if not _flush(agent.connection, agent.outgoing):
            self._drop(agent)

    # --- orders -------------------------------------------------------------------------

    def _obey(self, order: object) -> None:
        match order:
            case Prepare():
                self._prepare(order)
            case Launch():
                self._launch(order)
            case Leave():
                now = time.monotonic()
                for child in self._of(order.job, order.epoch):
                    if child.asked_at is None:
                        child.asked_at = now
                        if child.kill_at is None:  # not on its way out already
                            child.kill_at = now + order.grace
                    elif child.kill_at is not None:
                        # Told again, it gets no more time; less, if somebody is in a hurry now.
                        child.kill_at = min(child.kill_at, now + order.grace)
                    self._whisper(child, order)
            case Kill():
                self._kill(order)
            case Committed():
                for child in self._of(order.job, order.epoch):
                    self._whisper(child, order)
            case Chaos():
                ranks = (c for c in self._of(order.job, order.epoch) if c.rank == order.rank)
                self._injector.inject(order, next(ranks, None), time.monotonic())
            case Acknowledge():
                for name in order.facts:
                    self._forget(name)
            case Shutdown():
                self._done = True

    def _kill(self, order: Kill) -> None:
        ended = self._ended_epochs.get(order.job, 0)
        self._ended_epochs[order.job] = max(ended, order.epoch)
        self._collect()  # an end that is news must not look like ours
        for child in self._of(order.job, order.epoch):
            if order.hung:
                why = order.why if child.rank in order.hung else ""
                child.end_hung(why, time.monotonic())
            else:
                child.kill()

    def _prepare(self, order: Prepare) -> None:
        key = (order.job, order.epoch)
        if self._of(*key):
            return  # the order came again, and late
        if key not in self._rendezvous:
            for old in [k for k in self._rendezvous if k[0] == order.job]:
                self._rendezvous.pop(old).close()
            self._rendezvous[key] = socket.create_server(("", 0), backlog=512)
        port = self._rendezvous[key].getsockname()[1]
        self._fact(f"{order.job}/{order.epoch}/prepared", Prepared(order.job, order.epoch, port))

    def _launch(self, order: Launch) -> None:
        attempt = order.attempt
        if self._entry is None or attempt.epoch <= self._ended_epochs.get(attempt.job, 0):
            return
        begun = self._begun_ranks(attempt)
        slots = order.slots or order.count
        shelf = find_shelf(self._place) if attempt.memory_copies else ""
        first_slot = first_fit((child.seat for child in self._live()), slots)
        listener = self._rendezvous.pop((attempt.job, attempt.epoch), None)
        for rank in range(order.first, order.first + order.count):
            if rank in begun:
                continue  # the order came twice
            begun.add(rank)
            log = self._place.log(attempt.run, attempt.number, attempt.epoch, rank)
            fd = listener.fileno() if listener is not None and rank == 0 else None
            let_go = partial(self._let_go, listener if rank else None)
            seat = Seat(rank - order.first, order.count, slots, first_slot, shelf)
            limit = self._limit(attempt)
            try:
                child = fork_rank(self._entry, attempt, rank, seat, log, limit, fd, let_go)
            except OSError as error:
                limit.ended()  # and its group is removed
                self._not_launched(attempt, rank, error)
                continue
            self._children[child.pid] = child
            self._selector.register(
                child.channel, selectors.EVENT_READ, partial(self._listen, child)
            )
            started = RankStarted(attempt.job, attempt.epoch, rank, child.pid)
            self._fact(f"{attempt.job}/{attempt.epoch}/{rank}/started", started, tell=False)
        if listener is not None:
            listener.close()
        self._tell()

    def _limit(self, attempt: Attempt) -> Limit:
        """Return a rank's memory limit: in a group of its own, if there can be one.

        Copies of checkpoints that the host keeps in memory are none of the rank's, but a group
        would have them counted as its own, since it writes them.
        """
        group: Cgroup | None = None
        if attempt.memory_limit and self._groups is not None and not attempt.memory_copies:
            with suppress(OSError):
                group = self._groups.make(attempt.memory_limit)
        return Limit(attempt.memory_limit, group)

    def _begun_ranks(self, attempt: Attempt) -> set[int]:
        """Return the ranks of an attempt that were ever begun here; forget older attempts."""
        epoch, ranks = self._begun.get(attempt.job, (0, set()))
        if epoch != attempt.epoch:
            ranks = set()
        self._begun[attempt.job] = (attempt.epoch, ranks)
        return ranks

    def _not_launched(self, attempt: Attempt, rank: int, error: OSError) -> None:
        """A full disk or process table is the job's misfortune, not that of all others here."""
        cause = RemoteError("OSError", f"{COULD_NOT_START}: {error}")
        end = RankEnd(rank, Outcome.FAILED, time.time(), error=cause)
        done = RankDone(attempt.job, attempt.epoch, end)
        self._fact(f"{attempt.job}/{attempt.epoch}/{rank}/done", done)

    def _let_go(self, spare: socket.socket | None) -> None:
        """In a fork: close everything that is the supervisor's."""
        self._selector.close()
        os.close(self._lock)  # or a stray grandchild would keep the next supervisor out
        mine = [self._server, self._wake_in, self._wake_out, *self._rendezvous.values()]
        mine += [agent.connection for agent in self._agents]
        mine += [child.channel for child in self._children.values()]
        for child in self._children.values():
            child.stacks.close()
        for end in [*mine, spare]:
            if end is not None:
                end.close()

    # --- ranks --------------------------------------------------------------------------

    def _listen(self, child: Child) -> bool:
        """Hear what a rank has said; False if there was nothing."""
        data = _receive(child.channel)
        if data == b"":
            self._hang_up(child)
        try:
            for message in child.reader.feed(data or b""):
                self._word(child, message)
        except Exception as error:
            # Its cell has written to a descriptor that isn't its own, say: that is its end alone.
            what = f"{type(error).__name__}: {error}"
            print(f"rank process {child.pid} was not understood: {what}", file=sys.stderr)
            self._hang_up(child)
        return bool(data)

    def _hang_up(self, child: Child) -> None:
        if child.channel.fileno() >= 0:
            self._selector.unregister(child.channel)
            child.channel.close()

    def _word(self, child: Child, message: dict[str, Any]) -> None:
        child.activity.heard(time.monotonic())
        kind = message.pop("kind")
        if kind == "Sample":
            new = build(Sample, message["sample"])
            child.sample, child.step = new.after(child.sample), new.step
        elif kind == "End":
            child.word = build(RankEnd, message)
            child.kill_at = time.monotonic() + _EXIT_PATIENCE
        else:
            child.facts += 1
            name = f"{child.attempt.job}/{child.attempt.epoch}/{child.rank}/{child.facts}"
            self._fact(name, FACTS.unpack({"kind": kind, **message}))

    def _whisper(self, child: Child, order: object) -> None:
        """Tell a rank; one that doesn't read is not waited for."""
        if child.channel.fileno() >= 0:
            child.outgoing += frame(ORDERS.pack(order))
            _flush(child.channel, child.outgoing)

    def _woken(self) -> None:
        _receive(self._wake_in)
        self._collect()

    def _collect(self) -> None:
        """Make facts of the processes that have ended."""
        for pid, status, peak in reap():
            child = self._children.get(pid)
            if child is None:
                continue  # a grandchild that we inherited
            while child.channel.fileno() >= 0 and self._listen(child):
                pass  # its last words may still be in the channel
            del self._children[pid]
            self._hang_up(child)
            self._last_samples.append(child.take_sample())
            _kill_group(pid)
            end = child.end(status, peak)
            child.stacks.close()
            attempt = child.attempt
            done = RankDone(attempt.job, attempt.epoch, end)
            self._fact(f"{attempt.job}/{attempt.epoch}/{child.rank}/done", done)

    # --- facts --------------------------------------------------------------------------

    def _tell_chaos(self, order: Chaos, text: str) -> None:
        note = Note(order.job, order.epoch, order.rank, f"No chaos ({order.what}): {text}.")
        self._fact(f"{order.job}/{order.epoch}/chaos/{order.id}", note)

    def _fact(self, name: str, fact: object, tell: bool = True) -> None:
        self._facts[name] = FACTS.pack(fact)
        self._unsent.append(name)
        if tell:
            self._tell()

    def _forget(self, name: str) -> None:
        fact = self._facts.pop(name, None)
        # Still waiting for the rest? Then patience begins anew: there is progress.
        self._waiting_since = time.monotonic() if self._facts else None
        if fact is not None and fact["kind"] == "CheckpointWritten":
            # Control says so too, but an order can be lost, and rank 0 may wait for this one.
            new = fact["checkpoint"]
            for child in self._of(new["job"], new["epoch"]):
                self._whisper(child, Committed(new["job"], new["epoch"], new["step"]))
        if fact is not None and fact["kind"] == "RankDone":
            run, _, number = fact["job"].partition("#")
            log = self._place.log(run, int(number), fact["epoch"], fact["end"]["rank"])
            with suppress(OSError):
                log.unlink()  # the agent shipped it before the fact

    def _live(self) -> list[Child]:
        return list(self._children.values())

    def _of(self, job: str, epoch: int) -> list[Child]:
        return [c for c in self._live() if (c.attempt.job, c.attempt.epoch) == (job, epoch)]


def _receive(end: socket.socket) -> bytes | None:
    """Return bytes, b"" at the end of the stream, None when there is nothing yet."""
    try:
        return end.recv(1 << 20)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _flush(end: socket.socket, outgoing: bytearray) -> bool:
    """Send what the socket takes now; False if the other side is gone."""
    try:
        while outgoing:
            del outgoing[: end.send(outgoing)]
    except BlockingIOError:
        return len(outgoing) < 16 << 20  # a peer that never reads is as good as gone
    except OSError:
        return False
    return True


def _kill_group(pid: int) -> None:
    """End what a dead rank left in its session."""
    with suppress(OSError):  # there is nothing, or nothing of ours (what it ran with sudo)
        os.killpg(pid, signal.SIGKILL)
