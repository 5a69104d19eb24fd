"""`rank.plain`: values that the loop changes go on unasked, through a real checkpoint."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resilient_nb.rank import plain
from tests.unit.shelf import Shelf, a_tracker


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def changed(shelf: Shelf, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what a new cell's names are after a resume, if it begins with `before`."""
    names = dict(before)
    tracker = a_tracker(names, shelf.notes)
    tracker.mark()
    names.update(after)
    stored = shelf.write(tracker.snapshot())
    fresh = dict(before)
    a_tracker(fresh).restore_own(stored)
    return fresh


def test_plain_values_that_the_loop_changed_go_on(shelf: Shelf) -> None:
    before = {"best": 9.0, "history": [], "name": "x", "seen": {}, "flag": False, "n": 0}
    after = {"best": 0.5, "history": [1, 2.5], "name": "y", "seen": {"a": [1]}, "flag": True,
             "n": 3, "new": 7}  # fmt: skip
    assert changed(shelf, before, after) == {**before, **after}


def test_what_the_loop_didnt_change_stays_as_the_cell_has_it_now(shelf: Shelf) -> None:
    """An edited constant takes effect when the cell is submitted again."""
    names = {"epochs": 5, "best": 9.0}
    tracker = a_tracker(names)
    tracker.mark()
    names["best"] = 0.5
    stored = shelf.write(tracker.snapshot())
    fresh = {"epochs": 50, "best": 9.0}
    a_tracker(fresh).restore_own(stored)
    assert fresh == {"epochs": 50, "best": 0.5}


def test_other_names_for_a_list_see_it_restored(shelf: Shelf) -> None:
    names: dict[str, Any] = {"history": []}
    tracker = a_tracker(names)
    tracker.mark()
    names["history"].append(1)
    stored = shelf.write(tracker.snapshot())
    mine: list[int] = []
    a_tracker({"history": mine}).restore_own(stored)
    assert mine == [1]


def test_tensors_in_a_list_are_kept_with_all_bits(shelf: Shelf) -> None:
    value = torch.tensor([1.0, 1.0 + 2**-23])  # prints like [1., 1.]
    found = changed(shelf, {"kept": [torch.tensor([1.0, 1.0])]}, {"kept": [value]})
    assert torch.equal(found["kept"][0], value)


def test_private_names_tracked_objects_and_odd_values_are_left_out(shelf: Shelf) -> None:
    tracked_list = [1]
    names: dict[str, Any] = {"tracked": tracked_list}
    tracker = a_tracker(names, shelf.notes)
    tracker.add("tracked", tracked_list)
    tracker.mark()
    names.update(_hidden=1, odd=[object()], function=len, huge="x" * (2 << 20), good=1)
    tracked_list.append(2)
    stored = shelf.write(tracker.snapshot())
    assert stored.own()["plain"] == {"good": 1}
    assert any("'odd' holds more than plain values" in note for note in shelf.notes)
    assert any("'huge' is too large" in note for note in shelf.notes)


def test_a_value_that_became_none_is_none_again(shelf: Shelf) -> None:
    # `best = 0.0` before the loop and `best = None` in it: the resumed loop would see 0.0.
    assert changed(shelf, {"best": 0.0}, {"best": None}) == {"best": None}


def test_a_list_that_contains_itself_doesnt_end_the_job(shelf: Shelf) -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert changed(shelf, {}, {"loop": loop, "n": 1}) == {"n": 1}


# --- containers and arrays ---


def made() -> dict[str, Any]:
    """Return what a cell makes before its loop."""
    return {
        "counts": Counter(), "groups": defaultdict(lambda: [0]), "last": deque(maxlen=2),
        "order": OrderedDict(), "total": np.zeros((2, 3)), "seen": set(),
    }  # fmt: skip


def turn(names: dict[str, Any], at: int) -> None:
    """Do what its loop does."""
    names["counts"]["seen"] += at + 1
    names["groups"][at][0] += at
    names["last"].append(at)
    names["order"][f"step {at}"] = at
    names["order"].move_to_end("step 0")
    names["total"][at % 2] += 2.0**-40 + at
    names["seen"].add(at)


def test_containers_and_arrays_go_on_in_place(shelf: Shelf) -> None:
    whole, cut, fresh = made(), made(), made()
    for at in range(6):
        turn(whole, at)
    tracker = a_tracker(cut)
    tracker.mark()
    for at in range(3):
        turn(cut, at)
    stored = shelf.write(tracker.snapshot())
    mine = dict(fresh)  # other names for the same
    tracker = a_tracker(fresh)
    tracker.mark()
    tracker.restore_own(stored)
    assert repr(dict(fresh, groups=0)) == repr(dict(cut, groups=0))
    for at in range(3, 6):
        turn(fresh, at)
    for name, value in whole.items():
        assert fresh[name] is mine[name]
        assert type(value) is type(fresh[name])
        assert np.array_equal(value, fresh[name]) if name == "total" else value == fresh[name]
    assert fresh["last"].maxlen == 2
    assert list(fresh["order"]) == list(whole["order"])
    # What was given back and not changed since is no less kept.
    again = a_tracker(names := made())
    again.restore_own(shelf.write(tracker.snapshot(), step=40))
    assert names["counts"] == whole["counts"]


