"""What the step boundary of a rank works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilient_nb.rank.around import Around
from resilient_nb.rank.divergence import LossWatch
from resilient_nb.rank.group import Group
from resilient_nb.rank.leaving import Leaving
from resilient_nb.rank.saver import Saver
from resilient_nb.rank.scaling import Growth, Lowered, ScaledRates
from resilient_nb.rank.state import Tracker
from resilient_nb.rank.telemetry import Telemetry


@dataclass(frozen=True)
class Parts:
    """What one rank has of each."""

    group: Group
    tracker: Tracker
    saver: Saver
    telemetry: Telemetry
    leaving: Leaving
    growth: Growth | None
    rates: ScaledRates | None = None
    lowered: Lowered = field(default_factory=Lowered)
    watch: LossWatch | None = None
    skip: frozenset[int] = frozenset()  # steps that are counted, but not made
    around: Around = field(default_factory=Around)
