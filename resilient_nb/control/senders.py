"""A thread for each channel, which sends what waits and tries again what wasn't taken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from resilient_nb.control.channels import NotSent, send
from resilient_nb.core.alert_model import Alert, ChannelTest, ChannelView
from resilient_nb.core.alert_rules import Channel

logger = logging.getLogger(__name__)

#: Of very many alerts that wait, the newest are kept.
_MOST = 500
#: Alerts in one message.
_BATCH = 50


@dataclass(frozen=True)
class Pace:
    """Times in seconds.

    Attributes:
        pause: between two messages, so that a storm of alerts is one message.
        first, longest: until a message that wasn't taken is sent again, at first and at most.
        give_up: after so long it is dropped: what is refused must not hold up all others.
    """

    pause: float = 1.0
    first: float = 2.0
    longest: float = 60.0
    give_up: float = 3600.0


PACE = Pace()


class Sender:
    """Sends by one channel. Everything but `test` returns at once.

    Args:
        name: what the policy file calls the channel.
        channel: the way.
        cluster: what messages say that they come from.
        pace: how soon and for how long.
    """

    def __init__(self, name: str, channel: Channel, cluster: str, pace: Pace = PACE) -> None:
        self.name, self.channel = name, channel
        self.trouble = ""
        self._send: Callable[[list[Alert]], None] = partial(_send, name, channel, cluster)
        self._pace = pace
        self._lock = threading.Lock()
        self._waiting: list[Alert] = []
        self._news = threading.Event()
        self._closed = threading.Event()
        self._sent = 0
        self._thread: threading.Thread | None = None

    def send(self, alert: Alert) -> None:
        """Have an alert sent soon."""
        with self._lock:
            self._waiting = [*self._waiting, alert][-_MOST:]
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"resilient_nb alerts {self.name}", daemon=True
                )
                self._thread.start()
        self._news.set()

    def waiting(self) -> tuple[Alert, ...]:
        """Return what isn't known to have been taken yet."""
        with self._lock:
            return tuple(self._waiting)

    def test(self, alert: Alert) -> ChannelTest:
        """Send an alert now and wait for what comes of it."""
        try:
            self._send([alert])
        except NotSent as error:
            return ChannelTest(self.name, self.channel.target, str(error))
        return ChannelTest(self.name, self.channel.target)

    def view(self) -> ChannelView:
        """Return the channel as shown."""
        waiting, target = len(self.waiting()), self.channel.target
        return ChannelView(self.name, self.channel.kind, target, waiting, self._sent, self.trouble)

    def close(self) -> None:
        """End soon."""
        self._closed.set()
        self._news.set()

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            while (batch := self._next()) and not self._closed.is_set():
                if self._patiently(batch):
                    self._forget(batch)
                    self._closed.wait(self._pace.pause)

    def _patiently(self, batch: list[Alert]) -> bool:
        """Send a message, again and again; False if we are to end before it was taken."""
        pause, began = self._pace.first, time.monotonic()
        while not self._closed.is_set():
            try:
                self._send(batch)
            except NotSent as error:
                said = " ".join(str(error).split())
                self.trouble = f"Alerts can't be sent by {self.name}: {said}"
                if time.monotonic() - began > self._pace.give_up:
                    logger.warning("resilient_nb: %s It is given up.", self.trouble)
                    return True
                self._closed.wait(pause)
                pause = min(self._pace.longest, 2 * pause)
            else:
                self.trouble = ""
                self._sent += len(batch)
                return True
        return False

    def _next(self) -> list[Alert]:
        """Return what is to be sent next."""
        with self._lock:
            return self._waiting[:_BATCH]

    def _forget(self, batch: list[Alert]) -> None:
        with self._lock:
            self._waiting = [alert for alert in self._waiting if alert not in batch]


def _send(name: str, channel: Channel, cluster: str, alerts: list[Alert]) -> None:
    try:
        send(channel, name, alerts, cluster)
    except NotSent:
        raise
    except Exception as error:
        raise NotSent(repr(error)) from error