def test_what_only_the_loop_makes_comes_back_as_what_it_was(shelf: Shelf) -> None:
    after = {
        "counts": Counter(a=2), "by": defaultdict(Counter, a=Counter(b=1)), "last": deque([1], 3),
        "rows": [OrderedDict(a=1), {"x": deque([np.arange(3)])}], "array": np.arange(4)[::-2],
        "none": defaultdict(None, a=1),
    }  # fmt: skip
    found = changed(shelf, {}, after)
    assert repr(found) == repr(after)
    found["by"]["new"]["b"] += 1
    found["array"] += 1
    found["rows"][1]["x"][0][:] = 0


def test_a_factory_that_only_the_loop_knows_is_said_to_be_lost(shelf: Shelf) -> None:
    after = {"groups": defaultdict(lambda: 7), "nested": [defaultdict(lambda: 7)], "n": 1}
    assert changed(shelf, {}, after) == {"n": 1}
    assert shelf.notes == [
        f"{name!r} holds more than plain values: not kept in checkpoints."
        for name in ("groups", "nested")
    ]


def test_older_code_reads_dicts_and_lists(shelf: Shelf) -> None:
    tracker = a_tracker(names := made())
    tracker.mark()
    for at in range(3):
        turn(names, at)
    plain = shelf.write(tracker.snapshot()).own()["plain"]
    assert type(plain["counts"]) is type(plain["groups"]) is type(plain["order"]) is dict
    assert plain["last"] == [1, 2]


def test_checkpoints_of_older_code_are_given_back(shelf: Shelf) -> None:
    tracker = a_tracker({"history": [1], "n": 2})
    stored = shelf.write(tracker.snapshot())
    own = stored.own()
    del own["kinds"]
    stored.own = lambda: own  # type: ignore[method-assign]
    names: dict[str, Any] = {"history": []}
    a_tracker(names).restore_own(stored)
    assert names == {"history": [1], "n": 2}


def test_arrays_are_kept_within_the_limit_of_tensors(shelf: Shelf) -> None:
    large = 1 << 18
    before = {"odd": np.array(["a"]), "large": np.zeros(large), "same": np.ones(3), "f": np.ones(2)}
    after = {name: value + 1 for name, value in before.items() if name in ("large", "f")}
    tracker = a_tracker(dict(before), shelf.notes)
    tracker.mark()
    names = tracker._namespace
    names.update(after, odd=np.array(["b"]))
    assert list(shelf.write(tracker.snapshot()).own()["plain"]) == ["f"]
    assert shelf.notes == ["'odd' holds more than plain values: not kept in checkpoints."]
    # A large one isn't even copied where it is in a list.
    names["rows"] = [names["large"]]
    shelf.write(tracker.snapshot(), step=40)
    shelf.write(tracker.snapshot(), step=60)
    assert shelf.notes[1:] == ["'rows' is too large to be kept unasked: run.track(rows=rows)."]


def test_an_array_that_doesnt_fit_any_more_is_replaced(shelf: Shelf) -> None:
    value = np.array([1, 2], ">i4")
    for old, same in ((np.zeros(2, "<i4"), True), (np.zeros(3, "i4"), False), ([], False)):
        tracker = a_tracker({"a": value})
        stored = shelf.write(tracker.snapshot(), step=20 + len(shelf.sent))
        names = {"a": old}
        a_tracker(names).restore_own(stored)
        assert (names["a"] is old, list(names["a"])) == (same, [1, 2])


def test_what_refers_to_a_tracked_module_is_kept_with_it(shelf: Shelf) -> None:
    """Copies of its tensors would be others: `state` would no longer follow the model."""
    model = nn.Linear(2, 2)
    state, bias, group = model.state_dict(), model.bias.detach(), {"params": [model.weight]}
    names: dict[str, Any] = {"model": model}
    tracker = a_tracker(names)
    tracker.add("model", model)
    tracker.mark()
    names.update(state=state, bias=bias, group=group, best=[model.bias.detach().clone()])
    with torch.no_grad():
        model.bias.add_(1)
    assert list(shelf.write(tracker.snapshot()).own()["plain"]) == ["best"]


def test_an_inference_tensor_is_kept(shelf: Shelf) -> None:
    with torch.inference_mode():
        names: dict[str, Any] = {"x": torch.zeros(2)}
    tracker = a_tracker(names)
    tracker.mark()
    with torch.inference_mode():
        names["x"] = torch.ones(2)
    assert shelf.write(tracker.snapshot()).own()["plain"]["x"].tolist() == [1, 1]


