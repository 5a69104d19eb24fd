"""`load`: what is read, and only that; and how checkpoints are shown where they are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

import resilient_nb
from resilient_nb import checkpoints, cli, connection, loading
from resilient_nb.client import Client
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.recorded import CheckpointReport
from resilient_nb.core.views import CheckpointView, RunView
from resilient_nb.errors import InvalidRequest, UnknownName
from resilient_nb.loading import State
from resilient_nb.notebook.diff_reports import Difference
from resilient_nb.notebook.execute import execute
from resilient_nb.notebook.options import parse_line
from resilient_nb.storage import mirrored
from resilient_nb.storage.hashing import digest
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.tree import TensorLeaf, flatten
from resilient_nb.wire import requests as rq
from resilient_nb.wire.codec import build, plain
from tests.unit.checkpoints import OPTIONS, save
from tests.unit.compared import INFO, Counting

T = TypeVar("T")

#: Tensors of 4,000 bytes (in chunks) and of 40 (in a pack).
SIZES = {"big.weight": 1000, "small.weight": 10, "small.bias": 10}


class Plane(Client):
    """Knows two checkpoints of one run that are really in a store, and counts what is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__("tcp://nowhere:1")
        self.store = Counting(LocalStore(folder))
        self.views = {step: self._save(step) for step in (20, 40)}

    def _save(self, step: int) -> CheckpointView:
        state: dict[str, Any] = {
            name: {key: TensorLeaf(np.full(size, step + n, np.float32), "float32")
                   for n, (key, size) in enumerate(SIZES.items())}
            for name in ("model", "ema", "optimizer")
        }  # fmt: skip
        state["optimizer"]["lr"] = 1 / step
        state["schedule"] = {"last_epoch": step}
        documents, leaves = {}, {}
        for name, value in state.items():
            documents[name], found = flatten(value, name)
            leaves.update(found)
        own, _ = flatten({"random": (), "plain": {"history": list(range(step))}}, "rank-0")
        manifest = save(
            self.store, leaves, {"shared": documents, "rank-0": {"state": own}},  # type: ignore[dict-item]
            options=OPTIONS, step=step, epoch=1, info=INFO, metrics={"loss": 1 / step},
            parent="digits/00000020-e1" if step == 40 else None,
        )  # fmt: skip
        return CheckpointView(
            ref=f"digits@{step}", run="digits", step=step, at=1e9 + step, nbytes=12240,
            digest=digest(np.array([step])), parent=manifest.parent, id=manifest.id,
            path=f"{self.store.url}/{manifest.id}", is_head=step == 40, job="digits#1",
            metrics=manifest.metrics, changed=12240, written=8000,
            tags=("best",) if step == 40 else (),
        )  # fmt: skip

    def request(self, message: Any, kind: type[T]) -> T:
        return build(kind, plain(self._answer(rq.REQUESTS.unpack(rq.REQUESTS.pack(message)))))

    def _answer(self, request: object) -> object:
        match request:
            case rq.Resolve(ref="digits@20"):
                return self.views[20]
            case rq.Resolve(ref="digits" | "digits@40" | "digits@best"):
                return self.views[40]
            case rq.Resolve():
                raise UnknownName(f"No checkpoint {request.ref}.")
            case rq.ListRuns():
                views = tuple(self.views.values())
                head = views[-1].id
                run = RunView("digits", 1e9, head, None, {"best": head}, views, ("digits#1",), None,
                              {"fork": views[0].id})  # fmt: skip
                fork = RunView("fork", 1e9, views[0].id, views[0].id, {}, (), (), None)
                return [run] if request.run else [fork, run]
        raise AssertionError(request)


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plane:
    plane = Plane(tmp_path)

    def opened(path: str, copies: Sequence[str]) -> Any:
        return open_at(plane.store, path.removeprefix(f"{plane.store.url}/"))  # type: ignore[arg-type]

    monkeypatch.setattr(connection, "current", lambda *_: plane)
    for module in (loading, mirrored):
        monkeypatch.setattr(module, "open_path", opened)
    plane.store.count = 0
    return plane


Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Run a shell command; return its status and what it printed."""

    def run(*words: str) -> tuple[int, str]:
        status = cli.main(list(words))
        found = capsys.readouterr()
        return status, found.out + found.err

    return run


def typed(line: str) -> Any:
    return execute(parse_line(line), shell=object())


# load


def test_a_part_reads_only_its_own_bytes(plane: Plane) -> None:
    state = resilient_nb.load("digits@40", only="model")
    assert {name: len(value) for name, value in state.items()} == SIZES
    assert torch.equal(state["small.bias"], torch.full((10,), 42.0))
    # Beside the values only the checksums behind the chunks, of at most 1,000 bytes each.
    assert 4080 <= plane.store.count <= 4080 + 4 * 8
    assert all("/model/" in key for key in plane.store.keys)


def test_nothing_is_read_until_it_is_asked_for(plane: Plane) -> None:
    state = resilient_nb.load("digits@best")
    assert isinstance(state, State)
    assert list(state) == ["model", "ema", "optimizer", "schedule"]
    assert len(state.names()) == 9
    assert state.names("ema") == [f"ema/{name}" for name in SIZES]
    assert state.names("schedule") == []
    assert (state.ref, state.step, state.metrics) == ("digits@40", 40, {"loss": 1 / 40})
    assert state["schedule"] == {"last_epoch": 40}
    assert plane.store.count == 0
    assert state.tensor("ema/small.weight").tolist() == [41.0] * 10
    assert plane.store.count == 40
    for wrong in (state.names, state.read):
        with pytest.raises(UnknownName, match="digits@40 has no 'modle'; it has: model, ema,"):
            wrong("modle")


def test_into_a_module_reads_only_that(plane: Plane) -> None:
    module = torch.nn.Module()
    for name, size in SIZES.items():
        part, _, leaf = name.partition(".")
        if not hasattr(module, part):
            setattr(module, part, torch.nn.Module())
        setattr(getattr(module, part), leaf, torch.nn.Parameter(torch.zeros(size)))
    assert resilient_nb.load("digits@20", into=module, only="ema") is module
    assert module.big.weight[0] == 20.0  # type: ignore[union-attr, index]
    assert plane.store.count <= 4080 + 4 * 8


@pytest.mark.parametrize(("into", "only", "said"), [
    (lambda: torch.zeros(10), None, "can't fill a Tensor. Give it a module"),
    (lambda: [], "ema", "can't fill a list"),
    (lambda: {"model": {}}, None, "can't fill a dict"),
    (lambda: {"ema": torch.nn.Linear(1, 1)}, "nope", "is a dict of ema, and only= says 'nope'"),
    (lambda: {}, "ema", "is a dict of nothing"),
    (lambda: torch.nn.Linear(1, 1, device="meta"), None, "fill a Linear on the meta device"),
    (lambda: torch.optim.SGD(torch.nn.Linear(1, 1, device="meta").parameters()), "optimizer",
     "fill a SGD on the meta device"),
])  # fmt: skip
def test_what_cant_be_filled_is_refused(
    plane: Plane, into: Callable[[], Any], only: str | None, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)):
        resilient_nb.load("digits@20", into=into(), only=only)


def test_a_dict_may_say_the_same_as_only(plane: Plane) -> None:
    schedule = torch.optim.lr_scheduler.LRScheduler.__new__(torch.optim.lr_scheduler.StepLR)
    found = resilient_nb.load("digits@20", into={"schedule": schedule}, only="schedule")
    assert found["schedule"].last_epoch == 20


def test_the_shell_lists_and_reads_no_tensor(plane: Plane, shell: Shell) -> None:
    assert shell("load", "digits@best") == (
        0,
        "\n  ".join(
            ["<digits@40: model, ema, optimizer, schedule>"]
            + [f"{part}/{name}" for part in ("model", "ema", "optimizer") for name in SIZES]
        )
        + "\n",
    )
    assert shell("load", "digits@20", "--only", "ema") == (
        0, "digits@20, ema: 3 tensors\n  ema/big.weight\n  ema/small.weight\n  ema/small.bias\n",
    )  # fmt: skip
    status, out = shell("load", "digits@20", "--only", "ema", "--json")
    assert (status, json.loads(out)["tensors"]) == (0, [f"ema/{name}" for name in SIZES])
    status, out = shell("load", "digits@20", "--only", "modle")
    assert (status, "has no 'modle'" in out) == (2, True)
    assert plane.store.count == 0


def test_the_notebook_gets_the_values(plane: Plane) -> None:
    assert list(typed("load digits@20 --only model")) == list(SIZES)
    assert isinstance(typed("load digits@20"), State)


# diff


def test_diff_in_python_is_typed_and_shows_itself(plane: Plane) -> None:
    found = resilient_nb.diff("digits@20", "digits@best", only="model")
    assert isinstance(found, Difference)
    assert isinstance(found, DiffReport)
    assert [t.norm for t in found.tensors] == pytest.approx([20 * 1000**0.5, *[20 * 10**0.5] * 2])
    assert "digits@20 → digits@40  only model · 3 of 3 tensors differ" in repr(found)
    assert set(found._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert plane.store.count <= 2 * (4080 + 4 * 8)
    with pytest.raises(UnknownName, match="No checkpoint digits@7"):
        resilient_nb.diff("digits@7", "digits")


def test_diff_is_a_verb(plane: Plane, shell: Shell) -> None:
    status, out = shell("diff", "digits@20", "digits@best", "--tensors", "2")
    assert status == 0
    for part in (
        "digits@20 → digits@40  9 of 9 tensors differ",
        "… 7 more tensors: --tensors N shows N.",
        "optimizer.lr",
        "schedule.last_epoch",
        "history",
        "loss",
    ):
        assert part in out
    assert "ema/small.bias" not in out
    assert "9 of 9 tensors differ" in typed("diff digits@20 digits@40").html
    status, out = shell("diff", "digits@20", "digits@20")
    assert (status, "equal state" in out) == (0, True)


def test_diff_as_json_fits_the_schema(plane: Plane, shell: Shell) -> None:
    _, out = shell("diff", "digits@20", "digits@40", "--json")
    report = build(DiffReport, json.loads(out))
    assert report == checkpoints.diff("digits@20", "digits@40")
    [kind] = {t["kind"] for t in json.loads(out)["tensors"]}
    assert kind == "changed"
    document = json.loads(shell("schema")[1])["$defs"]
    assert set(document["DiffReport"]["properties"]) == set(json.loads(out))
    assert set(document["TensorChange"]["properties"]) == set(json.loads(out)["tensors"][0])
    assert set(document["CheckpointReport"]["required"]) <= set(
        json.loads(shell("checkpoints", "digits@20", "--json")[1])
    )


# checkpoints


def test_checkpoints_lists_all_runs_one_run_or_what_one_records(plane: Plane, shell: Shell) -> None:
    status, every = shell("checkpoints")
    assert status == 0
    assert "run fork" in every
    assert "├─ fork  (fork)" in every
    _, one = shell("checkpoints", "digits")
    assert "run fork" not in one
    assert "├─ fork  (fork)" in one
    assert "digits@40  ◀ head" in one
    assert "1.5×" in one
    _, recorded = shell("checkpoints", "digits@best")
    for part in ("after digits@20", "Cell In [1]", "b = 2", "run.batches(batch_size=30, epochs=6"):
        assert part in recorded
    assert plane.store.count == 0


def test_checkpoints_as_json(plane: Plane, shell: Shell) -> None:
    for words in ((), ("digits",)):
        views = build(list[CheckpointView], json.loads(shell("checkpoints", *words, "--json")[1]))
        assert views == [replace(view, path=view.path) for view in plane.views.values()]
    _, out = shell("checkpoints", "digits@20", "--json")
    assert build(CheckpointReport, json.loads(out)) == checkpoints.describe("digits@20")
