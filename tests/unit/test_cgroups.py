"""`supervisor.cgroups`: which control groups are used, and what is written to them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_nb.supervisor import cgroups, limits
from resilient_nb.supervisor.cgroups import Cgroups, find
from resilient_nb.supervisor.launching import Launching
from resilient_nb.supervisor.limits import Limit
from resilient_nb.testing.builders import an_attempt

V2, V1 = "0::{path}", "4:memory:{path}"
MOUNTS = [
    "30 1 0:26 / {root}/unified rw - cgroup2 cgroup2 rw,nsdelegate",
    "31 1 0:27 / {root}/cpu rw - cgroup cgroup rw,cpu",
    "32 1 0:28 / {root}/memory rw - cgroup cgroup rw,memory",
]


def folder(place: Path, v2: bool) -> Path:
    """Make what looks like a group's folder."""
    place.mkdir(parents=True, exist_ok=True)
    if v2:
        (place / "cgroup.controllers").write_text("cpu memory")
        (place / "cgroup.subtree_control").write_text("")
    return place


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have /proc say which group we are in, and who we are."""

    def tell(line: str, path: str, user: int) -> None:
        files = {
            "/proc/self/cgroup": [line.format(path=path), "3:cpu:/"],
            "/proc/self/mountinfo": [mount.format(root=tmp_path) for mount in MOUNTS],
        }
        monkeypatch.setattr(cgroups, "_lines", files.__getitem__)
        monkeypatch.setattr(os, "geteuid", lambda: user)

    return tell


def test_version_2_has_limits_beside_our_own_group(tmp_path: Path, told: Any) -> None:
    parent = folder(tmp_path / "unified/user.slice/app.slice", v2=True)
    told(V2, "/user.slice/app.slice/jupyter.scope", 1000)
    groups = find("auto")
    assert groups is not None
    assert "memory" in (parent / "cgroup.subtree_control").read_text()
    made = groups.make(5 << 20)
    [place] = parent.glob(f"resilient_nb-{os.getpid()}-2")
    assert (place / "memory.max").read_text() == str(5 << 20)
    assert (place / "memory.swap.max").read_text() == "0"
    assert (place / "memory.oom.group").read_text() == "1"
    made.enter()
    assert (place / "cgroup.procs").read_text() == "0"
    assert made.oom_kills() == 0
    (place / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert made.oom_kills() == 2


def test_version_1_has_them_in_our_own(tmp_path: Path, told: Any) -> None:
    own = folder(tmp_path / "memory/slurm/job7", v2=False)
    told(V1, "/slurm/job7", 1000)
    groups = find("auto")
    assert groups is not None
    made = groups.make(7)
    [place] = own.glob("*-2")
    assert (place / "memory.limit_in_bytes").read_text() == "7"
    (place / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert made.oom_kills() == 1


def test_root_uses_only_what_is_its_own(tmp_path: Path, told: Any) -> None:
    """It could write anywhere; but another program keeps its order there."""
    folder(tmp_path / "memory/system.slice/other", v2=False)
    told(V1, "/system.slice/other", 0)
    assert find("auto") is None
    folder(tmp_path / "memory", v2=False)
    told(V1, "/", 0)  # the root of a container's namespace
    assert find("auto") is not None
    assert find(str(tmp_path / "memory/system.slice/other")) is not None  # if told so
    assert find("off") is None


@pytest.mark.parametrize("setting", ["auto", "/nowhere/at/all"])
def test_where_none_can_be_made_the_supervisor_looks_itself(setting: str, told: Any) -> None:
    told(V2, "/gone/away", 1000)
    assert find(setting) is None


def test_what_killed_supervisors_left_is_removed(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", v2=False)
    gone, lives = base / f"resilient_nb-{2**22 + 1}-1", base / f"resilient_nb-{os.getpid()}-9"
    gone.mkdir()
    lives.mkdir()
    assert Cgroups(base).usable()
    assert not gone.exists()
    assert lives.exists()


def test_a_group_that_was_busy_is_removed_with_the_next(tmp_path: Path) -> None:
    groups = Cgroups(folder(tmp_path / "base", v2=True))
    one, two = groups.make(100), groups.make(100)
    first, second = sorted((tmp_path / "base").glob("resilient*"))
    one.remove()
    assert first.exists()  # something still dies in it
    for file in (*first.iterdir(), *second.iterdir()):
        file.unlink()
    groups.make(100)
    assert not first.exists()
    assert second.exists()  # its rank lives
    two.remove()
    assert not second.exists()


def test_copies_in_the_hosts_memory_arent_counted_as_a_ranks(tmp_path: Path) -> None:
    host: Any = SimpleNamespace(_groups=Cgroups(folder(tmp_path / "base", v2=True)))
    attempt = replace(an_attempt(), memory_limit=100)
    assert Launching._limit(host, attempt).group is not None
    found = Launching._limit(host, replace(attempt, memory_copies=1))
    assert (found.most, found.group) == (100, None)


def test_what_the_kernel_killed_long_ago_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = 3
    monkeypatch.setattr(limits, "oom_kills", lambda: killed)
    limit = Limit(0)
    limit.count(now=0.0)
    killed = 4
    assert limit.oom_kills() == 1
    for now in range(1, 100):
        limit.count(float(now))
    assert limit.oom_kills() == 0
    killed = 6
    limit.count(100.0)
    limit.count(121.0)
    assert limit.oom_kills() == 2


def test_a_rank_whose_group_had_too_much_was_over_its_limit(tmp_path: Path) -> None:
    group = Cgroups(folder(tmp_path / "base", v2=True)).make(100)
    limit = Limit(100, group)
    assert not limit.look(50, now=1.0)
    assert not limit.due(1.05)
    assert limit.due(1.2)
    [place] = (tmp_path / "base").glob("resilient*")
    (place / "memory.events").write_text("oom_kill 1\n")
    assert limit.look(50, now=1.2)  # one of its processes, it need not be the rank
    assert limit.ended()


def test_the_nearer_the_limit_the_more_often_it_is_looked_at() -> None:
    limit = Limit(10 << 30)
    limit.look(1 << 30, now=0.0)
    assert limit.due_at == 0.5
    limit.look((10 << 30) - 1, now=1.0)
    assert limit.due_at == pytest.approx(1.1)
    assert limit.look((10 << 30) + 1, now=1.1)
    assert not limit.due(5.0)  # it is over
    assert not Limit(0).due(1e9)


@pytest.mark.skipif("RESILIENT_NB_TEST_CGROUP" not in os.environ, reason="names no group of ours")
def test_the_kernel_ends_who_has_too_much() -> None:
    groups = find(os.environ["RESILIENT_NB_TEST_CGROUP"])
    assert groups is not None
    limit = Limit(50 << 20, groups.make(50 << 20))
    child = os.fork()
    if child == 0:
        limit.enter()
        held = [bytearray(b"x") * (1 << 20) for _ in range(200)]
        os._exit(len(held) % 2)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert limit.ended()
    assert limit.oom_kills() >= 1
