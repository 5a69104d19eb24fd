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
import socket
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import numpy as np
import torch
import torch._dynamo

from resilient_nb.config import load_settings
from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.errors import InvalidRequest
from resilient_nb.rank.boundary import Boundary, Left
from resilient_nb.rank.failure import pack_error
from resilient_nb.rank.group import Group
from resilient_nb.rank.link import Link
from resilient_nb.rank.run import Run
from resilient_nb.rank.saver import Saver
from resilient_nb.rank.state import Stored, Tracker
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.storage.blobs import BlobStore
from resilient_nb.storage.checkpoints import open_checkpoint
from resilient_nb.wire.orders import Attempt, Committed, Leave, Note


def main(
    attempt: Attempt, rank: int, local_rank: int, channel: socket.socket, rendezvous: int | None
) -> NoReturn:
    """Run one rank of an attempt; never returns.

    Args:
        attempt: what the whole gang shares.
        rank: this process's number in the gang.
        local_rank: its number on this host.
        channel: the socket to the supervisor.
        rendezvous: rank 0's listening socket, already bound.
    """
    process = _Rank(attempt, rank, channel)
    end = process.run(local_rank, rendezvous)
    sys.stdout.flush()
    sys.stderr.flush()
    process.link.end(end)
    # Taking down a process group can hang, and nothing is left to do: leave at once.
    os._exit(0 if end.outcome in (Outcome.FINISHED, Outcome.LEFT) else 1)


class _Rank:
    def __init__(self, attempt: Attempt, rank: int, channel: socket.socket) -> None:
        self._attempt = attempt
        self._rank = rank
        self._telemetry = Telemetry(attempt, rank)
        self._boundary: Boundary | None = None
        self._saver: Saver | None = None
        self.link = Link(channel, self._telemetry.sample, self._obey)
        self.link.start()

    def run(self, local_rank: int, rendezvous: int | None) -> RankEnd:
        """Run the cell; return how it ended, whatever happens."""
        end = RankEnd(self._rank, Outcome.FINISHED, time.time())
        try:
            self._join_and_execute(local_rank, rendezvous)
        except Left:
            end = replace(end, outcome=Outcome.LEFT)
        except BaseException as error:
            packed = pack_error(error, self._attempt.cell)
            end = replace(end, outcome=Outcome.FAILED, error=packed)
        self._telemetry.state = end.outcome.value
        return replace(end, at=time.time(), step=self._telemetry.step)

    def _join_and_execute(self, local_rank: int, rendezvous: int | None) -> None:
        attempt = self._attempt
        torch.set_num_threads(load_settings().threads)
        _seed(attempt.seed)
        namespace = _namespace(attempt)
        group = Group(attempt, self._rank, local_rank, rendezvous)
        tracker = Tracker(self._rank, namespace, self._note)
        self._saver = Saver(attempt, self._rank, group.store, self.link.fact, self._note)
        stored = Stored(open_checkpoint(attempt.start), self._rank) if attempt.start else None
        boundary = Boundary(
            group, tracker, self._saver, self._telemetry, attempt.interval, stored, self._note
        )
        self._boundary = boundary
        run = Run(boundary, attempt.seed)
        namespace["run"] = run
        self._telemetry.state = "running"
        _execute(attempt, namespace)
        boundary.finish(run.loops)
        if self._rank == 0 and attempt.out:
            _write_out(attempt, namespace)
        group.leave()

    def _obey(self, order: object) -> None:
        """Take an order, in the link's thread."""
        if isinstance(order, Committed) and self._saver is not None:
            self._saver.answered(order.step, order.accepted)
        elif isinstance(order, Leave) and not (self._boundary and self._boundary.leave()):
            # No loop was begun, so there is nothing to keep. End at once, from this thread:
            # the main one may be waiting for a peer that has left already.
            end = RankEnd(self._rank, Outcome.LEFT, time.time(), self._telemetry.step)
            self.link.end(end)
            os._exit(0)

    def _note(self, text: str) -> None:
        self.link.fact(Note(self._attempt.job, self._attempt.epoch, self._rank, text))


def _seed(seed: int) -> None:
    """Seed all generators alike on every rank: models begin equal everywhere."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _namespace(attempt: Attempt) -> dict[str, Any]:
    """Return the cell's globals: a module `__main__` of its own, with the captured names."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    namespace = module.__dict__
    if attempt.captured is not None:
        blob = BlobStore(Path(attempt.store, "blobs")).path(attempt.captured)
        namespace.update(pickle.loads(blob.read_bytes()))
    return namespace


def _execute(attempt: Attempt, namespace: dict[str, Any]) -> None:
    cell = attempt.cell
    for name, text in {**cell.sources, cell.filename: cell.source}.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(cell.source, cell.filename, "exec", flags, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)


def _write_out(attempt: Attempt, namespace: dict[str, Any]) -> None:
    """Pickle the values for `--out` together, so that what they share stays shared.

    Raises:
        InvalidRequest: naming the one that is missing or can't be pickled.
    """
    missing = [name for name in attempt.out if name not in namespace]
    if missing:
        raise InvalidRequest(f"--out {missing[0]}: the cell ended without assigning it.")
    values = {name: namespace[name] for name in attempt.out}
    try:
        payload = cloudpickle.dumps(values)
    except Exception as error:
        for name, value in values.items():
            try:
                cloudpickle.dumps(value)
            except Exception as cause:
                raise InvalidRequest(
                    f"--out {name}: a {type(value).__name__} can't be sent back ({cause})."
                ) from cause
        raise InvalidRequest(f"--out: {error}") from error
    folder = Path(attempt.store, "out", attempt.run, str(attempt.number))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = folder / f"out.pkl.{attempt.epoch}"
    part.write_bytes(payload)
    part.chmod(0o600)
    part.replace(folder / "out.pkl")
