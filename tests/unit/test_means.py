"""What a slot has, found without torch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_nb.agent import means
from resilient_nb.core.model import Resources
from resilient_nb.testing.fakes import fake_settings


def worker(threads: int, limit: int | None) -> Any:
    """Return as much of a Dask worker as is looked at."""
    return SimpleNamespace(
        state=SimpleNamespace(nthreads=threads),
        memory_manager=SimpleNamespace(memory_limit=limit),
    )


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(means, "visible_gpus", lambda: 2)
    monkeypatch.setattr(means, "MEMORY_LIMIT", 64 << 30)


def test_a_workers_means_are_shared_by_its_slots(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path, slots=2)
    assert means.slot_of(worker(4, 8 << 30), settings) == Resources(2.0, 4 << 30, 1)
    assert means.slot_of(worker(4, None), settings) == Resources(2.0, 32 << 30, 1)


def test_an_embedded_clusters_workers_share_the_machine(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path, owner="ada", max_workers=4)
    assert means.slot_of(worker(1, None), settings) == Resources(1.0, 16 << 30, 0)


@pytest.mark.parametrize(
    ("value", "count"),
    [("", 0), ("-1", 0), ("0", 1), ("0,1,3", 3), ("0,-1,2", 1), ("GPU-8f1,MIG-2", 2)],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    value: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert means.visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == count


def test_the_driver_says_how_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    driver, devices = tmp_path / "gpus", tmp_path / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    monkeypatch.setattr(means, "_NVIDIA", driver)
    monkeypatch.setattr(means, "_DEVICES", devices)
    assert means.visible_gpus({}) == 2
    (driver / "0000:01:00.0").mkdir(parents=True)
    assert means.visible_gpus({}) == 1


def test_the_stores_disk_is_found_before_the_store_is_made(tmp_path: Path) -> None:
    free = means.store_free(str(tmp_path / "not" / "yet"))
    assert free is not None
    assert free > 0
