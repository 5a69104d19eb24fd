"""What a decision costs, at clusters of 1,000 to 30,000 workers."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from resilient_nb.core import shares
from resilient_nb.core.model import Priority, Share
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Gang, Host, QueueView
from resilient_nb.core.scheduling import planning

ROUNDS = 5
NOW = 1_000_000.0


def cluster(workers: int) -> QueueView:
    """Return a full cluster: a fifth as many running gangs as workers, as many waiting ones.

    Hosts of 8 slots, 50 users in 10 groups, gangs of 1 to 16 workers (5 on average where they
    run), every fourth of a running gang elastic.
    """
    draw = random.Random(workers)
    hosts = [Host(f"h{n:05}", 8, 8) for n in range(workers // 8)]
    gangs = []
    taken = 0
    for number in range(workers // 5):
        count = 5
        placement = tuple(
            Share(hosts[slot // 8].id, rank, 1)
            for rank, slot in enumerate(range(taken, taken + count))
        )
        taken += count
        gangs.append(_gang(draw, f"r{number:06}", count, held=count, slots=count,
                           placement=placement, since=NOW - draw.uniform(0, 5e4),
                           max_workers=2 * count if number % 4 == 0 else 0))  # fmt: skip
    for number in range(workers):
        gangs.append(_gang(draw, f"w{number:06}", draw.choice((1, 1, 1, 2, 4, 8, 16))))
    ledger = shares.Ledger(capacity=workers)
    for gang in gangs:
        ledger = shares.change(
            ledger, NOW - 1e4, Policy(), gang.user, gang.group, gang.most, gang.held
        )
    return QueueView(tuple(gangs), tuple(hosts), ledger, Policy())


def _gang(draw: random.Random, job: str, workers: int, **more: object) -> Gang:
    user = draw.randrange(50)
    since = NOW - draw.uniform(0, 1e5)
    known = draw.random() < 0.8
    return Gang(
        job, f"u{user}", f"g{user % 10}", workers, since - 60.0, queued_at=since,
        priority=draw.choices(list(Priority), (1, 6, 2, 1))[0],
        attained=draw.uniform(0, 1e5), saved_at=NOW - draw.uniform(0, 600),
        remaining=draw.uniform(60, 1e5) if known else None, exact=known, **more,
    )  # fmt: skip


def replan(view: QueueView) -> tuple[float, float]:
    """Return milliseconds of a whole plan, and of its longest step without a pause."""
    steps, total, longest = planning(view, NOW), 0.0, 0.0
    while True:
        begin = time.perf_counter()
        try:
            next(steps)
        except StopIteration:
            return total + 1e3 * (time.perf_counter() - begin), longest
        step = 1e3 * (time.perf_counter() - begin)
        total, longest = total + step, max(longest, step)


def measure(show: Callable[[str], None] = print) -> dict[str, float]:
    """Print the table; return the figures at 10,000 workers."""
    found = {}
    show("Cost of a plan (as many waiting gangs as workers, a fifth as many running):\n")
    show(f"{'workers':>8} {'waiting':>8} {'running':>8} {'plan, ms':>9} {'longest step, ms':>17}")
    for workers in (1000, 3000, 10_000, 30_000):
        view = cluster(workers)
        rounds = [replan(view) for _ in range(ROUNDS)]
        whole = statistics.median(each[0] for each in rounds)
        step = statistics.median(each[1] for each in rounds)
        show(f"{workers:8} {workers:8} {workers // 5:8} {whole:9.1f} {step:17.2f}")
        if workers == 10_000:
            found = {"replan_ms": whole}
    show("")
    return found
