"""Asking a control plane from within an event loop, over Dask's comms.

Requests are plain MessagePack both ways: nothing is unpickled, so a notebook of another
Python version gets an error and not a crash. A call that loses its connection is repeated
while the cluster may be restarting; requests are made so that a repeat is harmless.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from distributed.comm.core import Comm, connect
from distributed.core import send_recv
from distributed.security import Security

from resilient_nb.config import load_settings
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, NotAllowed, from_wire
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import HELLO, PROTOCOL, REQUEST, build

T = TypeVar("T")


@dataclass(frozen=True)
class Tls:
    """Files in PEM format for a `tls://` address; "" for what Dask's configuration says."""

    ca_file: str = ""
    cert: str = ""
    key: str = ""  # "" also if the certificate's file has it


NO_TLS = Tls()


def security(address: str, tls: Tls = NO_TLS) -> Any:
    """Return the `Security` that Dask's comms need for an address.

    Raises:
        InvalidRequest: certificates are missing or can't be read.
    """
    given = {"tls_ca_file": tls.ca_file, "tls_client_cert": tls.cert, "tls_client_key": tls.key}
    found: Any = Security(
        require_encryption=True if any(given.values()) else None,
        **{name: value for name, value in given.items() if value},
    )
    if tls.cert and not tls.key:
        found.tls_client_key = None  # not another certificate's
    if not address.startswith(("tls://", "wss://")):
        return found
    files = {"CA file": found.tls_ca_file, "certificate": found.tls_client_cert}
    missing = " and ".join(name for name, file in files.items() if not file)
    if missing:
        raise InvalidRequest(
            f"{address} needs TLS, and no {missing} is set. Give --ca-file, --cert and --key, or "
            "set distributed.comm.tls.ca-file, .client.cert and .client.key in Dask's "
            "configuration."
        )
    for name, file in {**files, "key": found.tls_client_key}.items():
        if file and "\n" not in file and not os.access(file, os.R_OK):
            raise InvalidRequest(f"The TLS {name} {file} doesn't exist or can't be read.")
    try:
        found.get_connection_args("client")
    except ssl.SSLError as error:
        raise InvalidRequest(
            f"The TLS certificate {found.tls_client_cert} can't be used with its key and CA "
            f"({error.reason or error}): do these files belong together, in PEM format?"
        ) from error
    return found


def keeps_secrets(address: str) -> bool:
    """Whether what is sent there can't be overheard."""
    scheme, _, place = address.rpartition("://")
    host = place.rpartition(":")[0].strip("[]")
    return scheme in ("tls", "wss", "inproc") or host in ("localhost", "127.0.0.1", "::1")


class AsyncClient:
    """A connection to one cluster's control plane, for the tasks of one event loop.

    Args:
        address: the Dask scheduler's, such as `tcp://127.0.0.1:8786`.
        patience: for how many seconds a cluster that doesn't answer may be restarting.
        tls: certificates for `tls://`, where Dask's own configuration has none or others.
        within: how many seconds an answer may take, with all patience; None: for ever.
        find: says where the cluster is now, for one that can come back at another address. It
            raises if the cluster is known to be down: then there is nothing to be patient for.

    Attributes:
        welcome: what the cluster said with the newest connection; empty before the first.
    """

    def __init__(
        self,
        address: str,
        patience: float = 20.0,
        tls: Tls = NO_TLS,
        within: float | None = None,
        find: Callable[[], str] | None = None,
    ) -> None:
        self.address = address
        self.welcome = rq.Welcome()
        self._patience = patience
        self._within = within
        self._find = find
        self._tls = tls
        self._arguments: dict[str, Any] | None = None
        self._free: list[Comm] = []  # connections that have been greeted, and nobody uses now

    async def request(self, message: Any, kind: type[T], within: float | None = None) -> T:
        """Send a request and return its answer; `within` is for this one.

        Raises:
            ResilientError: what the control plane refused, as it was raised there.
            ClusterUnreachable: nothing answers at the address.
        """
        request = rq.REQUESTS.pack(message)
        return build(kind, await self._patiently(within, REQUEST, request=request))

    async def identity(self) -> rq.Welcome:
        """Return who the cluster takes this process's user for, and on what grounds."""
        return build(rq.Welcome, await self._patiently(None, HELLO, claim=load_settings().user))

    async def _patiently(self, within: float | None, op: str, **message: Any) -> Any:
        within = self._within if within is None else within
        try:
            async with asyncio.timeout(within):
                return await self._repeatedly(op, **message)
        except TimeoutError as error:
            raise ClusterUnreachable(
                f"The cluster at {self.address} hasn't answered for {within:.0f} s: it is "
                "overloaded, or its machine can't be reached. Try again."
            ) from error

    async def _repeatedly(self, op: str, **message: Any) -> Any:
        give_up = time.monotonic() + self._patience
        while True:
            try:
                comm = await self._connection()
                try:
                    return await self._call(comm, op, **message)
                finally:
                    if not comm.closed():
                        self._free.append(comm)
            except OSError as error:
                await self.close()
                if time.monotonic() >= give_up:
                    raise ClusterUnreachable(
                        f"The cluster at {self.address} doesn't answer ({error}). Jobs in its "
                        "journal are not lost: start it again (%resilient up), or connect to "
                        "another (%resilient connect ADDRESS)."
                    ) from error
                await asyncio.sleep(0.2)

    async def _connection(self) -> Comm:
        """Return a connection that is free, or a new one."""
        while self._free:
            if not (known := self._free.pop()).closed():
                return known
        if self._find is not None:
            self.address = self._find()
        if self._arguments is None:
            self._arguments = security(self.address, self._tls).get_connection_args("client")
        try:
            comm: Comm = await connect(self.address, timeout=3, **self._arguments)
        except ValueError as error:
            raise InvalidRequest(
                f"{self.address!r} is no Dask address ({error}). It looks like "
                "tcp://host:8786 or tls://host:8786."
            ) from error
        try:
            await self._greet(comm)
        except BaseException:
            comm.abort()
            raise
        return comm

    async def _greet(self, comm: Comm) -> None:
        """Say who we are, once for each connection."""
        claim, token = load_settings().user, os.environ.get("JUPYTERHUB_API_TOKEN", "")
        welcome = build(rq.Welcome, await self._call(comm, HELLO, claim=claim))
        if welcome.wants_token and token:
            if not keeps_secrets(self.address):
                raise NotAllowed(
                    f"The cluster at {self.address} asks for your JupyterHub token, and the way "
                    "there is not encrypted: it isn't sent. Connect to a tls:// address."
                )
            welcome = build(rq.Welcome, await self._call(comm, HELLO, claim=claim, token=token))
        self.welcome = welcome

    async def _call(self, comm: Comm, op: str, **message: Any) -> Any:
        reply = await send_recv(comm, op=op, protocol=PROTOCOL, **message)
        if reply is None:
            raise ClusterUnreachable(
                f"The Dask cluster at {self.address} runs without resilient_nb. Start scheduler "
                "and workers with --preload resilient_nb, or use %resilient connect, which adds "
                "it to a running one."
            )
        if "error" in reply:
            raise from_wire(reply["error"])
        return reply["ok"]

    @property
    def connected(self) -> bool:
        """Whether there is a connection that a call could use."""
        return bool(self._free)

    async def close(self) -> None:
        """Close the connections; the next call opens a new one."""
        old, self._free = self._free, []
        for comm in old:
            await comm.close()
