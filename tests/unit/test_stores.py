"""`storage.local`, `storage.remote` and `storage.fallback`: the shipped contract, and errors."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient_nb.config import read_place
from resilient_nb.core.places import check_url, is_url
from resilient_nb.errors import InvalidRequest
from resilient_nb.storage.fallback import FallbackStore
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.objects import Entry, ObjectStore
from resilient_nb.storage.remote import PART_BYTES, RemoteStore
from resilient_nb.storage.stores import open_store, sub_folder
from resilient_nb.testing.s3 import S3Server
from resilient_nb.testing.store_contract import ObjectStoreContract


def place(folder: Path) -> str:
    """Return a prefix of a folder's own."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:20]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, as the environment says where it is."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.seen()
    return server


class TestLocal(ObjectStoreContract):
    def make(self, folder: Path) -> ObjectStore:
        return LocalStore(folder / "store")


class TestInMemory(ObjectStoreContract):
    def make(self, folder: Path) -> ObjectStore:
        return RemoteStore(f"memory://tests/{place(folder)}")


@pytest.mark.usefixtures("s3")
class TestS3(ObjectStoreContract):
    examples = 10

    def make(self, folder: Path) -> ObjectStore:
        return RemoteStore(f"s3://bucket/tests/{place(folder)}")


class TestFallback(ObjectStoreContract):
    """Whose second store is empty."""

    def make(self, folder: Path) -> ObjectStore:
        return open_store([str(folder / "first"), str(folder / "second")])


class TestFallbackOfNothing(ObjectStoreContract):
    """Whose first store is a folder in another, so that it is seen through what falls back."""

    def make(self, folder: Path) -> ObjectStore:
        memory = f"memory://fallback/{place(folder)}"
        return open_store([str(folder / "first"), memory])


# --- S3 as it is spoken -----------------------------------------------------------------


def test_creating_is_a_conditional_put_and_a_large_put_goes_in_parts(s3: S3Server) -> None:
    store = open_store("s3://bucket/spoken")
    assert isinstance(store, RemoteStore)
    store.create("a/zarr.json", b"{}")
    [request] = s3.seen()
    assert (request["method"], request["if_none_match"]) == ("PUT", "*")
    assert request["path"] == "/bucket/spoken/a/zarr.json"
    data = os.urandom(2 * PART_BYTES)
    store.put("big", [data, b"sum!"])
    methods = [(row["method"], row["query"].partition("=")[0]) for row in s3.seen()]
    assert methods[0] == ("POST", "uploads")
    assert methods[1:-1] == [("PUT", "partNumber")] * 3
    assert methods[-1] == ("POST", "uploadId")
    view = bytearray(1000)
    assert store.read_into("big", PART_BYTES, memoryview(view)) == 1000
    assert view == data[PART_BYTES : PART_BYTES + 1000]
    [request] = s3.seen()
    assert request["range"] == f"bytes={PART_BYTES}-{PART_BYTES + 999}"


def test_a_missing_bucket_is_no_missing_object(s3: S3Server) -> None:
    store = open_store("s3://other-bucket/x")
    for call in (
        lambda: store.read("a"),
        lambda: store.put("a", [b"1"]),
        lambda: store.create("a", b"1"),
        lambda: list(store.list()),
    ):
        with pytest.raises(OSError, match="no such bucket") as found:
            call()
        assert not isinstance(found.value, FileNotFoundError)
        assert "s3://other-bucket/x" in str(found.value)


