"""Settings, read once: environment before `config.toml` in the home folder before default."""

from __future__ import annotations

import getpass
import os
import socket
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from resilient_nb.core.places import Place, Places, check_url, is_url, scheme, sub_folder
from resilient_nb.errors import InvalidRequest


@dataclass(frozen=True)
class Settings:
    """All settings. Times in seconds.

    Each can be set as environment variable `RESILIENT_NB_<NAME>` or as a key of
    `<home>/config.toml`.
    """

    home: Path
    store: Place
    host: str  # this machine's name among the cluster's hosts
    user: str
    slots: int = 1  # ranks that fit on one Dask worker
    max_workers: int | None = None  # what the cluster can ever hold; None: it may grow
    threads: int = 1  # torch threads of a rank
    leave_grace: float = 15.0  # from "leave at a checkpoint" to SIGKILL
    adopt_grace: float = 30.0  # a silent host's ranks count as lost after this
    orphan_grace: float = 300.0  # ranks that no control plane adopts end after this
    wait: bool = False  # every cell waits for its job (nbval, papermill)
    policy: str = ""  # the administrator's policy file; "": policy.toml in the home
    hub_api: str = ""  # JupyterHub's API, asked who a token belongs to; "": there is no Hub
    owner: str = ""  # the OS user that an embedded cluster belongs to (set by its watchdog)
    replicas: Places = ()  # where second copies of all checkpoints are kept
    shelf: str = "/dev/shm"  # where copies of checkpoints are kept in memory
    mlflow: str = ""  # the tracking URI of an MLflow server that is told of jobs; "": none is
    key_file: str = ""  # keys that the store is encrypted with; see `storage.keys`
    encrypt: Literal["auto", "on", "off"] = "auto"  # whether it is; auto: if there is a key
    cgroup: str = "auto"  # of ranks with a memory limit: `auto`, `off`, or the folder of theirs

    @property
    def runs(self) -> Place:
        """Where checkpoints live: one folder a run."""
        return sub_folder(self.store, "runs")

    @property
    def blobs(self) -> Path:
        """Where captured values arrive; if the store is far away, they are sent on from here."""
        return Path(self.home if is_url(self.store) else self.store) / "blobs"

    @property
    def cluster_file(self) -> Path:
        return self.home / "cluster.json"

    @property
    def journal(self) -> Path:
        return self.home / "journal.db"

    @property
    def policy_file(self) -> Path:
        """What the administrator decides; see `control.policy_file`."""
        return Path(self.policy or self.home / "policy.toml").expanduser().absolute()

    @property
    def logs(self) -> Path:
        return self.home / "logs"


def load_settings(environment: dict[str, str] | None = None) -> Settings:
    """Return the settings of this process.

    Raises:
        InvalidRequest: for a value that can't be read, naming the variable or key.
    """
    env = dict(os.environ) if environment is None else environment
    home = Path(env.get("RESILIENT_NB_HOME") or "~/.resilient_nb").expanduser().absolute()
    values: dict[str, Any] = {
        "home": home,
        "store": str(home / "store"),
        "host": socket.gethostname(),
        "user": getpass.getuser(),
    }
    file = home / "config.toml"
    if file.exists():
        try:
            values.update(tomllib.loads(file.read_text()))
        except tomllib.TOMLDecodeError as error:
            raise InvalidRequest(f"{file} is no valid TOML: {error}.") from error
    names = {f.name: f.type for f in fields(Settings)}
    for name in names:
        if (text := env.get(f"RESILIENT_NB_{name.upper()}")) and name != "home":
            values[name] = text
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InvalidRequest(f"{file} has unknown settings: {', '.join(unknown)}.")
    return Settings(**{name: _read(name, str(names[name]), v) for name, v in values.items()})


_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_WORDS |= {"on": True, "off": False}


def _read(name: str, kind: str, value: Any) -> Any:
    try:
        if kind == "Path":
            return Path(value).expanduser().absolute()
        if kind == "Place":
            return _shared(read_place(value))
        if kind == "Places":
            rows = value if isinstance(value, list | tuple) else str(value).split(",")
            return tuple(_shared(read_place(row)) for row in rows if str(row).strip())
        if kind.startswith("Literal"):
            text = str(value).lower()
            return "auto" if text == "auto" else "on" if _WORDS[text] else "off"
        if kind == "bool":
            return _WORDS[str(value).lower()]
        if kind.startswith("int"):
            return None if value in (None, "none") and "None" in kind else _count(value)
        return float(value) if kind == "float" else str(value)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"Setting {name} can't be {value!r}; it is a {kind}.") from error


def read_place(value: object) -> Place:
    """Return the absolute path, or the URL, that somebody wrote.

    Raises:
        InvalidRequest: a URL that can't hold a store.
    """
    text = str(value).strip()
    if scheme(text) == "file":
        text = text.partition("://")[2]
    return check_url(text) if is_url(text) else str(Path(text).expanduser().absolute())


def _shared(place: Place) -> Place:
    if scheme(place) == "memory":
        raise InvalidRequest(f"{place} is gone with its process: use a folder or a bucket.")
    return place


def _count(value: Any) -> int:
    number = int(value)
    if isinstance(value, (bool, float)) or number < 1:
        raise ValueError(value)
    return number
