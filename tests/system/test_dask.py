"""Gangs and ordinary Dask work on one cluster: neither breaks the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed import LocalCluster, Status

from cells import finish, submit, train, wait
from conftest import processes_of
from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.core.model import JobState, Priority
from resilient_nb.core.views import JobView

LONG = train(epochs=10_000, pause=0.02)


class Site:
    """A Dask cluster of three workers, with both kinds of clients."""

    def __init__(self) -> None:
        self.cluster = LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            dashboard_address="127.0.0.1:0",
            resources={"seat": 1},
            preload=["resilient_nb"],
            scheduler_kwargs={"preload": ["resilient_nb"]},
        )
        self.scheduler: Any = self.cluster.scheduler
        self.dask = distributed.Client(self.cluster, set_as_default=False)
        self.ours = Client(self.cluster.scheduler_address)

    def addresses(self) -> set[str]:
        """Return the addresses of all Dask workers."""
        return set(self.scheduler.workers)

    def held(self) -> set[str]:
        """Return those that take no ordinary tasks."""
        running = {ws.address for ws in list(self.scheduler.running)}
        return self.addresses() - running

    def ready(self, workers: int) -> None:
        """Wait for as many workers with agents, and warm ranks."""
        until(lambda: len(self.addresses()) == workers and self.slots() == workers)

    def slots(self) -> int:
        """Return the slots that gangs can use."""
        view = self.ours.cluster()
        return sum(host.slots for host in view.hosts if host.warm)

    def where(self, count: int, **options: Any) -> set[str]:
        """Run so many ordinary tasks and return where they ran."""
        futures = [self.dask.submit(address, n, pure=False, **options) for n in range(count)]
        return set(self.dask.gather(futures))

    def cancel(self, job: str) -> None:
        """Cancel a job and wait until its slots are free again."""
        self.ours.cancel(job)
        finish(self.ours, job)
        until(lambda: not self.held())


def address(_: int, seconds: float = 0.0) -> str:
    """An ordinary task: return the address of the worker that runs it."""
    time.sleep(seconds)
    found: str = distributed.get_worker().address
    return found


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; pytest-timeout bounds it."""
    while not condition():
        time.sleep(0.02)


