"""Ending the embedded cluster's processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import psutil
import pytest

from resilient_nb.cluster.watchdog import _tidies_up, end_tree, kill_tree

CODE = """
import multiprocessing, signal
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("end", [kill_tree, end_tree])
def test_semaphores_of_what_is_ended_are_removed(end: Callable[[psutil.Process], None]) -> None:
    child = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    semaphore = Path(f"/dev/shm/sem.{child.stdout.readline().strip().lstrip('/')}")
    child.stdout.close()
    assert semaphore.exists()
    [tracker] = psutil.Process(child.pid).children()
    end(psutil.Process(child.pid))
    child.wait(10.0)
    psutil.wait_procs([tracker], timeout=10.0)
    deadline = time.monotonic() + 10.0
    while semaphore.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not tracker.is_running()


def test_a_process_that_is_just_being_executed_is_looked_at_again() -> None:
    tracker = ["python", "-c", "from multiprocessing.resource_tracker import main;main(5)"]
    process = mock.Mock(**{"cmdline.side_effect": [[], [], tracker]})
    assert _tidies_up(process)
    assert not _tidies_up(mock.Mock(**{"cmdline.return_value": []}))
