"""What Python code does with checkpoints: read, compare, export and import them.

Their bytes are read and written by this process; the cluster only says where they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resilient_nb import connection
from resilient_nb.core.differences import DiffReport
from resilient_nb.core.recorded import CheckpointReport
from resilient_nb.core.views import CheckpointView
from resilient_nb.errors import ClusterUnreachable, InvalidRequest, ResilientError
from resilient_nb.handles import Run


def load(ref: str, into: Any = None, only: str | None = None) -> Any:
    """Read a checkpoint: `load("digits@best")`.

    Args:
        ref: `run` (its head), `run@step` or `run@tag`.
        into: a module to fill, or a dict of tracked name to object.
        only: just this tracked object's state.

    Returns:
        A mapping of tracked names to states, read when asked for; or `into`, filled; or the
        state of `only`.

    Raises:
        InvalidRequest: `into` can't be filled, or isn't what `only` says.
        UnknownName: there is no such checkpoint.
        CorruptCheckpoint: bytes don't match their digest.
    """
    from resilient_nb.loading import load_path

    found = connection.current().resolve(ref)
    return load_path(found.path, into, only, found.copies)


def describe(ref: str) -> CheckpointReport:
    """Return what a checkpoint records: tensors, cell, config, data, versions.

    Raises:
        UnknownName: there is no such checkpoint.
        CheckpointError: this process can't see it in the store.
    """
    from resilient_nb.storage import describing
    from resilient_nb.storage.mirrored import open_path

    view = connection.current().resolve(ref)
    return describing.describe(view, open_path(view.path, view.copies).manifest)


def diff(a: str, b: str, only: str | None = None) -> DiffReport:
    """Compare two checkpoints; tensors are read here, as far as they differ.

    Raises:
        UnknownName: there is no such checkpoint, or neither has `only`.
        CheckpointError: this process can't see one in the store.
        CorruptCheckpoint: a tensor that had to be read is damaged.
    """
    client = connection.current()
    return compare(client.resolve(a), client.resolve(b), only)


def compare(a: CheckpointView, b: CheckpointView, only: str | None = None) -> DiffReport:
    """Compare two checkpoints that were found; see `diff`."""
    from resilient_nb.storage import comparing
    from resilient_nb.storage.mirrored import open_path

    one, other = (comparing.Side(view, open_path(view.path, view.copies)) for view in (a, b))
    return comparing.compare(one, other, only)


def export(
    ref: str, path: str | os.PathLike[str], only: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write a checkpoint to a file for other programs; return the file's path.

    Args:
        ref: `run` (its head), `run@step` or `run@tag`.
        path: ends in .safetensors (any framework) or .pt (a state dict for `torch.load`).
        only: just this tracked object: the file then has its own names.
        overwrite: replace the file if there is one.

    Raises:
        InvalidRequest: the file can't be written.
        UnknownName: there is no such checkpoint, or it has no `only`.
        CheckpointError: the format can't hold something of it.
    """
    from resilient_nb.interchange import exporting
    from resilient_nb.storage.mirrored import open_path

    place = Path(path).expanduser().absolute()
    exporting.check_path(place, overwrite)
    view = connection.current().resolve(ref)
    exporting.export_checkpoint(open_path(view.path, view.copies), place, only)
    return place


def import_checkpoint(
    path: str | os.PathLike[str],
    run: str,
    *,
    name: str | None = None,
    only: str | None = None,
    step: int = 0,
    allow_pickle: bool = False,
) -> Run:
    """Begin a new run with what another program saved.

    Args:
        path: a .safetensors file, a .pt file, or a folder of torch.distributed.checkpoint.
        run: the new run's name.
        name: the tracked name that it gets; by default those that the file has, if it holds
            several objects, else `model`.
        only: just this entry of the file.
        step: how many steps of training it counts as.
        allow_pickle: read a .pt file or DCP folder, which are pickles; it is done with torch's
            weights-only unpickler.

    Raises:
        InvalidRequest: the file may not be read, or a name can't be.
        Conflict: there is a run of this name.
        CheckpointError: it is damaged, or holds what checkpoints can't.
    """
    from resilient_nb.interchange import importing
    from resilient_nb.interchange.files import Wanted

    if not 0 <= step < 10**18:
        raise InvalidRequest(f"{step} can't be a step: it is a whole number, 0 or more.")
    client = connection.current()
    place = client.begin_import(run)
    target = importing.Target(run, step, importing.open_runs(place.store, place.cluster_id))
    wanted = Wanted(name, only, allow_pickle)
    new = importing.write_import(Path(path).expanduser(), target, wanted)
    try:
        client.import_checkpoint(new)
    except ClusterUnreachable:
        raise  # the journal may have it
    except ResilientError:
        importing.discard(target.runs, new.id)
        raise
    return Run(client, run)
