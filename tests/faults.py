"""`make faults`: 25 faults, each made for real; every cause and decision must be right.

Of each: what was found and decided, how long that took from the fault on, after what time more a
notebook's view showed it, and whether the journal tells the very world that the scheduler lives in.
The last line is JSON; the exit code is 0 only if all is as it should be.

    python -m tests.faults --only NaN,SIGSTOP
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import traceback
from dataclasses import dataclass

from resilient_nb.core.causes import HOST_LOST
from tests.fault_cases import CASES, RETRY, Case
from tests.fault_checks import MOVED
from tests.fault_hosts import straggler_moved
from tests.fault_network import network_cut, possible
from tests.fault_world import Scene, Seen, cluster

#: Seconds from a decision until a notebook must show it.
SHOWN_WITHIN = 3.0

#: These have clusters of their own, and look at its journal themselves.
CUT = Case("network cut", lambda _: network_cut(), HOST_LOST, RETRY, 15.0)
MOVE = Case("straggler, room elsewhere", lambda _: straggler_moved(), "straggler", MOVED)


@dataclass(frozen=True)
class Row:
    """A fault, what was seen, and whether the journal tells the truth; None: not looked at."""

    case: Case
    seen: Seen | None
    replays: bool | None
    trouble: str = ""

    @property
    def cause(self) -> bool:
        return self.seen is not None and self.seen.cause == self.case.cause

    @property
    def decision(self) -> bool:
        return self.seen is not None and self.seen.decision == self.case.decision

    @property
    def timely(self) -> bool:
        if self.seen is None:
            return False
        limit, took = self.case.within, self.seen.detected_s
        found = limit is None or took is None or took <= limit
        return found and (self.seen.shown_s or 0.0) <= SHOWN_WITHIN

    @property
    def good(self) -> bool:
        whole = self.seen is not None and not self.seen.wrong and self.replays is not False
        return self.cause and self.decision and self.timely and whole

    def text(self) -> str:
        """Return the row of the table."""
        seen = self.seen or Seen("", "")
        cause = seen.cause if self.cause else f"{seen.cause or '-'}, not {self.case.cause}"
        decision = (
            seen.decision if self.decision else f"{seen.decision or '-'}, not {self.case.decision}"
        )
        times = (_seconds(seen.detected_s), _seconds(seen.shown_s))
        mark = "ok" if self.good else "BAD"
        world = {True: "same", False: "OTHER", None: "-"}[self.replays]
        more = self.trouble or seen.wrong
        line = f"{mark:3}  {self.case.name:26} {cause:22} {decision:24}"
        return f"{line} {times[0]:>7} {times[1]:>7}  {world:5}  {more}".rstrip()


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def play(case: Case, scene: Scene | None) -> Row:
    """Make a fault; whatever goes wrong is in the row."""
    try:
        seen = case.play(scene)
        return Row(case, seen, scene.replays() if scene is not None else None)
    except Exception as error:
        if not isinstance(error, (AssertionError, TimeoutError)):
            traceback.print_exc()
        return Row(case, None, None, f"{type(error).__name__}: {error}")
    finally:
        if scene is not None:
            scene.clear()


def main() -> int:
    """Make all faults; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names of faults, or their beginnings, with commas")
    only = parser.parse_args().only
    names = [name.strip() for name in only.split(",")] if only else [""]
    chosen = [c for c in CASES if any(c.name.startswith(name) for name in names)]
    alone = [c for c in (MOVE, CUT) if any(c.name.startswith(name) for name in names)]
    began, rows = time.monotonic(), []
    header = f"{'':3}  {'fault':26} {'cause':22} {'decision':24} {'found':>7} {'shown':>7}  journal"
    print(header, flush=True)
    with cluster() if chosen else contextlib.nullcontext() as scene:
        for case in chosen:
            rows.append(play(case, scene))
            print(rows[-1].text(), flush=True)
    for case in alone:
        if case is CUT and (why := possible()):
            print(f"-    {CUT.name}: {why}")
            continue
        rows.append(play(case, None))
        print(rows[-1].text(), flush=True)
    print(json.dumps(counts(rows) | {"seconds": round(time.monotonic() - began)}))
    return 0 if all(row.good for row in rows) else 1


def counts(rows: list[Row]) -> dict[str, object]:
    """Return what the suite comes to."""
    return {
        "faults": len(rows),
        "causes_right": sum(row.cause for row in rows),
        "decisions_right": sum(row.decision for row in rows),
        "in_time": sum(row.timely for row in rows),
        "permanent_retried": sum(row.case.permanent and not row.good for row in rows),
        "replays": sum(row.replays is not False for row in rows),
        "bad": [row.case.name for row in rows if not row.good],
    }


if __name__ == "__main__":
    sys.exit(main())
