"""The administrator's file: strict, explained, read again when it changes."""

from __future__ import annotations

import os
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from resilient_nb.control import policy_file
from resilient_nb.control.policy_file import PolicyFile, parse_policy
from resilient_nb.core.model import Priority
from resilient_nb.core.policy import DAY, HOUR, GroupRule, Limits, Policy, UserRule
from resilient_nb.errors import InvalidRequest


def example() -> str:
    """Return the example of the module's documentation."""
    lines = (policy_file.__doc__ or "").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


def test_the_documented_example_is_what_it_says() -> None:
    assert parse_policy(example(), "p") == Policy(
        half_life=7 * DAY,
        preemption=True,
        grace=15.0,
        patience=120.0,
        quantum=20.0,
        admins=("root",),
        admin_reserve=1,
        limits={Priority.HIGH: Limits(8, 20, 50)},
        high_budget=0.25,
        trust_claims=False,
        groups={
            "vision": GroupRule(2.0, ("ada", "bob"), {Priority.URGENT: Limits(running=2)}),
        },
        users={"ada": UserRule(3.0, {Priority.URGENT: Limits(per_day=5)})},
    )


def test_the_documented_example_names_every_rule() -> None:
    """A rule that the file can't set would be no administrator's."""
    said = tomllib.loads(example())
    alerts = {"alerts", "channels", "routes"}  # `policy_alerts` has these
    assert said.keys() | alerts == {field.name for field in fields(Policy)}
    assert said["groups"]["vision"].keys() == {field.name for field in fields(GroupRule)}
    assert said["users"]["ada"].keys() == {field.name for field in fields(UserRule)}
    assert said["limits"]["high"].keys() == {field.name for field in fields(Limits)}


def test_nothing_means_the_defaults() -> None:
    assert parse_policy("", "p") == Policy()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("1.5m", 90.0), ("12h", 12 * HOUR), ("7 d", 7 * DAY)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_policy(f'half_life = "{text}"', "p").half_life == seconds


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("halflife = '7d'", "halflife", "half_life"),
        ("half_life = 7", "half_life", '"30s"'),
        ("half_life = '0s'", "half_life", "above 0"),
        ("patience = '-1s'", "patience", '"30s"'),
        ("quantum = -1", "quantum", "0 or more"),
        ("grace = 'soon'", "grace", '"30s"'),
        ("preemption = 1", "preemption", "true or false"),
        ("preemption = 'no'", "preemption", "true or false"),
        ("admins = 'root'", "admins", "list of user names"),
        ("admins = ['a b']", "admins", "letters, digits"),
        ("admins = ['a', 'a']", "admins", "more than once"),
        ("admin_reserve = -1", "admin_reserve", "0 or more"),
        ("admin_reserve = 1.0", "admin_reserve", "whole number"),
        ("high_budget = 1.5", "high_budget", "from 0 to 1"),
        ("high_budget = nan", "high_budget", "from 0 to 1"),
        ("high_budget = true", "high_budget", "from 0 to 1"),
        ("trust_claims = 'yes'", "trust_claims", "true or false"),
        ("limits = 3", "limits", "high and urgent"),
        ("[limits.normal]\nrunning = 1", "limits.normal", "only high and urgent"),
        ("[limits.high]\nruning = 1", "limits.high.runing", "running"),
        ("[limits.high]\nrunning = true", "limits.high.running", "whole number"),
        ("groups = []", "groups", "table of tables"),
        ("[groups.vision]\nweight = 0", "groups.vision.weight", "above 0"),
        ("[groups.vision]\nweight = -2", "groups.vision.weight", "above 0"),
        ("[groups.vision]\nweight = inf", "groups.vision.weight", "above 0"),
        ("[groups.vision]\nusers = [1]", "groups.vision.users", "list of user names"),
        ("[groups.vision]\nadmins = []", "groups.vision.admins", "weight, users, limits"),
        ("[groups.vision]\nlimits.low.running = 1", "groups.vision.limits.low", "high and urgent"),
        ("[groups.'a b']\nweight = 1", "groups.a b", "letters, digits"),
        ("users.ada = 1", "users.ada", "table with weight"),
        ("[users.'-x']\nweight = 1", "users.-x", "beginning with a letter"),
        ("[users.ada]\nusers = []", "users.ada.users", "weight, limits"),
    ],
)
def test_what_is_wrong_names_file_key_and_what_is_allowed(
    text: str, key: str, allowed: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_policy(text, "/etc/policy.toml")
    said = str(caught.value)
    assert said.startswith(f"Policy /etc/policy.toml: {key} ")
    assert allowed in said


def test_broken_toml_names_file_and_line() -> None:
    with pytest.raises(InvalidRequest, match=r"p is no valid TOML: .*line 2"):
        parse_policy("grace = '1s'\nadmins = oops", "p")


# --- the file ---------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def write(path: Path, text: str) -> None:
    """Replace the file, as a careful editor does."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.chmod(0o644)
    part.replace(path)


def settled(file: PolicyFile) -> Policy | None:
    """Return what two looks give: the first only sees that the file is another."""
    return file.poll() or file.poll()


def test_without_a_file_the_defaults_hold(path: Path) -> None:
    file = PolicyFile(path)
    assert file.poll() == Policy()
    assert file.poll() is None
    assert file.alert == ""


def test_a_change_is_taken_once(path: Path) -> None:
    write(path, "grace = '1s'")
    file = PolicyFile(path)
    assert file.poll() == Policy(grace=1.0)
    assert settled(file) is None
    write(path, "grace = '2s'")
    assert file.poll() is None  # it could be written by half
    assert file.poll() == Policy(grace=2.0)
    assert settled(file) is None


def test_a_file_that_comes_later_is_taken(path: Path) -> None:
    file = PolicyFile(path)
    file.poll()
    write(path, "grace = '2s'")
    assert settled(file) == Policy(grace=2.0)


def test_a_malformed_file_changes_nothing_until_it_is_mended(path: Path) -> None:
    write(path, "grace = '1s'")
    file = PolicyFile(path)
    file.poll()
    write(path, "grace = 'soon'")
    assert settled(file) is None
    assert str(path) in file.alert
    assert "grace" in file.alert
    assert "stays in force" in file.alert
    assert settled(file) is None
    assert file.alert
    write(path, "grace = '3s'")
    assert settled(file) == Policy(grace=3.0)
    assert file.alert == ""


def test_a_file_that_was_taken_and_is_gone_stays_in_force(path: Path) -> None:
    write(path, "grace = '1s'")
    file = PolicyFile(path)
    file.poll()
    path.unlink()
    assert settled(file) is None
    assert "is gone" in file.alert
    write(path, "grace = '1s'")
    assert settled(file) == Policy(grace=1.0)
    assert file.alert == ""


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    write(path, "admins = ['mallory']")
    path.chmod(mode)
    file = PolicyFile(path)
    assert file.poll() is None
    assert "chmod go-w" in file.alert
    path.chmod(0o644)
    assert settled(file) == Policy(admins=("mallory",))
    assert file.alert == ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    write(path, "admins = ['mallory']")
    os.chown(path, 12345, -1)
    file = PolicyFile(path)
    assert file.poll() is None
    assert "belongs to user number 12345" in file.alert


def test_what_is_no_file_or_no_text_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path, 0o600)
    file = PolicyFile(path)
    assert file.poll() is None
    assert "no regular file" in file.alert
    path.unlink()
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    assert settled(file) is None
    assert "UTF-8" in file.alert
