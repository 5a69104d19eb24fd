"""How far a rank is, where its supervisor can read it also when the rank is gone.

What a rank says of itself comes four times a second. Where it died, say twice at the same step,
must be known better.
"""

from __future__ import annotations

import mmap


class Reached:
    """The step that a rank has completed. It is made before the fork, and both have it."""

    def __init__(self) -> None:
        self._cell = memoryview(mmap.mmap(-1, 8)).cast("q")

    @property
    def step(self) -> int:
        """The newest step."""
        return self._cell[0]

    @step.setter
    def step(self, step: int) -> None:
        self._cell[0] = step
