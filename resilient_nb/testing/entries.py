"""Light rank processes: what the cell's source says is done without torch or a cell.

For tests of the real supervisor: `--entry resilient_nb.testing.entries:scripted`. The first
word of the source is the behaviour: `finish`, `fail`, `exit CODE`, `train` (until told to
leave), `deaf` (never leaves), `die` (kills itself), `linger` (has finished, but doesn't
exit), `parent` (deaf, with a child process), `python CODE`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import NoReturn

from resilient_nb.core.model import Outcome, RankEnd, RemoteError
from resilient_nb.supervisor.seats import Seat
from resilient_nb.wire.codec import plain
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import FACTS, ORDERS, Attempt, Leave, Note, Sample


def scripted(
    attempt: Attempt, rank: int, seat: Seat, channel: socket.socket, rendezvous: int | None
) -> NoReturn:
    """Behave as `attempt.cell.source` says; the signature is `supervisor.children.Entry`."""
    print(f"rank {rank} of {attempt.job} in attempt {attempt.epoch}, local {seat.local_rank}")
    print(f"shares {seat.slots} slots from {seat.first_slot} with {seat.ranks}")
    print(f"rendezvous {rendezvous is not None}")
    behaviour, _, argument = attempt.cell.source.partition(" ")
    sample = Sample(attempt.job, attempt.epoch, rank, step=7, points=((7, {"loss": 0.5}),))
    channel.sendall(frame({"kind": "Sample", "sample": plain(sample)}))
    channel.sendall(frame(FACTS.pack(Note(attempt.job, attempt.epoch, rank, "hello"))))
    match behaviour:
        case "finish":
            _leave(channel, RankEnd(rank, Outcome.FINISHED, time.time(), step=7))
        case "fail":
            error = RemoteError("ValueError", argument)
            _leave(channel, RankEnd(rank, Outcome.FAILED, time.time(), step=7, error=error), code=1)
        case "exit":
            os._exit(int(argument))
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "train":
            _wait_for_leave(channel)
            _leave(channel, RankEnd(rank, Outcome.LEFT, time.time(), step=8))
        case "linger":
            end = RankEnd(rank, Outcome.FINISHED, time.time(), step=7)
            channel.sendall(frame({"kind": "End", **plain(end)}))
            channel.sendall(frame(FACTS.pack(Note(attempt.job, attempt.epoch, rank, "over"))))
        case "parent":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(f"child {child.pid}")
        case "python":
            held: dict[str, object] = {}  # as long as it lives
            exec(argument, held)
    while True:
        signal.pause()


def _wait_for_leave(channel: socket.socket) -> None:
    reader = FrameReader()
    while True:
        data = channel.recv(1 << 16)
        if not data:
            os._exit(72)
        if any(isinstance(ORDERS.unpack(message), Leave) for message in reader.feed(data)):
            return


def _leave(channel: socket.socket, end: RankEnd, code: int = 0) -> NoReturn:
    sys.stdout.flush()
    channel.sendall(frame({"kind": "End", **plain(end)}))
    os._exit(code)