def running(view: JobView) -> bool:
    return view.state is JobState.RUNNING


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home apart from the session's cluster; nothing is left of it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESILIENT_NB_HOME", str(home))
        patch.setenv("RESILIENT_NB_LEAVE_GRACE", "10")
        yield home
        embedded.end_supervisors(home)
        assert processes_of(home) == []


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Site]:
    site = Site()
    site.ready(3)
    yield site
    site.ours.close()
    site.dask.close()
    site.cluster.close()


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The cluster with its three workers, all free before and after."""
    shared.cluster.scale(3)
    shared.ready(3)
    until(lambda: not shared.held())
    yield shared
    for job in shared.ours.jobs():
        if not job.state.final:
            shared.cancel(job.id)


def test_tasks_run_beside_gangs_and_never_on_their_workers(site: Site) -> None:
    job = submit(site.ours, "beside", LONG, 2)
    wait(site.ours, job, running)
    leased = site.held()
    (free,) = site.addresses() - leased
    assert site.where(30) == {free}
    assert site.where(3, resources={"seat": 1}) == {free}
    assert site.where(3, workers=[*leased, free]) == {free}
    bound = site.dask.submit(address, 0, workers=sorted(leased), pure=False)
    # Bait for thieves: a long queue on the one worker that may have it.
    assert site.where(40, seconds=0.01, workers=[free], allow_other_workers=True) == {free}
    assert bound.status == "pending"
    assert site.held() == leased  # however often they said that they run
    site.cancel(job)
    assert bound.result() in leased
    assert site.where(30, seconds=0.02) == site.addresses()


def test_where_all_is_leased_tasks_wait(site: Site) -> None:
    job = submit(site.ours, "all", LONG, 3)
    before = wait(site.ours, job, running)
    assert site.held() == site.addresses()
    futures = [site.dask.submit(address, n, pure=False) for n in range(5)]
    wait(site.ours, job, lambda view: view.step > before.step + 20)
    assert {future.status for future in futures} == {"pending"}
    site.cancel(job)
    assert set(site.dask.gather(futures)) <= site.addresses()


def test_workers_with_tasks_drain_before_a_gang_gets_them(site: Site) -> None:
    gate = distributed.Event("gate", client=site.dask)
    blocked = [
        site.dask.submit(_pass, "gate", workers=[worker], pure=False)
        for worker in sorted(site.addresses())
    ]
    until(lambda: all(ws.processing for ws in site.scheduler.workers.values()))
    job = submit(site.ours, "drain", LONG, 2)
    until(lambda: len(site.held()) == 2)
    assert site.ours.watch(job, timeout=0.0).job.state is JobState.QUEUED
    later = [site.dask.submit(address, n, pure=False) for n in range(10)]
    gate.set()
    wait(site.ours, job, running)
    site.dask.gather(blocked)
    assert len(site.held()) == 2
    assert not set(site.dask.gather(later)) & site.held()


def _pass(gate: str) -> None:
    distributed.Event(gate).wait()


def test_a_gang_is_vacated_before_its_worker_is_retired(site: Site, tmp_path: Path) -> None:
    """It is slow until it was vacated: a gate would keep it from leaving."""
    retired = tmp_path / "retired"
    source = train(epochs=40, pause=0.05, until=retired)
    job = submit(site.ours, "vacated", source, 3, ("seen",))
    wait(site.ours, job, lambda view: running(view) and view.step >= 3)
    (gone,) = sorted(site.addresses())[:1]
    assert set(site.dask.retire_workers([gone])) == {gone}
    view = site.ours.watch(job, timeout=0.0).job
    retired.touch()
    assert view.state is JobState.QUEUED
    assert view.attempts == 1
    assert not view.failures
    step = site.ours.runs("vacated")[0].checkpoints[-1].step
    assert step >= 3
    assert site.where(5) == site.addresses() != {gone}
    site.cluster.scale(4)  # one more: Dask's own list still has the one that went
    view = finish(site.ours, job)
    assert view.state is JobState.SUCCEEDED
    assert view.attempts == 2
    site.cluster.scale(0)
    until(lambda: not site.addresses())


def test_a_vacated_gang_goes_on_on_another_host(site: Site, place: Path) -> None:
    job = submit(site.ours, "moved", LONG, 1)
    wait(site.ours, job, lambda view: running(view) and view.step >= 3)
    here = site.addresses()
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--no-nanny"]
    command += [site.cluster.scheduler_address, "--preload", "resilient_nb", "--nthreads", "1"]
    other = {**os.environ, "RESILIENT_NB_HOST": "other"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=place, env=other, stdout=quiet, stderr=quiet) as worker:
        try:
            until(lambda: site.slots() == 4)
            assert set(site.dask.retire_workers(sorted(here))) == here
            view = wait(site.ours, job, lambda view: running(view) and view.attempts == 2)
            assert {row.host for row in view.ranks} == {"other"}
            assert not view.failures
            site.cancel(job)
        finally:
            worker.terminate()
    site.cluster.scale(0)
    until(lambda: not site.addresses())


def test_others_of_the_host_take_over_from_a_retired_worker(site: Site) -> None:
    job = submit(site.ours, "kept", LONG, 2)
    before = wait(site.ours, job, running)
    gone = min(site.held())
    assert set(site.dask.retire_workers([gone])) == {gone}
    assert site.held() == site.addresses()
    view = wait(site.ours, job, lambda view: view.step > before.step + 5)
    assert view.attempts == 1
    site.cancel(job)
    site.cluster.scale(0)
    until(lambda: not site.addresses())


def test_a_cluster_that_is_scaled_down_lets_gangs_leave(site: Site) -> None:
    """A worker that closes by itself asks the same way (`Worker.close_gracefully`)."""
    job = submit(site.ours, "scaled", LONG, 3)
    wait(site.ours, job, lambda view: running(view) and view.step >= 3)
    site.cluster.scale(1)
    view = wait(site.ours, job, lambda view: view.state is JobState.QUEUED)
    until(lambda: len(site.addresses()) == 1)
    assert view.attempts == 1
    assert site.ours.runs("scaled")[0].checkpoints
    site.cluster.scale(3)
    assert wait(site.ours, job, running).attempts == 2
    worker = next(iter(site.cluster.workers.values()))
    site.dask.sync(worker.close_gracefully)
    assert site.ours.watch(job, timeout=0.0).job.state is JobState.QUEUED
    site.cancel(job)
    site.cluster.scale(0)
    until(lambda: not site.addresses())


def test_adaptive_scaling_brings_workers_for_gangs_and_takes_none_away(site: Site) -> None:
    site.cluster.adapt(minimum=0, maximum=4, interval="50ms", wait_count=1)
    try:
        until(lambda: not site.addresses())
        job = submit(site.ours, "adaptive", LONG, 2)
        before = wait(site.ours, job, running)
        assert len(site.addresses()) == 2
        assert site.scheduler.workers_to_close(n=2) == []
        # Ordinary tasks get a worker of their own, which goes again; the leased ones don't.
        assert not site.where(3) & site.held()
        until(lambda: len(site.addresses()) == 2)
        view = wait(site.ours, job, lambda view: view.step > before.step + 20)
        assert view.attempts == 1
        assert len(site.addresses()) == 2
        site.cancel(job)
        until(lambda: not site.addresses())
    finally:
        site.cluster._adaptive.stop()


def test_jobs_are_no_idleness(site: Site) -> None:
    job = submit(site.ours, "busy", LONG, 1, priority=Priority.LOW)
    before = wait(site.ours, job, running)
    site.scheduler.idle_timeout = 1.5
    try:
        wait(site.ours, job, lambda view: view.step > before.step + 150)  # three seconds and more
        assert site.scheduler.status is Status.running
    finally:
        site.scheduler.idle_timeout = None


def test_agents_say_what_slots_have(site: Site) -> None:
    settings_host = os.uname().nodename
    plugin = site.scheduler.plugins["resilient_nb"]
    (host,) = plugin._engine.hosts.for_plan(plugin._engine.world, time.time())
    assert host.id == settings_host
    assert host.slot.cpus == 1.0
    assert host.slot.memory > 0
    assert plugin._engine.hosts.store_free() > 0
