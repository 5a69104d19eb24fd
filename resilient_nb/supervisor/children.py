"""Rank processes: forked, watched, ended. Linux only (PR_SET_PDEATHSIG, /proc)."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.activity import Activity
from resilient_nb.supervisor.footprint import Footprint
from resilient_nb.supervisor.limits import Limit
from resilient_nb.supervisor.output import lossy_text
from resilient_nb.supervisor.seats import Seat
from resilient_nb.supervisor.stacks import Stacks
from resilient_nb.wire.frames import FrameReader
from resilient_nb.wire.orders import Attempt, Sample

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Who lives has said something in so many seconds.
_QUIET = 2.0
#: From the order to write where a rank's threads are to SIGKILL: at least, so that all of it is
#: there, and at most, in seconds. What hung may well go on meanwhile.
_WRITING, _WRITTEN = 0.02, 0.4

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
    limit: Limit
    stacks: Stacks
    activity: Activity
    footprint: Footprint = field(default_factory=Footprint)
    reader: FrameReader = field(default_factory=FrameReader)
    outgoing: bytearray = field(default_factory=bytearray)
    word: RankEnd | None = None  # the rank's own account of its end
    ordered: bool = False
    hang: str = ""  # why it is taken to hang
    asked_at: float | None = None  # when it was first told to leave (monotonic clock)
    kill_at: float | None = None
    sample: Sample | None = None  # the newest, not yet sent
    step: int = 0
    facts: int = 0
    cpu: float = 0.0
    read: int = 0  # bytes, by it and its children, from files and pipes
    written: int = 0
    _cpu_seen: tuple[float, float] | None = None
    _written_by: float = 0.0

    def kill(self) -> None:
        """SIGKILL the rank and whatever it started (they share its session)."""
        self.ordered = True
        for end in (os.killpg, os.kill):
            with suppress(OSError):  # it is gone, or of what is left in its group none is ours
                end(self.pid, signal.SIGKILL)

    def end_hung(self, why: str, now: float) -> None:
        """Have it write where its threads are, and end it: it hangs, or is of a gang that does."""
        if self.ordered or self.hang or self.word is not None:
            return  # told again, or it has ended by itself
        self.hang, self.ordered = why, not why
        self._written_by = now + _WRITTEN
        self.kill_at = min(now + _WRITING, self.kill_at or math.inf)
        self.stacks.ask(self.pid)

    def kill_if_due(self, now: float) -> None:
        """End it if it was to have gone by now, or has written what it was to write."""
        if self.kill_at is None or now < self.kill_at:
            return
        if now < self._written_by and self.stacks.grows():
            self.kill_at = now + _WRITING
            return
        self.kill_at = None
        self.kill()

    def check_limit(self, now: float) -> None:
        """End it if it has more memory than it may."""
        if self.limit.due(now):
            pids = descendants(self.pid)
            if self.limit.look(self.footprint.measure(pids, now, self.limit.most), now):
                self.kill()

    def measure(self, now: float) -> None:
        """Take memory, CPU, and what was read and written, of the rank and its descendants."""
        cpu, read, written = 0.0, 0, 0
        pids = descendants(self.pid)
        self.footprint.measure(pids, now, self.limit.most)
        self.limit.count(now)
        for pid in pids:
            try:
                process = psutil.Process(pid)
                times = process.cpu_times()
                # With what children took that have ended, or their end would look like idleness.
                cpu += times.user + times.system + times.children_user + times.children_system
                moved = process.io_counters()
                read += moved.read_chars
                written += moved.write_chars
            except (psutil.Error, OSError, RuntimeError, ValueError):
                continue  # it ended while we looked, or the kernel doesn't count this
        if self._cpu_seen is not None and now > self._cpu_seen[1]:
            self.cpu = max(0.0, (cpu - self._cpu_seen[0]) / (now - self._cpu_seen[1]))
            self.activity.look(pids, self.cpu, self._cpu_seen[1], now)
        self._cpu_seen = (cpu, now)
        # What a child that has ended had read is its parent's as soon as that has noticed.
        self.read, self.written = max(read, self.read), max(written, self.written)

    def take_sample(self) -> Sample:
        """Return what the rank last said of itself, with what was measured from outside."""
        said = self.sample or Sample(
            self.attempt.job, self.attempt.epoch, self.rank, "starting", self.step
        )
        self.sample, now = said.passed_on(), time.monotonic()
        silent_s = self.activity.silent_s(now)
        if (reached := self.seat.reached.step) > said.step and silent_s > _QUIET:
            # It went on after its last word, and got stuck there: that is a loop.
            said = said._replace(step=reached, looping=True)
        return said._replace(
            rss=self.footprint.now,
            peak_rss=self.footprint.peak,
            limit=self.limit.most,
            silent_s=round(silent_s, 2),
            idle_s=round(self.activity.idle_s(now), 2),
            stopped=self.activity.stopped,
            cpu=self.cpu,
            read=self.read,
            written=self.written,
            pid=self.pid,
        )

    def end(self, status: int, peak_rss: int) -> RankEnd:
        """Return how the rank ended, from its own word or else from its exit status.

        An exit code alone is never trusted: without a word, even code 0 is no success.
        """
        said = self.word
        killed = os.WIFSIGNALED(status)
        vacated_s = said.vacated_s if said else 0.0
        if self.asked_at is not None:
            vacated_s = time.monotonic() - self.asked_at
        over = self.limit.ended() and said is None
        done = said is not None and said.error is None
        # The kernel's peak has pages of files, too, which no limit is for.
        peak = self.footprint.peak if self.limit.most else max(peak_rss, self.footprint.peak)
        return RankEnd(
            rank=self.rank,
            outcome=said.outcome if said else Outcome.EXITED,
            at=said.at if said else time.time(),
            step=said.step if said else max(self.step, self.seat.reached.step),
            exit_code=None if killed else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if killed else None,
            ordered=self.ordered and said is None and not (over or self.hang),
            peak_rss=peak,
            error=said.error if said else None,
            vacated_s=vacated_s,
            limit=self.limit.most,
            over_limit=over,
            oom_kills=self.limit.oom_kills(),
            # One that goes on when it is asked for its stacks finds that the others are gone.
            hang="" if done else self.hang,
            stacks="" if done else self.stacks.read(to_blame=not self.ordered or bool(self.hang)),
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
    limit: Limit,
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
        limit: the memory that it may have.
        rendezvous: the listening socket's descriptor, for rank 0.
        close_inherited: closes what only the supervisor may hold.
    """
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ours, theirs = socket.socketpair()
    stacks, parent = Stacks(), os.getpid()
    try:
        pid = os.fork()
    except OSError:
        stacks.close()
        raise
    if pid == 0:
        try:
            ours.close()
            _settle(parent, log, close_inherited)
            limit.enter()
            stacks.register()
            scratch.use(seat.scratch)
            entry(attempt, rank, seat, theirs, rendezvous)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(70)  # the entry leaves by itself; getting here is a failure
    theirs.close()
    ours.setblocking(False)
    activity = Activity(time.monotonic())
    return Child(attempt, rank, seat, pid, ours, log, limit, stacks, activity)


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
    sys.stdout, sys.stderr = lossy_text(1), lossy_text(2)
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
