"""What `verify` found, as shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """Something that isn't as it was written: a tensor, document or group, or the manifest.

    `key` is of the object in the store of runs.
    """

    what: str
    why: str
    key: str


@dataclass(frozen=True)
class VerifyRow:
    """A checkpoint that was verified. It is whole if there is no damage.

    `good_before` is the newest whole one among its ancestors (None: there is none, or it isn't
    needed).
    """

    ref: str
    id: str
    path: str
    damage: tuple[Damage, ...] = ()
    good_before: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """Checkpoints that were verified, how many bytes were read for it, and in what time."""

    checkpoints: tuple[VerifyRow, ...]
    nbytes: int
    seconds: float

    @property
    def damaged(self) -> tuple[VerifyRow, ...]:
        """Those that aren't whole."""
        return tuple(row for row in self.checkpoints if row.damage)
