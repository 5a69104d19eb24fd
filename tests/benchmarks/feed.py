"""What following a job of 1,000 ranks costs the scheduler's loop, whose samples come at 4 Hz."""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.feed import Feed
from resilient_nb.control.pieces import Sources
from resilient_nb.control.shell import Shell
from resilient_nb.core.alert_model import AlertsReport
from resilient_nb.storage.journal import SqliteJournal
from resilient_nb.testing.builders import a_report, a_spec
from resilient_nb.testing.fakes import ManualClock, RecordingLauncher, fake_settings
from resilient_nb.wire import orders
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import build, plain
from resilient_nb.wire.feed import FRAME_EVERY, Follow
from resilient_nb.wire.orders import RankRow, Report, Sample

RANKS, ON_HOST, RATE = 1000, 8, 4


class Bench:
    """An engine with a gang of `RANKS`, and who follows it."""

    def __init__(self, home: Path) -> None:
        self.clock = ManualClock()
        self.feed = Feed(self.clock)
        self.journal = SqliteJournal(home / "journal.sqlite")
        shell = Shell(self.journal, RecordingLauncher(), self.clock, self.feed.changed)
        self.engine = Engine(fake_settings(home), shell)
        commands = Commands(self.engine, "tcp://here")
        views, alerts = commands.views, AlertsReport((), (), ())
        self.feed.begin(Sources(self.engine, views.cluster, views.run, lambda: alerts))
        self.hosts = [f"h{n:03}" for n in range(RANKS // ON_HOST)]
        for host in self.hosts:
            self.engine.report(a_report(host, slots=ON_HOST))
        self.job = commands(rq.Submit("digits", a_spec(RANKS), "r"), "ada").job
        self.engine.report(
            a_report(self.hosts[0], orders.Prepared(self.job, 1, 4000), slots=ON_HOST)
        )
        self.rows = {
            share.host: tuple(
                RankRow(self.job, 1, rank, 1000 + rank)
                for rank in range(share.first, share.first + share.count)
            )
            for share in self.engine.world.jobs[self.job].placement
        }
        for host, rows in self.rows.items():
            started = [orders.RankStarted(self.job, 1, row.rank, row.pid) for row in rows]
            self.engine.report(a_report(host, *started, slots=ON_HOST, ranks=rows))
        assert self.engine.world.jobs[self.job].state == "running"
        self.step = 0
        self.cursor = 0
        self.draw = random.Random(1)

    def reports(self) -> list[dict[str, Any]]:
        """Return what the agents say in a quarter of a second, as it arrives."""
        self.step += 3
        draw = self.draw.random
        found = []
        for host, rows in self.rows.items():
            samples = tuple(
                Sample(
                    self.job, 1, row.rank, "running", self.step, 600_000, 11.0 + draw(),
                    913_000_000 + int(1e6 * draw()), draw(), row.pid,
                    ((self.step, {"loss": draw(), "accuracy": draw(), "lr": 0.1}),)
                    if row.rank == 0 else (),
                    None, True, "compute", draw() / 10, 0.01, False, 0.01, 3, 192, 0.01 * draw(),
                    0.2 + 0.01 * draw(), 0.02 * draw(), 0.0, 0.09 * draw(), 950_000_000, 1 << 30,
                    self.step * 1000, self.step * 10,
                )
                for row in rows
            )  # fmt: skip
            report = a_report(host, slots=ON_HOST, ranks=rows, samples=samples)
            found.append(plain(replace(report, disk_free=50 << 30, round_trip=0.001)))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(found))  # type: ignore[no-any-return]

    def frame(self, spent: dict[str, float], follow: bool) -> int:
        """Let a quarter of a second pass; add what it takes; return the bytes of the answer."""
        told = self.reports()

        def timed(name: str, work: Callable[[], Any]) -> Any:
            begin = time.process_time()
            found = work()
            spent[name] = spent.get(name, 0.0) + time.process_time() - begin
            return found

        reports = timed("read reports", lambda: [build(Report, each) for each in told])
        for report in reports:
            self.clock.advance(FRAME_EVERY / len(reports))
            timed("take reports", partial(self.engine.report, report))
        if self.step % 12 == 0:
            timed("tick", self.engine.tick)
        if not follow:
            return 0
        request = Follow(self.cursor, (self.job,))
        answer, _ = timed("answer", lambda: self.feed.answer(request))
        self.cursor = answer.cursor
        return len(answer.board) + sum(map(len, answer.jobs))


def measure(seconds: int = 20, show: Callable[[str], None] = print) -> dict[str, float]:
    """Print the parts, in ms of CPU for each second; return them."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        gc.set_threshold(*(3 * count for count in gc.get_threshold()))
        for _ in range(2 * RATE):
            bench.frame({}, follow=True)
        spent: dict[str, float] = {}
        size = sum(bench.frame(spent, follow=True) for _ in range(seconds * RATE))
        bench.journal.close()
    found = {name: round(1e3 * value / seconds, 1) for name, value in spent.items()}
    show(f"{RANKS} ranks at {RATE} Hz, one follower; ms of CPU for each second:")
    for name, value in found.items():
        show(f"  {name:<14} {value:>7.1f}")
    show(f"  {'together':<14} {sum(found.values()):>7.1f}   {size / seconds / 1e3:.0f} kB/s told")
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if sys.argv[1:] else 20)))
