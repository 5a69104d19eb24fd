"""Checkpoints from and to other formats: what comes back, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torch.distributed.checkpoint as torch_dcp
from torch import nn

import resilient_nb
from resilient_nb import connection
from resilient_nb.client import Client
from resilient_nb.control.commands import Commands
from resilient_nb.control.engine import Engine
from resilient_nb.control.shell import Shell
from resilient_nb.core import events as ev
from resilient_nb.errors import (
    CannotStore,
    CheckpointError,
    ClusterUnreachable,
    Conflict,
    CorruptCheckpoint,
    InvalidRequest,
    ResilientError,
    UnknownName,
    from_wire,
)
from resilient_nb.interchange import dcp
from resilient_nb.loading import State
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.opening import open_checkpoint
from resilient_nb.testing.builders import START
from resilient_nb.testing.contracts import world_problems
from resilient_nb.testing.fakes import (
    ManualClock,
    MemoryJournal,
    RecordingLauncher,
    fake_settings,
)
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import build, plain

T = TypeVar("T")


class Cluster(Client):
    """A control plane in this process; messages are packed as on the wire."""

    def __init__(self, home: Path) -> None:
        super().__init__("tcp://here:1")
        self.engine = Engine(
            fake_settings(home),
            Shell(MemoryJournal(), RecordingLauncher(), ManualClock(), lambda job: None),
        )
        self.engine.record(ev.ClusterCreated(START, "c0ffee"))
        self.commands = Commands(self.engine, self.address)
        self.lost: list[type] = []  # requests whose answers get lost

    def request(self, message: Any, kind: type[T]) -> T:
        packed = json.loads(json.dumps(rq.REQUESTS.pack(message)))
        try:
            answer = self.commands(rq.REQUESTS.unpack(packed), self.engine.settings.user)
        except ResilientError as error:
            raise from_wire(error.to_wire()) from error
        if type(message) in self.lost:
            raise ClusterUnreachable("The cluster doesn't answer.")
        return build(kind, plain(answer))

    @property
    def shelf(self) -> LocalStore:
        return LocalStore(self.engine.settings.runs)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "home")
    monkeypatch.setattr(connection, "current", lambda settings=None: made)
    monkeypatch.setenv("RESILIENT_NB_HOME", str(tmp_path / "home"))
    for name in ("RESILIENT_NB_KEY", "RESILIENT_NB_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield made
    assert world_problems(made.engine.world) == []


def a_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def a_state() -> dict[str, Any]:
    """What a cell may track: a module, an optimizer with a state, and other things."""
    model = a_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "extra": {"numbers": np.arange(6.0).reshape(2, 3), "note": "ü", (1, 2): [None, True, 1.5]},
    }


DTYPES = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16",
    "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip
#: What safetensors has no name for.
NOT_SAFE = {"complex128"}


def of_dtype(name: str, *shape: int) -> torch.Tensor:
    dtype = getattr(torch, name)
    count = int(np.prod(shape)) * dtype.itemsize
    data = torch.arange(count, dtype=torch.int64).remainder(2 if name == "bool" else 120)
    return data.to(torch.uint8).view(dtype).reshape(shape)


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, bit for bit, with their types."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and bits(one) == bits(other)
        )
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def saved(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def taken(path: Path, run: str = "new", **how: Any) -> State:
    """Import a file, and load what it became."""
    state: State = resilient_nb.import_checkpoint(path, run, **how).load()
    return state


def kept(cluster: Cluster, folder: Path, run: str, state: dict[str, Any]) -> None:
    """Make a checkpoint of what a job could keep, but no file that is imported."""
    from resilient_nb.interchange.importing import Target, _flat, _write

    cluster.begin_import(run)
    new = _write(_flat(state), Target(run, 3, cluster.shelf), f"{run}/00000003-e1", 1, folder, "")
    cluster.import_checkpoint(new)


# --- there and back -----------------------------------------------------------------------


def test_a_whole_state_survives_safetensors(cluster: Cluster, tmp_path: Path) -> None:
    state = a_state()
    del state["extra"]["numbers"]  # torch's weights-only unpickler knows no numpy
    taken(saved(tmp_path / "made.pt", state), "made", step=40, allow_pickle=True)
    path = resilient_nb.export("made@40", tmp_path / "all.safetensors")
    again = taken(path, "again", step=40)
    assert {name: again[name] for name in again}.keys() == state.keys()
    for name in state:
        assert same(again[name], json_dicts(state[name])), name
    ours = cluster.engine.world.runs["made"].checkpoints["made/00000040-e1"]
    with safetensors.safe_open(str(path), framework="np") as file:
        about = file.metadata()
    assert about["resilient_nb.run"] == "made"
    assert about["resilient_nb.step"] == "40"
    assert about["resilient_nb.digest"] == ours.digest
    # The same state has the same digest, whatever way it took.
    assert cluster.resolve("again").digest == ours.digest


def json_dicts(state: Any) -> Any:
    return dict(state) if isinstance(state, dict) else state


def test_numpy_arrays_survive_safetensors(cluster: Cluster, tmp_path: Path) -> None:
    extra = {"extra": a_state()["extra"]}
    kept(cluster, tmp_path, "arrays", extra)
    path = resilient_nb.export("arrays", tmp_path / "x.safetensors")
    assert same(taken(path)["extra"], extra["extra"])
    plain_one = resilient_nb.export("arrays", tmp_path / "x.pt")
    loaded = torch.load(plain_one, weights_only=True)
    assert same(loaded["extra"]["numbers"], torch.as_tensor(extra["extra"]["numbers"]))


def test_one_object_has_the_names_that_other_programs_expect(
    cluster: Cluster, tmp_path: Path
) -> None:
    taken(saved(tmp_path / "m.pt", a_model().state_dict()), allow_pickle=True)
    path = resilient_nb.export("new", tmp_path / "m.safetensors", "model")
    model = a_model()
    for parameter in model.parameters():
        parameter.data.zero_()
    safetensors.torch.load_model(model, str(path))
    assert same(model.state_dict(), a_model().state_dict())
    path = resilient_nb.export("new", tmp_path / "m2.pt", "model")
    assert same(torch.load(path, weights_only=True), dict(a_model().state_dict()))
    assert same(taken(tmp_path / "m.safetensors", "b")["model"], dict(a_model().state_dict()))
    assert list(taken(tmp_path / "m.safetensors", "c", name="net")) == ["net"]


def test_a_torch_file_needs_no_trust(cluster: Cluster, tmp_path: Path) -> None:
    state = a_state()
    del state["extra"]["numbers"]
    taken(saved(tmp_path / "made.pt", state), "made", allow_pickle=True)
    path = resilient_nb.export("made", tmp_path / "all.pt")
    loaded = torch.load(path, weights_only=True)
    assert same(loaded, {name: json_dicts(value) for name, value in state.items()})
    model, optimizer = a_model(), torch.optim.AdamW(a_model().parameters())
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_survives(cluster: Cluster, tmp_path: Path, dtype: str) -> None:
    state = {
        "m": of_dtype(dtype, 3, 4), "scalar": of_dtype(dtype), "empty": of_dtype(dtype, 0, 3),
        "view": of_dtype(dtype, 4, 5).t()[1:4],
    }  # fmt: skip
    taken(saved(tmp_path / "a.pt", state), "a", allow_pickle=True)
    for number, suffix in enumerate((".pt", ".safetensors")):
        path = tmp_path / f"b{suffix}"
        if suffix == ".safetensors" and dtype in NOT_SAFE:
            with pytest.raises(CannotStore, match=f"model/m of a/.* is of dtype {dtype}"):
                resilient_nb.export("a", path)
            assert not path.exists()
            continue
        resilient_nb.export("a", path)
        found = taken(path, f"b{number}", allow_pickle=suffix == ".pt")["model"]
        for name, tensor in state.items():
            assert same(found[name], tensor.contiguous()), name


def test_tied_tensors_stay_tied(cluster: Cluster, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    taken(saved(tmp_path / "a.pt", model.state_dict()), "a", allow_pickle=True)
    manifest = open_checkpoint(cluster.resolve("a").path).manifest
    assert [record.tied for record in manifest.tensors] == [None, "model/0.weight"]
    path = resilient_nb.export("a", tmp_path / "a.safetensors", "model")
    with safetensors.safe_open(str(path), framework="pt") as file:
        assert list(file.keys()) == ["0.weight"]
        assert file.metadata()["1.weight"] == "0.weight"
    safetensors.torch.load_model(model, str(path))
    for number, name in enumerate(("a.safetensors", "again.pt")):
        if name.endswith(".pt"):
            resilient_nb.export("a", tmp_path / name)
        found = taken(tmp_path / name, f"b{number}", allow_pickle=True)["model"]
        assert found["0.weight"] is found["1.weight"] or (
            found["0.weight"].data_ptr() == found["1.weight"].data_ptr()
        )


@pytest.mark.parametrize("names", [
    ("a", "format"), ("format", "a"), ("a", "format", "resilient_nb.state", "b"),
])  # fmt: skip
def test_ties_may_have_the_names_of_metadata(
    cluster: Cluster, tmp_path: Path, names: tuple[str, ...]
) -> None:
    weight = torch.arange(5.0)
    kept(cluster, tmp_path, "a", {"m": dict.fromkeys(names, weight)})
    path = resilient_nb.export("a", tmp_path / "a.safetensors", "m")
    found = taken(path)["m"]
    assert same(found, dict.fromkeys(names, weight))
    assert found["a"].data_ptr() == found["format"].data_ptr()


def test_what_a_torch_file_cant_hold_is_said(cluster: Cluster, tmp_path: Path) -> None:
    state = {"m": {"w": torch.ones(2)}, "n": {"huge": 2**3000, "set": {np.float32(1.5)}}}
    kept(cluster, tmp_path, "a", state)
    with pytest.raises(CannotStore, match=r"a@3 holds .* refuses: an int of more than 2,000 bits"):
        resilient_nb.export("a", tmp_path / "a.pt")
    assert same(taken(resilient_nb.export("a", tmp_path / "a.safetensors"))["n"], state["n"])
    assert list(torch.load(resilient_nb.export("a", tmp_path / "m.pt", "m"))) == ["w"]


def test_ties_in_files_of_others_are_understood(cluster: Cluster, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    safetensors.torch.save_model(model, str(tmp_path / "m.safetensors"), {"format": "pt"})
    state = taken(tmp_path / "m.safetensors")
    assert same(state["model"], dict(model.state_dict()))
    model.load_state_dict(state["model"])


# --- what an import becomes ---------------------------------------------------------------


def test_an_import_is_the_first_checkpoint_of_a_new_run(cluster: Cluster, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    run = resilient_nb.import_checkpoint(tmp_path / "w.safetensors", "pretrained", step=500)
    [first] = run.checkpoints
    assert (first.id, first.job, first.parent) == ("pretrained/00000500-e1", "", None)
    assert (run.view.head, run.view.jobs, run.jobs) == (first.id, (), [])
    assert same(run.load("500")["model"], {"w": torch.ones(3)})
    fork = resilient_nb.fork("pretrained@500", "mine")
    assert fork.view.forked_from == first.id
    assert resilient_nb.load("mine").step == 500
    with pytest.raises(UnknownName, match="has no cell yet"):
        run.resume()
    resilient_nb.run("pretrained").tag(500, "base")
    assert run.retain("last=1").checkpoints[0].reasons[:2] == ("head", "import")


def test_imports_can_be_compared(cluster: Cluster, tmp_path: Path) -> None:
    from resilient_nb.checkpoints import describe, diff
    from resilient_nb.notebook.checkpoint_reports import checkpoint_text

    for name, value in (("a", 1.0), ("b", 3.0)):
        file = str(tmp_path / f"{name}.safetensors")
        safetensors.torch.save_file({"w": torch.full((3,), value), "b": torch.zeros(2)}, file)
        resilient_nb.import_checkpoint(file, name)
    changed = [t for t in diff("a", "b").tensors if t.max_abs]
    assert [(t.name, t.max_abs) for t in changed] == [("model/w", 2.0)]
    report = describe("a")
    assert (report.tensors, report.recorded.imported) == (2, "a.safetensors")
    shown = checkpoint_text(report)
    assert "from a.safetensors" in shown
    assert "isn't known" not in shown


def test_a_job_goes_on_from_an_import_and_starts_over_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    from tests.unit.test_commands import Desk

    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    resilient_nb.import_checkpoint(tmp_path / "w.safetensors", "base", step=5)
    desk = Desk.__new__(Desk)
    desk.engine, desk._requests = cluster.engine, 0
    desk.ask = lambda message: cluster.commands(message, cluster.engine.settings.user)  # type: ignore[assignment]
    assert desk.submit("base").resumes_from == 5
    epoch = desk.begin("base#1")
    assert epoch == 2
    desk.checkpoint(9, "base#1")
    desk.end("base#1")
    again = desk.submit("base")
    assert "base#1 had finished: starts over from the import" in again.message
    assert again.resumes_from == 5
    desk.ask(rq.Cancel("base"))
    assert desk.submit("base", resume="never").resumes_from == 5


def test_a_name_that_is_taken_is_refused_before_anything_is_written(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(3)}, file)
    resilient_nb.import_checkpoint(file, "a")
    before = sorted(entry.key for entry in cluster.shelf.list())
    with pytest.raises(Conflict, match="Run a exists already: import under another name"):
        resilient_nb.import_checkpoint(file, "a")
    assert sorted(entry.key for entry in cluster.shelf.list()) == before


def test_an_import_that_the_journal_refuses_leaves_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(3)}, file)

    def refuse(new: Any) -> Any:
        raise Conflict("Somebody was faster.")

    monkeypatch.setattr(cluster, "import_checkpoint", refuse)
    with pytest.raises(Conflict):
        resilient_nb.import_checkpoint(file, "a")
    assert list(cluster.shelf.list()) == []
    monkeypatch.undo()


def test_a_lost_answer_harms_nothing(cluster: Cluster, tmp_path: Path) -> None:
    file = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(3)}, file)
    cluster.lost = [rq.Import]
    with pytest.raises(ClusterUnreachable):
        resilient_nb.import_checkpoint(file, "a")
    cluster.lost = []
    assert same(resilient_nb.load("a")["model"], {"w": torch.ones(3)})
    [known] = cluster.engine.world.runs["a"].checkpoints.values()
    assert cluster.import_checkpoint(known).head == known.id  # sent again
    assert len(cluster.engine.world.runs["a"].checkpoints) == 1


def test_what_an_import_that_was_killed_left_is_not_built_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.shelf.put("a/00000000-e1/state/zarr.json", [b"{}"])
    cluster.shelf.put("a/00000000-e1/model/w/c.0", [b"half"])
    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    run = resilient_nb.import_checkpoint(tmp_path / "w.safetensors", "a")
    assert run.checkpoints[0].id == "a/00000000-e2"
    assert same(run.load()["model"], {"w": torch.ones(3)})


def test_a_checkpoint_that_isnt_in_the_store_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    from resilient_nb.testing.builders import an_import

    cluster.begin_import("pretrained")
    with pytest.raises(CheckpointError, match="is not in the cluster's store"):
        cluster.import_checkpoint(an_import())
    assert "pretrained" not in cluster.engine.world.runs


def test_a_store_that_cant_be_seen_is_said(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    elsewhere = rq.ImportPlace(str(tmp_path / "not-mounted"), "c0ffee")
    monkeypatch.setattr(cluster, "begin_import", lambda run: elsewhere)
    with pytest.raises(CheckpointError, match="can't be seen from here"):
        resilient_nb.import_checkpoint(tmp_path / "w.safetensors", "a")
    assert not (tmp_path / "not-mounted").exists()


def test_imports_are_encrypted_if_there_is_a_key(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64

    monkeypatch.setenv("RESILIENT_NB_KEY", base64.b64encode(bytes(32)).decode())
    mark = torch.frombuffer(bytearray(b"plain as day" * 100), dtype=torch.uint8)
    safetensors.torch.save_file({"w": mark}, str(tmp_path / "w.safetensors"))
    run = resilient_nb.import_checkpoint(tmp_path / "w.safetensors", "a")
    assert same(run.load()["model"], {"w": mark})
    for path in Path(cluster.engine.settings.store).rglob("*"):
        assert path.is_dir() or b"plain as day" not in path.read_bytes()
    out = resilient_nb.export("a", tmp_path / "out.safetensors")
    assert b"plain as day" in out.read_bytes()  # exports are for others


# --- refusals -----------------------------------------------------------------------------


class Bomb:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_pickles_are_refused_unless_asked_for_and_never_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    for name, content in (
        ("plain.pt", a_model().state_dict()), ("bomb.pt", {"w": torch.ones(1), "b": Bomb(mark)}),
    ):  # fmt: skip
        file = saved(tmp_path / name, content)
        with pytest.raises(InvalidRequest, match=r"is a pickle.*--allow-pickle.*safetensors"):
            taken(file)
    with pytest.raises(CheckpointError, match=r"bomb.pt holds more than tensors.*system"):
        taken(tmp_path / "bomb.pt", allow_pickle=True)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(CheckpointError, match=r"raw.pt"):
        taken(tmp_path / "raw.pt", allow_pickle=True)
    assert not mark.exists()
    assert list(cluster.shelf.list()) == []


def test_a_whole_pickled_model_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    torch.save(a_model(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"Save its state_dict\(\) alone"):
        taken(tmp_path / "model.pt", allow_pickle=True)


def test_old_torch_files_are_read(cluster: Cluster, tmp_path: Path) -> None:
    state = dict(a_model().state_dict())
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(taken(tmp_path / "old.pt", allow_pickle=True)["model"], state)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 5000, b"{}" * 100])
def test_files_that_are_none_are_named(
    cluster: Cluster, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        taken(tmp_path / name, allow_pickle=True)


def test_places_that_hold_nothing_are_named(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"There is no .*missing.pt"):
        taken(tmp_path / "missing.pt")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(InvalidRequest, match=r"must end in .safetensors or .pt"):
        taken(tmp_path / "a.onnx")
    with pytest.raises(InvalidRequest, match=r"has no .metadata"):
        taken(tmp_path, allow_pickle=True)


def test_parts_of_a_file_can_be_named(cluster: Cluster, tmp_path: Path) -> None:
    content = {"model_state_dict": dict(a_model().state_dict()), "epoch": 7, "a-b": {"x": 1}}
    file = saved(tmp_path / "train.pt", content)
    wanted = content["model_state_dict"]
    assert same(taken(file, "a", only="model_state_dict", allow_pickle=True)["model"], wanted)
    found = taken(file, "b", only="model_state_dict", name="net", allow_pickle=True)
    assert list(found) == ["net"]
    assert same(taken(file, "c", name="all", allow_pickle=True)["all"], content)
    with pytest.raises(InvalidRequest, match="has no 'modle'; it has model_state_dict, epoch, a-b"):
        taken(file, "d", only="modle", allow_pickle=True)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "rank-0", "a b", "x" * 65, "é"])
def test_names_that_cant_be_tracked_are_refused(
    cluster: Cluster, tmp_path: Path, name: str
) -> None:
    file = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(3)}, file)
    with pytest.raises(InvalidRequest):
        taken(Path(file), name=name)
    with pytest.raises(InvalidRequest):
        taken(saved(tmp_path / "w.pt", {name: {}}), allow_pickle=True)
    if name != "rank-0":
        with pytest.raises(InvalidRequest):
            taken(Path(file), name)
    assert list(cluster.shelf.list()) == []


HOSTILE = [
    "../../../../tmp/evil", "/etc/passwd", "c/0", "c.0", "zarr.json", ".", "..", "", "a/../b",
    "%2e%2e/x", "\u0000", "a\nb", "x" * 300, "ünï", "__private", "~2", "CON", "a b", "%pack-0-u1-0",
]  # fmt: skip


def test_hostile_tensor_names_stay_in_their_folder(cluster: Cluster, tmp_path: Path) -> None:
    state = {name: torch.full((2,), float(n)) for n, name in enumerate(HOSTILE)}
    safetensors.torch.save_file(state, str(tmp_path / "evil.safetensors"))
    before = {path for path in tmp_path.rglob("*") if "home" not in path.parts}
    found = taken(tmp_path / "evil.safetensors")["model"]
    assert same(found, {name: found[name] for name in found})
    for name, tensor in state.items():
        assert same(found[name], tensor), name
    assert {path for path in tmp_path.rglob("*") if "home" not in path.parts} == before
    assert not Path("/tmp/evil").exists()
    folders = {entry.key.split("/")[0] for entry in cluster.shelf.list()}
    assert folders == {"new"}
    out = resilient_nb.export("new", tmp_path / "again.safetensors")
    assert same(taken(out, "again")["model"], found)


@pytest.mark.parametrize(
    "name", ["a b.pt", "quote'\".pt", "ünïcode.safetensors", "-x.pt", "a\nb.pt"]
)
def test_file_names_may_be_anything(cluster: Cluster, tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    taken(tmp_path / "w.safetensors", "a")
    out = resilient_nb.export("a", tmp_path / name)
    assert same(taken(out, "b", allow_pickle=True)["model"], {"w": torch.ones(3)})


def test_damaged_descriptions_of_states_are_named(cluster: Cluster, tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for number, text in enumerate((
        "{", "[]", '{"model": {"tensor": "model/nothing"}}', '{"../x": {"dict": {}}}', deep,
        '{"model": {"nonsense": 1}}', '{"model": {"tensor": ["w"]}}',
    )):  # fmt: skip
        file = str(tmp_path / f"{number}.safetensors")
        safetensors.torch.save_file({"w": torch.ones(3)}, file, {"resilient_nb.state": text})
        with pytest.raises((CheckpointError, CorruptCheckpoint, InvalidRequest)):
            taken(Path(file), f"r{number}")
    assert list(cluster.shelf.list()) == []


def test_what_checkpoints_cant_hold_is_refused_by_name(cluster: Cluster, tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(CannotStore, match=r"Tensor a.b of 'model' is a sparse tensor"):
        taken(saved(tmp_path / "s.pt", {"a": {"b": sparse}, "n": 1}), allow_pickle=True)
    assert list(cluster.shelf.list()) == []


# --- exports that can't be ----------------------------------------------------------------


def test_exports_replace_nothing_unasked(cluster: Cluster, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    taken(tmp_path / "w.safetensors", "a")
    old = (tmp_path / "w.safetensors").read_bytes()
    with pytest.raises(InvalidRequest, match=r"exists already.*--overwrite"):
        resilient_nb.export("a", tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == old
    resilient_nb.export("a", tmp_path / "w.safetensors", overwrite=True)
    assert (tmp_path / "w.safetensors").read_bytes() != old
    with pytest.raises(InvalidRequest, match="must end in"):
        resilient_nb.export("a", tmp_path / "w.zip")
    with pytest.raises(InvalidRequest, match="There is no folder"):
        resilient_nb.export("a", tmp_path / "no" / "w.pt")
    (tmp_path / "d.pt").mkdir()
    with pytest.raises(InvalidRequest, match="is no file"):
        resilient_nb.export("a", tmp_path / "d.pt", overwrite=True)
    with pytest.raises(UnknownName, match="has no 'modle'"):
        resilient_nb.export("a", tmp_path / "x.pt", "modle")
    with pytest.raises(UnknownName):
        resilient_nb.export("b", tmp_path / "x.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.pt", "home", "w.safetensors"]


def test_a_damaged_checkpoint_isnt_exported(cluster: Cluster, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(3)}, str(tmp_path / "w.safetensors"))
    taken(tmp_path / "w.safetensors", "a")
    [chunk] = [e.key for e in cluster.shelf.list() if e.key.endswith("/c.0")]
    path = cluster.shelf.path(chunk)
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    for name in ("x.pt", "x.safetensors"):
        with pytest.raises(CorruptCheckpoint, match="model/w"):
            resilient_nb.export("a", tmp_path / name)
        assert not (tmp_path / name).exists()


# --- torch.distributed.checkpoint ---------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def save_dcp(folder: Path, state: Any) -> Path:
    torch_dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dcp_folder_is_read(cluster: Cluster, tmp_path: Path) -> None:
    state = a_state()
    del state["extra"]
    content = {**state, "extra": {"epoch": 3, "pair": (1, 2), "list": [torch.ones(2), {"a": 1.5}]}}
    folder = save_dcp(tmp_path / "dcp", content)
    with pytest.raises(InvalidRequest, match="is a pickle"):
        taken(folder)
    found = taken(folder, allow_pickle=True)
    assert sorted(found) == ["extra", "model", "optimizer"]
    assert same(found["model"], dict(state["model"]))
    assert same(found["extra"], content["extra"])
    optimizer = torch.optim.AdamW(a_model().parameters())
    optimizer.load_state_dict(found["optimizer"])  # its parameters are numbers again
    assert same(optimizer.state_dict()["state"], state["optimizer"]["state"])
    alone = taken(folder, "alone", only="model", name="net", allow_pickle=True)
    assert same(alone["net"], dict(state["model"]))
    with pytest.raises(InvalidRequest, match="has no 'nothing'; it has model, optimizer, extra"):
        taken(folder, "none", only="nothing", allow_pickle=True)


FSDP = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from datetime import timedelta
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
place, out = sys.argv[1:]
other = os.fork()  # both have imported what takes longest
rank = 0 if other else 1
limit = timedelta(seconds=60)  # none waits for ever for the other
dist.init_process_group(
    "gloo", init_method=f"file://{place}", rank=rank, world_size=2, timeout=limit
)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
if rank == 0:
    torch.save(model.state_dict(), out + "/before.pt")
mesh = init_device_mesh("cpu", (2,))
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), 0.1)
model(torch.ones(2, 7)).sum().backward()
optimizer.step()
parts, optimizers = get_state_dict(model, optimizer)
dcp.save({"model": parts, "optimizer": optimizers}, checkpoint_id=out + "/dcp")
whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
if rank == 0:
    torch.save(whole, out + "/after.pt")
dist.barrier()
dist.destroy_process_group()
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def test_a_sharded_dcp_folder_of_two_ranks_is_read(cluster: Cluster, tmp_path: Path) -> None:
    # By the loopback: what the host's name resolves to needn't be reachable.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", FSDP, str(tmp_path / "rendezvous"), str(tmp_path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "dcp").glob("*.distcp"))) == 2
    found = taken(tmp_path / "dcp", allow_pickle=True)
    after = torch.load(tmp_path / "after.pt", weights_only=True)
    assert same(found["model"], after)
    assert not same(after, torch.load(tmp_path / "before.pt", weights_only=True))
    moments = found["optimizer"]["state"]["0.weight"]["exp_avg"]
    assert moments.shape == (5, 7)
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.1
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    resilient_nb.load("new", into=model, only="model")
    assert same(dict(model.state_dict()), after)


def test_metadata_that_would_run_something_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = tmp_path / "dcp"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(CheckpointError, match="system doesn't belong in it"):
        taken(folder, allow_pickle=True)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "sub/../../secret", "link"])
def test_metadata_that_leads_out_of_its_folder_is_refused(
    cluster: Cluster, tmp_path: Path, place: str
) -> None:
    torch.save(torch.ones(3), tmp_path / "secret")
    folder = save_dcp(tmp_path / "dcp", {"model": {"w": torch.zeros(3)}})
    (folder / "link").symlink_to(tmp_path / "secret")
    about = pickle.loads((folder / ".metadata").read_bytes())
    for info in about.storage_data.values():
        info.relative_path, info.offset = place, 0
        info.length = (tmp_path / "secret").stat().st_size
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    with pytest.raises(CheckpointError, match="outside the folder"):
        taken(folder, allow_pickle=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_dcp_folder_is_named(cluster: Cluster, tmp_path: Path) -> None:
    folder = save_dcp(tmp_path / "dcp", {"model": {"w": torch.arange(300.0)}, "n": 3})
    [data] = folder.glob("*.distcp")
    good, about = data.read_bytes(), (folder / ".metadata").read_bytes()
    data.write_bytes(good[:-200])
    with pytest.raises(CheckpointError, match=r"model.w in .*ends too early|model.w in"):
        dcp.read(folder)
    data.unlink()
    with pytest.raises(CheckpointError, match="can't be read"):
        dcp.read(folder)
    data.write_bytes(good)
    found = pickle.loads(about)
    found.state_dict_metadata["model.w"].size = torch.Size([301])
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError, match="300 of its 301 elements"):
        dcp.read(folder)
    for cut in range(0, len(about), 37):
        (folder / ".metadata").write_bytes(about[:cut])
        with pytest.raises(CheckpointError, match="can't be read"):
            dcp.read(folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_objects_in_a_dcp_folder_are_not_read(cluster: Cluster, tmp_path: Path) -> None:
    folder = save_dcp(tmp_path / "dcp", {"model": {"w": torch.ones(3)}, "x": {"p": Path("/")}})
    with pytest.raises(CheckpointError, match=r"x.p in .* is no plain value.*--only"):
        taken(folder, allow_pickle=True)
    found = taken(folder, only="model", allow_pickle=True)
    assert same(found["model"], {"w": torch.ones(3)})
