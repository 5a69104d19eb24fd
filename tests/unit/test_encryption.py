"""Encrypted checkpoints: nothing readable without the key, nothing changed unnoticed with it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from resilient_nb.errors import CheckpointError, CorruptCheckpoint, KeyMissing
from resilient_nb.storage.backup import backup, restore
from resilient_nb.storage.contents import contents, damage
from resilient_nb.storage.copying import Copier
from resilient_nb.storage.encoding import codecs_of, key_of
from resilient_nb.storage.encryption import (
    decrypt,
    decrypt_file,
    decrypt_json,
    encrypt,
    encrypt_file,
    encrypt_json,
)
from resilient_nb.storage.keys import Key, keyring
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.manifest import Manifest, checkpoint_digest
from resilient_nb.storage.objects import join
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.sweep import references
from resilient_nb.storage.tree import STORABLE_DTYPES, Json
from resilient_nb.storage.writing import Options
from resilient_nb.storage.zarr3 import sha256
from tests.unit.checkpoints import (
    HERE,
    IDENTITY,
    LEAVES,
    OPTIONS,
    a_manifest,
    assert_equal,
    leaf,
    numbers,
    run,
    save,
)
from tests.unit.stored_home import StoredHome

SECRETS = [bytes([n] * 16 + [255 - n] * 16) for n in range(3)]
MARK = b"find me if you can"
SOURCE = "secret_learning_rate = 0.12345"


def text_of(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RESILIENT_NB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESILIENT_NB_KEY", text_of(SECRETS[0]))
    monkeypatch.delenv("RESILIENT_NB_KEY_FILE", raising=False)
    return iter([None])


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have just these keys from now on, the first of which encrypts."""

    def change(*numbers: int) -> None:
        monkeypatch.delenv("RESILIENT_NB_KEY", raising=False)
        path = tmp_path / "ring"
        path.write_text("\n".join(f"k{n} {text_of(SECRETS[n])}" for n in numbers))
        path.chmod(0o600)
        monkeypatch.setenv("RESILIENT_NB_KEY_FILE", str(path) if numbers else "")

    return change


def options(compress: str = "", **changes: int) -> Options:
    return replace(OPTIONS, codecs=codecs_of(compress, keyring().keys[0]), **changes)


MARKED = np.frombuffer(MARK * 200, "u1").copy()
DOCUMENTS: dict[str, Json] = {
    "shared": {"model": {"dict": {"note": MARK.decode()}}},
    "rank-0": {"state": {"dict": {"plain": {"dict": {"history": [0.987654321]}}}}},
}


def encrypted(store: LocalStore, compress: str = "", **changes: object) -> Manifest:
    made = options(compress)
    leaves = {**LEAVES, "model/marked": leaf(MARKED), "model/short": leaf(MARKED[:36])}
    info: dict[str, object] = {"cell": {"source": SOURCE}, "position": {"loop": 0}}
    return save(
        store, leaves, DOCUMENTS, options=made, key_id=key_of(made.codecs),
        info=info, metrics={"loss": 0.4242424242}, **changes,
    )  # fmt: skip


# --- bytes --------------------------------------------------------------------------------

KEY = Key("k", SECRETS[0])


@given(st.binary(max_size=300), st.text(max_size=20), st.text(max_size=20))
def test_what_is_encrypted_comes_back(data: bytes, thing: str, piece: str) -> None:
    hidden = bytes(encrypt(KEY, thing, piece, data))
    assert bytes(decrypt(KEY, thing, piece, hidden)) == data
    assert bytes(decrypt(KEY, thing, None, hidden)) == data
    assert bytes(encrypt(KEY, thing, piece, data)) != hidden  # the nonce is another one
    if len(data) > 8:
        assert data not in hidden


