"""Data outside the store: whether it is there, and whether it is still the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.errors import InvalidRequest
from resilient_nb.storage.outside import examine, gone, missing, place_of


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Odd(BaseHTTPRequestHandler):
    """Answers with the status in the path; `signed` is for GET alone, `junk` is no HTTP."""

    def do_HEAD(self) -> None:
        self._answer(403 if self.path == "/signed" else 0)

    def do_GET(self) -> None:
        self._answer(206 if self.path == "/signed" else 0)

    def _answer(self, status: int) -> None:
        if self.path == "/junk":
            self.wfile.write(b"what?\r\n\r\n")
            return
        self.send_response(status or int(self.path[1:]))
        if status == 206:
            self.send_header("Content-Range", "bytes 0-0/1234")
            self.send_header("Content-Length", "1")
            self.send_header("ETag", "abc")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    yield from served(partial(Quiet, directory=str(tmp_path)))


@pytest.fixture
def odd() -> Iterator[str]:
    yield from served(Odd)


def served(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def a_file(path: Path, nbytes: int = 100_000) -> Path:
    path.write_bytes(bytes(n % 251 for n in range(nbytes)))
    return path


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("a.npy") == str(tmp_path / "a.npy")
    assert place_of(Path("a.npy")) == str(tmp_path / "a.npy")
    assert place_of(f"file://{tmp_path}/a") == f"{tmp_path}/a"
    assert place_of("s3://bucket/a") == "s3://bucket/a"
    with pytest.raises(InvalidRequest, match="can't be looked at"):
        place_of("hf://datasets/a")


def test_a_files_fingerprint_is_of_its_size_and_parts_of_it(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a")
    first = examine(str(file))
    assert (first.kind, first.nbytes) == ("file", 100_000)
    os.utime(file, (1.0, 1.0))
    again = examine(str(file))
    assert again.fingerprint == first.fingerprint
    assert again.modified == 1.0 != first.modified
    for change in (b"\1" + file.read_bytes()[1:], file.read_bytes() + b"x", b""):
        file.write_bytes(change)
        assert examine(str(file)).fingerprint != first.fingerprint


def test_a_folders_fingerprint_is_of_names_sizes_and_parts(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    for n in range(20):
        a_file(folder / "deep" / f"{n}.bin", 10 + n)
    first = examine(str(folder))
    assert (first.kind, first.nbytes) == ("folder", sum(10 + n for n in range(20)))
    assert examine(str(folder)) == first
    (folder / "deep" / "3.bin").rename(folder / "deep" / "three.bin")
    assert examine(str(folder)).fingerprint != first.fingerprint


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    """It would wait for who writes it, or take what another reads."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_text("x")
    assert missing(str(tmp_path / "pipe")) == ""
    assert examine(str(tmp_path / "pipe")).fingerprint == ""
    assert examine(str(tmp_path)).nbytes == 1


def test_what_is_missing_is_said_in_the_systems_words(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a")
    assert missing(str(file)) == missing(str(tmp_path)) == ""
    file.unlink()
    assert missing(str(file)) == "No such file or directory"
    with pytest.raises(FileNotFoundError):
        examine(str(file))


def test_a_web_server_is_asked_without_reading_the_data(web: str, tmp_path: Path) -> None:
    a_file(tmp_path / "a")
    seen = examine(f"{web}/a")
    assert (seen.kind, seen.nbytes) == ("resource", 100_000)
    assert seen.modified == int((tmp_path / "a").stat().st_mtime)
    os.utime(tmp_path / "a", (1e9, 1e9))
    assert examine(f"{web}/a").fingerprint != seen.fingerprint
    assert missing(f"{web}/a") == ""
    assert "404" in missing(f"{web}/b")
    assert "can't be reached" in missing("http://127.0.0.1:1/a")


def test_a_server_that_is_in_trouble_may_have_it_all_the_same(odd: str, tmp_path: Path) -> None:
    assert all(gone(f"{odd}/{status}") for status in (404, 410, 403))
    for place in (f"{odd}/503", f"{odd}/429", f"{odd}/junk", "http://127.0.0.1:1/a"):
        assert missing(place)
        assert not gone(place)
        with pytest.raises(ConnectionError):
            examine(place)
    assert gone(str(tmp_path / "a"))
    assert "null byte" in missing(f"{tmp_path}/a\0b")


def test_a_signed_url_is_asked_as_it_may_be(odd: str) -> None:
    seen = examine(f"{odd}/signed")
    assert (seen.nbytes, missing(f"{odd}/signed")) == (1234, "")
    assert seen.fingerprint


def test_buckets(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    from resilient_nb.storage.remote import RemoteStore

    store = RemoteStore("memory://test-outside/data")
    store.put("set/a", [b"a" * 10_000])
    store.put("set/b", [b"b"])
    one = examine("memory://test-outside/data/set/a")
    assert (one.kind, one.nbytes) == ("object", 10_000)
    both = examine("memory://test-outside/data/set")
    assert (both.kind, both.nbytes) == ("folder", 10_001)
    store.put("set/a", [b"a" * 9_999 + b"!"])
    assert examine("memory://test-outside/data/set/a").fingerprint != one.fingerprint
    assert missing("memory://test-outside/data/set/a") == ""
    assert missing("memory://test-outside/data/set/c") != ""
