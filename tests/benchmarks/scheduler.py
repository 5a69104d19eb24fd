"""The scheduler's policy against others, on every trace that is there; fairness; its cost.

    make bench NAME=scheduler
    python tests/benchmarks/scheduler.py [--traces DIR] [--full] [--load L] [--processes N]
        [--only PART]

The traces are the CSV files of DIR, else of $RESILIENT_NB_TRACES, else of `shared/traces` beside
the repository; where there are none, three made-up ones (from fixed seeds). Of each file: the
first workload, and of more than LIMIT jobs the LIMIT in the middle (--full: everything). The
cluster is what `simulator.trace.fitting_workers` says, and submissions are squeezed together
where the widest job alone asks for more than that (`squeezed`). All policies see the same jobs,
slots and costs. Nothing here is chosen by trace.

The last line is JSON. Ratios are geometric means over traces of average completion times;
`jain_users_min`, `lost_work_max` and `stretch_max` are the worst of all traces, with gangs of
fixed size and save + restore of 40 s. What the elastic runs and other cases give is printed above.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import scheduler_cost
from resilient_nb.simulator import report, synthetic
from resilient_nb.simulator.command import POLICIES, run
from resilient_nb.simulator.engine import Engine
from resilient_nb.simulator.fair import Fair
from resilient_nb.simulator.metrics import Summary
from resilient_nb.simulator.settings import Settings
from resilient_nb.simulator.trace import LOAD, Trace, fitting_workers, read, squeezed, window

LIMIT = 6000
BESIDE = Path(__file__).parents[2].parent / "shared" / "traces"
HOUR = 3600.0

#: (trace, policy, load, save + restore) of one run.
Run = tuple[Trace, str, float, float]


def all_traces(folder: str | None, full: bool) -> list[Trace]:
    """Return the traces, cut down unless `full`."""
    where = Path(folder or os.environ.get("RESILIENT_NB_TRACES") or BESIDE)
    files = sorted(where.glob("*.csv")) if where.is_dir() else []
    found: list[Trace] = []
    for path in files:
        if "submit_s" not in path.open().readline():
            continue  # a table of something else
        workloads = read(path)
        found += workloads if full else workloads[:1]
    if not found:
        print(f"No traces in {where}: made-up ones.")
        found = [synthetic.bursty(seed) for seed in (1, 2, 3)]
    if full:
        return found
    return [window(t, LIMIT, max(0, len(t.jobs) - LIMIT) // 2) for t in found]


def fitted(trace: Trace, load: float, save_restore: float = 40.0) -> tuple[Trace, Settings]:
    """Return the trace and the cluster that it is run on."""
    workers = fitting_workers(trace, load)
    return squeezed(trace, workers, load), Settings(workers=workers, save_restore=save_restore)


def simulate(job: Run) -> Summary:
    """Return the figures of one run (in a process of its own)."""
    trace, policy, load, save_restore = job
    jobs, settings = fitted(trace, load, save_restore)
    return run(jobs, POLICIES[policy](), settings)


def compare(traces: Sequence[Trace], load: float, pool: ProcessPoolExecutor) -> dict[str, float]:
    """Print a table for each trace; return the figures over all."""
    jobs = [(trace, policy, load, 40.0) for trace in traces for policy in POLICIES]
    slow = [(trace, policy, load, 300.0) for trace in traces for policy in ("srs", "fair")]
    done, done_slow = pool.map(simulate, jobs), pool.map(simulate, slow)
    rows: dict[str, list[Summary]] = {policy: [] for policy in POLICIES}
    for trace in traces:
        here = [next(done) for _ in POLICIES]
        for row in here:
            rows[row.policy].append(row)
        print(
            report.heading(*fitted(trace, load)),
            report.table(here),
            sep="\n\n",
            end="\n\n",
            flush=True,
        )
    print("With save + restore of 300 s:\n")
    dear = list(done_slow)
    for n, trace in enumerate(traces):
        print(trace.name, report.table(dear[2 * n : 2 * n + 2]), sep="\n", end="\n\n", flush=True)
    print(report.LEGEND, end="\n\n")

    def ratio(policy: str, base: str) -> float:
        pairs = zip(rows[policy], rows[base], strict=True)
        return report.geometric_mean([a.jct / b.jct for a, b in pairs])

    for policy, found in rows.items():
        print(
            f"{policy:12} JCT / oracle's {ratio(policy, 'srs'):.3f}, worst Jain of groups "
            f"{min(r.jain_groups for r in found):.3f}, of users "
            f"{min(r.jain_users for r in found):.3f} (not weighed "
            f"{min(r.jain_users_plain for r in found):.3f}), "
            f"lost {max(r.lost for r in found):.2%}, stretch {max(r.stretch for r in found):.2f}"
        )
    print(f"fair, 300 s: lost {max(r.lost for r in dear if r.policy == 'fair'):.2%}\n")
    fair = rows["fair"]
    return {
        "jct_vs_oracle": ratio("fair", "srs"),
        "jct_elastic_vs_oracle": ratio("fair-elastic", "srs"),
        "jct_vs_easy": ratio("fair", "easy"),
        "jain_users_min": min(row.jain_users for row in fair),
        "lost_work_max": max(row.lost for row in fair),
        "stretch_max": max(row.stretch for row in fair),
    }


def shares(engine: Engine, begin: float, end: float) -> dict[str, tuple[float, float]]:
    """Return each user's (held, entitled) in percent of what was held between two times."""
    engine.run(until=begin)
    before = {a.user: (a.held, a.entitled) for a in engine.meter.accounts.values()}
    engine.run(until=end)
    after = {a.user: (a.held, a.entitled) for a in engine.meter.accounts.values()}
    passed = {u: (after[u][0] - before[u][0], after[u][1] - before[u][1]) for u in after}
    held, due = (sum(each[n] for each in passed.values()) for n in (0, 1))
    return {u: (100 * h / held, 100 * d / due) for u, (h, d) in passed.items()}


