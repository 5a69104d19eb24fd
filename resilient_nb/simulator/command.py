"""`resilient simulate TRACE...`: policies compared on traces of jobs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from resilient_nb.errors import InvalidRequest
from resilient_nb.simulator import report, settings, trace
from resilient_nb.simulator.baselines import Easy, Fifo, LeastService, ShortestRemaining
from resilient_nb.simulator.engine import Engine, Scheduler
from resilient_nb.simulator.fair import Fair
from resilient_nb.simulator.metrics import Summary, summarise
from resilient_nb.simulator.settings import Elastic, Settings
from resilient_nb.simulator.trace import Trace

#: Every policy, by its name.
POLICIES: dict[str, Callable[[], Scheduler]] = {
    "fifo": Fifo,
    "easy": Easy,
    "las": LeastService,
    "srs": ShortestRemaining,
    "fair": Fair,
    "fair-elastic": lambda: Fair(elastic=True),
}

_ABOUT = """\
Runs scheduling policies on traces of jobs: fair is what clusters run (fair-elastic lets jobs
change their numbers of workers); fifo, easy (backfilling), las (least attained service) and srs
(shortest remaining service, an oracle) are to compare with.

A trace is a CSV file: submit_s,user,group,workers,duration_s,priority and more columns
(req_s: the declared duration; workload: several traces in one file). Empty values: one user per
group, one group, normal priority."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{message}. `resilient simulate --help` shows the options.")


def main(arguments: Sequence[str]) -> str:
    """Run the command; return what it prints.

    Raises:
        InvalidRequest: an option or a trace is wrong.
    """
    options = _parser().parse_args(arguments)
    names = _policies(options.policy)
    shown: list[str] = []
    found = []
    for original in _traces(options):
        jobs, chosen = _fitted(original, options)
        rows = [run(jobs, POLICIES[name](), chosen, options.progress) for name in names]
        found.append(report.as_json(jobs, chosen, rows))
        shown += [report.heading(jobs, chosen), "", report.table(rows), ""]
    return json.dumps(found) if options.json else "\n".join([*shown, report.LEGEND])


def run(jobs: Trace, policy: Scheduler, chosen: Settings, progress: bool = False) -> Summary:
    """Return the figures of one policy on one trace; `progress` goes to stderr."""
    engine = Engine(jobs, policy, chosen)
    engine.run(_Progress(jobs.name, policy.name) if progress else None)
    return summarise(engine)


class _Progress:
    """Says on stderr how far a run is, every few seconds."""

    def __init__(self, *names: str) -> None:
        self.names, self.next = " ".join(names), time.monotonic() + 2

    def __call__(self, now: float, unfinished: int) -> None:
        if time.monotonic() > self.next:
            self.next = time.monotonic() + 2
            line = f"{self.names}: {report.duration(now)}, {unfinished} jobs to go"
            print(line, file=sys.stderr, flush=True)


def _policies(words: str) -> list[str]:
    names = list(POLICIES) if words == "all" else words.split(",")
    for name in names:
        if name not in POLICIES:
            raise InvalidRequest(f"No policy {name!r}: choose of {', '.join(POLICIES)}, or all.")
    return names


def _traces(options: argparse.Namespace) -> list[Trace]:
    chosen: list[Trace] = []
    for path in options.trace:
        found = trace.read(Path(path))
        if options.workload != "all":
            named = {each.name.partition("/")[2]: each for each in found}
            if options.workload is None:
                found = found[:1]
            elif options.workload in named:
                found = (named[options.workload],)
            else:
                raise InvalidRequest(
                    f"{path} has no workload {options.workload}; it has {', '.join(named)}."
                )
        chosen += [trace.window(each, options.limit, options.first) for each in found]
    for each in chosen:
        if not each.jobs:
            raise InvalidRequest(f"No jobs of {each.name} are left. Lower --first.")
    return chosen


def _fitted(jobs: Trace, options: argparse.Namespace) -> tuple[Trace, Settings]:
    if options.scale not in (None, "fit"):
        jobs = trace.scaled(jobs, options.scale)
    workers = options.workers or trace.fitting_workers(jobs, options.load)
    if options.scale == "fit":
        jobs = trace.squeezed(jobs, workers, options.load)
    return jobs, Settings(
        workers=workers,
        host_slots=options.host_slots,
        save_restore=options.save_restore,
        interval=options.interval,
        replan_every=options.replan_every,
        tick=options.tick,
        predict_after=options.predict_after,
        use_declared=options.use_declared,
        noise=options.noise,
        seed=options.seed,
        elastic=Elastic(options.min_factor, options.max_factor, options.exponent),
    )


def _positive(text: str) -> float:
    value = _natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} must be more than 0")
    return value


def _natural(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be at least 0")
    return value


def _count(text: str) -> int:
    value = _positive(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text} isn't a whole number")
    return int(value)


def _scale(text: str) -> float | str:
    return text if text == "fit" else _positive(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "resilient simulate",
        description=_ABOUT,
        epilog=settings.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Settings(workers=1)
    add = parser.add_argument
    add("trace", nargs="+", help="CSV files")
    add("--policy", default="fair", metavar="P[,P]", help=f"{', '.join(POLICIES)}; or all")
    add("--json", action="store_true", help="print a list with the settings and figures")
    add("--progress", action="store_true", help="say on stderr how far it is")
    jobs = parser.add_argument_group("the jobs")
    add = jobs.add_argument
    add("--workload", metavar="W", help="of a file with several: one, or all (the first)")
    add("--limit", type=_count, default=sys.maxsize, metavar="N", help="only N jobs")
    add("--first", type=lambda t: int(_natural(t)), default=0, metavar="K", help="from job K on")
    add(
        "--scale", type=_scale, metavar="F", help="multiply times of submission; fit: to --load"
    )  # fmt: skip
    cluster = parser.add_argument_group("the cluster")
    add = cluster.add_argument
    add("--workers", type=_count, metavar="N", help="slots (as --load says; the widest job fits)")
    add(
        "--load", type=_positive, default=trace.LOAD, metavar="L",
        help="slots that would be busy if no job waited, over slots (%(default)s)",
    )  # fmt: skip
    _number(cluster, "--host-slots", _count, usual.host_slots, "slots of a host")
    _number(cluster, "--save-restore", _natural, usual.save_restore, "seconds, together")
    _number(cluster, "--interval", _positive, usual.interval, "seconds between checkpoints")
    _number(cluster, "--replan-every", _natural, usual.replan_every, "least seconds between")
    _number(cluster, "--tick", _positive, usual.tick, "most seconds between decisions")
    known = parser.add_argument_group("what fair may know, and how elastic jobs are")
    _number(known, "--predict-after", _natural, usual.predict_after, "seconds of work")
    known.add_argument("--use-declared", action="store_true", help="believe req_s before that")
    _number(known, "--noise", _natural, usual.noise, "sigma of the predictions' log error")
    _number(known, "--seed", int, usual.seed, "of these errors")
    elastic = usual.elastic
    _number(known, "--min-factor", _positive, elastic.min_factor, "least workers over asked for")
    _number(known, "--max-factor", _positive, elastic.max_factor, "most workers over asked for")
    _number(known, "--exponent", _natural, elastic.exponent, "speed is workers to this power")
    return parser


def _number(
    group: argparse._ArgumentGroup,
    flag: str,
    convert: Callable[[str], float],
    default: float,
    text: str,
) -> None:
    group.add_argument(
        flag, type=convert, default=default, metavar="X", help=f"{text} (%(default)s)"
    )
