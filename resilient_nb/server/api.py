"""What all REST handlers share: who may ask, and that every answer is JSON."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado.web import HTTPError, MissingArgumentError

from resilient_nb.comms import AsyncClient
from resilient_nb.errors import InvalidRequest, ResilientError
from resilient_nb.server.actions import status
from resilient_nb.server.clusters import Clusters
from resilient_nb.wire.codec import to_json
from resilient_nb.wire.feed import Refused

#: What Jupyter's authorizer is asked about, and where the clusters are among the settings.
RESOURCE, CLUSTERS = "resilient_nb", "resilient_nb_clusters"

_CODES = {400: "invalid-request", 403: "not-allowed", 404: "unknown-name"}

#: Whole numbers go as 64 bits to the cluster.
_BIGGEST = 2**63 - 1


async def check_cluster(handler: JupyterHandler) -> None:
    """Let only those name a cluster who may run code here.

    What a Dask comm receives may be a pickle: a scheduler of one's own could run anything here.

    Raises:
        HTTPError: who asks may only look.
    """
    if handler.get_query_argument("cluster", ""):
        asked = handler.authorizer.is_authorized(handler, handler.current_user, "execute", RESOURCE)
        if not await ensure_async(asked):
            raise HTTPError(
                403,
                "Only who may run code on this Jupyter server may have it look at another cluster "
                "than its own: leave that setting empty.",
            )


class Api(APIHandler):
    """Answers with JSON: what was asked for, or a `Refused`."""

    auth_resource = RESOURCE

    @property
    def clusters(self) -> Clusters:
        """The clusters that this server knows."""
        found: Clusters = self.settings[CLUSTERS]
        return found

    @property
    def address(self) -> str:
        """The cluster that is asked about; "" for the chosen one."""
        return self.get_query_argument("cluster", "")

    @property
    def client(self) -> AsyncClient:
        """What asks that cluster."""
        return self.clusters.client(self.address)

    async def prepare(self) -> None:  # type: ignore[override]  # as Jupyter's own
        """Refuse requests that another site's page has made, also those that only read.

        They make this server connect to wherever `cluster` says.
        """
        await super().prepare()
        if self.request.method == "GET":
            self.check_xsrf_cookie()

    def set_default_headers(self) -> None:
        """Nothing here stays true for long."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    async def answer(self, work: Awaitable[Any]) -> None:
        """Finish with what comes of the work."""
        try:
            found = await work
        except ResilientError as error:
            self.set_status(status(error))
            self.finish(to_json(Refused(error.code, str(error))))
        else:
            self.finish(to_json(found))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Finish with what Jupyter refuses, or what failed."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        message = "The Jupyter server failed at this: its log says why."
        if isinstance(error, MissingArgumentError):
            message = f"The request needs the argument {error.arg_name!r}."
        elif isinstance(error, HTTPError):
            message = str(error.log_message or error.reason or self._reason)
        self.finish(to_json(Refused(_CODES.get(status_code, "error"), message)))

    def number(self, name: str, default: int) -> int:
        """Return a whole number among the arguments.

        Raises:
            InvalidRequest: it is none.
        """
        text = self.get_query_argument(name, None)
        with suppress(ValueError):
            found = default if text is None else int(text)
            if abs(found) <= _BIGGEST:
                return found
        raise InvalidRequest(f"{name} is {text!r}, and must be a whole number.")
