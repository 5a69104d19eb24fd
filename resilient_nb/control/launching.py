"""Getting the ranks of a gang to run, and to end: orders, given again until they show effect.

An order can be lost with the agent that carries it; supervisors take each only once. So it is
given again when a host's report shows no trace of it.
"""

from __future__ import annotations

from resilient_nb import tracing
from resilient_nb.config import Settings
from resilient_nb.core import traces
from resilient_nb.core.inputs import sources
from resilient_nb.core.interval import mean_time_between_failures
from resilient_nb.core.model import Job, StopReason
from resilient_nb.core.places import sub_folder
from resilient_nb.core.replicas import replicas_of
from resilient_nb.core.world import World
from resilient_nb.ports import Clock, Launcher
from resilient_nb.wire import orders

#: Orders that showed no effect are given again after the first, and ranks that don't appear
#: count as lost after the second number of seconds.
ORDER_AGAIN, LAUNCH_PATIENCE = 1.0, 15.0
#: Seconds that a slow gang gets to reach a checkpoint if nobody waits for its place.
UNHURRIED = 600.0
_Key = tuple[str, int]  # job, epoch


class Launches:
    """What was ordered for each attempt, and when."""

    def __init__(self, settings: Settings, launch: Launcher, clock: Clock) -> None:
        self._settings = settings
        self._send = launch
        self._clock = clock
        self._ordered_at: dict[_Key, float] = {}
        # Attempts whose launch was ordered, with their rendezvous ("" if that was before a
        # restart of the control plane, which doesn't remember it).
        self._launched: dict[_Key, str] = {}
        self._repeated_at: dict[tuple[str, int, str], float] = {}

    def adopt(self, job: Job) -> None:
        """An attempt of before a restart: it may well be alive, so nothing is ordered."""
        self._ordered_at[job.id, job.epoch] = self._clock()
        self._launched[job.id, job.epoch] = ""

    def prepare(self, job: Job) -> None:
        """Have the first host bind the rendezvous; it answers with a port."""
        self._ordered_at[job.id, job.epoch] = self._clock()
        self._send(job.placement[0].host, orders.Prepare(job.id, job.epoch))

    def launch(self, world: World, job: Job, rendezvous: str) -> None:
        """Have every host of the gang fork its ranks."""
        self._ordered_at[job.id, job.epoch] = self._clock()
        self._launched[job.id, job.epoch] = rendezvous
        attempt = self._attempt(world, job, rendezvous)
        for host in _hosts(job):
            self._order_launch(attempt, job, host)

    def end(self, world: World, job: Job) -> None:
        """Have every host of the gang end its ranks, as its `stop` says."""
        self.tell(job, self._end_order(world, job))

    def tell(self, job: Job, order: object) -> None:
        """Give an order to every host of the gang."""
        for host in _hosts(job):
            self._send(host, order)

    def kill(self, host: str, job: str, epoch: int) -> None:
        """End ranks that no current attempt owns."""
        self._send(host, orders.Kill(job, epoch))

    def began(self, job: Job) -> bool:
        """Whether ranks were ordered, so that somebody will report their end."""
        return (job.id, job.epoch) in self._launched

    def forget(self, job: Job) -> None:
        """The attempt is over."""
        self._ordered_at.pop((job.id, job.epoch), None)
        self._launched.pop((job.id, job.epoch), None)
        for host in _hosts(job):
            self._repeated_at.pop((job.id, job.epoch, host), None)

    def repeat_start(self, world: World, job: Job, host: str) -> None:
        """Nothing shows that the host has the order: give it again."""
        key = (job.id, job.epoch)
        if self._clock() - self._ordered_at[key] < ORDER_AGAIN or not self._may(job, host):
            return
        if key not in self._launched:
            self._send(job.placement[0].host, orders.Prepare(job.id, job.epoch))
        elif self._launched[key]:
            self._order_launch(self._attempt(world, job, self._launched[key]), job, host)

    def repeat_end(self, world: World, job: Job, host: str) -> None:
        """Ranks live that were told to end, or should have been: tell them again."""
        if self._may(job, host):
            self._send(host, self._end_order(world, job))

    def overdue(self, job: Job, missing: list[int], seen: set[int]) -> list[int]:
        """Return those missing ranks that can't just be on their way.

        Args:
            job: a job that holds a gang.
            missing: its ranks that their host doesn't have.
            seen: its ranks that were seen alive.
        """
        key = (job.id, job.epoch)
        waited = self._clock() - self._ordered_at.get(key, 0.0)
        # After a restart nobody will order these again: either the host has them or it doesn't.
        forgotten = self._launched.get(key) == "" and waited > LAUNCH_PATIENCE / 3
        if waited > LAUNCH_PATIENCE or forgotten:
            return missing
        return [rank for rank in missing if rank in seen and waited > ORDER_AGAIN]

    def _may(self, job: Job, host: str) -> bool:
        """Whether the last repetition on this host is long enough ago; counts this one."""
        key, now = (job.id, job.epoch, host), self._clock()
        if now - self._repeated_at.get(key, 0.0) < ORDER_AGAIN:
            return False
        self._repeated_at[key] = now
        return True

    def _end_order(self, world: World, job: Job) -> orders.Kill | orders.Leave:
        if job.stop is not None and job.stop.at_once:
            why = job.message if job.hung else ""
            return orders.Kill(job.id, job.epoch, job.hung, why)
        # How long others wait for a preempted gang is the administrator's to say.
        for_others = job.stop in (StopReason.PREEMPT, StopReason.RESIZE)
        grace = world.policy.grace if for_others else self._settings.leave_grace
        if job.stop is StopReason.MOVE:
            grace = max(grace, UNHURRIED)
        return orders.Leave(job.id, job.epoch, grace)

    def _order_launch(self, attempt: orders.Attempt, job: Job, host: str) -> None:
        for share in job.placement:
            if share.host == host:
                order = orders.Launch(attempt, share.first, share.count, share.leased)
                self._send(host, order)

    def _attempt(self, world: World, job: Job, rendezvous: str) -> orders.Attempt:
        run, spec = world.runs[job.run], job.spec
        head = world.checkpoint(run.head) if run.head else None
        return orders.Attempt(
            job=job.id,
            run=job.run,
            number=job.number,
            epoch=job.epoch,
            world_size=job.ranks,
            cell=spec.cell,
            interval=spec.interval,
            seed=spec.seed,
            out=spec.out,
            captured=spec.captured,
            store=self._settings.store,
            start=sub_folder(self._settings.runs, head.id) if head else None,
            start_id=head.id if head else None,
            start_step=head.step if head else 0,
            rendezvous=rendezvous,
            one_host=len(_hosts(job)) == 1,
            workers=job.granted,
            scaling=spec.scaling,
            base_workers=spec.workers,
            elastic=spec.elastic,
            compress=spec.compress,
            mtbf=mean_time_between_failures(world, job, self._clock()),
            replicas=replicas_of(world, job.run, self._settings.replicas),
            memory_copies=spec.memory_copies,
            memory_limit=job.rank_memory,
            on_nan=spec.on_nan,
            spike=spec.spike,
            skip=job.remedy.skip,
            lr_scale=job.remedy.lr_scale,
            trace=self._trace(world, job),
            inputs=tuple(
                orders.Input(source.job.run, source.job.number, source.names)
                for source in sources(world, job)
            ),
        )

    def _trace(self, world: World, job: Job) -> str:
        traced = job.spec.trace or tracing.wanted()
        return str(traces.attempt(world.cluster_id, job)) if traced else ""


def _hosts(job: Job) -> list[str]:
    return list(dict.fromkeys(share.host for share in job.placement))
