"""What a rank tells about itself: step, rate, metrics. Written by the loop, read by the link."""

from __future__ import annotations

import time
from collections.abc import Mapping

from resilient_nb.core.model import Cadence
from resilient_nb.wire.orders import Attempt, Sample

#: The rate shown is that of the last seconds, smoothed with this time constant.
_SMOOTHING = 2.0


class Telemetry:
    """Plain attributes that the loop sets, and points that it adds: nothing waits."""

    def __init__(self, attempt: Attempt, rank: int) -> None:
        self._attempt = attempt
        self._rank = rank
        self.step = 0
        self.total: int | None = None
        self.state = "starting"
        self.cadence: Cadence | None = None
        self._points: list[tuple[int, Mapping[str, float]]] = []
        self._latest: dict[str, float] = {}
        self._rate = 0.0
        self._seen: tuple[float, int] | None = None

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
