"""What must be equal for a resumed run to compute the same bits."""

from __future__ import annotations

import platform

import numpy as np
import torch
import zarr


def numerics() -> dict[str, str]:
    """Return versions, processor and thread count of this process."""
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "zarr": zarr.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "",
    }
