"""What a run of the simulator is told: the cluster, the costs, and what a policy may know.

Definitions, the same for every policy:

* The slots are identical and a worker takes one. A job of w workers needs w at once (a gang).
* A job that is asked to leave works up to that moment, saves for half of `save_restore` while
  it holds its slots, and is then in the queue again. Its next start restores for the other
  half before it works on. The first start restores nothing; a job that is asked to leave while
  it restores has nothing new to save and leaves at once; one that would end within the saving
  ends. As the job checkpoints on leaving, no work is ever computed twice.
* An elastic job of w workers may have from ceil(min_factor * w) to max_factor * w of them (at
  most the cluster); with n its speed is (n / w) ** exponent. Another number means to leave and
  to start again, at the same costs.
* Decisions are taken when something happened (a submission, an end, slots vacated), but at
  most once in `replan_every` seconds, and, by policies that time alone can move, every `tick`
  seconds while jobs wait (or are elastic).
* A policy knows the remaining time of a job that has worked for `predict_after` seconds in
  total (the product's live step rate), times an error if `noise` isn't 0, and before that the
  declared one if `use_declared`; else none. Oracles and EASY say for themselves what they see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Elastic:
    """How far gangs stretch and how fast that makes them."""

    min_factor: float = 0.25
    max_factor: float = 2.0
    exponent: float = 0.8

    def bounds(self, workers: int, cluster: int) -> tuple[int, int]:
        """Return the least and the most workers of a job that asks for `workers`."""
        least = max(1, math.ceil(self.min_factor * workers))
        return least, max(least, min(cluster, math.floor(self.max_factor * workers)))

    def speed(self, held: int, workers: int) -> float:
        """Return the speed with `held` workers, relative to `workers`."""
        return float((held / workers) ** self.exponent)


@dataclass(frozen=True)
class Settings:
    """One run's settings. Times in seconds; see the module for what they mean.

    Attributes:
        workers: slots in all.
        host_slots: slots of a host (the last one may have fewer).
        save_restore: what a save and a restore cost together.
        interval: seconds between a running job's checkpoints, which cost nothing here (the
            product writes them while it computes): they say what a policy thinks it loses.
        noise: sigma of the log-normal factor on predictions, one for each job.
    """

    workers: int
    host_slots: int = 8
    save_restore: float = 40.0
    interval: float = 600.0
    replan_every: float = 10.0
    tick: float = 60.0
    predict_after: float = 60.0
    use_declared: bool = False
    noise: float = 0.0
    seed: int = 0
    elastic: Elastic = Elastic()
