"""What others save with: PyTorch's distributed checkpoints, `torch.save`, torch-checkpointing.

    python tests/benchmarks/checkpoint_peers.py NAME FOLDER

runs the training loop with one of `ASYNC` and prints what it showed, as JSON. Everything here is
made durable: files are synced before a save counts as finished.

torch-checkpointing runs as its documentation has it: the next update waits for the snapshot
(`manager.lock()`), and on a CPU direct I/O is switched off, since it writes from unaligned memory,
which ext4 refuses. It doesn't sync by itself: its hooks before and after the rename do.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from checkpoint_loop import TIMED, Training, measure

PACKAGE = "torch-checkpointing"
LIMIT = "direct writes (the device's limit)"
DIRECT_THREADS, DIRECT_BLOCK = 4, 8 << 20
#: Of each mode of DCP: in a process or a thread, buffers reused, and copied beside training.
DCP_MODES = {
    "DCP thread": (False, False, False),
    "DCP thread, buffers reused": (False, True, False),
    "DCP thread, copied beside": (False, True, True),
    "DCP process": (True, False, False),
    "DCP process, buffers reused": (True, True, False),
    "DCP process, copied beside": (True, True, True),
}
ASYNC = (*DCP_MODES, PACKAGE)


def sync(path: str | os.PathLike[str]) -> None:
    """Make a file, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- from the call until it is durable ------------------------------------------------------


def write_fsync(path: Path, state: Mapping[str, Any]) -> None:
    """Write the same bytes, one tensor after the other, to one file."""
    with open(path, "wb", buffering=0) as file:
        for tensor in tensors(state):
            view = memoryview(tensor.numpy().reshape(-1).view("uint8"))
            while view.nbytes:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    sync(path.parent)


def direct_write(path: Path, state: Mapping[str, Any]) -> None:
    """Write as many bytes past the page cache, four files at once: as fast as the device goes."""
    path.mkdir()
    left = sum(tensor.nbytes for tensor in tensors(state)) // DIRECT_THREADS
    block = memoryview(mmap.mmap(-1, DIRECT_BLOCK))

    def write(number: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_DIRECT
        file = os.open(path / str(number), flags, 0o600)
        try:
            for _ in range(left // DIRECT_BLOCK):
                os.write(file, block)
            os.fsync(file)
        finally:
            os.close(file)

    with ThreadPoolExecutor(DIRECT_THREADS) as pool:
        list(pool.map(write, range(DIRECT_THREADS)))
    sync(path)


def torch_save(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save` to a file."""
    torch.save(state, path)
    sync(path)
    sync(path.parent)


def dcp_save(threads: int) -> Callable[[Path, Mapping[str, Any]], None]:
    """Return DCP's `save` with that many threads."""

    def save(path: Path, state: Mapping[str, Any]) -> None:
        writer = dcp.FileSystemWriter(path, thread_count=threads, sync_files=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process
            dcp.save(dict(state), storage_writer=writer, no_dist=True)
        sync(path)
        sync(path.parent)

    return save


SAVES = {
    "write + fsync": write_fsync,
    LIMIT: direct_write,
    "torch.save": torch_save,
    "DCP save, 1 thread": dcp_save(1),
    "DCP save, 2 threads": dcp_save(2),
}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a state, in its order."""
    if isinstance(value, torch.Tensor):
        yield value.detach()
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


# --- in the background ----------------------------------------------------------------------


class Background:
    """A saver beside the loop, which notes when its checkpoint was durable."""

    def __init__(self, training: Training, folder: Path) -> None:
        self._training = training
        self._folder = folder
        self._count = 0
        self._durable = 0.0
        self._written: Future[Any] | None = None

    def _next(self) -> Path:
        """Return where the next checkpoint goes; the one before must be done, as with us."""
        if self._written is not None:
            self._written.result()
        self._durable = 0.0
        self._count += 1
        return self._folder / f"step-{self._count}"

    def _watch(self, written: Future[Any]) -> None:
        self._written = written
        written.add_done_callback(self._note)

    def _note(self, _: Future[Any]) -> None:
        self._durable = time.time()

    def durable(self) -> float | None:
        """Return when it was durable; None: it isn't yet."""
        assert self._written is not None
        if not self._written.done():
            return None
        self._written.result()
        return self._durable or None  # noted a moment later


class Dcp(Background):
    """`async_save` in one of its modes."""

    def __init__(self, training: Training, folder: Path, mode: tuple[bool, bool, bool]) -> None:
        super().__init__(training, folder)
        process, reused, self._beside = mode
        self._type = AsyncCheckpointerType.PROCESS if process else AsyncCheckpointerType.THREAD
        # Neither pinned memory nor non-blocking copies exist on a CPU.
        options = StagingOptions(False, process, self._beside, False)
        self._stager = DefaultStager(options) if reused else None
        self._staged: Future[Any] | None = None
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)

    def begin(self) -> None:
        writer = dcp.FileSystemWriter(self._next(), sync_files=True)
        answer: Any = dcp.async_save(
            self._training.state(),
            storage_writer=writer,
            async_checkpointer_type=self._type,
            async_stager=self._stager,
        )
        if self._beside:
            self._staged, answer = answer.staging_completion, answer.upload_completion
        self._watch(answer)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until the copy is complete before anything changes."""
        if self._staged is not None:
            self._staged.result()
            self._staged = None
        yield

    def close(self) -> None:
        """Free the buffers."""
        if self._stager is not None:
            self._stager.close()


class Package(Background):
    """torch-checkpointing's CheckpointManager."""

    def __init__(self, training: Training, folder: Path) -> None:
        super().__init__(training, folder)
        from torch_checkpointing import CheckpointManager
        from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

        config = CheckpointManager.Config(
            storage_config=LocalFileSystemStorageConfig(use_direct_io=False),
            pre_finalize_callback=sync_files,
            finalize_callback=sync_parent,
        )
        self._manager = CheckpointManager(config)

    def begin(self) -> None:
        written = self._manager.save(str(self._next()), self._training.state())
        assert written is not None
        self._watch(written)

    def lock(self) -> AbstractContextManager[Any]:
        """As its documentation says."""
        manager: AbstractContextManager[Any] = self._manager.lock()
        return manager

    def close(self) -> None:
        """End its process."""
        self._manager.close()


def sync_files(args: Any) -> None:
    """Make what was written durable, before it gets its name."""
    for path in [*Path(args.path).rglob("*"), Path(args.path)]:
        sync(path)


def sync_parent(args: Any) -> None:
    """Make the name durable."""
    sync(Path(args.path).parent)


def saver(name: str, training: Training, folder: Path) -> Dcp | Package:
    """Return the saver of this name."""
    if name == PACKAGE:
        return Package(training, folder)
    return Dcp(training, folder, DCP_MODES[name])


def main() -> None:
    """Run the loop with the saver that the first argument names."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    timed = int(sys.argv[3]) if len(sys.argv) > 3 else TIMED
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    training = Training()
    taker = saver(name, training, folder)
    found = measure(training, lambda count: range(count), taker, timed)
    taker.close()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
