"""The clusters that this server's browsers look at: connections for requests, and followers."""

from __future__ import annotations

from functools import partial

from resilient_nb import connection
from resilient_nb.comms import AsyncClient
from resilient_nb.config import load_settings
from resilient_nb.connection import Chosen
from resilient_nb.errors import InvalidRequest
from resilient_nb.server.follower import Follower

#: For how many seconds a click waits for a cluster that is being restarted, and for an answer.
PATIENCE, WITHIN = 3.0, 8.0


def choose(address: str) -> Chosen:
    """Return where a cluster is; "" is the one that kernels and shells use by default.

    Raises:
        NoCluster: there is none.
        ClusterUnreachable, InvalidRequest: a file that says so, or the settings, can't be read.
    """
    settings = load_settings()
    return connection.at(address, settings) if address else connection.chosen(settings)


class Clusters:
    """Connections and followers, made when they are first needed."""

    def __init__(self) -> None:
        self._clients: dict[Chosen, AsyncClient] = {}
        self._followers: dict[str, Follower] = {}

    def client(self, address: str) -> AsyncClient:
        """Return what requests to a cluster are sent with.

        Raises:
            NoCluster: there is none.
        """
        chosen = choose(address)
        if chosen not in self._clients:
            self._clients[chosen] = AsyncClient(chosen.address, PATIENCE, chosen.tls, WITHIN)
        return self._clients[chosen]

    def follower(self, address: str) -> Follower:
        """Return the one follower of a cluster."""
        if address not in self._followers:
            self._followers[address] = Follower(partial(choose, address), _user())
        return self._followers[address]

    async def close(self) -> None:
        """Stop following, and close all connections."""
        for follower in self._followers.values():
            await follower.close()
        for client in self._clients.values():
            await client.close()


def _user() -> str:
    """Return who the user is by this server's settings."""
    try:
        return load_settings().user
    except InvalidRequest:
        return ""  # the follower says what is wrong with them
