"""A rank's life: join the gang, run the cell, say how it ended, leave.

This module is what the supervisor preloads, so that a fork has everything imported:
`torch._dynamo` too, which the first optimizer would import at a cost of a second.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import os
import pickle
import random
import signal
import socket
import sys
import threading
import time
import types
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
import torch._dynamo

from resilient_nb.config import load_settings
from resilient_nb.core import traces
from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.errors import Diverged
from resilient_nb.rank import chaos
from resilient_nb.rank.around import NAME, Around, rewritten
from resilient_nb.rank.boundary import Boundary, Left
from resilient_nb.rank.divergence import LossWatch
from resilient_nb.rank.failure import pack_error
from resilient_nb.rank.gpu import Gpu
from resilient_nb.rank.group import Group
from resilient_nb.rank.inputs import Channel, Inputs, received
from resilient_nb.rank.leaving import Leaving
from resilient_nb.rank.link import Link
from resilient_nb.rank.outputs import pickled, store
from resilient_nb.rank.parts import Parts
from resilient_nb.rank.phases import CHECKPOINT, COMPUTE, ENDED
from resilient_nb.rank.run import Run
from resilient_nb.rank.saver import Saver
from resilient_nb.rank.scaling import Growth, Lowered, scaled_rates
from resilient_nb.rank.schedule import Schedule
from resilient_nb.rank.shelved import ShelvedWriter, open_start
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.stored import Stored
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.rank.writer import Writer, WriterProcess
from resilient_nb.storage.encryption import CAPTURED, decrypt_file
from resilient_nb.storage.failing import Switch
from resilient_nb.storage.reading import Checkpoint
from resilient_nb.storage.stores import open_store, read_blob, sub_folder
from resilient_nb.supervisor.seats import Seat
from resilient_nb.wire.orders import Attempt, Chaos, Committed, Leave, Note

#: A checkpoint that is being written when the cell fails gets so many seconds to be done.
_WRITES = 10.0


def main(
    attempt: Attempt, rank: int, seat: Seat, channel: socket.socket, rendezvous: int | None
) -> NoReturn:
    """Run one rank of an attempt; never returns.

    Args:
        attempt: what the whole gang shares.
        rank: this process's number in the gang.
        seat: its place on this host.
        channel: the socket to the supervisor.
        rendezvous: rank 0's listening socket, already bound.
    """
    # Now, while there are no threads. It must not hold our sockets: their end is our end.
    switch = Switch()
    writer = WriterProcess([fd for fd in (channel.fileno(), rendezvous) if fd is not None], switch)
    telemetry = Telemetry(attempt, rank, seat.reached)
    process = _Rank(attempt, rank, channel, writer, switch, telemetry)
    process.end(process.run(seat, rendezvous))


class _Rank:
    def __init__(
        self,
        attempt: Attempt,
        rank: int,
        channel: socket.socket,
        writer: Writer,
        switch: Switch,
        telemetry: Telemetry,
    ) -> None:
        self._pid = os.getpid()
        self._attempt = attempt
        self._switch = switch
        self._rank = rank
        self._writer = writer
        self._telemetry = telemetry
        self._boundary: Boundary | None = None
        self._leaving: Leaving | None = None
        self._saver: Saver | None = None
        self._inputs: Inputs | None = None
        self._asked_at: float | None = None
        self._ending = threading.Lock()
        self._link = Link(channel, _catch_sigterm(), self._telemetry.sample, self._obey)
        self._link.start()

    def end(self, end: RankEnd) -> NoReturn:
        """Say how the rank ended, and end the process."""
        if os.getpid() != self._pid:
            os._exit(1)  # a fork of the cell's own that comes to its end isn't the rank
        with self._ending:  # never let go: it ends only once
            if self._asked_at is not None:
                end = replace(end, vacated_s=time.monotonic() - self._asked_at)
            for output in (sys.stdout, sys.stderr):
                with suppress(Exception):  # the cell may have closed it, or put another there
                    output.flush()
            self._link.end(end)
            # Taking down a process group can hang, and nothing is left to do: leave at once.
            os._exit(0 if end.outcome in (Outcome.FINISHED, Outcome.LEFT) else 1)

    def run(self, seat: Seat, rendezvous: int | None) -> RankEnd:
        """Run the cell; return how it ended, whatever happens."""
        end = RankEnd(self._rank, Outcome.FINISHED, time.time())
        try:
            self._join_and_execute(seat, rendezvous)
        except Left:
            end = replace(end, outcome=Outcome.LEFT)
        except BaseException as error:
            if self._saver is not None:
                self._saver.wait(_WRITES)  # a checkpoint from before the error is a good one
            # What the cell made of a divergence is not what happened.
            packed = pack_error(self._diverged() or error, self._attempt.cell)
            if self._inputs is not None:
                packed = self._inputs.explain(error, packed)
            end = replace(end, outcome=Outcome.FAILED, error=packed)
        self._telemetry.state = end.outcome.value
        self._telemetry.phases.enter(ENDED)
        return replace(end, at=time.time(), step=self._reached())

    def _join_and_execute(self, seat: Seat, rendezvous: int | None) -> None:
        attempt = self._attempt
        torch.set_num_threads(load_settings().threads)
        _join_trace(attempt, self._rank)
        _seed(attempt.seed)
        namespace = _namespace(attempt)
        group = Group(attempt, self._rank, seat, rendezvous, self._telemetry.phases)
        if group.device.type == "cuda":
            self._telemetry.gpu = Gpu(group.device)
        self._leaving = Leaving(group, self._underway, self._leave_now)
        stored = Stored(_start(attempt, seat.shelf), self._rank) if attempt.start_id else None
        if seat.shelf:
            runs = sub_folder(attempt.store, "runs")
            self._writer = ShelvedWriter(self._writer, runs, seat.shelf, self._note)
        start = stored.manifest if stored else None
        self._saver = Saver(
            attempt, self._rank, group.store, self._link.fact, self._note, self._writer, start,
        )  # fmt: skip
        growth, lowered = Growth.of(attempt), Lowered.of(attempt, start)
        parts = Parts(
            group,
            Tracker(self._rank, namespace, self._note),
            self._saver,
            self._telemetry,
            self._leaving,
            growth,
            scaled_rates(growth, lowered),
            lowered,
            LossWatch.of(attempt, self._rank),
            frozenset(attempt.skip),
            around := Around(stored.course if stored else None),
        )
        if self._rank == 0 and (news := lowered.news()):
            self._note(news)
        schedule = Schedule(group, attempt.interval, attempt.mtbf)
        boundary = Boundary(parts, schedule, stored, self._note)
        self._boundary = boundary
        told = Channel(self._telemetry, self._saver.origin, self._link.fact, self._note)
        self._inputs = Inputs(attempt, self._rank, told, start, speaks=seat.local_rank == 0)
        run = Run(boundary, attempt.seed, self._inputs)
        namespace["run"] = run
        namespace[NAME] = around
        self._telemetry.state = "running"
        self._telemetry.phases.enter(COMPUTE)
        _execute(attempt, namespace)
        boundary.finish(run.loops)
        if self._rank == 0 and attempt.out:
            self._keep_results(namespace)
        self._leaving.close()
        group.leave()

    def _keep_results(self, namespace: dict[str, Any]) -> None:
        payload = pickled(self._attempt, namespace)
        self._telemetry.state = "checkpointing"
        self._telemetry.phases.enter(CHECKPOINT)  # it may take its time: that is no hang
        if not store(self._attempt, payload, self._note, self._is_leaving):
            raise Left

    def _is_leaving(self) -> bool:
        return self._leaving is not None and self._leaving.asked

    def _diverged(self) -> Diverged | None:
        return self._boundary.diverged if self._boundary is not None else None

    def _reached(self) -> int:
        """Return the last step that counts: of a run that diverged, the one before."""
        found = self._diverged()
        return self._telemetry.step if found is None else max(0, found.step - 1)

    def _obey(self, order: object) -> None:
        """Take an order or a signal, in the link's thread."""
        if isinstance(order, Committed) and self._saver is not None:
            self._saver.answered(order.step, order.accepted)
        elif isinstance(order, Chaos):
            if why := chaos.obey(order, self._switch):
                self._note(f"No chaos ({order.what}): {why}.")
        elif isinstance(order, Leave) or order == signal.SIGTERM:
            self._asked_at = self._asked_at or time.monotonic()
            if self._leaving is not None:
                self._leaving.ask()
            else:
                self._leave_now()

    def _underway(self) -> int | None:
        """Return the step that is under way, None before the first loop."""
        return self._boundary.underway if self._boundary is not None else None

    def _leave_now(self) -> NoReturn:
        """Leave as no loop has begun: there is nothing to keep."""
        self.end(RankEnd(self._rank, Outcome.LEFT, time.time(), self._telemetry.step))

    def _note(self, text: str) -> None:
        self._link.fact(Note(self._attempt.job, self._attempt.epoch, self._rank, text))


