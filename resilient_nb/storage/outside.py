"""Data outside the store that cells read: whether it is there, and whether it is still the same.

A place is a path, or a URL of a web server or a bucket. Of large files and folders only samples are
read, so that it takes the same short time for any amount of data.
"""

from __future__ import annotations

import errno
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path

import xxhash

from resilient_nb.core.places import SCHEMES, is_url, scheme
from resilient_nb.errors import InvalidRequest, ResilientError
from resilient_nb.storage.objects import ObjectStore

#: Blocks that are read of a file, their bytes, files of a folder that are read, and counted.
_BLOCKS, _BLOCK, _FILES, _MOST = 8, 4096, 8, 10_000
#: Seconds that a web server gets to answer.
_PATIENCE = 10.0
_WEB = ("http", "https")
#: A server that answers a question about data with these may well give the data itself.
_ASK_OTHERWISE = (403, 405, 501)
#: What a file system says that is out of order: what it holds isn't gone.
_BROKEN = frozenset([errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN])


@dataclass(frozen=True)
class Seen:
    """Data as it was found. `modified` is in seconds since 1970, None if that isn't known."""

    kind: str
    nbytes: int | None
    fingerprint: str
    modified: float | None = None


def place_of(where: str | os.PathLike[str]) -> str:
    """Return the absolute path or the URL that somebody wrote.

    Raises:
        InvalidRequest: a URL of a kind that can't be looked at.
    """
    text = os.fspath(where)
    if scheme(text) == "file":
        text = text.partition("://")[2]
    if not is_url(text):
        return os.path.abspath(os.path.expanduser(text))
    if scheme(text) not in (*_WEB, *SCHEMES, "memory"):
        kinds = ", ".join(f"{name}://" for name in (*_WEB, *SCHEMES))
        raise InvalidRequest(
            f"{text!r} can't be looked at: give a path, or a URL that begins with {kinds}."
        )
    return text


def missing(place: str) -> str:
    """Return why data can't be read now, "" if it can."""
    try:
        _reach(place)
    except OSError as error:
        return error.strerror or str(error)
    except ResilientError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def gone(place: str) -> bool:
    """Whether data is known not to be there; what can't be reached may well be."""
    try:
        _reach(place)
    except OSError as error:
        return not passing(error)
    except Exception:
        return False
    return False


def passing(error: OSError) -> bool:
    """Whether an error is of what leads to the data, which may be there all the same."""
    return isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _BROKEN


def _reach(place: str) -> None:
    if not is_url(place):
        _touch(Path(place))
    elif scheme(place) in _WEB:
        _head(place)
    else:
        _stored(place)


def examine(place: str) -> Seen:
    """Return what is at a place, and its fingerprint.

    Raises:
        OSError: it isn't there, or can't be read.
        InvalidRequest: what its bucket needs isn't installed.
    """
    if not is_url(place):
        return _examine_path(Path(place))
    if scheme(place) in _WEB:
        return _head(place)
    store, key, size = _stored(place)
    digest = xxhash.xxh3_64()
    if size is not None:
        _sample(digest, size, lambda at: _piece(store, key, at))
        return Seen("object", size, digest.hexdigest())
    total = 0
    for entry in islice(store.list(key), _MOST):
        digest.update(f"{entry.key}\0{entry.size}\n".encode())
        total += entry.size
    return Seen("folder", total, digest.hexdigest())


# --- paths ------------------------------------------------------------------------------


def _touch(path: Path) -> None:
    if path.is_dir():
        with os.scandir(path) as found:
            next(found, None)
        return
    if path.is_file() or not path.exists():
        with path.open("rb") as file:
            file.read(1)
    # Else a pipe or a device: to open it may wait for ever, or take away what is in it.


