"""What a cell returns, on a disk that is full for a while."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.errors import InvalidRequest
from resilient_nb.rank import outputs
from resilient_nb.storage import returned
from resilient_nb.storage.stores import open_store
from resilient_nb.testing.builders import an_attempt


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """The errors that the next writes meet."""
    errors: list[OSError] = []
    write = returned.write

    def fail(*arguments: Any) -> None:
        if errors:
            raise errors.pop(0)
        write(*arguments)

    monkeypatch.setattr(returned, "write", fail)
    monkeypatch.setattr(outputs, "AGAIN", 0.0)
    return errors


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_waited_for(tmp_path: Path, disk: list[OSError]) -> None:
    attempt, notes = an_attempt(store=str(tmp_path), out=("x",)), list[str]()
    payload = outputs.pickled(attempt, {"x": 1, "y": 2})
    disk += [full(), full(), OSError(errno.EDQUOT, "Disk quota exceeded")]
    assert outputs.store(attempt, payload, notes.append, lambda: False)
    assert pickle.loads(returned.read(open_store(tmp_path), "digits", 1)) == {"x": 1}
    assert len(notes) == 1
    assert "free some space" in notes[0]


def test_who_is_asked_to_leave_meanwhile_leaves(
    tmp_path: Path, disk: list[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "AGAIN", 60.0)
    disk += [full()]
    assert not outputs.store(an_attempt(store=str(tmp_path)), b"x", lambda _: None, lambda: True)


def test_other_errors_end_the_attempt(tmp_path: Path, disk: list[OSError]) -> None:
    disk += [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(OSError, match="Input/output"):
        outputs.store(an_attempt(store=str(tmp_path)), b"x", lambda _: None, lambda: False)


def test_what_cant_be_sent_is_named() -> None:
    attempt = an_attempt(out=("x", "y"))
    with pytest.raises(InvalidRequest, match="--out y: the cell ended without assigning it"):
        outputs.pickled(attempt, {"x": 1})
    with pytest.raises(InvalidRequest, match="--out y: a generator can't be sent back"):
        outputs.pickled(attempt, {"x": 1, "y": (n for n in "ab")})
