"""The agents of a host, and the facts that one of them is to pass on.

One agent at a time speaks for the host: it gets the table of ranks, every fact until it is
acknowledged, and the newest samples. When it goes or stops acknowledging, the next speaks.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from resilient_nb.supervisor.sockets import flush, receive
from resilient_nb.wire.frames import FrameReader, frame
from resilient_nb.wire.orders import FACTS, ORDERS

_ACK_PATIENCE = 3.0


@dataclass
class _Agent:
    connection: socket.socket
    reader: FrameReader = field(default_factory=FrameReader)
    outgoing: bytearray = field(default_factory=bytearray)


class Agents:
    """Hears all agents, and tells the one that speaks; the first in the list does.

    Args:
        server: where they connect.
        selector: calls back when one has said something.
        news: gives what the speaking agent is told besides facts.
        obey: takes an order.

    Attributes:
        alone_since: when there was last an agent (monotonic clock).
    """

    def __init__(
        self,
        server: socket.socket,
        selector: selectors.BaseSelector,
        news: Callable[[], dict[str, Any]],
        obey: Callable[[object], None],
    ) -> None:
        self._server = server
        self._selector = selector
        self._news = news
        self._obey = obey
        self._agents: list[_Agent] = []
        self._facts: dict[str, dict[str, Any]] = {}  # unacknowledged, in order
        self._unsent: list[str] = []
        self._waiting_since: float | None = None
        self.alone_since = time.monotonic()
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ, self._accept)

    # --- what they are told ---------------------------------------------------------------

    def fact(self, name: str, fact: object, tell: bool = True) -> None:
        """Keep a fact until it is acknowledged, and tell it."""
        self._facts[name] = FACTS.pack(fact)
        self._unsent.append(name)
        if tell:
            self.tell()

    def acknowledged(self, name: str) -> dict[str, Any] | None:
        """Forget a fact; return it, None if it was forgotten before."""
        fact = self._facts.pop(name, None)
        # Still waiting for the rest? Then patience begins anew: there is progress.
        self._waiting_since = time.monotonic() if self._facts else None
        return fact

    @property
    def owed(self) -> bool:
        """Whether there are facts that nobody has acknowledged."""
        return bool(self._facts)

    def tell(self) -> None:
        """Tell the speaking agent what is new."""
        if not self._agents:
            return
        facts = [(name, self._facts[name]) for name in self._unsent if name in self._facts]
        self._unsent = []
        if facts and self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._send(self._agents[0], {"speaks": True, "facts": facts, **self._news()})

    def _send(self, agent: _Agent, message: dict[str, Any]) -> None:
        agent.outgoing += frame(message)
        if not flush(agent.connection, agent.outgoing):
            self._drop(agent)

    # --- who speaks -----------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Let another one try if the speaking agent doesn't acknowledge."""
        if self._waiting_since is not None and now - self._waiting_since > _ACK_PATIENCE:
            self._waiting_since = time.monotonic()
            if len(self._agents) > 1:
                self._agents.append(self._agents.pop(0))
                self._send(self._agents[-1], {"speaks": False})
                self._begin_speaking()
        if self._agents:
            self.alone_since = now

    def _begin_speaking(self) -> None:
        self._unsent = list(self._facts)
        self._waiting_since = time.monotonic() if self._facts else None
        self.tell()

    # --- connections ----------------------------------------------------------------------

    def let_go(self) -> None:
        """In a fork: close what is the supervisor's."""
        for end in (self._server, *(agent.connection for agent in self._agents)):
            end.close()

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
            self.tell()
        else:
            self._send(agent, {"speaks": False})

    def _hear(self, agent: _Agent) -> None:
        data = receive(agent.connection)
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
