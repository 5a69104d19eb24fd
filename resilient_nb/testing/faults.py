"""Disks that fail: at any system call of a `LocalStore`, in every way that real ones do.

    store = LocalStore(folder, FaultyDisk(Fault.EIO, at=17))

`FaultyDisk` ends the process, or has a call fail, at the n-th call. `RecordingDisk` keeps what was
done; `crash` makes of that what a power loss may leave: what was synced is there, and of
everything else any part is.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from resilient_nb.storage.disk import Disk
from resilient_nb.storage.objects import Buffer

_PAGE = 4096


class Fault(StrEnum):
    """What happens at a call."""

    KILL = "SIGKILL"
    EIO = "EIO"
    ENOSPC = "ENOSPC"
    SHORT = "short write"  # half of the data fits, and then nothing does


#: Calls that need space; on a full disk all others go on working.
_GROWING = frozenset({"mkdir", "open", "write", "link", "symlink"})


class Watched(Disk):
    """Hands each call to `around`, which may make it."""

    @abstractmethod
    def around(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        """Make the call, or do something else; return what it returns."""

    def mkdir(self, folder: Path) -> None:
        self.around("mkdir", super().mkdir, folder)

    def open(self, path: Path, flags: int) -> int:
        return int(self.around("open", super().open, path, flags))

    def write(self, file: int, data: Buffer) -> int:
        return int(self.around("write", super().write, file, data))

    def spread(self, folder: Path) -> None:
        self.around("spread", super().spread, folder)

    def go_indirect(self, file: int) -> None:
        self.around("go_indirect", super().go_indirect, file)

    def close(self, file: int) -> None:
        self.around("close", super().close, file)

    def fsync(self, file: int) -> None:
        self.around("fsync", super().fsync, file)

    def fsync_folder(self, folder: Path) -> None:
        self.around("fsync_folder", super().fsync_folder, folder)

    def syncfs(self, folder: Path) -> None:
        self.around("syncfs", super().syncfs, folder)

    def link(self, path: Path, name: Path) -> None:
        self.around("link", super().link, path, name)

    def symlink(self, target: str, path: Path) -> None:
        self.around("symlink", super().symlink, target, path)

    def replace(self, path: Path, name: Path) -> None:
        self.around("replace", super().replace, path, name)

    def unlink(self, path: Path) -> None:
        self.around("unlink", super().unlink, path)

    def rmdir(self, folder: Path) -> None:
        self.around("rmdir", super().rmdir, folder)


class FaultyDisk(Watched):
    """Fails at one call, counted from 1; a full disk stays full from then on.

    What is to be synced is not: it costs time, and no power is lost here.

    Attributes:
        count: calls so far.
        struck: the call that failed, "" if none has.
    """

    def __init__(self, fault: Fault | None = None, at: int = 0) -> None:
        self.fault = fault
        self.at = at
        self.count = 0
        self.struck = ""
        self._lock = threading.Lock()

    def around(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            self.count += 1
            strikes = self.fault is not None and self.count == self.at
        if self.fault is not None and strikes:
            self.struck = name
            return self._strike(self.fault, name, call, *args)
        if self.struck and self.fault in (Fault.ENOSPC, Fault.SHORT) and name in _GROWING:
            raise _error(errno.ENOSPC)
        return None if "sync" in name else call(*args)

    def _strike(self, fault: Fault, name: str, call: Callable[..., Any], *args: Any) -> Any:
        written = None
        if name == "write" and fault in (Fault.KILL, Fault.SHORT):
            written = _half(call, *args)
        if name == "close":
            call(*args)  # a descriptor is gone whatever `close` says
        if fault is Fault.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is Fault.SHORT and written:
            return written
        raise _error(errno.EIO if fault is Fault.EIO else errno.ENOSPC)


def _half(call: Callable[..., Any], file: int, data: Buffer) -> int:
    """Write about half of the data: whole pages, which direct writes need, or none."""
    view = memoryview(data)
    half = view.nbytes // 2
    return int(call(file, view[: half // _PAGE * _PAGE if half >= _PAGE else 0]))


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


# --- power loss -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call that was made, and what it returned; of a write, the data that was written."""

    name: str
    args: tuple[Any, ...]
    result: Any = None


