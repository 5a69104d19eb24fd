"""`supervisor.scratch`: of what ranks do with multiprocessing, nothing is left on the disk."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient_nb.supervisor import scratch
from resilient_nb.supervisor.place import Place
from resilient_nb.wire.orders import RankStarted, Shutdown
from tests.unit.supervised import PATIENCE, Agent, Host, serving, until

LISTENER = """
import os, tempfile
from multiprocessing.connection import Listener
listener = Listener(family='AF_UNIX')
print('usual', tempfile.gettempdir())
print('socket', listener.address)
"""
MANAGER = """
import multiprocessing, os, tempfile
server = multiprocessing.get_context('fork').Manager()
print('usual', tempfile.gettempdir())
print('socket', server._address)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    yield from serving(tmp_path / "place")


def launch(agent: Agent, code: str) -> Path:
    """Launch a rank; return the path of its socket."""
    agent.launch(f"python {code}")

    def said(word: str) -> str:
        lines = [line.split() for line in agent.log().splitlines()]
        return next((line[1] for line in lines if line[0] == word), "")

    assert until(lambda: said("usual"), "where files usually go") == tempfile.gettempdir()
    return Path(until(lambda: said("socket"), "its socket"))


def left(place: Place) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"resilient-{place.digest}-*"))


@pytest.mark.parametrize("code", [LISTENER, MANAGER])
def test_nothing_is_left_of_a_rank_that_was_killed(host: Host, code: str) -> None:
    agent = host.agent()
    path = launch(agent, code)
    assert path.exists()
    [folder] = left(host.place)
    assert folder in path.parents
    assert len(str(path)) - len(str(folder)) <= len(scratch._ADDED)  # or paths may be too long
    assert folder.stat().st_mode & 0o777 == 0o700
    os.kill(agent.of(RankStarted)[0].pid, signal.SIGKILL)
    agent.ended()
    assert left(host.place) == []


def test_nothing_is_left_of_a_rank_that_leaves_at_once(host: Host) -> None:
    agent = host.agent()
    path = launch(agent, f"{LISTENER}os._exit(0)")
    agent.ended()
    assert left(host.place) == []
    assert not path.parent.exists()


def test_a_cell_may_want_another_place_for_its_files(host: Host, tmp_path: Path) -> None:
    agent = host.agent()
    wanted = f"os.environ['TMPDIR'] = {str(tmp_path)!r}"
    agent.launch(f"python import os, tempfile; {wanted}; print('in', tempfile.gettempdir())")
    until(lambda: f"in {tmp_path}\n" in agent.log(), "its files in the other place")


def test_each_rank_has_its_own_while_it_lives(host: Host) -> None:
    agent = host.agent()
    pids = agent.launch("deaf", count=2)
    assert len(left(host.place)) == 2
    os.kill(pids[1], signal.SIGKILL)
    agent.ended()
    assert len(left(host.place)) == 1


def test_nothing_is_left_of_a_supervisor_that_is_shut_down(host: Host) -> None:
    agent = host.agent()
    launch(agent, LISTENER)
    agent.send(Shutdown())
    assert host.process.wait(PATIENCE) == 0
    assert left(host.place) == []


def test_what_a_killed_supervisor_leaves_goes_with_the_next(host: Host) -> None:
    launch(host.agent(), LISTENER)
    host.process.kill()
    host.process.wait(PATIENCE)
    old = left(host.place)
    assert len(old) == 1  # nobody could tidy up
    host.start()
    host.agent().launch("deaf")
    assert len(left(host.place)) == 1
    assert left(host.place) != old


def test_without_a_folder_of_its_own_a_rank_has_the_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, say, or its path too long for what multiprocessing puts there."""
    place = Place(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert scratch.make(place) == ""
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert scratch.make(place) == ""
    assert list(deep.iterdir()) == []
