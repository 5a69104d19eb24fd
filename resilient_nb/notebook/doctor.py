"""`doctor`: is this machine fit, and does the cluster answer?"""

from __future__ import annotations

import html
import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

from resilient_nb.config import Settings
from resilient_nb.control.identity import SOURCES
from resilient_nb.core.views import ClusterView
from resilient_nb.errors import ResilientError
from resilient_nb.notebook.panel import Rich
from resilient_nb.storage.claim import owner
from resilient_nb.storage.keys import encrypting_key, keyring
from resilient_nb.storage.stores import open_store
from resilient_nb.wire.requests import Welcome

_PACKAGES = ("torch", "zarr", "distributed", "ipython", "ipywidgets", "msgspec")
_LITTLE_DISK = 2 << 30


def doctor(
    settings: Settings, cluster: ClusterView | None, why_not: str, you: Welcome | None = None
) -> Rich[dict[str, str]]:
    """Return one line a check; what is wrong begins with "!".

    Args:
        settings: those of this process.
        cluster: the one in use, if it answers.
        why_not: else what is the matter with it.
        you: who the cluster takes this user for.
    """
    found = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": _platform(),
        "packages": ", ".join(_version(name) for name in _PACKAGES),
        "home": _folder(settings),
        "store": _store(settings),
        "encryption": _encryption(settings),
        "cluster": _cluster(cluster, why_not),
        "you": _you(you),
        "jupyterlab": "found" if importlib.util.find_spec("jupyterlab") else "not installed",
    }
    text = "\n".join(f"{name:11} {value}" for name, value in found.items())
    return Rich(text, f"<pre>{html.escape(text)}</pre>", found)


def _platform() -> str:
    name = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return name if sys.platform == "linux" else f"! {name}: ranks need Linux"


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"! {name} is missing"


def _folder(settings: Settings) -> str:
    place = settings.home
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return f"! {settings.home} can't be written: set RESILIENT_NB_HOME"
    free = shutil.disk_usage(place).free
    mark = "! only " if free < _LITTLE_DISK else ""
    return f"{settings.home}, {mark}{free / (1 << 30):.1f} GiB free"


def _store(settings: Settings) -> str:
    try:
        mine = owner(open_store(settings.store))
    except (OSError, ResilientError) as error:
        return f"! {error}"
    return f"{settings.store}, {f'of cluster {mine}' if mine else 'not used yet'}"


def _encryption(settings: Settings) -> str:
    try:
        first, ring = encrypting_key(settings), keyring(settings)
    except ResilientError as error:
        return f"! {error}"
    if (ring.keys or first) and importlib.util.find_spec("cryptography") is None:
        return "! there is a key, and cryptography is missing: pip install cryptography"
    if first is not None:
        return f"with the key {first.id}; reads with {', '.join(key.id for key in ring.keys)}"
    have = ", ".join(key.id for key in ring.keys)
    return f"off; reads with {have}" if have else "none"


def _you(welcome: Welcome | None) -> str:
    if welcome is None or not welcome.user:
        return "not known without a cluster"
    return f"{welcome.user}, {SOURCES.get(welcome.source, welcome.source)}"


def _cluster(view: ClusterView | None, why_not: str) -> str:
    if view is None:
        return f"! {why_not}"
    cold = [host.id for host in view.hosts if not host.warm]
    mark = f", ! not ready: {', '.join(cold)}" if cold else ""
    return f"{view.address}, {view.used} of {view.slots} slots in use{mark}; store {view.store}"
