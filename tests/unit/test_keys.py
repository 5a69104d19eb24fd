"""`storage.keys`: from where keys come, who may see them, and that nothing else shows them."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from resilient_nb.config import Settings, load_settings
from resilient_nb.errors import InvalidRequest, KeyMissing
from resilient_nb.notebook.doctor import doctor
from resilient_nb.storage.keys import Key, Keyring, encrypting_key, keyring

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))


def text_of(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def settings(home: Path, **environment: str) -> Settings:
    return load_settings({"RESILIENT_NB_HOME": str(home), **environment})


def key_file(folder: Path, *lines: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def from_file(folder: Path, *lines: str, mode: int = 0o600) -> Keyring:
    path = key_file(folder, *lines, mode=mode)
    return keyring(settings(folder, RESILIENT_NB_KEY_FILE=str(path)), {})


def test_there_may_be_no_key(tmp_path: Path) -> None:
    assert keyring(settings(tmp_path), {}) == Keyring()


def test_a_key_comes_from_the_environment(tmp_path: Path) -> None:
    [key] = keyring(settings(tmp_path), {"RESILIENT_NB_KEY": text_of(SECRET)}).keys
    assert key.secret == SECRET
    assert key.id.startswith("key-")


def test_a_key_file_is_a_ring_whose_first_key_encrypts(tmp_path: Path) -> None:
    ring = from_file(
        tmp_path, "# the new one", f"2026 {text_of(SECRET)}", "", f"2025\t{text_of(OTHER)}"
    )
    assert [key.secret for key in ring.keys] == [SECRET, OTHER]
    assert [key.id.rpartition("-")[0] for key in ring.keys] == ["2026", "2025"]
    assert ring.find(ring.keys[1].id, "it") is ring.keys[1]


def test_the_config_file_may_name_the_key_file(tmp_path: Path) -> None:
    path = key_file(tmp_path, text_of(SECRET))
    (tmp_path / "config.toml").write_text(f'key_file = "{path}"\n')
    assert keyring(settings(tmp_path), {}).keys[0].secret == SECRET


def test_the_environments_key_comes_before_the_files(tmp_path: Path) -> None:
    path = key_file(tmp_path, text_of(OTHER))
    ring = keyring(
        settings(tmp_path, RESILIENT_NB_KEY_FILE=str(path)), {"RESILIENT_NB_KEY": text_of(SECRET)}
    )
    assert [key.secret for key in ring.keys] == [SECRET, OTHER]


def test_a_key_is_found_whatever_it_is_called_and_no_other(tmp_path: Path) -> None:
    one = from_file(tmp_path, f"team {text_of(SECRET)}").keys[0]
    renamed = from_file(tmp_path, f"old-team {text_of(SECRET)}")
    assert renamed.find(one.id, "It").secret == SECRET
    with pytest.raises(KeyMissing, match=r"the key team-.*only team-"):
        from_file(tmp_path, f"team {text_of(OTHER)}").find(one.id, "It")


def test_a_missing_key_is_named_with_what_to_set(tmp_path: Path) -> None:
    ring = from_file(tmp_path, f"team {text_of(SECRET)}")
    with pytest.raises(KeyMissing) as caught:
        ring.find("team-00000000", "Checkpoint digits/00000001-e1")
    words = str(caught.value)
    assert words.startswith("Checkpoint digits/00000001-e1 is encrypted with the key team-00000000")
    assert f"only {ring.keys[0].id}" in words
    assert "RESILIENT_NB_KEY_FILE" in words
    with pytest.raises(KeyMissing, match="this process has none"):
        Keyring().find("x", "It")


@pytest.mark.parametrize("text", [
    "hunter2", text_of(SECRET[:31]), text_of(SECRET + b"x"), f"a b {text_of(SECRET)}",
    f"na/me {text_of(SECRET)}", text_of(SECRET)[:-1], text_of(SECRET) + "\n" + text_of(OTHER),
])  # fmt: skip
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match="RESILIENT_NB_KEY is no key") as caught:
        keyring(settings(tmp_path), {"RESILIENT_NB_KEY": text})
    assert text.split()[-1] not in str(caught.value)


def test_a_mistake_in_the_file_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"Line 3 of the key file .*keys is no key"):
        from_file(tmp_path, text_of(SECRET), "", "nonsense")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o700 | 0o001])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidRequest, match="chmod 600"):
        from_file(tmp_path, text_of(SECRET), mode=mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, text_of(SECRET))
    os.chown(path, 12345, -1)
    with pytest.raises(InvalidRequest, match="belongs to somebody else"):
        keyring(settings(tmp_path, RESILIENT_NB_KEY_FILE=str(path)), {})


def test_a_file_that_isnt_there_or_is_none_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidRequest, match=f"{place} can't be read|is no regular file"):
            keyring(settings(tmp_path, RESILIENT_NB_KEY_FILE=str(place)), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(InvalidRequest, match="it is no text"):
        keyring(settings(tmp_path, RESILIENT_NB_KEY_FILE=str(tmp_path / "binary")), {})


def test_whether_to_encrypt_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESILIENT_NB_KEY", raising=False)
    path = str(key_file(tmp_path, text_of(SECRET)))
    assert encrypting_key(settings(tmp_path)) is None
    with pytest.raises(InvalidRequest, match="there is no key"):
        encrypting_key(settings(tmp_path, RESILIENT_NB_ENCRYPT="on"))
    with_key = {"RESILIENT_NB_KEY_FILE": path}
    assert encrypting_key(settings(tmp_path, **with_key)) is not None
    assert encrypting_key(settings(tmp_path, RESILIENT_NB_ENCRYPT="off", **with_key)) is None


def test_a_secret_is_in_no_repr() -> None:
    ring = Keyring((Key("team-1", SECRET),))
    assert "team-1" in repr(ring)
    assert repr(SECRET)[2:-1] not in repr(ring)


def test_keys_for_purposes_tell_nothing_of_each_other() -> None:
    key = Key("k", SECRET)
    found = {key.derive(""), key.derive("a"), key.derive("b"), SECRET}
    assert len(found) == 4
    assert all(len(each) == 32 for each in found)


def test_doctor_names_keys_and_what_is_wrong_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESILIENT_NB_KEY", raising=False)

    def said(**environment: str) -> str:
        return doctor(settings(tmp_path, **environment), None, "").data["encryption"]

    path = key_file(tmp_path, f"new {text_of(SECRET)}", f"old {text_of(OTHER)}")
    both = {"RESILIENT_NB_KEY_FILE": str(path)}
    assert said() == "none"
    assert said(**both).startswith("with the key new-")
    assert "old-" in said(**both)
    assert said(RESILIENT_NB_ENCRYPT="off", **both).startswith("off; reads with new-")
    path.chmod(0o644)
    assert "! Others may read" in said(**both)
