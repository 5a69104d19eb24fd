"""A supervisor's folder in memory (tmpfs), where its host keeps copies of checkpoints.

It lives as long as the supervisor's own folder: that has a link to it, and it has the name of that
folder in a file, so that what is left of a supervisor that was killed can be told and removed.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from resilient_nb.supervisor.place import Place

if TYPE_CHECKING:
    from resilient_nb.storage.shelf import ShelfStore

#: In a shelf: the copies, and the file with the supervisor's folder.
_RUNS, _OWNER = "runs", "of"
#: In the supervisor's folder.
_LINK = "shelf"
#: A shelf without an owner is only just being made, unless it is as old as this, in seconds.
_MAKING = 60.0


def shelf_of(root: str, place: Place) -> Path:
    """Return where the shelf of a supervisor is, or would be, below a folder in memory."""
    return _users(root) / f"{place.folder.name}-{place.digest}"


def at(root: str, place: Place) -> ShelfStore:
    """Return a supervisor's shelf, which may not be there yet."""
    from resilient_nb.storage.shelf import ShelfStore  # numpy: only agents need it

    return ShelfStore(shelf_of(root, place) / _RUNS)


def possible(root: str) -> str:
    """Return why there can be no shelf below a folder, "" if there can."""
    if not root:
        return "RESILIENT_NB_SHELF is empty"
    if not Path(root).is_dir() or not os.access(root, os.W_OK | os.X_OK):
        return f"{root} is no folder that can be written; set RESILIENT_NB_SHELF to one in memory"
    return ""


def make(root: str, place: Place) -> ShelfStore:
    """Return a supervisor's shelf; make it if there is none.

    Raises:
        OSError: it can't be made, or another user has a folder of its name.
    """
    shelf = shelf_of(root, place)
    for folder in (shelf.parent, shelf):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _check(folder)
    (shelf / _OWNER).write_text(str(place.folder))
    place.make()
    link = place.folder / _LINK
    if not link.is_symlink() or os.readlink(link) != str(shelf):
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):  # by another agent of this host
            link.symlink_to(shelf)
    return at(root, place)


def find(place: Place) -> str:
    """Return the path of a supervisor's copies, "" if it has none."""
    try:
        return os.path.join(os.readlink(place.folder / _LINK), _RUNS)
    except OSError:
        return ""


def drop(place: Place) -> None:
    """Remove a supervisor's shelf, if it has one."""
    try:
        shelf = Path(os.readlink(place.folder / _LINK))
    except OSError:
        return
    _remove(shelf)
    with suppress(OSError):
        (place.folder / _LINK).unlink()


def drop_stale(root: str, place: Place) -> None:
    """Remove what is left of supervisors that are gone: of this home, or of homes that are."""
    for shelf in _users(root).glob("*/"):
        owner = _owner(shelf)
        if owner is None:
            with suppress(FileNotFoundError):
                if time.time() - shelf.stat().st_mtime > _MAKING:
                    _remove(shelf)
        elif owner.folder != place.folder and _is_stale(owner, place):
            _remove(shelf)


def _is_stale(owner: Place, place: Place) -> bool:
    if not owner.folder.exists():
        return True
    return owner.folder.parent == place.folder.parent and not owner.alive()


def _owner(shelf: Path) -> Place | None:
    try:
        return Place(Path((shelf / _OWNER).read_text()))
    except OSError:
        return None


def _users(root: str) -> Path:
    return Path(root) / f"resilient_nb-{os.getuid()}"


def _remove(shelf: Path) -> None:
    shutil.rmtree(shelf, ignore_errors=True)
    with suppress(OSError):  # there are others
        shelf.parent.rmdir()


def _check(folder: Path) -> None:
    """Anybody can make folders where memory is: this one must be ours, and ours alone."""
    status = folder.lstat()
    mine = status.st_uid == os.getuid() and not status.st_mode & 0o077
    if not stat.S_ISDIR(status.st_mode) or not mine:
        raise PermissionError(1, "it isn't ours, or others may use it", str(folder))
