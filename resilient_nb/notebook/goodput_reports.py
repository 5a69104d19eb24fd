"""A job's goodput in words. Pure."""

from __future__ import annotations

from resilient_nb.core.goodput import Goodput
from resilient_nb.notebook import words

#: Of a job that is younger, in seconds, and met no failure, it is only how long its start took.
_YOUNG = 60.0


def goodput_said(known: Goodput | None) -> str:
    """Return what part of its time was useful, and what failures cost; "" if that says nothing."""
    if known is None or (known.wall_s < _YOUNG and not known.failures):
        return ""
    share = f"goodput {100 * known.goodput:.1f} %" if known.goodput is not None else ""
    return words.joined(share, cost_said(known))


def cost_said(known: Goodput) -> str:
    """Return what failures cost, "" if there were none."""
    if not known.failures:
        return ""
    repair = f", {words.short(known.mttr_s)} to repair" if known.mttr_s is not None else ""
    again = f", {words.count(known.lost_steps, 'step')} made again" if known.lost_steps else ""
    return f"{words.count(known.failures, 'failure')}{repair}{again}"
