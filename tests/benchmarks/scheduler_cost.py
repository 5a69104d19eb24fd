"""What a plan and an event cost, at clusters of 1,000 to 30,000 workers."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from resilient_nb.core import shares
from resilient_nb.core.model import Priority, Share
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Gang, Host, QueueView
from resilient_nb.core.scheduling import deciding
from resilient_nb.core.standing import Standing

ROUNDS = 5
EVENTS = 3000
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


def replan(view: QueueView) -> tuple[float, float, Standing]:
    """Return milliseconds of a whole plan and of its longest step without a pause; what it left."""
    steps, total, longest = deciding(view, NOW), 0.0, 0.0
    while True:
        begin = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            last = 1e3 * (time.perf_counter() - begin)
            return total + last, max(longest, last), end.value[1]
        step = 1e3 * (time.perf_counter() - begin)
        total, longest = total + step, max(longest, step)


def events(view: QueueView, standing: Standing) -> list[float]:
    """Return microseconds of each event: arrivals, ends, and now and then a host is lost.

    An event is what the plan left serving it, and charging the user for what it changed.
    """
    draw = random.Random(1)
    running = [gang for gang in view.gangs if gang.held and not gang.leaving]
    draw.shuffle(running)
    byname = {gang.job: gang for gang in view.gangs}
    hosts = [host.id for host in view.hosts]
    ledger, now, spent = view.ledger, NOW, []

    def charge(gang: Gang, wanted: int, held: int) -> None:
        nonlocal ledger
        ledger = shares.change(ledger, now, view.policy, gang.user, gang.group, wanted, held)

    for number in range(EVENTS):
        now += 0.05
        kind = draw.random()
        new = replace(
            _gang(draw, f"n{number:06}", draw.choice((1, 1, 2, 4, 8))),
            submitted_at=now, queued_at=now,
        )  # fmt: skip
        byname[new.job] = new
        old = running[number % len(running)]
        lost = hosts[draw.randrange(len(hosts))]
        begin = time.perf_counter()
        ends = 0.49 <= kind < 0.98 and number < len(running)
        if kind < 0.98 and not ends:
            start = standing.arrived(new, now)
            charge(new, new.workers, start.workers if start else 0)
        elif ends:
            starts = standing.ended(old, now)
            charge(old, -old.most, -old.held)
            for start in starts:
                charge(byname[start.job], 0, start.workers)
        else:
            standing.lost(lost)
            ledger = shares.resize(ledger, now, view.policy, ledger.capacity - 8)
        spent.append(1e6 * (time.perf_counter() - begin))
    return spent


@contextmanager
def as_in_a_scheduler() -> Iterator[None]:
    """Collect garbage a third as often as Python does, as the command `dask scheduler` does."""
    before = gc.get_threshold()
    gc.set_threshold(*(3 * count for count in before))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def measure(show: Callable[[str], None] = print) -> dict[str, float]:
    """Print the table; return the figures at 10,000 workers."""
    found = {}
    show(
        "Cost (as many waiting gangs as workers, a fifth as many running; medians; garbage is\n"
        "collected meanwhile, with the thresholds of `dask scheduler`: three times Python's):\n"
    )
    show(f"{'workers':>8} {'running':>8} {'plan, ms':>9} {'longest step, ms':>17} "
         f"{'event, us':>10} {'p99':>8} {'max':>8}")  # fmt: skip
    for workers in (1000, 3000, 10_000, 30_000):
        view = cluster(workers)
        with as_in_a_scheduler():
            rounds = [replan(view) for _ in range(ROUNDS)]
            spent = sorted(events(view, rounds[-1][2]))
        whole = statistics.median(each[0] for each in rounds)
        step = statistics.median(each[1] for each in rounds)
        p99 = spent[len(spent) * 99 // 100]
        show(f"{workers:8} {workers // 5:8} {whole:9.1f} {step:17.2f} "
             f"{statistics.median(spent):10.1f} {p99:8.1f} {spent[-1]:8.1f}")  # fmt: skip
        if workers == 10_000:
            found = {"event_p99_us": p99, "replan_ms": whole, "longest_step_ms": step}
    show("")
    return found