def _examine_path(path: Path) -> Seen:
    _touch(path)
    if not path.is_dir() and not path.is_file():
        return Seen("stream", None, "")
    digest = xxhash.xxh3_64()
    if not path.is_dir():
        about = path.stat()
        _sample_file(digest, path, about.st_size, _BLOCKS)
        return Seen("file", about.st_size, digest.hexdigest(), about.st_mtime)
    files = list(islice(_walk(path), _MOST))
    total, newest = 0, path.stat().st_mtime
    for file in files:
        about = file.stat()
        digest.update(f"{file.relative_to(path)}\0{about.st_size}\n".encode(errors="replace"))
        total, newest = total + about.st_size, max(newest, about.st_mtime)
    whole = [file for file in files if file.is_file()]
    for file in whole[:: max(1, -(-len(whole) // _FILES))]:
        _sample_file(digest, file, file.stat().st_size, 2)
    return Seen("folder", total, digest.hexdigest(), newest)


def _walk(path: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _sample_file(digest: xxhash.xxh3_64, path: Path, size: int, blocks: int) -> None:
    with path.open("rb") as file:

        def read(at: int) -> bytes:
            file.seek(at)
            return file.read(_BLOCK)

        _sample(digest, size, read, blocks)


def _sample(
    digest: xxhash.xxh3_64, size: int, read: Callable[[int], bytes], blocks: int = _BLOCKS
) -> None:
    """Add the size and some blocks: the first, the last, and others between."""
    digest.update(f"{size}\n".encode())
    last = max(0, size - _BLOCK)
    for at in sorted({n * last // max(1, blocks - 1) for n in range(blocks)}):
        digest.update(read(at))


# --- URLs -------------------------------------------------------------------------------


def _head(url: str) -> Seen:
    """Ask a web server; what it says of the resource is its fingerprint."""
    try:
        headers = _asked(urllib.request.Request(url, method="HEAD"))
    except urllib.error.HTTPError as error:
        if error.code not in _ASK_OTHERWISE:
            raise _refused(error) from None
        try:  # a signed URL, say, is for GET alone; of the data itself nothing is read
            headers = _asked(urllib.request.Request(url, headers={"Range": "bytes=0-0"}))
        except urllib.error.HTTPError as again:
            raise _refused(again) from None
    told = [headers.get(name) or "" for name in ("ETag", "Last-Modified", "Content-Length")]
    if whole := (headers.get("Content-Range") or "").rpartition("/")[2]:
        told[2] = whole
    modified = None
    if told[1]:
        try:
            modified = parsedate_to_datetime(told[1]).timestamp()
        except ValueError:
            told[1] = ""
    length = int(told[2]) if told[2].isdecimal() else None
    known = xxhash.xxh3_64_hexdigest("\0".join(told).encode()) if any(told) else ""
    return Seen("resource", length, known, modified)


def _asked(request: urllib.request.Request) -> Mapping[str, str]:
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            headers: Mapping[str, str] = answer.headers
            return headers
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except urllib.error.URLError as error:
        raise ConnectionError(f"the server can't be reached: {error.reason}") from None
    except http.client.HTTPException as error:
        what = f"{type(error).__name__}: {error}"
        raise ConnectionError(f"the server's answer makes no sense ({what})") from None


def _refused(error: urllib.error.HTTPError) -> OSError:
    """Return an error of a class that says whether it may pass."""
    text = f"the server says {error.code} {error.reason}"
    if error.code in (404, 410):
        return FileNotFoundError(text)
    if error.code in (408, 425, 429) or error.code >= 500:
        return ConnectionError(text)
    return OSError(text)


def _stored(url: str) -> tuple[ObjectStore, str, int | None]:
    """Return the bucket, the key and the size of an object; None is the size of a folder."""
    from resilient_nb.storage.remote import RemoteStore  # obstore, only where it is wanted

    head, _, name = url.rstrip("/").rpartition("/")
    if head.endswith("/"):  # the bucket itself
        store = RemoteStore(url)
        next(iter(store.list("")), None)
        return store, "", None
    store = RemoteStore(head)
    try:
        return store, name, store.size(name)
    except FileNotFoundError:
        if next(iter(store.list(name)), None) is None:
            raise
        return store, name, None


def _piece(store: ObjectStore, key: str, at: int) -> bytes:
    data = bytearray(_BLOCK)
    count = store.read_into(key, at, memoryview(data))
    return bytes(data[:count])
