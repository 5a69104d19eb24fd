"""Control groups of ranks' own, where they can be made: there the kernel holds them to a limit.

Whether they can is found by trying. As root any file can be written; but groups belong to who
made them (an init system, a container manager), so root uses those of its own namespace only, or
the folder that the setting `cgroup` names.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PREFIX = "resilient_nb-"


class Cgroup:
    """The group of one rank and all that it starts."""

    def __init__(self, folder: Path, v2: bool) -> None:
        self._folder = folder
        self._events = folder / ("memory.events" if v2 else "memory.oom_control")
        self.over = False  # it may be removed

    def enter(self) -> None:
        """Put this process into it, with what it will start."""
        (self._folder / "cgroup.procs").write_text("0")

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has ended for going over the limit."""
        with suppress(OSError):
            for line in self._events.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0

    def remove(self) -> None:
        """Remove it, if nothing lives in it any more; else the next one that is made does."""
        self.over = True
        with suppress(OSError):
            self._folder.rmdir()

    @property
    def there(self) -> bool:
        """Whether it has not been removed."""
        return self._folder.exists()


class Cgroups:
    """Makes groups below a folder of a control group file system."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._v2 = (base / "cgroup.controllers").exists()
        self._made = 0
        self._groups: list[Cgroup] = []

    def make(self, limit: int) -> Cgroup:
        """Make a group that may hold so many bytes.

        Raises:
            OSError: there can be none.
        """
        self._made += 1
        for group in self._groups:
            if group.over:
                group.remove()  # what was dying in it then is gone by now
        self._groups = [group for group in self._groups if group.there]
        folder = self._base / f"{_PREFIX}{os.getpid()}-{self._made}"
        folder.mkdir()
        try:
            if self._v2:
                _write(folder / "memory.max", limit)
                _write(folder / "memory.oom.group", 1)
                with suppress(OSError):  # there is no swap
                    _write(folder / "memory.swap.max", 0)
            else:
                _write(folder / "memory.limit_in_bytes", limit)
                with suppress(OSError):  # swap isn't counted here
                    _write(folder / "memory.memsw.limit_in_bytes", limit)
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            raise
        self._groups.append(group := Cgroup(folder, self._v2))
        return group

    def usable(self) -> bool:
        """Whether a process can be held to a limit here; found by trying with one."""
        try:
            if self._v2:
                self._enable()
            self._sweep()
            group = self.make(64 << 20)
        except OSError:
            return False
        child = os.fork()
        if child == 0:
            try:
                group.enter()
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        group.remove()
        return status == 0

    def _enable(self) -> None:
        control = self._base / "cgroup.subtree_control"
        if "memory" not in control.read_text().split():
            control.write_text("+memory")

    def _sweep(self) -> None:
        """Remove what supervisors that were killed have left."""
        for folder in self._base.glob(f"{_PREFIX}*-*"):
            pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if not Path("/proc", pid).exists():
                with suppress(OSError):
                    folder.rmdir()


def find(setting: str) -> Cgroups | None:
    """Return where groups can be made, None if nowhere.

    Args:
        setting: `auto`, `off`, or the folder of a group that is ours, with the memory
            controller.
    """
    if setting == "off":
        return None
    for base in _candidates() if setting == "auto" else [Path(setting)]:
        groups = Cgroups(base)
        if groups.usable():
            return groups
    return None


def _candidates() -> list[Path]:
    found = []
    for line in _lines("/proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        v2 = not names
        mount = _mount(v2) if v2 or "memory" in names.split(",") else None
        if mount is None:
            continue
        own = mount / path.lstrip("/")
        # In version 2 groups with processes have no groups with a limit: ours are beside our own.
        base = own.parent if v2 and path != "/" else own
        if os.access(base, os.W_OK) and (os.geteuid() != 0 or path == "/"):
            found.append(base)
    return found


def _mount(v2: bool) -> Path | None:
    """Return where groups of the memory controller are, or all of version 2."""
    for line in _lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2" if v2 else kind == "cgroup" and "memory" in options.split(","):
            return Path(left.split(" ")[4])
    return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _write(path: Path, value: int) -> None:
    path.write_text(str(value))