def test_tensors_without_plain_bytes_are_left_out(shelf: Shelf) -> None:
    sparse = torch.eye(3).to_sparse()
    found = changed(shelf, {}, {"batch": sparse, "kept": [sparse], "n": 1})
    assert found == {"n": 1}
    assert shelf.notes == ["'kept' holds more than plain values: not kept in checkpoints."]


def test_a_tensor_is_known_by_its_content_not_by_where_it_is(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that the loop makes anew may get the place of the cell's, which is gone."""
    before = {
        "best": torch.tensor(0.0), "ema": torch.zeros(3), "same": torch.ones(2),
        "bits": torch.zeros(2, dtype=torch.bfloat16), "turned": torch.zeros(2, 3).T,
        "bare": torch.ones(2), "none": torch.zeros(0),
    }  # fmt: skip
    monkeypatch.setattr(plain, "id", lambda value: 1, raising=False)  # as if all were in one place
    names = dict(before)
    tracker = a_tracker(names)
    tracker.mark()
    for name in ("best", "ema", "bits", "turned"):
        names[name] = names[name] + 1
    names.update(same=torch.ones(2), none=torch.zeros(0, 2))
    names["bare"].data.mul_(0.5)
    own = shelf.write(tracker.snapshot()).own()["plain"]
    assert set(own) == {"best", "ema", "bare", "bits", "turned", "none"}
    assert all(torch.equal(value, names[name]) for name, value in own.items())


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_tensors_that_have_no_bytes_to_look_at_are_known_by_where_they_are(shelf: Shelf) -> None:
    kinds: dict[str, Any] = {
        "meta": torch.empty(2, device="meta"),
        "few": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }
    tracker = a_tracker(names := dict(kinds), shelf.notes)
    tracker.mark()
    assert shelf.write(tracker.snapshot()).own()["plain"] == {}
    assert shelf.notes == []
    names.update(meta=torch.empty(2, device="meta"), n=1)
    assert shelf.write(tracker.snapshot(), step=40).own()["plain"] == {"n": 1}
    assert shelf.notes == ["'meta' holds more than plain values: not kept in checkpoints."]


class Mute:
    def __repr__(self) -> str:
        raise AssertionError("it doesn't say")


def test_what_python_cant_write_doesnt_end_the_job(shelf: Shelf) -> None:
    huge, mute = 10**5000, Mute()
    before: dict[str, Any] = {
        "n": huge, "same": huge, "rows": [huge], "by": {huge: {(huge, 1): huge}}, "set": {huge, 2},
        "mute": [mute], "still": [mute],
    }  # fmt: skip
    tracker = a_tracker(names := dict(before), shelf.notes)
    tracker.mark()
    after = {"n": huge + 1, "rows": [huge + 1], "by": {huge: {(huge, 1): 2}}, "set": {huge, 3},
             "new": -huge}  # fmt: skip
    looped: list[Any] = [mute]
    looped += [looped, looped]
    names.update(after, mute=[mute, 1], looped=looped)
    assert shelf.write(tracker.snapshot()).own()["plain"] == after
    assert shelf.notes == [
        f"{name!r} holds more than plain values: not kept in checkpoints."
        for name in ("mute", "looped")
    ]


# --- objects ---


class Meter:
    __module__ = "__main__"  # as that of a class which the notebook or the cell defines

    def __init__(self) -> None:
        self.sum, self.values, self.name = 0.0, [0.0], "loss"

    def __repr__(self) -> str:
        raise AssertionError("nobody may ask")

    def update(self, value: float) -> None:
        self.sum += value


class Saved(Meter):
    __module__ = "__main__"

    def update(self, value: float) -> None:
        self.values.append(value)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state["values"]


def test_objects_that_change_but_arent_kept_are_named_once(shelf: Shelf) -> None:
    names = {"meter": Meter(), "idle": Meter(), "saved": Saved(), "kept": Saved(), "_own": Meter()}
    tracker = a_tracker(names, shelf.notes)
    tracker.add("kept", names["kept"])
    tracker.mark()
    shelf.write(tracker.snapshot())
    assert shelf.notes == []
    names["new"] = Meter()  # made by the loop: in each turn anew, as a rule
    for step in (40, 60):
        for name in ("meter", "saved", "kept", "_own", "new"):
            names[name].update(1.0)
        shelf.write(tracker.snapshot(), step)
    why = "changes in the loop and isn't kept in checkpoints: run.track"
    assert shelf.notes == [
        f"'meter' (Meter) {why}(meter=meter) needs state_dict() and load_state_dict(), or keep its "
        "numbers in a dict.",
        f"'saved' (Saved) {why}(saved=saved).",
    ]
