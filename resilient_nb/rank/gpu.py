"""What a rank's GPU does, as far as it can be told without holding it up."""

from __future__ import annotations

from contextlib import suppress

import torch


class Gpu:
    """Looks at one GPU now and then."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tells = True

    def busy(self) -> float | None:
        """Return the part of the last second or less in which it computed; None if nobody knows.

        The driver says it (NVML, by `nvidia-ml-py`; AMD's likewise) of the whole GPU: ranks that
        share one see the same. It doesn't say it of a part of one (MIG).
        """
        if not self._tells or not torch.cuda.is_initialized():
            return None
        try:
            return torch.cuda.utilization(self._device) / 100
        except Exception:  # of the driver's library, in whose place there may be none
            self._tells = False  # asking costs, and it won't say another time either
            return None

    def memory(self) -> int:
        """Return the bytes that PyTorch has reserved on it for this process."""
        # It is set up by the cell's first use of it, not by a look.
        if not torch.cuda.is_initialized():
            return 0
        with suppress(RuntimeError):  # the GPU's own, which the cell will learn of itself
            return torch.cuda.memory_reserved(self._device)
        return 0
