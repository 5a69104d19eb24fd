"""Whether a job may be submitted, and as what: identity, group, limits, dependencies, size.

Everything that can be told at once is told at once: a request that can never start is refused
with the reason and the way out, and one over a limit is let in at a lower priority.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from resilient_nb.config import Settings
from resilient_nb.core import dependencies, inputs, limits
from resilient_nb.core.model import JobSpec, Priority
from resilient_nb.core.names import job_id, listed, split_job
from resilient_nb.core.policy import Policy
from resilient_nb.core.queue import Host
from resilient_nb.core.ranking import Sizes
from resilient_nb.core.room import lacks, largest
from resilient_nb.core.world import World
from resilient_nb.errors import InvalidRequest, NotAllowed, UnknownName

#: Ranks that an elastic job may have on one worker: each is a process of its own.
RANKS_PER_WORKER = 64


def is_admin(policy: Policy, settings: Settings, user: str) -> bool:
    """Whether a user is an administrator: named in the policy, or the cluster's own user."""
    return user in policy.admins or user == settings.user


class Admission:
    """Looks at one user's submissions. `hosts` are those that can run ranks now."""

    def __init__(
        self, world: World, settings: Settings, user: str, hosts: tuple[Host, ...] = ()
    ) -> None:
        self._world = world
        self._settings = settings
        self._user = user
        self._hosts = tuple(host for host in hosts if not host.closing)

    def admit(self, run: str, spec: JobSpec, now: float) -> tuple[JobSpec, Priority | None, str]:
        """Return the spec as it is let in, the priority asked for if it got less, and why.

        Raises:
            InvalidRequest: the job could never start.
            NotAllowed: the user may not ask for this.
            UnknownName: it waits for a job that there isn't.
        """
        self._check_size(run, spec)
        self._check_numbers(run, spec)
        self._check_needs(run, spec)
        self._check_admin(run, spec)
        spec = replace(spec, user=self._user, group=self._group(spec), after=self._after(run, spec))
        inputs.check(self._world, run, spec.after, spec.inputs)
        granted = limits.grant(self._world, spec, now)
        if granted.priority is spec.priority:
            return spec, None, ""
        return replace(spec, priority=granted.priority), spec.priority, granted.message

    def _check_size(self, run: str, spec: JobSpec) -> None:
        limit = self._settings.max_workers
        if spec.workers < 1:
            raise InvalidRequest(f"Job {run} can't have {spec.workers} workers; give 1 or more.")
        if spec.max_workers and spec.max_workers < spec.workers:
            raise InvalidRequest(
                f"Job {run} can't have {spec.workers} to {spec.max_workers} workers: the first "
                f"number is the least. Use --workers {spec.max_workers}:{spec.workers}."
            )
        if limit is not None and spec.workers > limit:
            raise InvalidRequest(
                f"Job {run} needs {spec.workers} workers; the cluster has {limit} and can't grow. "
                f"Lower --workers, or restart it larger: %resilient down, then "
                f"%resilient up --workers {spec.workers}."
            )

    def _check_numbers(self, run: str, spec: JobSpec) -> None:
        """Refuse what no plan could reckon with: it would stop the queue for everybody."""
        needs = spec.needs
        for flag, value in (
            ("--cpus", needs.cpus),
            ("--memory", needs.memory),
            ("--gpus", needs.gpus),
            ("--duration", spec.duration or 0.0),
        ):
            if not 0 <= value < inf:
                raise InvalidRequest(f"Job {run} has {flag} {value}; give a number from 0 on.")
        ranks = spec.ranks(spec.workers)
        if ranks > RANKS_PER_WORKER * spec.workers:
            least = -(-ranks // RANKS_PER_WORKER)
            raise InvalidRequest(
                f"Job {run} would have {ranks} processes on as few as {spec.workers} workers, and "
                f"{RANKS_PER_WORKER} may share one. Use --workers {least}:{spec.max_workers}, or "
                "lower the most."
            )

    def _check_needs(self, run: str, spec: JobSpec) -> None:
        """Refuse what a cluster that is complete and can't grow will never hold."""
        limit = self._settings.max_workers
        if limit is None or sum(host.slots for host in self._hosts) < limit:
            return
        fit = Sizes(self._hosts)(spec.needs)[1]
        if fit >= spec.workers:
            return
        if lacking := lacks(spec.needs, largest(self._hosts)):
            raise InvalidRequest(
                f"Job {run} asks for more than there is: {lacking}, and the cluster can't grow. "
                "Ask for less (--gpus, --memory, --cpus)."
            )
        raise InvalidRequest(
            f"Job {run} needs {spec.workers} workers with --memory, --cpus or --gpus of which the "
            f"cluster holds {fit}, and it can't grow. Lower --workers, or what each needs."
        )

    def _check_admin(self, run: str, spec: JobSpec) -> None:
        if spec.admin and not is_admin(self._world.policy, self._settings, self._user):
            admins = ", ".join(self._world.policy.admins) or self._settings.user
            raise NotAllowed(
                f"Job {run} asks for the admin lane, and {self._user} is no administrator of this "
                f"cluster ({admins} may). Submit it without --admin."
            )

    def _group(self, spec: JobSpec) -> str:
        mine = self._world.policy.groups_of(self._user)
        if not spec.group:
            return mine[0]
        if spec.group not in mine:
            raise InvalidRequest(
                f"{self._user} is not in group {spec.group!r} but in {', '.join(mine)}: change "
                "--group, or ask the administrator to add you to it in the policy file."
            )
        return spec.group

    def _after(self, run: str, spec: JobSpec) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(self._resolve(name) for name in spec.after))
        if any(split_job(name)[0] == run for name in found):
            raise InvalidRequest(f"Job {run} can't wait for its own run: change --after.")
        if cycle := dependencies.find_cycle(self._world, run, found):
            raise InvalidRequest(
                f"--after would close a circle ({' waits for '.join(cycle)}): none of these jobs "
                "could ever start. Leave one of them out."
            )
        return found

    def _resolve(self, text: str) -> str:
        """Return the job that `text` names, the newest of a bare run name."""
        name, number = split_job(text)
        run = self._world.runs.get(name)
        if run is None or not run.jobs:
            known = listed(self._world.runs)
            raise UnknownName(f"--after {text}: there is no such job; runs: {known}.")
        if number is None:
            return run.jobs[-1]
        if job_id(name, number) not in run.jobs:
            raise UnknownName(f"--after {text}: run {name} has {', '.join(run.jobs)}.")
        return job_id(name, number)
