"""The extension as Jupyter's server sees it."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from resilient_nb.server import questions
from resilient_nb.server.api import CLUSTERS
from resilient_nb.server.clicks import Actions, Clicks
from resilient_nb.server.clusters import Clusters
from resilient_nb.server.feed import FeedSocket


class ResilientExtension(ExtensionApp):
    """Adds the routes below `resilient-nb/`, and ends what they began with the server."""

    name = "resilient_nb"

    def initialize_settings(self) -> None:
        """Make what the handlers share."""
        self.clusters = Clusters()
        self.settings[CLUSTERS] = self.clusters

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.handlers.extend(
            [
                (r"/resilient-nb/feed", FeedSocket),
                (r"/resilient-nb/actions", Actions, {"clicks": Clicks()}),
                (r"/resilient-nb/log", questions.Log),
                (r"/resilient-nb/search", questions.Search),
                (r"/resilient-nb/diff", questions.Diff),
                (r"/resilient-nb/why", questions.Why),
                (r"/resilient-nb/status", questions.StatusQuestion),
            ]
        )

    async def stop_extension(self) -> None:
        """End followers and connections."""
        await self.clusters.close()
