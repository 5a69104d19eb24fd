"""A Jupyter server with the extension, in each test's own event loop, and a cluster to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_jupyter.jupyter_server import *  # noqa: F403  # fixtures for this folder alone
from traitlets.config import Config

from tests.unit.server.control import FakeControl


@pytest.fixture
def jp_server_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The extension, in a home of its own where no cluster is up."""
    monkeypatch.setenv("RESILIENT_NB_HOME", str(tmp_path / "home-of-ours"))
    monkeypatch.setenv("RESILIENT_NB_USER", "ada")
    monkeypatch.delenv("RESILIENT_NB_ADDRESS", raising=False)
    return Config({"ServerApp": {"jpserver_extensions": {"resilient_nb": True}}})


@pytest.fixture
def control(jp_asyncio_loop: Any, jp_server_config: Config) -> Iterator[FakeControl]:
    """A cluster that doesn't run yet."""
    made = FakeControl()
    yield made
    jp_asyncio_loop.run_until_complete(made.stop())


@pytest.fixture
def cluster(
    jp_asyncio_loop: asyncio.AbstractEventLoop,
    control: FakeControl,
    monkeypatch: pytest.MonkeyPatch,
) -> FakeControl:
    """A cluster that runs and is chosen."""
    jp_asyncio_loop.run_until_complete(control.start())
    monkeypatch.setenv("RESILIENT_NB_ADDRESS", control.address)
    return control
