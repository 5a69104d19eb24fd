"""Which cluster this process talks to, and making a running Dask cluster ours."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import distributed
from distributed.core import rpc

from resilient_nb.client import NO_TLS, Client, Tls, security
from resilient_nb.cluster import embedded
from resilient_nb.config import Settings, load_settings
from resilient_nb.core.views import ClusterView
from resilient_nb.errors import (
    ClusterUnreachable,
    InvalidRequest,
    NoCluster,
    ResilientError,
    VersionMismatch,
)


class Chosen(NamedTuple):
    """A cluster's address, the certificates for it, and whether it is this home's own."""

    address: str
    tls: Tls = NO_TLS
    embedded: bool = False


_clients: dict[Chosen, Client] = {}


def chosen(settings: Settings) -> Chosen:
    """Return where the cluster in use is; nothing is asked there.

    That is, in this order: the one that `RESILIENT_NB_ADDRESS` names, the one connected to last,
    the embedded one of this home.

    Raises:
        NoCluster: there is none.
        ClusterUnreachable, InvalidRequest: a file that says where it is can't be read.
    """
    if named := os.environ.get("RESILIENT_NB_ADDRESS"):
        return Chosen(named)
    if (remembered := _remembered(settings)).address:
        return remembered
    return Chosen(_embedded(settings), embedded=True)


def _embedded(settings: Settings) -> str:
    record = embedded.find(settings)
    if record is None:
        raise NoCluster(
            "No cluster is up. Start a local one with `up`, or use a team's with `connect ADDRESS`."
        )
    return record.address


def at(address: str, settings: Settings) -> Chosen:
    """Return an address with the certificates that were given when it was connected to."""
    remembered = _remembered(settings)
    return remembered if remembered.address == address else Chosen(address)


def current(settings: Settings | None = None) -> Client:
    """Return the client of the cluster in use; see `chosen`.

    Raises:
        NoCluster: there is none.
    """
    settings = settings or load_settings()
    found = chosen(settings)
    if found not in _clients:
        # After `down` and `up` the embedded cluster is elsewhere, and has the same jobs.
        find = partial(_embedded, settings) if found.embedded else None
        _clients[found] = Client(found.address, tls=found.tls, find=find)
    return _clients[found]


def connect(address: str, tls: Tls = NO_TLS) -> ClusterView:
    """Use the Dask cluster at `address` from now on, in later kernels and shells too.

    If its scheduler and workers were not started with `--preload resilient_nb`, the plugins are
    registered with it now; after a restart of its scheduler they must be again.

    Args:
        address: `tcp://host:8786` or `tls://host:8786`.
        tls: certificates for `tls://`; what is left out comes from Dask's configuration.

    Raises:
        ClusterUnreachable: nothing answers there.
        InvalidRequest: `tls://` without certificates, or with ones that can't be used.
        VersionMismatch: its Python or Dask is too different from this process's.
    """
    tls = _absolute(tls)
    client = Client(address, patience=5.0, tls=tls)
    try:
        view = client.cluster()
    except ClusterUnreachable as error:
        if "without resilient_nb" not in str(error):
            raise
        install(address, tls)
        view = client.cluster()
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [address, *(f"{name}={value}" for name, value in asdict(tls).items() if value)]
    _memory(settings).write_text("\n".join(lines))
    return view


def forget(settings: Settings) -> None:
    """Go back to the embedded cluster."""
    _memory(settings).unlink(missing_ok=True)


def install(address: str, tls: Tls = NO_TLS) -> None:
    """Register our plugins with a running Dask cluster.

    Raises:
        VersionMismatch: before anything is pickled, since a scheduler of another Python would
            crash on it.
    """
    versions: Any = asyncio.run(_versions(address, tls))
    theirs, ours = versions["python"].split(".")[:2], [str(n) for n in sys.version_info[:2]]
    if theirs != ours:
        raise VersionMismatch(
            f"The cluster at {address} runs Python {'.'.join(theirs)}, this process "
            f"{'.'.join(ours)}. Start it with --preload resilient_nb instead, or use one Python."
        )
    from resilient_nb.agent.plugin import AgentPlugin
    from resilient_nb.control.plugin import ControlPlugin

    try:
        safe = security(address, tls)
        with distributed.Client(address, timeout=10, set_as_default=False, security=safe) as dask:
            dask.register_plugin(ControlPlugin())
            dask.register_plugin(AgentPlugin())
    except ImportError as error:
        raise ResilientError(
            f"The cluster at {address} can't import resilient_nb: install it there ({error})."
        ) from error


async def _versions(address: str, tls: Tls) -> dict[str, str]:
    options = security(address, tls).get_connection_args("client")
    scheduler = rpc(address, connection_args=options, timeout=5)
    try:
        found = await scheduler.versions()
        return {"python": str(found["host"]["python"])}
    finally:
        await scheduler.close_rpc()


def _absolute(tls: Tls) -> Tls:
    """Return the files' full names: a later shell may be elsewhere."""
    return Tls(*(str(Path(f).expanduser().absolute()) if f else "" for f in astuple(tls)))


def _memory(settings: Settings) -> Path:
    return settings.home / "address"


def _remembered(settings: Settings) -> Chosen:
    """Return the cluster connected to last; its address is "" if there is none.

    Raises:
        InvalidRequest: the file that says so can't be read.
    """
    file = _memory(settings)
    try:
        address, *files = file.read_text().split("\n")
        found = dict(line.split("=", 1) for line in files if "=" in line)
        return Chosen(address.strip(), Tls(**found))
    except FileNotFoundError:
        return Chosen("")
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequest(
            f"{file} says which cluster was connected to, and can't be read ({error}): connect "
            "again (`connect ADDRESS`), or delete it."
        ) from error
