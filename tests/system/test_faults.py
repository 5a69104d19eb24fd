"""A few faults of `make faults`, made for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient_nb.client import Client
from tests.fault_cases import CASES
from tests.fault_world import Scene
from tests.faults import play

SOME = (
    "SIGKILL in a step", "EIO", "bit flip", "SIGSEGV twice at a step", "exception on one rank",
    "NaN",
)  # fmt: skip


@pytest.fixture
def scene(client: Client, home: Path) -> Iterator[Scene]:
    scene = Scene(client, home)
    yield scene
    scene.clear()


@pytest.mark.parametrize("case", [c for c in CASES if c.name in SOME], ids=lambda c: c.name)
def test_cause_and_decision_are_right(scene: Scene, case: object) -> None:
    row = play(case, scene)  # type: ignore[arg-type]
    assert row.good, row.text()
