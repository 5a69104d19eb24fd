"""A notebook cell that can't be lost: queued, supervised, checkpointed, resumed.

`%load_ext resilient_nb` in a notebook, `resilient` in a shell, or this module's functions.
Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_nb._version import __version__

if TYPE_CHECKING:
    from resilient_nb.api import alerts, connect, fork, jobs, query, queue, run, runs
    from resilient_nb.checkpoints import export, import_checkpoint, load
    from resilient_nb.errors import ResilientError
    from resilient_nb.notebook.diff_reports import diff
    from resilient_nb.notebook.widgets import panel

__all__ = [
    "ResilientError",
    "__version__",
    "alerts",
    "connect",
    "diff",
    "export",
    "fork",
    "import_checkpoint",
    "jobs",
    "load",
    "panel",
    "query",
    "queue",
    "run",
    "runs",
]


def __getattr__(name: str) -> Any:
    if name == "ResilientError":
        from resilient_nb.errors import ResilientError

        return ResilientError
    if name == "panel":
        from resilient_nb.notebook.widgets import panel

        return panel
    if name == "diff":
        from resilient_nb.notebook.diff_reports import diff

        return diff
    if name in ("export", "import_checkpoint", "load"):
        from resilient_nb import checkpoints

        return getattr(checkpoints, name)
    if name in __all__:
        from resilient_nb import api

        return getattr(api, name)
    raise AttributeError(f"module 'resilient_nb' has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """Register `%%resilient` and `%resilient`."""
    from resilient_nb.notebook.magic import register

    register(shell)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell a Jupyter server what to load."""
    from resilient_nb.server.app import ResilientExtension

    return [{"module": "resilient_nb.server.app", "app": ResilientExtension}]


async def dask_setup(server: Any) -> None:
    """Make a Dask scheduler or worker ours: `--preload resilient_nb`."""
    from distributed import Scheduler, Worker

    if isinstance(server, Scheduler):
        from resilient_nb.control.plugin import ControlPlugin

        # Dask starts the plugins that are there when it has called all preloads.
        server.add_plugin(ControlPlugin())
    elif isinstance(server, Worker):
        from resilient_nb.agent.plugin import AgentPlugin

        await server.plugin_add(AgentPlugin())