class RecordingDisk(Watched):
    """Keeps every call. What is to be synced is noted, and not synced."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._lock = threading.Lock()

    def around(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            result = None if "sync" in name else call(*args)
            if name == "write":
                args = (args[0], bytes(args[1][:result]))
            self.calls.append(Call(name, args, result))
            return result


@dataclass
class _File:
    """What is durable, and what was done since: (offset, data), or a size to cut it to."""

    durable: bytes = b""
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    position: int = 0


@dataclass
class _Folder:
    """The names that are durable, and what was done since; None: a name was removed."""

    durable: dict[str, _Node] = field(default_factory=dict)
    pending: list[tuple[str, _Node | None]] = field(default_factory=list)

    @property
    def now(self) -> dict[str, _Node]:
        found: dict[str, _Node | None] = {**self.durable, **dict(self.pending)}
        return {name: node for name, node in found.items() if node is not None}


_Node: TypeAlias = "_File | _Folder | str"  # a str is a symbolic link

#: What a folder holds: by the path of each file its contents, of a symbolic link its target;
#: None for a folder.
Tree: TypeAlias = "dict[str, bytes | str | None]"


def crash(before: Tree, root: Path, calls: Iterable[Call], random: Random) -> Tree:
    """Return a folder as a power loss may leave it, taken from those that it may.

    Args:
        before: what was durable before the calls.
        root: where the calls found it.
        calls: that were made until the power was lost.
        random: chooses.
    """
    top = _planted(before)
    replay = _Replay(top, root)
    for call in calls:
        replay.do(call)
    # All of what wasn't synced is lost, or nothing is, or anything in between.
    chance = random.choice([0.0, 1.0, 0.5, random.random()])
    return dict(_left(top, "", random, chance))


def planted(folder: Path) -> Tree:
    """Return what a folder holds."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def plant(tree: Tree, folder: Path) -> None:
    """Make a folder that holds this."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in sorted(tree.items()):
        path = folder / name
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)


class _Replay:
    """Does again what was done, and knows what of it is durable."""

    def __init__(self, top: _Folder, root: Path) -> None:
        self._top = top
        self._root = root
        self._open: dict[int, _File] = {}

    def do(self, call: Call) -> None:
        args = call.args
        match call.name:
            case "mkdir":
                self._set(args[0], _Folder())
            case "open":
                self._open[call.result] = self._opened(*args)
            case "write":
                file = self._open[args[0]]
                file.pending.append((file.position, args[1]))
                file.position += len(args[1])
            case "fsync":
                file = self._open[args[0]]
                file.durable, file.pending = _written(file.durable, file.pending), []
            case "fsync_folder":
                folder = self._find(args[0])
                assert isinstance(folder, _Folder)
                folder.durable, folder.pending = folder.now, []
            case "syncfs":
                _settle(self._top)
            case "link" | "replace":
                self._set(args[1], self._find(args[0]))
            case "symlink":
                self._set(args[1], args[0])
        if call.name in ("unlink", "rmdir", "replace"):
            self._set(args[0], None)

    def _opened(self, path: Path, flags: int) -> _File:
        found = self._parent(path).now.get(path.name)
        if not isinstance(found, _File):
            found = _File()
            self._set(path, found)
        elif flags & os.O_TRUNC:
            found.pending.append(0)
        found.position = 0
        return found

    def _find(self, path: Path) -> _Node:
        at: _Node = self._top
        for name in path.relative_to(self._root).parts:
            assert isinstance(at, _Folder)
            at = at.now[name]
        return at

    def _parent(self, path: Path) -> _Folder:
        found = self._find(path.parent)
        assert isinstance(found, _Folder)
        return found

    def _set(self, path: Path, node: _Node | None) -> None:
        self._parent(path).pending.append((path.name, node))


def _planted(tree: Tree) -> _Folder:
    top = _Folder()
    folders = {"": top}
    for name, content in sorted(tree.items()):
        above, _, last = name.rpartition("/")
        node: _Node = _Folder()
        if isinstance(content, str):
            node = content
        elif content is not None:
            node = _File(content)
        if isinstance(node, _Folder):
            folders[name] = node
        folders[above].durable[last] = node
    return top


def _settle(folder: _Folder) -> None:
    folder.durable, folder.pending = folder.now, []
    for node in folder.durable.values():
        if isinstance(node, _Folder):
            _settle(node)
        elif isinstance(node, _File):
            node.durable, node.pending = _written(node.durable, node.pending), []


def _written(data: bytes, pending: Sequence[tuple[int, bytes] | int]) -> bytes:
    """Return a file's contents after writes and cuts."""
    found = bytearray(data)
    for step in pending:
        if isinstance(step, int):
            found = found[:step].ljust(step, b"\0")
        else:
            at, piece = step
            found = found.ljust(at, b"\0")
            found[at : at + len(piece)] = piece
    return bytes(found)


def _left(
    folder: _Folder, path: str, random: Random, chance: float
) -> Iterator[tuple[str, bytes | str | None]]:
    """Yield what is left of a folder. Each change that wasn't synced is there by chance.

    Names are independent of each other: what was done later may be there without what was done
    before. Of one name, changes are in order.
    """
    names: dict[str, _Node | None] = {**folder.durable}
    stopped: set[str] = set()
    for name, node in folder.pending:
        if name in stopped or random.random() > chance:
            stopped.add(name)
        else:
            names[name] = node
    for name, found in names.items():
        if found is None:
            continue
        inside = f"{path}{name}"
        if isinstance(found, _Folder):
            yield inside, None
            yield from _left(found, f"{inside}/", random, chance)
        elif isinstance(found, _File):
            kept = list(_torn(found.pending, random, chance))
            yield inside, _written(found.durable, kept)
        else:
            yield inside, found


def _torn(
    pending: Sequence[tuple[int, bytes] | int], random: Random, chance: float
) -> Iterator[tuple[int, bytes] | int]:
    """Yield what is left of writes: pages of them, or zeros where only the size was kept."""
    for step in pending:
        if isinstance(step, int):
            if random.random() <= chance:
                yield step
            continue
        at, piece = step
        for start in range(0, len(piece), _PAGE):
            page = piece[start : start + _PAGE]
            if random.random() <= chance:
                yield at + start, page
            elif random.random() < 0.3:
                yield at + start, bytes(len(page))
