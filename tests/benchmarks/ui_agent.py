"""Simulated hosts: Dask workers that speak an agent's protocol for ranks that don't exist.

    python tests/benchmarks/ui_agent.py ADDRESS HOSTS SLOTS

Each host reports four times a second, with a new sample of every rank. The scheduler and all that
is behind it are real and can't tell. Ranks go on until they are asked to leave.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import tempfile
import time
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.wire.codec import ORDER, PROTOCOL, REPORT, plain
from resilient_nb.wire.orders import (
    FACTS,
    ORDERS,
    Kill,
    Launch,
    Leave,
    Prepare,
    Prepared,
    RankDone,
    RankRow,
    RankStarted,
    Report,
    Sample,
)

EVERY = 0.25
#: Steps a second, and in all.
PACE, TOTAL = 8.0, 10_000_000


class SimulatedHost(WorkerPlugin):
    """Offers slots, and says of ranks what real ones would."""

    name = "resilient_nb"

    def __init__(self, host: str, slots: int, delay: float) -> None:
        self._host, self._slots, self._delay = host, slots, delay
        self._ranks: dict[tuple[str, int, int], float] = {}  # since when
        self._facts: dict[str, dict[str, Any]] = {}
        self._number = 0

    def setup(self, worker: Worker) -> None:
        self._worker = worker
        worker.stream_handlers[ORDER] = self._order
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._serve())

    def teardown(self, worker: Worker) -> None:
        self._task.cancel()

    # --- orders -------------------------------------------------------------------------

    def _order(self, order: dict[str, Any]) -> None:
        match ORDERS.unpack(order):
            case Prepare(job, epoch):
                self._say(Prepared(job, epoch, 1))
            case Launch(attempt, first, count):
                for rank in range(first, first + count):
                    key = (attempt.job, attempt.epoch, rank)
                    if key not in self._ranks:
                        self._ranks[key] = time.monotonic()
                        self._say(RankStarted(*key, pid=100_000 + rank))
            case Leave(job, epoch) | Kill(job, epoch):
                for key in [k for k in self._ranks if k[:2] == (job, epoch)]:
                    del self._ranks[key]
                    end = RankEnd(key[2], Outcome.LEFT, time.time(), exit_code=0, ordered=True)
                    self._say(RankDone(job, epoch, end))

    def _say(self, fact: object) -> None:
        self._number += 1
        self._facts[f"{self._host}/{self._number}"] = FACTS.pack(fact)
        self._news.set()

    # --- reports ------------------------------------------------------------------------

    async def _serve(self) -> None:
        await asyncio.sleep(self._delay)  # hosts don't report all at once
        due = time.monotonic()
        while True:
            self._news.clear()
            reply = await getattr(self._worker.scheduler, REPORT)(
                protocol=PROTOCOL, report=self._report()
            )
            for name in (reply or {}).get("acknowledged", ()):
                self._facts.pop(name, None)
            due = max(due + EVERY, time.monotonic())
            try:
                await asyncio.wait_for(self._news.wait(), max(0.0, due - time.monotonic()))
            except TimeoutError:
                continue

    def _report(self) -> dict[str, Any]:
        rows = tuple(RankRow(*key, pid=100_000 + key[2]) for key in self._ranks)
        now = time.monotonic()
        samples = tuple(_sample(*key, now - since) for key, since in self._ranks.items())
        return plain(  # type: ignore[no-any-return]
            Report(
                self._worker.address, self._host, self._slots, speaks=True, warm=True, ranks=rows,
                facts=tuple(self._facts.items()), samples=samples, store_free=1 << 40,
                disk_free=1 << 40, round_trip=0.002,
            )
        )  # fmt: skip


def _sample(job: str, epoch: int, rank: int, age: float) -> Sample:
    """Return what a rank says after so many seconds: everything that can change has changed."""
    step = int(age * PACE)
    wave = math.sin(age + rank)
    made = 1 + int(PACE * EVERY)
    loss = 2.0 / math.sqrt(step + 1) + 0.01 * wave
    return Sample(
        job, epoch, rank, step=step, total_steps=TOTAL, rate=PACE + 0.1 * wave,
        rss=(2 << 30) + int(wave * (64 << 20)), cpu=0.95 + 0.05 * wave, pid=100_000 + rank,
        points=() if rank else ((step, {"loss": loss, "accuracy": 1 - loss / 3}),),
        looping=True, phase=("data", "compute", "wait")[int(age * 4 + rank) % 3],
        phase_s=0.02 + 0.01 * wave, steps=made, items=made * 32, data_s=0.01 * made,
        compute_s=(0.09 + 0.01 * wave) * made, wait_s=0.01 * made, longest_s=0.2,
        peak_rss=3 << 30, limit=8 << 30, read=int(age * 1e6), written=int(age * 1e4),
    )  # fmt: skip


async def serve(address: str, hosts: int, slots: int) -> None:
    """Be so many hosts until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with tempfile.TemporaryDirectory(prefix="rnb-") as folder:
        workers = [
            Worker(
                address, nthreads=1, memory_limit=None, dashboard=False, local_directory=folder,
                name=f"sim{n}", host="127.0.0.1",
                plugins=[SimulatedHost(f"sim{n}", slots, EVERY * n / hosts)],
            )
            for n in range(hosts)
        ]  # fmt: skip
        await asyncio.gather(*workers)
        await ended.wait()
        await asyncio.gather(*(worker.close() for worker in workers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
