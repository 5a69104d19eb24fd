"""The world outside, as the engine uses it: whoever makes an engine says what these are."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resilient_nb.core import events as ev
from resilient_nb.core.model import Job
from resilient_nb.core.world import World
from resilient_nb.ports import Clock, Journal, Launcher

#: Gets events and the worlds before and after them.
Listener = Callable[[Sequence[ev.Event], World, World], None]
#: Returns why a job can't start although slots are free, "" if it can. Given are the world, the
#: job and the free bytes of the store.
Preflight = Callable[[World, Job, int | None], str]


@dataclass
class Shell:
    """What an engine is given: where it writes and sends, and whom it tells."""

    journal: Journal
    launch: Launcher
    clock: Clock
    changed: Callable[[str], None]  # a job's view is new
    leases: Callable[[Mapping[str, int]], None] = lambda held: None  # slots held, by host
    preflight: Preflight = lambda world, job, free: ""
    draw: Callable[[], float] = random.random  # for pauses before retries
