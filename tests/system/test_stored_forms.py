"""Real ranks: compressed and encrypted checkpoints, and cells that begin with an import."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gangs import Gang, Supervised

from cells import train
from resilient_nb.core.model import Interval
from resilient_nb.core.recovery import PERMANENT_ERRORS
from resilient_nb.errors import KeyMissing
from resilient_nb.interchange.files import Wanted
from resilient_nb.interchange.importing import Target, write_import
from resilient_nb.storage.encoding import codecs_of
from resilient_nb.storage.encryption import decrypt_file
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest
from resilient_nb.storage.opening import open_checkpoint

KEY = base64.b64encode(bytes(range(100, 132))).decode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """A host without a key."""
    host = Supervised(tmp_path_factory.mktemp("plain") / "place")
    yield host
    host.end()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """A host whose environment has a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESILIENT_NB_KEY", KEY)
        host = Supervised(tmp_path_factory.mktemp("keyed") / "place")
    yield host
    host.end()


def manifest_of(gang: Gang) -> Manifest:
    assert gang.head is not None
    return open_checkpoint(gang.store / "runs" / gang.head.id).manifest


def returned(gang: Gang) -> dict[str, Any]:
    path = gang.store / "out" / gang.attempt.run / "1" / "out.pkl"
    payload = decrypt_file(path.read_bytes(), f"out/{gang.attempt.run}/1/out.pkl", "It")
    values: dict[str, Any] = pickle.loads(payload)
    return values


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


OUT = ("weights", "history")


