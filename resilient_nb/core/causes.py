"""The causes of failures, and how each is told from how one rank ended. `diagnosis` has gangs."""

from __future__ import annotations

import errno

from resilient_nb.core.model import Outcome, RankEnd, RemoteError

KILLED = "killed from outside"
HOST_LOST = "host lost"
CRASH = "native crash"
USER_ERROR = "error in the cell"
SILENT_EXIT = "silent exit"
NETWORK = "connection lost"
DAMAGED = "damaged checkpoint"
OUT_OF_MEMORY = "out of memory"
ALLOCATION = "allocation failed"
HANG = "hang"
DIVERGED = "numbers diverged"
INPUT_LOST = "input lost"
DISK_FULL = "disk full"
IO_ERROR = "I/O error"
NOT_STARTED = "not started"

CAUSES = (
    KILLED, HOST_LOST, CRASH, USER_ERROR, SILENT_EXIT, NETWORK, DAMAGED, OUT_OF_MEMORY, ALLOCATION,
    HANG, DIVERGED, INPUT_LOST, DISK_FULL, IO_ERROR, NOT_STARTED,
)  # fmt: skip

#: How a supervisor's account begins of a rank that it couldn't fork.
COULD_NOT_START = "the rank could not be started"

#: A rank that was killed with so much of its memory in use had too little.
NEAR_LIMIT = 0.95

_SIGKILL = 9
_CRASHES = frozenset({4, 6, 7, 8, 11})
_VICTIM_WORDS = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connection refused",
    "connection was closed",
    "connection was likely closed",
    "failed to recv",
    "failed to send",
    "nccl",
    "timed out",
    "timeout",
)
#: How torch begins if a data-loading process is gone.
_LOADER = "dataloader worker"
_MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "out of memory")
_NETWORK_TYPES = frozenset(
    [
        "ConnectTimeout",
        "ConnectionAbortedError",
        "ConnectionError",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "IncompleteRead",
        "MaxRetryError",
        "ReadTimeout",
        "ReadTimeoutError",
        "RemoteDisconnected",
        "TimeoutError",
        "URLError",
        "gaierror",
    ]
)
_NETWORK_ERRNOS = frozenset(
    [
        errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
        errno.ENETDOWN, errno.ENETUNREACH, errno.ETIMEDOUT,
    ]
)  # fmt: skip
_FULL_ERRNOS = frozenset([errno.ENOSPC, errno.EDQUOT])
_IO_ERRNOS = frozenset([errno.EIO, errno.EREMOTEIO])


def is_victim(end: RankEnd) -> bool:
    """Whether a rank failed only because a peer did."""
    error = end.error
    if error is None or error.metric or error.lost_input or error.damaged:
        return False
    text = error.message.lower()
    return error.in_collective and any(word in text for word in _VICTIM_WORDS)


def cause_of(end: RankEnd, head: str | None = None) -> str:
    """Return the cause of one rank's failure, taken by itself."""
    if end.outcome is Outcome.LOST:
        return HOST_LOST
    if end.hang:
        return HANG
    if _had_too_little(end):
        return OUT_OF_MEMORY
    if end.error is not None:
        return _cause_of_error(end, end.error, head)
    if end.signal is not None:
        return CRASH if end.signal in _CRASHES else KILLED
    return SILENT_EXIT


def _had_too_little(end: RankEnd) -> bool:
    if end.over_limit:
        return True
    near = end.limit > 0 and end.peak_rss >= NEAR_LIMIT * end.limit
    return end.signal == _SIGKILL and (end.oom_kills > 0 or near)


def _cause_of_error(end: RankEnd, error: RemoteError, head: str | None) -> str:
    if head is not None and error.damaged == head:
        return DAMAGED
    if error.metric:
        return DIVERGED
    if error.lost_input:
        return INPUT_LOST
    if error.errno in _FULL_ERRNOS:
        return DISK_FULL
    if error.errno in _IO_ERRNOS:
        return IO_ERROR
    if error.message.startswith(COULD_NOT_START):
        return NOT_STARTED
    text = error.message.lower()
    if error.type in ("MemoryError", "OutOfMemoryError") or error.errno == errno.ENOMEM:
        return ALLOCATION
    if error.type == "RuntimeError" and any(word in text for word in _MEMORY_WORDS):
        return ALLOCATION
    if error.type == "RuntimeError" and text.startswith(_LOADER):
        return _cause_of_loader(end, text)
    if is_victim(end) or error.type in _NETWORK_TYPES or error.errno in _NETWORK_ERRNOS:
        return NETWORK
    return USER_ERROR


def _cause_of_loader(end: RankEnd, text: str) -> str:
    """A process that loads data for the rank has died: torch says so in the rank."""
    if end.oom_kills:
        return OUT_OF_MEMORY
    return CRASH if "killed by signal" in text and "signal: killed" not in text else KILLED


def amount(nbytes: float) -> str:
    """Return a number of bytes as people say it: `812 MiB`, `1.5 GiB`."""
    if nbytes < 1000 * (1 << 20):
        return f"{nbytes / (1 << 20):,.0f} MiB"
    return f"{nbytes / (1 << 30):,.1f} GiB"