@given(st.binary(max_size=40), st.data())
def test_any_change_is_noticed(data: bytes, choose: st.DataObject) -> None:
    hidden = bytes(encrypt(KEY, "thing", "c.0", data))
    at = choose.draw(st.integers(0, len(hidden) - 1))
    bit = 1 << choose.draw(st.integers(0, 7))
    for wrong in (
        hidden[:at] + bytes([hidden[at] ^ bit]) + hidden[at + 1 :], hidden[:at], hidden + b"\0"
    ):  # fmt: skip
        for piece in ("c.0", None):
            with pytest.raises(ValueError, match="can't be decrypted with the key k"):
                decrypt(KEY, "thing", piece, wrong)


def test_nothing_fits_in_another_place() -> None:
    hidden = encrypt(KEY, "thing", "c.0", b"x")
    for key, thing, piece in (
        (KEY, "thing", "c.1"), (KEY, "other", "c.0"), (KEY, "other", None),
        (Key("k", SECRETS[1]), "thing", "c.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="can't be decrypted"):
            decrypt(key, thing, piece, hidden)


def test_json_is_refused_if_any_bit_of_its_text_is_another() -> None:
    text = encrypt_json(KEY, "thing", "", {"a": [1.5, None]})
    assert decrypt_json(KEY, "thing", "", text) == {"a": [1.5, None]}
    for at in range(len(text)):
        wrong = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        with pytest.raises(ValueError, match="can't be decrypted"):
            decrypt_json(KEY, "thing", "", wrong)


def test_files_are_encrypted_as_a_whole_and_equal_ones_alike(use: Callable[..., None]) -> None:
    data = b"\x80\x05" + MARK * 100
    hidden = encrypt_file(data, "captured")
    assert MARK not in hidden
    assert encrypt_file(data, "captured") == hidden != encrypt_file(data, "out")
    assert decrypt_file(hidden, "captured", "It") == data
    with pytest.raises(CorruptCheckpoint, match="It can't be decrypted"):
        decrypt_file(hidden[:-1] + b"?", "captured", "It")
    use()
    assert encrypt_file(data, "captured") == data == decrypt_file(data, "captured", "It")
    with pytest.raises(KeyMissing, match="It is encrypted with the key key-"):
        decrypt_file(hidden, "captured", "It")


# --- checkpoints --------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["", "zstd"])
@pytest.mark.parametrize("dtype", sorted(STORABLE_DTYPES))
def test_every_dtype_comes_back(tmp_path: Path, dtype: str, compress: str) -> None:
    shapes = [(), (0,), (7,), (3, 0, 2), (2, 1, 3, 4), (1000,), (41, 10)]
    leaves = {f"m/{i}": leaf(numbers(shape, dtype)) for i, shape in enumerate(shapes)}
    store, made = LocalStore(tmp_path), options(compress)
    manifest = save(store, leaves, options=made, key_id=key_of(made.codecs))
    checkpoint = open_at(store, IDENTITY)
    assert checkpoint.manifest == manifest
    for name, found in checkpoint.read_many(leaves).items():
        assert_equal(found, leaves[name])


def test_all_that_a_checkpoint_says_comes_back(tmp_path: Path) -> None:
    manifest = encrypted(LocalStore(tmp_path))
    checkpoint = open_at(LocalStore(tmp_path), IDENTITY)
    assert checkpoint.manifest == manifest
    assert checkpoint.manifest.info["cell"] == {"source": SOURCE}
    assert checkpoint.manifest.metrics == {"loss": 0.4242424242}
    assert {name: checkpoint.document(name) for name in DOCUMENTS} == DOCUMENTS


def test_equal_states_have_one_digest_encrypted_or_not(tmp_path: Path) -> None:
    plain = save(LocalStore(tmp_path / "plain"), LEAVES, DOCUMENTS)
    made = options("zstd")
    found = {
        checkpoint_digest(
            save(LocalStore(tmp_path / name), LEAVES, DOCUMENTS, options=made,
                 key_id=key_of(made.codecs))
        )
        for name in "ab"
    }  # fmt: skip
    assert found == {checkpoint_digest(plain)}


@pytest.mark.parametrize("compress", ["", "zstd"])
def test_nothing_in_the_store_shows_contents_or_keys(tmp_path: Path, compress: str) -> None:
    manifest = encrypted(LocalStore(tmp_path / "runs"), compress)
    digests = [record.digest for record in manifest.tensors]
    unwanted = [
        MARK, SOURCE.encode(), b"secret_learning_rate", b"0.4242424242", b"0.987654321",
        SECRETS[0], text_of(SECRETS[0]).encode(), SECRETS[0].hex().encode(),
        *(digest.encode() for digest in digests), *(d.plain.encode() for d in manifest.documents),
        *(value.array.tobytes() for value in LEAVES.values() if value.array.nbytes >= 8),
    ]  # fmt: skip
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        assert [text for text in unwanted if text in data] == [], path


def test_without_the_key_its_id_and_the_way_out_are_named(
    tmp_path: Path, use: Callable[..., None]
) -> None:
    use(0, 1)
    manifest = encrypted(LocalStore(tmp_path))
    for keys in ((), (1,), (1, 2)):
        use(*keys)
        with pytest.raises(KeyMissing, match="RESILIENT_NB_KEY_FILE") as caught:
            open_at(LocalStore(tmp_path), IDENTITY)
        assert manifest.key_id in str(caught.value)
        assert IDENTITY in str(caught.value)


def test_what_needs_no_contents_needs_no_key(tmp_path: Path, use: Callable[..., None]) -> None:
    """A scheduler that sweeps, or a host that makes backups, need not have it."""
    manifest = encrypted(LocalStore(tmp_path / "a"))
    use()
    source, target = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    assert set(references(source, IDENTITY)) == manifest.arrays
    assert Copier(source, target).copy(IDENTITY).objects > 5
    found = open_at(target, IDENTITY, private=False)
    assert (found.manifest.run, found.manifest.step) == ("digits", 120)
    assert (found.manifest.info, found.manifest.metrics) == ({}, {})
    for key, piece in contents(found.manifest).items():
        assert damage(piece, target.read(key)) == ""
    with pytest.raises(KeyMissing, match=manifest.key_id):
        found.read("model/marked")
    with pytest.raises(KeyMissing, match=manifest.key_id):
        found.read("model/short")


def test_old_checkpoints_are_read_with_old_keys(tmp_path: Path, use: Callable[..., None]) -> None:
    store = LocalStore(tmp_path)
    use(0)
    old = encrypted(store)
    use(1, 0)
    new = encrypted(store, step=200)
    assert old.key_id != new.key_id
    for keys in ((1, 0), (0, 1), (2, 1, 0)):
        use(*keys)
        for manifest in (old, new):
            assert_equal(open_at(store, manifest.id).read("model/marked"), leaf(MARKED))
    use(1)
    open_at(store, new.id)
    with pytest.raises(KeyMissing):
        open_at(store, old.id)


def test_a_wrong_key_under_the_right_name_is_told_from_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESILIENT_NB_KEY", f"team {text_of(SECRETS[0])}")
    encrypted(LocalStore(tmp_path))
    monkeypatch.setenv("RESILIENT_NB_KEY", f"team {text_of(SECRETS[1])}")
    with pytest.raises(KeyMissing, match=r"the key team-.*only team-"):
        open_at(LocalStore(tmp_path), IDENTITY)


# --- tampering ----------------------------------------------------------------------------


def rewrite(store: LocalStore, change: Callable[[dict[str, object]], None]) -> None:
    """Change a manifest as somebody would who has read our code, but lacks the key."""
    path = store.path(f"{IDENTITY}/zarr.json")
    meta = json.loads(path.read_bytes())
    body = meta["attributes"]["resilient_nb"]
    change(body)
    meta["attributes"]["resilient_nb_sha256"] = sha256(body)
    path.write_text(json.dumps(meta))


def sums_of(store: LocalStore, key: str) -> str:
    from resilient_nb.storage.hashing import xxh3

    return xxh3(np.frombuffer(store.read(key), np.uint8))


@pytest.mark.parametrize("what", ["run", "step", "tensors", "hidden", "created_at", "parent"])
def test_a_changed_manifest_is_refused(tmp_path: Path, what: str) -> None:
    store = LocalStore(tmp_path)
    encrypted(store)

    def change(body: dict[str, object]) -> None:
        changed = {
            "run": "other", "step": 121, "created_at": 2.5, "parent": None,
            "tensors": body["tensors"][1:],  # type: ignore[index]
            "hidden": "A" + str(body["hidden"])[1:],
        }  # fmt: skip
        assert body[what] != changed[what]
        body[what] = changed[what]

    rewrite(store, change)
    with pytest.raises(CorruptCheckpoint, match="manifest can't be decrypted"):
        open_at(store, IDENTITY)


def test_swapped_chunks_of_one_tensor_are_refused(tmp_path: Path) -> None:
    """Even by somebody who corrects every sum: here without the manifest's own protection."""
    store, made = LocalStore(tmp_path), options()
    manifest = save(store, {"m/x": leaf(numbers((500,)))}, options=made)  # a plain manifest
    first, second = (store.path(f"{IDENTITY}/m/x/c.{n}") for n in (0, 1))
    a, b = first.read_bytes(), second.read_bytes()
    assert len(a) == len(b)
    first.write_bytes(b)
    second.write_bytes(a)

    def swap(body: dict[str, object]) -> None:
        sums = body["tensors"][0]["sums"]  # type: ignore[index]
        sums["c.0"], sums["c.1"] = sums["c.1"], sums["c.0"]

    rewrite(store, swap)
    assert manifest.key_id == ""
    with pytest.raises(CorruptCheckpoint, match=r"m/x can't be decrypted.*of another place"):
        open_at(store, IDENTITY).read("m/x")


def test_swapped_tensors_are_refused_by_us_and_by_zarr(tmp_path: Path) -> None:
    store, made = LocalStore(tmp_path), options(pack_bytes=1)
    save(store, {"m/x": leaf(numbers((30,))), "m/y": leaf(numbers((30,), seed=1))}, options=made)
    x, y = (store.path(f"{IDENTITY}/m/{n}/c.0") for n in "xy")
    one, other = x.read_bytes(), y.read_bytes()
    x.write_bytes(other)
    y.write_bytes(one)
    rewrite(store, lambda body: body["tensors"].reverse())  # type: ignore[attr-defined]

    def swap(body: dict[str, object]) -> None:
        one, other = body["tensors"]  # type: ignore[misc]
        one["sums"], other["sums"] = other["sums"], one["sums"]  # type: ignore[index]

    rewrite(store, swap)
    with pytest.raises(CorruptCheckpoint, match="m/x can't be decrypted"):
        open_at(store, IDENTITY).read("m/x")
    with pytest.raises(CorruptCheckpoint, match=r"Array .*m/y can't be decrypted"):
        zarr.open_group(tmp_path / IDENTITY, mode="r")["m/y"][...]  # type: ignore[index]


def test_every_changed_byte_of_an_encrypted_checkpoint_is_found(tmp_path: Path) -> None:
    """One bit in each byte of every object, but for what is only for other readers of Zarr."""
    store, made = LocalStore(tmp_path), options()
    leaves = {"m/x": leaf(numbers((30,))), "m/y": leaf(numbers((3,)))}
    manifest = save(store, leaves, DOCUMENTS, options=made, key_id=key_of(made.codecs))

    def read_all() -> None:
        checkpoint = open_at(store, IDENTITY)
        checkpoint.read_many(leaves)
        for name in DOCUMENTS:
            checkpoint.document(name)

    read_all()
    for key in contents(manifest):
        if not key.endswith("zarr.json") or ("/state/" in key and "/state/zarr" not in key):
            path = store.path(key)
            good = path.read_bytes()
            for at in range(0, len(good), 7):
                path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
                with pytest.raises(CorruptCheckpoint):
                    read_all()
            path.write_bytes(good)
    read_all()


def test_a_document_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old, new = encrypted(store), encrypted(store, step=200)
    place = "state/shared/zarr.json"
    stolen = store.read(join(old.id, place))
    store.path(join(new.id, place)).write_bytes(stolen)
    document = next(d for d in old.documents if d.name == "shared")
    forged = replace(
        new, documents=tuple(document if d.name == "shared" else d for d in new.documents)
    )
    checkpoint = open_at(store, new.id)
    with pytest.raises(CorruptCheckpoint, match="shared doesn't match its digest"):
        checkpoint.document("shared")
    checkpoint = type(checkpoint)(store, new.id, forged)
    with pytest.raises(CorruptCheckpoint, match="shared can't be decrypted"):
        checkpoint.document("shared")


# --- other readers ------------------------------------------------------------------------

READ = """
import sys, zarr
group = zarr.open_group(sys.argv[1], mode="r")
assert not any(name.startswith("resilient_nb") for name in sys.modules)
try:
    print(bytes(group["model/marked"][...])[:18].decode())
except Exception as error:
    print(type(error).__name__, error)
"""


def test_zarr_reads_it_if_the_key_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for compress, step in (("", 120), ("zstd", 200)):
        manifest = encrypted(LocalStore(tmp_path), compress, step=step)
        path = str(tmp_path / manifest.id)
        monkeypatch.setitem(HERE, "RESILIENT_NB_HOME", str(tmp_path / "home"))
        monkeypatch.setitem(HERE, "RESILIENT_NB_KEY", os.environ["RESILIENT_NB_KEY"])
        assert run(READ, path, isolated=True) == MARK.decode() + "\n"
        monkeypatch.setitem(HERE, "RESILIENT_NB_KEY", text_of(SECRETS[1]))
        said = run(READ, path, isolated=True)
        assert said.startswith("KeyMissing Array digits/")
        assert manifest.key_id in said


def test_zarr_can_write_what_it_reads(tmp_path: Path) -> None:
    from resilient_nb.storage.zarr_codec import AesGcm

    key = keyring().keys[0]
    codec = AesGcm(key_id=key.id, array="mine")
    array = zarr.create_array(
        tmp_path / "a", shape=(10,), dtype="i4", compressors=[codec], fill_value=-1
    )
    array[:] = np.arange(10)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], np.arange(10))
    assert AesGcm.from_dict(codec.to_dict()) == codec


def test_writing_without_the_key_is_refused(tmp_path: Path, use: Callable[..., None]) -> None:
    made = options()
    use()
    with pytest.raises(KeyMissing):
        save(LocalStore(tmp_path), LEAVES, options=made)
    with pytest.raises(CheckpointError):
        save(LocalStore(tmp_path), {}, key_id=key_of(made.codecs))
    assert a_manifest().key_id == ""


# --- backups ------------------------------------------------------------------------------


def test_copies_of_the_journal_in_backups_are_encrypted(
    tmp_path: Path, use: Callable[..., None]
) -> None:
    home = StoredHome(tmp_path / "cluster")
    home.train(10)
    place = tmp_path / "backup"
    backup(home.settings, str(place), print)
    [copy] = (place / "journal").glob("*.db")
    source = home.story.job("digits").spec.cell.source.encode()
    assert source in home.settings.journal.read_bytes()
    assert source not in copy.read_bytes()
    home.settings.journal.unlink()
    use()
    with pytest.raises(KeyMissing, match="The journal in the backup"):
        restore(home.settings, str(place), print)
    use(1, 0)  # by another name, and no longer the first
    restore(home.settings, str(place), print)
    assert source in home.settings.journal.read_bytes()
