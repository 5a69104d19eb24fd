"""Where a rank's multiprocessing keeps its sockets: a folder that goes when the rank has ended.

Python removes the folder that it makes for them when a process ends by itself; a rank leaves at
once, or is killed. What a cell makes with `tempfile` stays where that is usual: it may be read
later, or by other ranks, and what torch has compiled is kept there, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from multiprocessing.util import get_temp_dir
from pathlib import Path

from resilient_nb.supervisor.place import Place

#: A Unix socket's path has at most so many bytes, and multiprocessing adds these to the folder's.
_SOCKET_LIMIT, _ADDED = 107, "/pymp-12345678/listener-12345678"
#: What `tempfile` adds to a prefix.
_RANDOM = "12345678"


def make(place: Place) -> str:
    """Return a new folder for one rank, "" if there can be none: then it has what is usual."""
    try:
        base = os.path.join(tempfile.gettempdir(), _prefix(place))
        if len(os.fsencode(base + _RANDOM + _ADDED)) > _SOCKET_LIMIT:
            return ""
        return tempfile.mkdtemp(prefix=_prefix(place))
    except OSError:
        return ""  # the disk is full, say


def use(folder: str) -> None:
    """In the rank: have its multiprocessing work there, and that of the processes it starts."""
    try:
        if folder:
            tempfile.tempdir = folder
            with suppress(OSError):  # the disk is full, say
                get_temp_dir()  # makes its own in ours, and keeps to it
    finally:
        tempfile.tempdir = None  # the cell may want another than what the supervisor has found


def remove(folder: str) -> None:
    """Remove the folder of a rank that has ended; what is just being made there goes later."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(place: Place) -> None:
    """Remove the folders of all ranks: the supervisor has none, or was killed and is followed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(place)}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid():  # anybody can make one of this name
                remove(str(folder))


def _prefix(place: Place) -> str:
    """Only one supervisor at a time has the place: all folders that begin so are its own."""
    return f"resilient-{place.digest}-"
