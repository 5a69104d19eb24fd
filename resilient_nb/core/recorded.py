"""What a checkpoint records of where it comes from, as plain data.

It is gathered by `rank.origin`, kept in the manifest's `info`, shown by `checkpoints REF` and
compared by `diff`. Whatever an older checkpoint lacks is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient_nb.core.views import CheckpointView

#: The loop of data that belongs to none.
NO_LOOP = -1


@dataclass(frozen=True)
class CellRecord:
    """The cell. `source` is None if it was too long to be kept; `helpers` maps the names of the
    captured functions' files to the sha256 of their text."""

    source: str | None
    label: str
    sha256: str
    helpers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoopRecord:
    """How `run.batches` or `run.steps` was called for one of the cell's loops, from 0.

    Of a DataLoader, what it says itself. None: it isn't for this kind of loop, or not known.
    """

    loop: int
    kind: str
    batch_size: int | None = None
    epochs: int | None = None
    shuffle: bool | None = None
    drop_last: bool | None = None
    loaders: int | None = None  # the DataLoader's num_workers
    steps: int | None = None


@dataclass(frozen=True)
class ConfigRecord:
    """How the attempt was run."""

    workers: int
    world_size: int
    seed: int
    interval: str
    scaling: str = ""
    compress: str = ""
    out: tuple[str, ...] = ()
    loops: tuple[LoopRecord, ...] = ()


@dataclass(frozen=True)
class DataRecord:
    """What a loop went through, or what the cell declared (`run.input`: its loop is `NO_LOOP`).

    `fingerprint` is the xxh3-64 of a sample of its items, or of the parts of a file.

    Data with another fingerprint is other data; with the same one it is most likely the same.
    It is empty where items can't be looked at without disturbing the cell; `note` says why.
    What is declared has a name; of a path or URL the length is in bytes, and `modified` is in
    seconds since 1970, if that is known.
    """

    loop: int
    type: str
    length: int | None = None
    fingerprint: str = ""
    note: str = ""
    name: str = ""
    place: str = ""
    modified: float | None = None


@dataclass(frozen=True)
class EnvironmentRecord:
    """Where rank 0 ran. `cuda` is the version in use, empty if none is."""

    host: str = ""
    processor: str = ""
    cores: int = 0
    system: str = ""
    cuda: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """All of it. Of an import there is only the file's name, `imported`."""

    cell: CellRecord | None = None
    config: ConfigRecord | None = None
    data: tuple[DataRecord, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    numerics: Mapping[str, str] = field(default_factory=dict)
    environment: EnvironmentRecord | None = None
    imported: str = ""


@dataclass(frozen=True)
class PartSummary:
    """A tracked object's tensors; `dtypes` maps each dtype to how many have it."""

    name: str
    tensors: int
    nbytes: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True)
class HolderSummary:
    """How much of a checkpoint lies in the folder of an earlier one, which wrote it."""

    ref: str
    id: str
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class CheckpointReport:
    """What `%resilient checkpoints REF` shows. `holders` has those that the tensors are shared
    with; what this checkpoint wrote itself are `own_tensors`."""

    checkpoint: CheckpointView
    epoch: int
    world_size: int
    tensors: int
    own_tensors: int
    parts: tuple[PartSummary, ...]
    holders: tuple[HolderSummary, ...]
    recorded: Recorded


def data_names(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Return name and fingerprint of the data that a manifest's `info` has, each once."""
    names = (
        (each.get("place") or each.get("name") or each.get("type", ""), each.get("fingerprint", ""))
        for each in info.get("data", ())
    )
    return tuple(dict.fromkeys(" ".join(filter(None, pair)) for pair in names))
