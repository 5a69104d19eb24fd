"""Asking a control plane from a loop, and from threads without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient_nb.client import Client
from resilient_nb.comms import AsyncClient
from resilient_nb.core.views import JobView
from resilient_nb.errors import ClusterUnreachable, NoCluster, UnknownName
from resilient_nb.wire import requests as rq
from resilient_nb.wire.feed import Follow, Followed
from tests.unit.server.control import FakeControl, a_job


def test_a_call_that_is_given_up_spoils_no_other() -> None:
    async def scene() -> None:
        control = FakeControl()
        await control.start()
        control.answers[rq.Cancel] = a_job()
        client = AsyncClient(control.address, patience=0.0)
        long = asyncio.create_task(client.request(Follow(cursor=10**6, wait=60.0), Followed))
        while not control.follows:
            await asyncio.sleep(0)
        long.cancel()
        assert await client.request(rq.Cancel("digits#1"), JobView) == a_job()
        assert long.cancelled()
        assert client.welcome.cluster_id == "c1"
        await client.close()
        assert not client.connected
        await control.stop()

    asyncio.run(scene())


def test_calls_at_the_same_time_have_connections_of_their_own() -> None:
    async def scene() -> None:
        control = FakeControl()
        await control.start()
        control.answers[rq.Cancel] = a_job()
        client = AsyncClient(control.address, patience=0.0)
        long = asyncio.create_task(client.request(Follow(cursor=10**6, wait=60.0), Followed))
        while not control.follows:
            await asyncio.sleep(0)
        assert await client.request(rq.Cancel("digits#1"), JobView) == a_job()
        assert not long.done()
        control._count = 10**6 + 1
        control.board("x")
        assert (await long).board
        await client.close()
        await control.stop()

    asyncio.run(scene())


def test_a_restart_is_waited_for_as_long_as_there_is_patience() -> None:
    async def scene() -> None:
        control = FakeControl()
        await control.start()
        control.answers[rq.Cancel] = a_job()
        patient, hasty = (AsyncClient(control.address, patience) for patience in (60.0, 0.0))
        for client in (patient, hasty):
            await client.identity()
        await control.stop()
        asked = asyncio.create_task(patient.request(rq.Cancel("digits#1"), JobView))
        with pytest.raises(ClusterUnreachable, match=control.address):
            await hasty.request(rq.Cancel("digits#1"), JobView)
        await control.start()
        assert await asked == a_job()
        for client in (patient, hasty):
            await client.close()
        await control.stop()

    asyncio.run(scene())


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async def scene() -> None:
        control = FakeControl()
        await control.start()
        client = AsyncClient(control.address, patience=60.0, within=0.2)
        with pytest.raises(ClusterUnreachable, match=f"{control.address} hasn't answered"):
            await client.request(Follow(cursor=10**6, wait=60.0), Followed)
        assert control.follows
        await client.close()
        await control.stop()

    asyncio.run(scene())


def test_a_cluster_that_came_back_elsewhere_is_found_and_one_that_is_down_not_waited_for() -> None:
    async def scene() -> None:
        first, second = FakeControl(), FakeControl()
        where: list[str] = []

        def find() -> str:
            if not where:
                raise NoCluster("No cluster is up.")
            return where[-1]

        for control in (first, second):
            await control.start()
            control.answers[rq.Cancel] = a_job()
        where.append(first.address)
        client = AsyncClient(first.address, patience=60.0, find=find)
        await client.request(rq.Cancel("digits#1"), JobView)
        await first.stop()
        where.clear()
        with pytest.raises(NoCluster):
            await client.request(rq.Cancel("digits#1"), JobView)
        where.append(second.address)
        assert await client.request(rq.Cancel("digits#1"), JobView) == a_job()
        assert client.address == second.address
        await client.close()
        await second.stop()

    asyncio.run(scene())


@pytest.fixture
def control() -> Iterator[FakeControl]:
    """A cluster in a thread."""
    loop, made = asyncio.new_event_loop(), FakeControl()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result()
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_threads_share_a_client(control: FakeControl) -> None:
    control.answers[rq.Cancel] = a_job()
    client = Client(control.address, patience=0.0)
    assert client.cluster_id == ""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(client.cancel, ["digits#1"] * 20))
    assert found == [a_job()] * 20
    assert client.cluster_id == "c1"
    assert client.identity().user == "ada"
    control.answers[rq.Cancel] = UnknownName("There is no job.")
    with pytest.raises(UnknownName, match=r"There is no job\."):
        client.cancel("digits#1")
    client.close()
    control.answers[rq.Cancel] = a_job()
    assert client.cancel("digits#1") == a_job()
    client.close()
