"""Rank processes: forked, watched, ended. Linux only (PR_SET_PDEATHSIG, /proc)."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.supervisor.seats import Seat
from resilient_nb.wire.frames import FrameReader
from resilient_nb.wire.orders import Attempt, Sample

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: What a rank process runs: (attempt, rank, seat, channel, rendezvous descriptor or None).
Entry = Callable[[Attempt, int, Seat, socket.socket, int | None], None]


def become_subreaper() -> None:
    """Make orphans below this process (data-loading workers, say) its children."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Child:
    """A live rank process and what it has said."""

    attempt: Attempt
    rank: int
    seat: Seat
    pid: int
    channel: socket.socket
    log: Path
    reader: FrameReader = field(default_factory=FrameReader)
    outgoing: bytearray = field(default_factory=bytearray)
    word: RankEnd | None = None  # the rank's own account of its end
    ordered: bool = False
    asked_at: float | None = None  # when it was first told to leave (monotonic clock)
    kill_at: float | None = None
    sample: Sample | None = None  # the newest, not yet sent
    step: int = 0
    facts: int = 0
    rss: int = 0
    peak_rss: int = 0
    cpu: float = 0.0
    _cpu_seen: tuple[float, float] | None = None

    def kill(self) -> None:
        """SIGKILL the rank and whatever it started (they share its session)."""
        self.ordered = True
        for end in (os.killpg, os.kill):
            try:
                end(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def measure(self, now: float) -> None:
        """Take memory and CPU of the rank and its descendants."""
        rss, cpu = 0, 0.0
        for pid in descendants(self.pid):
            try:
                process = psutil.Process(pid)
                memory = process.memory_info()
                # What the rank shares with its writer (snapshots) or data loaders counts once.
                rss += memory.rss - (memory.shared if pid != self.pid else 0)
                times = process.cpu_times()
                cpu += times.user + times.system
            except psutil.Error:
                continue
        if self._cpu_seen is not None and now > self._cpu_seen[1]:
            self.cpu = max(0.0, (cpu - self._cpu_seen[0]) / (now - self._cpu_seen[1]))
        self._cpu_seen = (cpu, now)
        self.rss, self.peak_rss = rss, max(rss, self.peak_rss)

    def take_sample(self) -> Sample:
        """Return what the rank last said of itself, with what was measured from outside."""
        said = self.sample or Sample(
            self.attempt.job, self.attempt.epoch, self.rank, "starting", self.step
        )
        self.sample = replace(said, points=())
        return replace(said, rss=self.rss, cpu=self.cpu, pid=self.pid)

    def end(self, status: int, peak_rss: int) -> RankEnd:
        """Return how the rank ended, from its own word or else from its exit status.

        An exit code alone is never trusted: without a word, even code 0 is no success.
        """
        said = self.word
        killed = os.WIFSIGNALED(status)
        vacated_s = said.vacated_s if said else 0.0
        if self.asked_at is not None:
            vacated_s = time.monotonic() - self.asked_at
        return RankEnd(
            rank=self.rank,
            outcome=said.outcome if said else Outcome.EXITED,
            at=said.at if said else time.time(),
            step=said.step if said else self.step,
            exit_code=None if killed else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if killed else None,
            ordered=self.ordered and said is None,
            peak_rss=max(peak_rss, self.peak_rss),
            error=said.error if said else None,
            vacated_s=vacated_s,
        )


def descendants(pid: int) -> list[int]:
    """Return a process and all below it, from /proc (psutil would scan every process)."""
    found, at = [pid], 0
    while at < len(found):
        try:
            for task in os.listdir(f"/proc/{found[at]}/task"):
                with open(f"/proc/{found[at]}/task/{task}/children") as file:
                    found += [int(p) for p in file.read().split()]
        except OSError:
            pass  # it ended while we looked
        at += 1
    return found


def fork_rank(
    entry: Entry,
    attempt: Attempt,
    rank: int,
    seat: Seat,
    log: Path,
    rendezvous: int | None,
    close_inherited: Callable[[], None],
) -> Child:
    """Fork a rank. In the child this never returns.

    Args:
        entry: what the rank runs.
        attempt: what it belongs to.
        rank: its number in the gang.
        seat: its place on this host.
        log: the file that takes its output.
        rendezvous: the listening socket's descriptor, for rank 0.
        close_inherited: closes what only the supervisor may hold.
    """
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _settle(parent, log, close_inherited)
            entry(attempt, rank, seat, theirs, rendezvous)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(70)  # the entry leaves by itself; getting here is a failure
    theirs.close()
    ours.setblocking(False)
    return Child(attempt, rank, seat, pid, ours, log)


def _settle(parent: int, log: Path, close_inherited: Callable[[], None]) -> None:
    """Make the fork a process of its own that can't outlive its supervisor."""
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(71)  # the supervisor died before the line above
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    # By line, so that nothing printed is lost when the process is killed.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    close_inherited()


def reap() -> list[tuple[int, int, int]]:
    """Return (pid, status, peak bytes) of every child that has ended."""
    found: list[tuple[int, int, int]] = []
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status, usage.ru_maxrss * 1024))


def load_entry(text: str) -> Any:
    """Return `module:function`, importing it (and all that it preloads)."""
    module, _, name = text.partition(":")
    return getattr(__import__(module, fromlist=[name]), name)
