"""The rank's channel to its supervisor: facts and samples up, orders down.

A thread does both, so that the training loop never waits for a socket. If the supervisor is
gone the process ends at once: nobody would be left to supervise it.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from resilient_nb.core.model import RankEnd
from resilient_nb.wire.codec import plain
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import FACTS, ORDERS, Sample

_SAMPLE_EVERY = 0.25
#: A sample that says nothing new is sent so often all the same: who is silent for longer hangs.
_HEARTBEAT = 1.0


class Link:
    """Sends what the rank has to say; calls `obey` with each order, in its own thread.

    `signals` gives a byte for each signal that came: they are obeyed as orders are.
    """

    def __init__(
        self,
        channel: socket.socket,
        signals: socket.socket,
        sample: Callable[[], Sample],
        obey: Callable[[object], None],
    ) -> None:
        self._channel = channel
        self._signals = signals
        self._sample = sample
        self._obey = obey
        self._lock = threading.Lock()
        self._last: Sample | None = None
        self._sent_at = 0.0

    def start(self) -> None:
        """Begin to listen and to send samples."""
        threading.Thread(target=self._serve, name="resilient_nb link", daemon=True).start()

    def fact(self, fact: object) -> None:
        """Send a fact; the supervisor keeps it until it is in the journal."""
        self._send(FACTS.pack(fact))

    def end(self, end: RankEnd) -> None:
        """Send the rank's own account of its end, after its last sample."""
        self._send_sample()
        self._send({"kind": "End", **plain(end)})

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._channel.sendall(frame(message))

    def _send_sample(self) -> None:
        sample, now = self._sample(), time.monotonic()
        state = sample.passed_on()._replace(phase_s=0.0)
        news = sample.points or sample.steps or state != self._last
        if news or now - self._sent_at >= _HEARTBEAT:
            self._send({"kind": "Sample", "sample": plain(sample)})
            self._last, self._sent_at = state, now

    def _take(self, message: dict[str, Any]) -> None:
        try:
            self._obey(ORDERS.unpack(message))
        except Exception:
            traceback.print_exc()  # the orders that follow may matter more

    def _serve(self) -> None:
        reader = FrameReader()
        next_sample = time.monotonic()
        while True:
            wait = max(0.0, next_sample - time.monotonic())
            try:
                ready, _, _ = select.select([self._channel, self._signals], [], [], wait)
                if self._signals in ready:
                    for number in self._signals.recv(64):
                        self._obey(number)
                if self._channel in ready:
                    data = self._channel.recv(1 << 16)
                    if not data:
                        os._exit(72)
                    for message in reader.feed(data):
                        self._take(message)
                if time.monotonic() >= next_sample:
                    next_sample = time.monotonic() + _SAMPLE_EVERY
                    self._send_sample()
            except OSError:
                os._exit(72)
            except Exception:
                traceback.print_exc()  # a rank that fell silent would be taken to hang