def crowd(case: tuple[str, synthetic.Crowd, float, float]) -> str:
    """Return how far each user's share was from its entitlement."""
    title, people, begin, end = case
    settings = Settings(workers=people.workers, replan_every=30.0)
    engine = Engine(people.trace(), Fair(), settings)
    found = shares(engine, begin * HOUR, end * HOUR)
    worst = max(abs(held - due) for held, due in found.values())
    each = ", ".join(f"{user} {held:.1f} of {due:.1f}" for user, (held, due) in found.items())
    last = max(found)
    gap = found[last][0] - found[last][1]
    return (
        f"{title} ({people.workers} slots, from {begin:g} h to {end:g} h): "
        f"share error {worst:.2f} points, of {last} {gap:+.2f}\n  % held of due: {each}"
    )


CROWDS = (
    ("Groups of 3, 2, 4 users", synthetic.Crowd((3, 2, 4), 72, 24), 2.0, 24.0),
    ("... u0.0 floods", synthetic.Crowd((3, 2, 4), 36, 24, floods=True), 2.0, 24.0),
    ("... u2.3 joins at 12 h", synthetic.Crowd((3, 2, 4), 72, 20, joins=12), 15.0, 18.0),
    ("4 users, a fifth (u0.4) joins at 12 h", synthetic.Crowd((5,), 80, 20, joins=12), 15.0, 18.0),
)  # fmt: skip  # one line each


def greed(user: tuple[str, str] | None) -> list[tuple[float, float]]:
    """Return (waiting, completion time) of each job, when this user marks everything high."""
    trace = greed_trace()
    settings = Settings(workers=fitting_workers(trace, 0.95))
    engine = Engine(synthetic.greedy(trace, user) if user else trace, Fair(), settings)
    state = engine.run()
    jct = state.ended - state.submit
    return list(zip((jct - state.held_for).tolist(), jct.tolist(), strict=True))


def greed_trace() -> Trace:
    """Return a busy week of 16 users."""
    return synthetic.bursty(7, 1500)


def greed_table(pool: ProcessPoolExecutor) -> str:
    """Return what each user with ten jobs or more gains by it, and what the others lose."""
    owners = [(job.group, job.user) for job in greed_trace().jobs]
    users = [key for key in sorted(set(owners)) if owners.count(key) >= 10]
    honest, *others = pool.map(greed, [None, *users])
    lines, gains, losses = [], [], []
    for user, now in zip(users, others, strict=True):
        mine = [n for n, owner in enumerate(owners) if owner == user]
        rest = [n for n, owner in enumerate(owners) if owner != user]
        before, after = (sum(all_[n][0] for n in mine) / len(mine) for all_ in (honest, now))
        losses.append(sum(now[n][1] for n in rest) / sum(honest[n][1] for n in rest) - 1)
        gains.append((before + 60) / (after + 60))
        lines.append(
            f"  {user[1]:4} {len(mine):4} jobs: wait {report.duration(before)} to "
            f"{report.duration(after)}, x {gains[-1]:.2f}; the others {losses[-1]:+.2%}"
        )
    head = (
        f"One user marks everything high ({len(owners)} made-up jobs, load 0.95): gains at most "
        f"x {max(gains):.2f} in (wait + 1 min); the others' completion times at most "
        f"{max(losses):+.2%}"
    )
    return "\n".join([head, *lines])


def main() -> None:
    """Print everything, the figures last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", metavar="DIR")
    parser.add_argument("--full", action="store_true", help="all jobs of all workloads")
    parser.add_argument("--load", type=float, default=LOAD, help="see fitting_workers")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", choices=("traces", "shares", "cost"))
    options = parser.parse_args()
    figures: dict[str, float] = {}
    if options.only in (None, "cost"):  # first: nothing else is running
        figures |= scheduler_cost.measure()
    with ProcessPoolExecutor(options.processes) as pool:
        if options.only in (None, "shares"):
            print("Saturated clusters, save + restore 40 s:", *pool.map(crowd, CROWDS), sep="\n")
            print(greed_table(pool), end="\n\n", flush=True)
        if options.only in (None, "traces"):
            figures = (
                compare(all_traces(options.traces, options.full), options.load, pool) | figures
            )
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
