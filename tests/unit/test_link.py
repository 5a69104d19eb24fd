"""`rank.link`: a rank that lives says so, whatever goes wrong with one message."""

from __future__ import annotations

import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resilient_nb.rank import link
from resilient_nb.rank.boundary import Boundary
from resilient_nb.rank.link import Link
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.codec import build
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import ORDERS, Committed, Leave, Sample


def test_a_cells_own_kinds_of_numbers_can_be_sent() -> None:
    telemetry = Telemetry(an_attempt(), 0)
    cell: Any = SimpleNamespace(_telemetry=telemetry)
    Boundary.total.__set__(cell, np.int64(5))
    assert type(telemetry.sample().total_steps) is int


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_goes_wrong_with_one_order_silences_nobody(
    capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This process is no rank, and outlives its supervisor.
    monkeypatch.setattr(link, "os", SimpleNamespace(_exit=sys.exit))
    ours, theirs = socket.socketpair()
    signals, other = socket.socketpair()
    heard: list[object] = []

    def obey(order: object) -> None:
        heard.append(order)
        if isinstance(order, Committed):
            raise RuntimeError("odd")

    telemetry = Telemetry(an_attempt(), 0)
    Link(theirs, signals, telemetry.sample, obey).start()
    ours.sendall(frame(ORDERS.pack(Committed("digits#1", 1, 5))))
    ours.sendall(frame(ORDERS.pack(Leave("digits#1", 1, 5.0))))
    ours.settimeout(10.0)
    reader, step = FrameReader(), 0
    while step != 7:
        for message in reader.feed(ours.recv(1 << 16)):
            step = build(Sample, message["sample"]).step
            telemetry.step = 7 if len(heard) == 2 else 0
    assert "RuntimeError: odd" in capfd.readouterr().err
    [thread] = [t for t in threading.enumerate() if t.name == "resilient_nb link"]
    ours.close()
    thread.join(10.0)
    assert not thread.is_alive()
    for end in (theirs, signals, other):
        end.close()
