"""What a metric is, as far as its name says."""

from __future__ import annotations

import re

_HELD_OUT = frozenset(["dev", "eval", "test", "val", "valid", "validation"])
#: The best loss so far, say, which often begins as infinite.
_EXTREMES = frozenset(["best", "min", "minimum"])


def words(name: str) -> list[str]:
    """Return the words of `valLoss`, `val_loss` or `val/loss`, in small letters."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())


def is_held_out(name: str) -> bool:
    """Whether a metric is measured on data that isn't trained on."""
    return not _HELD_OUT.isdisjoint(words(name))


def is_loss(name: str) -> bool:
    """Whether a metric is the loss that is trained by: only that is sure to be finite.

    On held-out data it needn't be: many log nan between two validations.
    """
    plain = name.lower().endswith("loss") and not is_held_out(name)
    return plain and _EXTREMES.isdisjoint(words(name)[:1])
