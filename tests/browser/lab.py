"""A real JupyterLab on a port of its own, with folders of its own, that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil

import resilient_nb

PATIENCE = 60.0
#: Where the built labextension is, in a checkout as in an installed package.
BUILT = Path(resilient_nb.__file__).parent / "labextension"

_QUIET = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "completer-extension/inline-completer": {"providers": {}},
    "apputils-extension/themes": {"theme": "JupyterLab Light"},
}


class Lab:
    """JupyterLab's server: `start` and `stop` as often as one likes, always at the same URL.

    Args:
        folder: for its configuration, data and notebooks.
        environment: of the server and its kernels, beside this process's own.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.root = folder / "notebooks"
        self.token = secrets.token_hex(16)
        self.port = _free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            **(environment or {}),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        self.root.mkdir(parents=True)
        for name, values in _QUIET.items():
            file = f"lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
            _write_json(folder / "config" / file, values)
        _write_json(folder / "config" / "jupyter_server_config.json", _server_config(folder))
        extensions = folder / "labextensions"
        extensions.mkdir()
        (extensions / "resilient_nb").symlink_to(BUILT)

    # --- its life -----------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Lab:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"]
        command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={self.root}"]
        command += [f"--IdentityProvider.token={self.token}", "--LabApp.expose_app_in_browser=True"]
        command += ["--LabApp.extension_manager=readonly"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)  # the server needs the processor more
        return self

    def stop(self) -> None:
        """End the server, and its kernels with it."""
        if self._process is None:
            return
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for child in family:  # of a server that was not patient enough
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(family, timeout=PATIENCE)

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self._folder / "lab.log"

    def _answers(self) -> bool:
        try:
            self.api("GET", "api/status")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    # --- what it has --------------------------------------------------------------------

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the server's REST API as the user."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def notebook(self, name: str, cells: Sequence[str]) -> Path:
        """Write a notebook of code cells into the root; return its path."""
        v4: Any = nbformat.v4  # has no types
        made = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        path = self.root / name
        nbformat.write(made, path)
        return path

    def kernels(self) -> list[psutil.Process]:
        """Return the kernels' processes."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]

    def shut_kernels_down(self) -> None:
        """End all kernels; none is started again by itself."""
        for session in self.api("GET", "api/sessions"):
            self.api("DELETE", f"api/sessions/{session['id']}")


def _server_config(folder: Path) -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"resilient_nb": True}},
        "LabServerApp": {"extra_labextensions_path": [str(folder / "labextensions")]},
        "FileContentsManager": {"delete_to_trash": False},
        "KernelManager": {"shutdown_wait_time": 5.0},
    }


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