def test_an_endpoint_that_does_not_answer_is_told_as_such(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("resilient_nb.storage.remote._RETRIES", {"max_retries": 1})
    with pytest.raises(ConnectionError, match=r"refused.*AWS_ENDPOINT_URL") as found:
        open_store("s3://bucket/x").read("a")
    assert found.value.errno == errno.EHOSTUNREACH


def test_missing_credentials_are_told_as_such(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")  # where a VM would get some
    monkeypatch.setattr("resilient_nb.storage.remote._RETRIES", {"max_retries": 1})
    with pytest.raises(PermissionError, match=r"no credentials.*AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").read("a")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_nothing_is_sent_in_the_clear_over_a_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://s3.example.org")
    with pytest.raises(InvalidRequest, match=f"{name}.*https://.*AWS_ALLOW_HTTP"):
        open_store("s3://bucket/x")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    open_store("s3://bucket/x")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    monkeypatch.setenv(name, "https://s3.example.org")
    open_store("s3://bucket/x")


def test_what_can_not_be_connected_is_only_told_when_it_is_used() -> None:
    for url in ("gs://bucket/x", "az://account/container/x"):
        assert open_store(url).url == url


_FORKS = """
import os, sys
from resilient_nb.storage.stores import open_store
store = open_store(sys.argv[1])                       # opened, not used
if os.fork() == 0:
    store.put("child", [b"1"])
    os._exit(0)
assert os.wait()[1] == 0
assert store.read("child") == b"1"
if os.fork() == 0:
    try:
        store.read("child")
    except OSError as error:
        os._exit(7 if "spawn" in str(error) else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""


def test_a_forked_process_can_use_what_its_parent_has_not(s3: S3Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, "s3://bucket/forks"], timeout=60, check=False
    )
    assert done.returncode == 0


def test_nothing_imports_obstore_before_a_url_is_used() -> None:
    code = (
        "import sys, resilient_nb.control.plugin, resilient_nb.agent.plugin\n"
        "import resilient_nb.supervisor.loop, resilient_nb.notebook.execute\n"
        "import resilient_nb.storage.backup, resilient_nb.storage.mirrored\n"
        "sys.exit('obstore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_missing_obstore_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'resilient_nb\[remote\]'"):
        open_store("s3://bucket/x")


def test_keys_are_removed_in_batches_that_s3_takes(s3: S3Server) -> None:
    store = open_store("s3://bucket/many")
    store.put("a/1500", [b"1"])
    store.delete(f"a/{number}" for number in range(2500))
    assert list(store.list()) == []
    methods = [row["method"] for row in s3.seen()]
    assert methods.count("POST") == 3


# --- places -----------------------------------------------------------------------------


def test_a_place_is_a_path_or_a_url() -> None:
    assert read_place("x") == str(Path("x").absolute())
    assert read_place("~/x") == str(Path.home() / "x")
    assert read_place("file:///var/store") == "/var/store"
    assert read_place("S3://bucket/a/b/") == "s3://bucket/a/b"
    assert is_url("s3://bucket")
    assert not is_url("/a/b://c")
    assert sub_folder("s3://bucket/a", "runs") == "s3://bucket/a/runs"
    assert (
        sub_folder("/var/store/", "runs", "digits/00000020-e1")
        == "/var/store/runs/digits/00000020-e1"
    )
    assert sub_folder("/var/store", "") == "/var/store"
    assert isinstance(open_store("/var/store"), LocalStore)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "http://host/x", "s3://", "s3:///x/../", "s3://key:secret@bucket/x"]
)
def test_a_place_that_can_hold_no_store_is_refused(url: str) -> None:
    if url == "s3:///x/../":
        assert check_url(url) == "s3://x/.."
        return
    with pytest.raises(InvalidRequest, match=r"store|bucket|hold"):
        read_place(url)


# --- falling back -----------------------------------------------------------------------


class Broken(LocalStore):
    """A store that can't be reached, and counts who tried."""

    calls = 0
    code = errno.EHOSTUNREACH

    def read(self, key: str) -> bytes:
        self.calls += 1
        if self.code == errno.EHOSTUNREACH:
            raise ConnectionError(self.code, "gone", key)
        raise OSError(self.code, "broken", key)


def two(folder: Path) -> tuple[LocalStore, LocalStore, FallbackStore]:
    first, second = LocalStore(folder / "1"), LocalStore(folder / "2")
    return first, second, FallbackStore(first, [second])


def test_what_the_first_store_lacks_is_read_from_the_second(tmp_path: Path) -> None:
    first, second, both = two(tmp_path)
    second.put("a/b", [b"second"])
    first.put("a/c", [b"first"])
    second.put("a/c", [b"another"])
    assert (both.read("a/b"), both.read("a/c")) == (b"second", b"first")
    assert both.size("a/b") == 6
    view = bytearray(6)
    assert both.read_into("a/b", 0, memoryview(view)) == 6
    assert sorted(both.list("a"), key=lambda e: e.key) == [Entry("a/b", 6), Entry("a/c", 5)]
    with pytest.raises(FileNotFoundError):
        both.read("a/d")


def test_everything_is_written_to_the_first_store(tmp_path: Path) -> None:
    first, second, both = two(tmp_path)
    second.put("a", [b"2"])
    both.put("b", [b"1"])
    both.create("a", b"1")
    both.delete(["b"])
    both.flush()
    assert [e.key for e in first.list()] == ["a"]
    assert second.read("a") == b"2"
    assert both.url == first.url


def test_a_store_that_can_not_be_reached_is_left_alone_for_a_while(tmp_path: Path) -> None:
    now = [100.0]
    first, second = Broken(tmp_path / "1"), LocalStore(tmp_path / "2")
    both = FallbackStore(first, [second], lambda: now[0])
    second.put("a", [b"2"])
    for _ in range(5):
        assert both.read("a") == b"2"
    assert first.calls == 1
    with pytest.raises(ConnectionError):
        both.read("b")  # nobody knows whether the first has it
    now[0] += 60
    assert both.read("a") == b"2"
    assert first.calls == 2
    first.code = errno.EIO
    now[0] += 60
    with pytest.raises(OSError, match="broken"):
        both.read("b")
