"""The supervisor's loop: orders from agents, words from ranks, ends of processes.

One thread and one selector, because a process with threads can't be forked safely.
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
from functools import partial
from typing import Any

from resilient_nb.core.model import RankEnd
from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.agents import Agents
from resilient_nb.supervisor.chaos import Injector
from resilient_nb.supervisor.children import Child, reap
from resilient_nb.supervisor.launching import Launching
from resilient_nb.supervisor.place import Place
from resilient_nb.supervisor.sockets import flush, receive
from resilient_nb.wire.codec import build, plain
from resilient_nb.wire.frames import frame
from resilient_nb.wire.orders import (
    FACTS,
    ORDERS,
    Acknowledge,
    Chaos,
    Committed,
    Kill,
    Launch,
    Leave,
    Note,
    Prepare,
    RankDone,
    RankRow,
    Sample,
    Shutdown,
)

_SAMPLE_EVERY = 0.25
_MEASURE_EVERY = 1.0
_IDLE_LIFE = 60.0
#: From a rank's last word to SIGKILL: destroying a process group can hang.
_EXIT_PATIENCE = 5.0
#: A turn of the loop that takes longer, in seconds, has kept us from hearing ranks.
_AWAY = 3.0


class Supervisor:
    """One host's ranks. `run` returns when it was told to shut down or nobody needs it.

    Attributes:
        launching: begins ranks, once it has loaded what they run.
    """

    def __init__(self, place: Place, server: socket.socket, lock: int, orphan_grace: float) -> None:
        self._place = place
        self._lock = lock
        self._orphan_grace = orphan_grace
        self._children: dict[int, Child] = {}
        self._last_samples: list[Sample] = []  # of ranks that have ended
        self._next_sample = self._next_measure = 0.0
        self._injector = Injector(self._whisper, self._tell_chaos)
        self._turned_at = time.monotonic()
        self._done = False
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_done", True))
        signal.set_wakeup_fd(self._wake_out.fileno())
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._woken)
        self._agents = Agents(server, self._selector, self._news, self._obey)
        self.launching = Launching(place, self._agents, self._watch, self._let_go)

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
            self._agents.tell()
        self._agents.look(now)
        limit = self._orphan_grace if self._children or self._agents.owed else _IDLE_LIFE
        if now - self._agents.alone_since > limit:
            self._done = True

    # --- orders -------------------------------------------------------------------------

    def _obey(self, order: object) -> None:
        match order:
            case Prepare():
                if not self._of(order.job, order.epoch):  # else it came again, and late
                    self.launching.prepare(order)
            case Launch():
                self.launching.launch(order, [child.seat for child in self._live()])
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
                    if (fact := self._agents.acknowledged(name)) is not None:
                        self._passed_on(fact)
            case Shutdown():
                self._done = True

    def _kill(self, order: Kill) -> None:
        self.launching.end(order.job, order.epoch)
        self._collect()  # an end that is news must not look like ours
        for child in self._of(order.job, order.epoch):
            if order.hung:
                why = order.why if child.rank in order.hung else ""
                child.end_hung(why, time.monotonic())
            else:
                child.kill()

    def _passed_on(self, fact: dict[str, Any]) -> None:
        """Do what had to wait until control has a fact."""
        if fact["kind"] == "CheckpointWritten":
            # Control says so too, but an order can be lost, and rank 0 may wait for this one.
            new = fact["checkpoint"]
            for child in self._of(new["job"], new["epoch"]):
                self._whisper(child, Committed(new["job"], new["epoch"], new["step"]))
        if fact["kind"] == "RankDone":
            run, _, number = fact["job"].partition("#")
            log = self._place.log(run, int(number), fact["epoch"], fact["end"]["rank"])
            with suppress(OSError):
                log.unlink()  # the agent shipped it before the fact

    # --- ranks --------------------------------------------------------------------------

    def _news(self) -> dict[str, Any]:
        """Return what the agent that speaks for the host is told besides facts."""
        rows = [RankRow(c.attempt.job, c.attempt.epoch, c.rank, c.pid) for c in self._live()]
        return {
            "warm": self.launching.warm,
            "ranks": plain(rows),
            "samples": plain(list(self._samples())),
        }

    def _samples(self) -> Iterator[Sample]:
        yield from self._last_samples
        self._last_samples.clear()
        for child in self._live():
            yield child.take_sample()

    def _watch(self, child: Child) -> None:
        self._children[child.pid] = child
        self._selector.register(child.channel, selectors.EVENT_READ, partial(self._listen, child))

    def _let_go(self) -> None:
        """In a fork: close everything that is the supervisor's."""
        self._selector.close()
        os.close(self._lock)  # or a stray grandchild would keep the next supervisor out
        self._agents.let_go()
        for end in (self._wake_in, self._wake_out):
            end.close()
        for child in self._children.values():
            child.channel.close()
            child.stacks.close()

    def _listen(self, child: Child) -> bool:
        """Hear what a rank has said; False if there was nothing."""
        data = receive(child.channel)
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
            self._agents.fact(name, FACTS.unpack({"kind": kind, **message}))

    def _whisper(self, child: Child, order: object) -> None:
        """Tell a rank; one that doesn't read is not waited for."""
        if child.channel.fileno() >= 0:
            child.outgoing += frame(ORDERS.pack(order))
            flush(child.channel, child.outgoing)

    def _woken(self) -> None:
        receive(self._wake_in)
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
            scratch.remove(child.seat.scratch)
            attempt = child.attempt
            done = RankDone(attempt.job, attempt.epoch, end)
            self._agents.fact(f"{attempt.job}/{attempt.epoch}/{child.rank}/done", done)

    def _tell_chaos(self, order: Chaos, text: str) -> None:
        note = Note(order.job, order.epoch, order.rank, f"No chaos ({order.what}): {text}.")
        self._agents.fact(f"{order.job}/{order.epoch}/chaos/{order.id}", note)

    def _live(self) -> list[Child]:
        return list(self._children.values())

    def _of(self, job: str, epoch: int) -> list[Child]:
        return [c for c in self._live() if (c.attempt.job, c.attempt.epoch) == (job, epoch)]


def _kill_group(pid: int) -> None:
    """End what a dead rank left in its session."""
    with suppress(OSError):  # there is nothing, or nothing of ours (what it ran with sudo)
        os.killpg(pid, signal.SIGKILL)
