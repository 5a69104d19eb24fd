"""One real embedded cluster for the system tests, in a home of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilient_nb.client import Client
from resilient_nb.cluster import embedded
from resilient_nb.config import load_settings


def processes_of(home: Path) -> list[tuple[psutil.Process, str]]:
    """Return every live process of a home (by its environment) with its command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RESILIENT_NB_HOME") == str(home):
                found.append((process, " ".join(process.cmdline())))
    return [(process, words) for process, words in found if process.pid != os.getpid()]


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A fresh home; when the tests are over nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="rnb-"))
    os.environ["RESILIENT_NB_HOME"] = str(folder)
    os.environ["RESILIENT_NB_LEAVE_GRACE"] = "10"
    yield folder
    del os.environ["RESILIENT_NB_HOME"], os.environ["RESILIENT_NB_LEAVE_GRACE"]
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def client(home: Path) -> Iterator[Client]:
    """The client of a cluster with four workers."""
    settings = load_settings()
    try:
        embedded.up(settings, 4, print)
    except BaseException:
        embedded.down(settings, print)  # its folder is about to go, and nobody could end it
        raise
    record = embedded.find(settings)
    assert record is not None
    client = Client(record.address, patience=40.0)
    yield client
    client.close()
    embedded.down(settings, print)
    assert processes_of(home) == []
