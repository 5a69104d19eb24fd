"""Which cluster this process talks to, and making a running Dask cluster ours."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import distributed
from distributed.core import rpc
from distributed.security import Security

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import Settings, load_settings
from resilient_nb.core.views import ClusterView
from resilient_nb.errors import ClusterUnreachable, ResilientError, VersionMismatch

_clients: dict[str, Client] = {}


def current(settings: Settings | None = None) -> Client:
    """Return the client of the cluster in use.

    That is, in this order: the one that `RESILIENT_NB_ADDRESS` names, the one connected to last,
    the embedded one of this home.

    Raises:
        ClusterUnreachable: there is none.
    """
    settings = settings or load_settings()
    address = os.environ.get("RESILIENT_NB_ADDRESS") or _remembered(settings)
    if address is None:
        record = embedded.find(settings)
        if record is None:
            raise ClusterUnreachable(
                "No cluster is up. Start a local one with `up`, or use a team's with "
                "`connect ADDRESS`."
            )
        address = record.address
    return _client(address)


def connect(address: str) -> ClusterView:
    """Use the Dask cluster at `address` from now on, in later kernels and shells too.

    If its scheduler and workers were not started with `--preload resilient_nb`, the plugins are
    registered with it now; after a restart of its scheduler they must be again.

    Raises:
        ClusterUnreachable: nothing answers there.
        VersionMismatch: its Python or Dask is too different from this process's.
    """
    client = Client(address, patience=5.0)
    try:
        view = client.cluster()
    except ClusterUnreachable as error:
        if "without resilient_nb" not in str(error):
            raise
        install(address)
        view = client.cluster()
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _memory(settings).write_text(address)
    return view


def forget(settings: Settings) -> None:
    """Go back to the embedded cluster."""
    _memory(settings).unlink(missing_ok=True)


def install(address: str) -> None:
    """Register our plugins with a running Dask cluster.

    Raises:
        VersionMismatch: before anything is pickled, since a scheduler of another Python would
            crash on it.
    """
    versions: Any = asyncio.run(_versions(address))
    theirs, ours = versions["python"].split(".")[:2], [str(n) for n in sys.version_info[:2]]
    if theirs != ours:
        raise VersionMismatch(
            f"The cluster at {address} runs Python {'.'.join(theirs)}, this process "
            f"{'.'.join(ours)}. Start it with --preload resilient_nb instead, or use one Python."
        )
    from resilient_nb.agent.plugin import AgentPlugin
    from resilient_nb.control.plugin import ControlPlugin

    try:
        with distributed.Client(address, timeout=10, set_as_default=False) as dask:
            dask.register_plugin(ControlPlugin())
            dask.register_plugin(AgentPlugin())
    except ImportError as error:
        raise ResilientError(
            f"The cluster at {address} can't import resilient_nb: install it there ({error})."
        ) from error


async def _versions(address: str) -> dict[str, str]:
    options = Security().get_connection_args("client")
    scheduler = rpc(address, connection_args=options, timeout=5)
    try:
        found = await scheduler.versions()
        return {"python": str(found["host"]["python"])}
    finally:
        await scheduler.close_rpc()


def _client(address: str) -> Client:
    if address not in _clients:
        _clients[address] = Client(address)
    return _clients[address]


def _memory(settings: Settings) -> Path:
    return settings.home / "address"


def _remembered(settings: Settings) -> str | None:
    try:
        return _memory(settings).read_text().strip() or None
    except FileNotFoundError:
        return None
