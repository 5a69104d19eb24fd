"""Which notebook and cell something is submitted from, so that a click leads back to it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def notebook_path(environment: Mapping[str, str] = os.environ) -> str:
    """Return the notebook's path as the Jupyter server's contents API knows it, "" if unknown.

    The server sets `JPY_SESSION_NAME` when it starts the kernel: the notebook's absolute path, or
    one below its root already. What its root is says the file that each server keeps in the runtime
    folder. Of another server (VS Code, say) the path stays as it is. A notebook that was renamed
    since its kernel began has its old name here.
    """
    name = environment.get("JPY_SESSION_NAME", "")
    return below(name, _root(environment)) if os.path.isabs(name) else name


def below(path: str, root: str) -> str:
    """Return a path relative to a folder that it is in, with slashes; else as it is."""
    if not root or not PurePath(path).is_relative_to(root):
        return path
    return PurePath(path).relative_to(root).as_posix()


def cell_id(shell: Any) -> str:
    """Return the id of the cell that runs, as JupyterLab sends it with each request; else ""."""
    parent: Mapping[str, Any] = getattr(shell, "get_parent", dict)()
    found = (parent.get("metadata") or {}).get("cellId", "")
    return found if isinstance(found, str) else ""


def _root(environment: Mapping[str, str]) -> str:
    """Return the root of the server that has started this kernel, "" if it can't be found."""
    from jupyter_core.paths import jupyter_runtime_dir

    server = environment.get("JPY_PARENT_PID", "")
    try:
        with open(os.path.join(jupyter_runtime_dir(), f"jpserver-{server}.json")) as file:
            return str(json.load(file)["root_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
