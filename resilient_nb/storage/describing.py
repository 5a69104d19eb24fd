"""What a checkpoint records of itself, for people: where it comes from and what its tensors are."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from resilient_nb.core.names import split_checkpoint
from resilient_nb.core.recorded import (
    CheckpointReport,
    HolderSummary,
    PartSummary,
    Recorded,
)
from resilient_nb.core.views import CheckpointView
from resilient_nb.errors import VersionMismatch
from resilient_nb.storage.manifest import Manifest, TensorRecord


def describe(view: CheckpointView, manifest: Manifest) -> CheckpointReport:
    """Return what a checkpoint records.

    Raises:
        VersionMismatch: another version of resilient_nb recorded it in another form.
    """
    real = [t for t in manifest.tensors if t.tied is None]
    return CheckpointReport(
        checkpoint=view,
        epoch=manifest.epoch,
        world_size=manifest.world_size,
        tensors=len(manifest.tensors),
        own_tensors=sum(t.at == manifest.id for t in real),
        parts=_parts(manifest.tensors),
        holders=_holders(t for t in real if t.at != manifest.id),
        recorded=recorded(manifest),
    )


def recorded(manifest: Manifest) -> Recorded:
    """Return where a checkpoint comes from; what an older version didn't record is empty.

    Raises:
        VersionMismatch: another version of resilient_nb recorded it in another form.
    """
    fields = Recorded.__dataclass_fields__
    try:
        return msgspec.convert({k: v for k, v in manifest.info.items() if k in fields}, Recorded)
    except msgspec.ValidationError as error:
        raise VersionMismatch(
            f"What {manifest.id} records of its origin can't be read ({error}). Install the "
            "version of resilient_nb that wrote it, or a later one."
        ) from error


def dtype_of(record: TensorRecord) -> str:
    """Return a tensor's dtype as torch names it; of a numpy array, as numpy does."""
    return record.torch_dtype or record.dtype


def _parts(tensors: Iterable[TensorRecord]) -> tuple[PartSummary, ...]:
    parts: dict[str, list[TensorRecord]] = {}
    for record in tensors:
        parts.setdefault(record.name.partition("/")[0], []).append(record)
    return tuple(
        PartSummary(name, len(records), sum(r.nbytes for r in records), _dtypes(records))
        for name, records in parts.items()
    )


def _dtypes(records: list[TensorRecord]) -> dict[str, int]:
    dtypes: dict[str, int] = {}
    for record in records:
        dtypes[dtype_of(record)] = dtypes.get(dtype_of(record), 0) + 1
    return dtypes


def _holders(tensors: Iterable[TensorRecord]) -> tuple[HolderSummary, ...]:
    holders: dict[str, list[TensorRecord]] = {}
    for record in tensors:
        holders.setdefault(record.at, []).append(record)
    return tuple(
        HolderSummary(_ref(identity), identity, len(records), sum(r.nbytes for r in records))
        for identity, records in sorted(holders.items())
    )


def _ref(identity: str) -> str:
    """Return what a user types to name a checkpoint."""
    found = split_checkpoint(identity)
    return f"{found[0]}@{found[1]}" if found else identity
