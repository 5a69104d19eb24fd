"""`control.storing`: a store that is far away holds nothing up, and says what is wrong with it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.config import Settings
from resilient_nb.control import storing as module
from resilient_nb.control.preflight import missing
from resilient_nb.control.storing import Storing
from resilient_nb.errors import CheckpointError
from resilient_nb.storage.claim import claim, owner
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.remote import RemoteStore
from resilient_nb.storage.stores import blob_key, open_store, out_key
from resilient_nb.testing.builders import Story
from resilient_nb.testing.fakes import fake_settings
from resilient_nb.wire.requests import OutPiece


def until(done: Callable[[], Any]) -> Any:
    """Wait until something is true; return it (pytest-timeout bounds it)."""
    while not (found := done()):
        time.sleep(0.005)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return fake_settings(tmp_path / "home", store=f"memory://{tmp_path.name}/store")


@pytest.fixture
def storing(settings: Settings) -> Iterator[Storing]:
    storing = Storing(settings)
    yield storing
    storing.close()


class Slow:
    """Has every read and write of stores that are far away wait until `go`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        telling = RemoteStore._telling

        def waiting(store: RemoteStore, key: str) -> Any:
            self.go.wait()
            return telling(store, key)

        patch.setattr(RemoteStore, "_telling", waiting)


def blob(storing: Storing, data: bytes = b"captured") -> str:
    return storing.blobs.put(data)


# --- far away ---


def test_nothing_waits_for_the_network(
    settings: Settings, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    began = time.monotonic()
    storing.check("c0ffee")
    assert storing.waits_for("c0ffee") == f"The store {settings.store} is being looked at."
    assert "being copied" in storing.captured(blob(storing), ())
    assert storing.has((settings.store,), "runs/digits/00000010-e1/zarr.json")
    assert time.monotonic() - began < 5
    slow.go.set()
    until(lambda: storing.waits_for("c0ffee") == "")
    until(lambda: not storing.has((settings.store,), "runs/digits/00000010-e1/zarr.json"))
    assert owner(open_store(settings.store)) == "c0ffee"


def test_captured_values_are_sent_on(settings: Settings, storing: Storing) -> None:
    digest = blob(storing)
    assert storing.blobs.root == settings.home / "blobs"
    until(lambda: storing.captured(digest, ()) == "")
    assert open_store(settings.store).read(blob_key(digest)) == b"captured"
    unknown = hashlib.sha256(b"never seen").hexdigest()
    until(lambda: "no longer in the store" in storing.captured(unknown, ()))


def test_captured_values_that_only_the_store_or_a_replica_has_will_do(
    settings: Settings, storing: Storing, tmp_path: Path
) -> None:
    for place in (settings.store, str(tmp_path / "replica")):
        data = place.encode()
        digest = hashlib.sha256(data).hexdigest()
        open_store(place).put(blob_key(digest), [data])
        until(lambda d=digest: storing.captured(d, (str(tmp_path / "replica"),)) == "")  # type: ignore[misc]


def test_anothers_store_is_refused_as_soon_as_that_is_known(
    settings: Settings, storing: Storing
) -> None:
    claim(open_store(settings.store), "decade")
    storing.check("c0ffee")
    until(lambda: "another cluster (decade)" in storing.waits_for("c0ffee"))
    with pytest.raises(CheckpointError, match=r"another cluster.*RESILIENT_NB_STORE"):
        storing.check("c0ffee")


def test_what_failed_is_tried_again(
    settings: Settings, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.01)
    claim(open_store(settings.store), "decade")
    until(lambda: "decade" in storing.waits_for("c0ffee"))
    open_store(settings.store).delete(["cluster"])
    until(lambda: storing.waits_for("c0ffee") == "")


def test_a_store_that_can_be_created_twice_in_is_refused(
    settings: Settings, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteStore, "create", lambda self, key, data: self.put(key, [data]))
    until(lambda: "no conditional puts" in storing.waits_for("c0ffee"))


# --- on a disk ---


def test_a_disk_is_looked_at_at_once(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path)
    storing = Storing(settings)
    storing.check("c0ffee")
    assert storing.waits_for("c0ffee") == ""
    assert storing.captured(blob(storing), ()) == ""
    assert not storing.has((settings.store,), "runs/x")
    assert storing.has((settings.store, str(tmp_path)), "store/cluster")
    with pytest.raises(CheckpointError, match=r"another cluster \(c0ffee\)"):
        storing.check("decade")


@pytest.mark.parametrize("far", [True, False])
def test_what_a_job_returned_is_read_in_pieces(tmp_path: Path, far: bool) -> None:
    store = f"memory://{tmp_path.name}/out" if far else str(tmp_path / "store")
    storing = Storing(fake_settings(tmp_path, store=store))
    assert storing.read_out("digits", 1, 0, 4) is None
    open_store(store).put(out_key("digits", 1), [b"0123456789"])
    assert storing.read_out("digits", 1, 0, 4) == OutPiece(b"0123", 10)
    assert storing.read_out("digits", 1, 8, 4) == OutPiece(b"89", 10)
    assert storing.read_out("digits", 1, 20, 4) == OutPiece(b"", 10)


# --- before a gang starts ---


def why_not(settings: Settings, storing: Storing, story: Story) -> str:
    """Return why the story's job can't start, with nothing in memory."""
    return missing(settings, storing, lambda identity: "", story.world, story.job(), None)


def test_a_job_starts_from_a_copy_if_the_store_has_lost_its_head(tmp_path: Path) -> None:
    copy = str(tmp_path / "copy")
    settings = fake_settings(tmp_path)
    story = Story().submit(replicas=(copy,)).start().checkpoint(20).stop().requeue()
    storing = Storing(settings)
    assert "digits@20" in why_not(settings, storing, story)
    LocalStore(copy).put("runs/digits/00000020-e1/zarr.json", [b"{}"])
    assert why_not(settings, storing, story) == ""


def test_a_job_without_its_captured_values_waits_with_the_reason(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path)
    digest = hashlib.sha256(b"values").hexdigest()
    story = Story().submit(captured=digest)
    storing = Storing(settings)
    why = why_not(settings, storing, story)
    assert "captured values are no longer in the store" in why
    assert "%resilient cancel" in why
    storing.blobs.put(b"values")
    assert why_not(settings, storing, story) == ""
