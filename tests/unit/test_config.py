"""`config`: environment before file before default, and clear words for what can't be read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from resilient_nb.config import Settings, load_settings
from resilient_nb.errors import InvalidRequest


def load(home: Path, **environment: str) -> Settings:
    return load_settings({"RESILIENT_NB_HOME": str(home), **environment})


def write(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text)
    return home


def test_defaults(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found.home == tmp_path
    assert found.store == str(tmp_path / "store")
    assert found.runs == str(tmp_path / "store" / "runs")
    assert found.cluster_file == tmp_path / "cluster.json"
    assert found.journal == tmp_path / "journal.db"
    assert found.logs == tmp_path / "logs"
    assert (found.slots, found.max_workers, found.threads, found.wait) == (1, None, 1, False)
    assert found.host
    assert found.user


def test_nothing_is_created_by_reading(tmp_path: Path) -> None:
    load(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_environment_comes_before_the_file_and_the_file_before_the_default(
    tmp_path: Path,
) -> None:
    write(tmp_path, 'slots = 3\nthreads = 4\nuser = "bo"\nleave_grace = 2\nwait = true\n')
    found = load(tmp_path, RESILIENT_NB_SLOTS="5", RESILIENT_NB_USER="cy")
    assert (found.slots, found.threads, found.user) == (5, 4, "cy")
    assert (found.leave_grace, found.wait) == (2.0, True)


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_setting_can_be_set_by_its_variable(tmp_path: Path, name: str) -> None:
    value = {"home": str(tmp_path), "store": "/x", "wait": "1", "encrypt": "on"}.get(name, "7")
    texts = {field.name: field.type for field in fields(Settings)}
    found = load_settings(
        {"RESILIENT_NB_HOME": str(tmp_path), f"RESILIENT_NB_{name.upper()}": value}
    )
    wanted = {"home": tmp_path, "store": "/x", "wait": True, "encrypt": "on"}
    expected: object = wanted.get(name)
    if name == "replicas":
        expected = (str(Path("7").absolute()),)
    if expected is None:
        expected = value if texts[name] == "str" else 7
    assert getattr(found, name) == expected


@pytest.mark.parametrize(("text", "value"), [
    ("1", True), ("true", True), ("True", True), ("YES", True),
    ("0", False), ("false", False), ("no", False), ("", False),
])  # fmt: skip
def test_yes_and_no(tmp_path: Path, text: str, value: bool) -> None:
    assert load(tmp_path, RESILIENT_NB_WAIT=text).wait is value


@pytest.mark.parametrize(("text", "value"), [
    ("auto", "auto"), ("on", "on"), ("1", "on"), ("OFF", "off"), ("false", "off"), ("", "auto"),
])  # fmt: skip
def test_encrypt_may_be_left_to_whether_there_is_a_key(
    tmp_path: Path, text: str, value: str
) -> None:
    assert load(tmp_path, RESILIENT_NB_ENCRYPT=text).encrypt == value
    with pytest.raises(InvalidRequest, match="Setting encrypt can't be 'sometimes'"):
        load(tmp_path, RESILIENT_NB_ENCRYPT="sometimes")


def test_a_word_that_is_neither_yes_nor_no_is_refused(tmp_path: Path) -> None:
    # `RESILIENT_NB_WAIT=on` would silently mean no.
    with pytest.raises(InvalidRequest, match="wait"):
        load(tmp_path, RESILIENT_NB_WAIT="perhaps")


@pytest.mark.parametrize(("text", "value"), [("none", None), ("8", 8)])
def test_max_workers_can_be_unlimited(tmp_path: Path, text: str, value: int | None) -> None:
    assert load(tmp_path, RESILIENT_NB_MAX_WORKERS=text).max_workers == value


@pytest.mark.parametrize(("name", "value"), [
    ("SLOTS", "many"), ("SLOTS", "1.5"), ("THREADS", "2 "  "x"), ("LEAVE_GRACE", "soon"),
])  # fmt: skip
def test_what_cant_be_read_names_the_setting(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Setting {name.lower()} can't be '{value}'"):
        load(tmp_path, **{f"RESILIENT_NB_{name}": value})


@pytest.mark.parametrize("line", ["slots = 1.5", "slots = true", 'slots = ["a"]'])
def test_a_number_in_the_file_must_be_one_of_its_kind(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidRequest, match="slots"):
        load(write(tmp_path, line))


@pytest.mark.parametrize("value", ["0", "-1"])
def test_less_than_one_slot_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidRequest, match="slots"):
        load(tmp_path, RESILIENT_NB_SLOTS=value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.toml is no valid TOML"):
        load(write(tmp_path, "slots = = 3"))


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.toml has unknown settings: abc, slot\."):
        load(write(tmp_path, "slot = 3\nabc = 1\nthreads = 2"))


def test_paths_are_absolute_and_know_the_users_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = load_settings({"RESILIENT_NB_HOME": "~/h", "RESILIENT_NB_STORE": "store"})
    assert found.home == tmp_path / "h"
    assert found.store == str(tmp_path / "store")
    assert load_settings({}).home == tmp_path / ".resilient_nb"


def test_places_are_paths_or_urls(tmp_path: Path) -> None:
    write(tmp_path, 'store = "s3://bucket/a/"\nreplicas = ["/mnt/copies", "gs://other"]\n')
    found = load(tmp_path)
    assert (found.store, found.runs) == ("s3://bucket/a", "s3://bucket/a/runs")
    assert found.blobs == tmp_path / "blobs"
    assert found.replicas == ("/mnt/copies", "gs://other")
    found = load(tmp_path, RESILIENT_NB_REPLICAS="/a, s3://b", RESILIENT_NB_STORE="file:///c")
    assert (found.store, found.replicas) == ("/c", ("/a", "s3://b"))
    assert found.blobs == Path("/c/blobs")


@pytest.mark.parametrize("text", ["ftp://host", "s3://", "memory://x"])
def test_a_place_that_no_process_could_share_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        load(tmp_path, RESILIENT_NB_STORE=text)
    with pytest.raises(InvalidRequest, match=text):
        load(tmp_path, RESILIENT_NB_REPLICAS=f"/a,{text}")
