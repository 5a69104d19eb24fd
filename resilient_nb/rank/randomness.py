"""All random number generators of a process."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's generators."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def decorrelate(rank: int) -> None:
    """Give each rank random numbers of its own, say for dropout.

    Up to the first step all ranks draw alike, so that models begin equal; rank 0 goes on with
    the cell's own series, so that one worker computes what a bare script would.
    """
    if rank:
        torch.manual_seed(int(torch.randint(2**62, (1,))) + rank)
        random.seed(random.getrandbits(62) + rank)
        np.random.seed((int(np.random.randint(2**31)) + rank) % 2**32)
