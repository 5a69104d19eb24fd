"""What jobs returned, in the store: whole, or said to be lost."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from resilient_nb.errors import InputLost
from resilient_nb.results import loads
from resilient_nb.storage import returned
from resilient_nb.storage.keys import VARIABLE
from resilient_nb.storage.stores import open_store, out_key

PAYLOAD = pickle.dumps({"x": list(range(1000))})


def test_what_is_written_is_read_and_unpickled_as_before(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    returned.write(store, "prep", 1, b"old")
    returned.write(store, "prep", 1, PAYLOAD)
    assert returned.read(store, "prep", 1) == PAYLOAD
    assert loads(store.read(out_key("prep", 1)))["x"] == list(range(1000))


@pytest.mark.parametrize("data", [b"", b"garbage\n", PAYLOAD])
def test_what_has_no_checksum_is_damaged(tmp_path: Path, data: bytes) -> None:
    store = open_store(tmp_path)
    store.create(out_key("prep", 1), data)
    with pytest.raises(InputLost, match="is damaged"):
        returned.read(store, "prep", 1)


@pytest.mark.parametrize("place", [3, len(PAYLOAD) // 2, -1])
def test_a_flipped_bit_is_seen_and_a_copy_stands_in(tmp_path: Path, place: int) -> None:
    store = open_store(tmp_path / "a")
    returned.write(store, "prep", 1, PAYLOAD)
    path = tmp_path / "a" / out_key("prep", 1)
    whole, data = path.read_bytes(), bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputLost, match="What prep#1 returned is lost: it is damaged") as caught:
        returned.read(store, "prep", 1)
    assert caught.value.lost == "prep#1"
    copy = tmp_path / "b" / out_key("prep", 1)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(whole)
    both = open_store([str(tmp_path / "a"), str(tmp_path / "b")])
    assert returned.read(both, "prep", 1) == PAYLOAD


def test_what_is_not_there_is_lost_but_what_cant_be_reached_isnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    with pytest.raises(InputLost, match="it is not in the store"):
        returned.read(store, "prep", 1)

    def away(key: str) -> bytes:
        raise ConnectionError("no route")

    monkeypatch.setattr(store, "read", away)
    with pytest.raises(ConnectionError):
        returned.read(store, "prep", 1)


def test_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv(VARIABLE, "dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q=")
    store = open_store(tmp_path)
    returned.write(store, "prep", 1, PAYLOAD)
    path = tmp_path / out_key("prep", 1)
    assert PAYLOAD[:50] not in path.read_bytes()
    assert returned.read(store, "prep", 1) == PAYLOAD
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputLost, match="What prep#1 returned"):
        returned.read(store, "prep", 1)
