"""`rank.gpu`: what is told of a GPU, from PyTorch's answers as they are where there is one."""

from __future__ import annotations

import pytest
import torch

from resilient_nb.rank.gpu import Gpu
from resilient_nb.rank.telemetry import Telemetry
from resilient_nb.testing.builders import an_attempt


class Driver:
    """Stands for the driver below PyTorch; each question to it is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, used: bool = True) -> None:
        self.asked = 0
        self.fails: Exception | None = None
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
        monkeypatch.setattr(torch.cuda, "utilization", self._utilization)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)

    def _utilization(self, device: torch.device) -> int:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return 63


@pytest.fixture
def telemetry() -> Telemetry:
    made = Telemetry(an_attempt(), 0)
    made.gpu = Gpu(torch.device("cuda", 1))
    return made


def test_what_is_told_of_a_gpu(monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry) -> None:
    Driver(monkeypatch)
    sample = telemetry.sample()
    assert (sample.gpu, sample.gpu_memory) == (0.63, 3 << 30)


def test_a_driver_that_does_not_tell_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry
) -> None:
    driver = Driver(monkeypatch)
    driver.fails = ModuleNotFoundError("nvidia-ml-py does not seem to be installed")
    for _ in range(3):
        sample = telemetry.sample()
        assert (sample.gpu, sample.gpu_memory) == (None, 3 << 30)
    assert driver.asked == 1


def test_a_gpu_that_the_cell_does_not_use_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry
) -> None:
    driver = Driver(monkeypatch, used=False)
    sample = telemetry.sample()
    assert (sample.gpu, sample.gpu_memory, driver.asked) == (None, 0, 0)


def test_without_a_gpu_nothing_is_told() -> None:
    sample = Telemetry(an_attempt(), 0).sample()
    assert (sample.gpu, sample.gpu_memory) == (None, 0)
