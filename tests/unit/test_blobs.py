"""`storage.blobs`: what is visible is whole, however it came and whoever else sent it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_nb.errors import InvalidRequest, UnknownName
from resilient_nb.storage.blobs import BlobStore

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store" / "blobs")


def files(store: BlobStore) -> set[str]:
    return set(os.listdir(store.root))


def upload(store: BlobStore, data: bytes, digest: str, step: int = 1000) -> bool:
    done = False
    for offset in range(0, max(1, len(data)), step):
        done = store.append_upload(digest, offset, data[offset : offset + step], len(data))
    return done


def test_put_is_idempotent_and_read_gives_ranges(store: BlobStore) -> None:
    assert not store.has(DIGEST)
    assert store.put(DATA) == store.put(DATA) == DIGEST
    assert store.has(DIGEST)
    assert store.path(DIGEST).read_bytes() == store.read(DIGEST) == DATA
    assert store.read(DIGEST, 5, 10) == DATA[5:15]
    assert store.read(DIGEST, len(DATA) - 1, 10) == DATA[-1:]
    assert store.read(DIGEST, len(DATA) + 1, 10) == b""
    assert files(store) == {DIGEST}


def test_only_the_owner_may_read(store: BlobStore) -> None:
    store.put(DATA)
    other = hashlib.sha256(b"ab").hexdigest()
    store.append_upload(other, 0, b"a", 2)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in store.root.iterdir()} == {0o600}
    assert len(files(store)) == 2


def test_an_upload_is_invisible_until_its_last_chunk(store: BlobStore) -> None:
    assert store.append_upload(DIGEST, 0, DATA[:5000], len(DATA)) is False
    assert not store.has(DIGEST)
    assert store.append_upload(DIGEST, 5000, DATA[5000:], len(DATA)) is True
    assert store.read(DIGEST) == DATA
    assert files(store) == {DIGEST}
    assert store.append_upload(DIGEST, 0, DATA[:10], len(DATA)) is True


def test_an_empty_upload(store: BlobStore) -> None:
    assert upload(store, b"", hashlib.sha256(b"").hexdigest())


def test_a_retry_from_the_beginning(store: BlobStore) -> None:
    store.append_upload(DIGEST, 0, b"wrong" * 1000, len(DATA))
    assert upload(store, DATA, DIGEST)
    assert store.read(DIGEST) == DATA


def test_a_wrong_upload_is_refused_and_can_be_sent_again(store: BlobStore) -> None:
    with pytest.raises(InvalidRequest, match="again from offset 0"):
        upload(store, DATA[:-1] + b"x", DIGEST)
    assert files(store) == set()
    assert upload(store, DATA, DIGEST)


def test_leftovers_of_a_longer_upload_are_cut(store: BlobStore) -> None:
    store.append_upload(DIGEST, 0, DATA + b"more", len(DATA) + 100)
    assert upload(store, DATA, DIGEST)
    assert store.read(DIGEST) == DATA


@pytest.mark.parametrize(
    ("offset", "total", "said"),
    [(1, 20, "would leave a gap: 0 bytes"), (-1, 20, "no part of"), (15, 20, "no part of")],
)
def test_chunks_that_cannot_be_right(store: BlobStore, offset: int, total: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        store.append_upload(DIGEST, offset, b"0123456789", total)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_digest_is_64_hex_digits(store: BlobStore, digest: str) -> None:
    for call in (
        lambda: store.path(digest),
        lambda: store.has(digest),
        lambda: store.read(digest, 0, 1),
        lambda: store.append_upload(digest, 0, b"", 0),
    ):
        with pytest.raises(InvalidRequest, match="64 lowercase hex"):
            call()


def test_reading_what_is_not_there(store: BlobStore) -> None:
    with pytest.raises(UnknownName, match=DIGEST):
        store.read(DIGEST, 0, 1)
    store.put(DATA)
    with pytest.raises(InvalidRequest, match="offset -1"):
        store.read(DIGEST, -1)


def test_a_full_disk_leaves_nothing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.put(DATA)
    assert files(store) == set()


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(1, 9), min_size=3))
@settings(max_examples=100, deadline=None)
def test_senders_take_turns_in_any_order(turns: list[int], sizes: list[int]) -> None:
    data = DATA[:40]
    digest = hashlib.sha256(data).hexdigest()
    with TemporaryDirectory() as root:
        store = BlobStore(root)
        sent = [0, 0, 0]
        for sender in [*turns, *[0] * len(data)]:
            offset, size = sent[sender], sizes[sender]
            if offset < len(data):
                done = store.append_upload(digest, offset, data[offset : offset + size], len(data))
                assert done == store.has(digest)
                sent[sender] += size
        assert store.read(digest) == data
        assert files(store) == {digest}


def test_who_waited_for_a_removed_file_begins_a_new_one(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append_upload(DIGEST, 0, b"x", len(DATA))
    partial = store.root / f".{DIGEST}.partial"
    waiting, real = threading.Event(), fcntl.flock

    def flock(file: int, operation: int) -> None:
        waiting.set()
        real(file, operation)

    with partial.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", flock)
        sender = threading.Thread(target=upload, args=(store, DATA, DIGEST, len(DATA)))
        sender.start()
        assert waiting.wait(10)
        partial.unlink()
        partial.write_bytes(b"somebody else's, unverified")
    sender.join(10)
    assert not sender.is_alive()
    assert store.read(DIGEST) == DATA


def test_senders_at_once_and_one_who_lies(store: BlobStore) -> None:
    start = threading.Barrier(5)

    def send(data: bytes) -> None:
        start.wait()
        for _ in range(50):  # the liar may spoil an attempt, never the blob
            with suppress(InvalidRequest):
                if upload(store, data, DIGEST, 700):
                    return

    liar = DATA[:-1] + b"x"
    threads = [threading.Thread(target=send, args=(data,)) for data in [DATA] * 4 + [liar]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert store.read(DIGEST) == DATA
    assert files(store) == {DIGEST}