def test_a_gang_computes_the_same_whatever_its_checkpoints_look_like(
    plain: Supervised, keyed: Supervised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain, compressed and encrypted attempts of one job, each going on where the last left."""
    first, second = tmp_path / "first", tmp_path / "second"
    source = train(6, 0.02, {9: first, 24: second}) + "\nsecret_name_of_mine = 1"
    first.touch()
    second.touch()
    whole = Gang([plain], tmp_path / "a", source, "whole#1", Interval(steps=5), OUT)
    whole.begin([2])
    whole.ended()
    first.unlink()
    second.unlink()
    parts = Gang([plain], tmp_path / "b", source, "parts#1", Interval(steps=5), OUT)
    parts.begin([2])
    parts.checkpoint(5)
    parts.kill()
    first.touch()
    parts.ended()
    assert {t.codecs for t in manifest_of(parts).tensors} == {()}
    parts.begin([2], compress="zstd")
    parts.checkpoint(15)
    parts.kill()
    second.touch()
    parts.ended()
    compressed = manifest_of(parts)
    assert all(t.codecs == codecs_of("zstd") for t in compressed.tensors)
    parts.hosts = [keyed]
    parts.begin([2], compress="zstd:3")
    parts.ended()
    # What is in the store now needs the key; nothing refers to what is older, and plain.
    with pytest.raises(KeyMissing, match="the key key-"):
        manifest_of(parts)
    monkeypatch.setenv("RESILIENT_NB_KEY", KEY)
    encrypted = manifest_of(parts)
    assert encrypted.key_id.startswith("key-")
    old = {compressed.id.rpartition("-")[2], "e1"}
    assert all(t.at.rpartition("-")[2] not in old for t in encrypted.tensors)
    assert equal(returned(parts), returned(whole))
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file() and ("-e3" in str(path) or "out" in path.parts):
            data = path.read_bytes()
            for text in (b"secret_name_of_mine", KEY.encode(), b"StepLR", b'history": '):
                assert text not in data, path


def test_ranks_with_different_keys_make_no_checkpoint(
    plain: Supervised, keyed: Supervised, tmp_path: Path
) -> None:
    gang = Gang([plain, keyed], tmp_path, train(2), "mixed#1", Interval(steps=5), OUT)
    gang.begin([1, 1])
    gang.ended()
    assert gang.checkpoints == []
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


IMPORTER = """
from torch import nn
import torch
model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
run.track({tracked})
begun = {{name: value.clone() for name, value in model.state_dict().items()}}
model[1] = nn.Linear(2, 2)                   # a new head, after what was imported was restored
head = model[1].weight.clone()
first = None
for n in run.steps(4):
    first = first if first is not None else model[1].weight.clone()
    optimizer.zero_grad()
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
step = run.step
"""


def imported(tmp_path: Path, state: dict[str, Any], **wanted: Any) -> Any:
    torch.save(state, tmp_path / "w.pt")
    store = LocalStore(tmp_path / "store" / "runs")
    target = Target("pretrained", 500, store)
    return write_import(tmp_path / "w.pt", target, Wanted(allow_pickle=True, **wanted))


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    return dict(model.state_dict())


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_cell_begins_with_an_import(plain: Supervised, tmp_path: Path, ranks: int) -> None:
    gang = Gang(
        [plain], tmp_path / "store", IMPORTER.format(tracked="model=model, optimizer=optimizer"),
        f"tuned{ranks}#1", Interval(steps=1000), ("begun", "head", "first", "step"),
    )  # fmt: skip
    gang.head = imported(tmp_path, weights())
    gang.begin([ranks])
    [*ends] = gang.ended()
    assert {end.outcome.value for end in ends} == {"finished"}, ends
    found = returned(gang)
    assert all(torch.equal(found["begun"][name], value) for name, value in weights().items())
    assert torch.equal(found["head"], found["first"])  # not restored a second time
    assert found["step"] == 504
    [note] = [note for note in gang.notes if "Restored" in note]
    assert note == (
        "Restored from pretrained@500: model. It has no optimizer: as the cell made them."
    )
    assert gang.head is not None
    assert gang.head.step == 504
    assert gang.checkpoints[0].parent == "pretrained/00000500-e1"
    # What was trained on is a checkpoint as any other: the next attempt goes on from it.
    gang.begin([ranks])
    gang.ended()
    assert returned(gang)["step"] == 504


def test_an_import_of_which_nothing_fits_is_said(plain: Supervised, tmp_path: Path) -> None:
    gang = Gang(
        [plain], tmp_path / "store", IMPORTER.format(tracked="net=model"), "other#1",
        Interval(steps=1000), ("step",),
    )  # fmt: skip
    gang.head = imported(tmp_path, weights())
    gang.begin([1])
    gang.ended()
    [note] = [note for note in gang.notes if "pretrained" in note]
    assert note.startswith("Nothing of pretrained@500 is used: it has model, and the cell tracks")
    assert "--as NAME" in note


def test_an_import_that_doesnt_fit_its_object_is_an_error(
    plain: Supervised, tmp_path: Path
) -> None:
    gang = Gang(
        [plain], tmp_path / "store", IMPORTER.format(tracked="model=model"), "wrong#1",
        Interval(steps=1000), ("step",),
    )  # fmt: skip
    gang.head = imported(tmp_path, {"0.weight": torch.ones(9, 9)})
    gang.begin([1])
    [end] = gang.ended()
    assert end.error is not None
    assert "doesn't fit this cell's 'model'" in end.error.message
    assert end.error.type in PERMANENT_ERRORS  # no retry could pass


def test_unchanged_tensors_of_an_import_are_not_written_again(
    plain: Supervised, tmp_path: Path
) -> None:
    frozen = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
for parameter in model[0].parameters():
    parameter.requires_grad_(False)
optimizer = torch.optim.SGD(model[1].parameters(), lr=0.5)
run.track(model=model)
for n in run.steps(2):
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
"""
    gang = Gang([plain], tmp_path / "store", frozen, "frozen#1", Interval(steps=1000))
    gang.head = imported(tmp_path, weights())
    gang.begin([1])
    gang.ended()
    at = {t.name: t.at for t in manifest_of(gang).tensors}
    assert at["model/0.weight"] == at["model/0.bias"] == "pretrained/00000500-e1"
    assert at["model/1.weight"] == manifest_of(gang).id
