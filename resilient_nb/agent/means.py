"""What a worker can give to each of its slots, found without importing torch or waking a GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed.system import MEMORY_LIMIT

from resilient_nb.config import Settings
from resilient_nb.core.model import Resources
from resilient_nb.core.places import Place, is_url

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_DEVICES = Path("/dev")


def slot_of(worker: Any, settings: Settings) -> Resources:
    """Return the CPU cores, bytes of memory and GPUs of each of a Dask worker's slots.

    A worker without a memory limit of its own is one of an embedded cluster's, which share the
    machine evenly, or alone on it. GPUs are shared like memory.
    """
    slots = settings.slots
    # An embedded cluster is one machine, so what it can ever hold is what this machine holds.
    on_machine = settings.max_workers or slots if settings.owner else slots
    limit = worker.memory_manager.memory_limit
    memory = limit // slots if limit else MEMORY_LIMIT // on_machine
    return Resources(
        cpus=worker.state.nthreads / slots, memory=memory, gpus=visible_gpus() // on_machine
    )


def visible_gpus(environment: Mapping[str, str] = os.environ) -> int:
    """Count the GPUs that ranks started from here would see."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        # CUDA takes devices up to the first that it can't read: "-1" hides all.
        names = [name.strip() for name in chosen.split(",")]
        first_bad = (i for i, name in enumerate(names) if not name or name.startswith("-"))
        return next(first_bad, len(names))
    if _NVIDIA.is_dir():
        return sum(1 for _ in _NVIDIA.iterdir())
    return sum(path.name[6:].isdigit() for path in _DEVICES.glob("nvidia*"))


def store_free(store: Place) -> int | None:
    """Return the free bytes of the store's file system, None if it can't be said."""
    if is_url(store):
        return None
    place = Path(store)
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        return shutil.disk_usage(place).free
    except OSError:
        return None
