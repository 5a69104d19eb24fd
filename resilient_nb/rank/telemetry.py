"""What a rank tells of itself: step, rate, times, metrics. The loop writes, the link reads."""

from __future__ import annotations

import time
from collections.abc import Mapping

from resilient_nb.core.model import Cadence
from resilient_nb.rank.gpu import Gpu
from resilient_nb.rank.phases import Phases
from resilient_nb.supervisor.reached import Reached
from resilient_nb.wire.orders import Attempt, Sample

#: The rate shown is that of the last seconds, smoothed with this time constant.
_SMOOTHING = 2.0


class Telemetry:
    """Plain attributes that the loop sets, and points that it adds: nothing waits."""

    def __init__(self, attempt: Attempt, rank: int, reached: Reached | None = None) -> None:
        self._attempt = attempt
        self._rank = rank
        self._reached = reached or Reached()
        self.total: int | None = None
        self.state = "starting"
        self.looping = False
        self.cadence: Cadence | None = None
        self.phases = Phases()
        self.gpu: Gpu | None = None
        self.missing: tuple[str, ...] = ()  # declared inputs that can't be read now
        self._points: list[tuple[int, Mapping[str, float]]] = []
        self._latest: dict[str, float] = {}
        self._rate = 0.0
        self._seen: tuple[float, int] | None = None

    @property
    def step(self) -> int:
        """The newest complete step."""
        return self._reached.step

    @step.setter
    def step(self, step: int) -> None:
        self._reached.step = step

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add metrics of a step."""
        self._latest.update(values)
        self._points.append((step, values))

    def latest(self) -> dict[str, float]:
        """Return the newest value of each metric."""
        return dict(self._latest)

    def sample(self) -> Sample:
        """Return what is new since the last call."""
        points, self._points = self._points, []
        self._measure()
        spent, (phase, phase_s) = self.phases.take(), self.phases.current()
        return Sample(
            job=self._attempt.job,
            epoch=self._attempt.epoch,
            rank=self._rank,
            state=self.state,
            step=self.step,
            total_steps=self.total,
            rate=self._rate,
            points=tuple(points),
            cadence=self.cadence,
            looping=self.looping,
            phase=phase,
            phase_s=round(phase_s, 3),
            steps=spent.steps,
            items=spent.items,
            data_s=spent.data_s,
            compute_s=spent.compute_s,
            wait_s=spent.wait_s,
            checkpoint_s=spent.checkpoint_s,
            longest_s=spent.longest_s,
            missing=self.missing,
            gpu=self.gpu.busy() if self.gpu is not None else None,
            gpu_memory=self.gpu.memory() if self.gpu is not None else 0,
        )

    def _measure(self) -> None:
        if self.state == "starting":
            return  # the jump to the step that it goes on from is no speed
        now, step = time.monotonic(), self.step
        if self._seen is None or step < self._seen[1]:
            self._seen = (now, step)
            return
        passed = now - self._seen[0]
        if passed < 0.2:
            return
        rate = (step - self._seen[1]) / passed
        keep = 0.5 ** (passed / _SMOOTHING) if self._rate else 0.0
        self._rate = round(keep * self._rate + (1 - keep) * rate, 3)
        self._seen = (now, step)
