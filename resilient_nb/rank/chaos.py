"""Failures on purpose that only the rank itself can make, in its link's thread."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import time
from collections.abc import Iterator

from resilient_nb.core.model import Injection
from resilient_nb.storage.failing import Switch
from resilient_nb.wire.orders import Chaos


def obey(order: Chaos, switch: Switch) -> str:
    """Do what an order says; return why it couldn't be done, "" if it was."""
    match order.what:
        case Injection.HANG:
            hold_gil(order.seconds)
        case Injection.DROP_NETWORK:
            return "" if cut_connections() else "it has no connections that could be cut"
        case Injection.FILL_DISK:
            switch.fail(errno.ENOSPC, order.seconds)
    return ""


def hold_gil(seconds: float) -> None:
    """Let no other thread of this process run any Python."""
    # Signals are for other threads: else one would end the sleep.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    sleep = ctypes.PyDLL(None).usleep  # unlike CDLL, it keeps the GIL
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        sleep(ctypes.c_uint(int(1e6 * min(left, 600.0)) + 1))
    signal.pthread_sigmask(signal.SIG_SETMASK, old)


def cut_connections() -> int:
    """Shut down every TCP connection of this process; return how many there were."""
    cut = 0
    for end in _sockets():
        try:
            end.getpeername()
            end.shutdown(socket.SHUT_RDWR)
            cut += 1
        except OSError:
            continue  # it listens, or is closed already
        finally:
            end.close()
    return cut


def _sockets() -> Iterator[socket.socket]:
    """Yield a duplicate of each TCP socket."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            end = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # it was closed meanwhile
        if end.family in (socket.AF_INET, socket.AF_INET6) and end.type == socket.SOCK_STREAM:
            yield end
        else:
            end.close()
