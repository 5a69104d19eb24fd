"""An `ObjectStore` in the cloud, on obstore: S3 and what speaks its protocol, GCS and Azure.

Endpoint, region and credentials come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), as
usual for each cloud. What is put is durable when `put` returns, and appears whole or not at all.

obstore works with threads of its own, which a forked process doesn't get: there it would wait for
ever. So nothing is opened before it is used, and a child whose parent has used one is refused.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from resilient_nb.core.places import check_url, scheme
from resilient_nb.errors import InvalidRequest
from resilient_nb.storage.objects import Buffer, Entry, Parts, size_of

#: Larger objects are sent in parts of this many bytes, some at a time.
PART_BYTES = 8 << 20
_AT_ONCE = 6
#: S3 takes 10,000 parts of an object, and 1,000 keys in one request to delete.
_MOST_PARTS, _MOST_KEYS = 9_000, 1_000
_STREAM = 2 << 20

_CLIENT = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "180s"}
_RETRIES = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=45),
    "backoff": {"max_backoff": timedelta(seconds=4)},
}

#: Where each cloud's endpoint is set, if it isn't the cloud's own; and what allows plain http.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

_memory: dict[str, Any] = {}  # memory://NAME is one store in the whole process
_user: int | None = None  # the process in which obstore has begun to work


class RemoteStore:
    """A bucket, or what lies below a prefix in it.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://account/container/prefix`; `memory://name` is
            gone with the process.

    Raises:
        InvalidRequest: it is no such URL, obstore isn't installed, or the way there isn't safe.
    """

    block = 64 << 20  # each request costs a round trip
    threads = 8

    def __init__(self, url: str) -> None:
        self._url = check_url(url)
        self._cloud = {"abfs": "az", "abfss": "az"}.get(scheme(self._url), scheme(self._url))
        self._options = {**_CLIENT, "allow_http": _http_is_allowed(self._cloud, os.environ)}
        self._prefix = _memory_prefix(self._url) if self._cloud == "memory" else ""
        self._opened: Any = None
        _import_obstore(self._url)

    @property
    def url(self) -> str:
        return self._url

    def put(self, key: str, parts: Parts) -> None:
        size = size_of(parts)
        with self._telling(key) as store:
            if size <= PART_BYTES:
                _obstore().put(store, self._path(key), _joined(parts), use_multipart=False)
                return
            piece = max(PART_BYTES, -(-size // _MOST_PARTS))
            _obstore().put(
                store, self._path(key), _slices(parts), chunk_size=piece, max_concurrency=_AT_ONCE
            )

    def flush(self) -> None:
        """Nothing is left to do: what was put is durable."""

    def create(self, key: str, data: bytes) -> None:
        with self._telling(key) as store:
            _obstore().put(store, self._path(key), data, mode="create", use_multipart=False)

    def link(self, key: str, target: str) -> None:
        """There are no links in a bucket."""

    def read(self, key: str) -> bytes:
        with self._telling(key) as store:
            return bytes(_obstore().get(store, self._path(key)).bytes())

    def read_into(self, key: str, offset: int, view: memoryview) -> int:
        if view.nbytes == 0:
            self.size(key)  # raises if there is no such object
            return 0
        target, done = view.cast("B"), 0
        wanted = {"range": (offset, offset + target.nbytes)}
        try:
            with self._telling(key) as store:
                found = _obstore().get(store, self._path(key), options=wanted)
                for piece in found.stream(min_chunk_size=_STREAM):
                    count = len(piece)
                    target[done : done + count] = memoryview(piece)
                    done += count
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return self._no_bytes(key, offset)
        return done

    def _no_bytes(self, key: str, offset: int) -> int:
        """There is nothing to read: is that since the object ends before?"""
        size = self.size(key)
        if 0 <= offset < size:
            raise OSError(errno.EREMOTEIO, "The store gave no bytes", f"{self._url}/{key}")
        return 0

    def size(self, key: str) -> int:
        with self._telling(key) as store:
            size: int = _obstore().head(store, self._path(key))["size"]
            return size

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._telling(prefix) as store:
            for rows in _obstore().list(store, self._path(prefix) or None):
                for row in rows:
                    yield Entry(row["path"][len(self._prefix) :], row["size"])

    def delete(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        for start in range(0, len(paths), _MOST_KEYS):
            self._delete(paths[start : start + _MOST_KEYS])

    def _delete(self, paths: Sequence[str]) -> None:
        with self._telling(paths[0]) as store:
            try:
                _obstore().delete(store, paths)
            except FileNotFoundError:  # some clouds mind, and then stop
                for path in paths:
                    with suppress(FileNotFoundError):
                        _obstore().delete(store, path)

    def _path(self, key: str) -> str:
        return self._prefix + key

    @contextmanager
    def _telling(self, key: str) -> Iterator[Any]:
        """Give the opened store; what it raises becomes an OSError that says what to do."""
        where = f"{self._url}/{key}" if key else self._url
        try:
            yield self._open()
        except OSError as error:
            if error.errno is not None:
                raise
            raise _told(error, where, self._cloud) from None
        except _obstore().exceptions.BaseError as error:
            raise _told(error, where, self._cloud) from None

    def _open(self) -> Any:
        global _user
        if _user is None:
            _user = os.getpid()
        elif _user != os.getpid():
            raise OSError(
                errno.EDEADLK,
                "A store was used before this process was forked, and can't be used in it: use "
                "it in the child only, or start the child with 'spawn'",
                self._url,
            )
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    def _connect(self) -> Any:
        from obstore.store import MemoryStore, from_url

        if self._cloud == "memory":
            return _memory.setdefault(self._url.split("/")[2], MemoryStore())
        options: Any = self._options
        retries: Any = _RETRIES
        return from_url(self._url, client_options=options, retry_config=retries)


def _memory_prefix(url: str) -> str:
    prefix = "/".join(url.split("/")[3:])
    return f"{prefix}/" if prefix else ""


def _import_obstore(url: str) -> None:
    try:
        _obstore()
    except ImportError as error:
        raise InvalidRequest(
            f"{url} needs obstore, which isn't installed here: pip install 'resilient_nb[remote]'."
        ) from error


def _obstore() -> Any:
    import obstore
    import obstore.exceptions

    return obstore


def _http_is_allowed(cloud: str, environment: Mapping[str, str]) -> bool:
    """Whether the endpoint may be spoken to in the clear.

    Raises:
        InvalidRequest: it would have to, over a network.
    """
    allow = _ALLOW_HTTP.get(cloud, "")
    if environment.get(allow, "").lower() in ("1", "true", "yes", "on"):
        return True
    for name in _ENDPOINTS.get(cloud, ()):
        endpoint = urlsplit(environment.get(name, ""))
        if endpoint.scheme == "http":
            if endpoint.hostname in ("localhost", "127.0.0.1", "::1"):
                return True
            raise InvalidRequest(
                f"{name} is {endpoint.geturl()}, where everybody on the way can read and change "
                f"what is stored. Use https://, or set {allow}=1 if that network is yours alone."
            )
    return False


def _joined(parts: Parts) -> Buffer:
    views = [memoryview(part).cast("B") for part in parts]
    return views[0] if len(views) == 1 else b"".join(views)


def _slices(parts: Parts) -> Iterator[memoryview]:
    """Give the parts in small pieces: nothing is held twice for longer than it takes to send."""
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, view.nbytes, _STREAM):
            yield view[start : start + _STREAM]


# What obstore raises, told so that one knows what to do.

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_FULL = ("StorageFull", "QuotaExceeded", "InsufficientStorage", "507 ")
_CODES = {
    "AlreadyExistsError": (errno.EEXIST, "There is one already"),
    "PreconditionError": (errno.EEXIST, "There is one already"),
    "NotSupportedError": (errno.ENOTSUP, "The store can't do that"),
}


def _told(error: Exception, where: str, cloud: str) -> OSError:
    """Return an OSError of the fitting kind (its errno chooses the class)."""
    head, _, details = str(error).partition("\n\nDebug source")
    name = type(error).__name__
    if any(code in head for code in _NO_BUCKET):
        return OSError(errno.ENXIO, "There is no such bucket: make it first", where)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "No such object", where)
    if name in _CODES:
        return OSError(*_CODES[name], where)
    if re.search(r"/latest/(api/token|meta-data)|169\.254\.169\.254|/computeMetadata/", head):
        return OSError(errno.EACCES, f"There are no credentials: set {_CREDENTIALS[cloud]}", where)
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        text = f"Access was denied ({_reason(head)}): check {_CREDENTIALS[cloud]}"
        return OSError(errno.EACCES, text, where)
    if "416 " in head or "Invalid range" in head:
        return OSError(errno.EINVAL, "There are no such bytes", where)
    if any(code in head for code in _FULL):
        return OSError(errno.ENOSPC, f"The store is full ({_reason(head)})", where)
    if re.search(r"kind: (Connect|Timeout|Interrupted)", details):
        return _unreachable(details, where, cloud)
    return OSError(errno.EREMOTEIO, f"The store failed ({_reason(head)})", where)


def _unreachable(details: str, where: str, cloud: str) -> OSError:
    why = re.search(r'(?:message|error): "([^"]+)"', details)
    places = ", ".join(_ENDPOINTS.get(cloud, ()))
    text = (
        f"The store can't be reached ({why[1] if why else 'no answer in time'}): check the "
        f"network and the endpoint ({places})"
    )
    return ConnectionError(errno.EHOSTUNREACH, text, where)


def _reason(head: str) -> str:
    """Return what the server said, without the addresses and times around it."""
    said = [re.search(rf"<{tag}>([^<]+)</{tag}>", head) for tag in ("Code", "Message")]
    words = [found[1] for found in said if found]
    return ": ".join(words) if words else head[:200]