def _catch_sigterm() -> socket.socket:
    """Return a socket that gives a byte for each SIGTERM, which asks the rank to leave.

    A handler alone would not do: it runs in the main thread, and never inside a collective.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    theirs.detach()  # the descriptor is the signal module's from now on
    os.register_at_fork(
        before=_hold_sigterm, after_in_parent=_take_sigterm, after_in_child=_let_sigterm_end
    )
    return ours


def _hold_sigterm() -> None:
    """A child that is ended as soon as it begins must not speak for us: it shares our socket."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _take_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _let_sigterm_end() -> None:
    """In a data-loading process, say: it ends as any other does."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _take_sigterm()


def _join_trace(attempt: Attempt, rank: int) -> None:
    """Tell what the cell traces itself, by the usual name, whose part it is."""
    if (parent := traces.parse(attempt.trace)) is not None:
        os.environ["TRACEPARENT"] = str(traces.rank(parent, rank))


def _seed(seed: int) -> None:
    """Seed all generators alike on every rank: models begin equal everywhere."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _start(attempt: Attempt, shelf: str) -> Checkpoint:
    """Open the checkpoint that the attempt goes on from.

    What is in memory is read there, and what the store has lost in a replica.
    """
    assert attempt.start_id is not None
    places = [sub_folder(place, "runs") for place in (attempt.store, *attempt.replicas)]
    return open_start(places, attempt.start_id, shelf)


def _namespace(attempt: Attempt) -> dict[str, Any]:
    """Return the cell's globals: a module `__main__` of its own, with the captured names."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    namespace = module.__dict__
    # First: classes that come with both are to be as the notebook has them now.
    values = received(attempt)
    if attempt.captured is not None:
        store = open_store([attempt.store, *attempt.replicas])
        payload = read_blob(store, attempt.captured)
        namespace.update(pickle.loads(decrypt_file(payload, CAPTURED, "What the cell captured")))
    namespace.update(values)
    return namespace


def _execute(attempt: Attempt, namespace: dict[str, Any]) -> None:
    cell = attempt.cell
    for name, text in {**cell.sources, cell.filename: cell.source}.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(cell.source, cell.filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    tree = rewritten(tree, cell.sources.values())
    code = compile(tree, cell.filename, "exec", flags, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)
