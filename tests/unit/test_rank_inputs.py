"""`run.input` in a rank: what is checked, recorded, watched and said."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from resilient_nb.core.causes import NETWORK, cause_of
from resilient_nb.core.model import Outcome, RankEnd
from resilient_nb.core.recorded import NO_LOOP, DataRecord
from resilient_nb.errors import InputLost, InvalidRequest
from resilient_nb.rank import inputs as module
from resilient_nb.rank.failure import pack_error
from resilient_nb.rank.inputs import Channel, Inputs, received
from resilient_nb.rank.origin import Origin
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.storage import returned
from resilient_nb.storage.stores import open_store
from resilient_nb.testing.builders import an_attempt
from resilient_nb.wire.orders import Input, Reads


class Cell:
    """What a cell does with its inputs, in one attempt."""

    def __init__(self, before: Cell | None = None, rank: int = 0) -> None:
        self.attempt = an_attempt()
        self.origin, self.telemetry = Origin(self.attempt), Telemetry(self.attempt, rank)
        self.facts: list[Any] = []
        self.notes: list[str] = []
        told = Channel(self.telemetry, self.origin, self.facts.append, self.notes.append)
        start: Any = None
        if before is not None:
            start = SimpleNamespace(step=120, info=before.origin.info())
        self.inputs = Inputs(self.attempt, rank, told, start)

    def declare(self, data: Any, name: str | None = None) -> Any:
        return self.inputs.declare(data, name)

    @property
    def recorded(self) -> list[DataRecord]:
        return [DataRecord(**row) for row in self.origin.info()["data"]]


def until(holds: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_data_comes_back_as_it_is_and_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "train.npy"
    file.write_bytes(b"x" * 5000)
    cell, array = Cell(), np.arange(12.0)
    assert cell.declare(file) is file
    assert cell.declare(array, "labels") is array
    assert cell.declare(torch.ones(3)) is not None
    rows = {row.name: row for row in cell.recorded}
    assert list(rows) == ["input-3", "labels", "train.npy"]
    assert {row.loop for row in rows.values()} == {NO_LOOP}
    assert (rows["train.npy"].type, rows["train.npy"].length) == ("file", 5000)
    assert rows["train.npy"].place == str(file)
    assert (rows["labels"].type, rows["labels"].length) == ("ndarray", 12)
    assert rows["labels"].fingerprint
    assert cell.facts == [Reads("digits#1", 1, "train.npy", str(file))]


def test_what_isnt_there_ends_the_cell_at_once(tmp_path: Path) -> None:
    place = str(tmp_path / "gone.npy")
    with pytest.raises(InputLost, match=rf"Input gone.npy \({place}\) can't be read") as caught:
        Cell().declare(place)
    assert pack_error(caught.value, an_attempt().cell).lost_input == place
    with pytest.raises(InvalidRequest, match="not a set"):
        Cell().declare({1, 2})
    with pytest.raises(InvalidRequest, match="can't be a name"):
        Cell().declare(np.ones(3), "a\nb")


def test_a_resumed_job_says_what_has_changed(tmp_path: Path) -> None:
    changed, touched, same = (tmp_path / name for name in ("changed", "touched", "same"))
    before = Cell()
    for file in (changed, touched, same):
        file.write_bytes(b"x" * 5000)
        before.declare(file)
    before.declare(np.ones(3), "labels")
    changed.write_bytes(b"y" * 5000)
    touched.touch()
    after = Cell(before)
    for data in (changed, touched, same):
        after.declare(data)
    after.declare(np.zeros(3), "labels")
    assert after.notes == [
        f"Input changed ({changed}) has changed since step 120.",
        f"Input touched ({touched}) was written since step 120; the parts that were looked at are "
        "as they were.",
        "Input labels has changed since step 120.",
    ]
    other = Cell(before, rank=1)  # one rank says it
    other.declare(changed)
    assert (other.notes, other.facts) == ([], [])


def test_data_that_goes_away_is_said_while_the_cell_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    file = tmp_path / "train.npy"
    file.write_bytes(b"x")
    cell = Cell()
    cell.declare(file)
    file.rename(tmp_path / "aside")
    until(lambda: cell.telemetry.sample().missing == ("train.npy",))
    until(lambda: cell.notes)
    assert "can't be read any more (No such file or directory). The cell goes on" in cell.notes[0]
    (tmp_path / "aside").rename(file)
    until(lambda: not cell.telemetry.sample().missing)
    until(lambda: len(cell.notes) == 2)
    assert "can be read again" in cell.notes[1]


def test_an_error_of_the_system_is_put_down_to_data_that_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "train.npy"
    file.write_bytes(b"x")
    cell = Cell()
    cell.declare(file)
    error = FileNotFoundError(2, "No such file or directory", str(file))
    packed = pack_error(error, cell.attempt.cell)
    assert cell.inputs.explain(error, packed).lost_input == ""  # it is there
    file.unlink()
    assert cell.inputs.explain(error, packed).lost_input == str(file)
    other = ValueError("a mistake")
    assert cell.inputs.explain(other, pack_error(other, cell.attempt.cell)).lost_input == ""


def test_a_name_for_many_files_doesnt_fill_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_TOLD", 3)
    cell = Cell()
    for number in range(9):
        (tmp_path / f"{number}").write_bytes(b"x")
        cell.declare(tmp_path / f"{number}", "shard")
    assert len(cell.facts) == 3
    assert cell.recorded[0].place == str(tmp_path / "8")


def test_what_cant_be_reached_isnt_lost(tmp_path: Path) -> None:
    """A network that fails for a while must not end a run for good."""
    cell, place = Cell(), "http://127.0.0.1:1/train.npy"
    with pytest.raises(ConnectionError, match=r"Input train.npy .* can't be reached") as caught:
        cell.declare(place)
    packed = pack_error(caught.value, cell.attempt.cell)
    end = RankEnd(0, Outcome.FAILED, 1.0, error=cell.inputs.explain(caught.value, packed))
    assert cause_of(end) == NETWORK
    cell.inputs._declared["train.npy"] = place  # it was there before
    reset = ConnectionResetError(104, "Connection reset by peer")
    assert cell.inputs.explain(reset, pack_error(reset, cell.attempt.cell)).lost_input == ""


def test_a_disk_that_doesnt_answer_doesnt_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, answer = Cell(), threading.Event()
    cell.declare(tmp_path)
    monkeypatch.setattr(module, "_LOOK", 0.01)
    monkeypatch.setattr(module, "gone", lambda place: answer.wait(10.0))
    error = OSError(5, "Input/output error")
    assert cell.inputs.explain(error, pack_error(error, cell.attempt.cell)).lost_input == ""
    answer.set()


def test_values_of_other_jobs_are_read_from_the_store(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    returned.write(store, "prep", 2, pickle.dumps({"x": [1, 2], "y": 3, "other": 4}))
    attempt = an_attempt(store=str(tmp_path), inputs=(Input("prep", 2, ("x", "y")),))
    assert received(attempt) == {"x": [1, 2], "y": 3}
    returned.write(store, "prep", 2, pickle.dumps({"x": [1, 2]})[:-3])
    with pytest.raises(InputLost, match="What prep#2 returned is damaged") as caught:
        received(attempt)
    assert caught.value.lost == "prep#2"
    returned.write(store, "prep", 2, b"cno_such_module\nthing\n.")
    with pytest.raises(InvalidRequest, match=r"can't be read here \(ModuleNotFoundError"):
        received(attempt)
    assert received(an_attempt()) == {}
