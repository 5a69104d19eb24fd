"""What a checkpoint records of where it comes from: cell, config, data, versions, machine.

It is gathered once: what belongs to the attempt when its first checkpoint is written, in the
thread that writes it; what belongs to a loop when the loop begins.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import types
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from resilient_nb._version import __version__
from resilient_nb.core.recorded import (
    CellRecord,
    ConfigRecord,
    DataRecord,
    EnvironmentRecord,
    LoopRecord,
    Recorded,
)
from resilient_nb.rank.batches import Plan
from resilient_nb.rank.fingerprint import fingerprint
from resilient_nb.rank.numerics import numerics
from resilient_nb.wire.codec import from_json, to_json
from resilient_nb.wire.orders import Attempt

#: Characters of a cell that are kept, versions of packages, and loops: the first and the latest.
_MOST_SOURCE, _MOST_VERSIONS, _MOST_LOOPS = 256 << 10, 200, 16


class Origin:
    """Where the checkpoints of one attempt come from."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._loops: dict[int, tuple[LoopRecord, DataRecord | None]] = {}
        self._inputs: dict[str, DataRecord] = {}
        self._environment: EnvironmentRecord | None = None
        self._cell: CellRecord | None = None

    def batches(self, loop: int, data: Any, plan: Plan) -> None:
        """A `run.batches` loop begins."""
        self._keep(_loop_of(loop, data, plan), _data_of(loop, data))

    def steps(self, loop: int, count: int) -> None:
        """A `run.steps` loop begins."""
        self._keep(LoopRecord(loop, "steps", steps=count), None)

    def input(self, record: DataRecord) -> None:
        """The cell declares data that it reads."""
        self._inputs = {**self._inputs, record.name: record}  # whole: another thread reads it

    def info(self) -> dict[str, Any]:
        """Return all of it, as the manifest has it."""
        self._cell = self._cell or _cell_of(self._attempt)
        self._environment = self._environment or _environment()
        loops = sorted(self._loops.items())
        record = Recorded(
            cell=self._cell,
            config=_config_of(self._attempt, tuple(loop for _, (loop, _) in loops)),
            data=(
                *(data for _, (_, data) in loops if data is not None),
                *(data for _, data in sorted(self._inputs.items())),
            ),
            versions=versions(),
            numerics=numerics(),
            environment=self._environment,
        )
        found: dict[str, Any] = from_json(to_json(record))
        return found

    def _keep(self, loop: LoopRecord, data: DataRecord | None) -> None:
        loops = {**self._loops, loop.loop: (loop, data)}
        if len(loops) > _MOST_LOOPS:  # a cell with a loop for each epoch, say
            del loops[sorted(loops)[_MOST_LOOPS // 2]]
        self._loops = loops  # whole: another thread reads it


def versions() -> dict[str, str]:
    """Return the versions of what this process has imported, as far as it says them.

    Nothing is asked that could run code: a module's version is looked up, not computed.
    """
    found = {}
    for name, module in sys.modules.copy().items():
        known = "." in name or name.startswith("_") or name in sys.stdlib_module_names
        if known or not isinstance(module, types.ModuleType):
            continue
        version = vars(module).get("__version__")
        if isinstance(version, str) and len(version) <= 100:
            found[name] = version
    first = {
        "python": sys.version.partition(" ")[0],
        "resilient_nb": __version__,
        "torch": str(torch.__version__),
    }
    rest = sorted(name for name in found if name not in first)
    return {**first, **{name: str(found[name]) for name in rest[:_MOST_VERSIONS]}}


def _cell_of(attempt: Attempt) -> CellRecord:
    cell = attempt.cell
    kept = cell.source if len(cell.source) <= _MOST_SOURCE else None
    helpers = {name: _sha256(text) for name, text in cell.sources.items() if name != cell.filename}
    return CellRecord(kept, cell.label, _sha256(cell.source), helpers)


def _config_of(attempt: Attempt, loops: tuple[LoopRecord, ...]) -> ConfigRecord:
    return ConfigRecord(
        workers=attempt.granted,
        world_size=attempt.world_size,
        seed=attempt.seed,
        interval=str(attempt.interval),
        scaling=attempt.scaling.value,
        compress=attempt.compress,
        out=attempt.out,
        loops=loops,
    )


def _loop_of(loop: int, data: Any, plan: Plan) -> LoopRecord:
    if not isinstance(data, DataLoader):
        return LoopRecord(
            loop, "batches", plan.batch_size, plan.epochs, plan.shuffle, plan.drop_last
        )
    kind = type(getattr(data, "sampler", None))
    shuffle = {RandomSampler: True, SequentialSampler: False}.get(kind)
    return LoopRecord(
        loop, "batches", data.batch_size, plan.epochs, shuffle, data.drop_last, data.num_workers
    )


def _data_of(loop: int, data: Any) -> DataRecord:
    dataset = data.dataset if isinstance(data, DataLoader) else data
    length, found, note = None, "", ""
    try:
        length = len(dataset) if hasattr(dataset, "__len__") else None
        found = fingerprint(dataset)
        note = "" if found else "nothing that lies in memory"
    except Exception as error:  # whatever a user's dataset raises: said, and training goes on
        note = f"can't be looked at: {type(error).__name__}"
    return DataRecord(loop, _type_of(dataset), length, found, note)


def _type_of(value: object) -> str:
    kind = type(value)
    own = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"


def _environment() -> EnvironmentRecord:
    system = os.uname()
    with_gpu = torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count()) if with_gpu else ()
    return EnvironmentRecord(
        host=socket.gethostname(),
        processor=_processor() or system.machine,
        cores=os.cpu_count() or 0,
        system=f"{system.sysname} {system.release}",
        cuda=torch.version.cuda or "" if with_gpu else "",
        gpus=tuple(torch.cuda.get_device_name(n) for n in gpus),
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        return ""
    return lines[0].partition(":")[2].strip() if lines else ""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
