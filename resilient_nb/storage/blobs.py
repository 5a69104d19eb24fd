"""Files named by the sha256 of their content: captured values on their way to the ranks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resilient_nb.errors import InvalidRequest, UnknownName

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class BlobStore:
    """A directory of immutable files; any number of processes may write to it at once.

    A blob is visible only when whole and verified. Files are 0600, the directory 0700. Every
    method that takes a digest raises InvalidRequest unless it is 64 lowercase hex digits.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def path(self, digest: str) -> Path:
        """Return where the blob is, or would be."""
        if not _DIGEST.match(digest):
            raise InvalidRequest(
                f"{digest!r} is no blob's digest. Use the content's sha256, 64 lowercase hex."
            )
        return self.root / digest

    def has(self, digest: str) -> bool:
        """Return whether the blob is whole and readable."""
        return self.path(digest).is_file()

    def put(self, data: bytes) -> str:
        """Store `data`, unless it is there already, and return its digest.

        The blob is durable when this returns. An OSError (disk full) leaves nothing behind.
        """
        digest = hashlib.sha256(data).hexdigest()
        if self.has(digest):
            return digest
        self._make_root()
        private = self.root / f".{digest}.{uuid.uuid4().hex}"
        try:
            with open(private, "xb", opener=_open_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._publish(private, digest)
        finally:
            private.unlink(missing_ok=True)
        return digest

    def append_upload(self, digest: str, offset: int, data: bytes, total: int) -> bool:
        """Take one chunk of an upload; return whether the blob is now complete.

        Uploads of one digest share a partial file: chunks may be sent again, and by several
        senders at once, since all send the same bytes. The last chunk verifies the whole.

        Args:
            digest: of the whole.
            offset: of this chunk, in bytes; at most what has arrived so far.
            data: the chunk.
            total: size of the whole in bytes.

        Raises:
            InvalidRequest: the chunk leaves a gap or passes `total` (nothing is changed), or the
                whole doesn't have this digest (the partial file is removed: begin again at 0).
        """
        if self.has(digest):
            return True
        if not 0 <= offset <= offset + len(data) <= total:
            raise InvalidRequest(
                f"Bytes {offset} to {offset + len(data)} are no part of an upload of {total} bytes."
            )
        self._make_root()
        partial = self.root / f".{digest}.partial"
        with _locked(partial) as file:
            # Another sender may have completed it while we waited for the lock.
            if self.has(digest):
                partial.unlink(missing_ok=True)
                return True
            received = os.fstat(file).st_size
            if offset > received:
                raise InvalidRequest(
                    f"A chunk at {offset} of blob {digest} would leave a gap: {received} bytes "
                    f"have arrived. Continue at {received}, or begin again at 0."
                )
            _write_at(file, offset, data)
            if offset + len(data) < total:
                return False
            os.ftruncate(file, total)
            self._finish(file, partial, digest)
        return True

    def read(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        """Return up to `size` bytes from `offset` (-1: to the end); empty past the end.

        Raises:
            UnknownName: there is no such blob.
        """
        if offset < 0:
            raise InvalidRequest(f"A blob can't be read from the offset {offset}; begin at 0.")
        try:
            with open(self.path(digest), "rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            raise UnknownName(
                f"The blob {digest} isn't in the store. Submit again to send it again."
            ) from None

    def _make_root(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _finish(self, file: int, partial: Path, digest: str) -> None:
        with open(file, "rb", closefd=False) as reader:
            reader.seek(0)
            actual = hashlib.file_digest(reader, "sha256").hexdigest()
        if actual != digest:
            partial.unlink()
            raise InvalidRequest(
                f"The upload of blob {digest} arrived as {actual}. Send it again from offset 0."
            )
        os.fsync(file)
        self._publish(partial, digest)

    def _publish(self, source: Path, digest: str) -> None:
        source.replace(self.path(digest))
        directory = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_at(file: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open `path` alone among processes and threads; created if missing.

    Whoever waited may hold a file that was published or removed meanwhile, and must not write
    to it: then look again.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file
                return
        finally:
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
