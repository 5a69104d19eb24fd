"""`storage.verify`: every byte is looked at, and what is wrong is named."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resilient_nb.errors import CorruptCheckpoint
from resilient_nb.storage.encoding import codecs_of
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.verify import Problem, Verifier, verify
from resilient_nb.storage.writing import Options, commit, write_documents
from tests.unit.checkpoints import (
    DOCUMENTS,
    IDENTITY,
    LEAVES,
    OPTIONS,
    a_manifest,
    leaf,
    numbers,
    save,
    written,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def texts(problems: list[Problem]) -> list[str]:
    return [str(problem) for problem in problems]


@pytest.mark.parametrize("options", [
    OPTIONS, replace(OPTIONS, codecs=codecs_of("zstd")), Options(pack_bytes=0), Options(),
], ids=["both", "zstd", "arrays", "packs"])  # fmt: skip
def test_what_is_whole_has_no_problem(store: LocalStore, options: Options) -> None:
    empty = {"m/e": leaf(np.zeros((0, 3))), "m/big": leaf(numbers((3, 300)))}
    first = save(store, {**LEAVES, **empty}, options=options)
    assert verify(store, first.id) == []
    kept = {t.name: t for t in first.tensors if t.name != "model/0.bias"}
    tied = replace(first.tensors[0], name="model/tied", tied=first.tensors[0].name)
    new = {"model/0.bias": leaf(numbers((16,), "uint16", 5), "bfloat16")}
    second = save(store, new, kept={**kept, "model/tied": tied}, step=140, options=options)
    third = save(store, {}, kept={t.name: t for t in second.tensors}, run="fork", step=150)
    verifier = Verifier(store)
    for manifest in (second, third, first):
        assert verifier.verify(manifest.id) == []
    # The first is dropped: what it held for others is what they need.
    store.delete([f"{first.id}/zarr.json", f"{first.id}/state/shared/zarr.json"])
    for manifest in (second, third):
        assert verify(store, manifest.id) == []


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def cut(data: bytes) -> bytes:
    return data[:-1]


WEIGHT, PACK = "model/0.weight", "model/%pack-0-uint16-0"


@pytest.mark.parametrize(("key", "change", "text"), [
    (f"{WEIGHT}/c.0.0.0", flip, "model/0.weight doesn't match its checksum"),
    (f"{WEIGHT}/c.0.0.0", cut, "model/0.weight has 579 bytes instead of 580"),
    (f"{WEIGHT}/c.0.0.0", None, "model/0.weight is missing"),
    (f"{WEIGHT}/zarr.json", lambda d: d.replace(b"[16,", b"[17,"),
     "model/0.weight has other metadata than was written"),
    (f"{WEIGHT}/zarr.json", None, "model/0.weight is missing"),
    (f"{PACK}/c.0", flip, "model/0.bias doesn't match its checksum"),
    (f"{PACK}/c.0", lambda d: d[:33] + b"?" + d[34:], "model/1.bias doesn't match its checksum"),
    (f"{PACK}/c.0", lambda d: d[:-1] + b"?",
     "the array of model/0.bias and others doesn't match its crc32c"),
    (f"{PACK}/zarr.json", lambda d: d.replace(b'"offset":16', b'"offset":17'),
     "model/1.bias has another place by its array's metadata"),
    (f"{PACK}/zarr.json", lambda d: d.replace(b'"model/1.bias"', b'"model/1.bits"'),
     "the array of model/0.bias and others has metadata that names other tensors"),
    (f"{PACK}/zarr.json", cut, "the array of model/0.bias and others has metadata that can't be"),
    (f"{PACK}/zarr.json", lambda d: d.replace(b"25", b"26"),
     "the array of model/0.bias and others has 54 bytes, but 26 elements by its metadata"),
    ("state/shared/zarr.json", flip, "shared doesn't match its digest"),
    ("state/shared/zarr.json", None, "shared is missing"),
    ("model/zarr.json", lambda d: d + b" ", "group model has other metadata than was written"),
    ("model/zarr.json", None, "group model is missing"),
    ("zarr.json", flip, "the manifest can't be used: Checkpoint digits/00000120-e3 is damaged: "
     "the manifest is unreadable"),
    ("zarr.json", lambda d: d.replace(b":120", b":121"), "the manifest can't be used: Checkpoint "
     "digits/00000120-e3 is damaged: the manifest doesn't match its digest"),
    ("zarr.json", lambda d: d.replace(b'"zarr_format":3', b'"zarr_format":2'),
     "the manifest has other bytes than were written"),
    ("zarr.json", None, "the manifest can't be used: .* holds no committed checkpoint"),
])  # fmt: skip
def test_what_is_damaged_is_named(
    store: LocalStore, key: str, change: Callable[[bytes], bytes] | None, text: str
) -> None:
    save(store)
    path = store.path(IDENTITY) / key
    if change is None:
        path.unlink()
    else:
        assert change(path.read_bytes()) != path.read_bytes()
        path.write_bytes(change(path.read_bytes()))
    found = verify(store, IDENTITY)
    assert found
    assert all((p.checkpoint, p.key) == (IDENTITY, f"{IDENTITY}/{key}") for p in found)
    assert any(said.startswith(text.partition(".*")[0]) for said in texts(found)), texts(found)


def test_all_that_is_damaged_is_told(store: LocalStore) -> None:
    save(store)
    for entry in list(store.list(IDENTITY)):
        if entry.key != f"{IDENTITY}/zarr.json":
            store.path(entry.key).unlink()
    found = verify(store, IDENTITY)
    assert {problem.why for problem in found} == {"is missing"}
    assert {problem.what for problem in found} == {
        "group model", "group optimizer", "group rank-0", "group state", "model/0.weight",
        "model/0.bias", "optimizer/state.0.step", "rank-0/rng", "shared", "rank-0",
    }  # fmt: skip


def test_damage_in_another_checkpoints_folder_is_told_of_all_that_need_it(
    store: LocalStore,
) -> None:
    first = save(store)
    second = save(store, {}, kept={t.name: t for t in first.tensors}, step=140)
    path = store.path(f"{first.id}/{WEIGHT}/c.0.0.0")
    path.write_bytes(flip(path.read_bytes()))
    verifier = Verifier(store)
    for identity in (first.id, second.id):
        [problem] = verifier.verify(identity)
        assert problem == Problem(
            identity, WEIGHT, "doesn't match its checksum", f"{first.id}/{WEIGHT}/c.0.0.0"
        )


def test_what_checkpoints_share_is_read_once(store: LocalStore) -> None:
    big = {"m/big": leaf(numbers((30_000,)))}
    first = save(store, big)
    kept = {t.name: t for t in first.tensors}
    others = [save(store, {}, kept=kept, step=step) for step in range(130, 140)]
    verifier = Verifier(store, threads=1)
    for manifest in (first, *others):
        assert verifier.verify(manifest.id) == []
    assert 120_000 < verifier.nbytes < 200_000


def test_another_checkpoints_manifest_in_its_place(store: LocalStore) -> None:
    save(store)
    other = save(store, step=140)
    store.path(IDENTITY).joinpath("zarr.json").write_bytes(store.read(f"{other.id}/zarr.json"))
    assert "the manifest is that of digits/00000140-e3" in texts(verify(store, IDENTITY))[0]


def test_a_disk_that_cant_read_is_damage_and_a_store_out_of_reach_is_not(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store)
    read = LocalStore.read

    def fails(code: int, on: str) -> None:
        def failing(store: LocalStore, key: str) -> bytes:
            if key.endswith(on):
                raise OSError(code, os.strerror(code), key)
            return read(store, key)

        monkeypatch.setattr(LocalStore, "read", failing)

    fails(errno.EIO, "c.0.0.0")
    [problem] = verify(store, IDENTITY)
    assert (problem.what, "Input/output error" in problem.why) == (WEIGHT, True)
    fails(errno.EIO, f"{IDENTITY}/zarr.json")
    [problem] = verify(store, IDENTITY)
    assert (problem.what, "Input/output error" in problem.why) == ("the manifest", True)
    for on in ("c.0.0.0", f"{IDENTITY}/zarr.json"):
        fails(errno.EHOSTUNREACH, on)
        with pytest.raises(OSError, match="No route"):
            verify(store, IDENTITY)


@pytest.mark.parametrize(("key", "what"), [
    (f"{WEIGHT}/c.0.0.0", WEIGHT), (f"{PACK}/c.0", "model/0.bias"), ("zarr.json", "the manifest"),
    ("state/shared/zarr.json", "shared"), ("model/zarr.json", "group model"),
])  # fmt: skip
def test_a_folder_in_an_objects_place_is_damage(store: LocalStore, key: str, what: str) -> None:
    save(store)
    path = store.path(IDENTITY) / key
    path.unlink()
    path.mkdir()
    found = {problem.what: problem.why for problem in verify(store, IDENTITY)}
    assert "Is a directory" in found[what]
    if what.startswith("group"):
        return  # which only other readers need
    with pytest.raises(CorruptCheckpoint, match=r"damaged: .* can't be read \(.*Is a directory"):
        read_all(store)


def read_all(store: LocalStore) -> None:
    checkpoint = open_at(store, IDENTITY)
    checkpoint.document("shared")
    checkpoint.read_many(checkpoint.names())


def test_lone_surrogates_and_floats_keep_their_form(store: LocalStore) -> None:
    """The manifest is compared with what would be written of it."""
    leaves: dict[str, Any] = {"m/\ud800é": leaf(numbers((3,)))}
    save(store, leaves, metrics={"a": 1e-7, "b": float("nan"), "c": 1e22}, info={"x": "\ud800"})
    assert verify(store, IDENTITY) == []


def test_parts_of_one_tensor(store: LocalStore) -> None:
    records = written(store, IDENTITY, LEAVES)
    documents = write_documents(store, IDENTITY, DOCUMENTS)
    other = written(store, IDENTITY, {"model/2.bias": LEAVES["model/1.bias"]}, rank=1)
    tensors = (*records.values(), *other.values())
    commit(store, a_manifest(tensors=tensors, documents=tuple(documents.values())))
    assert verify(store, IDENTITY) == []
    assert json.loads(store.read(f"{IDENTITY}/model/%pack-1-uint16-0/zarr.json"))
