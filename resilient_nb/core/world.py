"""The whole truth about jobs: a fold of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from resilient_nb.core.breakers import Health
from resilient_nb.core.events import JournalSalvaged
from resilient_nb.core.model import Checkpoint, Job, Run
from resilient_nb.core.policy import Policy
from resilient_nb.core.shares import Ledger


@dataclass(frozen=True)
class World:
    """Runs, jobs, the policy in force, who has used how much, and how hosts have been.

    `open` are the unfinished jobs, in the order of submission: what is done every second looks
    only at those. `salvaged` says that a part of the journal was lost, and when that was found.
    """

    cluster_id: str = ""
    runs: Mapping[str, Run] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    open: Mapping[str, Job] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    ledger: Ledger = field(default_factory=Ledger)
    health: Mapping[str, Health] = field(default_factory=dict)
    salvaged: JournalSalvaged | None = None

    def checkpoint(self, identity: str) -> Checkpoint:
        """Return a checkpoint by its identity, whichever run it belongs to."""
        return self.runs[identity.partition("/")[0]].checkpoints[identity]

    def active_job(self, run: str) -> Job | None:
        """Return the run's unfinished job; there is at most one."""
        jobs = self.runs[run].jobs
        return self.open.get(jobs[-1]) if jobs else None
