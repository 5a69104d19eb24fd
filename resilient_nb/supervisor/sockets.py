"""Sockets that never make the supervisor wait."""

from __future__ import annotations

import socket

#: A peer that lets more than this wait never reads: it is as good as gone.
_MOST_WAITING = 16 << 20


def receive(end: socket.socket) -> bytes | None:
    """Return bytes, b"" at the end of the stream, None when there is nothing yet."""
    try:
        return end.recv(1 << 20)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def flush(end: socket.socket, outgoing: bytearray) -> bool:
    """Send what the socket takes now; False if the other side is gone."""
    try:
        while outgoing:
            del outgoing[: end.send(outgoing)]
    except BlockingIOError:
        return len(outgoing) < _MOST_WAITING
    except OSError:
        return False
    return True
